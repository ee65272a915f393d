"""Really hostile files: each is refused in one sentence, in 2 s of work and 256 MB above idle."""

import gzip
import io
import json
import lzma
import os
import shutil
import signal
import struct
import subprocess
import sys
import zipfile
import zlib
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import reading_strangers
from reading_strangers import READERS

MIB = 1 << 20
MOST_MB, MOST_S, MOST_CHARACTERS = 256, 2.0, 2000

pytestmark = pytest.mark.skipif(
    not Path("/proc/self/clear_refs").exists(), reason="peaks are read from Linux's /proc"
)


@pytest.fixture(scope="module")
def child() -> Iterator[subprocess.Popen[str]]:
    """The program that reads: what it imports is not counted."""
    program = reading_strangers.__file__
    with subprocess.Popen(
        [sys.executable, program], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    ) as process:
        yield process
        assert process.stdin is not None
        process.stdin.close()


@contextmanager
def no_longer_than(seconds: int) -> Iterator[None]:
    """A reader that waits for ever fails its test, and no more."""

    def raise_(*_: Any) -> None:
        raise TimeoutError(f"nothing came in {seconds} s")

    before = signal.signal(signal.SIGALRM, raise_)
    signal.alarm(seconds)
    try:
        yield
    finally:
        signal.alarm(0)
        signal.signal(signal.SIGALRM, before)


def refused(child: subprocess.Popen[str], kind: str, path: Path) -> str:
    """The sentence that refuses a file, within the limits."""
    assert child.stdin is not None
    assert child.stdout is not None
    with no_longer_than(60):
        child.stdin.write(json.dumps([kind, str(path)]) + "\n")
        child.stdin.flush()
        found = json.loads(child.stdout.readline())
    assert found["error"] == "RapgymError", found
    words = str(found["words"])
    assert words
    assert "\n" not in words
    assert len(words) <= MOST_CHARACTERS
    assert found["mb"] <= MOST_MB, found
    assert found["seconds"] <= MOST_S, found
    return words


def inflating(mib: int, head: bytes, piece: bytes, wbits: int) -> bytes:
    """A deflate stream of `head` and `mib` MiB of a piece over and over, made in no time.

    After a full flush, the same input packs to the same bytes wherever it stands.
    """
    packer = zlib.compressobj(6, zlib.DEFLATED, wbits)
    start = packer.compress(head) + packer.flush(zlib.Z_FULL_FLUSH)
    once = piece * (8 * MIB // len(piece))
    packer.compress(once)
    packer.flush(zlib.Z_FULL_FLUSH)
    body = packer.compress(once) + packer.flush(zlib.Z_FULL_FLUSH)
    return start + body * (mib // 8) + packer.flush()


def gzipped(mib: int, head: bytes = b"", piece: bytes = b"\0") -> bytes:
    return inflating(mib, head, piece, 31)


HEAD = b'# {"schema": 1}\n'
Maker = Callable[[Path], None]


def holding(content: bytes | Callable[[], bytes]) -> Maker:
    def make(path: Path) -> None:
        path.write_bytes(content if isinstance(content, bytes) else content())

    return make


def sparse(mib: int, head: bytes = b"") -> Maker:
    """A file of zeros that takes no room on the disk."""

    def make(path: Path) -> None:
        path.write_bytes(head)
        os.truncate(path, mib * MIB)

    return make


ANYWHERE: dict[str, Maker] = {
    "nothing": lambda path: None,
    "empty": holding(b""),
    "folder": lambda path: path.mkdir(),
    "pipe": lambda path: os.mkfifo(path),
    "loop": lambda path: path.symlink_to(path.name),
    "device": lambda path: path.symlink_to("/dev/zero"),
    "zeros": sparse(3000),
    "one line": holding(lambda: b"1" * (40 * MIB)),
    "utf-16": holding('{"schema": 1}\na,b\n1,2\n'.encode("utf-16")),
    "gzip bomb": holding(lambda: gzipped(2048)),
    "gzip bomb behind a header": holding(lambda: gzipped(2048, HEAD)),
    "gzip of new lines": holding(lambda: gzipped(1024, HEAD, b"\n")),
    "many empty gzip files": holding(lambda: gzip.compress(b"", mtime=0) * 500_000),
    "xz bomb": holding(lambda: lzma.compress(HEAD + bytes(256 * MIB), preset=0)),
    "cut gzip": holding(lambda: gzip.compress(HEAD + os.urandom(5000))[:3000]),
    "deep": holding(b'{"a": ' + b"[" * 300_000),
    "deep header": holding(lambda: gzip.compress(b'# {"a": ' + b"[" * 300_000 + b"\n1\n")),
    "many values": holding(lambda: b'{"seq":0, "a": [' + b"[]," * 11_000_000 + b"[]]}"),
    "many values in a header": holding(
        lambda: gzipped(34, b'# {"a": [', b"[],     ") + b""
    ),
    "many values in a short header": holding(
        lambda: gzip.compress(b'# {"a": [' + b"[]," * 2_000_000 + b"[]]}\n1,2\n", 1)
    ),
    "long integer": holding(b'{"schema": ' + b"9" * 900_000 + b"}"),
    "nan": holding(b'{"schema": NaN, "a": -Infinity, "b": 1e999}\n'),
}  # fmt: skip

# What is as large as it says in the format of another kind is no case of these.
PASSES = {("own-trace", name) for name in ANYWHERE if name not in ("nothing", "folder", "pipe", "loop", "device", "zeros")} | {
    ("text", name) for name in ("empty", "one line", "deep", "many values", "long integer", "nan")
} | {("text-xz", "empty")}  # fmt: skip


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Iterator[dict[str, Path]]:
    """The files among what stands anywhere, each made once; they are as they were in the end."""
    folder, found = tmp_path_factory.mktemp("made"), dict[str, Path]()
    for name, make in ANYWHERE.items():
        make(folder / name)
        if (folder / name).is_file():
            found[name] = folder / name
    before = {name: path.stat().st_mtime_ns for name, path in found.items()}
    yield found
    assert before == {name: path.stat().st_mtime_ns for name, path in found.items()}
    shutil.rmtree(folder)


@pytest.mark.parametrize("kind", READERS)
def test_whatever_stands_in_place_of_a_file_is_refused(
    kind: str, child: subprocess.Popen[str], made: dict[str, Path], tmp_path: Path
) -> None:
    for name, make in ANYWHERE.items():
        if (kind, name) in PASSES:
            continue
        path = tmp_path / READERS[kind][0]
        path.hardlink_to(made[name]) if name in made else make(path)
        try:
            refused(child, kind, path)
        except AssertionError as error:
            raise AssertionError(f"{kind}: {name}") from error
        finally:
            path.rmdir() if path.is_dir() else path.unlink(missing_ok=True)


REQUESTS = "arrival_s,prompt_tokens,output_tokens\n"


def archive(*entries: tuple[str, bytes, int, int], count: int = 1) -> bytes:
    """A zip file by hand: name, packed bytes, method, and the size that its directory claims."""
    stream, directory = io.BytesIO(), io.BytesIO()
    for name, packed, method, claimed in entries:
        at = stream.tell()
        fields = (20, 0, method, 0, 33, 0, len(packed), claimed, len(name), 0)
        stream.write(struct.pack("<IHHHHHIIIHH", 0x04034B50, *fields) + name.encode() + packed)
        central = struct.pack("<IH", 0x02014B50, 20) + struct.pack("<HHHHHIIIHH", *fields)
        directory.write((central + struct.pack("<HHHII", 0, 0, 0, 0, at) + name.encode()) * count)
    at, size = stream.tell(), directory.tell()
    many = min(len(entries) * count, 65535)
    end = struct.pack("<IHHHHIIH", 0x06054B50, 0, 0, many, many, size, at, 0)
    return stream.getvalue() + directory.getvalue() + end


def npy(array: Any) -> bytes:
    buffer = io.BytesIO()
    np.save(buffer, array)
    return buffer.getvalue()


def zipped(**entries: bytes) -> bytes:
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED, compresslevel=1) as packed:
        for name, content in entries.items():
            packed.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def raw_bomb() -> bytes:
    return inflating(2048, npy(np.zeros(4)), b"\0", -15)


def results_of(rows: int) -> bytes:
    """A header, and columns of so many rows of which the last is missing."""
    told: dict[str, Any] = {
        "schema": 3,
        "scenarios": {},
        "tables": {},
        "workloads": {},
        "cells": [],
    }
    line = b"cell," + b"0," * rows + b"0\n"
    return gzip.compress(b"# " + json.dumps(told).encode() + b"\n" + line, 1)


SERIES = {"schema": 2, "window_s": 4, "reserve_tokens": 5, "origin": {}}
RECORDING = b'# {"schema": 1, "kind": "memory", "start_wall_s": 1.0}\nt_s,used_bytes\n'

ONE_KIND: dict[str, tuple[str, Maker, str]] = {
    "a number of 131000 digits": (
        "requests", holding((REQUESTS + f"0,1,{'1' * 131_000}\n" + "1,1,1\n" * 30_000).encode()), "line of it is longer"),
    "a number of 60000 digits": (
        "requests", holding((REQUESTS + f"{'1' * 60_000},1,1\n").encode()), "not a number"),
    "a long word beside short ones": (
        "raw", holding(("a,b\n" + "x,1\n" * 60_000 + "x" * 60_000 + ",1\n" + "x,y\n").encode()), "not a whole number"),
    "quotes that hold the rest": (
        "requests", holding(lambda: (REQUESTS + '"' + "\n1,1,1" * 3_000_000).encode()), "not a CSV file"),
    "fields without end": (
        "requests", holding(lambda: (REQUESTS + '"\n",' * 3_000_000).encode()), "not a CSV file"),
    "numbers that are none": ("requests", holding((REQUESTS + "nan,inf,1\n").encode()), "not a"),
    "a whole number beyond all": ("requests", holding((REQUESTS + f"0,{10**17 * 9},1\n").encode()), "reaches"),
    "damaged rows": ("recording", holding(lambda: RECORDING + b"x,y\n" * 6_000_000), "rows of it are damaged"),
    "an endless row": ("recording", sparse(200, RECORDING), "longer than any"),
    "a lying archive": (
        "trained", holding(lambda: archive(("header.npy", raw_bomb(), 8, 1000))), "no trained policy"),
    "an archive that says so": (
        "trained", holding(lambda: archive(("header.npy", raw_bomb(), 8, 0xFFFFFFF0))), "take more than 32 MiB"),
    "a directory of an archive": (
        "trained", holding(lambda: archive(("a.npy", b"", 0, 0), count=500_000)), "more than 256 arrays"),
    "another packing": (
        "trained", holding(lambda: archive(("a.npy", lzma.compress(bytes(64 * MIB)), 14, 10))), "another way"),
    "a header of many values": (
        "trained", holding(lambda: zipped(header=npy(np.frombuffer(b"[" + b"[]," * 9_000_000 + b"0]", np.uint8)))), "values"),
    "an array without end": (
        "trained", holding(lambda: zipped(header=npy(np.frombuffer(b'{"schema": 1}', np.uint8)), x=bytes(40 * MIB))), "32 MiB"),
    "one long column": ("results", holding(lambda: results_of(30_000_000)), "more than"),
    "a column, and then nothing": ("results", holding(lambda: results_of(100_000)), "cut short"),
    "a long cell": ("results", holding(lambda: gzipped(64, results_head() + b"cell,", b"1")), "longer than"),
    "dots": ("scenario", holding(b"a." * 30_000 + b"a = 1\n"), "dots"),
    "more than a scenario": ("scenario", holding(b"# x\n" * 400_000), "larger than"),
    "a long key": ("scenario", holding(b"k" * 4000 + b" = 1\n"), "there is no key"),
    "a long word": ("config", holding(json.dumps({"model_type": "x" * 900_000}).encode()), "xxx"),
    "blocks that lie": ("blocks", sparse(250, b"# " + json.dumps({**SERIES, "rows": 1}).encode() + b"\n"), "as long as it says"),
    "blocks without end": ("blocks", sparse(250, b"# " + json.dumps({**SERIES, "rows": 10**7}).encode() + b"\n"), "cut short"),
    "short rows": ("series", holding(lambda: gzipped(250, series_head(), b"0,0,0,0,0,0,0,0,")), "longer than"),
    "rows of nothing": ("series", holding(lambda: gzipped(248, series_head(), b"\n")), "no series that can be read"),
    "lines that tell nothing": ("access", holding(lambda: b"{}\n" * 3_000_000), "tell of none"),
    "empty lines": ("access-gz", holding(lambda: gzipped(512, b"", b"\n")), "tell of none"),
    "a line without end": ("access-gz", holding(lambda: gzipped(512, b"", b"x")), "no end"),
    "lines that do not hold": ("audit", holding(lambda: b'{"seq":0}\n' * 2_000_000), "sha256"),
    "a long line": ("audit", holding(lambda: b'{"seq":0,' + b"[]," * 11_000_000), "longer than"),
}  # fmt: skip


def results_head() -> bytes:
    told = {"schema": 3, "scenarios": {}, "tables": {}, "workloads": {}, "cells": []}
    return b"# " + json.dumps(told).encode() + b"\n"


def series_head() -> bytes:
    names = ["batch", "prompt_tokens", "output_tokens", "longest_prompt_tokens"]
    names += [f"tenant_tokens_{second}" for second in range(4)]
    return (
        b"# "
        + json.dumps(SERIES).encode()
        + b"\n"
        + ",".join([*names, "requests"]).encode()
        + b"\n"
    )


@pytest.mark.parametrize("case", ONE_KIND)
def test_a_file_made_to_harm_is_refused(
    case: str, child: subprocess.Popen[str], tmp_path: Path
) -> None:
    kind, make, says = ONE_KIND[case]
    path = tmp_path / READERS[kind][0]
    make(path)
    assert says in refused(child, kind, path)
