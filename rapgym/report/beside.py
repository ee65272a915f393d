"""What lies beside a results file: studies of the same folder, read as they were written or not at all."""

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rapgym.errors import RapgymError
from rapgym.report.page import Section

MOST_BYTES = 50_000_000
# Studies that a report shows, and what makes each.
MADE_BY = {
    "quality.json": "python -m rapgym.studies.quality",
    "sensitivity.json": "python -m rapgym.studies.sensitivity",
    "fidelity.json": "python -m rapgym.studies.fidelity",
    "serving.json": "python -m rapgym.studies.serving",
}


def read(folder: Path, name: str) -> Any:
    """The JSON of a study; None where the folder has none.

    Raises:
        ValueError: it cannot be read; the message says why.
    """
    path = folder / name
    if not path.is_file():
        return None
    if path.stat().st_size > MOST_BYTES:
        raise ValueError(f"it is larger than {MOST_BYTES / 1e6:g} MB")
    try:
        found = json.loads(path.read_text("utf-8"))
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"it is no JSON: {error}") from error
    if not found:
        raise ValueError("it holds nothing")
    return found


def section(
    folder: Path, name: str, anchor: str, title: str, make: Callable[[Any], Section]
) -> Section | None:
    """The section of a study; None where there is none, a plain word where it cannot be shown.

    Args:
        make: gives the section of what the study's file holds.
    """
    try:
        found = read(folder, name)
        return None if found is None else make(found)
    except (RapgymError, LookupError, ValueError, TypeError, AttributeError, ArithmeticError) as error:  # fmt: skip
        return Section(
            anchor,
            title,
            notes=[
                f"`{name}`, which lies beside the results, cannot be shown ({type(error).__name__}: {error}). "
                f"It is made again by `{MADE_BY[name]}`."
            ],
        )


def left_out(folder: Path) -> list[str]:
    """Which studies are not beside the results, in a sentence; nothing where all are."""
    missing = [name for name in MADE_BY if not (folder / name).is_file()]
    if not missing:
        return []
    told = "; ".join(f"`{name}` (`{MADE_BY[name]}`)" for name in missing)
    return [f"Studies that are not beside the results, so that nothing is shown of them: {told}."]
