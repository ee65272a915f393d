"""What a step of the compiled serving engine takes, and a second of the environment's vector form.

    python benchmarks/serving.py        needs RAPGYM_DATA; prints the least CPU time of several replays

Replayed are the recorded runs that have a profile; the vector form keeps all blocks until memory falls.
What compiles is not counted.
"""

import os
import time
from pathlib import Path

import gymnasium
import numpy as np

import rapgym  # noqa: F401  # its ids
from rapgym.files import places
from rapgym.serving import fidelity, profile, recorded, validation
from rapgym.serving.engine import DROP
from rapgym.studies.fidelity import SERVED, SHARED

REPLAYS = 7
SCENARIOS = ("serve-chat-bursty", "serve-chat-gqa")
LANES, WARM_S, TIMED_S = (64, 256), 60, 120


def main() -> None:
    folder, where = Path(os.environ["RAPGYM_DATA"]) / "serving", validation.shape(SERVED)
    for path in sorted((places.PROFILES / "serving").glob("*.json")):
        run = recorded.read(folder / path.name.removesuffix(".json"), folder / SHARED)
        used, spent_s = fidelity.ruled(profile.read(path), run), []
        for _ in range(1 + REPLAYS):
            begun_s = time.process_time()
            found = fidelity.replayed(run, used, where)
            spent_s.append(time.process_time() - begun_s)
        least_s, span_s = min(spent_s[1:]), float(found.last_s.max())
        tokens = int(run.requests.output_tokens.sum())
        print(
            f"{run.name}: {1e6 * least_s / found.steps:.1f} us a step, "
            f"{1e9 * least_s / tokens:.0f} ns an output token, "
            f"{1e6 * least_s / span_s:.0f} us a served second ({found.steps} steps in {span_s:.0f} s, "
            f"{tokens / found.steps:.0f} sequences in each)"
        )
    for name in SCENARIOS:
        for lanes in LANES:
            print(served(name, lanes))


def served(scenario: str, lanes: int) -> str:
    """What a served second of one lane takes among many, from Python."""
    envs = gymnasium.make_vec("RAP-Serve-v0", lanes, scenario=scenario)
    envs.reset(seed=0)
    drop = np.tile([0, 0, DROP], (lanes, 1))
    for _ in range(WARM_S):
        envs.step(drop)
    steps = tokens = 0
    begun_s = time.process_time()
    for _ in range(TIMED_S):
        info = envs.step(drop)[4]
        steps, tokens = steps + int(info["steps"].sum()), tokens + int(info["tokens"].sum())
    spent_s, seconds = time.process_time() - begun_s, lanes * TIMED_S
    return (
        f"{scenario}, {lanes} lanes: {seconds / spent_s:.0f} served seconds a CPU second, "
        f"{1e6 * spent_s / seconds:.0f} us each: {1e6 * spent_s / steps:.2f} us a step, "
        f"{1e9 * spent_s / tokens:.0f} ns an output token ({steps / seconds:.0f} steps, "
        f"{tokens / steps:.0f} sequences in each)"
    )


if __name__ == "__main__":
    main()
