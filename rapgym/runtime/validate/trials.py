"""Which rows of a scenario a device replays, and from which state: rows spread over the load."""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidTrace
from rapgym.guard import foreign
from rapgym.guard.foreign import Foreign, Terms
from rapgym.guard.guard import refuses_misfit
from rapgym.model import blocks
from rapgym.policies import registry
from rapgym.policies.policy import briefing, told_before
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import worlds
from rapgym.scenarios.story import Scenario, Split
from rapgym.workload import series
from rapgym.world import simulator
from rapgym.world.records import State, World
from rapgym.world.shield import Reason

# Shares of the chosen rows; the rest is spread over the load, from light to heavy.
EMERGENCY_SHARE, DEEP_SHARE, REFUSED_SHARE = 0.3, 0.2, 0.1


@dataclass(frozen=True, slots=True)
class Trial:
    """One row from a given state under a given proposal: all that decides what happens in it."""

    row: int
    limit_row: int
    loaded: str  # key of the blocks in memory before
    proposal: str  # key
    strict: bool = False  # a misfit is refused rather than repaired
    source: int = Reason.POLICY

    def state(self, world: World) -> State:
        """The lane before the row."""
        loaded = blocks.kept_of(self.loaded, world.blocks)[None]
        return world.state(np.array([self.row]), np.array([self.limit_row]), loaded=loaded)

    def arguments(self, world: World) -> tuple[State, BoolArray, IntArray, BoolArray]:
        """What a step is called with, beside its world."""
        proposal = blocks.kept_of(self.proposal, world.blocks)[None]
        return self.state(world), proposal, np.array([self.source]), np.array([self.strict])


def policy_log(
    story: Scenario, split: Split, name: str, seed: int = 0, terms: Terms | None = None
) -> EpisodeLog:
    """What a policy does in the simulated world on the split as it was, one pairing.

    Settings are those tuned on train; on validation, those tuned on the rest of train.
    """
    alone = replace(story, offsets=1)
    with _opened(story, split, name, terms) as make:
        return rollout.run(make, alone, split, briefing(alone, told_before(split)), seed)


def is_strict(story: Scenario, split: Split, name: str, terms: Terms | None = None) -> bool:
    """Whether a policy's misfit is refused."""
    with _opened(story, split, name, terms) as make:
        return refuses_misfit(make())


def _opened(story: Scenario, split: Split, name: str, terms: Terms | None) -> Foreign:
    """What makes a policy with the settings of a scenario in all its pairings, as it was tuned."""
    entry = registry.entry(name)
    options = registry.settings(entry, briefing(story, told_before(split)))
    return foreign.made(entry, options, terms or Terms())


def chosen_rows(
    world: World, logs: Mapping[str, EpisodeLog], kept: IntArray, count: int
) -> list[int]:
    """Rows to replay: emergencies, deep rows and refusals where there are some, else by load.

    Args:
        kept: rows whose single requests the series keeps.
    """
    output = world.rows.output_tokens > 0
    lawful = np.zeros(len(world.rows), dtype=bool)
    lawful[kept] = output[kept]
    tokens = world.rows.prompt_tokens + world.rows.reserved_tokens
    every = list(logs.values())
    emergency = np.max([log.emergency[:, 0] for log in every], axis=0)
    refused = np.max([log.refused[:, 0] for log in every], axis=0)
    depth = np.max([(~log.kept[:, 0]).sum(axis=-1) for log in every], axis=0)
    found: list[int] = []

    def take(marked: BoolArray, rank: IntArray, most: int) -> None:
        candidates = np.flatnonzero(marked & lawful & ~np.isin(np.arange(len(marked)), found))
        best = candidates[np.argsort(-rank[candidates], kind="stable")]
        found.extend(best[:most].tolist())

    take(emergency > 0, depth, round(EMERGENCY_SHARE * count))
    take(refused > 0, tokens, round(REFUSED_SHARE * count))
    take(depth > 0, depth, round(DEEP_SHARE * count))
    rest = np.flatnonzero(lawful & ~np.isin(np.arange(len(lawful)), found))
    by_load = rest[np.argsort(tokens[rest], kind="stable")]
    left = min(count - len(found), len(by_load))
    if left > 0:
        found.extend(by_load[np.linspace(0, len(by_load) - 1, left).round().astype(int)].tolist())
    return sorted(found)


def rows_with_requests(story: Scenario, split: Split) -> IntArray:
    """Rows of a split whose single requests are kept.

    Raises:
        InvalidTrace: there is none.
    """
    whole = worlds.workload(story)
    part = whole.part(series.split_rows(len(whole), split, story.splits))
    found = np.flatnonzero(part.requests != series.NOT_KEPT)
    if not len(found):
        raise InvalidTrace(f"{story.name} keeps no single requests: a device cannot serve it")
    return found


def trials(log: EpisodeLog, rows: Sequence[int], strict: bool) -> dict[int, Trial]:
    """Row -> the trial that a policy's simulated run makes of it."""
    dense = np.ones_like(log.kept_end[0, 0])
    return {
        row: Trial(
            row=int(log.row[row, 0]),
            limit_row=int(log.limit_row[row, 0]),
            loaded=blocks.key(log.kept_end[row - 1, 0] if row else dense),
            proposal=blocks.key(log.proposal[row, 0]),
            strict=strict,
            source=int(log.source[row, 0]),
        )
        for row in rows
    }


def alike(world: World, trial: Trial) -> tuple[object, ...]:
    """What two trials share that a device cannot tell apart: measured once."""
    state, proposal, source, strict = trial.arguments(world)
    _, outcome = simulator.step(world, state, proposal, source, strict)
    seconds = outcome.seconds
    return (
        trial.row, trial.limit_row, trial.loaded, blocks.key(outcome.kept[0]),
        blocks.key(outcome.kept_end[0]), bool(outcome.refused[0]), float(seconds.emergency[0]),
        float(seconds.refused[0]),
    )  # fmt: skip


def fit_trials(world: World, rows: Sequence[int]) -> list[Trial]:
    """Trials from which a profile is fitted: sets of all depths, along the table's grid.

    Each row is served dense and under two sets, which leave from dense and return to it, so that
    drops and restores of many sizes are seen.
    """
    attention, ffn = (size - 1 for size in world.quality.at_counts.shape)
    corners = [(1.0, 0.0), (0.0, 1.0), (0.5, 0.5), (1.0, 1.0), (0.25, 0.75), (0.75, 0.25)]
    found, dense = [], blocks.key(np.ones(world.blocks, dtype=bool))
    for index, row in enumerate(rows):
        first, second = (corners[(2 * index + k) % len(corners)] for k in range(2))
        sets = [
            blocks.key(world.quality.grid_kept[round(a * attention), round(f * ffn)])
            for a, f in (first, second)
        ]
        found += [
            Trial(row, row, loaded=dense, proposal=sets[0]),
            Trial(row, row, loaded=sets[0], proposal=sets[1]),
            Trial(row, row, loaded=sets[1], proposal=dense),
        ]
    return found


def dense_trials(world: World, rows: Sequence[int]) -> list[tuple[int, Trial]]:
    """Each row served dense: by how many bytes it exceeds the lowest limit, the most first."""
    dense = np.ones(world.blocks, dtype=bool)
    found = []
    for row in rows:
        demand = world.demand_of(np.array(row), np.array(1.0))
        used = world.footprint.used_bytes(dense, demand.tokens, demand.prompt_tokens)
        over = int(used) - int(world.rows.limit_bytes[row].min())
        found.append((over, Trial(row, row, blocks.key(dense), blocks.key(dense))))
    return sorted(found, key=lambda each: -each[0])
