"""What a card and its engine take for a step, as JSON files with their provenance."""

import json
from collections.abc import Mapping
from dataclasses import asdict, dataclass, field, fields
from pathlib import Path
from typing import Any

from rapgym.errors import InvalidSpec
from rapgym.files import incoming, json_text, limits, writing

SCHEMA = 1


@dataclass(frozen=True, slots=True)
class ServingProfile:
    """Seconds of an engine step, and the limits of its scheduler.

    A step over n tokens of some sequences takes

        base_s + max(weight bytes / weight_bytes_per_s, n * share of weights kept / tokens_per_s)
        + KV bytes read / kv_bytes_per_s + pairs * pair_s + sequences * sequence_s.

    KV is read by decoding sequences, after the linear layers, so it adds. Pairs are of a prompt token
    and one at or before it in its sequence: what attention works on in prefill, in all layers.
    """

    name: str
    base_s: float  # whatever the step does
    weight_bytes_per_s: float  # at which a step reads the kept weights
    tokens_per_s: float  # of the linear layers, every block kept
    kv_bytes_per_s: float  # at which decoding reads the KV cache
    pair_s: float  # of attention in prefill, every attention block kept
    sequence_s: float = 0.0  # for each sequence of a step
    step_tokens: int = 2048  # most tokens of a step
    max_sequences: int = 256  # most sequences that run
    page_tokens: int = 16  # of KV cache
    reserved_pages: int = 1  # that no sequence gets
    lookahead: int = 1  # steps that are formed before the one in flight has ended
    prefix_cache: bool = False  # free pages remember what they hold until they are taken
    provenance: Mapping[str, Any] = field(
        default_factory=dict
    )  # `assumed`, or what it was fitted to

    def __post_init__(self) -> None:
        if min(self.base_s, self.pair_s, self.sequence_s) < 0:
            raise InvalidSpec(f"serving profile {self.name}: no work takes less than no time")
        if min(self.weight_bytes_per_s, self.tokens_per_s, self.kv_bytes_per_s) <= 0:
            raise InvalidSpec(f"serving profile {self.name}: rates are above 0")
        if min(self.step_tokens, self.max_sequences, self.page_tokens) < 1:
            raise InvalidSpec(f"serving profile {self.name}: a step has room for a token at least")
        if min(self.reserved_pages, self.lookahead) < 0:
            raise InvalidSpec(f"serving profile {self.name}: no count is below 0")

    def step_s(
        self, work: "Work", weight_bytes: int, weight_share: float, kv_token_bytes: int,
        attention_share: float,
    ) -> float:  # fmt: skip
        """Seconds of a step.

        Args:
            weight_bytes: that the step reads.
            weight_share: of the full model's blocks, by bytes.
            kv_token_bytes: of one token in all kept attention blocks.
            attention_share: of the attention blocks.
        """
        linear = max(
            weight_bytes / self.weight_bytes_per_s, work.tokens * weight_share / self.tokens_per_s
        )
        read = work.read_tokens * kv_token_bytes / self.kv_bytes_per_s
        prefill = work.pairs * attention_share * self.pair_s
        return self.base_s + linear + read + prefill + work.sequences * self.sequence_s


@dataclass(slots=True)
class Work:
    """What one step does, in tokens."""

    tokens: int = 0  # that go through the linear layers
    sequences: int = 0
    read_tokens: int = 0  # context of the sequences that decode
    pairs: int = 0  # of a prompt token and one at or before it

    def prefill(self, tokens: int, before: int) -> None:
        """Add a chunk of a prompt, `before` tokens of which are computed."""
        self.tokens += tokens
        self.sequences += 1
        self.pairs += tokens * before + tokens * (tokens + 1) // 2

    def decode(self, context: int) -> None:
        """Add one token of a sequence, whose context holds so many tokens, itself included."""
        self.tokens += 1
        self.sequences += 1
        self.read_tokens += context


def write(profile: ServingProfile, path: Path) -> None:
    """Write a profile, complete or not at all."""
    held = {"schema": SCHEMA, **asdict(profile)}
    with writing.written_aside(path) as file:
        file.write((json.dumps(held, indent=1) + "\n").encode())


def read(path: Path) -> ServingProfile:
    """A file of `write`.

    Raises:
        InvalidSpec: it is not there, or is no serving profile.
    """
    known = {each.name for each in fields(ServingProfile)}
    try:
        held = json_text.parsed(incoming.bounded(path, limits.PROFILE))
        if not isinstance(held, dict) or held.pop("schema", None) != SCHEMA:
            raise ValueError("it is of another schema")
        if stray := sorted({*held} - known):
            raise ValueError(f"nothing is called {', '.join(stray)[:100]}")
        numbers = {
            name: value for name, value in held.items() if name not in ("name", "provenance")
        }
        whole = {"step_tokens", "max_sequences", "page_tokens", "reserved_pages", "lookahead"}
        for name, value in numbers.items():
            fine = (int,) if name in whole else (bool,) if name == "prefix_cache" else (int, float)
            if type(value) not in fine:
                raise ValueError(f"{name} is no number")
        return ServingProfile(**held)
    except (OSError, ValueError, TypeError) as error:
        raise InvalidSpec(f"{path} is no serving profile that can be read: {error}") from error
