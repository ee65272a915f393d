"""README.md and docs/ say what the committed results say; what they show runs."""

import argparse
import json
import pkgutil
import re
import shlex
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym import cli
from rapgym.bench import entrants, results, sensitivity
from rapgym.bench.results import Results
from rapgym.files import checked, places
from rapgym.policies import registry
from rapgym.policies.policy import briefing
from rapgym.quality.table import QualityTable
from rapgym.rivals import rivals
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue, tables
from rapgym.scenarios.story import described
from rapgym.studies.pages import marks, readme

ROOT = Path(__file__).parents[1]
README = (ROOT / "README.md").read_text()
FOLDER = places.RESULTS
MAKEFILE = (ROOT / "Makefile").read_text()

# Pages for people, by where they lie.
PAGES = {
    path.relative_to(ROOT).as_posix(): path.read_text()
    for path in (
        *(ROOT / name for name in ("README.md", "SECURITY.md", "CONTRIBUTING.md", "CHANGELOG.md")),
        *sorted((ROOT / "docs").glob("*.md")),
        *(ROOT / folder / "README.md" for folder in ("baselines/results", "traces")),
    )
}
GENERATED = {name: text for name, text in PAGES.items() if "<!-- begin:" in text}

every_page = pytest.mark.parametrize("page", PAGES)


@pytest.fixture(scope="module")
def bench() -> Results:
    return results.read(FOLDER / "bench.csv.xz")


@pytest.fixture(scope="module")
def parts(bench: Results) -> dict[str, str]:
    made: dict[str, str] = readme.parts(bench)
    return made


# What is generated


def test_the_generated_parts_match_the_committed_results() -> None:
    done = subprocess.run(
        [sys.executable, "-m", "rapgym.studies.pages.readme", "--check"],
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, done.stderr


def test_every_part_has_its_place(parts: dict[str, str]) -> None:
    placed = [name for text in PAGES.values() for name in marks.marked(text)]
    assert sorted(placed) == sorted(parts)
    assert {"README.md", "docs/results.md"} <= set(GENERATED)


@pytest.mark.parametrize("page", GENERATED)
def test_a_changed_character_would_be_noticed(page: str, parts: dict[str, str]) -> None:
    filled: Callable[..., str] = marks.filled
    for name in marks.marked(PAGES[page]):
        changed = PAGES[page].replace(parts[name], parts[name][:-1], 1)
        assert changed != PAGES[page], name
        assert filled(changed, parts) == filled(PAGES[page], parts) == PAGES[page], name


def test_a_part_that_is_unknown_or_does_not_end_is_refused() -> None:
    for text in ("<!-- begin:nonsense -->\n<!-- end:nonsense -->", "<!-- begin:costs -->\n"):
        with pytest.raises(SystemExit, match="no part is called"):
            marks.filled(text, {"costs": "1"})


def test_the_figure_shows_every_cost_of_the_headline(bench: Results) -> None:
    drawn = (ROOT / "docs" / "figures" / "cost-by-scenario.svg").read_text()
    tips = re.findall(r"<title>([^,]+), ([^:]+): .*?([\w-]+), (-?[\d.]+) nats</title>", drawn)
    series = {"static-best": "best static set", "frontier": "frontier lookup", "bound": "bound"}
    wanted = set()
    for entry in bench.scores:
        about = (entry.scenario.removesuffix("-v0"), entry.policy, f"{entry.cost:.3f}")
        if entry.headline and entry.policy in series:
            wanted.add((series[entry.policy], *about))
        if entry.headline and "all" in entry.champion:
            wanted.add(("champion", *about))
    formats = {tip for tip in tips if tip[1].startswith("best 8-bit format")}
    assert {
        (what, name, policy, cost) for name, what, policy, cost in set(tips) - formats
    } == wanted
    assert {name for name, *_ in formats} == {name for _, name, *_ in wanted}
    assert all(policy.startswith("int8") for _, _, policy, _ in formats)
    for part in ("<desc id=", "<title id=", "prefers-color-scheme: dark", "nats an output token"):
        assert part in drawn


# What results are of


def test_committed_results_are_of_the_tables_and_workloads_here(bench: Results) -> None:
    header = bench.header
    for story in catalogue.by_default():
        assert header["tables"][story.table] == tables.table(story).sha256
        workload = places.TRACES / f"{story.workload}.csv.gz"
        assert header["workloads"][story.workload] == checked.sha256_of(workload)
        assert header["scenarios"][story.id] == json.loads(json.dumps(described(story)))


def test_the_other_results_are_of_the_table_here() -> None:
    sha256 = tables.table(catalogue.scenario("chat-beside-code")).sha256
    quality = json.loads((FOLDER / "quality.json").read_text())
    assert quality["table"]["sha256"] == sha256
    choices = FOLDER / "measurements" / quality["measurements"]["choices"]
    assert quality["measurements"]["choices_sha256"] == checked.sha256_of(choices)
    # Where it was made: a page says of a file that is not there by what it is made.
    if (FOLDER / "sensitivity.json").exists():
        varied = json.loads((FOLDER / "sensitivity.json").read_text())
        for name, of in varied["tables"].items():
            assert of == QualityTable.load(name).sha256
        stated = {catalogue.scenario(name).table for name in sensitivity.SCENARIOS}
        assert stated <= {*varied["tables"]}


def test_every_policy_and_rival_was_benched_on_every_scenario(bench: Results) -> None:
    """Nothing was left out because it looked bad."""
    benched = {(entry.scenario, entry.policy) for entry in bench.scores}
    names = [
        *(e.name for e in registry.POLICIES),
        *(e.name for e in registry.starts()),
        *(r.name for r in rivals.every()),
        "bound",
        "best-plan",
    ]
    assert benched == {
        (story.id, name)
        for story in catalogue.by_default()
        for name in names
        if entrants.entrant(name).is_ready(story)  # what learns was not trained everywhere
    }


# Python


EXAMPLES = [
    (page, text)
    for page, whole in PAGES.items()
    # The programs of the first need what tests/clients skips without; the second is a notebook, which
    # tests/studies/test_pages_of_code.py runs.
    if page not in ("docs/clients.md", "docs/tour.md")
    for text in re.findall(r"```python\n(.*?)```", whole, flags=re.DOTALL)
]


@pytest.mark.parametrize(("page", "code"), EXAMPLES, ids=lambda value: value.partition("\n")[0])
def test_every_example_runs(
    page: str, code: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for needing, package, extra in (
        ("docs/report.md", "plotly", "report"),
        ("docs/my-policy.md", "stable_baselines3", "train"),
    ):
        if page == needing:
            why = f"{package} is not installed: pip install 'rapgym[{extra}]'"
            pytest.importorskip(package, reason=why)
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("SB3_LOGDIR", str(tmp_path / "logs"))  # else a folder among temporary files
    found: dict[str, Any] = {}
    exec(code, found)
    assert "over" not in found or found["over"]


def example(part: str) -> str:
    (found,) = (code for _, code in EXAMPLES if part in code)
    return found


def test_the_readmes_ten_lines_print_what_it_says(capsys: pytest.CaptureFixture[str]) -> None:
    (code,) = (code for page, code in EXAMPLES if page == "README.md")
    assert len([line for line in code.splitlines() if line]) == 10
    exec(code, {})
    assert f"```text\n{capsys.readouterr().out}```" in README


def test_the_example_policy_is_read_and_executed() -> None:
    found: dict[str, Any] = {}
    exec(example("class "), found)
    (policy,) = (v() for v in found.values() if isinstance(v, type) and hasattr(v, "propose"))
    story = catalogue.scenario("chat-beside-code")
    log = rollout.run(lambda: policy, story, "validation-3", briefing(story))
    assert (log.source == 0).all(), "every answer could be read"
    assert len(np.unique(log.kept.reshape(-1, log.kept.shape[-1]), axis=0)) > 1


@pytest.mark.parametrize(
    ("part", "printed"),
    [("import check_policy", "gsi survives"), ("rapgym.AuditLog", "keep this elsewhere")],
)
def test_the_examples_print_what_they_are_for(
    part: str,
    printed: str,
    tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:
    monkeypatch.chdir(tmp_path)
    exec(example(part), {})
    assert printed in capsys.readouterr().out


# Commands


def prose(text: str) -> str:
    """A page without its blocks of code."""
    return re.sub(r"^```.*?^```$", "", text, flags=re.DOTALL | re.MULTILINE)


def shown(text: str) -> list[list[str]]:
    """The words of every command in a page's blocks."""
    blocks = re.findall(r"```sh\n(.*?)```", text, flags=re.DOTALL)
    lines = [line for block in blocks for line in block.splitlines()]
    commands = [part for line in lines for part in line.partition("#")[0].split("&&")]
    return [words for command in commands if (words := shlex.split(command))]


def mentioned(text: str) -> list[list[str]]:
    """The words of every command in a page's sentences and tables; they may lack arguments."""
    spans = [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose(text))]
    commands = [re.sub(r"^(\w+=\S+ )+|\$\([^)]*\)", "", span) for span in spans]
    return [
        shlex.split(command)
        for command in commands
        if command.startswith(("rapgym ", "make ", "python "))
    ]


def parser_of(words: list[str]) -> argparse.ArgumentParser:
    """The parser that these words lead to."""
    found = cli.parser()
    for word in words:
        below = [a for a in found._actions if isinstance(a, argparse._SubParsersAction)]
        if not below:
            break
        assert word in below[0].choices, f"rapgym {' '.join(words)}: {word} is no command"
        found = below[0].choices[word]
    return found


def check(words: list[str], *, whole: bool) -> None:
    """Fail where a command cannot be run as it is written; if not `whole`, arguments may be missing."""
    program, rest = words[0], words[1:]
    if program == "rapgym" and whole:
        assert callable(cli.parser().parse_args(rest).run), words
    elif program == "rapgym":
        options = parser_of(rest)._option_string_actions
        assert {word for word in rest if word.startswith("--")} <= set(options), words
    elif program == "make":
        assert re.search(rf"^{rest[0]}:", MAKEFILE, flags=re.MULTILINE), words
        for setting in rest[1:]:
            name, _, value = setting.partition("=")
            assert name == "BENCH", words
            check(["rapgym", "bench", *shlex.split(value)], whole=True)
    elif program == "python" and rest[0] == "-m":
        assert (ROOT / f"{rest[1].replace('.', '/')}.py").is_file(), words
    elif program == "python":
        assert (ROOT / rest[0]).is_file(), words
    else:
        assert program in {"git", "cd", "pip", "export"}, f"{words}: what it does is not tested"


@every_page
def test_every_command_that_is_shown_parses(page: str) -> None:
    for words in shown(PAGES[page]):
        check(words, whole=True)


@every_page
def test_every_command_that_is_mentioned_exists(page: str) -> None:
    for words in mentioned(PAGES[page]):
        check(words, whole=False)


def test_commands_are_found_and_wrong_ones_fail() -> None:
    assert shown(README)[2:4] == [["make", "bench"], ["make", "test"]]
    assert ["rapgym", "bench", "--policy", "my_module:MyPolicy"] in mentioned(README)
    for wrong in ("rapgym nonsense", "rapgym bench --nonsense", "make nonsense", "python x.py"):
        with pytest.raises(AssertionError):
            check(wrong.split(), whole=False)
    with pytest.raises(SystemExit):
        check(["rapgym", "measure"], whole=True)


# Links and names


def anchors(text: str) -> set[str]:
    heads = re.findall(r"^#+ (.+)$", text, flags=re.MULTILINE)
    return {re.sub(r"[^\w -]", "", head).lower().replace(" ", "-") for head in heads}


@every_page
def test_every_link_leads_somewhere(page: str) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", prose(PAGES[page])):
        if re.match(r"https?:", target):
            continue
        path, _, anchor = target.partition("#")
        place = (ROOT / page).parent / path if path else ROOT / page
        assert place.exists(), target
        if anchor:
            assert anchor in anchors(place.read_text()), target


@every_page
def test_every_file_and_python_name_that_is_mentioned_exists(page: str) -> None:
    spans = re.findall(r"`([^`\s]+)`", prose(PAGES[page]))
    here = (ROOT, (ROOT / page).parent)
    for span in spans:
        if re.fullmatch(r"(rapgym|benchmarks|baselines|docs|tests)/\S+\.\w+", span):
            assert any((folder / span).exists() for folder in here), span
        elif dotted := re.match(r"rapgym(\.\w+)+", span):
            assert pkgutil.resolve_name(dotted[0]) is not None, span


def test_every_page_is_in_the_index() -> None:
    index = PAGES["docs/README.md"]
    pages = {Path(page).name for page in PAGES if page.startswith("docs/")}
    pages -= {"README.md", "index.md"}
    assert pages <= set(re.findall(r"\]\(([\w-]+\.md)\)", index))


# What a newcomer can finish


def test_the_readme_is_short() -> None:
    assert 6_000 <= len(README.encode()) <= 8_000


def test_the_readme_has_two_figures_and_one_table_of_five_columns() -> None:
    """What policies cost, and where pruning is the cheapest."""
    figures = re.findall(r"!\[([^\]]*)\]\(([^)]+)\)", README)
    assert [Path(path).stem for _, path in figures] == ["cost-by-scenario", "maps"]
    for alt, path in figures:
        assert (ROOT / path).is_file()
        assert len(alt) > 100, "those who do not see it are told what it shows"
    rules = re.findall(r"^\|(?: ---:? \|)+$", README, flags=re.MULTILINE)
    (columns,) = (rule.count("---") for rule in rules)
    assert columns <= 5


@pytest.mark.parametrize("page", [*PAGES, "baselines/results/RESULTS.md", *sorted(
    path.relative_to(ROOT).as_posix() for path in (ROOT / "baselines" / "cards").glob("*.md")
)])  # fmt: skip
def test_pages_are_plain_english(page: str) -> None:
    text = " ".join((ROOT / page).read_text().split())
    for phrase in ("cannot be told", "told apart", "trained anew", "train it anew", "tuned anew"):
        assert phrase not in text, phrase
    assert not re.search(r"every \d+\. ", text)


@every_page
def test_no_sentence_lists_scenarios(page: str) -> None:
    text = "\n".join(line for line in prose(PAGES[page]).splitlines() if not line.startswith("|"))
    names = sorted((story.name for story in catalogue.shipped()), key=len, reverse=True)
    for sentence in re.split(r"[.:](?:\s|$)", text):
        found = re.findall(rf"\b(?:{'|'.join(names)})(?![\w-])", sentence)
        assert len(found) <= 2, sentence
