"""The map as text: a grid of who is cheapest, what it costs and saves, and the verdict in three sentences."""

import textwrap
from collections.abc import Callable, Sequence

from rapgym.bench.verdicts import is_conditional
from rapgym.report.bench import interval_of, listed
from rapgym.scenarios import tables
from rapgym.worth import axes
from rapgym.worth import point as worth_point
from rapgym.worth.axes import Story
from rapgym.worth.point import MATTERS, Compared, Part, Point
from rapgym.worth.sweep import Map
from rapgym.worth.ways import BY_NAME, Kind, Rule

WIDTH = 100  # columns of a terminal
LETTERS: dict[Kind, str] = {"whole": "U", "fixed": "F", "pruned": "P"}
# Where even the cheapest way costs more than this share of C, nobody would serve.
UNSERVED = 0.25
_COLOURS: dict[Kind, str] = {"whole": "36", "fixed": "33", "pruned": "32"}
NAMES = {  # of the formats that the first sentence speaks of
    "bf16": "16 bits",
    "int8-int8-kv": "8 bits (weights and KV cache)",
    "int4-int8-kv": "4 bits (KV cache 8)",
}
POLICIES: dict[Rule, str] = {
    "lookup": "the frontier lookup",
    "trimmed": "dropping in one fixed order",
    "serve-keep-all-drop": "all blocks until memory falls",
    "serve-lookup": "the tuned lookup",
    "serve-hysteresis": "the lookup that brings back late",
    "serve-hurry": "the lookup that also drops for speed",
}
LEGEND = (
    "U: unpruned, refusing or preempting what does not fit; F: one smaller set of blocks for good; P: blocks dropped at run "
    "time. 16, 8, 4: bits of weights. A capital: the held-out rows show that it is cheaper than the other two "
    f"kinds; a small letter: they do not. !: it costs more than {UNSERVED:.0%} of an answer that is refused, so "
    "that nobody would serve. [ ]: the scenario as it is. Chosen by cost on train: nats an output token above the "
    "full 16-bit model."
)


def label(point: Point) -> str:
    """Who is cheapest at a point: P8, or p8 where the held-out rows do not show it."""
    way = BY_NAME[point.best]
    letter = LETTERS[way.kind]
    return f"{letter if point.is_shown else letter.lower()}{way.bits}"


def is_unserved(point: Point) -> bool:
    """Whether even the cheapest way costs so much that nobody would serve."""
    return point.train.costs[point.best] > UNSERVED * point.ceiling


def about(story: Story) -> str:
    """What every number of the map rests on, in a sentence or two."""
    story = axes.base_of(story)
    table = tables.table(story)
    return (
        f"Quality comes from the reference table {table.name}, measured on {table.model}: its nats stand for "
        f"those of {story.served}, whose own bytes and tokens are counted. How well they carry over to it is not "
        "known; a table of your own (rapgym measure) takes its place."
    )


def text(found: Map, *, colour: bool = False) -> str:
    """The whole map for a terminal of `WIDTH` columns."""
    parts = [
        _grid("cheapest, and what it costs", found, _cost, colour=colour),
        _grid("what it saves beside the best of another kind", found, _saved),
        wrapped([LEGEND]),
        wrapped([*sentences(found.own), whole(found)]),
    ]
    return "\n\n".join(parts)


def wrapped(told: Sequence[str]) -> str:
    """Sentences, each from a line of its own on, as a terminal of `WIDTH` columns shows them."""
    return "\n".join(textwrap.fill(each, WIDTH, break_on_hyphens=False) for each in told)


def _cost(point: Point) -> str:
    mark = "!" if is_unserved(point) else " "
    return f"{label(point)}{mark}{point.train.costs[point.best]:.3f}"


def _saved(point: Point) -> str:
    return "-" if point.lead is None else f"{point.lead.train:.3f}"


def _grid(title: str, found: Map, cell: Callable[[Point], str], *, colour: bool = False) -> str:
    """A line for each value of y, a column for each of x; in several blocks where they are too many."""
    cells = {
        (x, y): f"[{cell(p)}]" if p == found.own else f" {cell(p)} "
        for x in found.x.values
        for y in found.y.values
        for p in [found.at(x, y)]
    }
    heads = [found.x.shown(x) for x in found.x.values]
    first = max(len(found.y.name), *(len(found.y.shown(y)) for y in found.y.values))
    width = max(map(len, [*cells.values(), *heads])) + 1
    at_once = max((WIDTH - first) // width, 1)
    lines = [f"{title}:"]
    for begin in range(0, len(heads), at_once):
        across = found.x.values[begin : begin + at_once]
        lines.append(
            found.y.name.rjust(first)
            + "".join(h.rjust(width) for h in heads[begin : begin + at_once])
        )
        for y in found.y.values:
            line = found.y.shown(y).rjust(first)
            for x in across:
                shown = cells[x, y].rjust(width)
                kind = BY_NAME[found.at(x, y).best].kind
                line += f"\x1b[{_COLOURS[kind]}m{shown}\x1b[0m" if colour else shown
            lines.append(line)
    return "\n".join(lines)


def sentences(point: Point) -> list[str]:
    """The verdict on one deployment: how often all fits, what not pruning costs, what pruning adds.

    Of the serving engine: what that of today costs, what fixed counts do, what pruning adds.
    """
    if not point.train.fits:
        return [_engine(point), _counts(point), _pruning(point)]
    return [_fitting(point), _not_pruning(point), _pruning(point)]


def _judged(point: Point) -> tuple[Part, str]:
    """The part whose numbers are said, and what it is called."""
    return (point.train, "train") if point.test is None else (point.test, "held-out")


def _fitting(point: Point) -> str:
    part, rows = _judged(point)
    each = [f"{part.fits[name]:.1%} in {said}" for name, said in NAMES.items() if name in part.fits]
    return f"The full model fits in so many seconds of the {rows} rows: {listed(each)}."


def _served(point: Point, rule: Rule) -> tuple[float, str]:
    """What a rule of the serving engine costs, and its name."""
    name = next(way for way in point.train.costs if BY_NAME[way].rule == rule)
    return _judged(point)[0].costs[name], name


def _engine(point: Point) -> str:
    (cost, name), rows = _served(point, "serve-engine"), _judged(point)[1]
    return (
        f"The engine of today, which drops nothing, costs {cost:.4f} nats an output token ({name}) in the {rows} "
        "seconds: late and lost answers."
    )


def _counts(point: Point) -> str:
    (cost, name), rows = _served(point, "serve-fixed"), _judged(point)[1]
    found = point.settings[name]
    return (
        f"The best of a few counts for good, {found['attention']} attention and {found['ffn']} FFN blocks dropped, "
        f"costs {cost:.4f} ({name}) in the {rows} seconds."
    )


def _not_pruning(point: Point) -> str:
    part, rows = _judged(point)
    train = point.train.costs
    stated = worth_point.of_formats(train, "bf16")
    best = worth_point.cheapest(train, ["whole"])
    said = f"Not pruning costs {part.costs[stated]:.4f} nats an output token in 16 bits ({stated})"
    if best == stated:
        return f"{said} on the {rows} rows, and no other format is cheaper."
    return f"{said} and {part.costs[best]:.4f} in the format that is best on train ({best}), on the {rows} rows."


def _pruning(point: Point) -> str:
    found = point.pruning
    if found is None:
        return "Run-time pruning: nothing is known of it, for no format has a quality table."
    policy = POLICIES[BY_NAME[found.way].rule]
    if not point.is_open and (found.saves is None or found.saves < MATTERS):
        return f"Run-time pruning: nothing to decide. {_idle(found, policy)}"
    does = "saves" if found.train >= 0 else "costs"
    more = "" if found.train >= 0 else " more"
    said = (
        f"Run-time pruning ({found.way}, {policy}) {does} {abs(found.train):.4f} nats{more} beside {found.over} on "
        "train"
    )
    if found.saves is None:
        return f"{said}; the held-out rows were not opened."
    ends = "" if found.low is None else f" {interval_of(found.low, found.high)}"
    if not point.is_open:
        return (
            f"{said}, where it is not worth it, but saves {found.saves:+.4f}{ends} on the held-out rows: the two "
            "differ too much to decide by."
        )
    return f"{said} and {found.saves:+.4f}{ends} on the held-out rows: {_shown(point, found)}."


def _idle(found: Compared, policy: str) -> str:
    """Why there is nothing to decide."""
    if found.train >= 0:
        return (
            f"The best of it ({found.way}, {policy}) saves {found.train:.4f} nats beside {found.over} on train; "
            f"below {MATTERS:g} nothing is gained."
        )
    return f"{found.over} costs {-found.train:.4f} nats less on train than the best of it ({found.way}, {policy})."


def _shown(point: Point, found: Compared) -> str:
    if found.verdict == "win":
        few = point.unit is None or is_conditional(point.unit, point.pieces)
        return f"a win that the data show{', which speaks of these rows alone' if few else ''}"
    if found.verdict == "equal":
        return "it makes no difference there"
    if found.verdict == "loss":
        return "there it loses"
    least = "" if found.least is None else f"; they could have shown {found.least:.4f} or more"
    count = f"{point.pieces} {point.unit}{'' if point.pieces == 1 else 's'}"
    return f"undecided, for the data are too few ({count}{least})"


def whole(found: Map) -> str:
    """How often run-time pruning is the cheapest over the grid, in a sentence."""
    pruned = [p for p in found.points if BY_NAME[p.best].kind == "pruned" and p.is_open]
    served = [p for p in pruned if not is_unserved(p)]
    shown = sum(p.pruning is not None and p.pruning.verdict == "win" for p in pruned)
    said = (
        f"Over the map: run-time pruning is cheapest by {MATTERS:g} nats or more at {len(pruned)} of "
        f"{len(found.points)} points, {len(served)} of which one would serve"
    )
    return (
        f"{said}." if found.own.test is None else f"{said}; the held-out rows show it at {shown}."
    )
