"""Independent calls on a Ray cluster: a worker that dies in the middle of one is replaced.

A call travels as bytes, and its answer comes back as bytes: arrays are then the receiver's own, not
read-only views of memory that ends with the cluster, and an error keeps its class.
"""

import importlib.metadata
import logging
import os
import pickle
import platform
import signal
import socket
import threading
import traceback
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from itertools import islice
from types import ModuleType
from typing import Any

from rapgym.errors import MissingExtra, RapgymError
from rapgym.files import provenance

LOCAL = "local"  # a cluster of this machine alone, for as long as the calls run
RUNNING = "auto"  # the one that was started on this machine before
TIMES_AGAIN = 3  # that one call is tried where its worker dies
REACH_S = 10  # for an address to answer; Ray itself would try for minutes

# While a cluster of ours starts: nothing is reported to Ray's makers, and workers see the graphics
# cards that other processes see.
ENVIRONMENT = {
    "RAY_USAGE_STATS_ENABLED": "0",
    "RAY_ACCEL_ENV_VAR_OVERRIDE_ON_ZERO": "0",
}

# Variables that Ray sets in the process that connects.
_OVERWRITTEN = ("PYTHONBREAKPOINT", "RAY_AUTH_MODE", "RAY_CLIENT_MODE")


def results(
    calls: Sequence[Callable[[], Any]],
    address: str,
    *,
    jobs: int | None,
    variables: Mapping[str, str],
    path: Sequence[str],
    same: Callable[[], str] | None = None,
) -> Iterator[tuple[int, Any]]:
    """Each call's place and what it returned, in the order in which they end.

    Args:
        calls: what Ray can pickle; what they return, pickle. A call may run more than once.
        address: LOCAL, RUNNING, host:port or ray://host:port. Where this process has connected to
            Ray itself, that cluster is used, and left as it is.
        jobs: calls at a time; None for as many as the cluster has processors.
        variables: of the workers' environment.
        path: where modules are found; for LOCAL, whose workers share this process's files.
        same: what must answer here and on workers elsewhere alike, beside `installed`.

    Raises:
        MissingExtra: Ray is not installed.
        RapgymError: no cluster; a worker without this very version of rapgym; a call whose worker
            dies each time. What a call raises is raised here.
    """
    if not calls:
        return
    ray = _ray()
    with _cluster(ray, address, jobs):
        options = {"num_cpus": 1, "max_retries": TIMES_AGAIN}
        task = ray.remote(_task()).options(**options, runtime_env={"env_vars": {**variables}})
        if address == LOCAL:  # its workers read the very files that this process does
            known, wanted, same = [*path], {}, None
        else:
            known, wanted = [], installed()
        settled = same and {same.__name__: same()}
        queue = enumerate(calls)

        def begin(most: int | None) -> dict[Any, int]:
            return {
                task.remote(known, wanted, ray.cloudpickle.dumps((same, settled, call))): place
                for place, call in islice(queue, most)
            }

        open_ones = begin(jobs)
        try:
            while open_ones:
                done = ray.wait([*open_ones], num_returns=1)[0][0]
                answer = ray.get(done)
                place = open_ones.pop(done)
                open_ones |= begin(1)
                yield place, _value(answer)
        except ray.exceptions.RayError as error:
            raise RapgymError(_told(ray, error)) from error
        finally:
            for left in open_ones:
                ray.cancel(left, force=True)


def installed() -> dict[str, str]:
    """What must be the same wherever calls run, for the same answers."""
    return {
        "rapgym": provenance.VERSION,
        "package_sha256": provenance.package_sha256(),
        "numpy": importlib.metadata.version("numpy"),
    }


def outcome(wanted: Mapping[str, str], work: bytes) -> bytes:
    """On a worker: whether the call returned, and its answer or its error, pickled.

    Args:
        wanted: what `installed` says where the call comes from.
        work: pickled: a function or None, what it said there, and the call.
    """
    try:
        _check_same(
            installed(), wanted
        )  # before anything is looked up that another version may lack
        same, settled, call = pickle.loads(work)
        if same:
            _check_same({same.__name__: same()}, settled)
        return pickle.dumps((True, call()))
    except Exception as error:
        if not isinstance(error, RapgymError):  # whose message says it all
            error.add_note(f"on {platform.node()}:\n{traceback.format_exc()}")
        return pickle.dumps((False, _portable(error)))


def _task() -> Callable[[list[str], dict[str, str], bytes], bytes | None]:
    # Of a function inside a function Ray sends the code; of one of a module, its name. The code can
    # find rapgym first, or say that it is not there.
    def answer(path: list[str], wanted: dict[str, str], work: bytes) -> bytes | None:
        import importlib
        import sys

        sys.path[:] = [*path, *(each for each in sys.path if each not in path)]
        try:
            there = importlib.import_module("rapgym.jobs.on_ray")
        except ImportError:
            return None
        found: bytes = there.outcome(wanted, work)
        return found

    return answer


def _value(answer: bytes | None) -> Any:
    if answer is None:
        raise RapgymError(
            "a Ray worker finds no rapgym that it could work with: install "
            f"rapgym {provenance.VERSION} with the extra ray on every machine of the cluster"
        )
    returned, found = pickle.loads(answer)
    if not returned:
        raise found
    return found


def _check_same(here: Mapping[str, str], there: Mapping[str, str]) -> None:
    for name, value in there.items():
        if here[name] != value:
            raise RapgymError(
                f"the Ray worker on {platform.node()} has {name} {here[name][:12]}, where the command "
                f"was given it is {value[:12]}: the same rapgym and numpy must be on every machine of "
                "the cluster, and its code must be left alone while a command runs"
            )


def _portable(error: Exception) -> Exception:
    """The error, where it survives its way to another process; else one that says the same."""
    try:
        pickle.loads(pickle.dumps(error))
    except Exception:
        return RuntimeError(
            "\n".join([f"{type(error).__name__}: {error}", *getattr(error, "__notes__", [])])
        )
    return error


@contextmanager
def _cluster(ray: ModuleType, address: str, jobs: int | None) -> Iterator[None]:
    """Connected to Ray while this lasts; the process's own connection, where it has one, stays."""
    if ray.is_initialized():
        yield
        return
    own: dict[str, Any] = {"num_cpus": jobs, "include_dashboard": False} if address == LOCAL else {}
    _check_reachable(address)
    before, variables = signal.getsignal(signal.SIGTERM), dict(os.environ)
    try:
        try:
            ray.init(address, **own, log_to_driver=False, logging_level=logging.ERROR)
        except (OSError, RuntimeError, ValueError, ray.exceptions.RayError) as error:
            raise RapgymError(
                f"no work on Ray at {address}: {_first_line(error)}. Where the cluster wants a token, "
                "set RAY_AUTH_MODE=token and RAY_AUTH_TOKEN; without --ray the work is done here"
            ) from error
        yield
    finally:
        ray.shutdown()
        for name in _OVERWRITTEN:
            os.environ.pop(name, None)
            os.environ |= {name: variables[name]} if name in variables else {}
        if threading.current_thread() is threading.main_thread() and before is not None:
            signal.signal(signal.SIGTERM, before)  # Ray has put its own there


def _check_reachable(address: str) -> None:
    if address in (LOCAL, RUNNING):
        return
    host, _, port = address.removeprefix("ray://").rpartition(":")
    try:
        socket.create_connection((host.strip("[]"), int(port)), timeout=REACH_S).close()
    except (OSError, ValueError) as error:
        raise RapgymError(
            f"nothing answers at {address} ({_first_line(error)}); start a cluster there with: ray "
            "start --head"
        ) from error


def _told(ray: ModuleType, error: Exception) -> str:
    again = "what was finished is kept: run the same command again"
    died = (
        ray.exceptions.WorkerCrashedError,
        ray.exceptions.NodeDiedError,
        ray.exceptions.OutOfMemoryError,
    )
    if isinstance(error, died):
        return (
            f"a Ray worker died in one call {TIMES_AGAIN + 1} times, perhaps for want of memory; "
            f"{again}, with fewer --jobs"
        )
    return f"Ray could not finish a call ({_first_line(error)}); {again}"


def _first_line(error: Exception) -> str:
    return f"{error}".strip().partition("\n")[0] or type(error).__name__


def _ray() -> ModuleType:
    try:
        import ray
        import ray.exceptions
    except ImportError as error:
        raise MissingExtra("ray is not installed; run: pip install 'rapgym[ray]'") from error
    module: ModuleType = ray
    return module
