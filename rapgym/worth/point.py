"""One point of the map: what each way costs there, which is cheapest, and whether the data show it.

Ways are chosen by their cost on train. The held-out rows then say whether the cheapest is cheaper there
than the best of another kind, on the same resamples, as in a bench.
"""

import math
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, field
from typing import Any, Literal, Self, get_args

import numpy as np

from rapgym import heldout
from rapgym.bench import pieces, score, verdicts
from rapgym.bench.records import Unit
from rapgym.bench.score import Estimate
from rapgym.rivals import pruned
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import tables
from rapgym.scenarios.story import Scenario
from rapgym.worth import ways
from rapgym.worth.axes import Place
from rapgym.worth.ways import BY_NAME, Kind, Player, Way

MATTERS = verdicts.LEAST_ROOM  # nats: less than that between two ways decides nothing
Verdict = Literal["win", "equal", "undecided", "loss"]
_WORDS: dict[str, Verdict] = {
    "better": "win", "worse": "loss", "equal": "equal", "undecided": "undecided"
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Part:
    """What was found on the rows of one split."""

    costs: dict[str, float]  # way -> nats an output token above the full bf16 model
    fits: dict[str, float]  # format -> share of seconds in which the full model fits


@dataclass(frozen=True, slots=True)
class Compared:
    """One way beside another that costs more on train."""

    way: str
    over: str
    train: float  # nats that `way` saves on train
    # Of the held-out rows; None where they were not asked for.
    saves: float | None = None
    low: float | None = None  # its interval of 95 %; None where there are too few pieces for one
    high: float | None = None
    least: float | None = None  # the least that could have been shown
    verdict: Verdict | None = None


@dataclass(frozen=True, slots=True)
class Point:
    """A place of a map, and what it makes of each way."""

    place: Place
    ceiling: float  # C, nats: what a token costs that is not served
    train: Part
    test: Part | None
    unit: Unit | None  # of what the held-out rows fall into; None where they were not asked for
    pieces: int
    lead: Compared | None  # the cheapest beside the best of another kind; None where there is none
    pruning: Compared | None  # the best run-time pruning beside the best without
    # What tuning on train chose, by way; of ways that have settings.
    settings: dict[str, dict[str, Any]] = field(default_factory=dict)

    @property
    def best(self) -> str:
        """The way that is cheapest on train; of those that tie, the simplest."""
        return cheapest(self.train.costs)

    @property
    def is_shown(self) -> bool:
        """Whether the held-out rows show that the cheapest is cheaper than another kind."""
        return self.lead is not None and self.lead.verdict == "win"

    @property
    def is_open(self) -> bool:
        """Whether run-time pruning saves enough on train to be worth a question."""
        return self.pruning is not None and self.pruning.train >= MATTERS

    def as_json(self) -> dict[str, Any]:
        return asdict(self) | {"best": self.best}

    @classmethod
    def from_json(cls, told: Mapping[str, Any]) -> Self:
        """What `as_json` gave.

        Raises:
            KeyError, TypeError: it is no point.
        """
        values = {name: told[name] for name in cls.__slots__}
        values["place"] = Place(**values["place"])
        for name in ("train", "test"):
            values[name] = values[name] and Part(**values[name])
        for name in ("lead", "pruning"):
            values[name] = values[name] and Compared(**values[name])
        return cls(**values)


def cheapest(costs: Mapping[str, float], kinds: Sequence[Kind] | None = None) -> str:
    """The way of least cost among those of some kinds, all unless stated; "" where there is none."""
    among = [
        way.name for way in ways.EVERY if way.name in costs and (kinds is None or way.kind in kinds)
    ]
    least = min((costs[name] for name in among), default=math.nan)
    return next((name for name in among if costs[name] <= least + verdicts.SAME), "")


def of_formats(costs: Mapping[str, float], form: str) -> str:
    """The cheaper of the two ways not to prune in a format; "" where its quality is not known."""
    both = {name: costs[name] for name in (form, f"{form}-admission") if name in costs}
    return cheapest(both, ("whole",))


def played(story: Scenario, place: Place | None = None, *, held_out: bool = True) -> Point:
    """Play every way on a scenario as it is.

    Args:
        place: where that is on a map, for the record, and which formats may be on the card: all unless
            stated.
        held_out: also its test rows; without, nothing of them is opened.
    """
    place = place or Place.own(story)
    player, known = Player(story), ways.possible(story, place.format)
    with heldout.only("train", heldout.WHOLE):
        logs = _logs(player, known, "train")
        costs = {way.name: log.mean_cost for way, log in logs.items()}
        train = Part(costs, _fits(story, known, "train"))
        ceiling = tables.ceiling(story)
    compared = compared_on_train(costs)
    test: Part | None = None
    unit: Unit | None = None
    count = 0
    if held_out:
        logs = _logs(player, known, "test")
        test = Part(
            {way.name: log.mean_cost for way, log in logs.items()}, _fits(story, known, "test")
        )
        parts = pieces.of_split(story)
        unit, count = parts.unit, len(parts)
        compared = {
            name: pair and _on_test(story, pair, logs, parts) for name, pair in compared.items()
        }
    return Point(place, ceiling, train, test, unit, count, compared["lead"], compared["pruning"])


def compared_on_train(costs: Mapping[str, float]) -> dict[str, Compared | None]:
    """The pairs of a point that are compared: `lead` and `pruning`."""
    best = cheapest(costs)
    others = [kind for kind in get_args(Kind) if kind != BY_NAME[best].kind]
    pairs = {
        "lead": (best, cheapest(costs, others)),
        "pruning": (cheapest(costs, ["pruned"]), cheapest(costs, ["whole", "fixed"])),
    }
    return {
        name: Compared(way, over, costs[over] - costs[way]) if way and over else None
        for name, (way, over) in pairs.items()
    }


def _logs(
    player: Player, known: Sequence[Way], split: Literal["train", "test"]
) -> dict[Way, EpisodeLog]:
    """Each way's rows; what would drop nothing has those of the full model in its format."""
    text: pruned.Text = "calib" if split == "train" else "test"
    found, idle = dict[Way, EpisodeLog](), dict[str, bool]()
    for way in known:  # whole ones come first
        if way.kind != "whole":
            if way.format not in idle:
                idle[way.format] = player.is_idle(way.form, split)
            # A set that was chosen on train may be smaller than what fits now.
            if idle[way.format] and (way.rule != "fixed" or player.fixed(way.form).all()):
                found[way] = found[Way(way.format, "refuse")]
                continue
        found[way] = player.log(way, split, text)
    return found


def _fits(
    story: Scenario, known: Sequence[Way], split: Literal["train", "test"]
) -> dict[str, float]:
    formats = dict.fromkeys(way.format for way in known)
    return {name: float(ways.fits(story, ways.FORMATS[name], split).mean()) for name in formats}


def _on_test(
    story: Scenario, pair: Compared, logs: Mapping[Way, EpisodeLog], parts: pieces.Pieces
) -> Compared:
    one, other = BY_NAME[pair.way], BY_NAME[pair.over]
    found = difference(story, one, other, logs[one], logs[other], parts)
    return judged(pair, found, logs[other].mean_cost)


def judged(pair: Compared, found: Estimate, other_cost: float) -> Compared:
    """A pair with what held-out rows say of it.

    Args:
        found: cost of the one less that of the other, on held-out rows.
        other_cost: of the other there.
    """
    within = verdicts.EQUAL_SHARE * abs(other_cost)
    return Compared(
        pair.way, pair.over, pair.train,
        saves=-found.value + 0.0,
        low=_known(-found.high), high=_known(-found.low), least=_known(found.least),
        verdict=_WORDS[verdicts.verdict(found, within)],
    )  # fmt: skip


def _known(value: float) -> float | None:
    return None if math.isnan(value) else value + 0.0


def difference(
    story: Scenario,
    one: Way,
    other: Way,
    one_log: EpisodeLog,
    other_log: EpisodeLog,
    parts: pieces.Pieces,
) -> Estimate:
    """What one way costs less another on held-out rows, paired, with the quality table's own error."""
    draws = score.resamples(parts, one_log.offsets)
    a, b, output = draws.summed(
        [one_log.cost, other_log.cost, np.ones(one_log.row.shape)], one_log.output_tokens
    )
    errors = [
        pruned.sets_se(story, way.form, log)
        for way, log in ((one, one_log), (other, other_log))
        if way.kind != "whole"
    ]
    if one.form != other.form:
        base = tables.base_table(story)
        errors += [base.format_nll_se(way.form, "test", story.domain) for way in (one, other)]
    return score.difference(a, b, output, parts, math.hypot(*errors))
