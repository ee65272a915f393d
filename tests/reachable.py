"""Everything that an object leads to: what a policy could find out from what it was given."""

import types
from collections.abc import Iterator
from typing import Any

import numpy as np

ENDS = (str, bytes, int, float, bool, complex, type(None), type, types.ModuleType, types.FunctionType,
        types.BuiltinFunctionType, np.generic)  # fmt: skip


def values(thing: Any, path: str = "", seen: set[int] | None = None) -> Iterator[tuple[str, Any]]:
    """Path and value of every number, text and array, through fields, containers and array bases."""
    seen = set() if seen is None else seen
    if isinstance(thing, ENDS):
        yield path, thing
        return
    if id(thing) in seen:
        return
    seen.add(id(thing))
    if isinstance(thing, np.ndarray):
        yield path, thing
        yield from values(thing.base, f"{path}.base", seen)
    elif isinstance(thing, dict):
        for key, value in thing.items():
            yield from values(key, f"{path}.key", seen)
            yield from values(value, f"{path}[{key!r}]", seen)
    elif isinstance(thing, list | tuple | set | frozenset):
        for i, value in enumerate(thing):
            yield from values(value, f"{path}[{i}]", seen)
    else:
        named = dict(getattr(thing, "__dict__", {}))
        for kind in type(thing).__mro__:
            slots = getattr(kind, "__slots__", ())
            for name in (slots,) if isinstance(slots, str) else slots:
                if hasattr(thing, name):
                    named.setdefault(name, getattr(thing, name))
        for name, value in sorted(named.items()):
            yield from values(value, f"{path}.{name}", seen)
        if callable(thing) and getattr(thing, "__closure__", None):
            for i, cell in enumerate(thing.__closure__):
                yield from values(cell.cell_contents, f"{path}.closure[{i}]", seen)


def snapshot(thing: Any) -> dict[str, bytes]:
    """Path -> bytes of every array and scalar that an object leads to."""
    found = {}
    for path, value in values(thing):
        content = value.tobytes() if isinstance(value, np.ndarray) else repr(value).encode()
        found[path] = content
    return found
