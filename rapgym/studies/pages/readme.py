"""Fill the generated parts of README.md, write RESULTS.md and model cards, from results: `make readme`.

With --check nothing is written, and the exit code says whether all are what they would become.
"""

import argparse
import sys

from rapgym import cli
from rapgym.bench import results
from rapgym.bench.results import Results
from rapgym.bench.suitability import numbers
from rapgym.files import places
from rapgym.policies import registry
from rapgym.rivals import rivals
from rapgym.scenarios.catalogue import SCENARIOS
from rapgym.scenarios.lanes import Lanes
from rapgym.studies.pages import cards
from rapgym.studies.pages import results as results_page

ROOT = places.PACKAGE.resolve().parent
RESULTS = places.RESULTS / "bench.csv.xz"
README, PAGE = ROOT / "README.md", ROOT / "baselines" / "results" / "RESULTS.md"
CARDS = ROOT / "baselines" / "cards"


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
    rows = ["| method | kind | what it does |", "| --- | --- | --- |"]
    rows += [f"| `{e.name}` | {e.kind} | {e.summary} |" for e in registry.POLICIES]
    rows += [f"| `{r.name}` | rival | {r.summary} |" for r in rivals.every()]
    return "\n".join(rows)


def filled(text: str, found: Results | None = None) -> str:
    """README.md with every generated part as it should be, from the bench's results."""
    parts = {
        "bench": results_page.short(found or results.read(RESULTS), RESULTS.parent),
        "commands": commands(),
        "scenarios": scenarios(),
        "policies": policies(),
        "observation": observation(),
    }
    for name, content in parts.items():
        begin, end = f"<!-- begin:{name} -->\n", f"<!-- end:{name} -->"
        before, opened, rest = text.partition(begin)
        _, closed, after = rest.partition(end)
        if not opened or not closed:
            raise SystemExit(f"README.md lacks the markers of {name}")
        text = f"{before}{begin}{content}\n{end}{after}"
    return text


def main() -> int:
    found = results.read(RESULTS)
    wanted = {
        README: filled(README.read_text(), found),
        PAGE: results_page.whole(found, RESULTS.parent),
        **{CARDS / name: text for name, text in cards.cards(found).items()},
    }
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    if "--check" in sys.argv[1:]:
        for path in stale:
            print(f"{path.name} is not what its results give; run: make readme", file=sys.stderr)
        return int(bool(stale))
    for path in stale:
        path.parent.mkdir(exist_ok=True)
        path.write_text(wanted[path])
    return 0


if __name__ == "__main__":
    sys.exit(main())
