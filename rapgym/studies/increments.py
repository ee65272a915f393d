"""Fits of importance to the tables that came with rapgym, which it keeps.

    OMP_NUM_THREADS=1 python -m rapgym.studies.increments [--check]

Run it after a table or the fit has changed. `--check` compares what is kept with fits made here, of which
another processor may make the last bits otherwise.
"""

import argparse

import numpy as np

from rapgym.files import writing
from rapgym.quality import increments
from rapgym.scenarios import catalogue, tables

CLOSE = 1e-8  # relative


def made() -> np.ndarray:
    """A row for each way in which scenarios read the shipped tables, [K]."""
    rows: dict[bytes, np.ndarray] = {}
    for story in catalogue.shipped():
        sets = tables.told(story).fitted_sets()[0]
        key = increments.digest(sets)
        if key not in rows:
            rows[key] = increments.record(sets)
    return np.concatenate([*rows.values()])


def missing() -> list[str]:
    """What of `made` is not kept, or is kept otherwise."""
    kept = {bytes(row["sets"]): row for row in np.load(increments.STORED)}
    wrong = []
    for row in made():
        found, name = kept.pop(bytes(row["sets"]), None), bytes(row["sets"]).hex()[:12]
        if found is None:
            wrong.append(f"{name} is not kept")
        elif not all(np.allclose(found[part], row[part], CLOSE, 0) for part in ("block", "pair")):
            wrong.append(f"{name} is kept otherwise")
    return wrong + [f"{name.hex()[:12]} is kept and of no scenario" for name in kept]


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--check", action="store_true")
    if not parser.parse_args().check:
        with writing.written_aside(increments.STORED) as file:
            np.save(file, made())
    elif wrong := missing():
        raise SystemExit("; ".join([*wrong, "run: python -m rapgym.studies.increments"]))


if __name__ == "__main__":
    main()
