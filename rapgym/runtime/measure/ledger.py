"""Finished measurements on disk, one JSON line each: what makes a long measurement resumable."""

import json
import os
from dataclasses import MISSING, asdict, dataclass, fields
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar, get_args

from rapgym.errors import InvalidTable
from rapgym.files import writing
from rapgym.files.closing import Closing
from rapgym.model.shapes import Format, KVFormat, WeightFormat

PLAIN = "bf16/bf16"


def form_name(form: Format) -> str:
    """`int4/int8`: weights, then KV cache, as ledgers call a format."""
    return f"{form.weights}/{form.kv}"


def form_of(name: str) -> Format:
    """The format that `form_name` gives this name."""
    weights, _, kv = name.partition("/")
    if weights not in get_args(WeightFormat) or kv not in get_args(KVFormat):
        raise InvalidTable(f"no format is called {name!r}")
    return Format(weights, kv)  # type: ignore[arg-type]


class Finding(Protocol):
    """A dataclass that a ledger keeps."""

    @property
    def place(self) -> tuple[str, ...]:
        """What it is a measurement of: a ledger answers with the last one of a place."""


Found = TypeVar("Found", bound=Finding)


@dataclass(frozen=True, slots=True)
class Measurement:
    """One kept set in one format on one sample.

    Differences are from dense on the same tokens: dense bf16, or, in a ledger whose origin names
    a format, dense in that format.
    """

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
    form: str = PLAIN  # weights/KV
    block_influence: tuple[float, ...] | None = None  # of each layer; of the dense model alone
    flop: int = 0  # floating-point operations of blocks and head, after sharing; 0: not recorded
    product_per_s: float = 0.0  # operations a second of a matrix product in the same run, likewise

    @property
    def mean_nll(self) -> float:
        """Mean over domains, each counting the same."""
        return sum(self.nll) / len(self.nll)

    @property
    def place(self) -> tuple[str, str, str]:
        """Sample, key, format."""
        return self.sample, self.key, self.form


class Ledger(Closing, Generic[Found]):
    """Append-only file of findings; a line that was cut short by a kill is dropped."""

    def __init__(self, path: Path, origin: dict[str, Any], kind: type[Found]) -> None:
        """Open or start the file.

        Args:
            origin: model, texts, dtype, ...: measurements of another origin are refused.
            kind: the dataclass of its lines.

        Raises:
            InvalidTable: the file holds measurements of another origin, or is damaged.
        """
        self.origin = origin
        self.path, self.kind = path, kind
        self.found: dict[tuple[str, ...], Found] = {}
        # A kill while the first line was written left nothing worth keeping.
        if _has_a_line(path):
            self._read(origin)
        else:
            with writing.written_aside(path) as file:
                file.write(f"{json.dumps(origin, sort_keys=True)}\n".encode())
        with writing.naming(path):
            self._file = path.open("a")

    def _read(self, origin: dict[str, Any]) -> None:
        recorded, whole_bytes, cut = None, 0, False
        try:
            with self.path.open("rb") as file:  # a line at a time: it may hold a million
                for number, line in enumerate(file):
                    if not line.endswith(b"\n"):
                        cut = True
                        break
                    whole_bytes += len(line)
                    if number == 0:
                        recorded = json.loads(line) if line.strip() else None
                        continue
                    finding = self._finding(json.loads(line))
                    self.found[finding.place] = finding
        except (ValueError, TypeError, AttributeError) as error:
            raise InvalidTable(f"{self.path} is damaged ({error}); move it away") from error
        if recorded != json.loads(json.dumps(origin)):
            old = recorded or {}
            differing = sorted(k for k in {*origin, *old} if old.get(k) != origin.get(k))
            raise InvalidTable(
                f"{self.path} holds measurements of another origin ({', '.join(differing)} "
                "differ); name another file with --work or move it away"
            )
        if cut:
            with self.path.open("r+b") as file:
                file.truncate(whole_bytes)

    def _finding(self, row: dict[str, Any]) -> Found:
        return self.kind(**{k: tuple(v) if isinstance(v, list) else v for k, v in row.items()})

    def add(self, finding: Found) -> None:
        """Keep one finding; it survives a kill of this process once this returns."""
        with writing.naming(self.path):
            self._file.write(json.dumps(_stated(finding)) + "\n")
            self._file.flush()
        self.found[finding.place] = finding

    def close(self) -> None:
        self._file.flush()
        os.fsync(self._file.fileno())
        self._file.close()


def _has_a_line(path: Path) -> bool:
    if not path.exists():
        return False
    with path.open("rb") as file:
        return file.readline().endswith(b"\n")


def _stated(finding: Any) -> dict[str, Any]:
    """Its fields, less those that hold their default: lines stay as old versions wrote them."""
    default = {f.name: f.default for f in fields(finding) if f.default is not MISSING}
    return {k: v for k, v in asdict(finding).items() if k not in default or v != default[k]}
