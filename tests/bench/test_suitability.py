"""A scenario that is too easy or too hard is refused, by its train split alone."""

import json
from dataclasses import asdict, replace
from pathlib import Path

import numpy as np
import pytest
import toy_world

from rapgym import cli
from rapgym.bench import run as bench_run
from rapgym.bench import suitability
from rapgym.bench.suitability import Load
from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.catalogue import by_default, shipped
from rapgym.scenarios.story import GIB, Scenario, Split
from rapgym.workload import series
from rapgym.workload.series import Series
from rapgym.world.records import World


def test_a_fair_scenario_says_why(toy_story: Scenario) -> None:
    assert "above the bound" in suitability.check(toy_story)


def test_one_in_which_dense_always_fits_is_too_easy(toy_story: Scenario) -> None:
    with pytest.raises(InvalidSpec, match="too easy: dense fits in 100%"):
        suitability.check(replace(toy_story, card_gib=100_000 / GIB))


def test_one_in_which_nothing_fits_is_too_hard(toy_story: Scenario) -> None:
    with pytest.raises(InvalidSpec, match="too hard: the floor fits in 0%"):
        suitability.check(replace(toy_story, card_gib=520 / GIB))


@pytest.mark.parametrize(
    ("card_bytes", "says"), [(100_000, "too easy.*; lower"), (520, "too hard.*; raise")]
)
def test_the_card_that_is_advised_passes(toy_story: Scenario, card_bytes: int, says: str) -> None:
    refused = replace(toy_story, card_gib=card_bytes / GIB)
    with pytest.raises(InvalidSpec, match=says) as caught:
        suitability.check(refused)
    advised = float(str(caught.value).rpartition(" to ")[2])
    assert "above the bound" in suitability.check(replace(refused, card_gib=advised))


@pytest.mark.parametrize("story", by_default(), ids=lambda story: story.name)
@pytest.mark.usefixtures("shaped")
def test_no_card_of_the_list_is_far_too_large_or_small(story: Scenario) -> None:
    """The rest of the check takes as long as the lookup does: `rapgym scenarios check`."""
    world = worlds.world(story, "train")
    whole = np.ones(world.blocks, dtype=bool)
    assert suitability.fitting_share(world, whole) < suitability.EASY_SHARE
    assert 1 - suitability.fitting_share(world, world.floor) < suitability.HARD_SHARE


def test_where_no_card_helps_the_message_says_so(
    toy_story: Scenario, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(suitability, "LEAST_ROOM", 1.1)
    with pytest.raises(
        InvalidSpec, match=r"leaves nothing to decide.*no card_gib between .* change"
    ):
        suitability.check(toy_story)


def test_advice_looks_at_train_alone(toy_story: Scenario, monkeypatch: pytest.MonkeyPatch) -> None:
    asked, world = set(), worlds.world

    def noted(story: Scenario, split: Split) -> World:
        asked.add(split)
        return world(story, split)

    monkeypatch.setattr(worlds, "world", noted)
    with pytest.raises(InvalidSpec):
        suitability.check(replace(toy_story, card_gib=520 / GIB))
    assert asked == {"train"}


def test_a_bench_refuses_before_anything_else(toy_story: Scenario, tmp_path: Path) -> None:
    easy = replace(toy_story, card_gib=100_000 / GIB)
    out = tmp_path / "found.csv.gz"
    with pytest.raises(InvalidSpec, match="too easy"):
        bench_run.run([toy_story, easy], ["frontier"], out, quiet=True)
    assert not list(tmp_path.iterdir()), "nothing is written, nothing is run"


def test_shares_of_fitting_rows_equal_a_plain_count(toy_story: Scenario) -> None:
    world = worlds.world(toy_story, "train")
    rows, footprint = world.rows, world.footprint
    fitting = 0
    for t in range(len(rows)):
        tokens = int(rows.prompt_tokens[t] + rows.reserved_tokens[t])
        used = footprint.fixed_bytes + sum(
            cost
            for kept, cost in zip(world.floor, footprint.block_bytes(np.array(tokens)), strict=True)
            if kept
        )
        fitting += all(used <= limit for limit in rows.limit_bytes[t])
    assert suitability.fitting_share(world, world.floor) == pytest.approx(fitting / len(rows))


def test_numbers_are_those_that_the_story_implies(toy_story: Scenario) -> None:
    found = suitability.numbers(replace(toy_story))
    assert found["window_s"] == toy_story.window_s
    assert found["weights_gib"] * GIB == memory.weight_bytes(toy_world.MODEL)
    assert found["kv_kib_a_token"] * 1024 == memory.model_kv_token_bytes(toy_world.MODEL)
    train = suitability.load(toy_story)["train"]
    assert found["limit_gib_mean"] == pytest.approx(train.left * toy_story.card_gib)
    assert found["tokens_in_flight_p95"] == train.tokens_p95
    assert found["rows"]["train"] + found["rows"]["test"] < 200


@pytest.mark.parametrize(
    ("every", "says"),
    [(1, "every request"), (2, "every 2nd request"), (3, "every 3rd request"),
     (4, "every 4th request"), (11, "every 11th request"), (21, "every 21st request"),
     (112, "every 112th request"), (200, "every 200th request")],
)  # fmt: skip
def test_the_share_of_a_replica_is_an_ordinal(toy_story: Scenario, every: int, says: str) -> None:
    served = suitability.numbers(replace(toy_story, every=every))["served"]
    assert served == f"{toy_story.served}, {says} of {toy_story.trace}"


def test_a_tenants_share_is_an_ordinal_too() -> None:
    tenant = suitability.numbers(catalogue.scenario("chat-mixed-8bit"))["tenant"]
    assert tenant.startswith("llama2-7b, every 2nd request of azure-code")


def small_series() -> Series:
    """Ten rows of four seconds: the first seven are train, the last two test.

    The tenant leaves 600 bytes less 12 a token, of a card of 1000. Dense takes 400 + 12 bytes a token
    in flight, the floor 200 + 4.
    """
    batch = np.array([1, 2, 1, 0, 1, 1, 1, 9, 1, 1])
    prompt = np.array([5, 20, 5, 0, 5, 5, 5, 90, 45, 25])
    held = np.zeros((10, 4), dtype=np.int64)
    held[2] = [0, 5, 10, 0]  # 600 540 480 600 bytes: a fall of 120
    held[4] = [20, 0, 0, 20]  # 360 600 600 360: it rises, and comes back to where it was
    held[5] = [0, 0, 0, 30]  # 600 600 600 240: a fall of 360
    held[9] = [10, 30, 35, 35]  # 480 240 180 180: a fall of 300
    requests = [
        " ".join(f"{asked // size}/0" for _ in range(size))
        for size, asked in zip(batch.tolist(), prompt.tolist(), strict=True)
    ]
    return Series(
        window_s=4,
        reserve_tokens=5,
        batch=batch,
        prompt_tokens=prompt,
        output_tokens=np.zeros(10, dtype=np.int64),
        longest_prompt_tokens=prompt // np.maximum(batch, 1),
        tenant_tokens=held,
        requests=np.array(requests, dtype=object),
        origin={"note": "numbers by hand, for tests"},
    )


@pytest.fixture
def small_story(toy_story: Scenario, tmp_path: Path) -> Scenario:
    """The toy scenario with rows that can be counted by hand."""
    series.write(small_series(), tmp_path / "small.csv.gz")
    return replace(toy_story, workload=str(tmp_path / "small"))


def test_load_counts_the_rows_of_a_split(small_story: Scenario) -> None:
    train = suitability.load(small_story)["train"]
    tokens = [10, 30, 10, 0, 10, 10, 10]  # prompt and a reserve of 5 a request
    assert (train.rows, train.requests) == (7, 1)
    assert train.tokens == pytest.approx(80 / 7)
    assert train.tokens_p95 == pytest.approx(np.quantile(tokens, 0.95))
    # 28 seconds of 600 bytes less 12 for each of 5 + 10 + 40 + 30 tokens.
    assert train.left == pytest.approx((28 * 600 - 12 * 85) / 28 / 1000, abs=1e-3)
    assert train.left_p5 == pytest.approx(np.quantile([240, 360, 360, 480, 540] + 23 * [600], 0.05) / 1000)  # fmt: skip
    assert train.falling_rows == pytest.approx(2 / 7), (
        "a limit that rises and comes back is no fall"
    )
    assert train.fall == pytest.approx((0.120 + 0.360) / 2)
    assert train.fall_p95 == pytest.approx(0.120 + 0.95 * 0.240)
    # Dense takes 520 bytes at 10 tokens, 760 at 30, 400 at none: not in rows 1, 2, 4 and 5.
    assert train.dense_fits == pytest.approx(3 / 7)
    assert train.floor_fits == 1, "in row 5 to the byte: 240 at 10 tokens"


def test_load_tells_test_from_train(small_story: Scenario) -> None:
    test = suitability.load(small_story)["test"]
    assert (test.rows, test.requests, test.tokens) == (2, 1, 40.0)
    assert (test.falling_rows, test.fall, test.fall_p95) == (0.5, 0.3, 0.3)
    assert test.left == pytest.approx((4 * 600 + 480 + 240 + 180 + 180) / 8 / 1000)
    assert (test.dense_fits, test.floor_fits) == (0, 0.5)


def test_load_without_a_fall_says_zero(small_story: Scenario) -> None:
    alone = replace(small_story, tenant=None, offsets=1)
    found = suitability.load(alone)
    assert found.keys() == {"train", "test"}
    for part in found.values():
        assert (part.left, part.left_p5) == (1, 1)
        assert (part.falling_rows, part.fall, part.fall_p95) == (0, 0, 0)


def test_the_command_prints_the_load_of_every_scenario(
    shaped: object, capsys: pytest.CaptureFixture[str]
) -> None:
    hours = [story.name for story in shipped() if not story.synthetic]
    assert cli.main(["scenarios", "load", *hours, "--json"]) == 0
    found = json.loads(capsys.readouterr().out)
    assert [*found] == hours
    for name, both in found.items():
        assert {split: Load(**part) for split, part in both.items()} == suitability.load(
            catalogue.scenario(name)
        )
    assert cli.main(["scenarios", "load", "chat-gqa"]) == 0
    lines = capsys.readouterr().out.splitlines()
    test = asdict(suitability.load(catalogue.scenario("chat-gqa"))["test"])
    (line,) = (line for line in lines if line.split()[:2] == ["chat-gqa", "test"])
    assert line.split()[2] == str(test["rows"])
    assert line.split()[-1] == f"{test['floor_fits']:.1%}"
