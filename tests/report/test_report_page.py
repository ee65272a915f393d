"""The page of a bench: it holds the numbers, names stay text, nothing is asked of a network, it is small."""

import base64
import hashlib
import re
import sys
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import pytest
from plain_records import score_of
from report_pages import Parsed, toy_bench

import rapgym
from rapgym.bench.results import Results
from rapgym.errors import InvalidResult, InvalidSpec, MissingExtra
from rapgym.report import bench_page, hypotheses, page, provenance
from rapgym.report import film as report_film
from rapgym.report.page import Page, Picture, Section, Step, Table
from rapgym.scenarios.story import Scenario

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")
pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'rapgym[report]'")

HOSTILE = "</script><script>alert(1)</script><img src=x onerror=alert(2)>'\"&lt;"
CONTROL = "\x1b[31mred\x07\u202e"
SECTIONS = ["answer", "costs", "film", "gain", "foresight", "quality", "importance", "harm", "calibration",
            "time", "hypotheses", "found", "provenance"]  # fmt: skip


@pytest.fixture(scope="module")
def bench(
    toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[tuple[Path, Results]]:
    out = tmp_path_factory.mktemp("page") / "bench.csv.gz"
    with pytest.MonkeyPatch.context() as patch:
        yield out, toy_bench(toy_story, out, patch)


@pytest.fixture(scope="module")
def made(bench: tuple[Path, Results]) -> tuple[str, Parsed]:
    text = page.rendered(bench_page.page(bench[1], bench[0]))
    return text, Parsed(text)


def renamed(found: Results, old: str, new: str) -> Results:
    """The results with another name for a policy."""
    cells = [
        replace(c, about=replace(c.about, policy=new)) if c.about.policy == old else c
        for c in found.cells
    ]
    scores = [replace(e, policy=new) if e.policy == old else e for e in found.scores]
    return replace(found, cells=tuple(cells), scores=tuple(scores))


def simple(*pictures: Picture, **more: Any) -> Page:
    return Page("title", "subtitle", [Section("answer", "The answer", pictures=pictures, **more)])


def picture(points: int, **more: Any) -> Picture:
    from rapgym.report import drawing

    trace = drawing.graph_objects().Scatter(x=list(range(points)), y=[0.5] * points)
    return Picture("figure", drawing.figure([trace], 300), "It shows points.", "A caption.", **more)


def test_every_section_is_there_and_linked(made: tuple[str, Parsed]) -> None:
    elements = made[1].elements
    assert [attrs["id"] for tag, attrs in elements if tag == "section"] == SECTIONS
    links = [attrs["href"] for tag, attrs in elements if tag == "a"]
    ids = {attrs["id"] for _, attrs in elements if "id" in attrs}
    assert links == ["#main", *(f"#{name}" for name in SECTIONS)]
    assert {(link or "")[1:] for link in links} <= ids
    titles = re.findall(r"<h([1-6])", made[0])
    assert titles == ["1", *["2"] * len(SECTIONS)]


def test_the_answer_stands_first(made: tuple[str, Parsed]) -> None:
    text = made[1].text
    places = [
        text.index(start) for start in ("Not pruning", "Against a smaller format", "Which policy")
    ]
    assert places == sorted(places)
    assert places[-1] < text.index("Nats an output token above the full 16-bit model")


def test_numbers_are_those_of_the_results_frame(
    made: tuple[str, Parsed], bench: tuple[Path, Results]
) -> None:
    rows = rapgym.read_results(bench[0])
    costs = made[1].data("data-figure-costs")["data"]
    drawn = {trace["name"]: trace["customdata"][0] for trace in costs}
    own = rows[rows.policy == "frontier"]
    cost = (own.test_cost * own.output_tokens).sum() / own.output_tokens.sum()
    assert drawn["frontier lookup"] == pytest.approx(cost)
    assert f"{cost:.4f} (frontier)" in made[1].text
    film = {trace["name"]: trace for trace in made[1].data("data-figure-film")["data"]}
    hero = bench_page._hero(bench[1].scores)
    shown = rows[(rows.policy == hero) & (rows.pairing == 0) & (rows.seed == 0)]
    z = film["attention blocks"]["z"]
    keys = [int(key, 16) for key in shown.kept]
    assert len(z[0]) == len(keys) > 10
    for layer in range(3):  # six bits, padded to eight
        assert z[layer] == [(key >> (7 - 2 * layer)) & 1 for key in keys]


def test_the_slider_reads_what_the_marks_hover(
    made: tuple[str, Parsed], bench: tuple[Path, Results]
) -> None:
    steps = made[1].data("list-figure-film")
    marks = [t for t in made[1].data("data-figure-film")["data"] if t.get("meta") == "steps"]
    assert sorted(i for trace in marks for i in trace["customdata"]) == list(range(len(steps)))
    assert not any("hovertext" in trace for trace in marks), "a sentence stands once"
    rows = rapgym.read_results(bench[0])
    hero = bench_page._hero(bench[1].scores)
    film = report_film.filmed(rows, "toy-v0", hero)
    assert [step["text"].partition("film: ")[2] for step in steps] == [*film.sentence]


def test_nothing_is_asked_of_a_network(made: tuple[str, Parsed]) -> None:
    wanted = {"src", "href", "srcset", "data", "action", "poster", "background", "xlink:href"}
    for name, value in made[1].attributes():
        if name in wanted:
            assert (value or "").startswith(("#", "data:,")), f"{name}={value}"
    style = re.search(r"<style>(.*?)</style>", made[0], re.DOTALL)
    assert style
    assert "url(" not in style[1]
    assert "@import" not in style[1]
    policy = next(
        attrs["content"]
        for tag, attrs in made[1].elements
        if tag == "meta" and "http-equiv" in attrs
    )
    assert (policy or "").startswith("default-src 'none'; ")
    assert "unsafe-inline" not in (policy or "").split("style-src")[0]


def test_only_scripts_of_a_known_sha256_run(made: tuple[str, Parsed]) -> None:
    scripts = made[1].run()
    assert len(scripts) == 2
    for script in scripts:
        digest = base64.b64encode(hashlib.sha256(script.encode()).digest()).decode()
        assert f"'sha256-{digest}'" in made[0][:2000]
    assert made[0].count("Plotly.newPlot(") >= 1


def test_every_figure_has_words_and_every_control_a_label(made: tuple[str, Parsed]) -> None:
    elements = made[1].elements
    plots = [attrs for _, attrs in elements if "data-figure" in attrs]
    assert len(plots) >= 6
    assert all(attrs["role"] == "img" and len(attrs["aria-label"] or "") > 30 for attrs in plots)
    labelled = {attrs["for"] for tag, attrs in elements if tag == "label"}
    assert {attrs["id"] for tag, attrs in elements if tag in ("select", "input")} == labelled
    assert ("html", {"lang": "en"}) in elements
    assert made[0].count("<th scope=") > 20


def test_hostile_names_stay_text(bench: tuple[Path, Results]) -> None:
    found = renamed(bench[1], "keep-all", HOSTILE)
    found = replace(found, header=found.header | {"commit": CONTROL, "names": [HOSTILE]})
    parsed = Parsed(
        text := page.rendered(bench_page.page(found, Path("x y.csv.gz"), policy=HOSTILE))
    )
    assert HOSTILE in parsed.text
    assert len(parsed.run()) == 2
    assert not any(tag == "img" for tag, _ in parsed.elements)
    assert not any(name.startswith("on") for name, _ in parsed.attributes())
    assert "\\x1b[31mred\\x07\\u202e" in parsed.text
    assert not {"\x1b", "\x07", "\u202e"} & {*text}
    assert "rapgym report 'x y.csv.gz'" in parsed.text


def test_bold_and_code_are_all_the_markup_there_is() -> None:
    assert page.marked("**a** `b` <i>c</i> [d](e) **`f`**") == (
        "<strong>a</strong> <code>b</code> &lt;i&gt;c&lt;/i&gt; [d](e) <strong><code>f</code></strong>"
    )
    assert page.marked("`<script>`") == "<code>&lt;script&gt;</code>"


def test_the_page_is_small(made: tuple[str, Parsed]) -> None:
    assert len(made[0].encode()) < page.MOST_BYTES == 6_000_000
    assert made[0].count("plotly.js v") == 1, "Plotly stands in it once"


def test_a_figure_that_makes_it_too_large_is_left_out(monkeypatch: pytest.MonkeyPatch) -> None:
    small = replace(picture(10), anchor="small")
    large = picture(5000, steps=[Step("a step", 0, "told")])
    whole = len(page.rendered(simple(small, large)).encode())
    monkeypatch.setattr(page, "MOST_BYTES", whole - 1)
    parsed = Parsed(text := page.rendered(simple(small, large)))
    assert len(text.encode()) < whole
    assert [attrs["id"] for _, attrs in parsed.elements if "data-figure" in attrs] == ["small"]
    assert "It shows points. It is left out here" in parsed.text
    monkeypatch.setattr(page, "MOST_BYTES", 10_000)
    text = page.rendered(simple(small, large))
    assert "plotly" not in text.lower(), "without figures there is nothing to draw with"
    assert "script-src 'none'" in text
    table = Table("Much", ["a"], [["x" * 20_000]])
    with pytest.raises(InvalidSpec, match="run fewer policies or scenarios"):
        page.rendered(simple(small, tables=[table]))


@pytest.mark.parametrize("module", ["jinja2", "plotly.offline"])
def test_what_is_missing_is_named(module: str, monkeypatch: pytest.MonkeyPatch) -> None:
    shown = simple(picture(3))
    monkeypatch.setitem(sys.modules, module, None)
    with pytest.raises(
        MissingExtra, match=r"is not installed; run: pip install 'rapgym\[report\]'"
    ):
        page.rendered(shown)


def test_a_film_that_cannot_be_made_is_said(bench: tuple[Path, Results]) -> None:
    cells = [
        replace(c, log=replace(c.log, limit_bytes=c.log.limit_bytes + 1)) for c in bench[1].cells
    ]
    parsed = Parsed(page.rendered(bench_page.page(replace(bench[1], cells=tuple(cells)), bench[0])))
    assert "There is no film of" in parsed.text
    assert "are not those of toy-v0 here" in parsed.text
    assert not any(attrs.get("id") == "figure-film" for _, attrs in parsed.elements)


def test_what_was_asked_for_is_shown_or_refused(bench: tuple[Path, Results]) -> None:
    out, found = bench
    parsed = Parsed(page.rendered(bench_page.page(found, out, "toy", "keep-all")))
    assert "keep-all  on  toy-v0 : the" in " ".join(parsed.texts)
    with pytest.raises(InvalidSpec, match="no scenario 'chat'; it has toy-v0"):
        bench_page.page(found, out, "chat")
    with pytest.raises(InvalidSpec, match="no policy 'nobody' on toy-v0"):
        bench_page.page(found, out, policy="nobody")
    with pytest.raises(InvalidSpec, match="holds no scores"):
        bench_page.page(replace(found, scores=()), out)


def test_scores_that_contradict_each_other_are_no_traceback(bench: tuple[Path, Results]) -> None:
    scores = tuple(e for e in bench[1].scores if e.policy != "frontier")
    with pytest.raises(InvalidResult, match="contradict each other"):
        bench_page.page(replace(bench[1], scores=scores), bench[0])


def test_where_most_is_at_stake_is_shown_first() -> None:
    cheap = score_of("a", champion=("all",), cost=0.1, claims=True)
    dear = score_of("b", scenario="dear-v0", champion=("all",), cost=0.4, claims=True)
    aside = score_of("c", scenario="aside-v0", champion=("all",), cost=0.9, claims=False)
    assert bench_page.most_at_stake([cheap, dear, aside]) == "dear-v0"
    assert bench_page.most_at_stake([aside]) == "aside-v0"


def test_hypotheses_carry_difference_interval_and_verdict() -> None:
    group = [
        score_of("frontier", kind="reactive", cost=0.12),
        score_of("mine", champion=("all",), verdict="better", champion_low=-0.03, champion_high=-0.01,
                 p_holm=0.004, holm_tests=5),
        score_of("int8-int8-kv", kind="rival", cost=0.3, behind_champion=0.2, behind_champion_low=0.1,
                 behind_champion_high=0.3, behind_bound_low=0.1, behind_bound_high=0.4),
        score_of("int8-int8-kv-pruned", kind="rival", cost=0.2, behind_unpruned=-0.1,
                 behind_unpruned_low=-0.2, behind_unpruned_high=-0.05),
    ]  # fmt: skip
    first, *rest = hypotheses.hypotheses(group)
    assert first == [
        "toy", "the champion costs less than the lookup", "mine", "-0.0200 [-0.0300, -0.0100]",
        "0.004 of 5", "better", "8 bursts: conditional on these rows",
    ]  # fmt: skip
    assert [row[5] for row in rest] == ["costs more than the champion", "costs less"]
    assert rest[1][3] == "-0.1000 [-0.2000, -0.0500]"


def test_commands_make_it_again() -> None:
    header = {"scenarios": {"a-v0": {}}, "names": ["gsi", "it's"], "seeds": [0, 1, 2]}
    again, verify, report = provenance.commands(header, Path("a b.csv.gz"))
    assert again == (
        "rapgym bench --scenario a-v0 --policy gsi --policy 'it'\"'\"'s' --seeds 3 --out again.csv.gz"
    )
    assert (verify, report) == ("rapgym verify 'a b.csv.gz'", "rapgym report 'a b.csv.gz'")
