"""Independent calls whose answers are kept aside, so that a run that was stopped goes on where it was."""

import json
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any

from rapgym.jobs import parallel


def results(
    calls: Sequence[Callable[[], Any]],
    bases: Sequence[Any],
    work: Path,
    jobs: int | None,
    *,
    ray: str | None = None,
    told: Callable[[Any], Any] = lambda answer: answer,
    read: Callable[[Any], Any] = lambda told: told,
) -> Iterator[tuple[int, Any, bool]]:
    """Each call's place, its answer, and whether an earlier run left it: first all that one left.

    Args:
        calls: as `parallel.results` takes them.
        bases: all that the answer of each depends on, as JSON: of another basis nothing is taken.
        work: a JSON-lines file, a line an answer, written as soon as it is there.
        told: an answer as JSON takes it.
        read: an answer from what JSON gives back; what it cannot read is asked for again.
    """
    keys = [_key(basis) for basis in bases]
    before = dict(_left(work, read))
    yield from ((i, before[key], True) for i, key in enumerate(keys) if key in before)
    left = [i for i, key in enumerate(keys) if key not in before]
    work.parent.mkdir(parents=True, exist_ok=True)
    for place, answer in parallel.results([calls[i] for i in left], jobs, ray=ray):
        i = left[place]
        with work.open("a", encoding="utf-8") as file:
            # It begins a line even after one that was cut off as it was written.
            file.write("\n" + json.dumps({"basis": bases[i], "entry": told(answer)}))
        yield i, answer, False


def _key(basis: Any) -> str:
    return json.dumps(basis, sort_keys=True)


def _left(work: Path, read: Callable[[Any], Any]) -> Iterator[tuple[str, Any]]:
    """What earlier runs left: key of the basis, and answer."""
    if not work.exists():
        return
    for line in work.read_text("utf-8", "replace").splitlines():
        try:
            kept = json.loads(line)
            yield _key(kept["basis"]), read(kept["entry"])
        except (ValueError, KeyError, TypeError):
            continue  # cut off as it was written: asked for again
