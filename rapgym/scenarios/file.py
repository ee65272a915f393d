"""A scenario as a TOML file: what may stand in it, read with errors that name the key, and written."""

import difflib
import json
import math
import os
import tomllib
from collections.abc import Callable, Iterable, Mapping
from dataclasses import MISSING, dataclass, fields
from pathlib import Path
from typing import Any, get_args

from rapgym.errors import DataUnavailable, InvalidSpec
from rapgym.files import incoming, limits
from rapgym.model.shapes import BF16, CONFIG_SUFFIX, MODELS, Format, KVFormat, WeightFormat
from rapgym.scenarios.story import (
    FILE_SUFFIX,
    GROUPS,
    Recorded,
    Scenario,
    Tenant,
)
from rapgym.workload import names, series
from rapgym.workload.inputs.how import How
from rapgym.workload.names import ENDINGS, is_path

TEXT, NUMBER, WHOLE, FLAG = "text", "a number", "a whole number", "true or false"
TABLES = (".csv.gz",)


@dataclass(frozen=True, slots=True)
class Key:
    """One key of a file."""

    wanted: str | tuple[str, ...]  # a type of value, or the words that it may be
    says: str  # what it means, for the comment of a file that is written
    paths: tuple[str, ...] = ()  # how its value ends where it is a path, from the file's folder


# In the order in which they are written. Defaults are those of `Scenario`.
KEYS = {
    "story": Key(TEXT, "what happens here, in a sentence"),
    "group": Key(GROUPS, "what results are told apart by; leave it out in a file of your own"),
    "claims": Key(FLAG, "false: its numbers carry no claim, as its story says"),
    "card_gib": Key(NUMBER, "all memory there is, GiB"),
    "served": Key(
        TEXT, "the model that is served: " + ", ".join(model.name for model in MODELS) + ", or a config.json",
        (CONFIG_SUFFIX,),
    ),
    "trace": Key(
        TEXT, "its requests: a trace by name (rapgym traces) or a .csv file: arrival_s, prompt_tokens, "
        "output_tokens; or a log of requests", ENDINGS,
    ),
    "every": Key(WHOLE, "it serves every k-th request of the trace"),
    "window_s": Key(WHOLE, "seconds of a row: how long a request stays, weighted by its tokens; of a file of requests it "
        "follows from them where left out"),
    "restore_s": Key(NUMBER, "seconds that the host link takes to bring every block back"),
    "notice_s": Key(WHOLE, "seconds by which the tenant announces what it takes"),
    "reaction_s": Key(NUMBER, "seconds for which serving pauses while blocks leave after memory was taken"),
    "table": Key(TEXT, "the quality table: by name (rapgym tables list) or a file", TABLES),
    "domain": Key(TEXT, "the text on which quality counts (books, specs, wiki); the mean of all unless stated"),
    "told_domain": Key(TEXT, "the calibration text that policies are told of, if another"),
    "draw": Key(WHOLE, "the draw of calibration text whose orders policies are told of, if another"),
    "workload": Key(TEXT, "the series of this very traffic under traces/; found where left out"),
    "series_sha256": Key(TEXT, "of a series that is drawn, as every machine should draw it"),
    "offsets": Key(WHOLE, "pairings of the test part with the tenant; 1 without a tenant"),
    "splits": Key(get_args(series.Scheme), "how rows are split"),
    "ceiling": Key(NUMBER, "C, nats: what a token costs that is not served; from the table unless stated"),
    "synthetic": Key(FLAG, "whether requests were drawn, not recorded"),
    "stand_in": Key(FLAG, "true: the quality table's model serves in the place of `served`, on a device"),
    "length_share": Key(NUMBER, "share of every length that is served, for a stand-in"),
    "device_profile": Key(TEXT, "what a device adds: by name or file; nothing unless stated", (CONFIG_SUFFIX,)),
    "reading": Key(TEXT, "how traces are read that do not say it: unit=ms;timezone=Europe/Berlin;gpu=0;pair=start"),
    "version": Key(WHOLE, "counts changes after results were published"),
    "form": Key("a table", "how weights of blocks and the KV cache are stored"),
    "tenant": Key("a table", "who else is on the card, with priority; nobody without this table"),
}  # fmt: skip
FORM = {
    "weights": Key(get_args(WeightFormat), "of the blocks"),
    "kv": Key(get_args(KVFormat), "the KV cache"),
}
TENANT = {
    "model": Key(TEXT, "its shape, bf16", (CONFIG_SUFFIX,)),
    "trace": Key(TEXT, "its requests", ENDINGS),
    "every": Key(WHOLE, "it serves every k-th request of its trace"),
    "pool_gib": Key(NUMBER, "its KV pool, GiB, behind a first-come-first-served queue"),
}
RECORDED = {
    "recording": Key(TEXT, "memory in use as recorded: a file (rapgym record, nvidia-smi)", ENDINGS)
}
# Of a file: what it may leave out though a `Scenario` may not.
OPTIONAL = {"story": "", "every": 1, "workload": ""}


def read(path: Path, name: str | None = None) -> Scenario:
    """The scenario that a file states; its `workload` is "" where the file leaves it out.

    Args:
        name: of a scenario that came with rapgym; a file of the user's is known by its path, and its
            relative paths start from its folder.

    Raises:
        DataUnavailable: the file, or a recording that it names, is not there.
        InvalidSpec: it is no TOML, a key is unknown or missing, or a value cannot be; the message names
            file and key.
        InvalidTrace: it states no window, and its requests, from which that follows, are no valid trace.
    """
    known_by = str(path) if name is None else name
    told = parsed(path)
    folder = path.parent if name is None else None
    if folder is not None and "group" in told and told["group"] != "own":
        raise InvalidSpec(f"{path}: group is rapgym's own list; remove the line, yours is 'own'")
    aside = {"name", "tenant"}
    if name is None and is_path(str(told.get("trace"))):
        aside.add("window_s")  # which follows from a file of requests
    values = checked_values(str(path), told, KEYS, folder, _required(Scenario, aside))
    for key, value in OPTIONAL.items():
        values.setdefault(key, value)
    try:
        if form := told.get("form"):
            values["form"] = Format(**checked_values(f"{path}: [form]", form, FORM, folder))
        if "window_s" not in values:
            from rapgym.workload import own  # which loads all that reads files of the user's

            reading = How.of(values.get("reading", ""))
            values["window_s"] = own.window_s(values["trace"], values["every"], reading)
        values["tenant"] = _tenant(f"{path}: [tenant]", told.get("tenant"), folder)
        return Scenario(name=known_by, **values)
    except InvalidSpec as error:
        words = str(error)
        raise InvalidSpec(words if words.startswith(str(path)) else f"{path}: {words}") from error


def parsed(path: Path) -> dict[str, Any]:
    """What a TOML file states.

    Raises:
        DataUnavailable: it is not there.
        InvalidSpec: it is no TOML.
    """
    try:
        text = incoming.bounded(path, limits.SCENARIO).decode("utf-8")
        if any(
            len(line) > limits.SCENARIO_LINE or line.count(".") > limits.SCENARIO_DOTS
            for line in text.split("\n")
        ):
            raise ValueError(
                f"a line of it has more than {limits.SCENARIO_LINE} characters or "
                f"{limits.SCENARIO_DOTS} dots"
            )
        return tomllib.loads(text)
    except FileNotFoundError:
        raise DataUnavailable(
            f"{path} is not there: go to the folder that its path starts from, or write one with: rapgym "
            f"scenarios new {path}"
        ) from None
    except (OSError, ValueError, RecursionError) as error:
        raise InvalidSpec(f"{path} is no TOML file that can be read: {error}") from error


def _required(record: type, aside: set[str]) -> set[str]:
    """Fields without a default, but for those aside."""
    return {f.name for f in fields(record) if f.default is MISSING} - aside - {*OPTIONAL}


def checked_values(
    where: str,
    told: object,
    keys: Mapping[str, Key],
    folder: Path | None,
    required: Iterable[str] = (),
) -> dict[str, Any]:
    """Values of a table, checked; paths among them start from `folder`. Tables in it are left out."""
    if not isinstance(told, dict):
        raise InvalidSpec(f"{where} is a table of {', '.join(keys)}, not {_short(told)}")
    for key in told:
        if key not in keys:
            near = difflib.get_close_matches(key, keys, 1)
            hint = f"; did you mean {near[0]}?" if near else "."
            raise InvalidSpec(
                f"{where}: there is no key {_short(key)}{hint} Keys are {', '.join(keys)}"
            )
    for key in keys:
        if key in required and key not in told:
            raise InvalidSpec(f"{where}: {key} is missing ({keys[key].says})")
    return {
        key: _value(f"{where}: {key}", value, keys[key], folder)
        for key, value in told.items()
        if keys[key].wanted != "a table"
    }


def _short(value: object) -> str:
    """A value of the file in a message: no more of it than one reads."""
    text = repr(value)
    return text if len(text) <= 80 else f"{text[:80]}..."


def _value(where: str, value: Any, key: Key, folder: Path | None) -> Any:
    if isinstance(key.wanted, tuple):
        if value not in key.wanted:
            raise InvalidSpec(f"{where} is one of {', '.join(key.wanted)}, not {_short(value)}")
        return value
    fine = {
        TEXT: isinstance(value, str),
        FLAG: isinstance(value, bool),
        WHOLE: isinstance(value, int) and not isinstance(value, bool),
        NUMBER: isinstance(value, int | float) and not isinstance(value, bool),
    }[key.wanted]
    if not fine or (isinstance(value, float) and not math.isfinite(value)):
        raise InvalidSpec(f"{where} is {key.wanted}, not {_short(value)}")
    if isinstance(value, int) and abs(value) >= 1 << 53:
        raise InvalidSpec(f"{where} is too large: {_short(value)}")
    if folder is None or not key.paths or not value.endswith(key.paths):
        return value
    return str(folder / value)


def _tenant(where: str, told: object, folder: Path | None) -> Tenant | Recorded | None:
    if told is None:
        return None
    if not isinstance(told, dict) or "recording" not in told:
        keys = TENANT | RECORDED  # of which a recording stands alone
        return Tenant(**checked_values(where, told, keys, folder, TENANT))
    if more := told.keys() - RECORDED.keys():
        raise InvalidSpec(
            f"{where}: beside a recording stands nothing else; remove {', '.join(sorted(more))}"
        )
    (recording,) = checked_values(where, told, RECORDED, None).values()
    if names.is_shipped(recording):
        return Recorded(recording)
    path = recording if folder is None else str(folder / recording)
    return Recorded(path, names.sha256(path))


def written(story: Scenario, folder: Path) -> str:
    """A file of the user's in `folder` that states the same numbers, with comments; `read` gives them back.

    Paths that the scenario names are written as they are seen from `folder`.
    """

    def literal(value: Any, key: Key) -> str:
        if key.paths and value.endswith(key.paths) and not names.is_shipped(value):
            value = os.path.relpath(value, folder)
        return _literal(value)

    lines = [
        "# A scenario of rapgym. Run it with: rapgym bench --scenario FILE",
        "# Paths start from the folder of this file. Keys that are left out are at their defaults.",
        "",
    ]
    initial = {field.name: field.default for field in fields(Scenario)}
    for name, key in KEYS.items():
        value = getattr(story, name)
        if name in ("group", "claims", "workload", "form", "tenant") or value == initial[name]:
            continue
        lines += [f"# {_comment(key)}.", f"{name} = {literal(value, key)}", ""]
    if story.form != BF16:
        lines += _table("form", FORM, story.form, literal)
    if story.tenant is not None:
        recorded = isinstance(story.tenant, Recorded)
        lines += _table("tenant", RECORDED if recorded else TENANT, story.tenant, literal)
    return "\n".join(lines)


def _table(
    name: str, keys: Mapping[str, Key], record: object, literal: Callable[[Any, Key], str]
) -> list[str]:
    lines = [f"# {_comment(KEYS[name])}.", f"[{name}]"]
    for key, about in keys.items():
        lines += [f"# {_comment(about)}.", f"{key} = {literal(getattr(record, key), about)}"]
    return [*lines, ""]


def _comment(key: Key) -> str:
    text = key.says[0].upper() + key.says[1:]
    return f"{text}: {', '.join(key.wanted)}" if isinstance(key.wanted, tuple) else text


def _literal(value: str | float | bool) -> str:
    """In TOML, whose strings and numbers JSON's are, but for one character."""
    return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")


def path_in(name: str) -> Path | None:
    """The path in the name or id of a scenario of the user's: `my.toml` or `my.toml-v0`."""
    stem, found, version = name.rpartition("-v")
    if found and stem.endswith(FILE_SUFFIX) and version.isdecimal():
        return Path(stem)
    return Path(name) if name.endswith(FILE_SUFFIX) else None
