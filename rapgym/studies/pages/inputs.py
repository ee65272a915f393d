"""The formats that traces are read from, as docs/own-traces.md lists them."""

from rapgym.report.markdown import table
from rapgym.workload.inputs import formats

HEADS = ("format", "known by", "time", "unit", "what is counted")


def page() -> str:
    """A table of the formats of requests, and one of those of memory."""
    parts = []
    for kind, title in (("requests", "Requests"), ("memory", "Memory in use")):
        rows = [
            [
                each.name,
                each.told_by,
                formats.CLOCKS[each.clock],
                each.unit or "by name, size or text",
                each.counted,
            ]
            for each in formats.KINDS[kind]
        ]
        parts.append(f"{title}:\n\n{table(HEADS, rows, left=len(HEADS))}")
    return "\n\n".join(parts)
