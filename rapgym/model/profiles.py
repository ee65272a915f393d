"""What devices add to bytes and how long they take, as JSON files with their provenance.

Profiles that were measured and committed lie in `rapgym/profiles`; others are named by their file.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.errors import InvalidSpec
from rapgym.files import incoming, json_text, limits, places, writing


@dataclass(frozen=True, slots=True)
class Work:
    """Seconds of one kind of work, by the blocks in memory: linear in how many of each kind."""

    base_s: float  # whatever is kept
    attention_s: float  # for each kept attention block
    ffn_s: float  # for each kept FFN block

    def __post_init__(self) -> None:
        if min(self.base_s, self.attention_s, self.ffn_s) < 0:
            raise InvalidSpec("no work takes less than no time")

    def seconds(self, kept: BoolArray) -> FloatArray:
        """Of one unit of it under kept sets, bool [..., N] -> float64 [...]."""
        attention = np.count_nonzero(kept[..., 0::2], axis=-1)
        ffn = np.count_nonzero(kept[..., 1::2], axis=-1)
        found: FloatArray = self.base_s + self.attention_s * attention + self.ffn_s * ffn
        return found


@dataclass(frozen=True, slots=True)
class Latency:
    """How long a device takes, fitted to measured rows. It decides nothing: validation reads it."""

    prefill_token: Work
    decode_step: Work  # whatever the number of sequences
    decode_token: Work  # more for each sequence of a step
    drop_block_s: float

    def __post_init__(self) -> None:
        if self.drop_block_s < 0:
            raise InvalidSpec("no work takes less than no time")


@dataclass(frozen=True, slots=True)
class DeviceProfile:
    """What an allocator, a runtime and activations add; measured on a device, or ideal.

    The ideal profile adds nothing and keeps no margin: bytes then follow from shapes alone.
    """

    name: str = "ideal"
    context_bytes: int = 0  # taken by the runtime whatever is served
    activation_bytes_per_token: float = 0.0  # peak of prefill, per prompt token of the batch
    margin_bytes: int = 0  # kept free so that what is predicted also fits in reality
    # At which blocks come back; what the scenario's link gives unless measured.
    restore_bytes_per_s: float | None = None
    # For which serving pauses while blocks leave; what the scenario states unless measured.
    reaction_s: float | None = None
    latency: Latency | None = None

    def __post_init__(self) -> None:
        if min(self.context_bytes, self.activation_bytes_per_token, self.margin_bytes) < 0:
            raise InvalidSpec(f"device profile {self.name}: no entry may be negative")
        if self.restore_bytes_per_s is not None and self.restore_bytes_per_s <= 0:
            raise InvalidSpec(f"device profile {self.name}: blocks come back at a rate above 0")
        if self.reaction_s is not None and not 0 <= self.reaction_s < float("inf"):
            raise InvalidSpec(
                f"device profile {self.name}: reaction_s is 0 or more seconds, not {self.reaction_s}"
            )


IDEAL = DeviceProfile()

SCHEMA = 1
_NAME = re.compile(r"[A-Za-z0-9][A-Za-z0-9._-]{0,63}")
WORK = ("prefill_token", "decode_step", "decode_token")


@dataclass(frozen=True, slots=True)
class Stored:
    """A profile and where its numbers come from."""

    profile: DeviceProfile
    provenance: dict[str, Any]  # device, versions, date, command, rows, residuals of the fit


def names() -> list[str]:
    """Committed profiles."""
    return sorted(path.stem for path in places.PROFILES.glob("*.json"))


def path_of(name: str) -> Path:
    """The file of a profile: a committed one's name, or a path that ends in .json.

    Raises:
        InvalidSpec: it is neither.
    """
    if name.endswith(".json"):
        return Path(name)
    if not _NAME.fullmatch(name):
        raise InvalidSpec(
            f"{name[:80]!r} is no name of a device profile, nor a file that ends in .json"
        )
    return places.PROFILES / f"{name}.json"


def read(name: str) -> DeviceProfile:
    """A profile by name or file.

    Raises:
        InvalidSpec: there is none, or the file is damaged.
    """
    return stored(path_of(name)).profile


def stored(path: Path) -> Stored:
    """A profile with its provenance; raises as `read` does."""
    try:
        held = json_text.parsed(incoming.bounded(path, limits.PROFILE))
        if held.pop("schema") != SCHEMA:
            raise ValueError("it is of another schema")
        provenance, latency = held.pop("provenance"), held.pop("latency", None)
        if latency is not None:
            latency = Latency(**latency | {name: Work(**latency[name]) for name in WORK})
        return Stored(DeviceProfile(**held, latency=latency), dict(provenance))
    except FileNotFoundError:
        known = ", ".join(names()) or "none yet"
        raise InvalidSpec(
            f"no device profile {path}; committed ones are {known}; fit one with: rapgym validate "
            "--fit-profile NAME"
        ) from None
    except (
        OSError,
        ValueError,
        KeyError,
        TypeError,
        AttributeError,
        OverflowError,
    ) as error:
        raise InvalidSpec(f"{path} is no device profile that can be read: {error}") from error


def write(found: Stored, path: Path) -> None:
    """Write a profile, complete or not at all."""
    held = {"schema": SCHEMA, **asdict(found.profile), "provenance": found.provenance}
    with writing.written_aside(path) as file:
        file.write((json.dumps(held, indent=1) + "\n").encode())
