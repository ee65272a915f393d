"""Make the committed series of scenarios from raw traces: the command behind `traces/`."""

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import IntArray
from rapgym.errors import InvalidTrace
from rapgym.scenarios.story import Recorded, Scenario, Tenant
from rapgym.workload import names, series, servegen, sources
from rapgym.workload import traffic as serving_traffic
from rapgym.workload.inputs.how import How
from rapgym.workload.loaders import load_requests, vllm_kvcache
from rapgym.workload.own import beside, memory_trace
from rapgym.workload.series import Series
from rapgym.workload.trace import RequestTrace
from rapgym.workload.traffic import Traffic

OURS = "recorded with `rapgym record` by the authors of rapgym"
CONTEXT_TOKENS = 8192  # of Llama-3-8B, which both services of the synthetic scenarios serve

RECORDED_STEP_S = 0.5  # between its samples
# Its replays at 100 to 2,000 times the speed, slow and fast in turn, so that load does not just rise.
RECORDED_RUNS = (100, 2000, 200, 1500, 300, 1000, 400, 900, 500, 800, 600, 700)


def paired(story: Scenario) -> Series:
    """The series of a scenario whose traces are of the same hour, paired by wall clock.

    Only what both cover is kept; requests before that still queue at the tenant.

    Raises:
        DataUnavailable: a raw trace is not on this machine.
        InvalidTrace: a trace has no wall clock to pair by, or they do not overlap.
    """
    found = _same_hour(story)
    seconds = series.whole_rows(found.start_s, found.stop_s, story.window_s) * story.window_s
    return series.build(
        found.served,
        found.held(story, seconds),
        window=story.window_s,
        start_s=found.start_s,
        stop_s=found.stop_s,
        origin=found.origin(story),
    )


@dataclass(frozen=True, slots=True)
class _Hour:
    """Two traces of one hour, and what both cover of it, on the served clock."""

    served: RequestTrace
    tenant: RequestTrace | None
    offset_s: float  # of the served clock's 0 on the tenant's
    start_s: float
    stop_s: float

    def held(self, story: Scenario, seconds: int) -> IntArray:
        """Tokens of the tenant in each second from the start on."""
        if self.tenant is None:
            return np.zeros(seconds, dtype=np.int64)
        start_s = self.start_s + self.offset_s
        return series.queued_tokens(self.tenant, story.pool_tokens, start_s, seconds)

    def origin(self, story: Scenario) -> dict[str, Any]:
        """What is said of both."""
        return _origin(story, self.served.name, None if self.tenant is None else self.tenant.name)


def _same_hour(story: Scenario) -> _Hour:
    """The traces of a scenario, paired by wall clock; raises as `paired` does."""
    served = load_requests(story.trace, How.of(story.reading)).every(story.every)
    tenant, offset_s = None, 0.0
    start_s, stop_s = 0.0, float(served.arrival_s[-1])
    if isinstance(story.tenant, Tenant):
        tenant = load_requests(story.tenant.trace, How.of(story.reading)).every(story.tenant.every)
        offset_s = served.start_wall_s - tenant.start_wall_s
        if math.isnan(offset_s):
            raise InvalidTrace(
                f"{story.trace} and {story.tenant.trace} share no wall clock: begin each file with a "
                "line `# start_wall_s=SECONDS`"
            )
        start_s = max(start_s, -offset_s)
        stop_s = min(stop_s, float(tenant.arrival_s[-1]) - offset_s)
        if stop_s <= start_s:
            raise InvalidTrace(f"{story.trace} and {story.tenant.trace} do not overlap in time")
    return _Hour(served, tenant, offset_s, start_s, stop_s)


def recorded(story: Scenario) -> Series:
    """The series of a scenario whose tenant is a recording of how full a KV pool was.

    The recording's runs follow each other, slow and fast in turn, stretched in time so that they
    cover the served trace once: nothing of the test part's tenant is in the train part.

    Raises:
        DataUnavailable: a raw trace is not on this machine.
    """
    served = load_requests(story.trace, How.of(story.reading)).every(story.every)
    stop_s = float(served.arrival_s[-1])
    seconds = series.whole_rows(0.0, stop_s, story.window_s) * story.window_s
    share = np.concatenate([vllm_kvcache(run).share for run in RECORDED_RUNS])
    # The highest sample that falls into each second.
    first = np.arange(seconds) * len(share) // seconds
    highest = np.maximum.reduceat(share, first) if len(share) >= seconds else share[first]
    held = np.floor(highest * story.pool_tokens).astype(np.int64)
    stretch = seconds / (RECORDED_STEP_S * len(share))
    return series.build(
        served,
        held,
        window=story.window_s,
        start_s=0.0,
        stop_s=stop_s,
        origin=_origin(story, served.name, names.RECORDED_POOL)
        | {"recorded_runs": list(RECORDED_RUNS), "time_stretch": round(stretch, 4)},
    )


def beside_memory(story: Scenario) -> Series:
    """The series of a scenario whose tenant is memory that we recorded, as long as that lasts.

    Raises:
        DataUnavailable: a raw trace is not on this machine.
    """
    assert isinstance(story.tenant, Recorded)
    name = story.tenant.recording
    served = load_requests(story.trace, How.of(story.reading)).every(story.every)
    memory = memory_trace(name, How.of(story.reading))
    source = {"sha256": names.sha256(name), "licence": "Apache-2.0", "attribution": OURS}
    origin = _origin(story, served.name, name)
    origin["sources"] = {**origin["sources"], name: source}
    return beside(served, memory, window=story.window_s, origin=origin, pair="either")


def drawn(story: Scenario, *, quiet: bool = True) -> Series:
    """The series of a synthetic scenario: 14 days drawn from ServeGen's measured statistics.

    Both services share one simulated clock. Each request reaches one of `every` replicas at random;
    requests that exceed the model's context are turned away, as a server would.

    Args:
        quiet: without a line of progress.
    """
    stop_s = series.DAYS * 86400.0
    seconds = series.whole_rows(0.0, stop_s, story.window_s) * story.window_s
    served, held, origin = _drawn(story, seconds, quiet)
    return series.build(
        served,
        held,
        window=story.window_s,
        start_s=0.0,
        stop_s=stop_s,
        origin=origin,
        train_share=series.TRAIN_DAYS / series.DAYS,
    )


def traffic(story: Scenario, *, quiet: bool = True) -> Traffic:
    """Single requests in continuous time and the tenant's tokens by the second, of whole seconds.

    The same requests, tenant and clock as the series of windows has.

    Args:
        quiet: without a line of progress, where it is drawn.

    Raises:
        DataUnavailable: a raw trace is not on this machine.
        InvalidTrace: a trace has no wall clock to pair by, or they do not overlap.
    """
    if story.is_drawn:
        served, held, origin = _drawn(story, series.DAYS * 86400, quiet)
        return serving_traffic.of(served, 0.0, held, origin)
    found = _same_hour(story)
    seconds = series.whole_rows(found.start_s, found.stop_s, 1)
    held = found.held(story, seconds)
    return serving_traffic.of(found.served, found.start_s, held, found.origin(story))


def _drawn(
    story: Scenario, seconds: int, quiet: bool
) -> tuple[RequestTrace, IntArray, dict[str, Any]]:
    """Requests of a synthetic scenario, its tenant's tokens in each second, and what is said of them."""
    assert isinstance(story.tenant, Tenant)
    # The tenant first: what it sent is forgotten before the other's requests are drawn.
    tenant = _servegen(story.tenant.trace, story.tenant.every, 1, quiet)
    held, beside = series.queued_tokens(tenant, story.tenant.pool_tokens, 0.0, seconds), tenant.name
    del tenant
    served = _servegen(story.trace, story.every, 0, quiet)
    origin = _origin(story, served.name, beside) | {"days": series.DAYS, "synthetic": True}
    return served, held, origin


def _servegen(trace: str, every: int, seed: int, quiet: bool) -> RequestTrace:
    """Arrivals of `servegen:WORKLOAD` at one of `every` replicas, within the context."""
    workload = trace.removeprefix(names.DRAWN)
    whole = servegen.arrivals(workload, days=series.DAYS, share=1 / every, seed=seed, quiet=quiet)
    fits = whole.prompt_tokens + whole.output_tokens <= CONTEXT_TOKENS
    return RequestTrace(
        f"{whole.name} within {CONTEXT_TOKENS} tokens",
        whole.arrival_s[fits],
        whole.prompt_tokens[fits],
        whole.output_tokens[fits],
    )


def _origin(story: Scenario, served: str, tenant: str | None) -> dict[str, Any]:
    if story.trace.startswith(names.DRAWN):
        raw = list(names.DRAWN_FROM)
    else:
        raw = [story.trace] + ([story.tenant.trace] if isinstance(story.tenant, Tenant) else [])
    return {
        "served": served,
        "tenant": tenant,
        "pool_tokens": story.pool_tokens,
        "sources": dict(map(_credit, raw)),
    }


def _credit(name: str) -> tuple[str, dict[str, str]]:
    """A trace's name and what is said of it; of a file of the user's its content alone."""
    if names.is_path(name):
        # No path: the same content gives the same series, wherever it lies.
        return Path(name).name, {"sha256": names.sha256(name)}
    source = sources.source_of(name)
    return source.name, {
        "sha256": source.sha256,
        "licence": source.licence,
        "attribution": source.attribution,
    }


def build(story: Scenario) -> Series:
    """The series of any scenario, from raw traces, files of the user's or statistics."""
    if story.is_drawn:
        return drawn(story)
    if isinstance(story.tenant, Recorded):
        return beside_memory(story)
    if story.tenant is not None and story.tenant.trace == names.RECORDED_POOL:
        return recorded(story)
    return paired(story)
