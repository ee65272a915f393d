"""A stretch of serving as a film and a page: its bytes and times are those that the engine records."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

from rapgym.cli import main
from rapgym.errors import InvalidSpec
from rapgym.policies import serve_rules
from rapgym.policies.serving import serve_briefing
from rapgym.report import serve_film, serve_page
from rapgym.report.serve_film import ServeFilm
from rapgym.rollout.serving import by_second, play
from rapgym.scenarios import serving, serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import GIB
from rapgym.serving import batch
from rapgym.serving.world import Part

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")


@pytest.fixture(scope="module")
def films(serving_story: ServeScenario) -> list[ServeFilm]:
    return serve_film.filmed(serving_story, ["keep-all-drop", "engine"])


def test_seconds_add_up_to_what_a_part_comes_to(serving_story: ServeScenario) -> None:
    world, told = serving_worlds.scoring_world(serving_story), serve_briefing(serving_story)
    make, part = serve_rules.RULES["keep-all-drop"].make, Part(0, 0, 90)
    record = by_second(make(on_fall=1), world, part, told)
    assert record.shape == (90, len(batch.COLUMNS))
    whole = play(lambda: make(on_fall=1), world, [part], told)
    np.testing.assert_allclose(record.sum(axis=0), whole.record[0])


def test_the_stretch_is_the_one_that_asks_most_of_what_is_left(
    serving_story: ServeScenario,
) -> None:
    world = serving_worlds.scoring_world(serving_story)
    span = world.spans[0]
    tight = replace(span, limit_bytes=span.limit_bytes // 2)
    for place, spans in enumerate([(tight, span), (span, tight)]):
        assert serve_film.busiest(replace(world, spans=spans)).span == place


def test_bytes_by_kind_add_up_to_what_the_card_counts(films: list[ServeFilm]) -> None:
    film = films[0]
    kinds, here = film.by_kind(), film.record[: film.seconds]
    assert len({*here[:, batch.ATTENTION_DROPPED].tolist()}) > 1, "blocks move"
    still = here[:, batch.LOADING] < 0
    assert still.any()
    for second in np.flatnonzero(still):
        counts = (int(here[second, batch.ATTENTION_DROPPED]), int(here[second, batch.FFN_DROPPED]))
        tokens = int(here[second, batch.PAGES_USED]) * film.page_tokens
        counted = film.card.used_bytes(counts, tokens) - film.card.footprint.margin_bytes
        assert kinds[second].sum() == counted


@pytest.mark.parametrize("bins", [serve_film.MOST_BINS, 40])
def test_what_is_drawn_is_what_was_recorded(
    bins: int, films: list[ServeFilm], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(serve_film, "MOST_BINS", bins)
    shown, today = films
    assert len(serve_film._starts(shown)) <= bins
    figure = serve_film.drawn(shown, today)
    drawn = {trace.name: trace for trace in figure.data}
    here = shown.record[: shown.seconds]
    assert sum(drawn["requests given up"].y) == here[:, batch.SHED].sum()
    assert sum(drawn["requests preempted"].y) == here[:, batch.PREEMPTIONS].sum()
    assert max(drawn["waiting"].y) == here[:, batch.WAITING].max()
    assert max(drawn["waiting, engine"].y) == today.record[: today.seconds, batch.WAITING].max()
    layers = shown.card.footprint.layers
    assert min(drawn["FFN blocks kept"].y) == layers - here[:, batch.FFN_DROPPED].max()
    assert min(drawn["limit that the tenant leaves"].y) == pytest.approx(
        here[:, batch.LIMIT].min() / GIB, rel=1e-5
    )
    stacked = np.sum(
        [trace.y for trace in figure.data if trace.type == "scatter" and trace.stackgroup], axis=0
    )
    assert stacked.max() == pytest.approx(shown.by_kind().sum(axis=1).max() / GIB, rel=1e-4)
    starts = serve_film._starts(shown)
    first = [here[a:b] for a, b in zip(starts, [*starts[1:], shown.seconds], strict=True)]
    means = [c[:, batch.TTFT].sum() / n for c in first if (n := c[:, batch.FIRST].sum())]
    assert [*drawn["time to first token"].y] == pytest.approx(means, rel=1e-5)


def test_the_page_says_what_the_films_come_to(
    serving_story: ServeScenario, films: list[ServeFilm]
) -> None:
    page = serve_page.page(serving_story, "keep-all-drop")
    answer, film, _ = page.sections
    shown, today = films
    good = today.total(batch.GOOD) / today.total(batch.ARRIVED)
    assert f"{good:.1%} of" in answer.points[0]
    assert f"costs {shown.cost:.4f} nats a token" in answer.points[1]
    less = shown.cost - today.cost
    assert f"{abs(less):.4f} {'less' if less < 0 else 'more'}" in answer.points[1]
    (minutes,) = film.tables
    assert len(minutes.rows) == -(-shown.seconds // 60)
    told = sum(int(str(row[-1])) for row in minutes.rows)
    assert told == shown.record[: shown.seconds, batch.SHED].sum()
    alone = serve_page.page(serving_story, "engine")
    assert len(alone.sections[0].points) == 1


def test_an_unknown_rule_or_scenario_says_what_there_is(
    serving_story: ServeScenario, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    with pytest.raises(InvalidSpec, match="there are engine, keep-all-drop"):
        serve_film.filmed(serving_story, ["nobody"])
    assert main(["report", "--serve", "nowhere", "--out", f"{tmp_path}/x.html"]) == 2
    assert "no serving scenario is called 'nowhere'" in capsys.readouterr().err


def test_the_command_writes_the_page(
    serving_story: ServeScenario, tmp_path: Path, monkeypatch: pytest.MonkeyPatch,
    capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    monkeypatch.setattr(serving, "story_of", lambda named: serving_story)
    out = f"{tmp_path}/serve.html"
    asked = ["report", "--serve", "toy", "--policy", "keep-all-drop", "--out", out]
    assert main(asked) == 0
    told = capsys.readouterr()
    assert f"wrote {out} (" in told.out
    assert "playing toy under keep-all-drop" in told.err
    assert main([*asked, "--since", "2026-01-01"]) == 2
    assert "--since is for an audit log" in capsys.readouterr().err
    assert main(["report"]) == 2
    assert "one of both" in capsys.readouterr().err
