"""Starts drawn by compiled code: those of NumPy, and generators left where NumPy leaves them."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from rapgym.scenarios import drawing, lanes, worlds
from rapgym.scenarios.catalogue import story_of

MOST = st.one_of(st.integers(1, 400), st.integers(2**31, 2**32 - 1), st.integers(1, 2**32 - 1))


@given(st.lists(st.integers(0, 2**63), max_size=4), st.lists(st.tuples(MOST, MOST), max_size=6))
@settings(max_examples=150)
def test_draws_are_those_of_numpy(seeds: list[int], tries: list[tuple[int, int]]) -> None:
    ours, theirs = ([np.random.default_rng(seed) for seed in seeds] for _ in range(2))
    for most in tries:
        found = drawing.draw(ours, most, (0.9, 1.1))
        for one, other in zip(found, drawing.drawn_plainly(theirs, most, (0.9, 1.1)), strict=True):
            assert one.dtype == other.dtype
            assert one.tobytes() == other.tobytes()
    for mine, theirs_too in zip(ours, theirs, strict=True):
        assert mine.bit_generator.state == theirs_too.bit_generator.state


def test_the_rules_are_used_here() -> None:
    """Where they are not NumPy's any more, `draw` goes by NumPy: slower, and nobody would notice."""
    assert drawing._agrees()


def test_other_generators_are_asked_by_numpy(monkeypatch: pytest.MonkeyPatch) -> None:
    ours, theirs = (np.random.Generator(np.random.MT19937(3)) for _ in range(2))
    wanted = drawing.drawn_plainly([theirs], (5, 6), (0.0, 1.0))
    assert drawing.draw([ours], (5, 6), (0.0, 1.0)) == wanted
    monkeypatch.setattr(drawing, "_agreed", [False])
    again, plain = np.random.default_rng(1), np.random.default_rng(1)
    assert drawing.draw([again], (9, 8), (0.0, 1.0)) == drawing.drawn_plainly(
        [plain], (9, 8), (0.0, 1.0)
    )


def test_starts_of_many_lanes_are_those_of_each() -> None:
    story = story_of("laptop")
    for split in ("train", "test"):
        world = worlds.world(story, split)
        offsets = np.arange(4) % story.offsets
        starts = [
            lanes.starts_of(
                world, story, split, [np.random.default_rng(s) for s in range(4)], offsets,
                compiled=compiled,
            )
            for compiled in (False, True)
        ]  # fmt: skip
        for lane in range(4):
            rng = np.random.default_rng(lane)
            start = lanes.start_of(world, story, split, rng, int(offsets[lane]))
            for each in starts:
                assert each.row[lane] == start.row
                assert each.offset[lane] == start.offset
                assert each.token_scale[lane] == start.token_scale
                assert each.rows[lane] == start.rows
