"""Bytes that came from elsewhere: of plain files alone, in pieces, never more than a limit.

What a file says of its own size is not believed: what is really read and unpacked is counted.
"""

import bz2
import codecs
import errno
import importlib
import lzma
import os
import stat
import sys
import zlib
from collections.abc import Iterator
from contextlib import contextmanager
from io import BufferedReader
from itertools import chain
from pathlib import Path
from typing import IO, Any, Literal

from rapgym.errors import MissingExtra
from rapgym.files import limits

Packing = Literal["", "gzip", "xz", "bz2", "zstd"]
GZIP_MAGIC, XZ_MAGIC = b"\x1f\x8b", b"\xfd7zXZ\0"
BZ2_MAGIC, ZSTD_MAGIC = b"BZh", b"\x28\xb5\x2f\xfd"
_MAGIC: dict[Packing, bytes] = {
    "gzip": GZIP_MAGIC, "xz": XZ_MAGIC, "bz2": BZ2_MAGIC, "zstd": ZSTD_MAGIC}  # fmt: skip
_READ = 64 << 10  # packed bytes at a time


@contextmanager
def opened(path: Path) -> Iterator[BufferedReader]:
    """A plain file, open to read; of a pipe or a device nothing is awaited.

    Raises:
        OSError: it is not there, is something else, or cannot be read.
        ValueError: its name holds a NUL.
    """
    flags = os.O_RDONLY
    for name in ("O_NONBLOCK", "O_CLOEXEC", "O_BINARY"):
        flags |= getattr(os, name, 0)
    number = os.open(path, flags)
    mode = os.fstat(number).st_mode
    if not stat.S_ISREG(mode):
        os.close(number)
        if stat.S_ISDIR(mode):
            raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR), str(path))
        raise OSError(
            errno.EINVAL, "a pipe or a device, not a file: copy its content to a file", str(path)
        )
    with os.fdopen(number, "rb") as file:
        yield file


def bounded(path: Path, most_bytes: int) -> bytes:
    """The bytes of a file, and never more than a limit of them.

    Raises:
        OSError: it cannot be read.
        ValueError: it is larger, or its name holds a NUL.
    """
    with opened(path) as file:
        # Known before it is read; while it is read, it may grow.
        content = b"" if os.fstat(file.fileno()).st_size > most_bytes else file.read(most_bytes + 1)
        if len(content) > most_bytes or os.fstat(file.fileno()).st_size > most_bytes:
            raise ValueError(f"it is larger than {size(most_bytes)}")
    return content


def size(count: int) -> str:
    """A limit in words."""
    for unit, word in ((limits.MIB, "MiB"), (limits.KIB, "KiB")):
        if count >= unit:
            return f"{count // unit} {word}"
    return f"{count} bytes"


def packing(path: Path) -> Packing:
    """How a file is packed, by its name."""
    kinds: dict[str, Packing] = {".gz": "gzip", ".xz": "xz"}
    return kinds.get(path.suffix, "")


def packing_of(file: BufferedReader) -> Packing:
    """How an open file is packed, by its first bytes, whatever its name says; nothing of it is read."""
    head = file.peek(8)
    return next((kind for kind, magic in _MAGIC.items() if head.startswith(magic)), "")


def utf8(pieces: Iterator[bytes]) -> Iterator[bytes]:
    """Text as UTF-8 without a byte order mark: what has the mark of UTF-16 is put into UTF-8.

    Raises:
        UnicodeDecodeError: it is no UTF-16 though it begins like it.
    """
    first = next(pieces, b"")
    is_unmarked = len(first) > 1 and first[1] == 0 != first[0]  # of Windows: ASCII in UTF-16
    if first.startswith((codecs.BOM_UTF16_LE, codecs.BOM_UTF16_BE)) or is_unmarked:
        decoder = codecs.getincrementaldecoder("utf-16-le" if is_unmarked else "utf-16")()
        for piece in chain([first], pieces):
            yield decoder.decode(piece).encode("utf-8", "replace")
        yield decoder.decode(b"", final=True).encode()
        return
    yield first.removeprefix(codecs.BOM_UTF8)
    yield from pieces


def unpacked(
    file: IO[bytes], kind: Packing, most_bytes: int, *, one: bool = False
) -> Iterator[bytes]:
    """What a file unpacks to, piece by piece.

    Args:
        most_bytes: of all pieces together.
        one: a single packed stream, which nothing follows.

    Raises:
        OSError: it cannot be read.
        ValueError: it is damaged, or too large; the message says which.
        MissingExtra: this Python cannot unpack its kind.
    """  # fmt: skip
    total = 0
    pieces = _inflated(file, kind, one) if kind else iter(lambda: file.read(limits.PIECE), b"")
    try:
        for piece in pieces:
            total += len(piece)
            if total > most_bytes:
                raise ValueError(f"it is too large: it holds more than {size(most_bytes)} unpacked")
            yield piece
    except (zlib.error, lzma.LZMAError, _zstd_error()) as error:
        raise ValueError(
            f"it is a damaged {kind} file, which cannot be unpacked ({error})"
        ) from error
    except OSError as error:
        if kind == "bz2" and error.errno is None:  # of its decompressor, not of the disk
            raise ValueError(f"it is a damaged {kind} file ({error})") from error
        raise


def _inflated(file: IO[bytes], kind: Packing, one: bool) -> Iterator[bytes]:
    stream, left, members = _stream(kind), b"", 1
    while True:
        if stream.eof:
            left = (stream.unused_data or file.read(_READ)) if one else _next(stream, file)
            if not left:
                return
            members += 1
            if one or members > limits.MEMBERS:
                raise ValueError("it is followed by something else")
            stream = _stream(kind)
        piece = stream.decompress(left, limits.PIECE)
        left = getattr(stream, "unconsumed_tail", b"")
        if piece:
            yield piece
        # Without a piece of full length, nothing is left inside that needs no more input.
        if not stream.eof and not left and len(piece) < limits.PIECE:
            left = file.read(_READ)
            if not left:
                raise ValueError(f"it is a damaged {kind} file: it is cut short")


def _stream(kind: Packing) -> Any:
    if kind == "xz":
        return lzma.LZMADecompressor(lzma.FORMAT_XZ, memlimit=limits.XZ_MEMORY)
    if kind == "bz2":
        return bz2.BZ2Decompressor()
    if kind == "zstd":
        if (zstd := _zstd()) is None:
            raise MissingExtra(
                "it is packed with zstd, which this Python cannot unpack: run pip install "
                "backports.zstd, or unpack the file with zstd -d"
            )
        return zstd.ZstdDecompressor(options={zstd.DecompressionParameter.window_log_max: 27})
    return zlib.decompressobj(31)  # gzip, its checksum included


def _zstd() -> Any:
    """The module that unpacks zstd: of Python from 3.14 on, or its twin for older ones; None without."""
    for name in ("compression.zstd", "backports.zstd"):
        try:
            return importlib.import_module(name)
        except ImportError:
            continue
    return None


def _zstd_error() -> type[Exception]:
    found: type[Exception] = getattr(sys.modules.get("backports.zstd") or sys.modules.get("compression.zstd"),
                                     "ZstdError", zlib.error)  # fmt: skip
    return found


def _next(stream: Any, file: IO[bytes]) -> bytes:
    """What follows a stream, without the zeros that tapes are filled up with."""
    left: bytes = stream.unused_data.lstrip(b"\0")
    for _ in range(limits.PIECE // _READ):
        if left or not (read := file.read(_READ)):
            return left
        left = read.lstrip(b"\0")
    raise ValueError("it is followed by zeros without end")


def lines(pieces: Iterator[bytes], longest: int, *, ended: bool = False) -> Iterator[list[str]]:
    """The lines of pieces of UTF-8 text, many at a time, without their ends.

    Args:
        longest: bytes of a line.
        ended: whether the last line, too, needs its end.

    Raises:
        UnicodeDecodeError: it is another encoding.
        ValueError: a line is longer, or the last one is cut short.
    """
    left = b""
    for piece in pieces:
        whole, newline, rest = piece.rpartition(b"\n")
        if not newline:
            left += piece
        else:
            yield _split(left + whole + newline, longest)
            left = rest
        if len(left) > longest:
            raise ValueError(f"a line of it is longer than {size(longest)}")
    if left and ended:
        raise ValueError("its last line is cut short")
    if left:
        yield _split(left, longest)


def _split(whole: bytes, longest: int) -> list[str]:
    text = whole.decode()
    if "\r" in text:
        text = text.replace("\r\n", "\n").replace("\r", "\n")
    found = text.removesuffix("\n").split("\n")
    if len(text) > longest and max(map(len, found)) > longest:
        raise ValueError(f"a line of it is longer than {size(longest)}")
    return found
