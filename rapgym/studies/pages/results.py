"""The results as Markdown: what docs/results.md says, and the whole of RESULTS.md."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from rapgym.bench.records import Score
from rapgym.bench.results import Results
from rapgym.bench.suitability import Load, load
from rapgym.quality import header as table_header
from rapgym.quality.table import QualityTable
from rapgym.report import bench as bench_report
from rapgym.report import beside, findings, validation
from rapgym.report import learning as learning_findings
from rapgym.report import sensitivity as sensitivity_report
from rapgym.report.markdown import table
from rapgym.scenarios import catalogue
from rapgym.studies.causal import page as causal_page
from rapgym.studies.pages import days as days_page
from rapgym.studies.pages import figure
from rapgym.studies.pages import learning as learning_page
from rapgym.studies.pages import serving as serving_page
from rapgym.studies.predictors import page as predictor_page


def said(found: Results, folder: Path) -> str:
    """What was found over all scenarios, a paragraph each; `folder` holds the other results."""
    known, carried = beside.read(folder, "causal.json"), beside.read(folder, "learning.json")
    told = [
        *findings.overall(found.scores),
        *([causal_page.sentence(known)] if known else []),
        *([learning_page.carried(carried)] if carried else []),
    ]
    return "\n".join(f"- {text}" for text in told)


def section(folder: Path, name: str, write: Callable[[dict[str, Any]], str], command: str) -> str:
    """A section from a results file, or how to make the file."""
    found = beside.read(folder, name)
    if found is None:
        return f"Not made for these worlds yet: `{command}` makes it."
    return write(found)


def costs(entries: Sequence[Score]) -> str:
    """What each scenario costs."""
    rows = []
    for name, group in bench_report.by_scenario(entries).items():
        by = {entry.policy: entry for entry in group}
        champion, learned = figure.champion(group), learning_findings.champions(group)
        rows.append(
            [
                _marked(name, champion),
                f"{by['static-best'].cost:.3f}",
                f"{by['frontier'].cost:.3f}",
                f"`{champion.policy}` {champion.cost:.3f}",
                f"`{learned[0].policy}` {learned[0].cost:.3f}" if learned else "-",
                f"{by['bound'].cost:.3f}",
            ]
        )
    return table(("scenario", "static", "lookup", "champion", "learned champion", "bound"), rows)


def points(entries: Sequence[Score]) -> str:
    """The same on the two scales."""
    rows = []
    for name, group in bench_report.by_scenario(entries).items():
        lookup = next(entry for entry in group if entry.policy == "frontier")
        champion, lead = figure.champion(group), learning_findings.lead(group)
        blind = learning_findings.blind_share(group)
        choice = bench_report.interval_of(champion.champion_low, champion.champion_high)
        rows.append(
            [
                _marked(name, champion),
                bench_report.interval(lookup.gain, lookup.gain_low, lookup.gain_high),
                "-" if blind is None else f"{blind:.0%}",
                "-" if champion.foresight is None else f"{champion.foresight:.0f}",
                choice,
                "-" if champion.p_holm is None else bench_report.shown_p(champion.p_holm),
                champion.verdict or "-",
                "-" if champion.least_effect is None else f"{champion.least_effect:.4f}",
                bench_report.rests_on(champion),
                "-" if lead is None else f"{lead[0]:+.0f} [{lead[1]:.0f}, {lead[2]:.0f}]",
            ]
        )
    heads = ("scenario", "gain of the lookup", "share of `dqn`", "foresight of the champion",
             "from lookup [95 %]", "Holm p", "verdict", "least effect", "rests on",
             "lead of the learned one")  # fmt: skip
    return table(heads, rows)


def formats(entries: Sequence[Score]) -> str:
    """What rivals cost that leave the model whole, and pruning on top of 8 bits."""
    rows = []
    for name, group in bench_report.by_scenario(entries).items():
        by = {entry.policy: entry for entry in group}
        whole = sorted(findings.unpruned(group), key=lambda entry: entry.cost)
        four = [entry for entry in whole if findings.FOUR_BITS in entry.policy]
        on_top = by.get(findings.EIGHT_BITS + findings.PRUNED)
        fits = findings.fits_always(group)
        rows.append(
            [
                _marked(name, group[0]),
                *(_rival(some[0]) if some else "-" for some in (whole, four)),
                f"{on_top.cost:.3f}, {findings.beside_unpruned(on_top)}" if on_top else "-",
                "-" if fits is None else "yes" if fits else "no",
            ]
        )
    heads = (
        "scenario",
        "cheapest, whole model",
        "cheapest of 4 bits",
        "8 bits, pruned",
        "8 bits always fit",
    )
    return table(heads, rows, left=len(heads))


def _marked(name: str, entry: Score) -> str:
    return f"`{name}`" + ("" if entry.headline else " (outside the headline)")


def _rival(rival: Score) -> str:
    return f"`{rival.policy}` {rival.cost:.3f}, {findings.against(rival)}"


def origin(found: Results) -> str:
    """Where the numbers come from."""
    return (
        "Made by `rapgym bench --out baselines/results/bench.csv.xz` on "
        f"{found.header['date'][:10]}, table `{'`, `'.join(found.header['tables'])}`; `rapgym verify` "
        "of that file replays every row. Decision times are of the machine that ran it, all its cores "
        "busy."
    )


def whole(found: Results, folder: Path) -> str:
    """RESULTS.md: every table, from the results files of `folder`."""
    entries = found.scores
    parts = [
        "# Results",
        "Made by `make readme` from the files beside it; [the words](../../docs/words.md) "
        "have a page of their own. No result is typed by hand.",
        "## Scenarios and methods",
        origin(found),
        "\n".join(f"- {sentence}" for sentence in findings.sentences(entries)),
        bench_report.LEGEND.replace("\n", " "),
        bench_report.markdown(entries).strip(),
        "## Days",
        days_page.whole(folder),
        "## Learning",
        learning_page.champions(entries),
        section(
            folder,
            "learning.json",
            learning_page.section,
            "python -m rapgym.studies.learning ablations transfer finetune",
        ),
        "## How much can be known",
        section(
            folder, "causal.json", causal_page.section, "python -m rapgym.studies.causal.study"
        ),
        "## Rivals",
        rivals(found),
        "## At other values of C",
        ceilings(found.header["rankings"]),
        "## Sensitivity",
        "Made by `python -m rapgym.studies.sensitivity`. One number of a scenario changes at a time.",
        section(
            folder,
            "sensitivity.json",
            lambda told: sensitivity_report.markdown(told).strip(),
            "make sensitivity",
        ),
        "## Which card a scenario gets",
        section(folder, "choice.json", cards_chosen, "python -m rapgym.studies.choice"),
        "## Where requests wait",
        "The serving engine, RAP-Serve-v0: nats an output token of every request that arrived. Rules "
        "are tuned on stretches of train, with as many settings as any method may try. Intervals are of "
        "95 %, by hours.",
        section(folder, "serving.json", serving_page.findings, "python -m rapgym.studies.serving"),
        "## Which card and load a serving scenario gets",
        section(
            folder,
            "serving_choice.json",
            serving_page.chosen,
            "python -m rapgym.studies.serving_choice",
        ),
        "## Quality beyond perplexity",
        section(folder, "quality.json", beyond, "python -m rapgym.studies.quality"),
        "## On a machine",
        section(
            folder,
            "validate-cpu.json",
            machine,
            "rapgym validate --out baselines/results/validate-cpu.json",
        ),
        "## Predictors",
        section(
            folder,
            "predictors.json",
            predictor_page.section,
            "python -m rapgym.studies.predictors.study",
        ),
        "## How train and test differ in load",
        loads(),
        "## Draws of calibration text",
        draws(found),
    ]
    return "\n\n".join(parts) + "\n"


def cards_chosen(found: dict[str, Any]) -> str:
    """What each card would have cost on train, and the one that the rule took."""
    rows = []
    for entry in found["entries"]:
        costs = dict(entry["costs"])
        lookup = costs.pop("frontier")
        best = min(costs, key=lambda name: costs[name])
        taken = found["chosen"][entry["scenario"]] == entry["card_gib"]
        rows.append(
            [
                f"`{bench_report.plain(entry['scenario'])}`",
                f"{entry['card_gib']:g}" + (" (taken)" if taken else ""),
                f"{entry['full_fits_seconds']:.0%}",
                f"{lookup:.4f}",
                f"`{best}` {costs[best]:.4f}",
                entry["why_not"] or "passes",
            ]
        )
    heads = ("scenario", "card, GiB", "full model fits, seconds", "lookup", "cheapest other", "")
    return found["rule"] + "\n\n" + table(heads, rows)


def machine(found: dict[str, Any]) -> str:
    """Rows of a scenario on a live model, predicted against measured."""
    return f"Printed by `rapgym validate`; `told` is the simulator.\n\n```text\n{validation.text(found)}\n```"


def rivals(found: Results) -> str:
    """Costs of rivals beside the best policy and the bound."""
    groups = bench_report.by_scenario(found.scores)
    names = list(dict.fromkeys(e.policy for g in groups.values() for e in g if e.is_rival))
    rows = []
    for name, group in groups.items():
        by = {entry.policy: entry for entry in group}
        champion = next(entry for entry in group if "all" in entry.champion)
        cells = [f"`{champion.policy}` {champion.cost:.3f}", f"{by['bound'].cost:.3f}"]
        cells += [f"{by[rival].cost:.3f}" if rival in by else "-" for rival in names]
        rows.append([f"`{name}`", *cells])
    told = (
        "Nats an output token above the full bf16 model, in the served model's own bytes. Rivals serve the full model, but for "
        "those that prune (by the frontier lookup, with a quality table of their format, of fewer sets and, "
        "of some, less text than that in bf16: `rapgym tables list`): a static format "
        "is refused with its whole batch where it does not fit; with admission, only the newest requests "
        "are; weight streaming reads what does not fit at every forward pass."
    )
    return told + "\n\n" + table(["scenario", "champion", "bound", *names], rows)


def ceilings(rankings: Sequence[dict[str, Any]]) -> str:
    """The six cheapest at each C, from the same proposals."""
    rows = [
        [
            f"`{ranking['scenario']}`",
            f"{ranking['ceiling']:g}",
            ", ".join(
                f"{policy} {ranking['costs'][policy]:.3f}" for policy in ranking["ranking"][:6]
            ),
        ]
        for ranking in rankings
    ]
    told = (
        "The same proposals priced at another cost of a token that is not served; the six cheapest. "
        "Nothing is tuned again here (below, under sensitivity, it is)."
    )
    return told + "\n\n" + table(["scenario", "C, nats", "cheapest first"], rows, left=3)


def beyond(found: dict[str, Any]) -> str:
    """Text quality and the four-way choice of the main sets and formats."""
    rows = [
        [
            each["name"],
            f"{each['nll']:.3f} ± {each['nll_se']:.3f}",
            f"{each['worst_domain']} {each['worst_nll']:.3f}",
            f"{each['nll_p95']:.3f}",
            f"{each['kl']:.3f}",
            f"{each['top1']:.1%}",
            f"{each['accuracy']:.1%} ± {each['accuracy_se']:.1%}",
            f"{each['accuracy_difference']:+.1%} ± {each['accuracy_difference_se']:.1%}",
        ]
        for each in found["sets"]
    ]
    choice = found["choice"]
    told = (
        f"Made by `python -m rapgym.studies.quality`. Nats a token above dense on "
        f"{found['sample']['tokens']:,} test tokens: mean over domains, worst domain, 95th percentile "
        "over its sequences of 511 tokens (there are few of them: it lies between the second and the "
        "third worst); KL from dense, next-token top-1 agreement with dense; and a choice of the true "
        f"one of four continuations ({choice['items']} items, {choice['context_tokens']} tokens of "
        f"context, {choice['continuation_tokens']} of continuation, chance {choice['chance']:.0%}; "
        f"{choice['note']}). ± is one standard error."
    )
    if found["formats_note"]:
        told += f" Formats: {found['formats_note']}."
    heads = ("set", "nats", "worst domain", "p95", "KL", "top-1", "choice", "choice less dense's")
    return told + "\n\n" + table(heads, rows)


def loads() -> str:
    """Train beside test, for every scenario."""
    rows = []
    for story in catalogue.by_default():
        two = load(story)
        train, test = two["train"], two["test"]

        def both(text: str, field: str, train: Load = train, test: Load = test) -> str:
            return f"{text.format(getattr(train, field))} / {text.format(getattr(test, field))}"

        rows.append(
            [
                f"`{story.name}`",
                both("{:,}", "rows"),
                both("{:.1f}", "requests"),
                both("{:,.0f}", "tokens"),
                both("{:,.0f}", "tokens_p95"),
                both("{:.0%}", "left"),
                both("{:.0%}", "left_p5"),
                both("{:.0%}", "falling_rows"),
                both("{:.1%}", "fall"),
                both("{:.0%}", "dense_fits"),
                both("{:.0%}", "floor_fits"),
            ]
        )
    heads = ("scenario", "rows", "requests a row", "tokens", "tokens, p95", "card left, mean",
             "card left, p5", "rows where it falls", "mean fall, of the card", "dense fits",
             "floor fits")  # fmt: skip
    told = (
        "`rapgym scenarios load`: train / test. Tokens in flight are prompt and reserve of a row, of "
        "the served model; `card left` is the share that the tenant leaves in each second."
    )
    return told + "\n\n" + table(heads, rows)


def draws(found: Results) -> str:
    """How far the greedy orders of the draws agree, table by table."""
    parts = []
    for name in dict.fromkeys(story["table"] for story in found.header["scenarios"].values()):
        orders = QualityTable.load(name).header.orders
        if len(orders) < 2:
            continue
        rows = [
            [
                each.kind,
                " and ".join(each.samples),
                f"{each.shared} of {each.length}",
                f"{each.half_shared} of {each.length // 2}",
                f"{each.tau:.2f}",
            ]
            for each in table_header.spreads(orders)
        ]
        heads = ("order", "draws", "blocks in both", "in the first half of both", "Kendall's tau")
        parts.append(
            f"The greedy orders of `{name}`, found on {len(orders)} draws of text each; "
            "policies are told of the first.\n\n" + table(heads, rows, left=2)
        )
    return "\n\n".join(parts)
