"""Recorded runs of a serving engine beside their simulation, each under the profile that is shipped of it.

`python -m rapgym.studies.fidelity` writes `baselines/results/fidelity.json`; it needs `RAPGYM_DATA`. A
profile is made by `rapgym profile fit RUN --served llama3-8b --shared shared_prefix_llama.json`.
"""

import json
import os
from pathlib import Path

from rapgym.errors import DataUnavailable
from rapgym.files import places, writing
from rapgym.serving import fidelity, profile, recorded, validation

OUT = places.RESULTS / "fidelity.json"
SERVED = "llama3-8b"
SHARED = "shared_prefix_llama.json"


def main() -> None:
    """Replay every run that has a profile."""
    data = os.environ.get("RAPGYM_DATA")
    if data is None:
        raise DataUnavailable("recorded runs are read from the folder that RAPGYM_DATA names")
    folder, found = Path(data) / "serving", []
    for path in sorted((places.PROFILES / "serving").glob("*.json")):
        run = recorded.read(folder / path.name.removesuffix(".json"), folder / SHARED)
        used = fidelity.ruled(profile.read(path), run)
        found.append(validation.compared(run, used, validation.shape(SERVED)))
    with writing.written_aside(OUT) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())


if __name__ == "__main__":
    main()
