"""A report as one HTML file: sections, figures, tables; Plotly once; nothing from any network.

Every text passes Jinja's escaping, and `shown` before it. The file forbids, by its Content-Security-Policy,
every script but its own two, named by their sha256, and every request. Plotly runs once a figure comes
near the screen: until then it is text.
"""

import base64
import hashlib
import html
import json
import re
from collections.abc import Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapgym.errors import InvalidSpec
from rapgym.files import places, provenance, writing
from rapgym.files.shown import shown, shown_lines
from rapgym.report.drawing import STEPS, of_extra

if TYPE_CHECKING:
    import plotly.graph_objects as go

MOST_BYTES = 6_000_000


@dataclass(frozen=True, slots=True)
class Choice:
    """One of several parts of a figure that are shown one at a time."""

    name: str
    value: str  # of `meta` of its traces


@dataclass(frozen=True, slots=True)
class Step:
    """A moment of a figure that a slider walks through."""

    name: str
    x: float
    text: str


@dataclass(frozen=True, slots=True)
class Picture:
    """A figure, and what it shows for those who do not see it."""

    anchor: str
    figure: "go.Figure | None"  # None: left out, for the page would grow too large
    alt: str
    caption: str  # Markdown: bold and code alone
    choices: Sequence[Choice] = ()
    steps: Sequence[Step] = ()


@dataclass(frozen=True, slots=True)
class Table:
    """Numbers; the first cell of each row names it."""

    title: str
    head: Sequence[str]
    rows: Sequence[Sequence[object]]
    open: bool = False
    stacked: bool = False  # a phone shows the cells of a row below each other: one is a sentence


@dataclass(frozen=True, slots=True)
class Section:
    """A part of a page. Paragraphs, points and notes are Markdown: bold and code alone."""

    anchor: str
    title: str
    paragraphs: Sequence[str] = ()
    points: Sequence[str] = ()
    notes: Sequence[str] = ()
    pictures: Sequence[Picture] = ()
    tables: Sequence[Table] = ()
    commands: Sequence[str] = ()


@dataclass(frozen=True, slots=True)
class Page:
    """A whole report."""

    title: str
    subtitle: str
    sections: Sequence[Section]


def written(page: Page, out: Path) -> int:
    """Write a page; its size in bytes.

    Raises:
        MissingExtra: jinja2 or plotly is not installed.
        InvalidSpec: even without figures it is larger than `MOST_BYTES`.
        Unwritable: the file cannot be written.
    """
    text = rendered(page).encode()
    with writing.written_aside(out) as file:
        file.write(text)
    return len(text)


def rendered(page: Page) -> str:
    """The file's text; where it would be larger than `MOST_BYTES`, the largest figures are left out.

    Raises:
        MissingExtra, InvalidSpec: as `written`.
    """
    text = _rendered(page)
    while len(text.encode()) > MOST_BYTES:
        pictures = [p for section in page.sections for p in section.pictures if p.figure]
        if not pictures:
            raise InvalidSpec(
                f"the report would take {len(text.encode()) / 1e6:.1f} MB, and {MOST_BYTES / 1e6:g} is the "
                "most: it holds too many entries; run fewer policies or scenarios in one bench"
            )
        largest = max(pictures, key=lambda p: len(_figure_json(p)) + len(_steps_json(p.steps)))
        page = _without(page, largest)
        text = _rendered(page)
    return text


def _without(page: Page, picture: Picture) -> Page:
    left_out = replace(picture, figure=None, choices=(), steps=())
    return replace(
        page,
        sections=[
            replace(s, pictures=[left_out if p is picture else p for p in s.pictures])
            for s in page.sections
        ],
    )


def _rendered(page: Page) -> str:
    of_extra("jinja2", "jinja2, which lays out the report,")
    from jinja2 import Environment, FileSystemLoader, StrictUndefined
    from markupsafe import Markup

    def printable(value: Any) -> Any:
        return shown_lines(value) if type(value) is str else value

    environment = Environment(
        loader=FileSystemLoader(places.TEMPLATES),
        autoescape=True,
        undefined=StrictUndefined,
        finalize=printable,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters["marked"] = lambda text: Markup(marked(text))
    environment.filters["figure_json"] = lambda picture: Markup(_figure_json(picture))
    environment.filters["steps_json"] = lambda steps: Markup(_steps_json(steps))
    has_figures = any(p.figure for section in page.sections for p in section.pictures)
    scripts = (plotly_script(), _part("page.js")) if has_figures else ()
    return environment.get_template("page.html").render(
        page=page,
        css=Markup(_part("page.css")),
        has_figures=has_figures,
        plotly=Markup(scripts[0]) if scripts else "",
        script=Markup(scripts[1]) if scripts else "",
        script_hashes=Markup(" ".join(map(_hash, scripts)) or "'none'"),
        most_mb=f"{MOST_BYTES / 1e6:g}",
        version=provenance.VERSION,
    )


def plotly_script() -> str:
    """The JavaScript that draws, as plotly's package brings it.

    Raises:
        MissingExtra: plotly is not installed.
    """
    offline = of_extra("plotly.offline", "plotly, which draws the figures,")
    # A browser reads CRLF as LF, and the sha256 is of what it reads.
    text: str = offline.get_plotlyjs().replace("\r\n", "\n").replace("</script", "<\\/script")
    return text


def _part(name: str) -> str:
    return (places.TEMPLATES / name).read_text("utf-8")


def _hash(script: str) -> str:
    return f"'sha256-{base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()}'"


def marked(text: str) -> str:
    """HTML of a sentence in which **bold** and `code` alone are markup; all else is text."""
    plain = html.escape(shown(text))
    plain = re.sub(r"`([^`]+)`", r"<code>\1</code>", plain)
    return re.sub(r"\*\*([^*]+)\*\*", r"<strong>\1</strong>", plain)


def _in_script(text: str) -> str:
    """JSON that no HTML parser takes for the end of a script."""
    return text.replace("<", "\\u003c").replace(">", "\\u003e").replace("&", "\\u0026")


def _figure_json(picture: Picture) -> str:
    """A figure as Plotly reads it; sentences of its steps stand once, in the list of these."""
    told = json.loads(picture.figure.to_json()) if picture.figure else {}
    for trace in told.get("data", []):
        if picture.steps and trace.get("meta") == STEPS:
            del trace["hovertext"]
    return _in_script(json.dumps(told, separators=(",", ":")))


def _steps_json(steps: Sequence[Step]) -> str:
    told = [{"name": shown(s.name), "x": s.x, "text": shown(s.text)} for s in steps]
    return _in_script(json.dumps(told, separators=(",", ":")))
