"""What devices add to bytes and how long they take, as JSON files with their provenance.

Profiles that were measured and committed lie in `rapgym/profiles`; others are named by their file.
"""

import json
import re
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from rapgym import datafiles
from rapgym.errors import InvalidSpec
from rapgym.files import places
from rapgym.specs import DeviceProfile, Latency, Work

SCHEMA = 1
MAX_BYTES = 1 << 20
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
        held = json.loads(datafiles.bounded(path, MAX_BYTES))
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
        RecursionError,
    ) as error:
        raise InvalidSpec(f"{path} is no device profile that can be read: {error}") from error


def write(found: Stored, path: Path) -> None:
    """Write a profile, complete or not at all."""
    held = {"schema": SCHEMA, **asdict(found.profile), "provenance": found.provenance}
    with datafiles.written_aside(path) as file:
        file.write((json.dumps(held, indent=1) + "\n").encode())
