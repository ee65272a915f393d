"""What a scenario's card holds: bytes of the served model, of the tenant, and what is left for serving."""

import numpy as np

from rapgym.arrays import IntArray
from rapgym.model import memory, profiles
from rapgym.model.memory import Footprint
from rapgym.model.profiles import IDEAL, DeviceProfile
from rapgym.model.shapes import Format, model_spec
from rapgym.scenarios import stand_in, tables
from rapgym.scenarios.story import GIB, Recorded, Scenario
from rapgym.workload import series


def card_bytes(story: Scenario) -> int:
    """The whole card: the unit in which limits are seen."""
    card = int(story.card_gib * GIB)
    return int(stand_in.limit_bytes(story, np.array(card))) if story.stand_in else card


def profile_of(story: Scenario) -> DeviceProfile:
    """What the scenario's device adds.

    Raises:
        InvalidSpec: no profile has this name, or its file cannot be read.
    """
    return IDEAL if story.device_profile is None else profiles.read(story.device_profile)


def footprint(story: Scenario, form: Format | None = None) -> Footprint:
    """Bytes of the model that serves, over the layers of the quality table.

    Args:
        form: of weights and KV; the scenario's own unless stated.
    """
    table = tables.table(story)
    serves = model_spec(table.model if story.stand_in else story.served)
    return memory.footprint(serves, form or story.form, profile_of(story), layers=table.blocks // 2)


def limit_bytes(story: Scenario, tenant_tokens: IntArray) -> IntArray:
    """The card less what the tenant uses, same shape."""
    card = int(story.card_gib * GIB)
    if story.tenant is None:
        left = np.full(tenant_tokens.shape, card)
    elif isinstance(story.tenant, Recorded):
        left = card - series.UNIT_BYTES * tenant_tokens
    else:
        model = model_spec(story.tenant.model)
        kv = memory.model_kv_token_bytes(model)
        left = card - memory.weight_bytes(model) - kv * tenant_tokens
    return stand_in.limit_bytes(story, left) if story.stand_in else left


def tokens(story: Scenario, served: IntArray) -> IntArray:
    """Tokens of the trace as the model that serves gets them, same shape."""
    return stand_in.tokens(story, served) if story.stand_in else served
