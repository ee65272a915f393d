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


@pytest.mark.usefixtures("raw_data")  # requests are replayed one by one
def test_it_holds_and_its_percentiles_are_those_of_its_cells(found: ServeResults) -> None:
    assert list(verify.differences(found)) == []
    told = {(score.scenario, score.policy): score for score in found.scores}
    for cell in found.cells:
        if cell.whole is not None:
            assert cell.whole.waits is not None
            score = told[cell.about.scenario, cell.about.policy]
            waits = [score.ttft_p50_s, score.ttft_p95_s, score.ttft_p99_s]
            assert waits == np.round(cell.whole.waits.percentiles[:3], 6).tolist()


def test_it_is_small_and_named_where_results_are_told(found: ServeResults) -> None:
    assert page.BENCH.stat().st_size < 8_000_000
    root = places.PACKAGE.parent
    for text in ("docs/serving.md", "docs/results.md", "baselines/results/README.md"):
        assert page.BENCH.name in (root / text).read_text(), text
        assert "--scenario serve-chat-bursty --scenario serve-chat-gqa" in (root / text).read_text()
