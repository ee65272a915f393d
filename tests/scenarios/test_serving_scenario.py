"""Serving scenarios as files: what they take from a window scenario, and errors that name the key."""

import json
from dataclasses import asdict
from pathlib import Path

import pytest

from rapgym.errors import DataUnavailable, InvalidSpec
from rapgym.scenarios import serving
from rapgym.scenarios.catalogue import scenario
from rapgym.scenarios.serving import Assumed, engine_profile, shipped, story_of

OURS = """
story = "mine"
base = "chat-bursty-8bit"
card_gib = 38.5
every = 3
reaction_s = 0.2
shed_s = 4
history_share = [1, 0.5, 0.25]

[assumed]
base_s = 0.001
weight_bytes_per_s = 6e11
tokens_per_s = 13000
kv_bytes_per_s = 8e11
pair_s = 1e-9
step_tokens = 512

[deadlines]
ttft_s = 3
"""


def written(folder: Path, text: str) -> str:
    path = folder / "mine.toml"
    path.write_text(text)
    return str(path)


def test_what_came_with_rapgym_stands_on_window_scenarios() -> None:
    names = [found.name for found in shipped()]
    assert names == sorted(names)
    assert len([found for found in shipped() if found.base.is_drawn]) >= 3
    assert len([found for found in shipped() if not found.base.is_drawn]) >= 2
    for found in shipped():
        assert engine_profile(found).step_tokens == 2048
        assert not engine_profile(found).prefix_cache, "no trace of these names shared prefixes"
        assert story_of(found.name) is story_of(found.id) is found


def test_a_file_of_the_users(tmp_path: Path) -> None:
    found = story_of(written(tmp_path, OURS))
    base = scenario("chat-bursty-8bit")
    assert (found.base.card_gib, found.base.every, found.base.reaction_s) == (38.5, 3, 0.2)
    assert (found.base.tenant, found.base.form, found.base.table) == (
        base.tenant,
        base.form,
        base.table,
    )
    assert (found.shed_s, found.history_share) == (4, (1.0, 0.5, 0.25))
    assert (found.deadlines.ttft_s, found.deadlines.tpot_s) == (3, 0.1)
    profile = engine_profile(found)
    assert (profile.step_tokens, profile.max_sequences) == (512, 256)
    assert profile.provenance["assumed"] is True


def test_fields_survive_json(tmp_path: Path) -> None:
    for found in (story_of(written(tmp_path, OURS)), shipped()[0], shipped()[-1]):
        assert story_of(json.loads(json.dumps(asdict(found)))) == found
    with pytest.raises(InvalidSpec, match="not the fields of a serving scenario"):
        story_of({"name": "nothing"})


@pytest.mark.parametrize(
    ("old", "new", "fault"),
    [
        ("shed_s = 4", "shed_s = 0", "shed_s is above 0"),
        ("shed_s = 4", 'shed_s = "4"', "shed_s is a number"),
        ("shed_s = 4", "shed = 4", "no key 'shed'; did you mean shed_s"),
        ("card_gib = 38.5", "card_gib = -1", "card_gib is above 0"),
        ("every = 3", "every = 0", "every is at least 1"),
        ("[1, 0.5, 0.25]", "[1, 2]", "from 0 to 1"),
        ("[1, 0.5, 0.25]", "[]", "one share or more"),
        ("[1, 0.5, 0.25]", '"half"', "a list of such"),
        ("base_s = 0.001", "", r"\[assumed\]: base_s is missing"),
        ("base_s = 0.001", "base_s = -1", "no work takes less than no time"),
        ("step_tokens = 512", "step_tokens = 1.5", "step_tokens is a whole number"),
        ("ttft_s = 3", "ttft = 3", r"\[deadlines\]: there is no key 'ttft'"),
        ("ttft_s = 3", "late_s = 0", "lateness has a length"),
        ("[assumed]", 'profile = "RTX4090-Llama-3.1-8B"\n[assumed]', "one of both"),
        ('"chat-bursty-8bit"', '"chatty"', "no scenario is called 'chatty'"),
        ('"chat-bursty-8bit"', '"long-context"', "whose memory was recorded"),
        ('"chat-bursty-8bit"', '"laptop"', "whose memory was recorded"),
        ('base = "chat-bursty-8bit"', "", "base is missing"),
        ("story =", "story", "no TOML file"),
    ],
)  # fmt: skip
def test_what_is_wrong_is_said_with_file_and_key(
    tmp_path: Path, old: str, new: str, fault: str
) -> None:
    assert old in OURS
    path = written(tmp_path, OURS.replace(old, new, 1))
    with pytest.raises(InvalidSpec, match=fault) as error:
        story_of(path)
    assert path in str(error.value)


def test_names_that_there_are_not() -> None:
    with pytest.raises(InvalidSpec, match="did you mean serve-days-mid"):
        story_of("serve-days-mids")
    with pytest.raises(InvalidSpec, match="not 3; there are"):
        story_of(3)  # type: ignore[arg-type]
    with pytest.raises(DataUnavailable, match="is not there"):
        story_of("none.toml")
    with pytest.raises(InvalidSpec, match="no serving profile is called 'H100'; there are RTX4090"):
        serving.profile_path("H100")


def test_one_assumed_profile_is_checked_as_it_is_stated() -> None:
    with pytest.raises(InvalidSpec, match="rates are above 0"):
        Assumed(0.1, 0.0, 1.0, 1.0, 0.0)
