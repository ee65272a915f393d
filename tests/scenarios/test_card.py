"""What a card holds: the served model's own bytes and tokens, spread over the layers of the table."""

from dataclasses import replace

import numpy as np
import pytest

from rapgym.arrays import BoolArray
from rapgym.model import memory
from rapgym.model.shapes import BF16, FORMATS, Format, model_spec
from rapgym.scenarios import card, catalogue, tables, worlds
from rapgym.scenarios.catalogue import shipped
from rapgym.scenarios.story import GIB, Scenario, Split
from rapgym.workload import series


def seconds_that_fit(story: Scenario, form: Format, split: Split) -> BoolArray:
    """By the served model's own formula, from the series: bool [T, W]."""
    served, whole = model_spec(story.served), worlds.workload(story)
    part = whole.part(series.split_rows(len(whole), split, story.splits))
    tokens = part.prompt_tokens + part.batch * part.reserve_tokens
    used = memory.weight_bytes(served, form) + tokens * memory.model_kv_token_bytes(served, form.kv)
    fits: BoolArray = used[:, None] <= card.limit_bytes(story, part.tenant_tokens)
    return fits


@pytest.mark.parametrize(
    "story",
    [pytest.param(story, marks=pytest.mark.slow if story.is_drawn else ()) for story in shipped()],
    ids=lambda story: story.name,
)
@pytest.mark.usefixtures("shaped")
def test_the_full_model_fits_as_often_as_its_own_formula_says(story: Scenario) -> None:
    """In every format, second by second, although its layers are spread over the table's."""
    for split in ("train", "test"):
        world = worlds.world(story, split)
        asked = world.rows.prompt_tokens + world.rows.reserved_tokens
        for form in (BF16, *FORMATS):
            foot = card.footprint(story, form)
            assert foot.layers == world.footprint.layers == tables.table(story).blocks // 2
            whole = np.ones(2 * foot.layers, dtype=bool)
            used = foot.used_bytes(whole, asked, world.rows.prompt_tokens)
            fits = used[:, None] <= world.rows.limit_bytes
            assert (fits == seconds_that_fit(story, form, split)).all(), (story.name, form)
    assert world.footprint == card.footprint(story)


@pytest.mark.parametrize("name", ["llama2-7b", "llama3-8b", "qwen2.5-7b"])
@pytest.mark.parametrize("layers", [30, 28, 7, 64])
def test_spreading_keeps_the_models_bytes(name: str, layers: int) -> None:
    """Never less than its own, and more by three bytes a layer at most."""
    model, tokens = model_spec(name), np.array([0, 1, 999, 250_000])
    for form in (BF16, *FORMATS):
        own, spread = memory.footprint(model, form), memory.footprint(model, form, layers=layers)
        assert spread.layers == layers
        assert spread.fixed_bytes == own.fixed_bytes == memory.embedding_bytes(model)
        takes = [
            foot.used_bytes(np.ones(2 * foot.layers, dtype=bool), tokens, tokens)
            for foot in (own, spread)
        ]
        assert (takes[0] == memory.weight_bytes(model, form)
                + tokens * memory.model_kv_token_bytes(model, form.kv)).all()  # fmt: skip
        more = takes[1] - takes[0]
        assert (more >= 0).all()
        assert (more <= 3 * layers).all()


@pytest.mark.parametrize(
    ("name", "tokens"), [("llama2-7b", 8320), ("llama3-8b", 65_536), ("qwen2.5-7b", 170_240)]
)
def test_the_kinds_cross_where_the_served_models_do(name: str, tokens: int) -> None:
    """There a dropped attention block frees as much as a dropped FFN block."""
    foot = memory.footprint(model_spec(name), layers=30)
    around = np.array([tokens - 1, tokens + 1])
    less, more = foot.kept_attention_bytes(around)
    assert less < foot.ffn_bytes < more


def test_a_recording_is_in_units_of_its_own() -> None:
    """Of a tenant that was recorded, a series holds units of so many bytes, not tokens."""
    laptop = catalogue.scenario("laptop")
    whole = int(laptop.card_gib * GIB)
    taken = card.limit_bytes(replace(laptop, stand_in=False), np.array([0, 5]))
    assert taken.tolist() == [whole, whole - 5 * series.UNIT_BYTES]
    assert series.UNIT_BYTES > 1


def test_limits_and_tokens_by_hand(toy_story: Scenario) -> None:
    # The card has 1000 bytes, the tenant's weights 400, its tokens 12 each.
    whole, world = worlds.workload(toy_story), worlds.world(toy_story, "train")
    train = len(world.rows)
    assert train == 140
    assert (world.rows.limit_bytes == 600 - 12 * whole.tenant_tokens[:train]).all()
    assert (world.rows.prompt_tokens == whole.prompt_tokens[:train]).all()
    assert (world.rows.reserved_tokens == 5 * whole.batch[:train]).all()
    longest = whole.longest_prompt_tokens[:train] + 5 * (whole.batch[:train] > 0)
    assert (world.rows.longest_tokens == longest).all()
    assert world.restore_bytes_per_s == 100.0, "all 300 bytes come back in 3 s"
    assert world.mean_output_tokens == whole.output_tokens[:train].mean()
    assert (world.ceiling, world.notice_s, world.window_s) == (4.0, 0, 4)
    slow = worlds.world(replace(toy_story, reaction_s=0.7), "train")
    assert (world.reaction_s, slow.reaction_s) == (toy_story.reaction_s, 0.7)


def test_without_a_tenant_the_whole_card_is_there(toy_story: Scenario) -> None:
    alone = replace(toy_story, tenant=None, offsets=1)
    assert (card.limit_bytes(alone, np.array([[3, 40]])) == 1000).all()


def test_a_card_is_seen_in_its_own_bytes(toy_story: Scenario) -> None:
    assert card.card_bytes(replace(toy_story, card_gib=40)) == 40 * GIB
