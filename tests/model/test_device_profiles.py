"""Device profiles: files that read back, worlds that use them, lengths that are shared."""

import json
from dataclasses import replace
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

import rapgym  # noqa: F401  # registers the ids
from rapgym.arrays import IntArray
from rapgym.errors import InvalidSpec
from rapgym.model import memory, profiles
from rapgym.model.profiles import DeviceProfile, Latency, Stored, Work
from rapgym.model.shapes import model_spec
from rapgym.scenarios import card, catalogue, lanes, worlds
from rapgym.scenarios.story import Scenario
from rapgym.world import simulator
from rapgym.world.records import World

WORK = Work(0.001, 0.0002, 0.0003)
PROFILE = DeviceProfile(
    "bench", context_bytes=5_000_000, activation_bytes_per_token=100.5, margin_bytes=70_000,
    restore_bytes_per_s=1e9, reaction_s=0.02, latency=Latency(WORK, WORK, WORK, drop_block_s=0.0004),
)  # fmt: skip
BESIDE_CODE = catalogue.scenario("chat-beside-code")


@pytest.fixture
def profile_file(tmp_path: Path) -> Path:
    path = tmp_path / "bench.json"
    profiles.write(Stored(PROFILE, {"device": "one", "fit": {"rows": 3}}), path)
    return path


def test_a_profile_reads_back_with_its_provenance(profile_file: Path) -> None:
    assert profiles.read(str(profile_file)) == PROFILE
    assert profiles.stored(profile_file).provenance["device"] == "one"


@pytest.mark.parametrize(
    "change",
    [
        {"schema": 99},
        {"margin_bytes": -1},
        {"reaction_s": -1},
        {"reaction_s": "soon"},
        {"latency": {"prefill_token": {}}},
        {"unknown": 1},
    ],
)
def test_a_damaged_profile_is_refused_by_name(
    profile_file: Path, change: dict[str, object]
) -> None:
    profile_file.write_text(json.dumps(json.loads(profile_file.read_text()) | change))
    with pytest.raises(InvalidSpec, match=r"bench\.json is no device profile"):
        profiles.read(str(profile_file))


def test_an_unknown_profile_says_how_to_get_one() -> None:
    with pytest.raises(InvalidSpec, match="--fit-profile"):
        profiles.read("nowhere")


@pytest.mark.parametrize("name", profiles.names())
def test_committed_profiles_say_where_they_come_from(name: str) -> None:
    found = profiles.stored(profiles.path_of(name))
    assert found.profile.name == name
    assert found.profile.latency is not None
    assert {"machine", "date", "commit", "fit", "settings"} <= found.provenance.keys()


def test_seconds_follow_what_is_kept() -> None:
    kept = np.ones((2, 6), dtype=bool)
    kept[1, [0, 2, 3]] = False
    assert WORK.seconds(kept) == pytest.approx(
        [0.001 + 3 * 0.0002 + 3 * 0.0003, 0.001 + 0.0002 + 2 * 0.0003]
    )


@pytest.mark.usefixtures("shaped")
def test_a_world_on_a_device_charges_what_the_device_adds(profile_file: Path) -> None:
    ideal = worlds.world(BESIDE_CODE, "train")
    there = worlds.world(replace(BESIDE_CODE, device_profile=str(profile_file)), "train")
    prompt = np.array([1000])
    added = there.footprint.overhead_bytes(prompt) - ideal.footprint.overhead_bytes(prompt)
    assert added == 5_000_000 + 100_500
    assert there.footprint.margin_bytes == 70_000
    assert there.restore_bytes_per_s == 1e9 != ideal.restore_bytes_per_s
    assert (there.reaction_s, ideal.reaction_s) == (0.02, 0.1)
    silent = replace(PROFILE, reaction_s=None)
    profiles.write(Stored(silent, {}), profile_file.with_name("silent.json"))
    stated = replace(
        BESIDE_CODE, device_profile=str(profile_file.with_name("silent.json")), reaction_s=0.3
    )
    assert worlds.world(stated, "train").reaction_s == 0.3
    assert (there.rows.limit_bytes == ideal.rows.limit_bytes).all()


@pytest.mark.usefixtures("shaped")
@given(st.sampled_from([0.05, 0.1, 0.25, 0.5]))
def test_at_a_share_of_the_lengths_dense_fits_where_it_did(share: float) -> None:
    whole, part = (
        worlds.world(replace(BESIDE_CODE, stand_in=True, length_share=s), "test")
        for s in (1, share)
    )
    dense = np.ones(whole.blocks, dtype=bool)

    def left(world: World) -> IntArray:
        rows = world.rows
        tokens = rows.prompt_tokens + rows.reserved_tokens
        used = world.footprint.used_bytes(
            np.tile(dense, (len(rows), 1)), tokens, rows.prompt_tokens
        )
        found: IntArray = rows.limit_bytes.min(axis=1) - used
        return found

    token = whole.footprint.model_kv_token_bytes
    # Tokens are whole numbers: prompts and reserves may each be half a token off.
    assert np.abs(left(part) - share * left(whole)).max() <= 1.5 * token
    assert (part.rows.output_tokens == whole.rows.output_tokens).all()
    assert part.mean_output_tokens == whole.mean_output_tokens


@pytest.mark.usefixtures("shaped")
def test_the_card_shrinks_with_the_lengths() -> None:
    dense = memory.weight_bytes(model_spec("smollm2-135m"))
    whole, part = (
        card.card_bytes(replace(BESIDE_CODE, stand_in=True, length_share=s)) for s in (1, 0.25)
    )
    assert part == pytest.approx(dense + 0.25 * (whole - dense), abs=1)


@pytest.mark.parametrize("share", [0.0, -1.0, 1.5])
def test_a_share_is_above_nothing_and_at_most_the_whole(share: float) -> None:
    with pytest.raises(InvalidSpec, match="length_share"):
        replace(BESIDE_CODE, length_share=share)


@pytest.mark.parametrize("env_id", ["RAP-v0", "RAP-Counts-v0", "RAP-KeptSet-v0"])
def test_an_environment_takes_share_and_profile(
    toy_story: Scenario, tmp_path: Path, env_id: str
) -> None:
    path = tmp_path / "toy.json"
    profile = DeviceProfile("toy", context_bytes=20, restore_bytes_per_s=50.0)
    profiles.write(Stored(profile, {}), path)
    options: dict[str, Any] = {"scenario": "toy", "length_share": 0.5, "device_profile": str(path)}
    for env in (
        gymnasium.make(env_id, **options),
        gymnasium.make_vec(env_id, num_envs=2, **options),
    ):
        world = env.unwrapped.lanes.world  # type: ignore[union-attr]
        plain = worlds.world(toy_story, "train")
        assert world.footprint.fixed_bytes == plain.footprint.fixed_bytes + 20
        assert world.restore_bytes_per_s == 50.0
        assert (world.rows.prompt_tokens <= plain.rows.prompt_tokens).all()
        env.reset(seed=0)
        env.close()


def test_a_device_serves_no_vector(toy_story: Scenario) -> None:
    with pytest.raises(InvalidSpec, match="one lane"):
        gymnasium.make_vec("RAP-KeptSet-v0", num_envs=2, scenario="toy", backend="device")
    assert simulator.step is lanes.Lanes(toy_story, "train", 1).step
