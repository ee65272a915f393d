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
LANES, WARM_S, TIMED_S = 64, 60, 120


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
        print(
            f"{run.name}: {1e6 * least_s / found.steps:.0f} us a step, "
            f"{1e6 * least_s / span_s:.0f} us a served second ({found.steps} steps, {span_s:.0f} s)"
        )
    for name in SCENARIOS:
        print(served(name))


def served(scenario: str) -> str:
    """What a served second of one lane takes among many, from Python."""
    envs = gymnasium.make_vec("RAP-Serve-v0", LANES, scenario=scenario)
    envs.reset(seed=0)
    drop = np.tile([0, 0, DROP], (LANES, 1))
    for _ in range(WARM_S):
        envs.step(drop)
    steps = running = 0
    begun_s = time.process_time()
    for _ in range(TIMED_S):
        info = envs.step(drop)[4]
        steps, running = steps + info["steps"].sum(), running + info["running"].sum()
    spent_s, seconds = time.process_time() - begun_s, LANES * TIMED_S
    return (
        f"{scenario}, {LANES} lanes: {seconds / spent_s:.0f} served seconds a CPU second, "
        f"{1e6 * spent_s / seconds:.0f} us each ({steps / seconds:.0f} steps, {running / seconds:.0f} "
        "sequences)"
    )


if __name__ == "__main__":
    main()
