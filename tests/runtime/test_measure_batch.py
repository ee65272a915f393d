"""Several kept sets in one forward pass, what it computes, and measuring at scale."""

import tracemalloc
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest

pytest.importorskip("torch")
pytest.importorskip("transformers")

import tiny_llama
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch.nn.attention import SDPBackend, sdpa_kernel
from torch.utils.flop_counter import FlopCounterMode

from rapgym.arrays import BoolArray
from rapgym.jobs.progress import Progress
from rapgym.model import blocks
from rapgym.quality import texts
from rapgym.quality.table import QualityTable
from rapgym.runtime.measure import campaign, designs, flops, forward_batch, table
from rapgym.runtime.measure.forward import PrefixForward, prefix_order
from rapgym.runtime.measure.forward_batch import BatchForward
from rapgym.runtime.measure.ledger import Ledger, Measurement
from rapgym.runtime.measure.meter import Meter, OutOfTime

N = 2 * tiny_llama.LAYERS
LENGTH = 24
NETWORKS = {family: tiny_llama.network(family) for family in tiny_llama.FAMILIES}
TOKENS = torch.randint(0, 256, (2, LENGTH), generator=torch.Generator().manual_seed(1))
EVERY = [np.array([bool(number >> b & 1) for b in range(N)]) for number in range(1 << N)]
PLAN = designs.Plan(attention_drops=2, ffn_drops=3, random=6, near=2)


@pytest.fixture(autouse=True)
def made_up_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "read", tiny_llama.text)


def opened(path: Path, **changes: Any) -> Meter:
    told: dict[str, Any] = {"length": LENGTH, "dtype": "float32", "domains": texts.DOMAINS}
    return campaign.open_meter(tiny_llama.loaded(), path, **(told | changes))


def alone(network: Any, kept: BoolArray) -> torch.Tensor:
    return PrefixForward(network, TOKENS).normed(kept)


def in_order(sets: list[BoolArray]) -> list[BoolArray]:
    return [sets[index] for index in prefix_order(sets)]


# The batched forward


@pytest.mark.parametrize("family", NETWORKS)
def test_all_kept_sets_at_once_are_each_as_if_alone(family: str) -> None:
    network, sets = NETWORKS[family], in_order(EVERY)
    normed, _ = BatchForward(network, TOKENS).normed(sets)
    for kept, own in zip(sets, normed, strict=True):
        torch.testing.assert_close(own, alone(network, kept), atol=2e-5, rtol=1e-5)


@given(
    numbers=st.lists(st.integers(0, len(EVERY) - 1), min_size=2, max_size=12, unique=True),
    together=st.integers(1, 5),
    tokens_at_once=st.sampled_from([1, 2 * LENGTH, 5 * LENGTH, 1 << 17]),
)
@settings(deadline=None, max_examples=30)
def test_batch_after_batch_in_any_order_and_size(
    numbers: list[int], together: int, tokens_at_once: int
) -> None:
    network = NETWORKS["llama"]
    forward = BatchForward(network, TOKENS, tokens_at_once)
    for start in range(0, len(numbers), together):
        sets = [EVERY[number] for number in numbers[start : start + together]]
        normed, _ = forward.normed(sets)
        for kept, own in zip(sets, normed, strict=True):
            torch.testing.assert_close(own, alone(network, kept), atol=2e-5, rtol=1e-5)


def test_what_sets_share_runs_once() -> None:
    """Blocks run for a batch of all sets: the kept branches of the tree of their prefixes."""
    sets = in_order(EVERY)
    _, ran = BatchForward(NETWORKS["llama"], TOKENS).normed(sets)
    assert ran.sum() == sum(1 << depth for depth in range(N))
    one_by_one = PrefixForward(NETWORKS["llama"], TOKENS)
    for kept in sets:
        one_by_one.stream(kept)
    assert ran.sum(axis=0).tolist() == one_by_one.ran, "as many as sharing from set to set needs"
    assert ran[0].sum() == N, "the first one pays for what it shares"


def test_the_next_batch_starts_from_what_it_shares_with_the_last() -> None:
    sets = in_order([kept for kept in EVERY if kept[:4].all()])
    forward = BatchForward(NETWORKS["llama"], TOKENS)
    first, second = (forward.normed(part)[1].sum() for part in (sets[:2], sets[2:]))
    assert first == 5 + 1  # five blocks that both keep, and the last one of the first set
    assert second == 1


def test_on_a_cpu_sets_run_one_by_one_and_elsewhere_as_memory_allows() -> None:
    network = NETWORKS["llama"]
    assert forward_batch.sets_at_once(network, 3, 512) == 1

    class Elsewhere:
        device, dtype, config = torch.device("cuda"), torch.bfloat16, network.config

    assert forward_batch.sets_at_once(Elsewhere(), 3, 512) == forward_batch.MOST_SETS
    each = 3 * (1 << 20) * network.config.hidden_size * 2
    fits = forward_batch.sets_at_once(Elsewhere(), 3, 1 << 20)
    assert fits * each <= forward_batch.STREAM_BYTES < (fits + 1) * each


# The meter


def test_measured_together_equals_measured_one_by_one(tmp_path: Path) -> None:
    sets = [designs.dense(N), *designs.pairs(N), *designs.singles(N)]
    found = []
    for together in (1, 7):
        meter = opened(tmp_path / f"{together}.jsonl", together=together)
        with meter.ledger:
            found.append(meter.measure(sets, "calib", "pair"))
    for key, row in found[0].items():
        other = found[1][key]
        np.testing.assert_allclose(other.nll, row.nll, atol=3e-6)
        np.testing.assert_allclose(other.nll_se, row.nll_se, atol=3e-6)
        np.testing.assert_allclose(other.kl or (), row.kl or (), atol=3e-6)
        assert other.top1 == row.top1
        np.testing.assert_allclose(other.sequences, row.sequences, atol=3e-6)
    work = [sum(row.blocks_run for row in rows.values()) for rows in found]
    assert work[1] == pytest.approx(work[0], abs=2 * N), "as much is shared"
    assert len(found[0]) == 1 + N * (N - 1) // 2 + N


def test_operations_are_those_that_torch_counts() -> None:
    network, (sequences, length) = NETWORKS["llama"], TOKENS.shape
    forward = PrefixForward(network, TOKENS)
    stated = flops.block_flop(network, sequences, length)
    config = network.config
    scores = 2 * sequences * length**2 * config.num_attention_heads * config.head_dim
    embedded = network.model.embed_tokens(TOKENS)
    for block in range(2):
        # As plain products torch counts all of the scores, of which the causal half is needed.
        with sdpa_kernel(SDPBackend.MATH), FlopCounterMode(display=False) as counter:
            forward.block(block, embedded)
        assert stated[block] == counter.get_total_flops() - (scores if block == 0 else 0)
    with FlopCounterMode(display=False) as counter:
        network.lm_head(embedded[:, :-1])
    assert flops.head_flop(network, sequences, length) == counter.get_total_flops()


def test_rows_record_their_operations_and_a_statement_sums_them_up(tmp_path: Path) -> None:
    meter = opened(tmp_path / "w.jsonl")
    with meter.ledger:
        rows = list(
            meter.measure([designs.dense(N), *designs.singles(N)], "test", "single").values()
        )
    network = meter.model.network
    shape = (3, LENGTH)  # two groups of three sequences
    # In prefix order: dense first, for which nothing is left to run; then the last block's removal.
    assert rows[0].flop == 2 * flops.head_flop(network, *shape)
    per_block = 2 * flops.block_flop(network, *shape)
    assert rows[N - 1].flop == per_block[1] + rows[0].flop, "just the FFN block behind it runs"
    found = flops.achieved(rows)
    assert found["flop"] == sum(row.flop for row in rows)
    # Four decimals, however slow this machine was: a bound relative to the share fails where it is small.
    expected = found["achieved_per_s"] / found["product_per_s"]
    assert found["share"] == pytest.approx(expected, rel=0, abs=0.51e-4)
    assert f"{found['share']:.0%}" in flops.statement(rows)
    assert flops.statement([replace(row, flop=0) for row in rows]) == ""


def test_a_measurement_that_is_out_of_time_goes_on_to_the_same_end(tmp_path: Path) -> None:
    whole = opened(tmp_path / "whole.jsonl")
    with whole.ledger:
        orders = campaign.run(whole, PLAN, only=("orders", "grid", "random"), quiet=True)
    runs, done, shares = 0, False, list[float]()
    while not done:
        meter = opened(tmp_path / "pieces.jsonl", together=9)
        meter.deadline_s = 0.0
        before = len(meter.ledger.found)
        with meter.ledger:
            try:
                again = campaign.run(meter, PLAN, only=("orders", "grid", "random"), quiet=True)
                done = True
            except OutOfTime as stop:
                shares.append(stop.share)
            assert done or len(meter.ledger.found) > before, "each run gets on"
        runs += 1
    assert runs > 10
    assert all(0 < share <= 1 for share in shares)
    assert again == orders
    assert {*meter.ledger.found} == {*whole.ledger.found}


def test_out_of_time_says_how_much_is_left(tmp_path: Path) -> None:
    meter = opened(tmp_path / "w.jsonl", together=2)
    meter.deadline_s = 0.0
    total = 4 * meter.weight("test")
    with (
        meter.ledger,
        pytest.raises(OutOfTime) as stop,
        Progress("", total, quiet=True) as progress,
    ):
        meter.measure(designs.singles(N)[:4], "test", "single", progress)
    assert stop.value.share == 0.5
    assert stop.value.left_s > 0


def test_only_what_is_asked_for_is_measured(tmp_path: Path) -> None:
    designs_of: dict[str, set[str]] = {}
    for only in ("single", "pairs", "grid", "near"):
        meter = opened(tmp_path / f"{only}.jsonl")
        with meter.ledger:
            orders = campaign.run(meter, PLAN, only=(only,), quiet=True)
        assert (orders is None) == (only in ("single", "pairs"))
        designs_of[only] = {row.design for row in meter.ledger.found.values()}
    searched = {"attention-order", "ffn-order", "joint-order"}
    assert designs_of["single"] == {"single"}
    assert designs_of["pairs"] == {"pair"}
    assert designs_of["grid"] == searched | {"grid"}
    assert designs_of["near"] == searched | {"near"}


def test_pairs_are_every_removal_of_two_blocks() -> None:
    found = [tuple(np.flatnonzero(~kept)) for kept in designs.pairs(N)]
    assert len({*found}) == len(found) == N * (N - 1) // 2
    assert all(len(pair) == 2 for pair in found)


# At scale


def test_fifty_thousand_random_sets_begin_with_those_of_a_smaller_draw() -> None:
    """So that a ledger grows when more are asked for, and none is measured for nothing."""
    many = designs.random_sets(60, list(range(32)), 50_000, seed=0)
    few = designs.random_sets(60, list(range(32)), 200, seed=0)
    keys = [blocks.key(kept) for kept in many]
    assert len({*keys}) == 50_000
    assert keys[:200] == [blocks.key(kept) for kept in few]


@pytest.fixture
def large(tmp_path: Path) -> Path:
    """A ledger of some thousands of rows."""
    path = tmp_path / "large.jsonl"
    row = Measurement(
        sample="test", design="random", key="00", domains=("wiki",), tokens=(511,), nll=(0.25,),
        nll_se=(0.01,), kl=None, top1=None, sequences=(0.25,), blocks_run=3, seconds=0.5,
    )  # fmt: skip
    with Ledger(path, {"model": "large"}, Measurement) as ledger:
        for number in range(6000):
            ledger.add(replace(row, key=f"{number:08x}"))
    return path


def test_reading_a_large_ledger_holds_its_rows_and_hardly_more(large: Path) -> None:
    tracemalloc.start()
    try:
        with Ledger(large, {"model": "large"}, Measurement) as ledger:
            kept, peak = tracemalloc.get_traced_memory()
    finally:
        tracemalloc.stop()
    assert len(ledger.found) == 6000
    assert peak < 1.2 * kept, "lines are not all in memory beside their rows"


def test_thousands_of_sets_are_measured_together_and_the_ledger_resumes(tmp_path: Path) -> None:
    model = tiny_llama.loaded(layers=7)
    told: dict[str, Any] = {"length": 16, "dtype": "float32", "domains": ("wiki",), "together": 64}
    sets = designs.random_sets(14, list(range(14)), 2000, seed=0)
    path = tmp_path / "many.jsonl"
    with campaign.open_meter(model, path, **told).ledger as ledger:
        pass
    meter = campaign.open_meter(model, path, **told)
    with meter.ledger:
        meter.measure(sets[:1500], "order-0", "random")
    meter = campaign.open_meter(model, path, **told)
    with meter.ledger as ledger:
        assert len(ledger.found) == 1500
        found = meter.measure(sets, "order-0", "random")
    assert len(found) == len(sets) == 2000
    assert len(path.read_text().splitlines()) == 2001
    one = campaign.open_meter(model, tmp_path / "one.jsonl", **(told | {"together": 1}))
    with one.ledger:
        for key, row in one.measure(sets[::100], "order-0", "random").items():
            np.testing.assert_allclose(found[key].nll, row.nll, atol=3e-6)


def test_a_table_of_more_rows_than_can_be_held_out_states_the_error_of_a_spread_part(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    shipped = QualityTable.load("smollm2-135m-int4").file
    monkeypatch.setattr(table, "MOST_HELD_OUT", 80)
    whole = shipped.header.predictors["calib"]
    part = table.with_predictors(shipped.header, shipped.rows).predictors["calib"]
    assert ("of_rows" in whole, part["of_rows"]) == (False, 80)
    counted = [sum(e["all"]["sets"] for e in found["held_out"]["mean"]) for found in (whole, part)]
    assert 20 < counted[1] <= 80 < counted[0]
