"""Scenarios: frozen numbers, and splits that cannot be seen through."""

import json
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import astuple, replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
import toy_table
import toy_world
from reachable import snapshot, values

from rapgym.bench import suitability
from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import BF16, Format, WeightFormat, model_spec
from rapgym.policies.policy import Briefing, briefing
from rapgym.quality import file as table_file
from rapgym.quality.table import QualityTable
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.catalogue import by_default, shipped
from rapgym.scenarios.story import GIB, Scenario, Split, described, restored
from rapgym.workload import residence, series
from rapgym.workload.loaders import load_requests
from rapgym.workload.series import Series
from rapgym.world import encoding

every_story = pytest.mark.parametrize("story", by_default(), ids=lambda story: story.name)


def test_numbers_are_frozen() -> None:
    """A change of any of them moves every score: it needs a new version of the scenario."""
    told = {
        story.id: (
            story.group, story.card_gib, story.served, story.trace, story.every, story.restore_s,
            story.window_s, story.offsets, story.tenant and astuple(story.tenant),
        )
        for story in shipped()
    }  # fmt: skip
    mha, gqa, conv, code = "llama2-7b", "llama3-8b", "azure-conv", "azure-code"
    large, mid, small = (f"servegen:language/m-{size}" for size in ("large", "mid", "small"))
    recording = ("recordings/python-project.csv.gz", "")
    assert told == {
        "chat-v0": ("8-bit", 40, mha, conv, 1, 0.25, 7, 16, (mha, code, 2, 8)),
        "chat-bursty-8bit-v0": ("8-bit", 41, mha, conv, 2, 0.25, 7, 16, (mha, code, 1, 16)),
        "chat-gqa-8bit-v0": ("8-bit", 32, gqa, conv, 1, 0.25, 7, 16, (gqa, code, 1, 8)),
        "chat-mixed-8bit-v0": ("8-bit", 33, gqa, conv, 1, 0.25, 7, 16, (mha, code, 2, 8)),
        "code-8bit-v0": ("8-bit", 41, mha, code, 2, 0.25, 2, 16, (mha, conv, 2, 20)),
        "chat-beside-code-v0": ("16-bit", 44, mha, conv, 2, 0.5, 7, 16, (mha, code, 2, 8)),
        "chat-gqa-v0": ("16-bit", 40, gqa, conv, 1, 0.5, 7, 16, (gqa, code, 1, 8)),
        "laptop-v0": ("16-bit", 23.5, mha, conv, 4, 4.0, 7, 16, recording),
        "long-context-v0": (
            "16-bit", 72, gqa, "mooncake-conversation", 3, 0.5, 18, 16, (gqa, "vllm-kvcache", 1, 32),
        ),
        "days-large-v0": ("days", 32, gqa, large, 25, 0.25, 7, 1, (gqa, mid, 200, 8)),
        "days-mid-v0": ("days", 29, gqa, mid, 200, 0.25, 3, 1, (gqa, large, 60, 8)),
        "days-small-v0": ("days", 28, gqa, small, 150, 0.25, 2, 1, (gqa, large, 75, 8)),
    }  # fmt: skip
    assert {story.name for story in shipped() if not story.claims} == {"long-context", "laptop"}
    assert {
        (
            story.domain,
            story.told_domain,
            story.draw,
            story.ceiling,
            story.notice_s,
            story.reaction_s,
        )
        for story in shipped()
    } == {(None, None, None, None, 0, 0.1)}, "what sensitivity tables vary"
    for story in shipped():
        is_long = story.group == "days"
        assert (story.splits == "days") == story.synthetic == story.is_drawn == is_long
        in_8_bits = story.group in ("8-bit", "days")
        assert story.headline == (story.group == "8-bit")
        assert story.form == (Format("int8", "int8") if in_8_bits else BF16)
        assert story.table == tables.table_name("smollm2-135m", story.form)
    assert len(told) == len(shipped()), "no two of one id"


def test_the_link_of_8_bits_follows_from_that_of_16() -> None:
    """Half the bytes cross the same link in half the time, but for scales."""
    for name in ("llama2-7b", "llama3-8b"):
        served = model_spec(name)
        forms: tuple[WeightFormat, ...] = ("bf16", "int8")
        whole, half = (
            memory.attention_bytes(served, form) + memory.ffn_bytes(served, form) for form in forms
        )
        restore_s = {each.restore_s for each in shipped() if each.headline and each.served == name}
        assert restore_s == {round(0.5 * half / whole, 2)}


@pytest.mark.usefixtures("raw_data")
def test_the_window_is_the_mean_residence_of_the_hour() -> None:
    hour = load_requests("azure-conv")
    assert residence.window_s(hour.prompt_tokens, hour.output_tokens) == 7
    for story in shipped():
        if story.trace == "azure-conv":
            assert story.window_s == 7


@every_story
@pytest.mark.usefixtures("shaped")
def test_every_scenario_builds_every_split(story: Scenario) -> None:
    served = model_spec(story.served)
    rows = {}
    splits: tuple[Split, ...] = ("train", "fit-3", "validation-3", "test")
    for split in splits:
        world = worlds.world(story, split)
        rows[split] = len(world.rows)
        assert world.blocks == 60
        assert world.window_s == story.window_s
        assert world.floor.sum() == 28
        assert (world.rows.limit_bytes <= story.card_gib * GIB).all()
        assert (
            world.rows.longest_tokens <= world.rows.prompt_tokens + world.rows.reserved_tokens + 1
        ).all()
        assert world.restore_bytes_per_s * story.restore_s == pytest.approx(
            served.layers
            * (
                memory.attention_bytes(served, story.form.weights)
                + memory.ffn_bytes(served, story.form.weights)
            )
        )
    whole = len(worlds.workload(story))
    assert rows["train"] == rows["fit-3"] + rows["validation-3"] == int(0.7 * whole)
    assert rows["test"] == whole // 4


@every_story
@pytest.mark.usefixtures("shaped")
def test_only_the_scorers_world_has_test_columns(story: Scenario) -> None:
    policies, scorer = worlds.world(story, "test"), worlds.scoring_world(story)
    splits = [getattr(world.quality, "split", None) for world in (policies, scorer)]
    assert splits == ["calib", "test"]
    assert policies.rows.limit_bytes.tobytes() == scorer.rows.limit_bytes.tobytes()
    assert policies.ceiling == scorer.ceiling, "C comes from calibration text"
    assert policies.mean_output_tokens == scorer.mean_output_tokens


@pytest.mark.parametrize("name", ["chat-beside-code", "chat-beside-code-v0"])
def test_a_scenario_answers_to_its_name_with_and_without_version(name: str) -> None:
    assert catalogue.scenario(name) is catalogue.scenario("chat-beside-code")


def test_unknown_scenarios_and_impossible_numbers_are_refused() -> None:
    with pytest.raises(
        InvalidSpec, match=r"there are chat, chat-.*, or give the path of a \.toml file"
    ):
        catalogue.scenario("chatter")
    impossible: list[dict[str, Any]] = [
        {"card_gib": 0}, {"restore_s": 0}, {"every": 0}, {"offsets": 0}, {"notice_s": -1},
        {"reaction_s": -0.1}, {"reaction_s": float("nan")}, {"reaction_s": float("inf")},
    ]  # fmt: skip
    for change in impossible:
        with pytest.raises(InvalidSpec, match="chat-beside-code"):
            replace(catalogue.scenario("chat-beside-code"), **change)


def other_test_columns() -> QualityTable:
    """The toy table with other numbers on its test text, of which there are fewer rows besides."""
    rows = toy_table.toy_rows(lambda sample, key: sample == "test" and key.startswith("c"))
    of_test = np.array([sample == "test" for sample in rows.sample])[:, None]
    header = toy_table.toy_header()
    samples = tuple(
        replace(sample, dense_nll=(1.0, 1.5, 2.0), unigram_nll_pooled=(9.0, 9.0, 9.0))
        if sample.split == "test" else sample
        for sample in header.samples
    )  # fmt: skip
    rows = replace(rows, nll=np.where(of_test, rows.nll + 0.7, rows.nll))
    content = table_file.packed(replace(header, samples=samples), rows)
    return QualityTable("toy", table_file.unpacked(content, "toy"))


def other_test_rows(whole: Series) -> Series:
    """Everything after the train part is different."""
    after = np.arange(len(whole)) > series.split_rows(len(whole), "train")[-1]
    return replace(
        whole.without_requests(np.flatnonzero(after)),
        batch=np.where(after, whole.batch + 3, whole.batch),
        prompt_tokens=np.where(after, whole.prompt_tokens + 7, whole.prompt_tokens),
        output_tokens=np.where(after, whole.output_tokens // 2 + 1, whole.output_tokens),
        longest_prompt_tokens=np.where(after, 9, whole.longest_prompt_tokens),
        tenant_tokens=np.where(after[:, None], 40 - whole.tenant_tokens, whole.tenant_tokens),
    )


@pytest.fixture
def changed(
    toy_story: Scenario, other_table: Callable[..., AbstractContextManager[Any]]
) -> Iterator[Callable[[], None]]:
    """Puts another test part in place, of rows and of columns."""
    path = Path(f"{toy_story.workload}.csv.gz")
    was, whole = path.read_bytes(), series.read(path)
    with ExitStack() as until_teardown:
        until_teardown.enter_context(other_table())  # forgets worlds before and after

        def change() -> None:
            series.write(other_test_rows(whole), path)
            until_teardown.enter_context(other_table(toy=other_test_columns()))

        yield change
        path.write_bytes(was)


@pytest.mark.parametrize("name", ["chat", "chat-beside-code", "laptop"])
def test_what_results_record_of_a_scenario_gives_it_back(name: str) -> None:
    """As JSON too: formats, tenants and recordings are whole again."""
    story = catalogue.scenario(name)
    told = json.loads(json.dumps(described(story)))
    assert restored(told) == story
    assert (story.form.weights == "int8") == (name == "chat")


def test_the_blocked_view_alternates_and_keeps_a_policys_view_apart() -> None:
    for rows in (500, 513, 1712):
        part = {name: series.split_rows(rows, name, "blocked") for name in series.SPLITS}
        both = np.zeros(rows, dtype=int)
        both[part["train"]], both[part["test"]] = 1, 2
        assert (both == 1).sum() == len(part["train"]), "no row is in train and in test"
        assert abs(len(part["train"]) - len(part["test"])) <= 4
        used = both[both > 0]
        assert (np.diff(used) != 0).sum() == series.STRETCHES - 1, "they take turns"
        seams = np.flatnonzero(np.diff(np.flatnonzero(both)) > 1)
        assert len(seams) == series.STRETCHES - 1
        for seam in seams:
            first, then = np.flatnonzero(both)[[seam, seam + 1]]
            assert then - first > encoding.HISTORY, "no row's history reaches across"


def test_the_blocked_view_is_served_without_its_gaps(toy_story: Scenario) -> None:
    story = replace(toy_story, splits="blocked")
    whole = worlds.workload(story)
    rows = series.split_rows(len(whole), "test", "blocked")
    told = worlds.world(story, "test").rows
    assert told.batch.tolist() == whole.batch[rows].tolist()
    assert len(told) != len(worlds.world(toy_story, "test").rows)


def test_a_stated_price_of_tokens_that_are_not_served_counts_everywhere(
    toy_story: Scenario,
) -> None:
    story = replace(toy_story, ceiling=1.5)
    assert worlds.world(story, "test").ceiling == worlds.scoring_world(story).ceiling == 1.5
    with pytest.raises(InvalidSpec, match="ceiling is above 0 nats"):
        replace(toy_story, ceiling=0.0)


def test_the_scorer_cuts_along_the_order_that_the_shield_was_told_of(toy_story: Scenario) -> None:
    story = replace(toy_story, told_domain="specs")
    told, scored = worlds.world(story, "test"), worlds.scoring_world(story)
    assert told.quality.domain == "specs"
    assert scored.quality.domain is None
    assert scored.quality.split == "test"
    assert (told.quality.order == scored.quality.order).all()
    assert told.ceiling == scored.ceiling == worlds.world(toy_story, "test").ceiling


def used_briefing(story: Scenario) -> Briefing:
    """A briefing after use: its predictor is fitted and has answered."""
    told = briefing(story)
    told.quality.nll(np.array(toy_table.ALL_SETS[:16]))
    told.quality.predicted_nll(np.array(toy_table.ALL_SETS[:16]))
    return told


def test_nothing_of_test_can_be_reached_from_a_briefing(
    toy_story: Scenario, changed: Callable[[], None]
) -> None:
    before = snapshot(used_briefing(toy_story))
    test_before = snapshot(worlds.scoring_world(toy_story))
    changed()
    after = snapshot(used_briefing(toy_story))
    assert snapshot(worlds.scoring_world(toy_story)) != test_before, "the change took place"
    assert len(before) > 50
    assert after.keys() == before.keys()
    assert [path for path in before if before[path] != after[path]] == []


@every_story
@pytest.mark.usefixtures("shaped")
def test_arrays_of_a_briefing_are_no_windows_on_longer_ones(story: Scenario) -> None:
    whole = len(worlds.workload(story))
    arrays = [each for each in values(briefing(story)) if isinstance(each[1], np.ndarray)]
    assert len(arrays) > 10
    for path, value in arrays:
        if value.size:
            assert value.shape[0] not in (whole, whole * story.window_s), path


def episode(kind: str, split: str, seed: int) -> bytes:
    env = gymnasium.make(kind, scenario="toy", split=split, disable_env_checker=True)
    rng, seen = np.random.default_rng(seed), []
    observation, info = env.reset(seed=seed)
    for _ in range(200):
        legal = np.asarray(info["action_mask"])
        small = kind == "RAP-v0"
        action: Any = (
            rng.choice(np.flatnonzero(legal))
            if small
            else rng.integers(0, 2, env.action_space.shape)
        )
        observation, reward, _, truncated, info = env.step(action)
        seen.append(observation.tobytes() + np.float64(reward).tobytes())
        if truncated:
            break
    return b"".join(seen)


@pytest.mark.parametrize("split", ["train", "fit-3", "validation-3"])
@pytest.mark.parametrize("kind", ["RAP-v0", "RAP-Counts-v0", "RAP-KeptSet-v0"])
def test_training_does_not_depend_on_test(
    toy_story: Scenario, changed: Callable[[], None], kind: str, split: str
) -> None:
    before = episode(kind, split, 3), episode(kind, "test", 3)
    changed()
    assert episode(kind, split, 3) == before[0]
    assert episode(kind, "test", 3) != before[1], "the change took place"


def test_the_check_of_a_scenario_looks_at_train_alone(
    toy_story: Scenario, changed: Callable[[], None]
) -> None:
    before = suitability.check(toy_story)
    changed()
    assert suitability.check(toy_story) == before


@pytest.mark.parametrize(("card_bytes", "complaint"), [(10_000, "too easy"), (600, "too hard")])
def test_a_scenario_that_decides_nothing_is_refused(
    toy_story: Scenario, card_bytes: int, complaint: str
) -> None:
    with pytest.raises(InvalidSpec, match=complaint):
        suitability.check(replace(toy_story, card_gib=card_bytes / GIB))


def test_the_toy_series_holds_what_tests_need() -> None:
    made = toy_world.toy_series()
    assert (made.batch == 0).any()
    assert made.tenant_tokens.max() == 40
