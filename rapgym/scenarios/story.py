"""Scenarios: physical stories from which every number of a world follows; and the list of them."""

from collections.abc import Mapping
from dataclasses import asdict, dataclass, fields
from pathlib import Path
from typing import Any, Literal

from rapgym.errors import InvalidSpec
from rapgym.model import memory
from rapgym.model.shapes import BF16, Format, model_spec
from rapgym.workload import series, servegen

GIB = 1 << 30
Split = Literal["train", "fit", "validation", "learn", "check", "test"]


@dataclass(frozen=True, slots=True)
class Tenant:
    """Another service on the same card; it has priority."""

    model: str
    trace: str
    every: int  # it serves every k-th request of its trace
    pool_gib: float  # of KV cache, behind a first-come-first-served queue

    @property
    def pool_tokens(self) -> int:
        return int(self.pool_gib * GIB) // memory.model_kv_token_bytes(model_spec(self.model))


@dataclass(frozen=True, slots=True)
class Recorded:
    """Other programs on the card, whose memory was recorded; they have priority."""

    recording: str  # a file under traces/, or any other's path
    sha256: str = ""  # of a file that is not part of rapgym


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
    workload: str  # name of the series under traces/, or in the cache where it is drawn
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
    headline: bool = True  # False: its numbers do not carry a claim, as its story says
    # The model of the quality table serves in the place of `served`, on a card as much smaller: on a
    # device, where it really runs.
    stand_in: bool = False
    # Of every length and of what the card holds above the dense weights: a small machine then
    # serves a row in seconds. For a stand-in alone.
    length_share: float = 1.0
    device_profile: str | None = None  # name or file of what a device adds; nothing unless stated
    series_sha256: str = ""  # of a series that is drawn, as all machines should draw it; "" unknown
    version: int = 0

    def __post_init__(self) -> None:
        if self.card_gib <= 0 or self.restore_s <= 0 or self.every < 1 or self.offsets < 1:
            raise InvalidSpec(f"{self.name}: card, restore time, every and offsets are positive")
        if self.ceiling is not None and self.ceiling <= 0:
            raise InvalidSpec(f"{self.name}: a token that is not served costs more than nothing")
        if self.tenant is None and self.offsets != 1:
            raise InvalidSpec(f"{self.name}: without a tenant all pairings are the same: offsets=1")
        if self.notice_s < 0:
            raise InvalidSpec(f"{self.name}: notice_s cannot be negative")
        if not 0 <= self.reaction_s < float("inf"):
            raise InvalidSpec(
                f"{self.name}: reaction_s is 0 or more seconds, not {self.reaction_s}"
            )
        if not 0 < self.length_share <= 1:
            raise InvalidSpec(f"{self.name}: length_share is above 0, at most 1")
        if self.length_share != 1 and not self.stand_in:
            raise InvalidSpec(
                f"{self.name}: length_share shortens what a live model serves: it needs stand_in"
            )

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
        return self.trace.startswith(servegen.PREFIX) and not Path(self.workload).is_absolute()

    @property
    def is_own(self) -> bool:
        """Whether it is made of traces of the user's, as `BASE[memory=FILE]`: see `scenario`."""
        return "[" in self.name


# Fields that came after results were stored: at their defaults they are not recorded.
LATER_FIELDS = ("stand_in", "length_share", "device_profile", "series_sha256")


def described(story: Scenario) -> dict[str, Any]:
    """A scenario as results record it."""
    initial = {field.name: field.default for field in fields(Scenario)}
    return {
        name: value
        for name, value in asdict(story).items()
        if name not in LATER_FIELDS or value != initial[name]
    }


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
