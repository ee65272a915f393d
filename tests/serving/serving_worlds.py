"""Small worlds of the serving engine whose course can be followed by hand."""

from dataclasses import replace
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.model.memory import Footprint
from rapgym.serving import kernel
from rapgym.serving.card import Card, order_of_going
from rapgym.serving.cost import Deadlines, Harm
from rapgym.serving.engine import Decision, Engine
from rapgym.serving.profile import ServingProfile
from rapgym.serving.requests import Requests

FOOT = Footprint(
    layers=3, attention_bytes=40, ffn_bytes=60, model_kv_token_bytes=3, fixed_bytes=100,
    activation_bytes_per_token=0.0, margin_bytes=0,
)  # fmt: skip
FULL = 100 + 3 * 40 + 3 * 60  # bytes of everything but pages
NLL = np.array([[0.0, 0.5, 1.5], [0.25, 0.75, 2.0], [1.0, 1.75, 3.0]])
# Every step takes a second, whatever it does.
SECOND = ServingProfile(
    "a second a step", base_s=1.0, weight_bytes_per_s=1e30, tokens_per_s=1e30, kv_bytes_per_s=1e30,
    pair_s=0.0, step_tokens=8, max_sequences=4, page_tokens=4, reserved_pages=0, lookahead=0,
)  # fmt: skip
HARM = Harm(NLL, history_share=np.array([0.5, 0.5, 0.25]), ceiling=4.0)


def asked(
    *rows: tuple[float, int, int], like: dict[int, tuple[int, int]] | None = None
) -> Requests:
    """Requests of (arrival_s, prompt, output)."""
    arrival_s, prompt, output = (np.array(each) for each in zip(*rows, strict=True))
    begins_like, pages = np.full(len(rows), -1), np.zeros(len(rows), dtype=np.int64)
    for later, (earlier, shared) in (like or {}).items():
        begins_like[later], pages[later] = earlier, shared
    return Requests(arrival_s.astype(np.float64), prompt, output, begins_like, pages)


def card(pages: int | list[int], **changes: Any) -> Card:
    """A card with room for so many pages of four tokens beside every block, by the second."""
    room = np.atleast_1d(np.array(pages)) * 4 * 3
    made = Card(FOOT, FULL + room, order_of_going(NLL), link_bytes_per_s=100.0, reaction_s=0.0,
                step_tokens=SECOND.step_tokens)  # fmt: skip
    return replace(made, **changes)


def played(
    requests: Requests,
    where: Card,
    profile: ServingProfile = SECOND,
    decisions: list[Decision] | None = None,
    shed_s: float = float("inf"),
) -> Engine:
    """The engine once all requests have left; decision k stands in second k, the last one on."""
    engine = Engine(requests, where, profile, shed_s)
    for second, decision in enumerate(decisions or [], 1):
        engine.decide(decision)
        engine.run(float(second))
    engine.run(float("inf"))
    return engine


def compiled(
    requests: Requests,
    where: Card,
    profile: ServingProfile,
    decisions: list[Decision],
    shed_s: float,
    deadlines: Deadlines,
    until_s: float,
) -> kernel.Lane:
    """The same in the compiled engine."""
    world = kernel.world_of(requests, where, profile, HARM, deadlines)
    lane, decision = kernel.lane_of(world, shed_s), Decision()
    for second, each in enumerate(decisions, 1):
        decision = each
        kernel.run(world, lane, float(second), each.attention, each.ffn, each.on_fall)
    kernel.run(world, lane, until_s, decision.attention, decision.ffn, decision.on_fall)
    return lane


def first_s(engine: Engine) -> FloatArray:
    return np.array([each.first_s for each in engine.served])


def last_s(engine: Engine) -> FloatArray:
    return np.array([each.last_s for each in engine.served])
