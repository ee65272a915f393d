"""Make the committed series of scenarios from raw traces: the command behind `traces/`."""

import math

from rapgym import series, servegen, sources
from rapgym.errors import InvalidTrace
from rapgym.loaders import load_requests
from rapgym.scenario import Scenario
from rapgym.series import Series
from rapgym.trace import RequestTrace

SERVEGEN = "servegen:"  # how the trace of a synthetic workload begins
SERVEGEN_DAYS = 4  # from the first day on: 2.8 train days, and the last one as test
CONTEXT_TOKENS = 8192  # of Llama-3-8B, which both services of the synthetic scenario serve


def paired(story: Scenario) -> Series:
    """The series of a scenario whose traces are of the same hour, paired by wall clock.

    Only what both cover is kept; requests before that still queue at the tenant.

    Raises:
        DataUnavailable: a raw trace is not on this machine.
        InvalidTrace: a trace has no wall clock to pair by, or they do not overlap.
    """
    served = load_requests(story.trace).every(story.every)
    tenant, offset_s = None, 0.0
    start_s, stop_s = 0.0, float(served.arrival_s[-1])
    if story.tenant is not None:
        tenant = load_requests(story.tenant.trace).every(story.tenant.every)
        offset_s = served.start_wall_s - tenant.start_wall_s
        if math.isnan(offset_s):
            raise InvalidTrace(f"{story.trace} and {story.tenant.trace} share no wall clock")
        start_s = max(start_s, -offset_s)
        stop_s = min(stop_s, float(tenant.arrival_s[-1]) - offset_s)
        if stop_s <= start_s:
            raise InvalidTrace(f"{story.trace} and {story.tenant.trace} do not overlap in time")
    return series.build(
        served,
        tenant,
        window=story.window_s,
        pool_tokens=story.tenant.pool_tokens if story.tenant else 0,
        offset_s=offset_s,
        start_s=start_s,
        stop_s=stop_s,
        origin=_origin(story, served, tenant),
    )


def drawn(story: Scenario) -> Series:
    """The series of a synthetic scenario: arrivals drawn from ServeGen's measured statistics.

    Both services share one simulated clock. Each request reaches one of `every` replicas at random;
    requests that exceed the model's context are turned away, as a server would.

    Raises:
        DataUnavailable: ServeGen's statistics are not on this machine.
    """
    assert story.tenant is not None
    served = _servegen(story.trace, story.every, seed=0)
    tenant = _servegen(story.tenant.trace, story.tenant.every, seed=1)
    return series.build(
        served,
        tenant,
        window=story.window_s,
        pool_tokens=story.tenant.pool_tokens,
        offset_s=0.0,
        start_s=0.0,
        stop_s=SERVEGEN_DAYS * 86400.0,
        origin=_origin(story, served, tenant) | {"days": SERVEGEN_DAYS, "synthetic": True},
    )


def _servegen(trace: str, every: int, seed: int) -> RequestTrace:
    """Arrivals of `servegen:WORKLOAD` at one of `every` replicas, within the context."""
    workload = trace.removeprefix(SERVEGEN)
    whole = servegen.arrivals(workload, days=SERVEGEN_DAYS, share=1 / every, seed=seed)
    fits = whole.prompt_tokens + whole.output_tokens <= CONTEXT_TOKENS
    return RequestTrace(
        f"{whole.name} within {CONTEXT_TOKENS} tokens",
        whole.arrival_s[fits],
        whole.prompt_tokens[fits],
        whole.output_tokens[fits],
    )


def _origin(
    story: Scenario, served: RequestTrace, tenant: RequestTrace | None
) -> dict[str, object]:
    if story.trace.startswith(SERVEGEN):
        names = ["servegen-clients", "servegen-lengths"]
    else:
        names = [story.trace] + ([story.tenant.trace] if story.tenant else [])
    found = [sources.source_of(name) for name in names]
    return {
        "served": served.name,
        "tenant": tenant.name if tenant else None,
        "pool_tokens": story.tenant.pool_tokens if story.tenant else 0,
        "sources": {
            source.name: {
                "sha256": source.sha256,
                "licence": source.licence,
                "attribution": source.attribution,
            }
            for source in found
        },
    }


def build(story: Scenario) -> Series:
    """The series of any scenario of the list, from raw traces or statistics."""
    return drawn(story) if story.trace.startswith(SERVEGEN) else paired(story)
