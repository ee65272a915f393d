"""How a small model that really runs stands for the served one: on a device alone.

A simulated world is in the served model's own bytes and tokens. A device runs the model that the
quality table was measured on, which is far smaller: there the card shrinks as the weights do, and
tokens so that the KV cache keeps its share of the card.
"""

from dataclasses import dataclass
from fractions import Fraction

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.model import memory
from rapgym.model.shapes import model_spec
from rapgym.scenarios import tables
from rapgym.scenarios.story import Scenario


@dataclass(frozen=True, slots=True)
class Scales:
    """How much of the story's is left where the measured model stands in."""

    tokens: Fraction  # of the measured model, for each of the served one: keeps KV to weights
    bytes: Fraction  # likewise: keeps the card to weights


def scales(story: Scenario) -> Scales:
    """The two scales of a scenario that the model of its table serves."""
    served, measured = model_spec(story.served), model_spec(tables.table(story).model)
    byte_scale = Fraction(
        memory.weight_bytes(measured, story.form),
        memory.weight_bytes(served, story.form),
    )
    kv = Fraction(
        memory.model_kv_token_bytes(served, story.form.kv),
        memory.model_kv_token_bytes(measured, story.form.kv),
    )
    return Scales(tokens=byte_scale * kv, bytes=byte_scale)


def tokens(story: Scenario, served: IntArray) -> IntArray:
    """Tokens of the story as the measured model gets them, same shape."""
    share = float(scales(story).tokens) * story.length_share
    return np.rint(served * share).astype(np.int64)


def limit_bytes(story: Scenario, limit: IntArray | FloatArray) -> IntArray:
    """A limit of the story in bytes of the measured model, same shape.

    What lies above (or below) the dense weights shrinks as `length_share` says, as the KV cache does:
    dense fits where it did.
    """
    shrunk = limit * float(scales(story).bytes)
    if story.length_share != 1:
        dense = memory.weight_bytes(model_spec(tables.table(story).model), story.form)
        shrunk = dense + story.length_share * (shrunk - dense)
    return np.floor(shrunk).astype(np.int64)
