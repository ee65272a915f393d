"""Fill the generated parts of README.md from the committed results: `make readme`.

With --check nothing is written, and the exit code says whether README.md is what it would become.
"""

import argparse
import sys
from pathlib import Path
from typing import Any

from rapgym import cli, report, results
from rapgym.lanes import Lanes
from rapgym.policies import registry
from rapgym.scenario import SCENARIOS
from rapgym.suitability import numbers

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "benchmarks" / "results" / "bench.csv.gz"


def bench(header: dict[str, Any]) -> str:
    """The scores of every scenario, and where they come from."""
    entries = header["entries"]
    origin = (
        f"Made by `rapgym bench --out {RESULTS.relative_to(ROOT)}` on {header['date'][:10]}, table "
        f"`{'`, `'.join(header['tables'])}`; `rapgym verify` of that file replays every row. "
        "Decision times are of the machine that ran it."
    )
    return "\n\n".join([findings(entries), report.markdown(entries).strip(), legend(), origin])


def legend() -> str:
    return (
        "Adaptivity: 0 is the best static set of today's practice, 100 a bound that no plan can "
        "beat. Foresight: 0 is the frontier lookup, 100 the bound; 95 % intervals by a block "
        "bootstrap over rows; the error of the quality table is not in them. Costs are nats an output token above the dense model, on test text, with "
        "their four terms; `=` marks policies that cannot be told from the best. us: "
        "microseconds of one decision; passes: forward passes over calibration text that the "
        "method needs; unmeas.: share of rows whose quality was predicted, not measured."
    )


def findings(entries: list[dict[str, Any]]) -> str:
    """What the table says, in words."""
    lines = []
    for name, group in report.by_scenario(entries).items():
        by = {entry["policy"]: entry for entry in group}
        static, lookup, bound = (by[p]["cost"] for p in ("static-best", "frontier", "bound"))
        real = [entry for entry in group if entry["kind"] != "bound"]
        best, tied = real[0], [entry["policy"] for entry in real[1:] if entry["tied_for_best"]]
        text = (
            f"- **{name}**: the best static set costs {static:.2f} nats a token, the frontier lookup "
            f"{lookup:.3f}, the bound {bound:.3f}: adapting at all is worth "
            f"{by['frontier']['adaptivity']:.0f} of 100 points. The lowest cost on test has "
            f"`{best['policy']}`, {best['cost']:.3f}"
        )
        if tied:
            text += f", not told apart from {', '.join(f'`{policy}`' for policy in tied)}"
        sure = best["low"] is not None and best["low"] > 0
        text += (
            f"; it has {best['foresight']:.0f} points of foresight [{best['low']:.0f}, "
            f"{best['high']:.0f}], because emergencies cost the lookup "
            f"{by['frontier']['emergency']:.3f} and it {best['emergency']:.3f}."
            if sure
            else "; nothing tried here surely decides better than the lookup."
        )
        lines.append(text)
    return "\n".join(lines)


def commands() -> str:
    """Every command with its line of help."""
    parser = cli.parser()
    subparsers = next(a for a in parser._actions if isinstance(a, argparse._SubParsersAction))
    rows = ["| command | what it does |", "| --- | --- |"]
    rows += [f"| `rapgym {a.dest}` | {a.help} |" for a in subparsers._choices_actions]
    return "\n".join(rows)


def scenarios() -> str:
    """The stories, and what follows from them."""
    rows = [
        "| scenario | story | card, GiB | served | W, s | dense fits, train | token scale | byte scale |",
        "| --- | --- | ---: | --- | ---: | ---: | ---: | ---: |",
    ]
    for story in SCENARIOS:
        found = numbers(story)
        rows.append(
            f"| `{story.name}` | {story.story} | {story.card_gib:g} | {story.served} | "
            f"{story.window_s} | {found['train_rows_where_dense_fits']:.0%} | "
            f"{found['token_scale']:.4f} | {found['byte_scale']:.4f} |"
        )
    return "\n".join(rows)


def observation() -> str:
    """Every part of the observation of RAP-v0."""
    layout = Lanes(SCENARIOS[0], "train", 1, small_steps=True).layout
    rows = ["| part | entries | range | what it is |", "| --- | ---: | --- | --- |"]
    rows += [
        f"| `{part.name}` | {part.size} | {part.low:g} to {part.high:g} | {part.meaning} |"
        for part in layout.parts
    ]
    return "\n".join(rows)


def policies() -> str:
    """What is compared."""
    rows = ["| policy | kind | what it does |", "| --- | --- | --- |"]
    rows += [f"| `{e.name}` | {e.kind} | {e.summary} |" for e in registry.POLICIES]
    return "\n".join(rows)


def filled(text: str) -> str:
    """README.md with every generated part as it should be."""
    header = results.read(RESULTS).header
    parts = {
        "bench": bench(header),
        "commands": commands(),
        "scenarios": scenarios(),
        "policies": policies(),
        "observation": observation(),
    }
    for name, content in parts.items():
        begin, end = f"<!-- begin:{name} -->\n", f"<!-- end:{name} -->"
        before, found, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not found or not closed:
            raise SystemExit(f"README.md lacks the markers of {name}")
        text = f"{before}{begin}{content}\n{end}{after}"
    return text


def main() -> int:
    check = "--check" in sys.argv[1:]
    path = ROOT / "README.md"
    now = path.read_text()
    wanted = filled(now)
    if check:
        if now != wanted:
            print("README.md is not what its results give; run: make readme", file=sys.stderr)
        return int(now != wanted)
    path.write_text(wanted)
    return 0


if __name__ == "__main__":
    sys.exit(main())
