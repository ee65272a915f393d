"""Requests that were not served: refused, failed or aborted, in numbers and in words."""

from typing import Any

from rapgym.workload.inputs import names
from rapgym.workload.inputs.names import Entry

STATUS = ("status", "status_code", "http_status", "response_status", "response/status_code", "code")
FINISH = ("finish_reason", "stop_reason", "status/status_code", "status/code")
FLAGS = ("metadata/was_cancelled", "was_cancelled", "cancelled", "aborted")
FAILED_WORDS = {"failed", "failure", "fail", "error", "cancelled", "canceled", "aborted", "abort", "timeout",
                "timed_out", "timedout", "rejected", "refused", "denied", "disconnected", "client_disconnected",
                "client_closed_request", "interrupted", "killed", "dropped", "expired", "exception",
                "rate_limited", "server_error", "internal_server_error"}  # fmt: skip
_FAILING = (*STATUS, *FINISH)


_NO_ERROR = {"none", "null", "nan", "false", "0", "no", "[]", "{}", "-"}


def is_of(entry: Entry) -> bool:
    """Whether an entry says that its request failed."""
    for name, value in entry.every(_FAILING):
        if not isinstance(value, dict | list):
            if name == "status/code" and value == 2:  # of a span: an error
                return True
            if told(value):
                return True
    if any(_is(value, True) for _, value in entry.every(FLAGS)) or _is(entry.at("success"), False):
        return True
    if str(entry.at("level")).upper() == "ERROR" or entry.at("attributes/error.type") is not None:
        return True
    choices = entry.at("choices")
    choice = choices[0] if isinstance(choices, list) and choices else None
    if isinstance(choice, dict) and told(choice.get("finish_reason")):
        return True
    error = entry.at("error")
    return error is not None and str(error).strip().lower() not in _NO_ERROR


def told(value: Any) -> bool:
    """Whether a status or a reason says that a request was not served."""
    word = str(value).strip().lower().removeprefix("http ")
    if word.isdecimal():
        return 400 <= int(word[:9]) < 600
    return word.replace(" ", "_").removeprefix("status_code_") in FAILED_WORDS


def columns_of(columns: list[str]) -> list[int]:
    """Which columns of a table may say that a request failed."""
    telling = {names.plain(name) for name in (*_FAILING, *FLAGS, "success", "level", "error")}
    return [index for index, column in enumerate(columns) if names.plain(column) in telling]


def _is(value: Any, wanted: bool) -> bool:
    return value is wanted or (
        isinstance(value, str) and value.strip().lower() == str(wanted).lower()
    )
