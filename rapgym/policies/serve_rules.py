"""Rules for the serving engine: the engine of today, fixed counts, and lookups of what fits now.

Settings are numbers, or arrays [B] where lanes try several side by side.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.policies.serve_futures import Futures
from rapgym.policies.serving import Grid, ServeBriefing, ServeReading, decisions
from rapgym.serving.engine import DROP, PREEMPT

Number = float | FloatArray
Settings = Mapping[str, FloatArray | IntArray]


class Fixed:
    """The same counts and standing order, whatever happens."""

    def __init__(
        self,
        attention: int | IntArray = 0,
        ffn: int | IntArray = 0,
        on_fall: int | IntArray = PREEMPT,
    ) -> None:
        self._decision = attention, ffn, on_fall

    def reset(self, batch: int, briefing: ServeBriefing) -> None:
        self._standing: IntArray = np.zeros((batch, 3), dtype=np.int64)
        for place, each in enumerate(self._decision):
            self._standing[:, place] = each

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> IntArray:
        return self._standing


class Lookup:
    """The counts of least expected loss now, by what fits of running and waiting demand.

    Where the KV cache of all demand fits beside the kept blocks, a token loses what dropping them costs;
    the share of demand that finds no room loses `price` instead.
    """

    def __init__(self, margin: Number, demand: Number, price: Number) -> None:
        """Margin: share of the card left free; demand: share of the queue that is counted.

        Args:
            price: nats of a token without room, over the ceiling.
        """
        self._margin, self._demand, self._price = margin, demand, price

    def reset(self, batch: int, briefing: ServeBriefing) -> None:
        self._briefing, self._grid = briefing, Grid.of(briefing.train)
        self._margin_bytes = np.asarray(self._margin) * briefing.train.card_bytes

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> IntArray:
        seen = self._briefing.read(observation)
        attention, ffn = self._grid.least(self._loss(seen))
        return decisions(attention, ffn)

    def _loss(self, seen: ServeReading) -> FloatArray:
        """Nats a token of demand at each pair of counts, [B, A + 1, F + 1]."""
        tokens = seen.held_tokens + seen.prefill_tokens + self._demand * seen.queued_tokens
        price = np.broadcast_to(np.asarray(self._price) * self._grid.ceiling, tokens.shape)
        room_bytes = seen.limit_bytes - self._margin_bytes
        return self._grid.loss(np.maximum(tokens, 1.0), room_bytes, price)


class Hysteresis(Lookup):
    """The lookup that drops at once and brings back late: after `seconds` in which less would have done."""

    def __init__(
        self, margin: Number, demand: Number, price: Number, seconds: int | IntArray
    ) -> None:
        super().__init__(margin, demand, price)
        self._seconds = seconds

    def reset(self, batch: int, briefing: ServeBriefing) -> None:
        super().reset(batch, briefing)
        self._held = np.zeros((batch, 2), dtype=np.int64)
        self._patience = np.zeros((batch, 2), dtype=np.int64)
        self._most = np.zeros((batch, 2), dtype=np.int64)  # wanted since patience began

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> IntArray:
        wanted = super().decide(observation, rng)[:, :2]
        fewer = wanted < self._held
        self._patience = np.where(fewer, self._patience + 1, 0)
        self._most = np.where(self._patience == 1, wanted, np.maximum(self._most, wanted))
        ripe = fewer & (self._patience >= np.asarray(self._seconds)[..., None])
        self._held = np.where(ripe, self._most, np.maximum(self._held, wanted))
        self._patience[ripe] = 0
        return decisions(self._held[:, 0], self._held[:, 1])


class Hurry(Lookup):
    """The lookup that also drops FFN blocks while prompts pile up: fewer make every step shorter."""

    def __init__(
        self, margin: Number, demand: Number, price: Number, blocks_a_second: Number
    ) -> None:
        """Blocks a second: FFN blocks dropped at least, for each second of prefill that waits."""
        super().__init__(margin, demand, price)
        self._blocks_a_second = blocks_a_second

    def decide(self, observation: FloatArray, rng: np.random.Generator) -> IntArray:
        decisions = super().decide(observation, rng)
        seen, world = self._briefing.read(observation), self._briefing.train
        waits_s = (seen.queued_tokens + seen.prefill_tokens) / world.profile.tokens_per_s
        hurried = np.minimum(np.floor(waits_s * self._blocks_a_second), world.ffn).astype(np.int64)
        decisions[:, 1] = np.maximum(decisions[:, 1], hurried)
        return decisions


def crossed(**values: tuple[float, ...]) -> dict[str, FloatArray]:
    """Every combination, the first varying slowest."""
    tried = np.meshgrid(*values.values(), indexing="ij")
    return {name: each.ravel() for name, each in zip(values, tried, strict=True)}


MARGINS, DEMANDS, PRICES = (0.0, 0.01, 0.03), (0.0, 0.25, 0.5, 1.0), (0.1, 0.3, 0.6, 1.0)


def fixed_settings(briefing: ServeBriefing) -> Settings:
    """Counts in equal strides along both orders, under either standing order."""
    world = briefing.train
    attention = np.unique(np.linspace(0, world.attention, 4).astype(np.int64))
    ffn = np.unique(np.linspace(0, world.ffn, 6).astype(np.int64))
    a, f, order = np.meshgrid(attention, ffn, (PREEMPT, DROP), indexing="ij")
    return {"attention": a.ravel(), "ffn": f.ravel(), "on_fall": order.ravel()}


@dataclass(frozen=True, slots=True)
class Rule:
    """A method, what tuning tries of it, and what it does."""

    make: Callable[..., Any]
    # Values of each argument, entry i of all of them one setting: none has more than a method may try.
    tried: Callable[[ServeBriefing], Settings] | Settings
    says: str


RULES = {
    "engine": Rule(Fixed, {}, "the engine of today: all blocks stay, the last admitted go where memory falls"),
    "keep-all-drop": Rule(
        Fixed, {"on_fall": np.array([DROP])},
        "all blocks stay until memory falls below what is in use; then blocks go, and come back as they fit",
    ),
    "fixed": Rule(Fixed, fixed_settings, "the same counts all the time, under either standing order"),
    "lookup": Rule(
        Lookup, crossed(margin=MARGINS, demand=DEMANDS, price=PRICES),
        "the counts of least loss beside which what runs, and a share of what waits, fits now",
    ),
    "hysteresis": Rule(
        Hysteresis,
        crossed(margin=(0.0, 0.02), demand=(0.0, 0.5), price=(0.3, 0.6, 1.0), seconds=(2, 5, 15, 60)),
        "the lookup that drops at once and brings back after seconds in which less would have done",
    ),
    "hurry": Rule(
        Hurry,
        crossed(margin=(0.0, 0.02), demand=(0.0, 0.5), price=(0.3, 1.0),
                blocks_a_second=(0.5, 1.0, 2.0, 4.0, 8.0, 16.0)),
        "the lookup that also drops FFN blocks for speed while prompts pile up",
    ),
    "futures": Rule(
        Futures,
        crossed(margin=(0.0, 0.02), demand=(0.0, 0.5, 1.0), price=(0.3, 0.6, 1.0), later=(0.1, 0.5)),
        "model-predictive control: the counts of least mean loss over what memory did next in train where "
        "its past was most like now",
    ),
}  # fmt: skip


def settings_of(name: str, briefing: ServeBriefing) -> dict[str, FloatArray | IntArray]:
    """What tuning tries of a rule, one entry a setting; of one without free parameters a single one."""
    found = RULES[name].tried
    return dict(found(briefing) if callable(found) else found)


def coarse_settings(name: str, briefing: ServeBriefing) -> dict[str, FloatArray | IntArray]:
    """Fewer of `settings_of`, for each rule but "futures"; all of them where they are few already."""
    if name == "fixed":
        world = briefing.train
        attention = np.unique(np.linspace(0, world.attention, 4).astype(np.int64)[:3])
        ffn = np.unique(np.linspace(0, world.ffn, 4).astype(np.int64)[:3])
        a, f = np.meshgrid(attention, ffn, indexing="ij")
        return {"attention": a.ravel(), "ffn": f.ravel(), "on_fall": np.full(a.size, DROP)}
    return dict(COARSE[name]) if name in COARSE else settings_of(name, briefing)


# Where many worlds are tuned for, as on a map: demand and price decide, the margin hardly.
COARSE: dict[str, Settings] = {
    "lookup": crossed(margin=(0.01,), demand=(0.0, 0.5, 1.0), price=(0.3, 1.0)),
    "hysteresis": crossed(margin=(0.0,), demand=(0.0, 0.5), price=(0.6,), seconds=(5, 15, 60)),
    "hurry": crossed(margin=(0.0,), demand=(0.0,), price=(0.3, 1.0), blocks_a_second=(0.5, 2.0, 8.0)),
}  # fmt: skip
