"""`rapgym traces`: recorded workloads, whose they are, and how they get onto this machine."""

import argparse
import json
from typing import TYPE_CHECKING, Any

from rapgym.cli import COMMANDS, Subparsers
from rapgym.errors import DataUnavailable, WrongChecksum
from rapgym.files.shown import shown_lines
from rapgym.workload import sources
from rapgym.workload.sources import Source

if TYPE_CHECKING:
    from rapgym.workload.trace import MemoryTrace, RequestTrace

QUANTILES = {"p50": 0.5, "p90": 0.9, "p95": 0.95, "p99": 0.99}


def add(subparsers: Subparsers) -> None:
    """Register `traces list`, `traces show` and `traces pull`."""
    command = subparsers.add_parser(
        "traces",
        help=COMMANDS["traces"],
        description="Raw traces that scenarios are built from, their licences, and whether they "
        "are on this machine. The shipped scenarios run without them: their series are part of "
        "rapgym.",
        epilog="example: rapgym traces list",
    )
    actions = command.add_subparsers(metavar="ACTION", required=True)
    listing = actions.add_parser(
        "list", help="what there is", epilog="example: rapgym traces list --json"
    )
    listing.set_defaults(run=_list)
    show = actions.add_parser(
        "show",
        help="rows, duration, rates, lengths, licence",
        epilog="example: rapgym traces show azure-conv; pull it first where there is no mirror",
    )
    show.add_argument(
        "name",
        metavar="NAME",
        help="a name that `rapgym traces list` prints, or the path of a file of "
        "requests or of memory in use, in any format that rapgym record reads",
    )
    show.set_defaults(run=_show)
    pull = actions.add_parser(
        "pull",
        help="download a trace from its public source, once, and check it",
        epilog="example: rapgym traces pull azure-conv",
    )
    pull.add_argument("name", metavar="NAME", help="a name that `rapgym traces list` prints")
    pull.set_defaults(run=_pull)
    for action in (listing, show, pull):
        action.add_argument("--json", action="store_true", help="print JSON")


def _list(arguments: argparse.Namespace) -> int:
    rows = []
    for source in sources.SOURCES:
        file, state = None, "can be pulled" if source.url else "only a mirror has it"
        try:
            file, state = str(sources.path_of(source.name)), "here"
        except WrongChecksum:
            state = "damaged"
        except DataUnavailable:
            pass
        rows.append(_origin(source) | {"file": file, "state": state})
    if arguments.json:
        print(json.dumps(rows, indent=2))
        return 0
    for row in rows:
        print(f"{row['name']:<22} {row['licence']:<11} {row['file'] or row['state']}")
    return 0


def _show(arguments: argparse.Namespace) -> int:
    from rapgym.workload import loaders, names
    from rapgym.workload import own as own_traces

    known = {source.name: source for source in sources.SOURCES}
    name: str = arguments.name
    if names.is_shipped(name) or (names.is_path(name) and _is_memory(name)):
        summary = _of_memory(own_traces.memory_trace(name))
    elif name in names.REQUESTS or names.is_path(name):
        summary = _of_requests(loaders.load_requests(name))
    else:
        summary = _of_columns(sources.source_of(name).name)
    if name in known:
        summary |= _origin(known[name])
    if arguments.json:
        print(json.dumps(summary, indent=2))
        return 0
    width = max(map(len, summary))
    for field, value in summary.items():
        if isinstance(value, dict):
            value = "  ".join(f"{key} {number:g}" for key, number in value.items())
        print(shown_lines(f"{field:<{width}}  {'-' if value is None else value}"))
    return 0


def _pull(arguments: argparse.Namespace) -> int:
    path = str(sources.pull(arguments.name))
    print(json.dumps({"name": arguments.name, "file": path}) if arguments.json else path)
    return 0


def _origin(source: Source) -> dict[str, Any]:
    return {
        "name": source.name,
        "licence": source.licence,
        "attribution": source.attribution,
        "schema": source.schema,
        "source": f"{source.repository}@{source.commit[:12]}: {source.origin}",
        "url": source.url,
        "sha256": source.sha256,
        "content_sha256": source.content_sha256,
    }


def _is_memory(name: str) -> bool:
    """Whether a file holds memory in use; one that cannot be read is left to others to refuse."""
    from rapgym.errors import RapgymError
    from rapgym.workload import own as own_traces

    try:
        own_traces.memory_trace(name)
    except RapgymError:
        return own_traces.is_of_memory(name)
    return True


def _of_memory(trace: "MemoryTrace") -> dict[str, Any]:
    """Samples, duration, the time between samples, and what was in use."""
    import numpy as np

    gib = trace.used_bytes / (1 << 30)
    steps = np.diff(trace.t_s)
    return {
        "name": trace.name,
        "rows": len(trace),
        "duration_s": round(float(trace.t_s[-1] - trace.t_s[0]), 6),
        "start_wall_s": None if np.isnan(trace.start_wall_s) else trace.start_wall_s,
        "interval_s": _spread(steps) if len(steps) else None,
        "used_gib": _spread(gib),
    }


def _of_requests(trace: "RequestTrace") -> dict[str, Any]:
    """Rows, duration, rates and lengths. A rate of one second or minute is a count of whole bins."""
    import numpy as np

    duration_s = float(trace.arrival_s[-1] - trace.arrival_s[0])
    rates = {"mean": len(trace) / duration_s} if duration_s else {}
    for label, bin_s in (("busiest_minute", 60), ("busiest_second", 1)):
        starts = (trace.arrival_s - trace.arrival_s[0]) // bin_s
        rates[label] = float(np.unique(starts, return_counts=True)[1].max() / bin_s)
    return {
        "name": trace.name,
        "rows": len(trace),
        "duration_s": round(duration_s, 6),
        "start_wall_s": None if np.isnan(trace.start_wall_s) else trace.start_wall_s,
        "requests_per_s": {key: round(rate, 3) for key, rate in rates.items()},
        "prompt_tokens": _spread(trace.prompt_tokens),
        "output_tokens": _spread(trace.output_tokens),
    }


def _of_columns(name: str) -> dict[str, Any]:
    """Rows, and the spread of each column that holds numbers alone."""
    import numpy as np

    from rapgym.files import columns

    path = sources.path_of(name)
    first, _ = columns.first_apart(columns.lines_of(path, name))
    header = first.strip().split(",")
    table = columns.read(path, name, dict.fromkeys(header, "text"))
    summary: dict[str, Any] = {"name": name, "rows": len(table[header[0]])}
    for column in header:
        try:
            summary[column] = _spread(table[column].astype(np.float64))
        except ValueError:
            summary[column] = ", ".join(np.unique(table[column])[:8].tolist())
    return summary


def _spread(values: Any) -> dict[str, float]:
    import numpy as np

    spread = {"min": float(values.min()), "mean": round(float(values.mean()), 3)}
    spread |= {key: float(np.quantile(values, at)) for key, at in QUANTILES.items()}
    return spread | {"max": float(values.max())}
