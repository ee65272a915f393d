"""What stays of an FFN drop's damage in what was computed under it, as it was measured beside a table.

`rapgym measure MODEL --design history --out FILE` writes it; the file of a shipped table lies beside it.
"""

import json
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.errors import InvalidTable
from rapgym.files import incoming, json_text, limits, places, writing

SCHEMA = 1
SUFFIX = ".history.json"


@dataclass(frozen=True, slots=True)
class Share:
    """Nats of an answer's tokens above dense, after some blocks of a kind were dropped."""

    kind: str  # "attention" or "ffn"
    count: int  # blocks dropped, along the order of their kind
    throughout: float  # in context and answer
    context: float  # in the context alone
    answer: float  # in the answer alone
    share: float  # context over throughout
    share_se: float  # takes both errors as independent, hence too large


def path_of(table: str) -> Path:
    """Where the shares of a shipped table in bf16 lie, whether or not they were measured."""
    return places.TABLES / f"{table}{SUFFIX}"


def write(path: Path, shares: Sequence[Share], provenance: Mapping[str, Any]) -> None:
    """Write shares, complete or not at all."""
    rows = [
        {name: round(v, 6) if isinstance(v, float) else v for name, v in asdict(share).items()}
        for share in shares
    ]
    held = {"schema": SCHEMA, "shares": rows, "provenance": dict(provenance)}
    with writing.written_aside(path) as file:
        file.write((json.dumps(held, indent=1) + "\n").encode())


def read(path: Path) -> tuple[Share, ...]:
    """A file of `write`.

    Raises:
        InvalidTable: it cannot be read, or holds nothing of FFN blocks.
    """
    try:
        held = json_text.parsed(incoming.bounded(path, limits.PROFILE))
        if not isinstance(held, dict) or held.get("schema") != SCHEMA:
            raise ValueError("it is of another schema")
        shares = tuple(Share(**row) for row in held["shares"])
        for share in shares:
            numbers = share.throughout, share.context, share.answer, share.share, share.share_se
            fine = isinstance(share.count, int) and share.count >= 1
            if not fine or not all(np.isfinite(np.asarray(numbers, dtype=float))):
                raise ValueError("its numbers are no shares")
        if not any(share.kind == "ffn" for share in shares):
            raise ValueError("it holds nothing of FFN blocks")
    except (OSError, ValueError, TypeError, KeyError) as error:
        raise InvalidTable(f"{path} holds no measured shares that can be read: {error}") from error
    return shares


def ffn_share(shares: Sequence[Share]) -> tuple[float, ...]:
    """Share by FFN blocks dropped, from none on; between measured counts on a line, beyond them level."""
    measured = sorted((share.count, share.share) for share in shares if share.kind == "ffn")
    counts, found = zip(*measured, strict=True)
    line = np.interp(np.arange(counts[-1] + 1), counts, np.clip(found, 0, 1))
    return tuple(line.tolist())
