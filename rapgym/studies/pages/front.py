"""The generated parts of README.md: figure, advice to an engineer, findings, one table."""

from collections.abc import Sequence

from rapgym.bench.records import Score
from rapgym.report import bench as bench_report
from rapgym.report import findings
from rapgym.report import learning as learning_findings
from rapgym.report.markdown import table
from rapgym.studies.pages import figure
from rapgym.studies.pages.figure import best_of_8_bits, champion, headline


def image(entries: Sequence[Score], path: str) -> str:
    """The figure, with what it shows for those who do not see it."""
    return f"![Cost by scenario. {figure.told(entries)}]({path})"


def decide(entries: Sequence[Score]) -> str:
    """What the results mean for somebody who has to serve a model."""
    groups = headline(entries)
    below, fits, pays = (list[str](), list[str](), list[str]())
    for group in groups:
        name = bench_report.plain(group[0].scenario)
        pruned = next(e for e in group if e.policy == findings.EIGHT_BITS + findings.PRUNED)
        if findings.against(best_of_8_bits(group)) == findings.BELOW_BOUND:
            below.append(name)
        if findings.fits_always(group):
            fits.append(name)
        if findings.beside_unpruned(pruned) == "costs less":
            pays.append(name)
    return (
        "**You must decide for a service.** Deploy the whole model in 8 bits first: it costs less "
        f"than any pruning could on {bench_report.some(below, len(groups))}, and fits in every second of "
        f"{bench_report.some(fits)}. Prune at run time where even that does not fit: on top of 8 bits it "
        f"pays on {bench_report.some(pays)}. "
        "[All findings](docs/results.md) and [their limits](docs/limits.md)."
    )


def brief(entries: Sequence[Score]) -> str:
    """Whether adapting, deciding better and learning pay, a paragraph each."""
    groups = headline(entries)
    said = (findings.worth(groups), findings.beside_lookup(groups))
    return "\n".join(f"- {text}" for text in (*said, learning_findings.beside_unlearned(groups)))


def costs(entries: Sequence[Score]) -> str:
    """What each scenario of the headline costs."""
    rows = []
    for group in headline(entries):
        cost = {entry.policy: entry.cost for entry in group}
        chosen, whole = champion(group), best_of_8_bits(group)
        rows.append(
            [
                f"`{bench_report.plain(group[0].scenario)}`",
                f"{cost['frontier']:.3f}",
                f"{chosen.cost:.3f} `{chosen.policy}`",
                f"{cost['bound']:.3f}",
                f"{whole.cost:.3f}",
            ]
        )
    return table(("scenario", "lookup", "champion", "bound", "whole model, 8 bits"), rows)
