"""What every figure shares: colours that colour-blind readers tell apart, text that stays text, layout.

Plotly reads markup and HTML entities in its labels. Names come from files and policies, so each passes
`label`, and no name ever enters a hover template.
"""

import html
import importlib
import math
from collections.abc import Iterable, Sequence
from typing import TYPE_CHECKING, Any

from rapgym.errors import MissingExtra
from rapgym.files.shown import shown

if TYPE_CHECKING:
    import plotly.graph_objects as go

# Okabe and Ito (2008), which the three common kinds of colour blindness tell apart, and a grey.
ORANGE, SKY, GREEN, YELLOW = "#E69F00", "#56B4E9", "#009E73", "#F0E442"
BLUE, VERMILLION, PURPLE, GREY = "#0072B2", "#D55E00", "#CC79A7", "#8A8A8A"
# `meta` of traces whose `customdata` are numbers of steps, see `page.Step`.
STEPS = "steps"
LONGEST_LABEL = 44  # characters on an axis
ROW_PIXELS = 26  # of a list of names on an axis


def graph_objects() -> Any:
    """Plotly's classes, loaded when a figure is first drawn.

    Raises:
        MissingExtra: plotly is not installed.
    """
    return of_extra("plotly.graph_objects", "plotly, which draws the figures,")


def of_extra(module: str, who: str) -> Any:
    """A module of the extra `report`, loaded where it is used.

    Raises:
        MissingExtra: it is not installed; `who` says what it is and does.
    """
    try:
        return importlib.import_module(module)
    except ImportError as error:
        raise MissingExtra(f"{who} is not installed; run: pip install 'rapgym[report]'") from error


def label(text: object, longest: int = 1 << 20) -> str:
    """A name as Plotly shows it letter by letter: no markup, no entity, no control character."""
    plain = shown(text)
    if len(plain) > longest:
        plain = plain[: longest - 1] + "…"
    return html.escape(plain, quote=False)


def wrapped(text: str, width: int = 76) -> str:
    """A sentence in lines, as a hover box shows it; each line passes `label`."""
    import textwrap

    return "<br>".join(label(line) for line in textwrap.wrap(text, width))


def short(values: Iterable[float]) -> list[float]:
    """Numbers to six digits: what a figure shows, in fewer bytes."""
    return [float(f"{value:.6g}") for value in values]


def names_axis(names: Sequence[str], **more: Any) -> dict[str, Any]:
    """An axis of names, first on top: their positions are numbers, so that no two names merge."""
    return {
        "tickmode": "array",
        "tickvals": list(range(len(names))),
        "ticktext": [label(name, LONGEST_LABEL) for name in names],
        "range": [len(names) - 0.4, -0.6],
        "automargin": True,
        "zeroline": False,
        **more,
    }


def listed_height(count: int, beside: int = 150) -> int:
    """Pixels of a figure with so many names on its axis."""
    return beside + ROW_PIXELS * max(count, 2)


def log_axis(values: Sequence[float], title: str) -> dict[str, Any]:
    """A logarithmic axis over positive values, with the numbers 1, 2, 5 or 1, 3 of each power of ten."""
    low, high = math.log10(min(values, default=1.0)), math.log10(max(values, default=10.0))
    steps = (1, 2, 5) if high - low < 1.5 else (1, 3)
    ticks = [
        step * 10.0**power
        for power in range(math.floor(low), math.ceil(high) + 1)
        for step in steps
    ]
    return {
        "type": "log",
        "title": {"text": title},
        "tickmode": "array",
        "tickvals": ticks,
        "ticktext": [f"{tick:,.10g}" for tick in ticks],
        "range": [low - 0.08, high + 0.08],
    }


def figure(traces: Sequence[Any], height: int, **layout: Any) -> "go.Figure":
    """A figure without a background of its own: the page, or a notebook's template, gives colours."""
    go = graph_objects()
    for name in layout:
        if name.startswith(("xaxis", "yaxis")):
            layout[name] = {"automargin": True, "showline": True, **layout[name]}
    base: dict[str, Any] = {
        "height": height,
        "margin": {"l": 8, "r": 12, "t": 12, "b": 48},
        "paper_bgcolor": "rgba(0,0,0,0)",
        "plot_bgcolor": "rgba(0,0,0,0)",
        "legend": {
            "orientation": "h",
            "y": 1.02,
            "yanchor": "bottom",
            "x": 0,
            "itemsizing": "constant",
            "traceorder": "normal",
        },
        "hoverlabel": {"align": "left"},
        "template": "none",
    }
    return go.Figure(list(traces), base | layout)
