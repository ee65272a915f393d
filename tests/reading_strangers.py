"""Read files in processes of their own and print what came of each: error, peak of memory, seconds.

Run as a program: it takes lines of JSON, [kind, path], and forks for each, so that a peak is of one file.
"""

import json
import os
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

from rapgym.audit import replay as audit_replay
from rapgym.bench import results
from rapgym.errors import RapgymError
from rapgym.files import columns
from rapgym.model import profiles, shapes
from rapgym.policies import registry, trained
from rapgym.quality import file as table_file
from rapgym.quality import texts
from rapgym.recorder import work_file
from rapgym.scenarios import catalogue
from rapgym.workload import names, series, servegen, trace
from rapgym.workload.inputs import memory, requests


def statistics(path: Path) -> Any:
    servegen.STATISTICS = path
    return servegen.statistics.__wrapped__("language/m-large")


def audit(path: Path) -> None:
    found = audit_replay.verified(path)
    if not found.holds:
        raise RapgymError(found.sentences[0])


def tuned(path: Path) -> None:
    os.environ["RAPGYM_CACHE"] = str(path.parent)
    if not registry.own_tuned():  # a damaged file holds nothing
        raise RapgymError("nothing was found")


READERS: dict[str, tuple[str, Callable[[Path], Any]]] = {
    "table": ("t.csv.gz", table_file.read),
    "series": ("s.csv.gz", series.read),
    "blocks": ("s.series", series.read),
    "results": ("r.csv.gz", results.read),
    "results-xz": ("r.csv.xz", results.read),
    "statistics": ("s.csv.xz", statistics),
    "requests": ("q.csv", lambda path: trace.read_requests(path, "q")),
    "requests-gz": ("q.csv.gz", lambda path: trace.read_requests(path, "q")),
    "memory-gz": ("m.csv.gz", lambda path: trace.read_memory(path, "m")),
    "own-trace": ("o.csv", lambda path: names.sha256(str(path))),
    "raw": ("raw.csv", lambda path: columns.read(path, "raw", {"a": "text", "b": "int"})),
    "recording": ("o.csv.recording", lambda path: work_file.finish(path.with_suffix(""))),
    "access": ("a.jsonl", requests.read),
    "access-gz": ("a.jsonl.gz", requests.read),
    "memory-log": ("smi.csv", memory.read),
    "memory-json": ("m.json.gz", memory.read),
    "profile": ("p.json", lambda path: profiles.read(str(path))),
    "config": ("c.json", lambda path: shapes.model_spec(str(path))),
    "tuned": ("tuned.json", tuned),
    "trained": ("w.npz", trained.read),
    "scenario": ("x.toml", lambda path: catalogue.scenario(str(path))),
    "audit": ("l.jsonl", audit),
    "text": ("x.txt", lambda path: texts.named([f"x={path}"])),
    "text-xz": ("x.txt.xz", lambda path: texts.named([f"x={path}"])),
}


def said(name: str) -> int:
    """kB that /proc tells of this process."""
    for line in Path("/proc/self/status").read_text().splitlines():
        if line.startswith(name):
            return int(line.split()[1])
    raise KeyError(name)


def outcome(kind: str, path: Path) -> dict[str, Any]:
    """What comes of reading a file here."""
    Path("/proc/self/clear_refs").write_text("5")  # the peak begins anew
    idle_kb, begun_s = said("VmRSS"), time.process_time()
    try:
        READERS[kind][1](path)
        error, words = "", ""
    except RapgymError as refused:
        error, words = "RapgymError", str(refused)
    except BaseException as other:
        error, words = type(other).__name__, str(other)[:300]
    seconds = time.process_time() - begun_s
    return {
        "error": error,
        "words": words,
        "seconds": seconds,
        "mb": (said("VmHWM") - idle_kb) / 1e3,
    }


def main() -> None:
    for line in sys.stdin:
        kind, path = json.loads(line)
        sys.stdout.flush()
        if (child := os.fork()) == 0:
            print(json.dumps(outcome(kind, Path(path))), flush=True)
            os._exit(0)
        if os.waitpid(child, 0)[1]:
            print(json.dumps({"error": "died", "words": "", "seconds": 0, "mb": 0}), flush=True)


if __name__ == "__main__":
    main()
