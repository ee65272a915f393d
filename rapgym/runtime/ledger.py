"""Finished measurements on disk, one JSON line each: what makes a long measurement resumable."""

import json
import os
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any, Self

from rapgym import datafiles
from rapgym.errors import InvalidTable


@dataclass(frozen=True, slots=True)
class Measurement:
    """One kept set on one sample. Differences are from dense on the same tokens."""

    sample: str
    design: str  # what it was first measured for
    key: str
    domains: tuple[str, ...]
    tokens: tuple[int, ...]  # predicted tokens of each domain
    nll: tuple[float, ...]  # mean difference from dense, nats a token, of each domain
    nll_se: tuple[float, ...]  # standard error of that mean
    kl: tuple[float, ...] | None
    top1: tuple[float, ...] | None
    sequences: tuple[float, ...]  # mean nll difference of each sequence, domain by domain
    blocks_run: int  # blocks computed, after sharing prefixes, over all sequences' batches
    seconds: float

    @property
    def mean_nll(self) -> float:
        """Mean over domains, each counting the same."""
        return sum(self.nll) / len(self.nll)


class Ledger:
    """Append-only file of measurements; a line that was cut short by a kill is dropped."""

    def __init__(self, path: Path, origin: dict[str, Any]) -> None:
        """Open or start the file.

        Args:
            origin: model, texts, dtype, ...: measurements of another origin are refused.

        Raises:
            InvalidTable: the file holds measurements of another origin, or is damaged.
        """
        self.path, self.found = path, {}
        # A kill while the first line was written left nothing worth keeping.
        if path.exists() and b"\n" in path.read_bytes():
            self._read(origin)
        else:
            with datafiles.written_aside(path) as file:
                file.write(f"{json.dumps(origin, sort_keys=True)}\n".encode())
        self._file = path.open("a")

    found: dict[tuple[str, str], Measurement]

    def _read(self, origin: dict[str, Any]) -> None:
        whole, _, cut = self.path.read_bytes().rpartition(b"\n")
        lines = whole.decode().split("\n")
        try:
            recorded = json.loads(lines[0]) if lines[0] else None
            rows = [json.loads(line) for line in lines[1:]]
            for row in rows:
                as_tuples: dict[str, Any] = {
                    k: tuple(v) if isinstance(v, list) else v for k, v in row.items()
                }
                measurement = Measurement(**as_tuples)
                self.found[measurement.sample, measurement.key] = measurement
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidTable(f"{self.path} is damaged ({error}); move it away") from error
        if recorded != json.loads(json.dumps(origin)):
            differing = sorted(k for k in origin if (recorded or {}).get(k) != origin[k])
            raise InvalidTable(
                f"{self.path} holds measurements of another origin ({', '.join(differing)} "
                "differ); name another file with --work or move it away"
            )
        if cut:
            with self.path.open("r+b") as file:
                file.truncate(len(whole) + 1)

    def add(self, measurement: Measurement) -> None:
        """Keep one measurement; it survives a kill of this process once this returns."""
        self._file.write(json.dumps(asdict(measurement)) + "\n")
        self._file.flush()
        self.found[measurement.sample, measurement.key] = measurement

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()
