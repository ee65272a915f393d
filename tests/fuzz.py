"""The state machines of `rapgym.testing`, until a million decisions have kept every promise.

    make fuzz        up to twenty minutes; results/fuzz.json keeps what was tried

Each machine runs with one seed after the other, in turn, until the decisions that its invariants
have recounted add up. A broken promise stops the run: Hypothesis prints the shortest story that
breaks it, and the exit code is 1.
"""

import argparse
import importlib.metadata
import json
import logging
import sys
import time
import warnings
from collections.abc import Callable
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from device_machines import DeviceMachine, LiveMachine, one_thread
from hypothesis import HealthCheck, seed, settings
from hypothesis.stateful import run_state_machine_as_test

from rapgym.files import provenance, writing
from rapgym.testing import Tally, world_machine
from rapgym.testing.audit_machine import AuditMachine
from rapgym.testing.env_machines import EnvMachine, GuardMachine
from rapgym.testing.serve_machine import ServeMachine
from rapgym.testing.shield_machine import ShieldMachine
from rapgym.testing.world_machine import WorldMachine

ROOT = Path(__file__).resolve().parents[1]
OUT = ROOT / "baselines" / "results" / "fuzz.json"

DECISIONS, LONGEST_S = 1_000_000, 1200.0
STEPS = 15  # of an example, at most


class Shields(ShieldMachine):
    """The shield alone, many lanes at once."""

    lanes = 128


class Lanes(WorldMachine):
    """The simulator, many lanes at once."""

    lanes = 96
    rows_at_once = 6


class Environment(EnvMachine):
    """A single environment on a shipped scenario."""

    scenario = "chat"


class Vector(EnvMachine):
    """The native vector form."""

    scenario, lanes = "code-8bit", 16


class Guarded(GuardMachine):
    """A guarded policy, its watchdog and its operator."""

    scenario = "chat"


MACHINES: dict[type[Any], int] = {  # and how many examples one seed tries of each
    ShieldMachine: 20, Shields: 8, WorldMachine: 100, Lanes: 20, Environment: 40, Vector: 25,
    Guarded: 30, AuditMachine: 60, DeviceMachine: 80, LiveMachine: 8, ServeMachine: 40,
}  # fmt: skip
PROFILE = settings(
    stateful_step_count=STEPS, deadline=None, database=None, suppress_health_check=[*HealthCheck],
)  # fmt: skip


def run(decisions: int, longest_s: float, first_seed: int) -> dict[str, Any]:
    """Every machine in turn, seed after seed."""
    counts: dict[str, Callable[[], Tally]] = {
        m.__name__: world_machine.counted(m) for m in MACHINES
    }
    begin, number = time.monotonic(), first_seed

    def done() -> int:
        return sum(count().decisions for count in counts.values())

    while done() < decisions and time.monotonic() - begin < longest_s:
        for machine, examples in MACHINES.items():
            profile = settings(PROFILE, max_examples=examples)
            with one_thread():
                run_state_machine_as_test(seed(number)(machine), settings=profile)
        number += 1
        print(
            f"seed {number - 1}: {done():,} decisions, {time.monotonic() - begin:.0f} s", flush=True
        )
    return {
        "decisions": done(),
        "seconds": round(time.monotonic() - begin),
        "seeds": [first_seed, number - 1],
        "machines": {name: told(count()) for name, count in counts.items()},
    }


def told(tally: Tally) -> dict[str, Any]:
    """What one machine met."""
    return {"decisions": tally.decisions, "reasons": dict(sorted(tally.reasons.items())),
            "in_mid_row": tally.in_mid_row, "stalled": tally.stalled,
            "unmeasured": tally.unmeasured, "strict": tally.strict}  # fmt: skip


def main() -> int:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--decisions", type=int, default=DECISIONS)
    parser.add_argument(
        "--seconds", type=float, default=LONGEST_S, help="stop then, whatever is left"
    )
    parser.add_argument("--seed", type=int, default=0, help="the first")
    parser.add_argument("--out", type=Path, default=OUT, metavar="FILE")
    arguments = parser.parse_args()
    warnings.filterwarnings("ignore", "hostile")  # a hostile policy's
    logging.disable(logging.WARNING)  # of storage that fails
    found = run(arguments.decisions, arguments.seconds, arguments.seed)
    content = {
        "command": "make fuzz",
        **found,
        "enough": found["decisions"] >= arguments.decisions,
        "date": datetime.now(UTC).strftime("%Y-%m-%d"),
        "commit": provenance.commit(),
        "packages": {name: importlib.metadata.version(name) for name in ("numpy", "hypothesis")},
    }
    with writing.written_aside(arguments.out) as file:
        file.write((json.dumps(content, indent=1) + "\n").encode())
    print(f"{found['decisions']:,} decisions in {found['seconds']} s kept every promise")
    return 0 if content["enough"] else 1


if __name__ == "__main__":
    sys.exit(main())
