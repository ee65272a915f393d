"""Synthetic arrivals repeat what was measured: rates, burstiness, lengths; and their seed."""

import hashlib
from pathlib import Path

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from rapgym.errors import InvalidSpec, InvalidTrace
from rapgym.files import headed
from rapgym.workload import servegen
from rapgym.workload.servegen import ServegenClients, ServegenLengths, Statistics

Rows = list[tuple[int, int, float, float, bool]]  # client, window, rate, CV, Weibull
STEADY: Rows = [(0, window, 5.0, 1.0, False) for window in range(144)]


@pytest.fixture
def measured(monkeypatch: pytest.MonkeyPatch) -> "Measured":
    return Measured(monkeypatch)


class Measured:
    """Puts statistics of the test's own in the place of ServeGen's."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.monkeypatch = monkeypatch

    def __call__(self, rows: Rows, lengths: dict[int, tuple[list[float], list[float]]]) -> None:
        client, window, rate, cv, weibull = (np.array(column) for column in zip(*rows, strict=True))
        clients = ServegenClients("w", client, window * 600.0, rate, cv, weibull)
        prompt, output = (np.array(side) for side in zip(*lengths.values(), strict=True))
        records = ServegenLengths(
            "w", np.array(list(lengths)), np.zeros(len(lengths)), prompt, output
        )
        self.monkeypatch.setattr(servegen, "statistics", lambda _: Statistics(clients, records))


LENGTHS = {0: ([130.0, 100, 200, 400], [60.0, 50, 100, 300])}


def test_the_seed_determines_every_byte(measured: Measured) -> None:
    measured(STEADY, LENGTHS)
    first, again, other = (
        servegen.arrivals("w", days=1, share=0.2, seed=seed) for seed in (1, 1, 2)
    )
    for column in ("arrival_s", "prompt_tokens", "output_tokens"):
        assert getattr(first, column).tobytes() == getattr(again, column).tobytes()
    assert first.arrival_s.tobytes() != other.arrival_s.tobytes()
    assert "synthetic" in first.name


@pytest.mark.parametrize("weibull", [False, True])
@pytest.mark.parametrize("cv", [0.3, 1.0, 2.5])
@pytest.mark.parametrize("share", [1.0, 0.1])
def test_rate_and_burstiness_are_the_measured_ones(
    measured: Measured, cv: float, weibull: bool, share: float
) -> None:
    measured([(0, window, 5.0, cv, weibull) for window in range(144)], LENGTHS)
    trace = servegen.arrivals("w", days=1, share=share, seed=3)
    gaps = np.diff(trace.arrival_s)
    expected = 5 * 86_400 * share
    # Of a renewal process the variance of counts is CV² times the mean; thinning dilutes the excess.
    thinned_cv = np.sqrt(1 + share * (cv**2 - 1))
    assert abs(len(trace) - expected) < 4 * thinned_cv * np.sqrt(expected)
    assert gaps.std() / gaps.mean() == pytest.approx(thinned_cv, rel=0.04)


def test_thinning_equals_dropping_requests_at_random(measured: Measured) -> None:
    measured([(0, window, 20.0, 4.0, window % 2 == 0) for window in range(144)], LENGTHS)
    whole = servegen.arrivals("w", days=1, share=1.0, seed=4).arrival_s
    dropped = whole[np.random.default_rng(0).random(len(whole)) < 0.1]
    thinned = servegen.arrivals("w", days=1, share=0.1, seed=5).arrival_s
    at = np.array([0.05, 0.25, 0.5, 0.75, 0.95, 0.99])
    quantiles = [np.quantile(np.diff(arrival_s), at) for arrival_s in (dropped, thinned)]
    np.testing.assert_allclose(quantiles[0], quantiles[1], rtol=0.06, atol=1e-4)


def test_each_window_has_its_rate_and_silence_stays_silent(measured: Measured) -> None:
    rates = {window: 0.5 + window % 7 for window in range(144) if window % 3}
    measured([(0, window, rate, 1.5, False) for window, rate in rates.items()], LENGTHS)
    trace = servegen.arrivals("w", days=1, share=1.0, seed=6)
    counts = np.bincount((trace.arrival_s // 600).astype(int), minlength=144)
    assert not counts[::3].any()
    for window, rate in rates.items():
        assert abs(counts[window] - 600 * rate) < 6 * 1.5 * np.sqrt(600 * rate)


def test_gaps_run_through_edges(measured: Measured) -> None:
    # Two requests a window, nearly regular: a start afresh at each edge would make short gaps.
    measured([(0, window, 2 / 600, 0.02, False) for window in range(144)], LENGTHS)
    gaps = np.diff(servegen.arrivals("w", days=1, share=1.0, seed=7).arrival_s)
    assert gaps.min() > 270
    assert gaps.max() < 330


def test_lengths_have_the_measured_quantiles_and_mean(measured: Measured) -> None:
    measured(STEADY, LENGTHS)
    trace = servegen.arrivals("w", days=1, share=1.0, seed=8)
    for tokens, (mean, *quantiles) in zip(
        (trace.prompt_tokens, trace.output_tokens), LENGTHS[0], strict=True
    ):
        np.testing.assert_allclose(np.quantile(tokens, [0.5, 0.9, 0.99]), quantiles, rtol=0.02)
        assert tokens.mean() == pytest.approx(mean, rel=0.02)
    assert abs(np.corrcoef(trace.prompt_tokens, trace.output_tokens)[0, 1]) < 0.01


def test_a_client_without_lengths_draws_from_the_pool_by_weight(measured: Measured) -> None:
    rows = [(client, window, rate, 1.0, False)
            for client, rate in ((0, 3.0), (1, 1.0), (2, 4.0)) for window in range(144)]  # fmt: skip
    measured(rows, {0: ([10.0] * 4, [5.0] * 4), 1: ([1000.0] * 4, [7.0] * 4)})
    trace = servegen.arrivals("w", days=1, share=0.2, seed=9)
    assert set(trace.prompt_tokens.tolist()) == {10, 1000}
    # Client 2 mixes like clients 0 and 1 do, 3 to 1, and so does the whole.
    assert (trace.prompt_tokens == 1000).mean() == pytest.approx(0.25, abs=0.01)


def test_a_later_day_starts_at_zero(measured: Measured) -> None:
    measured([(0, window, 1.0 + 9 * (window >= 144), 1.0, False) for window in range(288)], LENGTHS)
    trace = servegen.arrivals("w", days=1, share=0.1, seed=1, start_day=1)
    assert trace.arrival_s[0] < 60
    assert len(trace) == pytest.approx(86_400, rel=0.02)


@pytest.mark.parametrize(
    "wrong",
    [{"share": 0.0}, {"share": 1.5}, {"days": 0}, {"days": 2}, {"start_day": 1}, {"start_day": -1},
     {"seed": -1}, {"share": 1e-9}],
)  # fmt: skip
def test_wrong_use_is_refused(measured: Measured, wrong: dict[str, int]) -> None:
    measured(STEADY, LENGTHS)
    with pytest.raises(InvalidSpec, match="w"):
        servegen.arrivals(**({"workload": "w", "days": 1, "share": 0.5, "seed": 0} | wrong))  # type: ignore[arg-type]


quantiles = st.lists(st.floats(0, 1e5), min_size=3, max_size=3).map(sorted)


@given(st.floats(0.1, 1e5), quantiles)
def test_knots_ascend_through_the_quantiles(mean: float, measured: list[float]) -> None:
    knots = servegen.length_knots(np.array([[mean, *measured]]), 262_144)
    assert (np.diff(knots) >= -1e-12).all()
    assert knots.min() >= 0
    assert np.exp(knots.max()) <= 262_144 * (1 + 1e-9)
    np.testing.assert_allclose(np.exp(knots[0, 1:4]), np.maximum(measured, 1))
    # The mean is met, or one end of what the quantiles allow is reached.
    reached = servegen.knot_mean(knots)[0]
    wide = [servegen.length_knots(np.array([[m, *measured]]), 262_144) for m in (1e-3, 1e9)]
    least, most = (servegen.knot_mean(each)[0] for each in wide)
    assert reached == pytest.approx(np.clip(mean, least, most), rel=1e-6)


@given(st.floats(0.005, 1000))
def test_weibull_shape_gives_the_cv(cv: float) -> None:
    from math import lgamma

    shape = servegen._weibull_shape(np.array([cv]))[0]
    found = np.sqrt(np.expm1(lgamma(1 + 2 / shape) - 2 * lgamma(1 + 1 / shape)))
    assert found == pytest.approx(cv, rel=1e-3)


def test_a_day_of_the_measured_workload(raw_data: Path) -> None:
    trace = servegen.arrivals("language/m-large", days=1, share=0.01, seed=0, start_day=3)
    clients = servegen.servegen_clients("language/m-large")
    windows = (clients.t_s // servegen.WINDOW_S).astype(int)
    rates = np.bincount(windows, clients.rate_rps)[3 * 144 : 4 * 144]
    assert len(trace) == pytest.approx(0.01 * 600 * rates.sum(), rel=0.02)
    hourly = np.bincount((trace.arrival_s // 3600).astype(int), minlength=24) / 36
    np.testing.assert_allclose(hourly, rates.reshape(24, 6).mean(1), rtol=0.15)


def test_what_is_shipped_is_what_the_raw_files_have(raw_data: Path) -> None:
    for workload in servegen.WORKLOADS:
        shipped, measured = servegen.statistics(workload), servegen.measured(workload)
        for name in ("client", "t_s", "iat_cv", "weibull"):
            told, wanted = (getattr(each.clients, name) for each in (shipped, measured))
            assert (told == wanted).all(), name
        for name in ("client", "t_s", "prompt", "output"):
            told, wanted = (getattr(each.lengths, name) for each in (shipped, measured))
            assert (told == wanted).all(), name
        # The source rounds a rate to six digits; whole numbers of requests in a window are whole again.
        np.testing.assert_allclose(shipped.clients.rate_rps, measured.clients.rate_rps, rtol=4e-6)


@pytest.mark.slow
def test_the_statistics_are_made_by_the_kept_command(raw_data: Path, tmp_path: Path) -> None:
    servegen.write_statistics(tmp_path / "made.csv.xz")
    unpacked = [headed.unpack(path.read_bytes())
                for path in (tmp_path / "made.csv.xz", servegen.STATISTICS)]  # fmt: skip
    assert unpacked[0] == unpacked[1]


def test_statistics_that_are_damaged_or_of_no_workload_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(InvalidSpec, match="there are language/m-large"):
        servegen.statistics("language/m-huge")
    (tmp_path / "x.csv.xz").write_bytes(servegen.STATISTICS.read_bytes()[:-100])
    monkeypatch.setattr(servegen, "STATISTICS", tmp_path / "x.csv.xz")
    servegen.statistics.cache_clear()
    with pytest.raises(InvalidTrace, match="install rapgym anew"):
        servegen.statistics("language/m-large")


def test_the_requests_of_a_day_are_known() -> None:
    """The stream is ours: no version of NumPy and no machine changes it."""
    trace = servegen.arrivals("language/m-large", days=1, share=1 / 2000, seed=0)
    columns = (trace.arrival_s, trace.prompt_tokens, trace.output_tokens)
    content = b"".join(column.astype(kind).tobytes()
                       for column, kind in zip(columns, ("<f8", "<i8", "<i8"), strict=True))  # fmt: skip
    assert (trace.arrival_s[0], trace.prompt_tokens[0], trace.output_tokens[0]) == (
        12.822422,
        358,
        53,
    )
    assert (
        hashlib.sha256(content).hexdigest()
        == "35f980e4fc746377c98028689399f58f79ee33bbdaa89c0b461369e466dd6d2b"
    )
