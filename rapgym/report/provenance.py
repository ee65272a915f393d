"""Where a bench's numbers come from, and the commands that make them and this report again."""

import json
import shlex
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapgym.bench.results import Results
from rapgym.report.bench import LEGEND
from rapgym.report.page import Section, Table

LONGEST_LIST = 12  # names of a command that stand on the page


def provenance_section(
    found: Results, path: Path, sha256: str | None, notes: Sequence[str] = ()
) -> Section:
    """The last section of a bench's report.

    Args:
        sha256: of the results file; None where it is not on disk.
        notes: what is not in the report, and why.
    """
    header = found.header
    names = (
        "rapgym",
        "commit",
        "date",
        "code_sha256",
        "numpy",
        "packages",
        "seeds",
        "tables",
        "workloads",
    )
    rows = [[name, _told(header[name])] for name in names if name in header]
    rows = [["results file", str(path)], ["sha256 of it", sha256 or "-"], *rows]
    return Section(
        "provenance",
        "Where this comes from, and how to make it again",
        paragraphs=[
            "`rapgym verify` serves every row of the file again from its proposals and computes every score again."
        ],
        notes=notes,
        tables=[
            Table("Provenance", ["what", "value"], rows),
            Table("How to read the tables", ["line"], [[line] for line in LEGEND.splitlines()]),
        ],
        commands=commands(header, path),
    )


def commands(header: dict[str, Any], path: Path) -> list[str]:
    """What runs the bench again, checks the file, and writes this report again."""
    scenarios = [f"--scenario {shlex.quote(name)}" for name in header.get("scenarios", {})]
    policies = [f"--policy {shlex.quote(name)}" for name in header.get("names", [])]
    seeds = header.get("seeds") or [0]
    few = [
        *(scenarios if len(scenarios) <= LONGEST_LIST else []),
        *(policies if len(policies) <= LONGEST_LIST else []),
    ]
    if isinstance(seeds, list) and len(seeds) > 1:
        few.append(f"--seeds {len(seeds)}")
    file = shlex.quote(str(path))
    return [
        " ".join(["rapgym bench", *few, "--out again.csv.gz"]),
        f"rapgym verify {file}",
        f"rapgym report {file}",
    ]


def _told(value: Any) -> str:
    if isinstance(value, str):
        return value
    if isinstance(value, dict):
        return ", ".join(f"{name} {each}" for name, each in value.items())
    return json.dumps(value)
