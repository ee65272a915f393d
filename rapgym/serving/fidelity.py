"""A recorded run beside the same run simulated."""

from collections.abc import Mapping
from dataclasses import dataclass, replace

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.model.memory import Footprint
from rapgym.serving import kernel, latency
from rapgym.serving.card import Card
from rapgym.serving.cost import Deadlines, Harm
from rapgym.serving.profile import ServingProfile
from rapgym.serving.recorded import Run

# A model whose shape nobody states: profiles fitted with it can replay its runs, and no other.
NOMINAL = Footprint(
    layers=1,
    attention_bytes=1 << 30,
    ffn_bytes=1 << 30,
    model_kv_token_bytes=1 << 10,
    fixed_bytes=0,
    activation_bytes_per_token=0.0,
    margin_bytes=0,
)


@dataclass(frozen=True, slots=True, eq=False)
class Replayed:
    """A run as the simulator gives it; times as in `Run`."""

    first_s: FloatArray
    last_s: FloatArray
    # At each tick of the record: running, waiting, share of the pages in use; [T, 3], or None.
    ticks: FloatArray | None
    preemptions: int
    steps: int


def card_of(run: Run, footprint: Footprint, profile: ServingProfile) -> Card:
    """A card on which a run's pages fit, and no more."""
    asked = run.requests.prompt_tokens + run.requests.output_tokens
    pages = run.pages
    if pages is None:
        pages = int(np.ceil(asked / run.page_tokens).sum()) + profile.reserved_pages
    bare = Card(
        footprint,
        np.zeros(1, dtype=np.int64),
        np.zeros((1, 1), dtype=np.int64),
        link_bytes_per_s=1.0,
        reaction_s=0.0,
        step_tokens=profile.step_tokens,
    )
    return replace(bare, limit_bytes=np.array([bare.used_bytes((0, 0), pages * run.page_tokens)]))


def ruled(profile: ServingProfile, run: Run) -> ServingProfile:
    """A profile with the scheduler's limits of a run."""
    return replace(
        profile,
        step_tokens=run.step_tokens,
        max_sequences=run.max_sequences,
        page_tokens=run.page_tokens,
        prefix_cache=run.prefix_cache,
    )


def world_of(run: Run, card: Card, profile: ServingProfile) -> kernel.World:
    """The world of a run, in which no token costs anything: its times are what is asked for."""
    harm = Harm(np.zeros((1, 1)), np.zeros(1), 1.0)
    return kernel.world_of(run.requests, card, profile, harm, Deadlines())


def replayed(run: Run, profile: ServingProfile, footprint: Footprint = NOMINAL) -> Replayed:
    """Simulate a run, every block in memory."""
    card = card_of(run, footprint, profile)
    world = world_of(run, card, profile)
    lane, seen = kernel.lane_of(world), []
    pages = card.room_tokens((0, 0), 0.0) // profile.page_tokens - profile.reserved_pages
    for at_s in () if run.ticks is None else run.ticks.at_s:
        kernel.run(world, lane, float(at_s), 0, 0, 0)
        used = lane.counts[kernel.PAGES_USED] / pages
        seen.append((lane.counts[kernel.RUNNING], lane.counts[kernel.WAITING], used))
    kernel.run(world, lane, np.inf, 0, 0, 0)
    return Replayed(
        lane.first_s,
        lane.last_s,
        np.array(seen, dtype=np.float64) if seen else None,
        int(lane.counts[kernel.PREEMPTIONS]),
        int(lane.counts[kernel.STEPS]),
    )


def measures(run: Run, first_s: FloatArray, last_s: FloatArray) -> dict[str, float]:
    """What people ask of a run: TTFT, TPOT and end to end, makespan, output tokens a second."""
    output, found = run.requests.output_tokens, dict[str, float]()
    every = latency.times(run.requests.arrival_s, first_s, last_s, output)
    for name, values in zip(latency.TIMES, every, strict=True):
        if len(values):
            found[f"{name}_mean_s"] = float(values.mean())
            for share, value in zip(latency.QUANTILES, latency.percentiles(values), strict=True):
                found[f"{name}_p{share}_s"] = value
    found["makespan_s"] = float(last_s.max())
    found["output_tokens_per_s"] = float(output.sum() / last_s.max())
    return found


def errors(told: Mapping[str, float], measured: Mapping[str, float]) -> dict[str, float]:
    """Simulated over measured, less one."""
    return {name: told[name] / value - 1 for name, value in measured.items()}


def tick_errors(run: Run, found: Replayed) -> dict[str, float]:
    """Mean absolute difference by the second: sequences running and waiting, share of the pages."""
    if run.ticks is None or found.ticks is None:
        return {}
    running, waiting, share = found.ticks.T
    missed = {
        "running": float(np.abs(running - run.ticks.running).mean()),
        "waiting": float(np.abs(waiting - run.ticks.waiting).mean()),
    }
    if run.ticks.kv_share is not None:
        missed["kv_share"] = float(np.abs(share - run.ticks.kv_share).mean())
    return missed
