"""How many tokens a request had, of what servers and gateways say of it; the proxy counts by it too.

Memory holds a whole prompt, whether it was computed or found in a cache, and all that was generated,
whether it was shown or not. Tools differ in which total includes which part: `settled` finds out.
"""

import math
import re
from collections.abc import Mapping
from dataclasses import dataclass
from functools import lru_cache
from itertools import product
from typing import Any

from rapgym.errors import InvalidTrace
from rapgym.files import limits
from rapgym.workload.inputs.names import Entry

PROMPT = (
    "prompt_tokens", "input_tokens", "num_prompt_tokens", "context_tokens", "request_tokens",
    "prompt_token_count", "input/input_token_count", "input_length", "prompt_length", "input_len", "prompt_len", "input_toks",
    "tokens_in", "n_prompt_tokens", "num_input_tokens", "tokens_prompt",
)  # fmt: skip
OUTPUT = (
    "completion_tokens", "output_tokens", "generated_tokens", "num_generation_tokens", "response_tokens",
    "candidates_token_count", "output/output_token_count", "output_length", "completion_length", "output_len", "completion_len",
    "output_toks", "tokens_out", "n_completion_tokens", "num_output_tokens", "generation_tokens",
    "tokens_completion",
)  # fmt: skip
TOTAL = ("total_tokens", "total_token_count")
CACHED = (
    "prompt_tokens_details/cached_tokens", "input_tokens_details/cached_tokens", "cached_tokens",
)  # fmt: skip
BESIDE = (
    "cache_read_input_tokens",
    "cache_creation_input_tokens",
    "cache_write_input_tokens",
)  # of Anthropic's `input_tokens`
REASONING = (
    "completion_tokens_details/reasoning_tokens", "output_tokens_details/reasoning_tokens",
    "reasoning_tokens",
)  # fmt: skip
_DECIMAL_COMMA = re.compile(r"[-+]?\d+(\.\d{3})*,\d+(\s*\w*)?", re.ASCII)


@dataclass(frozen=True, slots=True)
class Counts:
    """Tokens of one request; None where nothing is said of them."""

    prompt: int | None
    output: int | None
    exact: bool = True  # False: totals contradict their parts


def refuse_decimal_comma(text: str) -> None:
    """Refuse `1,5`: no rule tells whether that is a thousand more or a fraction.

    Raises:
        InvalidTrace: it is such a number.
    """
    if _DECIMAL_COMMA.fullmatch(text.strip()):
        raise InvalidTrace(
            f"{text.strip()[:40]!r} holds a comma: write numbers with a decimal point and without "
            "thousands separators"
        )


def count(value: Any) -> int:
    """A number of tokens, also as text.

    Raises:
        ValueError: it is none.
        InvalidTrace: it has a comma in it.
    """
    if isinstance(value, str):
        if len(value) < 10 and value.isdecimal() and value.isascii():
            return int(value)
        refuse_decimal_comma(value)
        value = float(value) if re.fullmatch(r"\d{1,12}(\.0*)?", value.strip(), re.ASCII) else value
    if isinstance(value, bool) or not isinstance(value, int | float) or not math.isfinite(value):
        raise ValueError(f"{str(value)[:40]!r} is no number of tokens")
    if value != int(value) or not 0 <= value <= limits.TOKENS:
        raise ValueError(f"{str(value)[:40]} is no number of tokens")
    return int(value)


def settled(
    prompt: int, parts: int, output: int, reasoning: int, total: int | None, *, beside: bool = False
) -> Counts:
    """Prompt and output in whole, of totals that may or may not include their parts.

    Args:
        parts: of the prompt, that were found in a cache or written to one.
        reasoning: tokens of the output that were not shown.
        total: of all; None where it is not told. It decides what includes what.
        beside: the convention: parts are not in `prompt`.
    """
    prompts = [prompt, prompt + parts][:: -1 if beside else 1]
    if parts > prompt:  # no total is smaller than its part
        prompts = [prompt + parts]
    outputs = [output, output + reasoning] if reasoning <= output else [output + reasoning]
    if total is None:
        return Counts(prompts[0], outputs[0])
    for one, other in product(prompts, outputs):
        if one + other == total:
            return Counts(one, other)
    return Counts(prompts[0], max(outputs[0], total - prompts[0]), exact=False)


def told(entry: Entry, where: str = "") -> Counts:
    """Tokens of an OpenAI-like or Anthropic-like account of usage.

    Args:
        where: the path of the account within the entry, such as `usage/`; what is not there is looked
            for in the entry itself.

    Raises:
        ValueError: what is said is no number of tokens.
    """

    def named(names: tuple[str, ...]) -> tuple[str, int | None]:
        name, value = entry.first(_under(where, names))
        return (name.removeprefix(where), count(value)) if name else ("", None)

    name, prompt = named(PROMPT)
    _, output = named(OUTPUT)
    _, total = named(TOTAL)
    if output is None and prompt is not None and total is not None and total >= prompt:
        output = total - prompt  # as for embeddings, which generate nothing
    if prompt is None or output is None:
        return Counts(prompt, output)
    beside = sum(named((each,))[1] or 0 for each in BESIDE)
    parts = beside or named(CACHED)[1] or 0
    reasoning = named(REASONING)[1] or 0
    return settled(
        prompt, parts, output, reasoning, total, beside=bool(beside) and name == "input_tokens"
    )


@lru_cache(maxsize=256)
def _under(where: str, names: tuple[str, ...]) -> tuple[str, ...]:
    """Names within an account of usage, then the same in the entry itself."""
    return tuple(prefix + name for prefix in dict.fromkeys((where, "")) for name in names)


def langfuse(entry: Entry) -> Counts:
    """Of `usageDetails`, in which parts stand beside the rest, unless `total` says otherwise."""
    details = entry.level(("usage_details",)) or entry.level(("usage",))
    if str(details.get("unit", "TOKENS")).upper() != "TOKENS":
        raise ValueError(f"its usage is counted in {str(details['unit'])[:20]}, not in tokens")

    def parts(word: str) -> int:
        return sum(
            count(value) for name, value in details.items()
            if name not in ("input", "output", "total", *PROMPT, *OUTPUT, *TOTAL)
            and word in name.split("_") and not isinstance(value, dict)
        )  # fmt: skip

    if "input" not in details and "output" not in details:
        return told(entry, "usage_details/" if "usage_details" in entry.level(()) else "usage/")
    prompt, output = count(details.get("input", 0)), count(details.get("output", 0))
    total = details.get("total")
    hidden = parts("output")
    whole = None if total is None else count(total)
    found = settled(prompt, parts("input"), output, hidden, whole, beside=True)
    if hidden and whole is None:
        return Counts(found.prompt, output + hidden)
    return found


def gemini(entry: Entry) -> Counts:
    """Of `usageMetadata`: thoughts and the results of tools stand beside prompt and candidates."""
    usage = entry.level(("usage_metadata",))
    prompt = count(usage.get("prompt_token_count", 0)) + count(
        usage.get("tool_use_prompt_token_count", 0)
    )
    output = count(usage.get("candidates_token_count", 0)) + count(
        usage.get("thoughts_token_count", 0)
    )
    total = usage.get("total_token_count")
    return settled(prompt, 0, output, 0, None if total is None else count(total))


def of_spans(entry: Entry) -> Counts:
    """Of the attributes of a GenAI span, whose totals include what was cached and reasoned."""
    at = {**entry.level(()), **entry.level(("attributes",))}

    def value(*names: str) -> int | None:
        for name in names:
            if (found := at.get(f"gen_ai_usage_{name}")) is not None:
                return count(found)
        return None

    prompt = value("input_tokens", "prompt_tokens")
    output = value("output_tokens", "completion_tokens")
    if prompt is None or output is None:
        return Counts(prompt, output)
    cached = (value("cache_read_input_tokens", "cached_input_tokens") or 0) + (
        value("cache_creation_input_tokens") or 0
    )
    reasoning = value("reasoning_tokens", "output_reasoning_tokens", "reasoning_output_tokens") or 0
    return settled(prompt, cached, output, reasoning, value("total_tokens"))


def merged(usage: Mapping[str, Any], more: Mapping[str, Any]) -> dict[str, Any]:
    """An account of usage with what a later one says, field by field: null says nothing."""
    return {**usage, **{name: value for name, value in more.items() if value is not None}}
