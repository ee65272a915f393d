"""A serving world small enough to play in seconds: the toy model, behind a queue, beside its twin."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import toy_world

from rapgym.scenarios.serving import Assumed, ServeScenario
from rapgym.scenarios.story import GIB, Scenario, Tenant
from rapgym.serving.cost import Deadlines
from rapgym.workload import trace
from rapgym.workload.trace import RequestTrace

SECONDS = 2400
# With five sequences in flight a step takes about a tenth of a second.
PROFILE = Assumed(
    base_s=0.03, weight_bytes_per_s=6000.0, tokens_per_s=400.0, kv_bytes_per_s=40_000.0, pair_s=0.0001,
    step_tokens=24, max_sequences=6, page_tokens=4,
)  # fmt: skip
DEADLINES = Deadlines(ttft_s=1.0, ttft_token_s=0.01, tpot_s=0.2, late_s=3.0)


def requests(name: str, seed: int, rate: float, seconds: int = SECONDS) -> RequestTrace:
    """Bursts of requests of up to 20 tokens."""
    rng = np.random.default_rng(seed)
    gaps = rng.exponential(1 / rate, int(seconds * rate)) * rng.choice(
        [0.2, 1.8], int(seconds * rate)
    )
    arrival_s = np.append(np.cumsum(gaps)[np.cumsum(gaps) < seconds], seconds + 0.5)
    prompt, output = rng.integers(1, 20, (2, len(arrival_s)))
    return RequestTrace(name, arrival_s, prompt, output, start_wall_s=1000.0)


def base(folder: Path) -> Scenario:
    """The toy scenario on a larger card, whose traces lie in `folder`."""
    served, tenant = folder / "served.csv", folder / "tenant.csv"
    if not served.is_file():
        trace.write_requests(requests("served", 1, 1.6), served)
        trace.write_requests(requests("tenant", 2, 1.0), tenant)
    # The limit moves between 320 and 800 bytes, the full model takes 400 and 12 a token.
    return replace(
        toy_world.STORY,
        card_gib=1200 / GIB,
        trace=str(served),
        tenant=Tenant("toy", str(tenant), every=1, pool_gib=480 / GIB),
        reaction_s=0.1,
    )


def story(folder: Path, **changes: Any) -> ServeScenario:
    """The toy serving scenario."""
    made = ServeScenario(
        "toy-serve", "A toy replica.", base(folder), PROFILE, shed_s=1.5, deadlines=DEADLINES,
        history_share=(1.0, 0.5, 0.25),
    )  # fmt: skip
    return replace(made, **changes)
