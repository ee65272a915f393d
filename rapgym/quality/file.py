"""Quality tables on disk: one gzip file of a JSON header line and CSV rows, read without pickle.

    # {"schema": 1, "model": "smollm2-135m", "blocks": 60, "domains": ["books", ...], ...}
    key,sample,design,nll_p95,books_tokens,books_nll,books_nll_se,books_kl,books_top1,specs_tokens,...
    fffffffffffffdf,calib,single,0.194,1022,0.1,0.019,0.09,0.88,...

A row is one kept set on one sample of text; an empty cell was not measured. The same table gives
the same bytes, so a table is addressed by its name and the sha256 of its file.
"""

import hashlib
import math
import re
from dataclasses import asdict, dataclass
from pathlib import Path

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray
from rapgym.errors import DataUnavailable, InvalidTable
from rapgym.files import columns as csv_columns
from rapgym.files import headed, incoming, limits, writing
from rapgym.model import blocks
from rapgym.quality.header import (
    LARGEST,
    SCHEMA,
    Header,
    header_of,
    plain_name,
)

SUFFIX = ".csv.gz"

PER_ROW = ("key", "sample", "design", "nll_p95")
PER_DOMAIN = ("tokens", "nll", "nll_se", "kl", "top1")


@dataclass(frozen=True, slots=True, eq=False)
class Rows:
    """Columns of R rows over D domains; differences are from dense on the same tokens."""

    kept: BoolArray  # [R, N]
    sample: tuple[str, ...]
    design: tuple[str, ...]  # what the row was first measured for
    nll_p95: FloatArray  # 95th percentile of the sequences' mean nll differences, [R]
    tokens: IntArray  # [R, D]
    nll: FloatArray  # mean difference, nats a token, [R, D]
    nll_se: FloatArray  # standard error of that mean, [R, D]
    kl: FloatArray  # divergence from dense, nats a token; NaN where not measured, [R, D]
    top1: FloatArray  # share of tokens whose most probable next token is dense's; NaN likewise

    def __len__(self) -> int:
        return len(self.sample)


@dataclass(frozen=True, slots=True)
class TableFile:
    """One table as it stands in its file."""

    header: Header
    rows: Rows
    sha256: str  # of the file


def packed(header: Header, rows: Rows) -> bytes:
    """The bytes of a table's file; the same for the same table.

    Raises:
        InvalidTable: header and rows contradict each other.
    """
    columns = [*PER_ROW, *(f"{d}_{name}" for d in header.domains for name in PER_DOMAIN)]
    lines = [",".join(columns)]
    for r in range(len(rows)):
        cells = [blocks.key(rows.kept[r]), rows.sample[r], rows.design[r], _cell(rows.nll_p95[r])]
        for d in range(len(header.domains)):
            cells.append(str(rows.tokens[r, d]))
            cells += [_cell(column[r, d]) for column in (rows.nll, rows.nll_se, rows.kl, rows.top1)]
        lines.append(",".join(cells))
    content = headed.pack({"schema": SCHEMA, **asdict(header)}, lines)
    unpacked(content, "the new table")
    return content


def _cell(value: float) -> str:
    return "" if math.isnan(value) else f"{value:.6f}".rstrip("0").rstrip(".")


def write(path: Path, header: Header, rows: Rows) -> str:
    """Write a table's file, complete or not at all.

    Returns:
        Its sha256.
    """
    content = packed(header, rows)
    with writing.written_aside(path) as file:
        file.write(content)
    return hashlib.sha256(content).hexdigest()


def read(path: Path) -> TableFile:
    """Read a table's file.

    Raises:
        DataUnavailable: there is no such file.
        InvalidTable: it is damaged, or of a schema that this version does not know.
    """
    try:
        content = incoming.bounded(path, limits.TABLE)
    except (OSError, ValueError) as error:
        why = error.strerror if isinstance(error, OSError) else error
        raise DataUnavailable(
            f"no table at {str(path)!r} ({why}); `rapgym tables list` names those there are"
        ) from error
    return unpacked(content, str(path))


def unpacked(content: bytes, where: str) -> TableFile:
    """The table in the bytes of its file; `where` is named in errors.

    Raises:
        InvalidTable: whatever is wrong with them.
    """
    try:
        found, lines = headed.unpack(content, limits.TABLE, limits.TABLE_ROWS)
        header = header_of(found)
        rows = _rows(header, lines)
    except ValueError as error:  # InvalidTable and InvalidSpec are such
        raise InvalidTable(
            f"{where} is no quality table that this version reads: {error}; restore the file, "
            "or measure it again with `rapgym measure`"
        ) from error
    return TableFile(header, rows, hashlib.sha256(content).hexdigest())


def _rows(header: Header, lines: list[str]) -> Rows:
    columns = [*PER_ROW, *(f"{d}_{name}" for d in header.domains for name in PER_DOMAIN)]
    if not lines or lines[0] != ",".join(columns):
        raise InvalidTable("its columns are not the ones that its header implies")
    for number, line in enumerate(lines[1:], 3):
        if line.count(",") != len(columns) - 1:
            raise InvalidTable(f"line {number} has {line.count(',') + 1} cells of {len(columns)}")
    parts = [line.split(",", 3) for line in lines[1:]]
    keys, sample, design = (tuple(part[place] for part in parts) for place in range(3))
    for name in {*design}:
        plain_name(name, "design")
    if not {*sample} <= {each.name for each in header.samples}:
        raise InvalidTable("a row is of a sample that the header does not describe")
    if len({*zip(keys, sample, strict=True)}) != len(keys):
        raise InvalidTable("a kept set has two rows on one sample")
    digits = re.compile(f"[0-9a-f]{{{-(-header.blocks // 4)}}}")
    if not all(map(digits.fullmatch, keys)):
        raise InvalidTable(f"a key is not one of {header.blocks} blocks")
    try:
        numbers = csv_columns.floats([part[3] for part in parts], len(columns) - 3)
    except ValueError as error:
        raise InvalidTable(f"a cell holds what is no number ({error})") from None
    tokens, nll, nll_se, kl, top1 = (numbers[:, 1 + i :: len(PER_DOMAIN)] for i in range(5))
    sure = np.hstack([numbers[:, :1], tokens, nll, nll_se])
    maybe = np.hstack([kl, top1])
    if (
        not (np.abs(sure) <= LARGEST).all()
        or not (np.isnan(maybe) | (np.abs(maybe) <= LARGEST)).all()
    ):
        raise InvalidTable("a number is missing, or larger than any measurement")
    if (tokens < 1).any() or (tokens % 1 != 0).any() or (nll_se < 0).any():
        raise InvalidTable("a row without tokens, or with a negative error")
    return Rows(
        kept=blocks.kept_sets_of(keys, header.blocks),
        sample=sample,
        design=design,
        nll_p95=numbers[:, 0],
        tokens=tokens.astype(np.int64),
        nll=nll,
        nll_se=nll_se,
        kl=kl,
        top1=top1,
    )
