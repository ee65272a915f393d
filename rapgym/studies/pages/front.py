"""The generated parts of README.md: figure, advice to an engineer, findings, one table."""

from collections.abc import Sequence

from rapgym.bench.cells import ADMISSION
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
    shares, beaten = list[float](), list[str]()
    for group in groups:
        cost = {entry.policy: entry.cost for entry in group}
        shares.append(cost["frontier"] / cost[ADMISSION])
        whole = min(findings.unpruned(group), key=lambda entry: entry.cost)
        if findings.against(whole) == "costs more than the champion":
            beaten.append(bench_report.plain(group[0].scenario))
    return (
        "**You must decide for a service.** Deploy the whole model in 8 bits first, and stop where it "
        f"fits. On the {len(groups)} cards of the headline it does not: there, dropping blocks at run time (the "
        f"lookup) costs {min(shares):.0%} to {max(shares):.0%} of what refusing requests costs, and the "
        "cheapest format that is left whole costs more than the champion, beyond chance, on "
        f"{bench_report.some(beaten, len(groups))}; on the others these rows cannot tell. "
        "[All findings](docs/results.md) and [their limits](docs/limits.md)."
    )


def brief(entries: Sequence[Score]) -> str:
    """Whether adapting, deciding better and learning pay, a paragraph each, and on what all of it rests."""
    groups = headline(entries)
    said = (findings.worth(groups), findings.trimmed(groups), findings.beside_lookup(groups),
            learning_findings.beside_unlearned(groups))  # fmt: skip
    rests = bench_report.beyond(groups)
    lines = [text.removesuffix(rests) for text in said]
    lines.append(bench_report.beyond(groups, "all of this").strip())
    return "\n".join(f"- {text}" for text in lines if text)


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
