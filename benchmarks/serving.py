"""What a step of the compiled serving engine takes: the recorded runs that have a profile, replayed.

    python benchmarks/serving.py        needs RAPGYM_DATA; prints the least CPU time of several replays

The first replay compiles, and is not counted.
"""

import os
import time
from pathlib import Path

from rapgym.files import places
from rapgym.serving import fidelity, profile, recorded, validation
from rapgym.studies.fidelity import SERVED, SHARED

REPLAYS = 7


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


if __name__ == "__main__":
    main()
