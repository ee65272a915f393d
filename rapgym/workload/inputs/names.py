"""Names of keys and columns, however a tool spells them, and what an entry holds under them."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

Path = tuple[str, ...]
_UNIT = re.compile(r"\s*[\[(]\s*([A-Za-z%]{1,12})\s*[\])]\s*$")
_DEPTH = 3  # of objects inside each other that a path may lead through
_MOST_PLANS = 1024
_TELLING = ("object", "type")  # keys whose value, too, tells a format


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """`promptTokens`, `Prompt Tokens` and `prompt_tokens` as one; a unit in brackets is no part of it."""
    units_apart = re.sub(r"([KMG])iB(?![a-z])", r"_\1ib", _UNIT.sub("", name))
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", units_apart)
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def unit_in(name: str) -> str:
    """What stands in brackets behind a column's name, such as MiB; empty without."""
    found = _UNIT.search(name)
    return found[1] if found else ""


@lru_cache(maxsize=4096)
def path(text: str) -> Path:
    """`usage/input_tokens` as names one inside the other."""
    return tuple(plain(part) for part in text.split("/"))


class Plan:
    """Where things stand in all entries that have the same keys: looked for once."""

    __slots__ = ("every", "first", "form", "keys")

    def __init__(self) -> None:
        self.keys: dict[str, Path | None] = {}  # by path: the keys as they are spelled
        self.first: dict[tuple[str, ...], str] = {}
        self.every: dict[tuple[str, ...], list[str]] = {}
        self.form: Any = None  # the format of these entries, once it is known


class Plans:
    """A plan for each set of keys that a file has."""

    def __init__(self) -> None:
        self._known: dict[Any, Plan] = {}

    def of(self, told: Mapping[str, Any]) -> Plan:
        """The plan of entries like this one."""
        values = tuple(
            value
            for name in _TELLING
            if isinstance(value := told.get(name), str) and len(value) < 40
        )
        signature = (_keys(told, _DEPTH), values)
        found = self._known.get(signature)
        if found is None:
            if len(self._known) >= _MOST_PLANS:
                self._known.clear()
            found = self._known[signature] = Plan()
        return found


def _keys(told: Mapping[str, Any], depth: int) -> tuple[Any, ...]:
    return tuple(
        [
            (name, _keys(value, depth - 1)) if depth and type(value) is dict else name
            for name, value in told.items()
            if value is not None and value != ""
        ]
    )


class Entry:
    """One object of a log, asked by plain names; what is null or empty is not there."""

    __slots__ = ("plan", "told")

    def __init__(self, told: Mapping[str, Any], plans: Plans | None = None) -> None:
        self.told = told
        self.plan = Plan() if plans is None else plans.of(told)

    def at(self, text: str) -> Any:
        """The value under `a/b`, None where there is none."""
        keys = self.plan.keys
        way = keys[text] if text in keys else keys.setdefault(text, self._way(path(text)))
        if way is None:
            return None
        found: Any = self.told
        for key in way:
            found = found[key]
        return found

    def _way(self, where: Path) -> Path | None:
        """The keys to a path, as they are spelled; None where it does not exist."""
        found: Any = self.told
        way = []
        for name in where[:_DEPTH]:
            if not isinstance(found, Mapping):
                return None
            key = next(
                (k for k, v in found.items() if plain(k) == name and v is not None and v != ""),
                None,
            )
            if key is None:
                return None
            way.append(key)
            found = found[key]
        return tuple(way)

    def level(self, where: Path) -> Mapping[str, Any]:
        """The object there, with plain names; empty where there is none."""
        found = self.at("/".join(where)) if where else self.told
        if not isinstance(found, Mapping):
            return {}
        return {
            plain(name): value for name, value in found.items() if value is not None and value != ""
        }

    def first(self, texts: tuple[str, ...]) -> tuple[str, Any]:
        """The first of some paths that is there, and its value; ("", None) where none is."""
        known = self.plan.first
        text = known.get(texts)
        if text is None:
            text = known[texts] = next((each for each in texts if self.at(each) is not None), "")
        return (text, self.at(text)) if text else ("", None)

    def every(self, texts: tuple[str, ...]) -> list[tuple[str, Any]]:
        """Those paths that are there, each with its value."""
        known = self.plan.every
        there = known.get(texts)
        if there is None:
            there = known[texts] = [each for each in texts if self.at(each) is not None]
        return [(text, self.at(text)) for text in there]

    def has(self, mark: str) -> bool:
        """Whether a mark of a format is here: `a`, one of `a|b`, or a value, `a=b`."""
        for text in mark.split("|"):
            name, equals, wanted = text.partition("=")
            found = self.at(name)
            if found == wanted if equals else found is not None:
                return True
        return False
