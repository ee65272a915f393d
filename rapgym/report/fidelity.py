"""Text of a recorded run beside its simulation."""

from collections.abc import Mapping
from typing import Any

from rapgym.report.markdown import table

NAMES = {
    "ttft": "time to first token",
    "tpot": "time per output token",
    "e2e": "end to end",
    "makespan_s": "makespan",
    "output_tokens_per_s": "output tokens a second",
}
TICKS = {
    "running": "sequences running",
    "waiting": "sequences waiting",
    "kv_share": "KV cache in use",
}


def text(found: Mapping[str, Any]) -> str:
    """What `rapgym validate --recorded` prints of `rapgym.serving.validation.validated`."""
    lines = [
        f"{found['run']}: {found['requests']} requests, {_pages(found)}",
        f"profile {found['profile']['name']}, {_origin(found)}",
        "",
    ]
    rows = [
        [
            name_of(name),
            f"{each['measured']:.4f}",
            f"{each['simulated']:.4f}",
            f"{each['error']:+.2%}",
        ]
        for name, each in found["measures"].items()
    ]
    lines.append(table(("", "measured", "simulated", "error"), rows))
    if found["ticks"]:
        lines.append("")
    for name, missed in found["ticks"].items():
        by = f"{100 * missed:.1f} points" if name == "kv_share" else f"{missed:.2f}"
        lines.append(f"{TICKS[name]}, second by second: {by} apart in the mean")
    lines.append(
        f"{found['preemptions']} preemptions in {found['steps']} steps of the simulated engine"
    )
    return "\n".join(lines)


def _pages(found: Mapping[str, Any]) -> str:
    pages = found["pages"]
    known = "pages without limit" if pages is None else f"{pages} pages of KV cache"
    return f"{known} ({found['pages_from']})"


def _origin(found: Mapping[str, Any]) -> str:
    if found["fitted_here"]:
        return "fitted to the first half of this run"
    fitted_to = found["profile"]["provenance"].get("fitted_to")
    return f"fitted to {fitted_to}" if fitted_to else "assumed"


def name_of(name: str) -> str:
    part, _, rest = name.partition("_")
    return NAMES.get(name) or f"{NAMES[part]}, {rest.removesuffix('_s')}"
