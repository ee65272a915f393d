"""From what parts came to, to costs with intervals, two scales, and verdicts beside the lookup."""

import math
from collections.abc import Callable, Sequence
from dataclasses import replace
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.bench import score, verdicts
from rapgym.bench.pieces import Pieces
from rapgym.bench.score import NOTHING, Estimate, Summed
from rapgym.bench.serving.cells import LOOKUP, TUNED, ServeCell
from rapgym.bench.serving.records import ServeScore
from rapgym.rollout.serving import Served
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch, latency

DECIMALS = 6  # of a score
P99 = "ttft_p99_s"
LEAST_PARTS = 2  # with fewer a resample can draw nothing else


def told(served: Served) -> dict[str, float | None]:
    """What a policy came to: cost with its interval over parts, and what a server would ask.

    Percentiles too, where the requests were looked at.
    """
    cost = estimate(served)
    found = {"cost": cost.value, "low": cost.low, "high": cost.high} | asked_by_a_server(served)
    if served.waits is not None:
        found |= levels(served) | percentiles(served)
    return {name: number(value) for name, value in found.items()}


def asked_by_a_server(served: Served) -> dict[str, float]:
    """Means and shares over all parts."""
    total = served.record.sum(axis=0)

    def per(over: float, under: int) -> float:
        return float(over) / max(1.0, float(total[under]))

    lost = float(total[batch.SHED_TOKENS] + total[batch.LOST])
    return {
        "nats": per(total[batch.NATS], batch.TOKENS),
        "undelivered": lost / max(1.0, float(served.tokens.sum())),
        "goodput": per(total[batch.GOOD], batch.ARRIVED),
        "shed": per(total[batch.SHED], batch.ARRIVED),
        "preemptions": per(total[batch.PREEMPTIONS], batch.ARRIVED),
        "ttft_s": per(total[batch.TTFT], batch.FIRST),
        "tpot_s": per(total[batch.TPOT], batch.PACED),
        "e2e_s": per(total[batch.E2E], batch.FINISHED),
        "throughput": float(total[batch.TOKENS]) / max(1, sum(p.seconds for p in served.parts)),
        "attention": float(served.counts[:, 0].mean()),
        "ffn": float(served.counts[:, 1].mean()),
    }


def levels(served: Served) -> dict[str, float]:
    """Shares of the requests that arrived: late, never finished, preempted, within each service level."""
    assert served.waits is not None
    total, counts = served.record.sum(axis=0), served.waits.counts.sum(axis=0)
    finished = total[batch.FINISHED]
    told = {
        "late": finished - total[batch.GOOD],
        "lost": total[batch.ARRIVED] - finished - total[batch.SHED],
        **dict(zip(latency.COUNTED, counts, strict=True)),
    }
    return {name: float(each) / max(1.0, total[batch.ARRIVED]) for name, each in told.items()}


def percentiles(served: Served) -> dict[str, float]:
    """Seconds, over requests that finished."""
    assert served.waits is not None
    return dict(zip(latency.PERCENTILES, served.waits.percentiles.tolist(), strict=True))


def estimate(one: Served, other: Served | None = None) -> Estimate:
    """Cost of one, or less that of another on the same parts, with its interval: parts are drawn, as in `bench`.

    No interval of fewer than `LEAST_PARTS`: it would be a point.
    """
    pieces = pieces_of(one)
    here, there, tokens = summed(one, other)
    return _honest(score.difference(here, there, tokens, pieces), pieces)


def _honest(found: Estimate, pieces: Pieces) -> Estimate:
    if len(pieces) >= LEAST_PARTS:
        return found
    return replace(found, low=math.nan, high=math.nan, least=math.nan)


def pieces_of(served: Served) -> Pieces:
    """Its parts as what a resample draws."""
    count = len(served.parts)
    return Pieces("hour", np.arange(count), count)


def summed(one: Served, *others: Served | None) -> list[Summed]:
    """Costs of each, zero of None, then tokens of the first: sums as they are, and of each resample."""
    costs = [
        np.zeros(len(one.parts)) if each is None else each.record[:, batch.COST]
        for each in (one, *others)
    ]
    return _drawn(one, [*costs, one.tokens])


def _drawn(served: Served, columns: Sequence[FloatArray]) -> list[Summed]:
    """Sums of columns over parts, [P] each: as they are, and of each resample, which all columns share."""
    drawn = score.resamples(pieces_of(served), np.zeros(1, dtype=np.int64))
    ones = np.ones((len(served.parts), 1), dtype=np.int64)
    return drawn.summed([each[:, None] for each in columns], ones)


def share_beside(one: Served, other: Served, count: Callable[[Served], FloatArray]) -> Estimate:
    """A share of the requests that arrived, less that of another on the same requests, with its interval.

    Args:
        count: of such requests by part, [P].
    """
    pieces = pieces_of(one)
    here, there, arrived = _drawn(one, [count(one), count(other), one.record[:, batch.ARRIVED]])
    return _honest(score.difference(here, there, arrived, pieces), pieces)


def good(served: Served) -> FloatArray:
    """Requests with every token on time, by part, [P]."""
    found: FloatArray = served.record[:, batch.GOOD]
    return found


def ttft_met(served: Served) -> FloatArray:
    """Requests with a first token by its deadline, by part, [P]."""
    assert served.waits is not None
    found: FloatArray = served.waits.counts[:, latency.TTFT_MET]
    return found


def mean_of(served: Sequence[Served]) -> Served:
    """The mean over seeds, part by part."""
    waits = [each.waits for each in served if each.waits is not None]
    record = np.mean([each.record for each in served], axis=0)
    return replace(served[0], record=record, waits=latency.mean_of(waits) if waits else None)


def best_plan(searches: Sequence[Served]) -> Served:
    """Of each stretch the plan that costs least."""
    costs = np.array([each.record[:, batch.COST] for each in searches])
    rows = [searches[i].record[part] for part, i in enumerate(costs.argmin(axis=0).tolist())]
    return replace(searches[0], record=np.array(rows), waits=None)


def scores(story: ServeScenario, cells: Sequence[ServeCell]) -> list[ServeScore]:
    """The entries of one scenario's cells, the least cost first and searches last."""
    by_name: dict[str, list[ServeCell]] = {}
    for cell in cells:
        by_name.setdefault(cell.about.policy, []).append(cell)
    ends = _Ends.of(by_name)
    found = [_score(story, each, ends) for each in by_name.values()]
    return sorted(
        found, key=lambda s: (s.cost is None, s.stretch_cost if s.cost is None else s.cost)
    )


class _Ends:
    """What the cells of a scenario are measured by."""

    def __init__(self, lookup: Served, stretched: tuple[Served, Served, Served] | None) -> None:
        self.lookup, self.stretched = lookup, stretched  # those: engine, lookup, best plan

    @classmethod
    def of(cls, by_name: dict[str, list[ServeCell]]) -> "_Ends":
        (lookup,), (engine,) = by_name[LOOKUP], by_name[TUNED]
        plans = [
            cell.stretches
            for each in by_name.values()
            for cell in each
            if cell.about.is_oracle and cell.stretches is not None
        ]
        assert lookup.whole is not None
        if not plans or lookup.stretches is None or engine.stretches is None:
            return cls(lookup.whole, None)
        return cls(lookup.whole, (engine.stretches, lookup.stretches, best_plan(plans)))

    @property
    def room(self) -> float:
        """Nats between the lookup and the best plan, on the stretches; 0 where no search was run."""
        if self.stretched is None:
            return 0.0
        _, lookup, best = self.stretched
        return lookup.cost - best.cost

    def gain(self, served: Served | None) -> Estimate:
        """Points of what served the stretches."""
        return self._points(served, 0)

    def foresight(self, served: Served | None) -> Estimate:
        return self._points(served, 1) if self.room >= verdicts.LEAST_ROOM else NOTHING

    def _points(self, served: Served | None, zero: int) -> Estimate:
        if self.stretched is None or served is None:
            return NOTHING
        pieces = pieces_of(served)
        here, nothing, best, _ = summed(served, self.stretched[zero], self.stretched[2])
        return _honest(score.score(here, nothing, best, pieces), pieces)


def _score(story: ServeScenario, cells: Sequence[ServeCell], ends: _Ends) -> ServeScore:
    about, seeds = cells[0].about, [cell.about for cell in cells]
    whole = mean_of([c.whole for c in cells if c.whole is not None]) if cells[0].whole else None
    stretched = [c.stretches for c in cells if c.stretches is not None]
    served = mean_of(stretched) if stretched else None
    shown = whole if whole is not None else served
    assert shown is not None
    cost = estimate(whole) if whole is not None else NOTHING
    beside = NOTHING if whole is None else estimate(whole, ends.lookup)
    gain, foresight = ends.gain(served), ends.foresight(served)
    pieces = pieces_of(shown)
    margin = verdicts.margin(ends.lookup.cost, ends.lookup.cost - ends.room)

    def mean(values: Sequence[float | None]) -> float | None:
        known = [value for value in values if value is not None]
        return float(np.mean(known)) if known else None

    decides = whole is not None and about.policy != LOOKUP
    in_time, begun = (
        NOTHING if whole is None or not decides else share_beside(whole, ends.lookup, count)
        for count in (good, ttft_met)
    )
    waited, reference = percentiles(shown), percentiles(ends.lookup)
    told: dict[str, Any] = {
        name: round(value, DECIMALS)
        for name, value in (asked_by_a_server(shown) | levels(shown)).items()
    }
    told |= {name: number(value) for name, value in waited.items()}
    return ServeScore(
        scenario=story.id,
        traffic=story.base.trace,
        claims=story.claims,
        policy=about.policy,
        kind=about.kind,
        cost=number(cost.value),
        cost_low=number(cost.low),
        cost_high=number(cost.high),
        low=number(beside.low) if decides else None,
        high=number(beside.high) if decides else None,
        p_value=number(beside.p) if decides else None,
        least_effect=number(beside.least) if decides else None,
        verdict=verdicts.verdict(beside, margin) if decides else None,
        unit=pieces.unit,
        pieces=len(pieces),
        conditional=verdicts.is_conditional(pieces.unit, len(pieces)),
        stretch_cost=None if served is None else number(served.cost),
        gain=number(gain.value),
        gain_low=number(gain.low),
        gain_high=number(gain.high),
        foresight=number(foresight.value),
        goodput_low=number(in_time.low),
        goodput_high=number(in_time.high),
        ttft_met_low=number(begun.low),
        ttft_met_high=number(begun.high),
        **told,
        ttft_p99_less_s=number(waited[P99] - reference[P99]) if decides else None,
        train_cost=about.train_cost,
        fallback=float(np.mean([each.fallback for each in seeds])),
        watchdog=float(np.mean([each.watchdog for each in seeds])),
        fault=next((each.fault for each in seeds if each.fault), None),
        decision_us_p50=mean([each.decision_us_p50 for each in seeds]),
        decision_us_p99=mean([each.decision_us_p99 for each in seeds]),
        seeds=len(cells),
        isolation=about.isolation,
    )


def number(value: float) -> float | None:
    """As it is written: rounded; None of what is not defined."""
    return None if math.isnan(value) else round(value, DECIMALS)
