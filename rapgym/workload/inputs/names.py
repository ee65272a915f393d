"""Names of keys and columns, however a tool spells them, and what an entry holds under them."""

import re
from collections.abc import Mapping
from functools import lru_cache
from typing import Any

Path = tuple[str, ...]
_UNIT = re.compile(r"\s*[\[(]\s*([A-Za-z%]{1,12})\s*[\])]\s*$")


@lru_cache(maxsize=4096)
def plain(name: str) -> str:
    """`promptTokens`, `Prompt Tokens` and `prompt_tokens` as one; a unit in brackets is no part of it."""
    words = re.sub(r"(?<=[a-z0-9])(?=[A-Z])", "_", _UNIT.sub("", name))
    return re.sub(r"[^a-z0-9]+", "_", words.lower()).strip("_")


def unit_in(name: str) -> str:
    """What stands in brackets behind a column's name, such as MiB; empty without."""
    found = _UNIT.search(name)
    return found[1] if found else ""


@lru_cache(maxsize=4096)
def path(text: str) -> Path:
    """`usage/input_tokens` as names one inside the other."""
    return tuple(plain(part) for part in text.split("/"))


class Entry:
    """One object of a log, asked by plain names; what is null or empty is not there."""

    __slots__ = ("_levels",)

    def __init__(self, told: Mapping[str, Any]) -> None:
        self._levels: dict[Path, Mapping[str, Any]] = {(): _plainly(told)}

    def at(self, text: str) -> Any:
        """The value under `a/b`, None where there is none."""
        where = path(text)
        return self.level(where[:-1]).get(where[-1])

    def level(self, where: Path) -> Mapping[str, Any]:
        """The object there, with plain names; empty where there is none."""
        found = self._levels.get(where)
        if found is None:
            inner = self.level(where[:-1]).get(where[-1])
            found = self._levels[where] = _plainly(inner) if isinstance(inner, dict) else {}
        return found

    def first(self, texts: tuple[str, ...]) -> tuple[str, Any]:
        """The first of some paths that is there, and its value; ("", None) where none is."""
        for text in texts:
            if (found := self.at(text)) is not None:
                return text, found
        return "", None

    def has(self, mark: str) -> bool:
        """Whether a mark of a format is here: `a`, one of `a|b`, or a value, `a=b`."""
        for text in mark.split("|"):
            name, equals, wanted = text.partition("=")
            found = self.at(name)
            if found == wanted if equals else found is not None:
                return True
        return False


def _plainly(told: Mapping[str, Any]) -> dict[str, Any]:
    return {plain(name): value for name, value in told.items() if value is not None and value != ""}
