"""How many tokens an answer of an OpenAI-compatible server had, read as it passes; text is not kept."""

import math
from dataclasses import dataclass
from typing import Any

from rapgym.files import json_text, limits
from rapgym.workload.inputs import tokens
from rapgym.workload.inputs.names import Entry
from rapgym.workload.inputs.tokens import Counts

CHARACTERS_PER_TOKEN = 4  # where the server tells no count: a rule of thumb for English


@dataclass(frozen=True, slots=True)
class Lengths:
    """Tokens of one request."""

    prompt_tokens: int
    output_tokens: int
    estimated: bool  # at least one was not told by the server


class Answer:
    """Reads an answer piece by piece.

    What the server says in `usage` counts; of a stream all that is said, field by field, the last of
    each (OpenAI's servers send one where the client asks for `stream_options: {"include_usage": true}`,
    Anthropic's tell the prompt first and the rest later). Where it says nothing, text counts as a token
    each `CHARACTERS_PER_TOKEN` characters, and so does the prompt; of a stream at least as one for each
    event that brings some, for an event may bring several tokens.
    """

    def __init__(self, is_stream: bool) -> None:
        self.is_stream = is_stream
        self.usage: dict[str, Any] = {}
        self.events = 0  # that brought text
        self.characters = 0  # of text
        # What has come of a line, or of an answer at once: joined when it is whole, so that a long one
        # takes no time with the square of its pieces.
        self._begun: list[bytes] = []
        self._size = 0

    def feed(self, piece: bytes) -> None:
        """Read the next bytes. An event or an answer that is larger than `limits.ANSWER` is passed over."""
        if not self.is_stream:
            self._keep(piece)
            return
        *ended, begun = piece.split(b"\n")
        for end in ended:
            self._keep(end)
            self._read_event(self._taken())
        self._keep(begun)

    def _keep(self, piece: bytes) -> None:
        self._size += len(piece)
        if self._size > limits.ANSWER:
            self._begun.clear()
        elif piece:
            self._begun.append(piece)

    def _taken(self) -> bytes:
        whole = b"".join(self._begun)
        self._begun.clear()
        self._size = 0
        return whole

    def end(self) -> None:
        """Nothing follows, whether the answer is whole or not."""
        if self.is_stream:
            self._read_event(self._taken())
        else:
            self._read_object(self._taken())

    def lengths(self, prompt_characters: int) -> Lengths:
        """Tokens of the request, by the server's count where it told one.

        Args:
            prompt_characters: of the request's text, in case it told none.
        """
        try:
            told = tokens.told(Entry(self.usage))
        except ValueError:
            told = Counts(None, None)  # nonsense
        if told.output is not None and self.is_stream and told.output < self.events:
            told = Counts(told.prompt, None)  # the last word on it never came
        counted = (_tokens(prompt_characters), max(self.events, _tokens(self.characters)))
        prompt, output = (
            estimate if count is None else count
            for count, estimate in zip((told.prompt, told.output), counted, strict=True)
        )
        is_told = told.prompt is not None and told.output is not None
        return Lengths(prompt, output, not (is_told and told.exact))

    def _read_event(self, line: bytes) -> None:
        field, _, data = line.strip().partition(b":")
        if field == b"data" and data.strip() != b"[DONE]":
            self._read_object(data)

    def _read_object(self, data: bytes) -> None:
        try:
            found = json_text.parsed(data)
        except ValueError:
            return  # an answer that was cut, or is none of JSON
        if not isinstance(found, dict):
            return
        # Events of /v1/responses wrap a response; the first one of /v1/messages a message.
        for part in (found, found.get("response"), found.get("message")):
            if isinstance(part, dict) and isinstance(part.get("usage"), dict):
                self.usage = tokens.merged(self.usage, part["usage"])
        characters = _characters(found.get("choices")) + _characters(found.get("delta"))
        if self.is_stream:
            self.events += characters > 0
        else:
            characters += _characters(found.get("output")) + _characters(found.get("content"))
        self.characters += characters


def prompt_characters(body: bytes) -> int:
    """Characters of text in a request: of `prompt`, `messages`, `input` or `instructions`."""
    try:
        found = json_text.parsed(body)
    except ValueError:
        return 0
    if not isinstance(found, dict):
        return 0
    return sum(
        _characters(found.get(name)) for name in ("prompt", "messages", "input", "instructions")
    )


TEXT = ("content", "text", "reasoning_content", "reasoning", "arguments")  # keys whose text counts
HOLDERS = (
    "delta",
    "message",
    "function",
    "function_call",
    "tool_calls",
)  # keys that hold such keys


def _characters(value: Any, depth: int = 0) -> int:
    """Characters of the texts in a message, a choice or a list of them."""
    if isinstance(value, str):
        return len(value)
    if depth > 8:
        return 0
    if isinstance(value, list):
        return sum(_characters(each, depth + 1) for each in value)
    if isinstance(value, dict):
        return sum(_characters(value.get(key), depth + 1) for key in (*TEXT, *HOLDERS))
    return 0


def _tokens(characters: int) -> int:
    return math.ceil(characters / CHARACTERS_PER_TOKEN)
