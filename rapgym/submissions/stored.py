"""The files of a submission, in a zip or in a folder: names and bytes, never more than a limit of them.

Nothing is unpacked where its name says: a name is checked before its content is read, and the one folder
that a policy is run from is written from what was read here.
"""

import io
import os
import re
import stat
import struct
import zipfile
import zlib
from collections.abc import Iterable, Mapping
from pathlib import Path

from rapgym.errors import InvalidResult
from rapgym.files import incoming, limits, writing
from rapgym.files.shown import shown

HEADER = "submission.json"
ROWS = "rows.csv.xz"
POLICY = "policy"  # the folder of the policy's own files
DEEPEST = 6  # steps of a path
_STEP = re.compile(r"[A-Za-z0-9_][A-Za-z0-9._-]*")
_MAGIC = (b"PK\x03\x04", b"PK\x05\x06")  # of a zip, and of an empty one
_DATE = (1980, 1, 1, 0, 0, 0)  # the same content gives the same bytes


def is_stored(path: Path) -> bool:
    """Whether a path names a folder or a zip: what a submission can be."""
    if path.is_dir():
        return True
    try:
        with incoming.opened(path) as file:
            return file.read(len(_MAGIC[0])) in _MAGIC
    except (OSError, ValueError):
        return False


def read(path: Path) -> dict[str, bytes]:
    """Name and content of every file of a submission.

    Raises:
        InvalidResult: it is not there, or holds what no submission holds; the message says what.
    """
    try:
        return _of_folder(path) if path.is_dir() else _of_zip(path)
    except FileNotFoundError:
        raise InvalidResult(f"{path} is not there; make it with: rapgym submit") from None
    except (
        OSError,
        ValueError,
        EOFError,
        NotImplementedError,  # a packing that zipfile does not know
        RuntimeError,  # a file that asks for a password
        struct.error,
        zipfile.BadZipFile,
        zlib.error,
    ) as error:
        raise InvalidResult(f"{path} is no submission that can be read: {shown(error)}") from error


def packed(files: Mapping[str, bytes]) -> bytes:
    """The zip of a submission's files.

    Raises:
        InvalidResult: a name or a size is one that `read` refuses.
    """
    out = io.BytesIO()
    with zipfile.ZipFile(out, "w") as whole:
        for name, content in sorted(files.items()):
            about = zipfile.ZipInfo(name, _DATE)
            about.external_attr = (stat.S_IFREG | 0o644) << 16
            about.compress_type = zipfile.ZIP_DEFLATED
            whole.writestr(about, content)
    found = out.getvalue()
    try:
        _check_names(files)
        _check_whole(sum(map(len, files.values())))
        if len(found) > limits.SUBMISSION:
            raise ValueError(f"it would be larger than {incoming.size(limits.SUBMISSION)}")
    except ValueError as error:
        raise InvalidResult(f"this cannot be packed: {shown(error)}") from error
    return found


def unpacked(files: Mapping[str, bytes], folder: Path) -> None:
    """Write files, whose names were checked, below a folder that is this process's alone."""
    for name, content in files.items():
        path = folder / name
        writing.made(path.parent)
        path.write_bytes(content)


def _of_zip(path: Path) -> dict[str, bytes]:
    content = incoming.bounded(path, limits.SUBMISSION)
    with zipfile.ZipFile(io.BytesIO(content)) as whole:
        # Folders are told of by some programs; they hold nothing.
        members = [each for each in whole.infolist() if not _is_empty_folder(each)]
        _check_names(each.filename for each in members)
        found, left = {}, limits.SUBMISSION_WHOLE
        for each in members:
            kind = stat.S_IFMT(each.external_attr >> 16)
            if kind not in (0, stat.S_IFREG):
                raise ValueError(f"{each.filename} is a link or a device, not a plain file")
            # What it says of its own size is not believed: what is really unpacked is counted.
            with whole.open(each) as file:
                found[each.filename] = file.read(left + 1)
            left -= len(found[each.filename])
            _check_whole(limits.SUBMISSION_WHOLE - left)
    return found


def _is_empty_folder(each: zipfile.ZipInfo) -> bool:
    return each.filename == f"{POLICY}/" and each.file_size == 0


def _of_folder(path: Path) -> dict[str, bytes]:
    names: dict[str, Path] = {}
    for folder, inner, files in os.walk(path, onerror=_raise):
        for name in (*inner, *files):
            place = Path(folder, name)
            mode = place.lstat().st_mode
            if stat.S_ISDIR(mode):
                continue
            whole = place.relative_to(path).as_posix()
            if not stat.S_ISREG(mode):
                raise ValueError(f"{whole} is a link or a device, not a plain file")
            names[whole] = place
    _check_names(names)
    _check_whole(sum(place.stat().st_size for place in names.values()))
    return {name: incoming.bounded(place, limits.SUBMISSION_WHOLE) for name, place in names.items()}


def _raise(error: OSError) -> None:
    raise error


def _check_whole(size: int) -> None:
    if size > limits.SUBMISSION_WHOLE:
        raise ValueError(
            f"its files hold more than {incoming.size(limits.SUBMISSION_WHOLE)} unpacked"
        )


def _check_names(names: Iterable[str]) -> None:
    """Raises ValueError where a file has a name, or a place, that none of a submission has."""
    known = set[str]()
    for name in names:
        if len(known) >= limits.SUBMISSION_FILES:
            raise ValueError(f"it holds more than {limits.SUBMISSION_FILES} files")
        if name.casefold() in known:
            raise ValueError(f"it holds {name} twice")
        known.add(name.casefold())
        steps = name.split("/")
        if name.startswith("/") or ".." in steps or "\\" in name or ":" in name:
            raise ValueError(f"{name[:200]} leads out of its folder")
        is_plain = all(map(_STEP.fullmatch, steps)) and len(steps) <= DEEPEST
        if not is_plain or len(name) > limits.SUBMISSION_NAME:
            raise ValueError(
                f"{name[:200]} is no name of a file in a submission: letters, digits, dots, dashes "
                f"and underscores, at most {limits.SUBMISSION_NAME} of them"
            )
        if name not in (HEADER, ROWS) and (steps[0] != POLICY or len(steps) < 2):
            raise ValueError(f"{name} is none of {HEADER}, {ROWS} and what lies below {POLICY}/")
    for name in (HEADER, ROWS):
        if name not in known:
            raise ValueError(f"it has no {name}")
