"""A small model in the place of the served one, on a device: what shrinks, and by how much."""

from dataclasses import replace

import numpy as np
import pytest

from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import model_spec
from rapgym.scenarios import card, catalogue, stand_in, worlds

SERVED = catalogue.scenario("chat-beside-code")
STORY = replace(SERVED, stand_in=True)


@pytest.mark.parametrize(
    ("served", "dense_tokens"),
    [("llama2-7b", 25_705), ("llama3-8b", 122_532), ("smollm2-135m", 11_676)],
)
def test_scales_keep_the_ratios(served: str, dense_tokens: int) -> None:
    """KV to weights, and card to weights, are those of the model that is stood for."""
    measured = model_spec("smollm2-135m")
    scale = stand_in.scales(replace(STORY, served=served))
    # At so many tokens dense KV takes as much as the weights, before scaling and after.
    assert float(dense_tokens * scale.tokens) == pytest.approx(11_676.65, abs=0.7)
    assert memory.weight_bytes(model_spec(served)) * scale.bytes == memory.weight_bytes(measured)


@pytest.mark.usefixtures("shaped")
def test_the_measured_model_fits_as_often_as_the_one_it_stands_for() -> None:
    whole = np.ones(60, dtype=bool)
    fits = []
    for story in (SERVED, STORY, replace(STORY, length_share=0.2)):
        world = worlds.world(story, "train")
        rows, foot = world.rows, world.footprint
        used = foot.used_bytes(whole, rows.prompt_tokens + rows.reserved_tokens, rows.prompt_tokens)
        fits.append((used[:, None] <= rows.limit_bytes).mean())
    assert fits[1:] == pytest.approx([fits[0]] * 2, abs=2e-3)
    assert 0.2 < fits[0] < 0.95, "there is something to compare"


@pytest.mark.usefixtures("shaped")
def test_bytes_are_those_of_the_measured_model() -> None:
    measured = model_spec("smollm2-135m")
    world = worlds.world(STORY, "train")
    assert world.footprint == memory.footprint(measured)
    scale = float(stand_in.scales(STORY).bytes)
    assert card.card_bytes(STORY) == int(card.card_bytes(SERVED) * scale)
    served = worlds.world(SERVED, "train").rows
    assert (world.rows.limit_bytes == np.floor(served.limit_bytes * scale)).all()
    assert (world.rows.output_tokens == served.output_tokens).all(), "outputs only weigh rows"


def test_lengths_are_cut_for_a_stand_in_alone() -> None:
    with pytest.raises(InvalidSpec, match="stand_in"):
        replace(SERVED, length_share=0.5)
    assert catalogue.story_of("chat-beside-code", 0.5).stand_in, "a share below 1 is a stand-in's"
    assert catalogue.story_of("chat-beside-code", stand_in=True) == STORY
    assert not catalogue.story_of("chat-beside-code").stand_in
