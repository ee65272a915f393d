"""What a training run needs to go on after a kill, in one file that is complete or not there."""

from pathlib import Path
from typing import Any

import numpy as np
import torch

from rapgym.files import writing

_ARRAY = "numpy array"  # key of an array's stand-in: torch reads tensors without running code


def write(path: Path, content: dict[str, Any]) -> None:
    """Write nested dicts and lists of tensors, arrays, numbers and strings, aside, then rename."""
    with writing.written_aside(path) as file:
        torch.save(_packed(content), file)


def read(path: Path) -> dict[str, Any] | None:
    """What `write` wrote; None where there is nothing, or nothing that can be read."""
    try:
        found: dict[str, Any] = _unpacked(torch.load(path, map_location="cpu", weights_only=True))
    except Exception:  # a damaged file costs the time that it would have saved, no more
        return None
    return found


def _packed(value: Any) -> Any:
    if isinstance(value, np.ndarray):
        return {_ARRAY: torch.from_numpy(np.ascontiguousarray(value))}
    if isinstance(value, dict):
        return {key: _packed(each) for key, each in value.items()}
    if isinstance(value, (list, tuple)):
        return [_packed(each) for each in value]
    return value


def _unpacked(value: Any) -> Any:
    if isinstance(value, dict):
        if value.keys() == {_ARRAY}:
            return value[_ARRAY].numpy()
        return {key: _unpacked(each) for key, each in value.items()}
    if isinstance(value, list):
        return [_unpacked(each) for each in value]
    return value


def plain(value: Any) -> Any:
    """A value as `read` would give it back: tuples become lists."""
    return _unpacked(_packed(value))
