"""All policies of one scenario on the same rows, and how they differ."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.bench import champions, pieces, score
from rapgym.bench.cells import BOUND, LOOKUP
from rapgym.bench.champions import Champion
from rapgym.bench.pieces import Pieces
from rapgym.bench.records import About
from rapgym.bench.results import DECIMALS, Cell
from rapgym.bench.score import Estimate, Resamples, Summed
from rapgym.errors import InvalidResult
from rapgym.policies.registry import Kind
from rapgym.quality import error as table_error
from rapgym.quality.error import SetError
from rapgym.rollout import log as rollout_log
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.story import Scenario

TERMS = ("quality", "stall", "emergency", "refused")


def draws_of(cells: list[Cell]) -> Resamples:
    """The resamples that all policies of a scenario share.

    Raises:
        InvalidResult: the cells do not hold the rows of its test split.
    """
    story, rows = catalogue.scenario(cells[0].about.scenario), len(cells[0].log)
    found = pieces.of_split(story)
    if found.rows != rows:
        raise InvalidResult(
            f"cells of {story.id} have {rows} rows, its test split here {found.rows}"
        )
    return score.resamples(found, cells[0].log.offsets)


def by_policy(cells: list[Cell]) -> dict[str, list[Cell]]:
    """Cells of each policy: one a seed."""
    grouped: dict[str, list[Cell]] = {}
    for cell in cells:
        grouped.setdefault(cell.about.policy, []).append(cell)
    return grouped


def terms_of(cell: Cell) -> dict[str, FloatArray]:
    """The four terms of each row with test columns, [T, K], rounded as they are stored.

    So a file gives to the last bit what the run that wrote it gave.
    """
    columns = (cell.test_quality, cell.log.stall, cell.log.emergency, cell.log.refused)
    rounded: dict[str, FloatArray] = {}
    for name, values in zip(TERMS, columns, strict=True):
        rounded[name] = np.round(values, DECIMALS)
    return rounded


@dataclass(frozen=True)
class Served:
    """One policy on one scenario: the plain mean over its seeds, none of which is left out."""

    cells: list[Cell]

    @property
    def about(self) -> About:
        return self.cells[0].about

    @property
    def policy(self) -> str:
        return self.about.policy

    @property
    def kind(self) -> Kind:
        return self.about.kind

    @property
    def output(self) -> IntArray:
        return self.cells[0].log.output_tokens

    @cached_property
    def seed_rows(self) -> list[FloatArray]:
        """Cost of each row with each seed, [T, K] each."""
        return [np.asarray(sum(terms_of(cell).values())) for cell in self.cells]

    @property
    def costs(self) -> list[float]:
        """Cost of each seed."""
        return [score.mean_cost(rows, self.output) for rows in self.seed_rows]

    @cached_property
    def terms(self) -> dict[str, FloatArray]:
        """Mean cost of each row by term, [T, K]."""
        found: dict[str, FloatArray] = {name: np.zeros(self.output.shape) for name in TERMS}
        for cell in self.cells:
            for name, values in terms_of(cell).items():
                found[name] += values / len(self.cells)
        return found

    @cached_property
    def cost(self) -> FloatArray:
        """[T, K]."""
        return np.asarray(sum(self.terms.values()))

    @property
    def mean_cost(self) -> float:
        return score.mean_cost(self.cost, self.output)

    @property
    def validation_cost(self) -> float | None:
        """Cost on train by cross-validation, None where a seed has none."""
        costs = [cell.about.validation_cost for cell in self.cells]
        known = [cost for cost in costs if cost is not None]
        return float(np.mean(known)) if len(known) == len(costs) else None

    def validation(self, shares: FloatArray) -> Summed | None:
        """Its validation cost, and that of each resample of validation pieces and seeds.

        What says of no piece what it cost there counts whole in each.

        Args:
            shares: how much each seed counts, [R, seeds].
        """
        if self.validation_cost is None:
            return None
        seeds = []
        for cell in self.cells:
            cost = cell.about.validation_cost or 0.0
            parts = np.array(cell.about.validation_parts or (cost,))
            drawn = champions.validation_draws(len(parts), len(shares)) @ parts
            seeds.append(Summed(cost, drawn))
        return score.mean_of(seeds, shares)

    @property
    def fallback(self) -> float:
        """Share of rows whose answer could not be read."""
        return float(np.mean([cell.about.fallback for cell in self.cells]))

    @property
    def format(self) -> tuple[str, str] | None:
        """Weights and KV of a rival, None where a cell does not say, or is no rival's."""
        told = self.about.settings
        if not self.about.is_rival or not {"weights", "kv"} <= told.keys():
            return None
        return str(told["weights"]), str(told["kv"])

    @property
    def competes(self) -> bool:
        """Whether it decides from the past alone, within the action space, and did answer.

        Of what ran where its rows were played, nobody knows.
        """
        return self.about.decides and not self.fallback and self.about.isolation != "none"

    def shares(self, ceiling: float) -> dict[bytes, float] | None:
        """Share of output tokens served from each kept set of the scenario's table; None of a rival,
        and where no sets were executed.
        """
        if self.about.is_rival or self.policy == BOUND:
            return None
        found: dict[bytes, float] = {}
        for cell in self.cells:
            for name, share in rollout_log.served_shares(cell.log, ceiling).items():
                found[name] = found.get(name, 0.0) + share / len(self.cells)
        return found


@dataclass(frozen=True)
class Contest:
    """All policies of one scenario on the same rows and the same resamples."""

    story: Scenario
    served: Mapping[str, Served]
    pieces: Pieces  # that a resample draws
    summed: Mapping[str, Summed]  # output tokens times cost of each policy, seeds drawn too
    output: Summed  # output tokens
    champions: Mapping[str, Champion]  # of each family that has one

    @cached_property
    def shares(self) -> dict[str, dict[bytes, float] | None]:
        ceiling = worlds.scoring_world(self.story).ceiling
        return {name: served.shares(ceiling) for name, served in self.served.items()}

    @cached_property
    def errors(self) -> dict[bytes, SetError]:
        """The table's errors of every set that served."""
        world = worlds.scoring_world(self.story)
        held_out = tables.table(self.story).held_out("test", self.story.domain)
        names = {name: None for found in self.shares.values() for name in found or {}}
        return table_error.set_errors(
            list(names), world.quality, table_error.predictor_error(held_out, world.ceiling)
        )

    def difference(self, one: str, other: str) -> Estimate:
        """Cost of one less cost of the other, the tables' errors in its interval."""
        return self.difference_of(one, self.summed[one], other, self.summed[other])

    def difference_of(self, one: str, here: Summed, other: str, there: Summed) -> Estimate:
        """The same, of sums that stand for them: of champions, that are chosen in each resample."""
        error = self.error(one, other) or 0.0
        return score.difference(here, there, self.output, self.pieces, error)

    def error(self, one: str, other: str) -> float | None:
        """The table's standard error of that difference; None where the bound is one of them.

        A rival's format was measured on the same text, and so were the sets of one that prunes: its
        own errors are taken as independent of the other's. But two rivals of one format share its
        error, which goes out of their difference.
        """
        if BOUND in (one, other):
            return None
        a, b = self.shares[one] or {}, self.shares[other] or {}
        both = [self.served[name] for name in {one, other}]
        shared = len({served.format for served in both}) == 1 and both[0].format is not None
        formats = [] if shared else [served.about.quality_se for served in both]
        own = [0.0] if len(both) == 1 else [served.about.sets_se for served in both]
        sets = table_error.difference_error(a, b, self.errors)
        return float(np.hypot.reduce([sets, *own, *formats]))

    def points(self, policy: str, reference: str) -> Estimate:
        """Score of a policy, 0 being the reference and 100 the bound."""
        error = (self.error(policy, reference) or 0.0) * self.output.total
        own, zero, bound = (self.summed[name] for name in (policy, reference, BOUND))
        return score.score(own, zero, bound, self.pieces, error)


def contest_of(cells: list[Cell]) -> Contest:
    """The contest of one scenario's cells.

    Raises:
        InvalidResult: the lookup or the bound is not among them.
    """
    served = {name: Served(group) for name, group in by_policy(cells).items()}
    missing = {LOOKUP, BOUND} - served.keys()
    if missing:
        raise InvalidResult(f"scores need {', '.join(sorted(missing))} beside the other policies")
    drawn, output = draws_of(cells), cells[0].log.output_tokens
    rows = [row for one in served.values() for row in one.seed_rows]
    *sums, whole = drawn.summed([*rows, np.ones(output.shape)], output)
    shares = {
        name: score.seed_shares(len(one.cells), stream)
        for stream, (name, one) in enumerate(sorted(served.items()))
    }
    left = iter(sums)
    summed = {
        name: score.mean_of([next(left) for _ in one.cells], shares[name])
        for name, one in served.items()
    }
    return Contest(
        catalogue.scenario(cells[0].about.scenario),
        served,
        drawn.pieces,
        summed,
        whole,
        _champions(list(served.values()), shares, summed),
    )


def _champions(
    served: Sequence[Served], shares: Mapping[str, FloatArray], summed: Mapping[str, Summed]
) -> dict[str, Champion]:
    known = {one.policy: one.validation(shares[one.policy]) for one in served}
    validation = {name: found for name, found in known.items() if found is not None}
    return champions.chosen(champions.candidates(served), validation, summed)
