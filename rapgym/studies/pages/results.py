"""The results as Markdown: a short form for README.md, and the whole of RESULTS.md."""

import json
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from rapgym.bench.records import Score
from rapgym.bench.results import Results
from rapgym.bench.suitability import Load, load
from rapgym.quality import header as table_header
from rapgym.quality.table import QualityTable
from rapgym.report import bench as bench_report
from rapgym.report import findings, validation
from rapgym.report import learning as learning_findings
from rapgym.report import sensitivity as sensitivity_report
from rapgym.report.markdown import table
from rapgym.scenarios import catalogue
from rapgym.studies.causal import page as causal_page
from rapgym.studies.pages import learning as learning_page
from rapgym.studies.predictors import page as predictor_page


def short(found: Results, folder: Path) -> str:
    """What was found over all scenarios, and one line each; `folder` holds the other results."""
    entries = found.scores
    known = causal_page.sentence(json.loads((folder / "causal.json").read_text()))
    carried = learning_page.carried(json.loads((folder / "learning.json").read_text()))
    lines = [f"- {sentence}" for sentence in (*findings.overall(entries), known, carried)]
    return "\n".join(
        [
            *lines,
            "",
            summary(entries),
            "",
            "Costs are nats an output token above the full model in the scenario's own format (bf16 "
            "unless its story says otherwise), on test text. `static`: the best "
            "single kept set, tuned on train, as pruned models are deployed today. `lookup`: at each "
            "row the best measured set that fits. `champion`: the policy that does not learn with the "
            "least cost on the validation part of train. `bound`: what no plan can beat. Adaptivity of "
            "the lookup: 0 is static, 100 the bound. Foresight of the champion: 0 is the lookup, 100 "
            "the bound; with a 95 % interval from a block bootstrap over rows, and the p-value of no "
            "difference after Holm's correction over the scenarios. `learned champion`: of five seeds, chosen on "
            "validation among those that learn; its lead over the champion in points of foresight, not "
            "corrected. `cheapest rival`: of what leaves the "
            "full model whole: weights of 8 or 4 bits, a KV cache of 8 bits, both, admitting fewer "
            "requests, streaming weights. `int4`: the cheapest of them with 4-bit weights. `8 bits, pruned`: "
            "weights and KV cache of 8 bits, and the lookup drops blocks on top. Formats "
            "are rounded without looking at text: GPTQ or AWQ may lose less; but this checkpoint "
            "has been through 4 bits before, so another may lose more.",
            "",
            origin(found),
        ]
    )


def summary(entries: Sequence[Score]) -> str:
    """One line a scenario."""
    rows = []
    for name, group in bench_report.by_scenario(entries).items():
        by = {entry.policy: entry for entry in group}
        champion = next(entry for entry in group if "all" in entry.champion)
        rivals = sorted((e.cost, e.policy) for e in findings.unpruned(group))
        on_top = by.get(findings.EIGHT_BITS + findings.PRUNED)
        four = [cost for cost, rival in rivals if findings.FOUR_BITS in rival]
        low, high = champion.low, champion.high
        rows.append(
            [
                f"`{name}`" + ("" if champion.headline else " (outside the headline)"),
                f"{by['static-best'].cost:.3f}",
                f"{by['frontier'].cost:.3f}",
                f"`{champion.policy}` {champion.cost:.3f}",
                f"{by['bound'].cost:.3f}",
                f"{by['frontier'].adaptivity:.0f}",
                f"{champion.foresight:.0f} [{low:.0f}, {high:.0f}]",
                "-" if champion.p_holm is None else bench_report.shown_p(champion.p_holm),
                _learned(group),
                f"`{rivals[0][1]}` {rivals[0][0]:.3f}" if rivals else "-",
                f"{min(four):.3f}" if four else "-",
                f"{on_top.cost:.3f}" if on_top else "-",
            ]
        )
    heads = ("scenario", "static", "lookup", "champion", "bound", "adaptivity of the lookup",
             "foresight of the champion", "Holm p", "learned champion, its lead", "cheapest rival", "int4",
             "8 bits, pruned")  # fmt: skip
    return table(heads, rows)


def _learned(group: Sequence[Score]) -> str:
    """The learned champion's cost, and its lead over the other in points of foresight."""
    both, lead = learning_findings.champions(group), learning_findings.lead(group)
    if both is None:
        return "-"
    points = "" if lead is None else f", {lead[0]:+.0f} [{lead[1]:.0f}, {lead[2]:.0f}]"
    return f"`{both[0].policy}` {both[0].cost:.3f}{points}"


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
    quality = json.loads((folder / "quality.json").read_text())
    varied = json.loads((folder / "sensitivity.json").read_text())
    parts = [
        "# Results",
        "Made by `make readme` from the files under [results](results); the README explains the "
        "words. No result is typed by hand.",
        "## Scenarios and methods",
        origin(found),
        "\n".join(f"- {sentence}" for sentence in findings.sentences(entries)),
        bench_report.LEGEND.replace("\n", " "),
        bench_report.markdown(entries).strip(),
        "## Learning",
        learning_page.section(entries, json.loads((folder / "learning.json").read_text())),
        "## How much can be known",
        causal_page.section(json.loads((folder / "causal.json").read_text())),
        "## Rivals",
        rivals(found),
        "## At other values of C",
        ceilings(found.header["rankings"]),
        "## Sensitivity",
        "Made by `python -m rapgym.studies.sensitivity`. One number of a scenario changes at a time.",
        sensitivity_report.markdown(varied).strip(),
        "## Quality beyond perplexity",
        beyond(quality),
        "## On a machine",
        machine(json.loads((folder / "validate-cpu.json").read_text())),
        "## Predictors",
        predictor_page.section(json.loads((folder / "predictors.json").read_text())),
        "## How train and test differ in load",
        loads(),
        "## Draws of calibration text",
        draws(found),
    ]
    return "\n\n".join(parts) + "\n"


def machine(found: dict[str, Any]) -> str:
    """Rows of a scenario on a live model, predicted against measured."""
    return f"Printed by `rapgym validate`; `told` is the simulator.\n\n```text\n{validation.text(found)}\n```"


def rivals(found: Results) -> str:
    """Costs of rivals beside the best policy and the bound, in both kinds of bytes."""
    served = {
        (cell.about.scenario, cell.about.policy): cell.about.served_cost for cell in found.cells
    }
    groups = bench_report.by_scenario(found.scores)
    names = list(dict.fromkeys(e.policy for g in groups.values() for e in g if e.is_rival))
    rows = []
    for name, group in groups.items():
        by = {entry.policy: entry for entry in group}
        champion = next(entry for entry in group if "all" in entry.champion)
        cells = [f"`{champion.policy}` {champion.cost:.3f}", f"{by['bound'].cost:.3f}"]
        for rival in names:
            own = served.get((name, rival))
            cells.append(
                f"{by[rival].cost:.3f}" + ("" if own is None else f" ({own:.3f})")
                if rival in by
                else "-"
            )
        rows.append([f"`{name}`", *cells])
    told = (
        "Nats an output token above the full model in the scenario's own format: bf16, but where its "
        "story says otherwise, and there rivals are converted to it. Rivals serve the full model, but for "
        "those that prune (by the frontier lookup, with a quality table of their format, of fewer sets and, "
        "of some, less text than that in bf16: `rapgym tables list`): a static format "
        "is refused with its whole batch where it does not fit; with admission, only the newest requests "
        "are; weight streaming reads what does not fit at every forward pass. In brackets the same format in the "
        "served model's own bytes: the reference model's embeddings, which stay bf16, are 21 % of its "
        "weights, those of the models it stands for 4 to 13 %, so formats free less in the scaled world "
        "(dropping blocks suffers likewise)."
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
    for story in catalogue.SCENARIOS:
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
