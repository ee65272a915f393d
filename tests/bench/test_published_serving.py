"""The published bench of the serving world is read, is of the scenarios here, and replays."""

import numpy as np
import pytest

from rapgym.bench.serving import cells, results, verify
from rapgym.bench.serving.results import ServeResults
from rapgym.files import places
from rapgym.studies.pages import serving as page

SCENARIOS = ("serve-chat-bursty-v0", "serve-chat-gqa-v0")


@pytest.fixture(scope="module")
def found() -> ServeResults:
    return results.read(page.BENCH)


def test_every_rule_is_in_it_with_its_percentiles(found: ServeResults) -> None:
    assert tuple(found.header["scenarios"]) == SCENARIOS
    for scenario in SCENARIOS:
        told = {each.policy: each for each in found.scores if each.scenario == scenario}
        assert cells.KINDS.keys() <= told.keys()
        for each in told.values():
            waits = [each.ttft_p50_s, each.ttft_p95_s, each.ttft_p99_s]
            assert None not in waits
            assert waits == sorted(waits, key=lambda wait: wait or 0.0)
            assert each.goodput + each.late + each.shed + each.lost == pytest.approx(1, abs=3e-6)
            assert each.conditional, "a single piece claims nothing"
            assert each.goodput_low is None


def test_it_is_of_the_scenarios_here_and_a_cell_of_it_replays(found: ServeResults) -> None:
    """All of it: `rapgym verify`. Here its origin, and the lookup, whose percentiles are its requests' own."""
    for story in verify.stories_of(found):
        verify._check_origin(found, story)
    story = verify.stories_of(found)[1]
    (lookup,) = (each for each in found.of(story.id) if each.about.policy == cells.LOOKUP)
    assert list(verify._cell_differences(found, lookup, story)) == []
    assert lookup.whole is not None
    assert lookup.whole.waits is not None
    (told,) = (s for s in found.scores if (s.scenario, s.policy) == (story.id, cells.LOOKUP))
    assert np.round(lookup.whole.waits.percentiles[:3], 6).tolist() == [
        told.ttft_p50_s, told.ttft_p95_s, told.ttft_p99_s,
    ]  # fmt: skip


def test_it_is_small_and_named_where_results_are_told(found: ServeResults) -> None:
    assert page.BENCH.stat().st_size < 8_000_000
    root = places.PACKAGE.parent
    for text in ("docs/serving.md", "docs/results.md", "baselines/results/README.md"):
        assert page.BENCH.name in (root / text).read_text(), text
        assert "--scenario serve-chat-bursty --scenario serve-chat-gqa" in (root / text).read_text()
