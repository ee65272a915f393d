"""Scenarios: physical stories from which every number of a world follows; and the list of them."""

from dataclasses import asdict, dataclass, fields, replace
from fractions import Fraction
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import numpy as np

from rapgym import heldout, recorded, series
from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import InvalidSpec, InvalidTable
from rapgym.files import checked, places
from rapgym.model import memory as model_memory
from rapgym.model import profiles
from rapgym.model.profiles import IDEAL, DeviceProfile
from rapgym.model.shapes import BF16, Format, ModelSpec, model_spec
from rapgym.quality.table import QualityColumns, QualityTable
from rapgym.series import Series
from rapgym.world.records import Rows, World

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
        return int(self.pool_gib * GIB) // _model_kv_token_bytes(model_spec(self.model), BF16)


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
    workload: str  # name of the series under traces/
    notice_s: int = 0  # by how much the tenant announces what it takes
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
    # Of every length and of what the card holds above the dense weights: a small machine then
    # serves a row in seconds.
    length_share: float = 1.0
    device_profile: str | None = None  # name or file of what a device adds; nothing unless stated
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
        if not 0 < self.length_share <= 1:
            raise InvalidSpec(f"{self.name}: length_share is above 0, at most 1")

    @property
    def id(self) -> str:
        return f"{self.name}-v{self.version}"

    @property
    def pool_tokens(self) -> int:
        """Of the tenant's KV pool; 0 where it has none."""
        return self.tenant.pool_tokens if isinstance(self.tenant, Tenant) else 0

    @property
    def is_own(self) -> bool:
        """Whether it is made of traces of the user's, as `BASE[memory=FILE]`: see `scenario`."""
        return "[" in self.name


# Numbers were chosen on train parts and frozen before the first run on test. W = 7 for the Azure
# conversation trace is its mean residence over the whole hour (6.9 s; its train part has 6.5).
_BESIDE_CODE = Scenario(
    "chat-beside-code",
    "Two 7B services share a 48 GB card: the limit moves with the code service's bursts.",
    card_gib=44,
    served="llama2-7b",
    trace="azure-conv",
    every=2,
    tenant=Tenant("llama2-7b", "azure-code", every=2, pool_gib=8),
    restore_s=0.5,
    window_s=7,
    workload="azure-conv2-code2-pool8",
)
_GQA = replace(
    _BESIDE_CODE,
    name="chat-gqa",
    story="The same hour on grouped-query models: KV is small, so weights and FFN blocks decide.",
    card_gib=40,
    served="llama3-8b",
    every=1,
    tenant=Tenant("llama3-8b", "azure-code", every=1, pool_gib=8),
    workload="azure-conv1-code1-pool8-gqa",
)

SCENARIOS = (
    _BESIDE_CODE,
    _GQA,
    replace(
        _BESIDE_CODE,
        name="chat-beside-code-disk",
        story="The first card with blocks coming back from a disk: thrashing costs.",
        restore_s=4.0,
    ),
    replace(
        _BESIDE_CODE,
        name="chat-beside-code-notice",
        story="The first card with a tenant that says one second ahead what it will take.",
        notice_s=1,
    ),
    replace(
        _BESIDE_CODE,
        name="chat-tight",
        story="The two services of the first scenario on a smaller card.",
        card_gib=40,
    ),
    replace(
        _BESIDE_CODE,
        name="chat-bursty",
        story="The code service takes all of its requests into a pool twice as large: deep, fast "
        "bursts.",
        card_gib=48,
        tenant=Tenant("llama2-7b", "azure-code", every=1, pool_gib=16),
        workload="azure-conv2-code1-pool16",
    ),
    replace(
        _GQA,
        name="chat-mixed",
        story="A grouped-query model serves beside a tenant whose KV cache is four times as heavy a "
        "token.",
        tenant=Tenant("llama2-7b", "azure-code", every=2, pool_gib=8),
        workload="azure-conv1-code2-pool8",
    ),
    replace(
        _BESIDE_CODE,
        name="code-beside-chat",
        story="The roles turned: the code service is served, the conversation has priority.",
        trace="azure-code",
        tenant=Tenant("llama2-7b", "azure-conv", every=2, pool_gib=20),
        window_s=2,
        workload="azure-code2-conv2-pool20",
    ),
    replace(
        _BESIDE_CODE,
        name="chat-alone",
        story="No tenant: the KV cache of the batch alone decides what fits.",
        card_gib=32,
        tenant=None,
        workload="azure-conv2-alone",
        offsets=1,
    ),
    # What 4 bits save of the served model's weights, 8.86 GiB, is taken off the card; its blocks cross
    # the same link in 27 % of the time.
    replace(
        _BESIDE_CODE,
        name="chat-int4",
        story="The first hour with weights of 4 bits, on a card smaller by the 9 GiB that they save: what "
        "is left for the KV cache is as before. Costs are above the full model in 4 bits.",
        card_gib=35,
        restore_s=0.13,
        table="smollm2-135m-int4",
        form=Format("int4"),
    ),
    Scenario(
        "long-context",
        "Long conversations beside a recorded KV pool. Its quality table was measured at 512 tokens, "
        "far below its prompts: outside the headline.",
        card_gib=72,
        served="llama3-8b",
        trace="mooncake-conversation",
        every=3,
        tenant=Tenant("llama3-8b", "vllm-kvcache", every=1, pool_gib=32),
        restore_s=0.5,
        window_s=18,
        workload="mooncake3-vllm-pool32",
        headline=False,
    ),
    Scenario(
        "servegen-days",
        "Days of synthetic arrivals, drawn from measured statistics of a production service's "
        "clients, beside another such service.",
        card_gib=40,
        served="llama3-8b",
        trace="servegen:language/m-large",
        every=25,
        tenant=Tenant("llama3-8b", "servegen:language/m-mid", every=200, pool_gib=8),
        restore_s=0.5,
        window_s=6,
        workload="servegen-large25-mid200-pool8",
        synthetic=True,
        offsets=1,
    ),
    Scenario(
        "laptop",
        "A 7B model answers beside a programmer's work on a machine with 24 GB of shared memory, as we "
        "recorded it for 45 minutes; blocks come back from its disk. Short and calm: outside the "
        "headline.",
        card_gib=23.5,
        served="llama2-7b",
        trace="azure-conv",
        every=4,
        tenant=Recorded("recordings/python-project.csv.gz"),
        restore_s=4.0,
        window_s=7,
        workload="azure-conv4-python-project",
        headline=False,
    ),
)


def scenario(name: str) -> Scenario:
    """The scenario of this name, with or without its version.

    `BASE[memory=FILE,requests=FILE,card=GIB,every=K]` is a scenario of the list with a recording of
    memory in its tenant's place and, where stated, other requests, card and share of the requests.

    Raises:
        InvalidSpec: there is none; the message lists those there are.
        DataUnavailable: a file that its name speaks of is not there.
    """
    if "[" in name:
        return _on_own_traces(*recorded.options_of(name))
    for found in SCENARIOS:
        if name in (found.name, found.id):
            return found
    known = ", ".join(each.name for each in SCENARIOS)
    raise InvalidSpec(f"no scenario is called {name!r}; there are {known}")


def _on_own_traces(base_name: str, options: dict[str, str]) -> Scenario:
    base, model_memory = scenario(base_name), options["memory"]
    served = options.get("requests", base.trace)
    try:
        # The stated share of a trace is of that trace: of other requests all are served.
        every = int(options.get("every", base.every if served == base.trace else 1))
        card_gib = float(options.get("card", base.card_gib))
    except ValueError as error:
        raise InvalidSpec(f"card is a number of GiB, every a whole number: {error}") from error
    return replace(
        base,
        name=recorded.name_of(base.name, options),
        story=f"{base.name} with memory in use as {model_memory} recorded it.",
        card_gib=card_gib,
        trace=served,
        every=every,
        tenant=Recorded(model_memory, recorded.sha256(model_memory)),
        workload=recorded.own_name(model_memory, served, every, base.window_s),
        headline=False,
        synthetic=False,
    )


# Fields that came after results were stored: at their defaults they are not recorded.
LATER_FIELDS = ("length_share", "device_profile")


def described(story: Scenario) -> dict[str, Any]:
    """A scenario as results record it."""
    initial = {field.name: field.default for field in fields(Scenario)}
    return {
        name: value
        for name, value in asdict(story).items()
        if name not in LATER_FIELDS or value != initial[name]
    }


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
        model_memory.weight_bytes(measured, story.form),
        model_memory.weight_bytes(served, story.form),
    )
    kv = Fraction(
        _model_kv_token_bytes(served, story.form), _model_kv_token_bytes(measured, story.form)
    )
    return Scales(tokens=byte_scale * kv, bytes=byte_scale)


def _model_kv_token_bytes(model: ModelSpec, form: Format) -> int:
    return model.layers * model_memory.kv_token_bytes(model, form.kv)


def limit_bytes(story: Scenario, tenant_tokens: IntArray) -> IntArray:
    """The card less what the tenant uses, in bytes of the served model's world; same shape."""
    card = int(story.card_gib * GIB)
    if story.tenant is None:
        return np.full(tenant_tokens.shape, card)
    if isinstance(story.tenant, Recorded):
        return card - recorded.UNIT_BYTES * tenant_tokens
    model = model_spec(story.tenant.model)
    kv = _model_kv_token_bytes(model, BF16)
    return card - model_memory.weight_bytes(model) - kv * tenant_tokens


def limit_scaled(story: Scenario, measured: ModelSpec, limit: FloatArray) -> FloatArray:
    """A limit in bytes of the measured model, once lengths are multiplied by `length_share`.

    What lies above (or below) the dense weights shrinks as the KV cache does: dense fits where it did.
    """
    if story.length_share == 1:
        return limit
    dense = model_memory.weight_bytes(measured, story.form)
    return dense + story.length_share * (limit - dense)


def workload_file(story: Scenario) -> Path:
    """The file of a scenario's series: committed, or made of the user's traces and kept in the cache.

    Raises:
        DataUnavailable: a trace that it is made of is not there.
        InvalidTrace: one is not valid.
    """
    if not (story.is_own and isinstance(story.tenant, Recorded)):
        return places.TRACES / f"{story.workload}.csv.gz"
    path = checked.cache_folder() / "workloads" / f"{story.workload}.csv.gz"
    if not path.is_file():
        made = recorded.own(story.tenant.recording, story.trace, story.every, story.window_s)
        series.write(made, path)
    return path


def workload(story: Scenario) -> Series:
    """The series of a scenario; none of it depends on card, restore time or notice.

    Raises:
        HeldOut: training asks.
        InvalidSpec: the series was cut into other windows than the scenario states.
    """
    heldout.check(heldout.WHOLE)
    return _workload(story)


@lru_cache(maxsize=16)
def _workload(story: Scenario) -> Series:
    found = series.read(workload_file(story))
    made_for = (found.window_s, found.origin.get("pool_tokens", story.pool_tokens))
    if made_for != (story.window_s, story.pool_tokens):
        raise InvalidSpec(
            f"the series of {story.name} was made for other windows or another pool; run: rapgym "
            f"scenarios build {story.name}"
        )
    return found


def rows(story: Scenario, measured: ModelSpec, split: Split) -> Rows:
    """The rows of one split and no others, in tokens and bytes of the measured model."""
    heldout.check(split)
    whole = _workload(story)
    part = whole.part(series.split_rows(len(whole), split, story.splits))
    scale = scales(story, measured)

    def tokens(served: IntArray) -> IntArray:
        return np.rint(served * float(scale.tokens) * story.length_share).astype(np.int64)

    reserved = part.batch * part.reserve_tokens
    longest = part.longest_prompt_tokens + np.where(part.batch > 0, part.reserve_tokens, 0)
    limit = limit_bytes(story, part.tenant_tokens) * float(scale.bytes)
    limit = np.floor(limit_scaled(story, measured, limit))
    return Rows(
        batch=part.batch,
        prompt_tokens=tokens(part.prompt_tokens),
        reserved_tokens=tokens(reserved),
        longest_tokens=tokens(longest),
        output_tokens=part.output_tokens,
        limit_bytes=limit.astype(np.int64),
    )


@lru_cache(maxsize=8)
def _table(name: str) -> QualityTable:
    return QualityTable.load(name)


def table(story: Scenario) -> QualityTable:
    """The quality table of a scenario: differences from the model that is dense in its own format.

    Raises:
        DataUnavailable: it is not here.
        InvalidTable: it is of another format.
    """
    return _in_format(story.table, story.form)


def base_table(story: Scenario) -> QualityTable:
    """The table in bf16 of a scenario's model, which knows what each format costs it; raises likewise."""
    return _in_format(base_name(story), BF16)


def format_table(story: Scenario, form: Format) -> QualityTable:
    """The table of a scenario's model in another format; raises likewise."""
    return _in_format(table_name(base_name(story), form), form)


def base_name(story: Scenario) -> str:
    """The name of `base_table`."""
    ending = table_name("", story.form)
    return story.table.removesuffix(ending) if ending else story.table


def table_name(base: str, form: Format) -> str:
    """What a table in a format is called, beside the one in bf16: smollm2-135m-int8-int8kv."""
    weights = "" if form.weights == "bf16" else f"-{form.weights}"
    return base + weights + ("" if form.kv == "bf16" else f"-{form.kv}kv")


def _in_format(name: str, form: Format) -> QualityTable:
    found = _table(name)
    if (found.header.weights, found.header.kv) != (form.weights, form.kv):
        raise InvalidTable(
            f"the table {name} is of {found.header.weights} weights and {found.header.kv} KV, where "
            f"{form.weights} and {form.kv} are asked for: measure it with that format"
        )
    return found


def world(story: Scenario, split: Split) -> World:
    """The world that policies meet: rows of one split, calibration columns only.

    Raises:
        HeldOut: training asks for a split that it is not told of.
    """
    heldout.check(split)
    return _told_world(story, split)


@lru_cache(maxsize=64)
def _told_world(story: Scenario, split: Split) -> World:
    return _world(story, split, _told(story))


def _told(story: Scenario) -> QualityColumns:
    domain = story.told_domain or story.domain
    return table(story).calibration(domain, story.draw)


def scoring_world(story: Scenario, split: Split = "test") -> World:
    """The same rows with test columns: for the scorer and the bound alone.

    Raises:
        HeldOut: training asks.
    """
    heldout.check(heldout.COLUMNS)
    return _judged_world(story, split)


@lru_cache(maxsize=64)
def _judged_world(story: Scenario, split: Split) -> World:
    told = _told(story)
    judged = table(story).test(story.domain)
    if (judged.order != told.order).any():
        # The shield cuts along the order that it was told of, whatever text scores.
        judged = replace(judged, order=told.order)
    return _world(story, split, judged)


def _world(story: Scenario, split: Split, quality: QualityColumns) -> World:
    measured = model_spec(table(story).model)
    profile = profile_of(story)
    footprint = model_memory.footprint(measured, story.form, profile)
    restore_bytes_per_s = profile.restore_bytes_per_s
    if restore_bytes_per_s is None:
        restore_bytes_per_s = float(footprint.weights.sum()) / story.restore_s
    whole = _workload(story)
    train = whole.output_tokens[series.split_rows(len(whole), "train", story.splits)]
    return World(
        footprint=footprint,
        quality=quality,
        rows=rows(story, measured, split),
        ceiling=table(story).ceiling(story.domain) if story.ceiling is None else story.ceiling,
        restore_bytes_per_s=restore_bytes_per_s,
        mean_output_tokens=float(train.mean()),
        notice_s=story.notice_s,
    )


def forget() -> None:
    """Read tables, workloads and worlds anew: what they were made of has changed."""
    for remembered in (_table, _workload, _told_world, _judged_world):
        remembered.cache_clear()
