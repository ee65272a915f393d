"""What a trace, a recording or a workload is, by its name and its file, before anything of it is read."""

import hashlib
from pathlib import Path

from rapgym.errors import DataUnavailable, InvalidTrace
from rapgym.files import checked, incoming, limits, places
from rapgym.workload import sources

REQUESTS = tuple(each.name for each in sources.SOURCES if each.kind == "requests")
DRAWN = "servegen:"  # how a trace that is drawn from a workload's statistics is named
DRAWN_FROM = ("servegen-clients", "servegen-lengths")  # raw files of those statistics
RECORDED_POOL = "vllm-kvcache"  # how full a KV pool was, in place of a tenant's requests
OWN = "own-"  # how the name of a workload begins that was made on this machine
LOADED = f"{OWN}load-"  # and of another workload, under more or less load

KINDS = (".csv", ".tsv", ".jsonl", ".ndjson", ".json", ".log", ".txt")
PACKINGS = ("", ".gz", ".zst", ".bz2", ".xz")
# How the paths of traces and logs end; any other file is known by being there.
ENDINGS = tuple(kind + packing for kind in KINDS for packing in PACKINGS)


def is_path(trace: str) -> bool:
    """Whether the name of a request trace is the path of a file."""
    if trace in REQUESTS:
        return False
    try:
        return trace.endswith(ENDINGS) or Path(trace).is_file()
    except (OSError, ValueError):  # too long for a path, or a NUL in it
        return False


def is_shipped(recording: str) -> bool:
    """Whether a recording is one of rapgym's, by its name under traces/."""
    try:
        return not Path(recording).is_absolute() and (places.TRACES / recording).is_file()
    except (OSError, ValueError):  # too long for the name of a file of ours, or none at all
        return False


def path_of(recording: str) -> Path:
    """The file of a recording: one of rapgym's by its name under traces/, any other by its path."""
    return places.TRACES / recording if is_shipped(recording) else Path(recording)


def is_own(workload: str) -> bool:
    """Whether a workload was made on this machine, by its name."""
    return workload.startswith(OWN)


def sha256(name: str) -> str:
    """Of a trace's content: a file of the user's or of rapgym's, or a raw trace known by name.

    Raises:
        DataUnavailable: it is not there; the message says what to do.
        InvalidTrace: it is larger than any trace that is read.
    """
    if name.startswith(DRAWN):
        drawn_from = [sources.source_of(each).sha256 for each in DRAWN_FROM]
        return hashlib.sha256(" ".join([name, *drawn_from]).encode()).hexdigest()
    if name in {source.name for source in sources.SOURCES}:
        return sources.source_of(name).sha256
    path = path_of(name)
    try:
        path.stat()
    except (OSError, ValueError) as error:
        raise DataUnavailable(
            f"{name} is not there ({error}): put the trace back where it was, or go to the folder "
            "that its path starts from"
        ) from error
    if not path.is_file():
        raise DataUnavailable(
            f"{name} is no file: a trace is a file of requests, or of memory in use"
        )
    if path.stat().st_size > limits.LOG:
        raise InvalidTrace(
            f"{name} is larger than {incoming.size(limits.LOG)}: make it a trace with rapgym record first"
        )
    return checked.sha256_once(path)
