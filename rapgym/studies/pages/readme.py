"""Fill the generated parts of README.md and docs/, draw the figures, write RESULTS.md and model cards.

All of it comes from the committed results and from code (`rapgym.studies.pages.site`): `make readme`.

With --check nothing is written, and the exit code says whether all are what they would become.
"""

import json
import os
import re
import subprocess
import sys
from pathlib import Path

from rapgym.bench import results, suitability
from rapgym.bench.results import Results
from rapgym.files import places
from rapgym.policies import registry, serve_rules
from rapgym.quality import history
from rapgym.report import beside
from rapgym.report.markdown import table
from rapgym.rivals import rivals as rival_list
from rapgym.scenarios.catalogue import by_default, shipped
from rapgym.studies import maps as maps_study
from rapgym.studies.pages import (
    cards,
    coverage,
    discount,
    faults,
    figure,
    front,
    inputs,
    marks,
    questions,
    site,
    speed,
)
from rapgym.studies.pages import days as days_page
from rapgym.studies.pages import maps as maps_page
from rapgym.studies.pages import results as results_page
from rapgym.studies.pages import serving as serving_page

ROOT = places.PACKAGE.parent
RESULTS = places.RESULTS / "bench.csv.xz"
PAGES = (ROOT / "README.md", *sorted((ROOT / "docs").glob("*.md")))
WHOLE = places.RESULTS / "RESULTS.md"
FIGURE = ROOT / "docs" / "figures" / "cost-by-scenario.svg"
MAPS = ROOT / "docs" / "figures" / "maps.svg"
CARDS = ROOT / "baselines" / "cards"
FIDELITY = {
    "ttft_mean_s": "TTFT, mean",
    "ttft_p50_s": "p50",
    "ttft_p95_s": "p95",
    "tpot_mean_s": "TPOT, mean",
    "e2e_mean_s": "end to end, mean",
    "makespan_s": "makespan",
}


def commands() -> str:
    """Every command with its line of help."""
    help_text = subprocess.run(
        [sys.executable, "-m", "rapgym", "--help"],
        env=os.environ | {"COLUMNS": "1000"},
        capture_output=True,
        text=True,
        check=True,
    ).stdout
    found = re.findall(r"^ {4}(\S+)\s+(\S.*)$", help_text, flags=re.MULTILINE)
    return table(
        ("command", "what it does"), [[f"`rapgym {n}`", what] for n, what in found], left=2
    )


def scenarios() -> str:
    """The stories."""
    rows = [[story.group, f"`{story.name}`", story.story, story.served] for story in shipped()]
    return table(("group", "scenario", "story", "served"), rows, left=4)


def numbers() -> str:
    """What follows from the stories."""
    rows = []
    for story in by_default():
        found = suitability.numbers(story)
        rows.append(
            [
                f"`{story.name}`",
                f"{story.card_gib:g}",
                f"{story.window_s}",
                f"{found['weights_gib']:.1f}",
                f"{found['kv_kib_a_token']:.0f}",
                f"{found['limit_gib_mean']:.1f}",
                f"{found['tokens_in_flight_mean']:,.0f}",
                f"{found['train_rows_where_dense_fits']:.0%}",
            ]
        )
    heads = ("scenario", "card, GiB", "W, s", "weights, GiB", "KV a token, KiB", "limit, GiB",
             "tokens in flight", "dense fits, train")  # fmt: skip
    return table(heads, rows)


def serving_rules() -> str:
    """The rules for the serving engine."""
    rows = [[f"`{name}`", rule.says] for name, rule in serve_rules.RULES.items()]
    return table(("rule", "what it does"), rows, left=2)


def waiting() -> str:
    """What the study of the serving engine adds to what was found; nothing where it was not made."""
    found = beside.read(RESULTS.parent, "serving.json")
    return f"\n- {serving_page.sentence(found)}" if found else ""


def over_days() -> str:
    """What days of traffic add to what was found; nothing where none was benched."""
    found = days_page.sentence(RESULTS.parent)
    return f"\n- {found}" if found else ""


def policies() -> str:
    """The methods that are compared."""
    rows = [[f"`{e.name}`", e.kind, e.summary] for e in registry.POLICIES]
    return table(("method", "kind", "what it does"), rows, left=3)


def rivals() -> str:
    """What they are compared with beside pruning."""
    return table(
        ("rival", "what it does"), [[f"`{r.name}`", r.summary] for r in rival_list.every()], left=2
    )


def recorded_runs() -> str:
    """Simulated over measured, of each recorded run whose replay is committed."""
    found = json.loads((RESULTS.parent / "fidelity.json").read_text())
    heads = ("run", *(FIDELITY[name] for name in FIDELITY), "running", "waiting", "KV cache")
    rows = []
    for each in found:
        missed = [f"{each['measures'][name]['error']:+.2%}" for name in FIDELITY]
        ticks = each["ticks"]
        share = f"{100 * ticks['kv_share']:.1f} points" if "kv_share" in ticks else "not recorded"
        rows.append(
            [each["run"], *missed, f"{ticks['running']:.2f}", f"{ticks['waiting']:.2f}", share]
        )
    return (
        "Each profile was fitted to the first half of its run, and simulates the whole. The last three "
        "columns are mean absolute differences, second by second.\n\n" + table(heads, rows)
    )


def parts(found: Results) -> dict[str, str]:
    """Every generated part by the name that its markers give."""
    entries, maps = list(found.scores), maps_study.published()
    return {
        "map": maps_page.image(maps, MAPS.relative_to(ROOT).as_posix()),
        "maps": f"{maps_page.image(maps, f'figures/{MAPS.name}')}\n\n{maps_page.rows(maps)}",
        "figure": front.image(entries, FIGURE.relative_to(ROOT).as_posix()),
        "decide": front.decide(entries),
        "brief": front.brief(entries) + over_days() + waiting(),
        "table": front.costs(entries),
        "commands": commands(),
        "scenarios": scenarios(),
        "numbers": numbers(),
        "policies": policies(),
        "rivals": rivals(),
        "found": results_page.said(found, RESULTS.parent),
        "questions": questions.page(found, RESULTS.parent),
        "costs": results_page.costs(entries),
        "points": results_page.points(entries),
        "formats": results_page.formats(entries),
        "days": days_page.section(RESULTS.parent),
        "origin": results_page.origin(found),
        "fidelity": recorded_runs(),
        "inputs": inputs.page(),
        "serving-rules": serving_rules(),
        "serving-found": results_page.section(
            RESULTS.parent, "serving.json", serving_page.brief, "python -m rapgym.studies.serving"
        ),
        "serving-latency": serving_page.latency(),
        "discount": results_page.section(
            RESULTS.parent, "discount.json", discount.page, "python -m rapgym.studies.discount"
        ),
        "coverage": results_page.section(
            RESULTS.parent, "coverage.json", coverage.page, "python -m rapgym.studies.coverage"
        ),
        "watchdog-found": results_page.section(
            RESULTS.parent, "watchdog.json", faults.page, "python -m rapgym.studies.watchdog"
        ),
        "steps": results_page.section(RESULTS.parent, "steps.json", speed.steps, "make benchmark"),
        "decisions": results_page.section(
            RESULTS.parent, "decisions.json", speed.decisions, "make benchmark"
        ),
        "measuring": results_page.section(
            RESULTS.parent,
            "measuring.json",
            speed.measuring,
            "python benchmarks/measure.py --out baselines/results/measuring.json",
        ),
        "history": serving_page.shares(history.read(history.path_of("smollm2-135m"))),
        **site.parts(),
    }


def pages(found: Results) -> dict[Path, str]:
    """Every generated file, and what it should hold.

    Raises:
        SystemExit: a part has no place, or more than one.
    """
    made, texts = parts(found), {path: path.read_text() for path in PAGES}
    if sorted(name for text in texts.values() for name in marks.marked(text)) != sorted(made):
        raise SystemExit("each generated part has one place on one page: see its markers")
    return {
        **{path: marks.filled(text, made) for path, text in texts.items()},
        WHOLE: results_page.whole(found, RESULTS.parent),
        **site.files(),
        FIGURE: figure.cost_by_scenario(list(found.scores)),
        MAPS: maps_page.drawn(maps_study.published()),
        **{CARDS / name: text for name, text in cards.cards(found).items()},
    }


def main() -> int:
    wanted = pages(results.read(RESULTS))
    return marks.settled(wanted, check="--check" in sys.argv[1:], command="make readme")


if __name__ == "__main__":
    sys.exit(main())
