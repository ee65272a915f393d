"""Make the committed series of scenarios from raw traces: the command behind `traces/`."""

import math

from rapgym import series, sources
from rapgym.errors import InvalidTrace
from rapgym.loaders import load_requests
from rapgym.scenario import SCENARIOS, Scenario
from rapgym.series import Series
from rapgym.trace import RequestTrace


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


def _origin(story: Scenario, served: RequestTrace, tenant: RequestTrace | None) -> dict[str, object]:
    names = [story.trace] + ([story.tenant.trace] if story.tenant else [])
    return {
        "served": served.name,
        "tenant": tenant.name if tenant else None,
        "pool_tokens": story.tenant.pool_tokens if story.tenant else 0,
        "sources": {
            name: {
                "sha256": sources.source_of(name).sha256,
                "licence": sources.source_of(name).licence,
                "attribution": sources.source_of(name).attribution,
            }
            for name in names
        },
    }


def build(story: Scenario) -> Series:
    """The series of any scenario of the list."""
    return paired(story)


def stories_of(workload: str) -> list[Scenario]:
    """Scenarios that share a series."""
    return [story for story in SCENARIOS if story.workload == workload]
