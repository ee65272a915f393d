"""Scenarios: physical stories from which every number of a world follows."""

import hashlib
import json
import math
from collections.abc import Mapping
from dataclasses import asdict, dataclass
from typing import Any, Literal, get_args

from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import BF16, Format, model_spec
from rapgym.workload import names, series

GIB = 1 << 30
# What results are told apart by: "8-bit" is the headline; "own" are scenarios of the user's.
Group = Literal["8-bit", "16-bit", "days", "own"]
GROUPS: tuple[Group, ...] = get_args(Group)
HEADLINE: Group = "8-bit"
FILE_SUFFIX = ".toml"  # how the name of a scenario ends that is a file of the user's
# Parts of a scenario's rows, as `rapgym.workload.series.split_rows` cuts them.
Split = Literal[
    "train", "learn", "check", "test",
    "fit-1", "fit-2", "fit-3", "validation-1", "validation-2", "validation-3",
    "learn-1", "learn-2", "learn-3", "check-1", "check-2", "check-3",
]  # fmt: skip


def _require(name: str, value: object, fine: bool, wanted: str) -> None:
    if not fine:
        raise InvalidSpec(f"{name} {wanted}, not {value}")


def _positive(value: float) -> bool:
    return math.isfinite(value) and value > 0


@dataclass(frozen=True, slots=True)
class Tenant:
    """Another service on the same card; it has priority."""

    model: str
    trace: str
    every: int  # it serves every k-th request of its trace
    pool_gib: float  # of KV cache, behind a first-come-first-served queue

    def __post_init__(self) -> None:
        _require("tenant.every", self.every, self.every >= 1, "is at least 1")
        _require("tenant.pool_gib", self.pool_gib, _positive(self.pool_gib), "is above 0")

    @property
    def pool_tokens(self) -> int:
        return int(self.pool_gib * GIB) // memory.model_kv_token_bytes(model_spec(self.model))


@dataclass(frozen=True, slots=True)
class Recorded:
    """Other programs on the card, whose memory was recorded; they have priority."""

    recording: str  # a file under traces/, or any other's path
    sha256: str = ""  # of a file that is not part of rapgym


def _shape(model: str) -> dict[str, Any]:
    """What a model's name, which may be a path, stands for."""
    return asdict(model_spec(model)) | {"name": None}


@dataclass(frozen=True, slots=True)
class Scenario:
    """A card, the model served on it, its workload, and who else is there."""

    name: str
    story: str
    card_gib: float
    served: str  # shape of the model whose memory the story speaks of
    trace: str
    every: int  # one of k replicas serves every k-th request
    tenant: Tenant | Recorded | None
    restore_s: float  # what the host link takes to bring every block back
    window_s: int  # W; see residence.window_s
    workload: str  # name of the series: one of traces/, drawn, or made of the user's traces
    notice_s: int = 0  # by how much the tenant announces what it takes
    # How long serving pauses while blocks leave after memory was taken: one engine step and the release,
    # unless the device profile has measured it. At most one second of it counts.
    reaction_s: float = 0.1
    domain: str | None = None  # text on which quality counts; the mean of all unless stated
    told_domain: str | None = None  # of the calibration text that policies are told of, if another
    draw: int | None = None  # of calibration text, whose orders policies are told of, if another
    table: str = "smollm2-135m"
    form: Format = BF16
    synthetic: bool = False
    # Further pairings of the test parts: offset k of K is k/K of their length. Without a tenant there
    # is nothing to pair with.
    offsets: int = 16
    splits: series.Scheme = "time"
    ceiling: float | None = None  # C, nats; what follows from the table unless stated
    group: Group = "own"
    claims: bool = True  # False: its numbers carry no claim, as its story says
    # The model of the quality table serves in the place of `served`, on a card as much smaller: on a
    # device, where it really runs.
    stand_in: bool = False
    # Of every length and of what the card holds above the dense weights: a small machine then
    # serves a row in seconds. For a stand-in alone.
    length_share: float = 1.0
    device_profile: str | None = None  # name or file of what a device adds; nothing unless stated
    series_sha256: str = ""  # of a series that is drawn, as all machines should draw it; "" unknown
    # How the user's traces are read where they do not say it: unit=ms;timezone=Europe/Berlin;gpu=0.
    reading: str = ""
    version: int = 0

    def __post_init__(self) -> None:
        def require(name: str, fine: bool, wanted: str) -> None:
            _require(f"{self.name}: {name}", getattr(self, name), fine, wanted)

        require("card_gib", _positive(self.card_gib), "is above 0 GiB")
        require("restore_s", _positive(self.restore_s), "is above 0 s")
        require("every", self.every >= 1, "is at least 1")
        require("window_s", 1 <= self.window_s <= series.MOST_WINDOW_S, "is 1 to 999 whole seconds")
        require("offsets", self.offsets >= 1, "is at least 1")
        if self.tenant is None:
            require(
                "offsets", self.offsets == 1, "is 1 without a tenant: all pairings are the same"
            )
        require("notice_s", self.notice_s >= 0, "cannot be negative")
        require("reaction_s", 0 <= self.reaction_s < math.inf, "is 0 or more seconds")
        require("ceiling", self.ceiling is None or _positive(self.ceiling), "is above 0 nats")
        require("length_share", 0 < self.length_share <= 1, "is above 0, at most 1")
        require(
            "length_share",
            self.length_share == 1 or self.stand_in,
            "shortens what a live model serves: it needs stand_in",
        )
        require("version", self.version >= 0, "is at least 0")
        require("group", self.group in GROUPS, f"is one of {', '.join(GROUPS)}")

    @property
    def id(self) -> str:
        return f"{self.name}-v{self.version}"

    @property
    def pool_tokens(self) -> int:
        """Of the tenant's KV pool; 0 where it has none."""
        return self.tenant.pool_tokens if isinstance(self.tenant, Tenant) else 0

    @property
    def is_drawn(self) -> bool:
        """Whether its series is drawn where it is first needed, not shipped."""
        return self.trace.startswith(names.DRAWN)

    @property
    def headline(self) -> bool:
        """Whether it counts in what is said over all scenarios."""
        return self.group == HEADLINE

    @property
    def is_own(self) -> bool:
        """Whether it is the user's: a file, or one of the list changed as `BASE[memory=FILE]` says."""
        return "[" in self.name or self.name.endswith(FILE_SUFFIX)

    @property
    def key(self) -> str:
        """What settings and trained policies are kept under.

        Of the user's own scenarios, whose names are paths: what is in them, wherever they lie.
        """
        if not self.is_own:
            return self.id
        return f"own-{_digest(self, WORDS)[:16]}"

    @property
    def world_sha256(self) -> str:
        """Of all that decides what a row costs besides table and workload.

        A device plays the same world, at its own size: what was tuned holds there.
        """
        return _digest(self, (*WORDS, *ON_DEVICE))


WORDS = ("name", "story", "trace", "group", "claims")  # fields that only speak of a scenario
ON_DEVICE = ("stand_in", "length_share", "device_profile")  # how a device plays it


def _digest(story: Scenario, without: tuple[str, ...]) -> str:
    """Sha256 of a scenario's fields but those named, files and models by what is in them."""
    told = {name: value for name, value in described(story).items() if name not in without}
    told["served"] = _shape(story.served)
    if isinstance(story.tenant, Recorded):
        del told["tenant"]["recording"]  # its sha256 stays
    elif story.tenant is not None:
        told["tenant"] |= {"model": _shape(story.tenant.model), "trace": None}
    return hashlib.sha256(json.dumps(told, sort_keys=True).encode()).hexdigest()


def described(story: Scenario) -> dict[str, Any]:
    """A scenario as results record it."""
    return asdict(story)


def restored(described: Mapping[str, Any]) -> Scenario:
    """The scenario whose fields these are, as `described`, `dataclasses.asdict` and JSON give them.

    Raises:
        InvalidSpec: they are not the fields of a scenario, or contradict each other.
    """
    try:
        values = dict(described)
        tenant, form = values.get("tenant"), values.get("form")
        if isinstance(tenant, Mapping):
            values["tenant"] = (Recorded if "recording" in tenant else Tenant)(**tenant)
        if isinstance(form, Mapping):
            values["form"] = Format(**form)
        return Scenario(**values)
    except TypeError as error:
        raise InvalidSpec(f"these are not the fields of a scenario: {error}") from error
