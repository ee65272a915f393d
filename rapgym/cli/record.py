"""`rapgym record`: memory in use, or requests and their lengths, recorded into a trace."""

import argparse
import json
import math
import signal
import sys
import threading
import time
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapgym.cli import COMMANDS, Subparsers, at_least, own_traces
from rapgym.files.shown import shown
from rapgym.workload.inputs import formats

if TYPE_CHECKING:
    from rapgym.errors import RapgymError
    from rapgym.recorder.answer_usage import Lengths
    from rapgym.recorder.work_file import Finished, WorkFile
    from rapgym.workload.trace import MemoryTrace, RequestTrace

DRAIN_S = 10.0  # for requests that are being answered as a recording by proxy ends


def add(subparsers: Subparsers) -> None:
    """Register `record`."""
    command = subparsers.add_parser(
        "record",
        help=COMMANDS["record"],
        description="Records until --seconds have passed, Ctrl-C or SIGTERM. Meanwhile rows lie in "
        "TRACE.recording, which outlives kill -9: what a killed recorder left is saved at the next "
        "start under a name of its own, or by --finish. It keeps no text.",
        epilog="example: rapgym record --out memory.csv.gz --seconds 3600; requests, through a proxy "
        "before the server: rapgym record --out requests.csv.gz --proxy 8001 --upstream "
        "http://localhost:8000; or out of its log: rapgym record --out requests.csv.gz --access-log "
        "server.log; or samples of memory that nvidia-smi or DCGM wrote: rapgym record --out memory.csv.gz "
        "--memory-log smi.csv; then: rapgym bench --trace memory.csv.gz --requests requests.csv.gz --card 80",
    )
    command.add_argument(
        "--out", type=Path, required=True, metavar="TRACE", help="a new .csv or .csv.gz file"
    )
    command.add_argument(
        "--finish", action="store_true", help="make TRACE of what a killed recorder left, and end"
    )
    command.add_argument(
        "--interval", type=float, default=0.5, metavar="S", help="between samples of memory (0.5)"
    )
    command.add_argument(
        "--seconds", type=float, default=math.inf, metavar="N", help="end by itself after so long"
    )
    what = command.add_mutually_exclusive_group()
    what.add_argument(
        "--pid", type=at_least(1), action="append", metavar="PID",
        help="memory of this process alone, not of the machine; several are added up",
    )  # fmt: skip
    what.add_argument(
        "--access-log",
        type=Path,
        metavar="FILE",
        help=f"requests out of a file: {formats.named('requests')} (docs/own-traces.md)",
    )
    what.add_argument(
        "--memory-log", type=Path, metavar="FILE",
        help=f"samples of memory out of a file: {formats.named('memory')}",
    )  # fmt: skip
    what.add_argument(
        "--proxy", metavar="[HOST:]PORT",
        help="requests through a proxy that listens here (on this machine alone unless HOST says "
        "otherwise) and passes them on to --upstream",
    )  # fmt: skip
    own_traces.add_reading(command, "with --access-log or --memory-log")
    command.add_argument(
        "--gpu",
        metavar="I",
        help="memory of this NVIDIA GPU; with --memory-log, which of a file's GPUs",
    )
    command.add_argument("--upstream", metavar="URL", help="the OpenAI-compatible server behind it")
    command.add_argument(
        "--less", type=at_least(1), action="append", default=[], metavar="PID",
        help="leave this process's memory out: of your own model server, for what is recorded is what others "
        "use; without it the server is taken for one of those who share the card",
    )  # fmt: skip
    command.add_argument("--json", action="store_true", help="print JSON")
    command.add_argument("--quiet", action="store_true", help="no progress line")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from rapgym.errors import InvalidTrace, RapgymError
    from rapgym.recorder import work_file

    _check(arguments)
    if arguments.finish:
        return _print(arguments, _summary(work_file.finish(arguments.out)))
    if arguments.access_log is not None or arguments.memory_log is not None:
        return _print(arguments, _of_log(arguments))
    if left := work_file.finish_left_over(arguments.out):
        print(f"a recording that was killed is saved as {left.path}", file=sys.stderr)
    handlers = {each: signal.signal(each, signal.default_int_handler) for each in _ENDING_SIGNALS}
    try:
        _record_memory(arguments) if arguments.proxy is None else _record_requests(arguments)
    except KeyboardInterrupt:
        pass  # this is how a recording without an end is ended
    except RapgymError as error:
        raise _with_what_is_saved(error, arguments.out) from error
    finally:
        for each, handler in handlers.items():
            signal.signal(each, handler)
    if not work_file.work_path(arguments.out).exists():
        raise InvalidTrace(f"nothing was recorded: there is no {arguments.out}")
    return _print(arguments, _summary(work_file.finish(arguments.out)))


def _with_what_is_saved(error: "RapgymError", out: Path) -> "RapgymError":
    """An error that ended a recording, with where its rows are and how they become a trace."""
    from rapgym.errors import InvalidSpec
    from rapgym.recorder import work_file

    path = work_file.work_path(out)
    if isinstance(error, InvalidSpec) or not path.exists():
        return error
    return type(error)(
        f"{error}; what was recorded until then is saved in {path}: make a trace of it with rapgym record "
        f"--finish --out {out}"
    )


_ENDING_SIGNALS = [getattr(signal, name) for name in ("SIGTERM", "SIGHUP") if hasattr(signal, name)]


def _check(arguments: argparse.Namespace) -> None:
    from rapgym.errors import InvalidSpec

    if (arguments.proxy is None) != (arguments.upstream is None):
        raise InvalidSpec("--proxy and --upstream go together: where it listens, and for whom")
    is_log = arguments.access_log is not None or arguments.memory_log is not None
    if arguments.less and (arguments.pid or arguments.proxy or is_log):
        raise InvalidSpec("--less is for memory of the machine or of a GPU")
    if arguments.gpu is not None and arguments.memory_log is None:
        if arguments.pid or arguments.proxy or is_log:
            raise InvalidSpec("--gpu is for memory: it stands alone, or with --memory-log")
        if not (arguments.gpu.isascii() and arguments.gpu.isdecimal()):
            raise InvalidSpec(f"--gpu {arguments.gpu!r} is no GPU's number; see nvidia-smi -L")
    if (arguments.unit or arguments.timezone) and not is_log:
        raise InvalidSpec("--unit, --utc and --timezone are for --access-log and --memory-log")


def _record_memory(arguments: argparse.Namespace) -> None:
    from rapgym.recorder import meters, sampling
    from rapgym.recorder.work_file import WorkFile

    if arguments.gpu is not None:
        meter, source = meters.gpu(int(arguments.gpu), arguments.less), f"gpu {arguments.gpu}"
    elif arguments.pid:
        meter, source = meters.processes(arguments.pid), "processes"
    else:
        meter, source = meters.system(arguments.less), "system"
    about = {"interval_s": arguments.interval, "source": source}
    with WorkFile(arguments.out, "memory", about) as work:
        watch = _Watch(arguments)
        sampling.sample(
            meter,
            work,
            arguments.interval,
            arguments.seconds,
            told=lambda t_s, used: watch.tell(t_s, f"{used / (1 << 30):.3f} GiB in use"),
            missed=watch.miss,
        )
        if watch.missed:
            print(f"{watch.missed} readings failed: the sample before each holds", file=sys.stderr)  # fmt: skip


def _record_requests(arguments: argparse.Namespace) -> None:
    from rapgym.recorder import proxy
    from rapgym.recorder.work_file import WorkFile

    listen = proxy.address(arguments.proxy)
    proxy.upstream_url(arguments.upstream)
    with WorkFile(arguments.out, "requests", {"source": "proxy"}) as work:

        def note(arrival_s: float, lengths: "Lengths") -> None:
            work.append(
                arrival_s, lengths.prompt_tokens, lengths.output_tokens, int(lengths.estimated)
            )

        with proxy.Proxy(listen, arguments.upstream, work.elapsed_s, note) as server:
            host, port = server.server_name, server.server_port
            print(f"listening on http://{host}:{port}", file=sys.stderr, flush=True)
            threading.Thread(target=server.serve_forever, args=(0.05,), daemon=True).start()
            try:
                _wait(arguments, work, server)
            finally:
                server.shutdown()
                if left := server.drain(DRAIN_S):
                    print(f"{left} requests were still being answered: left out", file=sys.stderr)


def _wait(arguments: argparse.Namespace, work: "WorkFile", server: Any) -> None:
    """Until the time is over, or requests cannot be noted any more."""
    watch = _Watch(arguments)
    while work.elapsed_s() < arguments.seconds:
        time.sleep(max(0.0, min(0.2, arguments.seconds - work.elapsed_s())))
        if server.fault is not None:
            raise server.fault
        watch.tell(work.elapsed_s(), f"{work.rows} requests, {server.under_way} under way")


class _Watch:
    """Prints where a recording stands: on a terminal twice a second at most, else once a minute."""

    def __init__(self, arguments: argparse.Namespace) -> None:
        self.quiet, self.seconds = arguments.quiet, arguments.seconds
        self.live = sys.stderr.isatty()
        self.next_s = 0.0
        self.missed = 0

    def miss(self, t_s: float, error: Exception) -> None:
        """Count a reading that failed; the first is said."""
        self.missed += 1
        if self.missed == 1:
            print(f"record {t_s:.0f} s: a reading failed ({error}); going on", file=sys.stderr)

    def tell(self, t_s: float, state: str) -> None:
        if self.quiet or t_s < self.next_s:
            return
        self.next_s = t_s + (0.5 if self.live else 60.0)
        of = f" of {self.seconds:.0f}" if math.isfinite(self.seconds) else ", end with Ctrl-C"
        text = f"record {t_s:.0f} s{of}: {state}"
        print(f"\r\x1b[K{text}" if self.live else text, end="" if self.live else "\n",
              file=sys.stderr, flush=True)  # fmt: skip


def _of_log(arguments: argparse.Namespace) -> dict[str, Any]:
    """A trace of a file that others wrote; what was left out of it is said."""
    from rapgym.errors import InvalidSpec
    from rapgym.workload import trace
    from rapgym.workload.inputs import memory, requests
    from rapgym.workload.inputs.how import UNREADABLE

    out: Path = arguments.out
    if not out.name.endswith((".csv", ".csv.gz")):
        raise InvalidSpec(f"{out}: a trace is a .csv or a .csv.gz file")
    if out.exists():
        raise InvalidSpec(f"{out} is there already: name another with --out, or move it away")
    how = own_traces.how(arguments)
    found: RequestTrace | MemoryTrace
    if arguments.memory_log is not None:
        path, (found, report) = arguments.memory_log, memory.read(arguments.memory_log, how)
        trace.write_memory(found, out)
    else:
        path, (found, report) = arguments.access_log, requests.read(arguments.access_log, how)
        trace.write_requests(found, out)
    for line in report.sentences():
        print(shown(f"{path}: {line}"), file=sys.stderr)
    told = {"damaged_rows": report.left_out.get(UNREADABLE, 0), "left_out": dict(report.left_out),
            "estimated_rows": report.estimated, "format": report.format}  # fmt: skip
    return _of_trace(out, found) | told


def _summary(found: "Finished") -> dict[str, Any]:
    damaged = {"damaged_rows": found.damaged_rows, "estimated_rows": found.estimated_rows}
    return _of_trace(found.path, found.trace) | damaged | found.about


def _of_trace(path: Path, found: Any) -> dict[str, Any]:
    from rapgym.workload.trace import MemoryTrace

    summary: dict[str, Any] = {"file": str(path), "rows": len(found)}
    wall_s = found.start_wall_s
    summary["start_wall_s"] = None if math.isnan(wall_s) else wall_s
    if isinstance(found, MemoryTrace):
        used = found.used_bytes
        return summary | {"seconds": float(found.t_s[-1]), "min_bytes": int(used.min()),
                          "mean_bytes": round(float(used.mean())), "max_bytes": int(used.max())}  # fmt: skip
    return summary | {
        "seconds": float(found.arrival_s[-1]),
        "prompt_tokens": int(found.prompt_tokens.sum()),
        "output_tokens": int(found.output_tokens.sum()),
    }


def _print(arguments: argparse.Namespace, summary: dict[str, Any]) -> int:
    if arguments.json:
        print(json.dumps(summary, indent=2))
        return 0
    if sys.stderr.isatty() and not arguments.quiet:
        print(file=sys.stderr)  # after the progress line
    for name, value in summary.items():
        if isinstance(value, dict):
            value = ", ".join(f"{rows} {reason}" for reason, rows in value.items()) or None
        print(f"{name.replace('_', ' '):<16} {'-' if value is None else value}")
    if summary.get("estimated_rows") and "format" not in summary:
        print(
            "estimated rows: the server told no usage for them (of streams it does if asked by "
            '"stream_options": {"include_usage": true})'
        )
    return 0
