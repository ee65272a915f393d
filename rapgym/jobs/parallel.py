"""Independent calls on several processes, here or on Ray, each result handed back as soon as it is there."""

import multiprocessing
import os
import sys
import threading
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from concurrent.futures.process import BrokenProcessPool
from contextlib import contextmanager
from typing import Any, TypeVar

from rapgym.errors import RapgymError
from rapgym.jobs import ending, on_ray

Answer = TypeVar("Answer")

# One thread a process: more only wait for each other where every core has a process.
_ONE_THREAD = ("OPENBLAS_NUM_THREADS", "OMP_NUM_THREADS", "MKL_NUM_THREADS")


def processors() -> int:
    """How many processes may run at a time on this machine."""
    if hasattr(os, "sched_getaffinity"):
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1


def at_a_time(jobs: int | None, calls: int) -> int:
    """How many of so many calls `results` runs side by side on this machine."""
    return max(1, min(processors() if jobs is None else jobs, calls))


def results(
    calls: Sequence[Callable[[], Answer]],
    jobs: int | None,
    *,
    ray: str | None = None,
    same: Callable[[], str] | None = None,
) -> Iterator[tuple[int, Answer]]:
    """Each call's place and what it returned, in the order in which they end.

    Args:
        calls: with `jobs` above 1, or on Ray, they must be picklable, and so must what they return. On
            Ray a call whose worker died runs once more: what it writes must bear that.
        jobs: processes; with 1 the calls run here, one after the other. None for one a processor.
        ray: where they run on Ray instead, see `on_ray.results`.
        same: what must answer alike here and on Ray's workers, beside the package that is installed.

    Raises:
        RapgymError: a process died, or there is no such Ray. What a call raises is raised here.
    """
    if ray is not None:
        most = processors() if jobs is None and ray == on_ray.LOCAL else jobs
        one_thread = dict.fromkeys(_ONE_THREAD, "1")
        with environment({**one_thread, **on_ray.ENVIRONMENT}):
            yield from on_ray.results(
                calls, ray, jobs=most, variables=one_thread, path=sys.path, same=same
            )
        return
    jobs = at_a_time(jobs, len(calls))
    if jobs == 1:
        yield from ((i, call()) for i, call in enumerate(calls))
        return
    with environment(dict.fromkeys(_ONE_THREAD, "1")):  # read when a new process imports numpy
        # Not forked: the parent's threads may hold locks.
        pool = ProcessPoolExecutor(
            jobs,
            mp_context=multiprocessing.get_context("spawn"),
            initializer=_begin,
            initargs=(list(sys.path),),
        )
        before = multiprocessing.active_children()
        try:
            with ending.ctrl_c_kept_off():
                places = {pool.submit(call): i for i, call in enumerate(calls)}
            for done in as_completed(places):
                yield places[done], done.result()
        except BrokenProcessPool as error:
            raise RapgymError(
                "a worker process died, perhaps for want of memory; what was finished is kept: run "
                "the same command again, with --jobs 1"
            ) from error
        except (KeyboardInterrupt, GeneratorExit):
            # Nobody waits for what is under way: a call may take minutes.
            for process in multiprocessing.active_children():
                if process not in before:
                    process.kill()
            raise
        finally:
            pool.shutdown(cancel_futures=True)


@contextmanager
def environment(wanted: Mapping[str, str]) -> Iterator[None]:
    """While this lasts, new processes find these variables; afterwards all is as it was."""
    before = {name: os.environ.get(name) for name in wanted}
    os.environ.update(wanted)
    try:
        yield
    finally:
        for name, value in before.items():
            if value is None:
                del os.environ[name]
            else:
                os.environ[name] = value


def _begin(path: list[Any]) -> None:
    """Find modules where the parent does, and end with it: a killed parent cannot say goodbye."""
    sys.path[:] = path
    threading.Thread(target=_end_with_parent, daemon=True).start()


def _end_with_parent() -> None:
    parent = multiprocessing.parent_process()
    if parent is not None:
        parent.join()
        os._exit(1)
