"""The four-way choice: its items, and one packed sequence against four plain ones."""

from collections.abc import Iterator
from pathlib import Path

import numpy as np
import pytest
import tiny_llama
import torch

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidSpec, InvalidTable
from rapgym.model import blocks
from rapgym.model.shapes import BF16, Format
from rapgym.quality import texts as quality_texts
from rapgym.runtime import rounding
from rapgym.runtime.measure import choice, designs
from rapgym.runtime.measure.choice import CHOICES, CONTEXT, CONTINUATION, ChoiceMeter
from rapgym.runtime.model import LoadedModel

N = 2 * tiny_llama.LAYERS
SETS = [
    designs.dense(N),
    designs.without(N, [0]),
    designs.without(N, [2, 5]),
    designs.without(N, [0, 2, 1]),
]
MODEL = tiny_llama.loaded()


def made_up(domain: str, split: str) -> str:
    """Documents of several stretches each, delimited as the domain's text is."""
    texts = [tiny_llama.text(f"{domain} {split} {number}", "text") for number in range(4)]
    if domain == "wiki":
        return "".join(f" \n = Title {n} = \n \n {text} \n" for n, text in enumerate(texts))
    return ("\n\n" if domain == "books" else "\n\n\n").join(texts)


@pytest.fixture(autouse=True)
def made_up_texts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(quality_texts, "read", made_up)
    monkeypatch.setattr(choice, "ITEMS", 4)


def packed_items() -> IntArray:
    return np.concatenate([choice.items(MODEL.tokenizer, d, 4) for d in quality_texts.DOMAINS])


def plain_scores(packed: IntArray, kept: BoolArray, form: Format) -> list[list[float]]:
    """Transformers' own forward of each context and continuation, dropped blocks zeroed."""
    network = tiny_llama.network()  # one of its own, to zero in
    for block in np.flatnonzero(~kept):
        layer = network.model.layers[block // 2]
        (layer.mlp.down_proj if block % 2 else layer.self_attn.o_proj).weight.zero_()
    wholes = []
    for item in torch.from_numpy(packed):
        context, *tails = item.split([CONTEXT, *[CONTINUATION] * CHOICES])
        wholes += [torch.cat([context, tail]) for tail in tails]
    tokens = torch.stack(wholes)
    with rounding.rounded(network, form):
        logits = network(tokens, use_cache=False).logits[:, CONTEXT - 1 : -1].log_softmax(-1)
    of_token = logits.gather(-1, tokens[:, CONTEXT:, None])[..., 0]
    found: list[list[float]] = of_token.sum(1).view(-1, CHOICES).tolist()
    return found


@pytest.mark.parametrize("form", [BF16, Format("int4", "int8")])
@pytest.mark.parametrize("kept", SETS, ids=blocks.key)
def test_a_packed_item_scores_as_four_plain_sequences_do(kept: BoolArray, form: Format) -> None:
    packed, network = packed_items(), tiny_llama.network()
    ids = torch.from_numpy(packed)
    with rounding.rounded(network, form):
        forward = choice.packed_forward(network, ids)
        found = choice.log_likelihoods(network, forward, ids, kept)
    expected = torch.tensor(plain_scores(packed, kept, form))
    torch.testing.assert_close(found, expected, atol=2e-3, rtol=0)
    assert expected.std(dim=1).min() > 0.1, "the continuations differ, or equality would be easy"


@pytest.mark.parametrize("domain", quality_texts.DOMAINS)
def test_an_item_is_a_stretch_of_one_document_and_continuations_from_elsewhere_in_it(
    domain: str,
) -> None:
    found = choice.items(MODEL.tokenizer, domain, 20)
    assert found.shape == (20, 128)
    assert np.array_equal(found, choice.items(MODEL.tokenizer, domain, 20)), "drawn by its seed"
    of_document = [
        np.asarray(MODEL.tokenizer(document, add_special_tokens=False)["input_ids"])
        for document in choice.documents(made_up(domain, "test"), domain)
    ]
    assert len(of_document) == 4

    def places(part: IntArray) -> set[tuple[int, int]]:
        """Documents, and starts in them, where these tokens stand."""
        return {
            (number, int(start))
            for number, ids in enumerate(of_document)
            for start in np.flatnonzero(
                (np.lib.stride_tricks.sliding_window_view(ids, len(part)) == part).all(axis=1)
            )
        }

    for item in found:
        home = places(item[:80])
        assert len(home) == 1, "the context and the truth that follows it"
        ((document, start),) = home
        parts = item[CONTEXT:].reshape(CHOICES, CONTINUATION)
        assert len(np.unique(parts, axis=0)) == CHOICES
        for part in parts[1:]:
            starts = [place for number, place in places(part) if number == document]
            assert any(place + CONTINUATION <= start or place >= start + 80 for place in starts)


def test_a_text_that_is_too_short_is_refused() -> None:
    with pytest.raises(InvalidSpec, match="stretches for 5000 items"):
        choice.items(MODEL.tokenizer, "books", 5000)


@pytest.fixture
def meter(tmp_path: Path) -> Iterator[ChoiceMeter]:
    with choice.open_meter(MODEL, tmp_path / "c.jsonl", dtype="float32").ledger as ledger:
        yield ChoiceMeter(MODEL, ledger, choice.all_items(MODEL.tokenizer))


def test_what_was_chosen_is_kept_and_not_asked_again(meter: ChoiceMeter, tmp_path: Path) -> None:
    rows = meter.measure(SETS) + meter.measure(SETS[:1], Format("int4"))
    packed = choice.all_items(MODEL.tokenizer)
    for row, kept in zip(rows, SETS, strict=False):
        scores = np.array(plain_scores(packed, kept, BF16))
        assert row.right == "".join(str(int(s[0] > s[1:].max())) for s in scores)
        assert 0 < row.right.count("1") < 12
    assert rows[-1].place == (blocks.key(SETS[0]), "int4/bf16")
    lines = (tmp_path / "c.jsonl").read_text()
    assert meter.measure(SETS[::-1]) == rows[3::-1]
    again = choice.open_meter(MODEL, tmp_path / "c.jsonl", dtype="float32")
    with again.ledger:
        assert again.measure(SETS) == rows[:4]
    assert (tmp_path / "c.jsonl").read_text() == lines


def test_choices_of_another_model_are_refused(meter: ChoiceMeter) -> None:
    other = LoadedModel("other", MODEL.network, MODEL.tokenizer, "x", "t")
    with pytest.raises(InvalidTable, match="another origin"):
        choice.open_meter(other, meter.ledger.path, dtype="float32")
