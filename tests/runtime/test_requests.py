"""The requests of a row: sums as the world charges them, and real text behind each."""

from collections.abc import Iterator
from dataclasses import replace
from functools import lru_cache
from itertools import pairwise
from typing import Any

import numpy as np
import pytest
import tiny_llama
from hypothesis import given
from hypothesis import strategies as st

from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.quality import texts as quality_texts
from rapgym.quality.table import QualityTable
from rapgym.runtime.live.requests import RowRequests, apportion, disjoint_starts
from rapgym.scenarios import catalogue, stand_in, worlds
from rapgym.scenarios.story import Scenario, Split
from rapgym.workload import series

TOKENIZER = tiny_llama.tokenizer()
STORIES = ("chat-beside-code", "chat-gqa", "code-8bit", "long-context")


@pytest.fixture(scope="module", autouse=True)
def _texts(shaped: QualityTable) -> Iterator[None]:
    """Made-up texts, other ones for each domain and split; a table of the reference model's shape."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(quality_texts, "read", lambda *place: 20 * tiny_llama.text(*place))
        yield
    source.cache_clear()


@lru_cache
def source(name: str = "chat-gqa", /, split: Split = "test", **changed: Any) -> RowRequests:
    return RowRequests(replace(live(name), **changed), split, TOKENIZER)


def live(name: str) -> Scenario:
    """The scenario as a device serves it."""
    return catalogue.story_of(name, stand_in=True)


@pytest.mark.parametrize("name", STORIES)
def test_sums_are_those_of_the_worlds_row_to_the_token(name: str) -> None:
    story = live(name)
    found, rows = source(name), worlds.world(story, "test").rows
    assert len(found) == len(rows)
    for row in range(0, len(rows), 5):
        lengths = found.lengths(row)
        assert len(lengths.prompt) == rows.batch[row]
        assert lengths.prompt.sum() == rows.prompt_tokens[row]
        assert lengths.reserve.sum() == rows.reserved_tokens[row]
        assert (lengths.prompt >= 1).all()
        assert (lengths.output <= lengths.reserve).all()


@pytest.mark.parametrize("name", STORIES)
def test_each_request_is_as_long_as_the_trace_says(name: str) -> None:
    """Within a token and what rounding a row's sum spreads."""
    story, found = live(name), source(name)
    scale = float(stand_in.scales(story).tokens)
    whole = worlds.workload(story)
    part = whole.part(series.split_rows(len(whole), "test", story.splits))
    assert len(part) == len(found) > 40
    for row in range(0, len(part), 5):
        single, lengths = part.part(np.array([row])).single_requests(), found.lengths(row)
        long = single.prompt_tokens * scale > 2  # shorter ones are raised to a token
        off = lengths.prompt - single.prompt_tokens * scale
        assert np.abs(off[long]).max(initial=0) <= 2 + np.count_nonzero(~long)
        assert np.abs(lengths.output - single.output_tokens * scale).max(initial=0) <= 2
        assert np.abs(lengths.reserve - part.reserve_tokens * scale).max(initial=0) <= 1
        assert lengths.output.sum() == pytest.approx(single.output_tokens.sum() * scale, abs=1)


def test_a_length_share_shortens_requests_as_it_shortens_the_worlds_rows() -> None:
    story = catalogue.story_of("chat-gqa", 0.1)
    rows, found = worlds.rows(story, "test"), source(length_share=0.1)
    assert len(rows) == len(found) > 40
    for row in range(0, len(rows), 10):
        short, whole = found.lengths(row), source().lengths(row)
        assert short.prompt.sum() == rows.prompt_tokens[row]
        assert short.reserve.sum() == rows.reserved_tokens[row]
        assert short.output.sum() == pytest.approx(whole.output.sum() / 10, abs=1)
        assert short.prompt == pytest.approx(whole.prompt / 10, abs=2)


def test_other_sums_scale_outputs_with_their_reserve() -> None:
    found = source()
    lengths = found.lengths(3)
    prompts, reserves = int(lengths.prompt.sum()), int(lengths.reserve.sum())
    small = found.lengths(3, prompts // 10, reserves // 10)
    assert small.prompt.sum() == prompts // 10
    assert small.reserve.sum() == reserves // 10
    assert small.output.sum() == pytest.approx(lengths.output.sum() / 10, abs=1)
    served = found.at(3, prompts // 10, reserves // 10)
    assert sum(len(request.prompt) for request in served) == prompts // 10
    with pytest.raises(InvalidSpec, match="larger length_share"):
        found.lengths(3, len(lengths.prompt) - 1, reserves)


def decoded(request: Any) -> str:
    return str(TOKENIZER.decode(np.concatenate([request.prompt, request.output])))


def test_answers_continue_their_prompts_in_the_text_of_domains_in_turn() -> None:
    found = source("chat-beside-code")
    texts = [quality_texts.read(domain, "test") for domain in quality_texts.DOMAINS]
    places = []
    for request in found.at(4):
        places.append([decoded(request) in text for text in texts])
        assert sum(places[-1]) == 1, "cut from one text as it stands"
    turns = [place.index(True) for place in places]
    assert all((b - a) % 3 == 1 for a, b in pairwise(turns))


def test_a_story_of_one_domain_reads_that_text_alone() -> None:
    text = quality_texts.read("wiki", "test")
    assert all(decoded(request) in text for request in source(domain="wiki").at(7))


def test_only_the_test_split_reads_test_text() -> None:
    story = live("chat-gqa")
    texts = [quality_texts.read(domain, "calib") for domain in quality_texts.DOMAINS]
    own, other = (
        source(split="train").at(2),
        RowRequests(story, "train", TOKENIZER, text="test").at(2),
    )
    assert len(own) == len(other) > 0
    for request in own:
        assert any(decoded(request) in text for text in texts)
    for request in other:
        assert not any(decoded(request) in text for text in texts)


def test_scenario_and_row_decide_the_text() -> None:
    def prompts(found: RowRequests, row: int) -> list[list[int]]:
        return [request.prompt.tolist() for request in found.at(row)]

    story = catalogue.scenario("chat-gqa")
    found, same, other = (
        RowRequests(each, "test", TOKENIZER)
        for each in (story, story, replace(story, name="other"))
    )
    assert prompts(found, 3) == prompts(same, 3)
    assert prompts(found, 3) != prompts(other, 3), "the same lengths, other text"
    assert prompts(found, 3) != prompts(found, 4)


def test_a_row_whose_requests_are_not_kept_says_so() -> None:
    found = source("chat-gqa", "train")
    assert found.lengths(0).prompt.sum() > 0
    found._part = found._part.without_requests(np.arange(1, len(found)))
    with pytest.raises(
        InvalidTrace, match=f"keeps single requests of 1 of {len(found)} rows of train"
    ):
        found.at(1)


shares = st.lists(st.integers(0, 500), min_size=1, max_size=12).map(
    lambda numbers: np.array(numbers, dtype=np.int64)
)


@given(shares=shares, total=st.integers(0, 3000), least=st.integers(0, 2))
def test_apportioned_numbers_add_up_and_keep_proportion(
    shares: Any, total: int, least: int
) -> None:
    total += least * len(shares)
    found = apportion(shares, total, least=least)
    assert found.sum() == total
    assert (found >= least).all()
    quota = (
        shares * total / shares.sum() if shares.any() else np.full(len(shares), total / len(shares))
    )
    if least == 0:
        assert (np.abs(found - quota) < 1).all()
    order = np.argsort(shares, kind="stable")
    assert (np.diff(found[order]) >= -1).all(), "a longer request is not made the shorter one"


@given(
    shares=shares, room=st.lists(st.integers(0, 50), min_size=12, max_size=12), part=st.floats(0, 1)
)
def test_apportioned_numbers_stay_below_what_there_is_room_for(
    shares: Any, room: list[int], part: float
) -> None:
    most = np.array(room[: len(shares)], dtype=np.int64)
    total = int(part * most.sum())
    found = apportion(shares, total, most=most)
    assert found.sum() == total
    assert ((found >= 0) & (found <= most)).all()
    with pytest.raises(InvalidSpec):
        apportion(shares, int(most.sum()) + 1, most=most)


@given(
    lengths=st.lists(st.integers(0, 30), min_size=1, max_size=10),
    spare=st.integers(0, 100),
    seed=st.integers(0, 5),
)
def test_stretches_of_text_do_not_overlap(lengths: list[int], spare: int, seed: int) -> None:
    sizes, rng = np.array(lengths, dtype=np.int64), np.random.default_rng(seed)
    size = sum(lengths) + spare
    starts = disjoint_starts(sizes, size, rng)
    used = np.zeros(size, dtype=np.int64)
    for start, length in zip(starts, lengths, strict=True):
        assert 0 <= start <= start + length <= size
        used[start : start + length] += 1
    assert used.max(initial=0) <= 1
    with pytest.raises(InvalidSpec, match="smaller length_share"):
        disjoint_starts(sizes + 101, size, rng)


def test_stretches_of_text_are_drawn_from_all_of_it() -> None:
    sizes, starts = np.full(4, 10, dtype=np.int64), []
    for seed in range(50):
        starts += disjoint_starts(sizes, 10_000, np.random.default_rng(seed)).tolist()
    assert np.histogram(starts, 4, (0, 10_000))[0] == pytest.approx(50, abs=25)
