"""Measuring kept sets: losses, errors of means, the ledger, greedy orders, and the command."""

import json
from collections.abc import Iterator
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_llama
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from rapgym.arrays import BoolArray
from rapgym.errors import InvalidTable
from rapgym.model import blocks
from rapgym.model.shapes import FORMATS, Format
from rapgym.quality import texts
from rapgym.runtime import rounding, samples
from rapgym.runtime.measure import campaign, designs
from rapgym.runtime.measure.ledger import PLAIN, Ledger, Measurement, form_name, form_of
from rapgym.runtime.measure.loss import dense_reference, token_loss
from rapgym.runtime.measure.meter import Meter, standard_error

N = 2 * tiny_llama.LAYERS
LENGTH = 48
ORIGIN = {"model": "tiny", "texts": {"wiki.test": "1"}, "samples": {"test": [2, 5]}}
ROW = Measurement(
    sample="test",
    design="single",
    key="7c",
    domains=("books", "wiki"),
    tokens=(511, 511),
    nll=(0.25, 0.5),
    nll_se=(0.01, 0.02),
    kl=None,
    top1=None,
    sequences=(0.25, 0.5),
    blocks_run=3,
    seconds=0.5,
)
ROWS = [replace(ROW, key=f"{key:02x}") for key in range(0, 20, 4)]


@pytest.fixture(autouse=True)
def made_up_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(texts, "read", tiny_llama.text)


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[Meter]:
    opened = campaign.open_meter(
        tiny_llama.loaded(),
        tmp_path / "tiny.work.jsonl",
        length=LENGTH,
        dtype="float32",
        domains=texts.DOMAINS,
    )
    with opened.ledger:
        yield opened


def own_nll(meter: Meter, kept: BoolArray, sample: str) -> list[float]:
    """Mean loss of each domain by transformers' own forward and torch's cross entropy."""
    network = meter.model.network
    layers = network.model.layers
    projections = [
        layers[block // 2].mlp.down_proj if block % 2 else layers[block // 2].self_attn.o_proj
        for block in np.flatnonzero(~kept)
    ]
    saved = [projection.weight.clone() for projection in projections]
    try:
        for projection in projections:
            projection.weight.zero_()
        found = []
        for tokens in meter.tokens(sample):
            logits = network(tokens, use_cache=False).logits[:, :-1].flatten(0, 1)
            found.append(torch.nn.functional.cross_entropy(logits, tokens[:, 1:].flatten()).item())
    finally:
        for projection, weight in zip(projections, saved, strict=True):
            projection.weight.copy_(weight)
    return found


# Losses


def test_token_loss_and_divergence_equal_what_torch_computes() -> None:
    network = tiny_llama.network()
    # 2 x 149 predicted tokens: more than one chunk, and the last one short.
    tokens = torch.randint(0, 256, (2, 150), generator=torch.Generator().manual_seed(3))
    dense, other = torch.randn(2, 2, 150, 64, generator=torch.Generator().manual_seed(4))
    reference = dense_reference(network.lm_head, dense)
    loss = token_loss(network.lm_head, other, tokens, reference)
    assert loss.kl is not None
    assert loss.agrees is not None
    logits, dense_logits = network.lm_head(other[:, :-1]), network.lm_head(dense[:, :-1])
    nll = torch.nn.functional.cross_entropy(
        logits.flatten(0, 1), tokens[:, 1:].flatten(), reduction="none"
    )
    torch.testing.assert_close(loss.nll, nll.view(2, 149), atol=1e-5, rtol=1e-5)
    log_q, log_p = logits.log_softmax(-1), dense_logits.log_softmax(-1)
    kl = torch.nn.functional.kl_div(log_q, log_p, log_target=True, reduction="none").sum(-1)
    torch.testing.assert_close(loss.kl, kl, atol=1e-4, rtol=1e-4)
    same = logits.argmax(-1) == dense_logits.argmax(-1)
    assert torch.equal(loss.agrees, same.float())
    assert token_loss(network.lm_head, other, tokens).kl is None


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16])
def test_dense_does_not_diverge_from_itself(dtype: torch.dtype) -> None:
    head = tiny_llama.network().lm_head.to(dtype)
    normed = torch.randn(2, 150, 64, generator=torch.Generator().manual_seed(4)).to(dtype)
    tokens = torch.zeros(2, 150, dtype=torch.int64)
    loss = token_loss(head, normed, tokens, dense_reference(head, normed))
    assert loss.kl is not None
    assert loss.agrees is not None
    assert loss.kl.abs().max() < 1e-4
    assert loss.agrees.min() == 1


def test_the_standard_error_is_right_for_neighbours_that_resemble_each_other() -> None:
    rng, worlds, shape, memory = np.random.default_rng(0), 400, (6, 511), 0.8
    values = rng.normal(size=(worlds, *shape))
    for token in range(1, shape[1]):
        values[..., token] += memory * values[..., token - 1]
    values = values.astype(np.float32)
    true = values.mean(axis=(1, 2)).std(ddof=1)
    stated = np.mean([standard_error(world) for world in values])
    naive = values.std() / np.sqrt(np.prod(shape))
    assert stated == pytest.approx(true, rel=0.12)
    assert naive < 0.5 * true, "taking tokens for independent would have been far off"


# The meter


def test_a_measurement_is_the_difference_from_dense_on_the_same_tokens(meter: Meter) -> None:
    sets = [*designs.singles(N), designs.without(N, [0, 3, 4])]
    for sample in campaign.JUDGED_ON:
        dense = own_nll(meter, designs.dense(N), sample)
        measured = meter.measure(sets, sample, "single")
        for kept in sets:
            row = measured[blocks.key(kept)]
            expected = np.subtract(own_nll(meter, kept, sample), dense)
            np.testing.assert_allclose(row.nll, expected, atol=2e-5)
            assert row.tokens == (2 * (LENGTH - 1),) * 3
            by_domain = np.reshape(row.sequences, (3, 2)).mean(axis=1)
            np.testing.assert_allclose(by_domain, row.nll, atol=2e-6)
        found = [part.mean() for part in meter.dense_nll(sample)]
        np.testing.assert_allclose(found, dense, atol=2e-5)


def test_dense_costs_nothing(meter: Meter) -> None:
    (row,) = meter.measure([designs.dense(N)], "calib", "dense").values()
    assert row.nll == row.nll_se == (0.0, 0.0, 0.0)
    assert row.kl == pytest.approx((0, 0, 0), abs=1e-5)
    assert row.top1 == (1.0, 1.0, 1.0)


def test_what_the_ledger_has_is_not_measured_again(meter: Meter) -> None:
    first = meter.measure(designs.singles(N), "calib", "single")
    lines = meter.ledger.path.read_text()
    again = meter.measure(designs.singles(N), "calib", "another design")
    assert again == first
    assert meter.ledger.path.read_text() == lines


def test_texts_of_different_purposes_share_no_sequence() -> None:
    ids = np.arange(8 * LENGTH * 3)
    for split in ("calib", "test"):
        of_split = {name: s for name, s in samples.SAMPLES.items() if s.split == split}
        taken = {
            name: {int(row[0]) for row in samples.sequences(ids, s, LENGTH)}
            for name, s in of_split.items()
        }
        for name, starts in taken.items():
            assert len(starts) == len(of_split[name].slots)
        orders = [starts for name, starts in taken.items() if name.startswith("order")]
        judged = [starts for name, starts in taken.items() if not name.startswith("order")]
        assert judged
        assert bool(orders) == (split == "calib"), "orders are found on calibration text"
        for index, order in enumerate(orders):
            for other in [*orders[index + 1 :], *judged]:
                assert not order & other


@pytest.mark.parametrize("form", FORMATS, ids=form_name)
def test_a_format_is_measured_as_the_difference_from_dense_bf16(meter: Meter, form: Format) -> None:
    sets = [designs.dense(N), designs.without(N, [1, 2])]
    plain = meter.measure(sets, "test", "single")
    dense = own_nll(meter, designs.dense(N), "test")
    measured = meter.measure(sets, "test", "formats", form=form)
    for kept in sets:
        row = measured[blocks.key(kept)]
        with rounding.rounded(meter.model.network, form):
            expected = np.subtract(own_nll(meter, kept, "test"), dense)
        np.testing.assert_allclose(row.nll, expected, atol=2e-5)
        assert row.place == ("test", blocks.key(kept), form_name(form))
        assert row.nll != plain[blocks.key(kept)].nll
        assert row.kl is not None
        assert min(row.kl) > 0
    assert meter.measure(sets, "test", "again") == plain, "the plain rows are still there"


def test_block_influence_is_how_far_a_layer_turns_the_stream(meter: Meter) -> None:
    network, entered, left = meter.model.network, [], []

    def watch(layer: object, inputs: tuple[torch.Tensor, ...], output: torch.Tensor) -> None:
        entered.append(inputs[0])
        left.append(output)

    hooks = [layer.register_forward_hook(watch) for layer in network.model.layers]
    network(torch.cat(meter.tokens("order-0")), use_cache=False)
    for hook in hooks:
        hook.remove()
    row = meter.influence("order-0")
    assert row.block_influence is not None
    for before, after, found in zip(entered, left, row.block_influence, strict=True):
        norms = before.norm(dim=-1) * after.norm(dim=-1)
        expected = 1 - ((before * after).sum(-1) / norms).mean()
        assert found == pytest.approx(float(expected), abs=2e-6)
        assert found > 0.01
    assert (row.design, row.blocks_run, row.nll) == ("influence", N, (0.0, 0.0, 0.0))
    lines = meter.ledger.path.read_text()
    assert meter.influence("order-0") == row
    assert meter.ledger.path.read_text() == lines, "it is not measured again"


# Greedy orders


@pytest.mark.parametrize("first", [0, 1])
def test_greedy_order_equals_brute_force(meter: Meter, first: int) -> None:
    candidates, order = list(range(first, N, 2)), list[int]()
    while len(order) < len(candidates):
        costs = {
            block: np.mean(own_nll(meter, designs.without(N, [*order, block]), "order-0"))
            for block in candidates
            if block not in order
        }
        order.append(min(costs, key=lambda block: costs[block]))
    found = designs.greedy_order(meter, "order-0", "order", candidates, len(candidates))
    assert found == order


def test_a_campaign_that_is_stopped_anywhere_ends_with_the_same_numbers(
    meter: Meter, tmp_path: Path
) -> None:
    plan = designs.Plan(attention_drops=2, ffn_drops=3, random=4, near=2)
    orders = campaign.run(meter, plan, draws=2, quiet=True)
    lines = meter.ledger.path.read_text().splitlines(keepends=True)
    for stop in (2, len(lines) // 3, len(lines) - 1):
        path = tmp_path / f"stopped-{stop}.jsonl"
        path.write_text("".join(lines[:stop]) + lines[stop][:40])
        resumed = campaign.open_meter(
            tiny_llama.loaded(), path, length=LENGTH, dtype="float32", domains=texts.DOMAINS
        )
        with resumed.ledger:
            assert campaign.run(resumed, plan, draws=2, quiet=True) == orders
        assert _numbers(resumed.ledger) == _numbers(meter.ledger)


def _numbers(ledger: Ledger[Measurement]) -> dict[tuple[str, ...], Measurement]:
    """Rows without what depends on the order of work and on the clock."""
    return {
        place: replace(row, blocks_run=0, seconds=0, flop=0, product_per_s=0)
        for place, row in ledger.found.items()
    }


def test_a_campaign_judges_the_whole_grid_and_both_texts(meter: Meter) -> None:
    plan = designs.Plan(attention_drops=2, ffn_drops=3, random=4, near=2)
    orders = campaign.run(meter, plan, quiet=True)
    assert orders is not None
    assert set(orders.joint) == {*orders.attention, *orders.ffn}
    grid = designs.grid(N, list(orders.attention), list(orders.ffn))
    wanted = [*grid, *designs.singles(N), designs.dense(N)]
    for sample in campaign.JUDGED_ON:
        assert all((sample, blocks.key(kept), PLAIN) in meter.ledger.found for kept in wanted)


# The ledger


def write(path: Path, rows: list[Measurement]) -> bytes:
    with Ledger(path, ORIGIN, Measurement) as ledger:
        for row in rows:
            ledger.add(row)
    return path.read_bytes()


@given(data=st.data())
@settings(deadline=None, max_examples=60)
def test_a_ledger_cut_anywhere_keeps_its_whole_lines_and_goes_on(
    tmp_path_factory: pytest.TempPathFactory, data: st.DataObject
) -> None:
    path = tmp_path_factory.mktemp("ledger") / "work.jsonl"
    content = write(path, ROWS)
    header = content.index(b"\n") + 1
    cut = data.draw(st.integers(header, len(content)))
    path.write_bytes(content[:cut])
    whole = content[:cut].count(b"\n") - 1
    with Ledger(path, ORIGIN, Measurement) as ledger:
        assert list(ledger.found.values()) == ROWS[:whole]
        for row in ROWS[whole:]:
            ledger.add(row)
    assert path.read_bytes() == content


def test_lines_of_plain_measurements_stay_as_older_versions_wrote_them(tmp_path: Path) -> None:
    content = write(tmp_path / "plain.jsonl", [ROW]).decode()
    assert "form" not in content
    assert "influence" not in content
    other = replace(ROW, form="int4/int8", block_influence=(0.5, 0.25))
    write(tmp_path / "both.jsonl", [ROW, other])
    with Ledger(tmp_path / "both.jsonl", ORIGIN, Measurement) as ledger:
        assert list(ledger.found.values()) == [ROW, other]


@pytest.mark.parametrize("form", FORMATS)
def test_a_format_is_read_from_its_name(form: Format) -> None:
    assert form_of(form_name(form)) == form
    with pytest.raises(InvalidTable, match="no format"):
        form_of("int4")


def test_a_ledger_of_another_origin_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "work.jsonl"
    content = write(path, ROWS)
    with pytest.raises(InvalidTable, match=r"another origin \(texts differ\)"):
        Ledger(path, ORIGIN | {"texts": {"wiki.test": "2"}}, Measurement)
    assert path.read_bytes() == content


@pytest.mark.parametrize("line", ["{", "[]", '{"sample": "test"}', "7"])
def test_a_damaged_ledger_is_refused(tmp_path: Path, line: str) -> None:
    path = tmp_path / "work.jsonl"
    first, rest = write(path, ROWS).decode().split("\n", 1)
    path.write_text(f"{first}\n{line}\n{rest}")
    with pytest.raises(InvalidTable, match="damaged"):
        Ledger(path, ORIGIN, Measurement)


def test_the_origin_names_what_decides_the_numbers(meter: Meter, tmp_path: Path) -> None:
    described = json.loads(meter.ledger.path.read_text().splitlines()[0])
    assert described["sequence_tokens"] == LENGTH
    assert described["texts"]["wiki.test"] == texts.text_of("wiki", "test").sha256
    for changed in (
        replace(meter.model, weights_sha256="others"),
        replace(meter.model, tokenizer_sha256="others"),
    ):
        with pytest.raises(InvalidTable, match="sha256 differ"):
            campaign.open_meter(
                changed,
                meter.ledger.path,
                length=LENGTH,
                dtype="float32",
                domains=texts.DOMAINS,
            )
