"""A file from the network: what was fetched is kept, and a transfer that broke goes on where it was."""

import http.client
import os
import urllib.error
import urllib.request
from pathlib import Path

from rapgym.errors import DataUnavailable, WrongChecksum
from rapgym.files import checked, limits

ENDING = ".partial"  # behind the name of a file that is not whole yet
PATIENCE_S = 30.0  # without a byte
_AT_ONCE = 1 << 16


def download(url: str, path: Path, sha256: str, remedy: str) -> Path:
    """The file at `path`, fetched once and checked.

    Args:
        sha256: of its content.
        remedy: what to do where it cannot be had, for the message.

    Raises:
        DataUnavailable: the source cannot be reached, or broke off; the next call goes on from there.
        WrongChecksum: the source has another content, or is larger than any such file; nothing of it is
            kept.
    """
    if path.is_file() and checked.sha256_of(path) == sha256:
        return path
    aside = path.with_name(path.name + ENDING)
    with checked.locked(path.with_name(path.name + ".lock")):
        if path.is_file() and checked.sha256_of(path) == sha256:
            return path  # another process has it by now
        try:
            _fetch(url, aside)
        except (OSError, http.client.HTTPException) as error:
            raise DataUnavailable(
                f"{path.name} could not be fetched from {url} ({_cause(error)}): check the connection and run it again, "
                f"which goes on where it was; or {remedy}"
            ) from error
        except OverflowError as error:
            aside.unlink()
            raise WrongChecksum(f"{url} is larger than the file that is wanted: {error}") from error
        found = checked.sha256_of(aside)
        if found != sha256:
            aside.unlink()
            raise WrongChecksum(
                f"{url} has another content now (sha256 {found[:12]}..., expected {sha256[:12]}...), or the transfer "
                f"was damaged: run it again; or {remedy}"
            )
        os.replace(aside, path)
    return path


def _fetch(url: str, aside: Path) -> None:
    """All bytes into `aside`; of a server that can, those alone which it lacks.

    Raises:
        OSError, HTTPException: the server cannot be reached, refuses or broke off.
        OverflowError: there are more than a text may have.
    """
    have = aside.stat().st_size if aside.is_file() else 0
    request = urllib.request.Request(url, headers={"Range": f"bytes={have}-"} if have else {})
    try:
        answer = urllib.request.urlopen(request, timeout=PATIENCE_S)
    except urllib.error.HTTPError as error:
        if error.code != http.HTTPStatus.REQUESTED_RANGE_NOT_SATISFIABLE or not have:
            raise
        return  # nothing is missing: the checksum says whether it is the file
    with (
        answer,
        aside.open("ab" if answer.status == http.HTTPStatus.PARTIAL_CONTENT else "wb") as file,
    ):
        wanted = answer.length
        fetched = 0
        while piece := answer.read(_AT_ONCE):
            if file.tell() + len(piece) > limits.OWN_TEXT:
                raise OverflowError(f"more than {limits.OWN_TEXT} bytes")
            file.write(piece)
            fetched += len(piece)
        if wanted is not None and fetched < wanted:
            raise http.client.IncompleteRead(b"", wanted - fetched)


def _cause(error: Exception) -> str:
    if isinstance(error, urllib.error.HTTPError):
        return f"HTTP {error.code}"
    if isinstance(error, urllib.error.URLError):
        return str(error.reason)
    return "it broke off" if isinstance(error, http.client.IncompleteRead) else str(error)
