"""From a serving scenario to its worlds: requests of one split, bytes of the base, columns by reader."""

from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import toy_table

from rapgym import heldout
from rapgym.arrays import FloatArray
from rapgym.errors import DataUnavailable, HeldOut, InvalidSpec, WrongChecksum
from rapgym.files import checked
from rapgym.quality import history, sets
from rapgym.quality.columns import QualityColumns
from rapgym.scenarios import build, card, serving, serving_worlds, tables
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Scenario, Split, Tenant
from rapgym.serving.card import order_of_going
from rapgym.workload import series, traffic

pytestmark = pytest.mark.usefixtures("toy_story")


def test_requests_of_the_base_in_continuous_time(serving_story: ServeScenario) -> None:
    base, whole = serving_story.base, serving_worlds.whole_traffic(serving_story)
    world = serving_worlds.world(serving_story, "test")
    (span,) = world.spans
    ((start_s, stop_s),) = traffic.spans(whole.seconds, "test", "time")
    here = whole.between(start_s, stop_s)
    assert np.array_equal(span.arrival_us, whole.arrival_us[here] - start_s * traffic.US)
    assert span.seconds == stop_s - start_s
    limit = card.limit_bytes(base, whole.tenant_tokens.astype(np.int64))
    assert np.array_equal(span.limit_bytes, limit[start_s:stop_s])
    # By the second what the series of windows holds of its seconds.
    windows = build.build(base)
    flat = windows.tenant_tokens.ravel()
    assert np.array_equal(flat, whole.tenant_tokens[: len(flat)])
    assert world.card.footprint == card.footprint(base)
    assert world.card.link_bytes_per_s == pytest.approx(300 / 3.0)
    assert (world.card.reaction_s, world.shed_s) == (0.1, 1.5)


def test_units_are_those_of_train(serving_story: ServeScenario) -> None:
    (span,) = serving_worlds.world(serving_story, "train").spans
    splits: tuple[Split, ...] = ("train", "fit-3", "test")
    for split in splits:
        means = serving_worlds.world(serving_story, split).means
        assert means.requests == pytest.approx(len(span.arrival_us) / span.seconds)
        assert means.prompt_tokens == pytest.approx(span.prompt_tokens.sum() / span.seconds)
        assert means.output_tokens == pytest.approx(span.output_tokens.sum() / span.seconds)


def test_counts_are_nested_and_answered_by_the_readers_columns(
    serving_story: ServeScenario,
) -> None:
    told = tables.told(serving_story.base)
    kept = sets.crossing(told.attention_order, told.ffn_order, 6)
    world = serving_worlds.world(serving_story, "train")
    scored = serving_worlds.scoring_world(serving_story, "train")
    assert np.array_equal(world.harm.nll, told.nll(kept)[0])
    assert np.array_equal(scored.harm.nll, tables.judged(serving_story.base).nll(kept)[0])
    assert not np.array_equal(world.harm.nll, scored.harm.nll), "test text says otherwise"
    assert np.array_equal(world.card.goes_next, scored.card.goes_next), "one order for both"
    assert world.harm.ceiling == toy_table.CEILING
    assert world.harm.history_share.tolist() == [1.0, 0.5, 0.25][: world.ffn + 1]


def test_damage_stays_as_stated_else_as_measured_beside_the_table_else_whole(
    serving_story: ServeScenario, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    shared = serving_worlds.history_share
    assert shared(serving_story) == (1.0, 0.5, 0.25)
    unstated = replace(serving_story, history_share=None)
    assert shared(unstated) == (1.0,)
    path = tmp_path / "toy.history.json"
    history.write(path, [history.Share("ffn", 1, 0.5, 0.1, 0.4, 0.2, 0.1)], {})
    asked: list[str] = []

    def path_of(table: str) -> Path:
        asked.append(table)
        return path

    monkeypatch.setattr(history, "path_of", path_of)
    assert shared(unstated) == (0.2, 0.2)
    assert asked == [tables.base_name(serving_story.base)], "a share is of the table in bf16"
    world = serving_worlds.world(unstated, "train")
    assert set(world.harm.history_share.tolist()) == {0.2}


def test_blocks_go_in_the_order_that_policies_know(
    serving_story: ServeScenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    nested = serving_worlds.nested_nll

    def reversed_on_test(story: ServeScenario, columns: QualityColumns) -> FloatArray:
        nll = nested(story, columns)
        return nll if columns.split == "calib" else nll.max() - nll

    monkeypatch.setattr(serving_worlds, "nested_nll", reversed_on_test)
    serving_worlds.forget()
    world = serving_worlds.world(serving_story, "train")
    scored = serving_worlds.scoring_world(serving_story, "train")
    assert np.array_equal(world.card.goes_next, scored.card.goes_next)
    assert not np.array_equal(scored.card.goes_next, order_of_going(scored.harm.nll))
    monkeypatch.undo()
    serving_worlds.forget()


def test_training_sees_no_test(serving_story: ServeScenario) -> None:
    others: tuple[Split, ...] = ("test", "fit-3")
    with heldout.only("train") as opened:
        serving_worlds.world(serving_story, "train")
        for split in others:
            with pytest.raises(HeldOut):
                serving_worlds.world(serving_story, split)
        with pytest.raises(HeldOut):
            serving_worlds.scoring_world(serving_story, "train")
        with pytest.raises(HeldOut):
            serving_worlds.whole_traffic(serving_story)
    assert opened == {"train"}
    whole = serving_worlds.whole_traffic(serving_story)
    (span,) = serving_worlds.world(serving_story, "train").spans
    assert span.arrival_us.base is None or len(span.arrival_us.base) < len(whole.arrival_us)
    with pytest.raises(ValueError, match="read-only"):
        span.limit_bytes[0] = 0


def test_a_split_that_there_is_not(serving_story: ServeScenario) -> None:
    with pytest.raises(InvalidSpec, match="no split 'tests'"):
        serving_worlds.world(serving_story, "tests")  # type: ignore[arg-type]


def test_a_raw_trace_that_is_not_here_is_said_in_the_scenarios_words(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    monkeypatch.setenv("RAPGYM_DATA", str(tmp_path))
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path))
    serving_worlds.forget()
    with pytest.raises(DataUnavailable, match=r"served request by request.*traces pull azure-conv"):
        serving_worlds.world(serving.story_of("serve-chat-bursty"), "train")


@pytest.fixture
def two_days(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> ServeScenario:
    """Two days in place of fourteen, of few requests, and an empty cache."""
    monkeypatch.setattr(series, "DAYS", 2)
    monkeypatch.setattr(series, "TRAIN_DAYS", 1)
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path / "cache"))
    story = serving.story_of("serve-days-mid")
    assert isinstance(story.base.tenant, Tenant)
    tenant = replace(story.base.tenant, every=4000)
    base = replace(story.base, every=20_000, tenant=tenant)
    return replace(story, base=base, traffic_sha256="")


@pytest.mark.slow
def test_what_is_drawn_is_what_windows_are_made_of(two_days: ServeScenario) -> None:
    drawn = traffic.read(serving_worlds.traffic_file(two_days, quiet=True))
    windows = build.drawn(two_days.base)
    prompts = windows.single_requests().prompt_tokens
    assert np.array_equal(drawn.prompt_tokens[: len(prompts)], prompts)
    held = windows.tenant_tokens.ravel()
    assert np.array_equal(drawn.tenant_tokens[: len(held)], held)
    world = serving_worlds.world(two_days, "test")
    assert [part.seconds for part in world.pieces] == [3600] * 24
    arrived = sum(len(world.requests(part)) for part in world.pieces)
    assert 0.9 < arrived / (86400 * world.means.requests) < 1.1


@pytest.fixture
def draws(two_days: ServeScenario, monkeypatch: pytest.MonkeyPatch) -> list[str]:
    """Names of what is drawn: a request a second, in place of measured statistics."""
    names: list[str] = []

    def draw(base: Scenario, *, quiet: bool = True) -> traffic.Traffic:
        names.append(base.name)
        seconds = series.DAYS * 86400
        size = np.full(seconds, 5, dtype=np.int32)
        return traffic.Traffic(np.arange(seconds) * traffic.US, size, size, size, {})

    monkeypatch.setattr(build, "traffic", draw)
    return names


def test_days_are_drawn_once(two_days: ServeScenario, draws: list[str]) -> None:
    path = serving_worlds.traffic_file(two_days)
    assert path.is_relative_to(checked.cache_folder())
    world = serving_worlds.world(two_days, "test")
    assert [part.seconds for part in world.pieces] == [3600] * 24
    assert world.means.requests == 1.0
    assert draws == ["days-mid"]
    other = replace(two_days, base=replace(two_days.base, every=10_000))
    assert serving_worlds.traffic_file(other) != path
    richer = replace(two_days, base=replace(two_days.base, card_gib=80))
    assert serving_worlds.traffic_file(richer) == path, "a card changes no traffic"
    assert len(draws) == 2


def test_a_machine_that_draws_other_bytes_says_so(
    two_days: ServeScenario, draws: list[str]
) -> None:
    whole = serving_worlds.traffic_file(two_days)
    stated = replace(two_days, traffic_sha256=checked.sha256_of(whole))
    assert serving_worlds.traffic_file(stated).read_bytes() == whole.read_bytes()
    for _ in range(2):
        with pytest.raises(WrongChecksum, match="draws other traffic"):
            serving_worlds.traffic_file(replace(two_days, traffic_sha256="0" * 64))
    assert len(draws) == 4, "what is wrong is not kept"
