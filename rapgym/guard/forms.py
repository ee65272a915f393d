"""In what form policies of a world are asked, and how their answers stand in bytes: for policy processes.

A form is looked up by name, so that whoever guards windows alone does not load the serving engine.
"""

import importlib
from typing import Any, Literal, Protocol, cast

import numpy as np

from rapgym.arrays import BoolArray, FloatArray

World = Literal["window", "serving"]


class Form(Protocol):
    """How policies of one world are asked for B lanes."""

    method: str  # of the policy, that is asked

    def answered(
        self, policy: Any, observation: FloatArray, rng: np.random.Generator, briefing: Any
    ) -> tuple[Any, BoolArray, str | None]:
        """What a policy says, [B, ...]; which lanes' answers can be read, [B]; what was wrong."""
        ...

    def size(self, briefing: Any) -> int:
        """Bytes of one lane's answer."""
        ...

    def packed(self, answers: Any) -> bytes:
        """The bytes of B answers."""
        ...

    def unpacked(self, content: bytes, briefing: Any) -> Any:
        """Answers, [B, ...], of bytes that a stranger sent.

        Raises:
            ValueError: they are none.
        """
        ...


_HOMES: dict[World, tuple[str, str]] = {
    "window": ("rapgym.guard.guard", "Proposals"),
    "serving": ("rapgym.guard.serving", "ServeDecisions"),
}


def form(world: World) -> Form:
    """The form in which policies of a world are asked."""
    module, name = _HOMES[world]
    return cast(Form, getattr(importlib.import_module(module), name)())
