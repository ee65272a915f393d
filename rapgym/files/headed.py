"""The container of series and results: one gzip or xz file of a JSON header line and CSV lines.

Read without pickle, with a limit on size; the same content gives the same bytes.
"""

import gzip
import io
import json
import lzma
import zlib
from collections.abc import Iterable
from typing import Any

MAX_PACKED_BYTES = 64 << 20
MAX_BYTES = 512 << 20  # unpacked
XZ_MAGIC = b"\xfd7zXZ\0"
XZ_PRESET = 2  # a third smaller than gzip in as much time; more costs time and gains little
XZ_MEMORY_BYTES = 128 << 20  # that unpacking may take


def pack(header: dict[str, Any], lines: Iterable[str], *, xz: bool = False) -> bytes:
    """The bytes of a file with this header and these CSV lines, column names first.

    Args:
        xz: as xz, not as gzip.
    """
    text = "\n".join([described(header), *lines, ""])
    if xz:
        return lzma.compress(text.encode(), preset=XZ_PRESET)
    buffer = io.BytesIO()
    with gzip.GzipFile(filename="", fileobj=buffer, mode="wb", mtime=0) as file:
        file.write(text.encode())
    return buffer.getvalue()


def unpack(content: bytes, most_bytes: int = MAX_BYTES) -> tuple[dict[str, Any], list[str]]:
    """The header and the CSV lines of a file's bytes, which unpack to `most_bytes` at most.

    Raises:
        ValueError: it is damaged, too large, or something else; the message says which.
    """
    if len(content) > MAX_PACKED_BYTES:
        raise ValueError(f"it is larger than {MAX_PACKED_BYTES >> 20} MiB")
    is_xz = content.startswith(XZ_MAGIC)
    # 31: gzip, its checksum included.
    stream = lzma.LZMADecompressor(memlimit=XZ_MEMORY_BYTES) if is_xz else zlib.decompressobj(31)
    try:
        text = stream.decompress(content, most_bytes).decode()
    except (zlib.error, lzma.LZMAError, UnicodeDecodeError) as error:
        raise ValueError(f"it cannot be unpacked ({error})") from error
    if not stream.eof or stream.unused_data:
        raise ValueError("it is cut short, too large, or followed by something else")
    if not text.startswith("# ") or not text.endswith("\n"):
        raise ValueError("it has no header line, or its last line is cut short")
    first, *lines = text[2:-1].split("\n")
    header = header_of(first)
    if not lines:
        raise ValueError("nothing follows its header")
    return header, lines


def described(header: dict[str, Any]) -> str:
    """The first line of a file with this header."""
    return f"# {json.dumps(header, sort_keys=True, allow_nan=False)}"


def header_of(text: str) -> dict[str, Any]:
    """The header that a first line holds after its mark.

    Raises:
        ValueError: it is no JSON object.
    """
    try:
        header = json.loads(text, parse_constant=_refused)
    except RecursionError:
        raise ValueError("its header is nested too deeply") from None
    if not isinstance(header, dict):
        raise ValueError("its header is no JSON object")
    return header


def _refused(constant: str) -> Any:
    raise ValueError(f"{constant} in its header")
