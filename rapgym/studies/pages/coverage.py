"""How often intervals hold where the truth is known, in two points of a list."""

from collections.abc import Sequence
from typing import Any

from rapgym.bench.pieces import LEAST_PIECES

Record = dict[str, Any]


def page(found: dict[str, Any]) -> str:
    """What a stretch says of its day, and what an interval of many pieces says."""
    return f"{_of_days(found['days'])}\n{_of_made(found['made'])}"


def _of_days(records: Sequence[Record]) -> str:
    seconds = [each["stretch_s"] for each in records]
    return (
        f"- **An hour is not its day.** On the package's own long series, the 95 % interval of {min(seconds) / 60:.0f} "
        f"minutes to {max(seconds) / 3600:.0f} hours covers the difference of the whole day in {_percent(records, 'coverage')} "
        "(`python -m rapgym.studies.coverage` makes `baselines/results/coverage.json`). What is said of less than "
        "six days is therefore conditional on these rows."
    )


def _of_made(records: Sequence[Record]) -> str:
    many = [each for each in records if each["pieces"] >= LEAST_PIECES]
    least = min(each["pieces"] for each in many)
    return (
        f"- **Few pieces.** Where pieces are alike and {least:.0f} or more, intervals cover the truth in "
        f"{_percent(many, 'coverage')} (the same file). *Better* or *worse* is said without any difference in "
        f"{_percent(many, 'false')}. A difference as large as the least effect is found in {_percent(many, 'found')}, "
        f"where 80 are meant. With fewer than {LEAST_PIECES} pieces, nothing is claimed."
    )


def _percent(records: Sequence[Record], name: str) -> str:
    shares = [100 * each[name] for each in records]
    return f"{min(shares):.0f} to {max(shares):.0f} %"
