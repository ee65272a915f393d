"""Scenarios of the serving engine: a window scenario's card, model and traffic, and how it is served."""

import difflib
import math
from collections.abc import Mapping
from dataclasses import MISSING, asdict, dataclass, field, fields, replace
from functools import cache
from pathlib import Path
from typing import Any

from rapgym.errors import InvalidSpec
from rapgym.files import places
from rapgym.scenarios import catalogue, file
from rapgym.scenarios.file import FLAG, NUMBER, TEXT, WHOLE, Key
from rapgym.scenarios.story import FILE_SUFFIX, Recorded, Scenario, restored
from rapgym.serving import profile as serving_profile
from rapgym.serving.cost import Deadlines
from rapgym.serving.profile import ServingProfile
from rapgym.workload.names import RECORDED_POOL

PROFILE_SUFFIX = ".json"
FOLDER = places.STORIES / "serving"
BEFORE = "serve-"  # how the names of those begin that came with rapgym


@dataclass(frozen=True, slots=True)
class Assumed:
    """A step's constants from data sheets, where nobody has measured any: see `ServingProfile`.

    Carried from card to card by data sheet, TTFT was missed by 15 to 45 %.
    """

    base_s: float
    weight_bytes_per_s: float
    tokens_per_s: float
    kv_bytes_per_s: float
    pair_s: float
    sequence_s: float = 0.0
    step_tokens: int = 2048
    max_sequences: int = 256
    page_tokens: int = 16

    def __post_init__(self) -> None:
        self.profile()

    def profile(self) -> ServingProfile:
        """The same as a profile that says what it is."""
        return ServingProfile("assumed", **asdict(self), provenance={"assumed": True})


@dataclass(frozen=True, slots=True)
class ServeScenario:
    """One replica that batches continuously on the card of a window scenario.

    Every rule of bytes is the base's: card, served model, format, tenant, table, link.
    """

    name: str
    story: str
    base: Scenario  # with card and share of the requests as they are here
    profile: str | Assumed  # name or file of a serving profile, or numbers from data sheets
    shed_s: float = 2.0  # after which a request without a first token is given up
    deadlines: Deadlines = field(default_factory=Deadlines)
    # Share of an FFN drop's damage that stays in what was prefilled under it, by blocks dropped (the
    # last holds on). None: as measured beside the table, or all of it, the upper side, where it was not.
    history_share: tuple[float, ...] | None = None
    traffic_sha256: str = ""  # of what is drawn, as all machines should draw it; "" unknown
    claims: bool = True  # False: its numbers carry no claim, as its story says
    version: int = 0

    def __post_init__(self) -> None:
        def require(fine: bool, words: str) -> None:
            if not fine:
                raise InvalidSpec(f"{self.name}: {words}")

        require(self.shed_s > 0, f"shed_s is above 0 s, not {self.shed_s}")
        shares = self.history_share
        require(
            shares is None
            or (len(shares) > 0 and all(math.isfinite(s) and 0 <= s <= 1 for s in shares)),
            f"history_share is one share or more, each from 0 to 1, not {list(shares or ())}",
        )
        require(self.version >= 0, f"version is at least 0, not {self.version}")
        require(not self.base.stand_in, "base: a stand-in serves on a device alone")
        tenant = self.base.tenant
        require(
            not isinstance(tenant, Recorded) and (tenant is None or tenant.trace != RECORDED_POOL),
            "base: beside a tenant whose memory was recorded there is no serving world yet; name a "
            "scenario whose tenant has requests, or none",
        )

    @property
    def id(self) -> str:
        return f"{self.name}-v{self.version}"


def engine_profile(story: ServeScenario) -> ServingProfile:
    """What a step of its engine takes. No trace here names shared prefixes: there is no prefix cache.

    Raises:
        InvalidSpec: no profile has this name, or its file cannot be read.
    """
    if isinstance(story.profile, Assumed):
        return story.profile.profile()
    return replace(serving_profile.read(profile_path(story.profile)), prefix_cache=False)


def profile_path(name: str) -> Path:
    """The file of a profile that came with rapgym, or the path itself where it is one.

    Raises:
        InvalidSpec: no profile has this name.
    """
    if name.endswith(PROFILE_SUFFIX):
        return Path(name)
    folder = places.PROFILES / "serving"
    known = sorted(path.name.removesuffix(PROFILE_SUFFIX) for path in folder.glob("*.json"))
    if name not in known:
        raise InvalidSpec(
            f"no serving profile is called {name!r}; there are {', '.join(known)}, or give the path "
            f"of a {PROFILE_SUFFIX} file (rapgym profile fit writes one)"
        )
    return folder / f"{name}{PROFILE_SUFFIX}"


# Keys of a file, in the order in which they are explained.
KEYS = {
    "story": Key(TEXT, "what happens here, in a sentence"),
    "claims": Key(FLAG, "false: its numbers carry no claim, as its story says"),
    "base": Key(TEXT, "the window scenario whose card, model, traffic and table these are: a name or a file",
                (FILE_SUFFIX,)),
    "card_gib": Key(NUMBER, "all memory there is, GiB; the base's unless stated"),
    "every": Key(WHOLE, "it serves every k-th request of the base's trace; the base's k unless stated"),
    "reaction_s": Key(NUMBER, "seconds for which serving pauses while blocks leave in a hurry; the base's unless stated"),
    "profile": Key(TEXT, "a serving profile: by name or file (rapgym profile fit); or a table [assumed]",
                   (PROFILE_SUFFIX,)),
    "shed_s": Key(NUMBER, "seconds after which a request without a first token is given up"),
    "history_share": Key("a table", "share of an FFN drop's damage that stays in what it prefilled: a list by blocks dropped"),
    "traffic_sha256": Key(TEXT, "of traffic that is drawn, as every machine should draw it"),
    "version": Key(WHOLE, "counts changes after results were published"),
    "assumed": Key("a table", "a step's constants from data sheets, in a profile's place"),
    "deadlines": Key("a table", "when an output token is due"),
}  # fmt: skip
ASSUMED = {
    each.name: Key(WHOLE if each.type in (int, "int") else NUMBER, "as a serving profile has it")
    for each in fields(Assumed)
}
DEADLINES = {each.name: Key(NUMBER, "seconds") for each in fields(Deadlines)}
OVERRIDES = ("card_gib", "every", "reaction_s")  # of the base


def read(path: Path, name: str | None = None) -> ServeScenario:
    """The scenario that a file states.

    Args:
        name: of one that came with rapgym; a file of the user's is known by its path, and its relative
            paths start from its folder.

    Raises:
        DataUnavailable: the file, or one that it names, is not there.
        InvalidSpec: it is no TOML, a key is unknown or missing, or a value cannot be; the message names
            file and key.
    """
    told, folder = file.parsed(path), path.parent if name is None else None
    values = file.checked_values(str(path), told, KEYS, folder, ("story", "base"))
    try:
        base = catalogue.scenario(values.pop("base"))
        changes = {key: values.pop(key) for key in OVERRIDES if key in values}
        # Rows of windows are not made of the changed traffic: nobody asks for them.
        if "every" in changes:
            changes["series_sha256"] = ""
        base = replace(base, **changes)
        if ("profile" in values) == ("assumed" in told):
            raise InvalidSpec(
                "profile: name a serving profile, or state a table [assumed]: one of both"
            )
        if "assumed" in told:
            needed = [each.name for each in fields(Assumed) if each.default is MISSING]
            where = f"{path}: [assumed]"
            stated = file.checked_values(where, told["assumed"], ASSUMED, folder, needed)
            values["profile"] = Assumed(**stated)
        else:
            profile_path(values["profile"])
        if "deadlines" in told:
            where = f"{path}: [deadlines]"
            stated = file.checked_values(where, told["deadlines"], DEADLINES, folder)
            values["deadlines"] = Deadlines(**stated)
        if "history_share" in told:
            values["history_share"] = _shares(told["history_share"])
        return ServeScenario(name=str(path) if name is None else name, base=base, **values)
    except InvalidSpec as error:
        words = str(error)
        raise InvalidSpec(words if words.startswith(str(path)) else f"{path}: {words}") from error


def _shares(told: Any) -> tuple[float, ...]:
    shares: list[Any] = told if isinstance(told, list) else [told]
    if any(isinstance(share, bool) or not isinstance(share, int | float) for share in shares):
        raise InvalidSpec("history_share is a number from 0 to 1, or a list of such")
    return tuple(float(share) for share in shares)


@cache
def shipped() -> tuple[ServeScenario, ...]:
    """The serving scenarios that came with rapgym, by name.

    Raises:
        InvalidSpec: a file of them is damaged.
    """
    paths = sorted(FOLDER.glob(f"*{FILE_SUFFIX}"))
    return tuple(read(path, f"{BEFORE}{path.stem}") for path in paths)


def story_of(named: str | ServeScenario | Mapping[str, Any]) -> ServeScenario:
    """A serving scenario by its name (with or without its version), its file, itself or its fields.

    Raises:
        InvalidSpec: there is none, and the message lists those there are; or a file cannot be read.
        DataUnavailable: a file that is named is not there.
    """
    if isinstance(named, ServeScenario):
        return named
    if isinstance(named, Mapping):
        return _restored(named)
    known = ", ".join(found.name for found in shipped())
    if not isinstance(named, str):
        raise InvalidSpec(
            f"a serving scenario is a name, a ServeScenario or its fields, not {named!r}; there are "
            f"{known}"
        )
    if path := file.path_in(named):
        return read(path)
    for found in shipped():
        if named in (found.name, found.id):
            return found
    near = difflib.get_close_matches(named, [found.name for found in shipped()], 1)
    hint = f" (did you mean {near[0]}?)" if near else ""
    raise InvalidSpec(
        f"no serving scenario is called {named!r}{hint}; there are {known}, or give the path of a "
        f"{FILE_SUFFIX} file"
    )


def is_named(named: str) -> bool:
    """Whether a name, or a file, is of a serving scenario rather than of one of windows.

    Raises:
        DataUnavailable: there is no such file.
        InvalidSpec: it is no TOML.
    """
    if path := file.path_in(named):
        return "base" in file.parsed(path)
    return named.startswith(BEFORE)


def _restored(described: Mapping[str, Any]) -> ServeScenario:
    """The scenario whose fields these are, as `dataclasses.asdict` and JSON give them."""
    try:
        values = dict(described)
        values["base"] = restored(values["base"])
        values["deadlines"] = Deadlines(**values["deadlines"])
        if values["history_share"] is not None:
            values["history_share"] = tuple(values["history_share"])
        if isinstance(values["profile"], Mapping):
            values["profile"] = Assumed(**values["profile"])
        return ServeScenario(**values)
    except (TypeError, KeyError) as error:
        raise InvalidSpec(f"these are not the fields of a serving scenario: {error}") from error
