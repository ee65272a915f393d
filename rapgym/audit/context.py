"""What the decisions of an audit log have in common: model, bytes, order, grid, who decides where.

A log states it once and each decision names it by its id, so that a decision can be replayed and
explained from the log alone. Calibration columns only.
"""

import hashlib
import json
import math
import re
from collections.abc import Mapping
from dataclasses import dataclass, fields
from typing import Any, Protocol, Self

import numpy as np

from rapgym.arrays import BoolArray, FloatArray, IntArray, freeze
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.files import json_text
from rapgym.model import blocks
from rapgym.model.memory import Footprint
from rapgym.quality.columns import QualityColumns
from rapgym.world.encoding import Layout
from rapgym.world.records import World

# Larger numbers than any real model has, small enough that no sum of them leaves int64.
LARGEST = {
    "layers": 512,
    "attention_bytes": 1 << 40,
    "ffn_bytes": 1 << 40,
    "model_kv_token_bytes": 1 << 28,
    "fixed_bytes": 1 << 48,
    "activation_bytes_per_token": 1 << 24,
    "margin_bytes": 1 << 48,
}
LONGEST_NAME = 400  # characters: a scenario on a user's own traces names their files
_SHA256 = re.compile(r"[0-9a-f]{64}")


class Named(Protocol):
    """What every context says of where its decisions were taken."""

    @property
    def scenario(self) -> str: ...
    @property
    def policy(self) -> str: ...
    @property
    def split(self) -> str: ...
    @property
    def table(self) -> str: ...
    @property
    def table_sha256(self) -> str: ...


def check_names(context: Named) -> None:
    """Raises InvalidSpec where a name of a context is none that a log may hold."""
    for name in ("scenario", "policy", "split", "table"):
        text = getattr(context, name)
        if not 0 < len(text) <= LONGEST_NAME or not text.isprintable():
            raise InvalidSpec(f"{name} needs 1 to {LONGEST_NAME} printable characters")
    if not _SHA256.fullmatch(context.table_sha256):
        raise InvalidSpec("table_sha256 is 64 hexadecimal digits")


def id_of(told: Mapping[str, Any]) -> str:
    """What decisions call a context: it follows from the content, so the same in every log."""
    text = json.dumps(told, sort_keys=True, separators=(",", ":"))
    return hashlib.sha256(text.encode()).hexdigest()[:16]


@dataclass(frozen=True, slots=True, eq=False)
class AuditContext:
    """Where decisions were taken, and all that the shield was given but for the row's own numbers."""

    scenario: str
    policy: str
    split: str  # of the scenario's rows; "live" where none were replayed
    table: str
    table_sha256: str
    footprint: Footprint
    order: IntArray  # what the shield drops, first to last; the other blocks are the floor
    ceiling: float  # C, nats: cost of a token that is not served
    window_s: int
    grid_kept: BoolArray  # sets that the reference policy chooses from, [K, N]
    grid_nll: FloatArray  # calibration nats a token above dense of each, [K]
    observation: tuple[tuple[str, int], ...] = ()  # name and entries of each part of an observation
    card_bytes: int = 0  # unit of memory in observations; 0: not known
    token_unit: int = 0  # unit of tokens in observations

    def __post_init__(self) -> None:
        check_names(self)
        for field in fields(Footprint):
            value = getattr(self.footprint, field.name)
            if not 0 <= value <= LARGEST[field.name]:
                raise InvalidSpec(f"{field.name} is {value}; it goes up to {LARGEST[field.name]}")
        droppable = self.order.tolist()
        if len(set(droppable)) != len(droppable) or not set(droppable) <= set(range(self.blocks)):
            raise InvalidSpec(
                f"the order names blocks twice, or others than 0 to {self.blocks - 1}"
            )
        if not self.blocks or self.grid_kept.shape != (len(self.grid_nll), self.blocks):
            raise InvalidSpec("the grid needs one number of nats for each kept set of the model")
        if not np.isfinite(self.grid_nll).all() or not 0 < self.ceiling < math.inf:
            raise InvalidSpec("nats of the grid are finite numbers, and C is above 0")
        if self.window_s < 1 or min(self.card_bytes, self.token_unit) < 0:
            raise InvalidSpec("a window lasts at least a second, and units are not negative")
        freeze(self)

    @classmethod
    def of(
        cls,
        world: World,
        *,
        scenario: str,
        policy: str,
        split: str,
        table_sha256: str,
        layout: Layout | None = None,
    ) -> Self:
        """The context of a world whose quality columns are of calibration text.

        Raises:
            InvalidSpec: they are of test text, which no explanation may read; or a name is empty.
        """
        quality = world.quality
        if quality.split != "calib":
            raise InvalidSpec("an audit log speaks of calibration columns: give it that world")
        kept, nll = _grid(quality)
        return cls(
            scenario=scenario,
            policy=policy,
            split=split,
            table=quality.name,
            table_sha256=table_sha256,
            footprint=world.footprint,
            order=quality.order.copy(),
            ceiling=float(world.ceiling),
            window_s=world.window_s,
            grid_kept=kept,
            grid_nll=nll,
            observation=tuple((part.name, part.size) for part in layout.parts) if layout else (),
            card_bytes=layout.card_bytes if layout else 0,
            token_unit=layout.token_unit if layout else 0,
        )

    @property
    def id(self) -> str:
        """What decisions call it: it follows from the content, so the same in every log."""
        return id_of(self.as_json())

    @property
    def blocks(self) -> int:
        """N."""
        return 2 * self.footprint.layers

    @property
    def floor(self) -> BoolArray:
        """Blocks that always stay, bool [N]."""
        return blocks.floor_of(self.order, self.blocks)

    def as_json(self) -> dict[str, Any]:
        """What `of_json` reads."""
        footprint = {f.name: getattr(self.footprint, f.name) for f in fields(Footprint)}
        keys = [blocks.key(kept) for kept in self.grid_kept]
        return {
            "scenario": self.scenario,
            "policy": self.policy,
            "split": self.split,
            "table": self.table,
            "table_sha256": self.table_sha256,
            "footprint": footprint,
            "order": self.order.tolist(),
            "ceiling": self.ceiling,
            "window_s": self.window_s,
            "grid": [[key, nll] for key, nll in zip(keys, self.grid_nll.tolist(), strict=True)],
            "observation": [list(part) for part in self.observation],
            "card_bytes": self.card_bytes,
            "token_unit": self.token_unit,
        }


def _grid(quality: QualityColumns) -> tuple[BoolArray, FloatArray]:
    """The grid's sets, and their nats, in the order in which the reference policy sees them."""
    kept = quality.grid_kept.reshape(-1, quality.grid_kept.shape[-1]).copy()
    return kept, np.asarray(quality.grid_nll, dtype=np.float64).ravel().copy()


def of_json(found: dict[str, Any]) -> AuditContext:
    """The context that a line of a log describes.

    Raises:
        InvalidResult: it describes none.
    """
    try:
        told = dict(found["footprint"])
        per_token = json_text.number(told.pop("activation_bytes_per_token"))
        sizes = {name: json_text.whole(value) for name, value in told.items()}
        footprint = Footprint(activation_bytes_per_token=per_token, **sizes)
        n = 2 * footprint.layers if footprint.layers <= LARGEST["layers"] else 0
        if n < 2:
            raise InvalidSpec(f"a model has 1 to {LARGEST['layers']} layers")
        grid = [
            (blocks.kept_of(json_text.words(key), n), json_text.number(nll))
            for key, nll in found["grid"]
        ]
        return AuditContext(
            **{
                name: json_text.words(found[name])
                for name in ("scenario", "policy", "split", "table")
            },
            table_sha256=json_text.words(found["table_sha256"]),
            footprint=footprint,
            order=np.array([json_text.whole(block) for block in found["order"]], dtype=np.int64),
            ceiling=json_text.number(found["ceiling"]),
            window_s=json_text.whole(found["window_s"]),
            grid_kept=np.array([kept for kept, _ in grid], dtype=bool).reshape(len(grid), n),
            grid_nll=np.array([nll for _, nll in grid], dtype=np.float64),
            observation=tuple(
                (json_text.words(name), json_text.whole(size))
                for name, size in found["observation"]
            ),
            card_bytes=json_text.whole(found["card_bytes"]),
            token_unit=json_text.whole(found["token_unit"]),
        )
    except (KeyError, TypeError, ValueError, AttributeError, OverflowError) as error:
        raise InvalidResult(f"it describes no context ({type(error).__name__}: {error})") from error
