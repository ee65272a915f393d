"""How bytes and tokens of a story become those of the measured model."""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.model import memory, profiles
from rapgym.model.profiles import IDEAL, DeviceProfile
from rapgym.model.shapes import ModelSpec, model_spec
from rapgym.scenarios import tables
from rapgym.scenarios.story import GIB, Recorded, Scenario
from rapgym.workload import own as own_traces


def card_bytes(story: Scenario) -> int:
    """The whole card in bytes of the measured model: the unit in which limits are seen."""
    measured = model_spec(tables.table(story).model)
    card = int(story.card_gib * GIB * scales(story, measured).bytes)
    return int(limit_scaled(story, measured, np.array(float(card))))


def profile_of(story: Scenario) -> DeviceProfile:
    """What the scenario's device adds.

    Raises:
        InvalidSpec: no profile has this name, or its file cannot be read.
    """
    return IDEAL if story.device_profile is None else profiles.read(story.device_profile)


@dataclass(frozen=True, slots=True)
class Scales:
    """How the measured model stands for the served one."""

    tokens: Fraction  # of the measured model, for each of the served one: keeps KV to weights
    bytes: Fraction  # likewise: keeps the card to weights


def scales(story: Scenario, measured: ModelSpec) -> Scales:
    """The two scales of a scenario whose table was measured on `measured`."""
    served = model_spec(story.served)
    byte_scale = Fraction(
        memory.weight_bytes(measured, story.form),
        memory.weight_bytes(served, story.form),
    )
    kv = Fraction(
        memory.model_kv_token_bytes(served, story.form.kv),
        memory.model_kv_token_bytes(measured, story.form.kv),
    )
    return Scales(tokens=byte_scale * kv, bytes=byte_scale)


def limit_bytes(story: Scenario, tenant_tokens: IntArray) -> IntArray:
    """The card less what the tenant uses, in bytes of the served model's world; same shape."""
    card = int(story.card_gib * GIB)
    if story.tenant is None:
        return np.full(tenant_tokens.shape, card)
    if isinstance(story.tenant, Recorded):
        return card - own_traces.UNIT_BYTES * tenant_tokens
    model = model_spec(story.tenant.model)
    kv = memory.model_kv_token_bytes(model)
    return card - memory.weight_bytes(model) - kv * tenant_tokens


def limit_scaled(story: Scenario, measured: ModelSpec, limit: FloatArray) -> FloatArray:
    """A limit in bytes of the measured model, once lengths are multiplied by `length_share`.

    What lies above (or below) the dense weights shrinks as the KV cache does: dense fits where it did.
    """
    if story.length_share == 1:
        return limit
    dense = memory.weight_bytes(measured, story.form)
    return dense + story.length_share * (limit - dense)
