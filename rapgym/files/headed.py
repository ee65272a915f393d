"""The container of series and results: one gzip or xz file of a JSON header line and CSV lines.

Read without pickle, with a limit on size; the same content gives the same bytes.
"""

import gzip
import io
import json
import lzma
from collections.abc import Iterable, Iterator
from itertools import chain
from typing import Any

from rapgym.files import incoming, json_text, limits

XZ_PRESET = 2  # a third smaller than gzip in as much time; more costs time and gains little
# Where many rows stand, one policy's are like another's tens of megabytes before: 22 % smaller in four times the time.
XZ_LONG = {"id": lzma.FILTER_LZMA2, "preset": 4, "dict_size": 64 * limits.MIB}
LONG = 256 * limits.MIB


def pack(
    header: dict[str, Any], lines: Iterable[str], *, xz: bool = False, level: int = 9
) -> bytes:
    """The bytes of a file with this header and these CSV lines, column names first.

    Args:
        xz: as xz, not as gzip.
        level: of gzip; 1 packs several times as quickly as 9, and a third larger.
    """
    text = "\n".join([described(header), *lines, ""])
    if xz:
        content = text.encode()
        if len(content) >= LONG:
            return lzma.compress(content, filters=[XZ_LONG])
        return lzma.compress(content, preset=XZ_PRESET)
    buffer = io.BytesIO()
    with gzip.GzipFile(
        filename="", fileobj=buffer, mode="wb", compresslevel=level, mtime=0
    ) as file:
        file.write(text.encode())
    return buffer.getvalue()


def unpack(
    content: bytes, most_bytes: int = limits.RESULTS, most_lines: int = limits.RESULT_ROWS
) -> tuple[dict[str, Any], list[str]]:
    """The header and the CSV lines of a file's bytes, column names first.

    Args:
        most_bytes, most_lines: that it unpacks to.

    Raises:
        ValueError: it is damaged, too large, or something else; the message says which.
    """
    header, batches = opened(content, most_bytes)
    found: list[str] = []
    for batch in incoming.lines(batches, limits.CSV_ROW, ended=True):
        found += batch
        if len(found) > most_lines:
            raise ValueError(f"it is too large: it holds more than {most_lines} lines")
    if not found:
        raise ValueError("nothing follows its header")
    return header, found


def opened(content: bytes, most_bytes: int) -> tuple[dict[str, Any], Iterator[bytes]]:
    """The header of a file's bytes, and what follows it, piece by piece as it is unpacked.

    Raises:
        ValueError: as `unpack`, here or while pieces are read.
    """
    if len(content) > limits.PACKED:
        raise ValueError(f"it is larger than {incoming.size(limits.PACKED)}")
    kind: incoming.Packing = "xz" if content.startswith(incoming.XZ_MAGIC) else "gzip"
    pieces = incoming.unpacked(io.BytesIO(content), kind, most_bytes, one=True)
    first, newline = b"", b""
    for piece in pieces:
        head, newline, rest = piece.partition(b"\n")
        first += head
        if not first.startswith(b"# "[: len(first)]) or len(first) > limits.HEADER:
            break
        if newline:
            return header_of(first[2:]), chain([rest] if rest else [], pieces)
    raise ValueError(
        "it has no header line, or one too large"
        if first
        else "it is empty, or cut short: it has no header line"
    )


def described(header: dict[str, Any]) -> str:
    """The first line of a file with this header."""
    return f"# {json.dumps(header, sort_keys=True, allow_nan=False)}"


def header_of(text: bytes) -> dict[str, Any]:
    """The header that a first line holds after its mark.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        header = json_text.parsed(text)
    except ValueError as error:
        raise ValueError(f"its header cannot be read: {error}") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header
