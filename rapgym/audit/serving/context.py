"""What the decisions of a serving engine's audit log have in common: card, blocks, costs, deadlines, profile.

A log states it once; with the requests and limits that stand in its lines the engine can be run again from
the log alone. Calibration columns only.
"""

import math
from dataclasses import asdict, dataclass, field, fields, replace
from typing import Any, Self

import numpy as np

from rapgym.arrays import IntArray
from rapgym.audit.context import LARGEST, check_names, id_of
from rapgym.errors import InvalidResult, InvalidSpec, RapgymError
from rapgym.files import json_text
from rapgym.model.memory import Footprint
from rapgym.scenarios import tables
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Split
from rapgym.serving.card import Card
from rapgym.serving.cost import Deadlines, Harm
from rapgym.serving.profile import ServingProfile
from rapgym.serving.world import Means, ServeWorld, Span

WORLD = "serving"  # what such a context says of itself
LEAST_STEP_S = 1e-4  # a step that takes no time would be replayed for ever
MOST_OF_STEP = {"step_tokens": 1 << 20, "max_sequences": 1 << 14, "page_tokens": 1 << 16,
                "reserved_pages": 1 << 20, "lookahead": 16}  # fmt: skip
MOST_BLOCKS = 512  # of a kind, that may be dropped


@dataclass(frozen=True, slots=True, eq=False)
class ServeContext:
    """Where decisions were taken, and all that the engine was given but for requests and limits."""

    scenario: str
    policy: str
    split: str
    table: str
    table_sha256: str
    world: ServeWorld  # without requests: its only span is a second in which nothing happens
    _id: list[str] = field(default_factory=list)

    def __post_init__(self) -> None:
        check_names(self)
        _check(self.world)

    @classmethod
    def of(cls, story: ServeScenario, split: Split, policy: str, world: ServeWorld) -> Self:
        """The context of decisions in a world of a scenario, which has calibration columns."""
        table = tables.table(story.base)
        profile = replace(world.profile, provenance={})
        bare = replace(world, spans=(_nothing(),), profile=profile)
        return cls(story.id, policy, split, table.name, table.sha256, bare)

    @property
    def id(self) -> str:
        """What decisions call it: it follows from the content, so the same in every log."""
        if not self._id:
            self._id.append(id_of(self.as_json()))
        return self._id[0]

    def used_bytes(self, attention: int, ffn: int, loading: int, pages: int) -> int:
        """Everything that is in memory, what is loading included (0 nothing, 1 attention, 2 FFN)."""
        held = attention - (loading == 1), ffn - (loading == 2)
        return self.world.card.used_bytes(held, pages * self.world.profile.page_tokens)

    def replayed(self, before: IntArray, limit: IntArray, arrivals: IntArray) -> ServeWorld:
        """A world with these limits and requests, which begins where `before` ends.

        Args:
            before, limit: bytes by the second, [BACK_S] and [S].
            arrivals: microseconds from the beginning, prompt and output tokens, [R, 3].
        """
        shift = np.array([len(before) * 1_000_000, 0, 0])
        arrival_us, prompt, output = (arrivals + shift).T.copy()
        span = Span(arrival_us, prompt, output, np.concatenate([before, limit]))
        return replace(self.world, spans=(span,))

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads."""
        world = self.world
        profile = asdict(world.profile)
        del profile["provenance"]
        return {
            "world": WORLD,
            "scenario": self.scenario,
            "policy": self.policy,
            "split": self.split,
            "table": self.table,
            "table_sha256": self.table_sha256,
            "footprint": asdict(world.card.footprint),
            "goes_next": world.card.goes_next.tolist(),
            "link_bytes_per_s": world.card.link_bytes_per_s,
            "reaction_s": world.card.reaction_s,
            "card_bytes": world.card_bytes,
            "profile": profile,
            "nll": world.harm.nll.tolist(),
            "history_share": world.harm.history_share.tolist(),
            "ceiling": world.harm.ceiling,
            "deadlines": asdict(world.deadlines),
            "shed_s": world.shed_s if math.isfinite(world.shed_s) else None,
            "means": asdict(world.means),
        }


def _nothing() -> Span:
    none = np.empty(0, dtype=np.int64)
    return Span(none, none.copy(), none.copy(), np.ones(1, dtype=np.int64))


def _check(world: ServeWorld) -> None:
    """Raises InvalidSpec where a world is none that an engine could be run in."""
    for each in fields(Footprint):
        value = getattr(world.card.footprint, each.name)
        if not 0 <= value <= LARGEST[each.name]:
            raise InvalidSpec(f"{each.name} is {value}; it goes up to {LARGEST[each.name]}")
    if max(world.attention, world.ffn) > MOST_BLOCKS or world.ffn > world.card.footprint.layers:
        raise InvalidSpec("more blocks may be dropped than there are")
    if min(world.card.block_token_bytes, world.card.weight_bytes((0, 0))) < 1:
        raise InvalidSpec("blocks and their KV cache take a byte at least")
    if not np.isin(world.card.goes_next, (0, 1)).all():
        raise InvalidSpec("a block that goes next is of one of two kinds")
    harm = world.harm
    if not (np.isfinite(harm.nll).all() and np.isfinite(harm.history_share).all()):
        raise InvalidSpec("nats and shares are finite numbers")
    if not 0 < harm.ceiling < math.inf or not 0 < world.card_bytes <= 1 << 60:
        raise InvalidSpec("C and the card are above 0")
    if world.profile.base_s < LEAST_STEP_S or world.profile.prefix_cache:
        raise InvalidSpec(
            f"a step takes {LEAST_STEP_S} s at least, and no prefix cache is replayed here"
        )
    for name, most in MOST_OF_STEP.items():
        if getattr(world.profile, name) > most:
            raise InvalidSpec(f"{name} goes up to {most}")
    if min(asdict(world.means).values()) <= 0 or not world.shed_s > 0:
        raise InvalidSpec("means of train and the time to shedding are above 0")


def of_json(found: dict[str, Any]) -> ServeContext:
    """The context that a line of a log describes.

    Raises:
        InvalidResult: it describes none.
    """
    try:
        footprint = _numbers(found["footprint"], Footprint)
        profile = _numbers(found["profile"], ServingProfile)
        nll = np.array(found["nll"], dtype=np.float64)
        goes_next = np.array(found["goes_next"], dtype=np.int64)
        card = Card(
            footprint=Footprint(**footprint),
            limit_bytes=np.ones(1, dtype=np.int64),
            goes_next=goes_next,
            link_bytes_per_s=json_text.number(found["link_bytes_per_s"]),
            reaction_s=json_text.number(found["reaction_s"]),
            step_tokens=int(profile["step_tokens"]),
        )
        shed_s = found["shed_s"]
        world = ServeWorld(
            spans=(_nothing(),),
            card=card,
            card_bytes=json_text.whole(found["card_bytes"]),
            profile=ServingProfile(**profile),
            harm=Harm(
                nll,
                np.array(found["history_share"], np.float64),
                json_text.number(found["ceiling"]),
            ),
            deadlines=Deadlines(**_numbers(found["deadlines"], Deadlines)),
            shed_s=math.inf if shed_s is None else json_text.number(shed_s),
            means=Means(**_numbers(found["means"], Means)),
        )
        return ServeContext(
            scenario=json_text.words(found["scenario"]),
            policy=json_text.words(found["policy"]),
            split=json_text.words(found["split"]),
            table=json_text.words(found["table"]),
            table_sha256=json_text.words(found["table_sha256"]),
            world=world,
        )
    except (KeyError, TypeError, ValueError, IndexError, OverflowError, RapgymError) as error:
        raise InvalidResult(f"it describes no context ({type(error).__name__}: {error})") from error


def _numbers(told: Any, kind: type) -> dict[str, Any]:
    """The fields of a record of numbers, each there and none else; its name may be a text."""
    names = {each.name for each in fields(kind)} - {"provenance"}
    if not isinstance(told, dict) or told.keys() != names:
        raise ValueError(f"it is no {kind.__name__}")
    for name, value in told.items():
        if name == "name":
            json_text.words(value)
        elif type(value) not in (int, float, bool) or not math.isfinite(value):
            raise ValueError(f"{name} is no number")
        elif name in MOST_OF_STEP or (kind is Footprint and name != "activation_bytes_per_token"):
            json_text.whole(value)
    return told
