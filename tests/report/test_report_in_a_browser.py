"""Reports in a real Chromium: figures drawn, of the right data; no error, no request, no script of a name's."""

import os
import re
import shutil
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_logs import WORLD, context_of, serve
from plain_records import score_of
from report_pages import studies, toy_bench, write_studies
from test_report_page import HOSTILE, renamed

import rapgym
from rapgym.audit.log import AuditLog
from rapgym.audit.summary import Chosen, Log
from rapgym.report import audit_page, bench_page, calibration, page, serve_page
from rapgym.report import film as report_film
from rapgym.report.page import Page
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import GIB, Scenario

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")
pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'rapgym[report]'")
sync_api: Any = pytest.importorskip(
    "playwright.sync_api", reason="playwright is not installed: pip install playwright"
)
NAMES = ("chromium", "chromium-browser", "google-chrome")
CHROMIUM = os.environ.get("RAPGYM_CHROMIUM") or next(filter(None, map(shutil.which, NAMES)), None)
pytestmark = [
    pytest.mark.skipif(
        CHROMIUM is None, reason="no Chromium is installed: apt-get install chromium"
    ),
    # Of the browser's own pipes, closed by its end.
    pytest.mark.filterwarnings(
        "ignore::ResourceWarning", "ignore::pytest.PytestUnraisableExceptionWarning"
    ),
]
VIEWS: dict[str, dict[str, Any]] = {
    "desktop": {"viewport": {"width": 1280, "height": 800}},
    "phone": {"viewport": {"width": 390, "height": 844}, "color_scheme": "dark"},
}


@pytest.fixture(scope="module")
def browser() -> Iterator[Any]:
    with sync_api.sync_playwright() as playwright:
        found = playwright.chromium.launch(executable_path=CHROMIUM, args=["--no-sandbox"])
        yield found
        found.close()


@pytest.fixture(scope="module")
def pages(
    toy_story: Scenario, serving_story: ServeScenario, tmp_path_factory: pytest.TempPathFactory
) -> Iterator[dict[str, Path]]:
    folder = tmp_path_factory.mktemp("browser")
    (folder / "strange").mkdir()
    write_studies(folder, studies("toy-v0"))
    write_studies(folder / "strange", studies(HOSTILE, HOSTILE))
    with pytest.MonkeyPatch.context() as patch:
        found = toy_bench(toy_story, folder / "bench.csv.gz", patch)
        with AuditLog(folder / "log.jsonl") as log:
            serve(log, 6, 2, context=context_of(WORLD, policy=HOSTILE))
        hostile = renamed(found, "keep-all", HOSTILE)
        hostile = replace(hostile, header=hostile.header | {"names": [HOSTILE]})
        one = score_of("one", calibration_tokens=1e6, break_even_tokens=5e8)
        paid = [one, replace(one, scenario="other-v0", break_even_tokens=2e5)]
        told = {
            "bench": bench_page.page(found, folder / "bench.csv.gz", policy="frontier"),
            "hostile": bench_page.page(
                hostile, folder / "strange" / "bench.csv.gz", policy=HOSTILE
            ),
            "log": audit_page.page(Log(folder / "log.jsonl"), Chosen()),
            "serve": serve_page.page(serving_story, "keep-all-drop"),
            "calibration": Page("Two scenarios", "", [calibration.section(paid, {})]),
        }
        for name, each in told.items():
            page.written(each, folder / f"{name}.html")
        yield {name: folder / f"{name}.html" for name in told}


class Opened:
    """A page, and whatever it complained of or asked for."""

    def __init__(self, browser: Any, path: Path, view: str) -> None:
        self.context = browser.new_context(**VIEWS[view])
        self.page, self.complaints, self.asked = self.context.new_page(), list[str](), list[str]()
        self.page.on("console", lambda message: self.complaints.append(message.text))
        self.page.on("pageerror", lambda error: self.complaints.append(str(error)))
        self.page.on("dialog", lambda dialog: self.complaints.append(dialog.message))
        self.page.on("request", lambda request: self.asked.append(request.url))
        self.page.goto(path.as_uri())
        for plot in self.page.query_selector_all("[data-figure]"):
            plot.scroll_into_view_if_needed()
            plot.wait_for_selector(".main-svg")


@pytest.fixture(scope="module")
def bench(browser: Any, pages: dict[str, Path]) -> Iterator[Opened]:
    opened = Opened(browser, pages["bench"], "desktop")
    yield opened
    assert opened.complaints == []
    opened.context.close()


@pytest.fixture(scope="module")
def film(pages: dict[str, Path]) -> report_film.Film:
    rows = rapgym.read_results(pages["bench"].with_name("bench.csv.gz"))
    return report_film.filmed(rows, "toy-v0", "frontier")


@pytest.mark.parametrize(
    ("name", "view"),
    [
        ("bench", "desktop"),
        ("bench", "phone"),
        ("hostile", "desktop"),
        ("log", "phone"),
        ("serve", "desktop"),
        ("serve", "phone"),
    ],
)
def test_figures_are_drawn_and_nothing_goes_wrong(
    browser: Any, pages: dict[str, Path], name: str, view: str
) -> None:
    opened = Opened(browser, pages[name], view)
    plots = opened.page.query_selector_all("[data-figure]")
    assert len(plots) == (10 if name in ("bench", "hostile") else 1)
    assert opened.complaints == []
    assert opened.asked == [pages[name].as_uri()]
    width = opened.page.evaluate("document.documentElement.scrollWidth")
    assert width <= VIEWS[view]["viewport"]["width"], "nothing is wider than the screen"
    assert opened.page.evaluate("[...document.querySelectorAll('img, iframe, object')].length") == 0
    opened.context.close()


def test_a_page_is_open_before_anything_is_drawn(browser: Any, pages: dict[str, Path]) -> None:
    context = browser.new_context(**VIEWS["desktop"])
    opened = context.new_page()
    opened.add_init_script("addEventListener('load', () => { loaded = 'Plotly' in window; })")
    opened.goto(pages["bench"].as_uri())
    assert opened.evaluate("loaded") is False
    opened.wait_for_selector("#figure-costs .main-svg")
    assert opened.query_selector("#figure-time .main-svg") is None, "far below, none is drawn yet"
    context.close()


def test_what_is_drawn_is_what_the_results_say(bench: Opened, film: report_film.Film) -> None:
    drawn = bench.page.evaluate(
        "document.getElementById('figure-film').data.filter(t => t.meta === 'steps')"
        ".flatMap(t => t.customdata.map((step, i) => [step, t.hovertext[i]]))"
    )
    hovers = {step: text.replace("<br>", " ") for step, text in drawn}
    for i, sentence in enumerate(film.sentence):
        assert hovers[i] == f"Row {i + 1}, {film.start_s[i]} s into the film: {sentence}"
    used = bench.page.evaluate(
        "document.getElementById('figure-film').data.filter(t => t.stackgroup)"
        ".map(t => t.y).reduce((a, b) => a.map((v, i) => v + b[i]))"
    )
    np.testing.assert_allclose(np.array(used[:-1]) * GIB, film.used_bytes, rtol=1e-4)


def test_studies_are_drawn_as_they_are_written(bench: Opened) -> None:
    found = studies("toy-v0")
    drawn = "document.getElementById('figure-{}').data.map(t => [t.name, t.x])"
    serving = bench.page.evaluate(drawn.format("serving"))
    rules = found["serving.json"]["scenarios"][0]["rules"]
    assert [x for _, x in serving] == [[rule["cost"] for rule in rules.values()]]
    ((run, errors),) = bench.page.evaluate(drawn.format("machine"))
    (told,) = found["fidelity.json"]
    assert run == told["run"]
    assert errors == [100 * each["error"] for each in told["measures"].values()]


def test_a_choice_of_scenario_moves_the_axis(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["calibration"], "desktop")
    opened.page.select_option("#choose-figure-calibration", index=1)
    (low, high), shown = opened.page.evaluate(
        "(({layout, data}) => [layout.xaxis.range, data.filter(t => t.visible === true).map(t => t.x)])"
        "(document.getElementById('figure-calibration'))"
    )
    assert shown == [[2e5]]
    assert 10**low < 2e5 < 10**high < 1e6
    assert opened.complaints == []
    opened.context.close()


def test_a_slider_walks_through_the_film_by_keyboard(bench: Opened, film: report_film.Film) -> None:
    bench.page.focus("#steps-figure-film")
    bench.page.keyboard.press("ArrowRight")
    bench.page.keyboard.press("ArrowRight")
    assert bench.page.inner_text("#told-figure-film").endswith(film.sentence[2])
    line = bench.page.evaluate("document.getElementById('figure-film').layout.shapes[0].x0")
    assert line == film.start_s[2]


def test_printing_opens_what_is_folded(bench: Opened) -> None:
    bench.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert bench.page.evaluate("[...document.querySelectorAll('details')].every(d => d.open)")
    bench.page.emulate_media(media="print")
    assert not bench.page.is_visible("nav")


def test_printing_draws_what_was_never_near_the_screen(
    browser: Any, pages: dict[str, Path]
) -> None:
    context = browser.new_context(**VIEWS["desktop"])
    opened = context.new_page()
    opened.goto(pages["bench"].as_uri())
    opened.evaluate("dispatchEvent(new Event('beforeprint'))")
    drawn = (
        "[...document.querySelectorAll('[data-figure]')].every(d => d.querySelector('.main-svg'))"
    )
    assert opened.evaluate(drawn), "at once, before the printer looks"
    context.close()


def test_without_scripts_every_number_stands_in_a_table(
    browser: Any, pages: dict[str, Path]
) -> None:
    context = browser.new_context(**VIEWS["desktop"], java_script_enabled=False)
    opened = context.new_page()
    opened.goto(pages["bench"].as_uri())
    text = opened.inner_text("main")
    assert "Figures need JavaScript, which is off here" in text
    assert "Plotly" not in opened.inner_text("body"), "what draws is no text of the page"
    assert opened.locator("details").count() > 5
    context.close()


def test_colours_follow_the_system(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["log"], "desktop")
    ink = "document.getElementById('figure-timeline').layout.font.color"
    light = opened.page.evaluate(ink)
    opened.page.emulate_media(color_scheme="dark")
    for _ in range(100):  # `wait_for_function` is an eval, which the page forbids
        if opened.page.evaluate(ink) != light:
            break
        opened.page.wait_for_timeout(50)
    assert opened.page.evaluate(ink) != light
    paper = opened.page.evaluate("getComputedStyle(document.body).backgroundColor")
    assert max(map(int, re.findall(r"\d+", paper)[:3])) < 64
    opened.page.evaluate("dispatchEvent(new Event('beforeprint'))")
    assert opened.page.evaluate(ink) == "#000000", "what is printed is black on white"
    opened.page.evaluate("dispatchEvent(new Event('afterprint'))")
    assert opened.page.evaluate(ink) not in (light, "#000000")
    assert opened.complaints == []
    opened.context.close()


def test_a_hover_text_is_letters_too(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["log"], "desktop")
    shown = opened.page.evaluate(
        """() => {
          const div = document.getElementById("figure-timeline");
          const curve = div.data.findIndex((trace) => trace.meta === "steps");
          Plotly.Fx.hover(div, [{curveNumber: curve, pointNumber: 0}], "xy3");
          return [...div.querySelectorAll(".hoverlayer text")].map((text) => text.textContent).join("");
        }"""
    )
    letters = re.sub(r"\s", "", HOSTILE)
    assert letters in re.sub(r"\s", "", shown), shown
    assert "Decidedby:" in re.sub(r"\s", "", shown)
    assert opened.complaints == []
    opened.context.close()


def test_a_hostile_name_is_drawn_letter_by_letter(browser: Any, pages: dict[str, Path]) -> None:
    opened = Opened(browser, pages["hostile"], "desktop")
    names = opened.page.evaluate(
        "[...document.querySelectorAll('#figure-gain .ytick text')].map(t => t.textContent)"
    )
    assert f"{HOSTILE[:43]}…" in names
    assert HOSTILE in opened.page.inner_text("#film")
    assert opened.page.evaluate("document.querySelectorAll('#figure-gain a').length") == 0
    opened.context.close()
