"""One object of a log as the entries that stand in it: exports wrap them, and raw answers are wrapped."""

from collections.abc import Iterator, Mapping
from typing import Any

LATER = "rapgym_later"  # how many later requests of a session follow this one
# Where the account of an answer's usage lies, from the object of its line.
_HOLDERS = (("response",), ("response", "body"), ("body",), ("message",), ("result", "message"),
            ("standard_logging_object",), ("kwargs", "standard_logging_object"), ("data",))  # fmt: skip
_LISTS = ("data", "observations", "rows", "records", "requests", "logs", "items", "spans")
_VALUES = ("intValue", "stringValue", "doubleValue", "boolValue")


def entries(told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The entries of an object: of a list in it each, of spans and sessions what they hold; else itself."""
    if {"usage", "prompt_tokens", "input_tokens"} & told.keys():
        yield _opened(told) if "attributes" in told else dict(told)
        return
    if isinstance(told.get("resourceSpans"), list):
        yield from _spans(told)
        return
    if isinstance(told.get("sub_requests"), list):
        first, *later = [each for each in told["sub_requests"] if isinstance(each, dict)] or [{}]
        yield {**told, "sub_requests": None, **first, LATER: len(later) or None}
        return
    for name in _LISTS:
        inner = told.get(name)
        if isinstance(inner, list) and inner and isinstance(inner[0], dict) and "usage" not in told:
            for each in inner:
                if isinstance(each, dict):
                    yield _opened(each)
            return
    yield _opened(told)


def _opened(told: Mapping[str, Any]) -> dict[str, Any]:
    """An entry with what stands inside its answer beside what stands around it."""
    found = dict(told)
    attributes = found.get("attributes")
    if isinstance(attributes, list):
        found["attributes"] = _attributes(attributes)
    elif isinstance(attributes, dict) and isinstance(attributes.get("gen_ai"), dict):
        found["attributes"] = attributes | dict(_flattened("gen_ai", attributes["gen_ai"]))
    if "usage" in found or "usageMetadata" in found:
        return found
    for way in _HOLDERS:
        inner: Any = told
        for name in way:
            inner = inner.get(name) if isinstance(inner, Mapping) else None
        if isinstance(inner, Mapping) and (
            {"usage", "usageMetadata", "prompt_tokens", "input_tokens"} & {*inner}
        ):
            return {**inner, **found, "usage": inner.get("usage"), "type": inner.get("type")}
    return found


def _flattened(prefix: str, told: Mapping[str, Any], depth: int = 4) -> Iterator[tuple[str, Any]]:
    """Names with dots, of attributes that are nested."""
    for name, value in told.items():
        if isinstance(value, Mapping) and depth:
            yield from _flattened(f"{prefix}.{name}", value, depth - 1)
        else:
            yield f"{prefix}.{name}", value


def _spans(told: Mapping[str, Any]) -> Iterator[dict[str, Any]]:
    """The spans of an OTLP export."""
    for resource in told["resourceSpans"]:
        scopes = resource.get("scopeSpans") if isinstance(resource, dict) else None
        for scope in scopes if isinstance(scopes, list) else []:
            spans = scope.get("spans") if isinstance(scope, dict) else None
            for span in spans if isinstance(spans, list) else []:
                if isinstance(span, dict):
                    yield _opened(span)


def _attributes(told: list[Any]) -> dict[str, Any]:
    """Attributes as OTLP lists them: a key, and a value under the name of its type."""
    found = {}
    for each in told:
        if isinstance(each, dict) and isinstance(each.get("value"), dict):
            found[str(each.get("key"))] = next(
                (each["value"][kind] for kind in _VALUES if kind in each["value"]), None
            )
    return found
