"""Requests in the logs of vLLM and SGLang; what anybody wrote is passed over.

- vLLM, started with --enable-log-requests and --enable-log-outputs (newer ones with
  VLLM_LOGGING_LEVEL=DEBUG as well): token ids are counted. With --max-log-len they are cut, and the
  counts too low. Its times are whole seconds without a year, so the wall clock stays unknown.
- SGLang, started with --log-requests: the line `Finish:`; the arrival is its time less its latency.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from datetime import UTC, datetime

from rapgym.errors import InvalidTrace
from rapgym.files import limits

VLLM, SGLANG = "vLLM's log", "SGLang's log"
_VLLM_TIME = re.compile(r"\b[A-Z]+ (\d\d)-(\d\d) (\d\d):(\d\d):(\d\d)\b")
_VLLM = re.compile(
    r"(Received request|Generated response|Aborted request(?:\(s\))?|Request) (\S+?)(?=[: ]|\.?$)(.*)",
    re.DOTALL,
)
_IDS = re.compile(r"token_ids: \[([\d, ]*)\]")
_SGLANG_TIME = re.compile(r"(\d{4}-\d\d-\d\d)[ T](\d\d:\d\d:\d\d(?:\.\d+)?)")
_SGLANG = {
    "prompt": re.compile(r"\bprompt_tokens'?: (\d+)"),
    "output": re.compile(r"\bcompletion_tokens'?: (\d+)"),
    "latency": re.compile(r"\be2e_latency'?: (\d+(?:\.\d+)?)"),
}
_HALF_A_YEAR_S, _YEAR_S = 183 * 86400, 366 * 86400


@dataclass(slots=True)
class _Open:
    """A request of vLLM's of which not all is known yet."""

    arrival_s: float
    prompt_tokens: int | None = None
    output_tokens: int | None = None
    pieces: int = 0  # of a streamed answer, summed
    aborted: bool = False

    @property
    def output(self) -> int:
        return self.output_tokens or self.pieces


class VllmLog:
    """The requests of vLLM's, put together of their lines."""

    def __init__(self) -> None:
        self._open: dict[str, _Open] = {}
        self.noted = 0  # lines that tell of one

    def take(self, line: str, name: str) -> bool:
        """Note what a line tells; whether it tells of a request.

        Raises:
            ValueError: it tells of a request in a way that cannot be read.
            InvalidTrace: there are too many.
        """
        match = _VLLM.search(line)
        time = _VLLM_TIME.search(line[: match.start()]) if match else None
        if match is None or time is None:
            return False
        self._note(match, _seconds_of_year(time))
        self.noted += 1
        if len(self._open) > limits.ACCESS_OPEN:
            raise InvalidTrace(
                f"{name} holds more than {limits.ACCESS_OPEN} requests: cut it in parts"
            )
        return True

    def _note(self, match: re.Match[str], time_s: float) -> None:
        event, told = match[1], match[3]
        if event.startswith("Aborted") or (event == "Request" and told.startswith(" aborted")):
            for aborted in match[2].split(","):
                if aborted in self._open:
                    self._open[aborted].aborted = True
            return
        # Several prompts or choices of one request are numbered: cmpl-12ab-0.
        request = re.sub(r"(?<=[0-9a-f]{16})-\d{1,3}$", "", match[2])
        if len(request) > limits.ACCESS_NAME:
            raise ValueError("the name of a request is longer than any")
        each = self._open.get(request)
        if event == "Received request" or (event == "Request" and told.startswith(" details:")):
            each = self._open.setdefault(request, _Open(time_s))
            if (ids := _last_ids(told)) is not None:
                each.prompt_tokens = (each.prompt_tokens or 0) + ids
        elif each is None:
            return
        elif event == "Generated response" and (ids := _last_ids(told)) is not None:
            if told.startswith(" (streaming delta)"):
                each.pieces += ids
            else:
                each.output_tokens = (each.output_tokens or 0) + ids

    def requests(self) -> Iterator[tuple[float, int, int]]:
        """Second, prompt and output tokens of those that were answered."""
        latest_s = max((each.arrival_s for each in self._open.values()), default=0.0)
        for each in self._open.values():
            if not each.aborted and each.prompt_tokens is not None and each.output:
                # A log that goes on into the next year begins anew in January.
                early = latest_s - each.arrival_s > _HALF_A_YEAR_S
                yield each.arrival_s + early * _YEAR_S, each.prompt_tokens, each.output

    def left_out(self) -> tuple[int, int]:
        """How many were aborted, and of how many no answer or no length is logged."""
        aborted = sum(each.aborted for each in self._open.values())
        return aborted, len(self._open) - aborted - sum(1 for _ in self.requests())


def is_sglang(line: str) -> bool:
    """Whether a line tells of a request that SGLang finished."""
    return "Finish: obj=" in line


def of_sglang(line: str) -> tuple[str, float, int, int]:
    """When it finished, as written, the seconds that it took, prompt and output tokens.

    Raises:
        ValueError: one of them is not there.
    """
    head, _, _ = line.partition("Finish: obj=")
    told = line[line.rfind(", out=") :]  # what stands before it holds words of users
    time, spent = _SGLANG_TIME.search(head), _SGLANG["latency"].search(told)
    counts = [_SGLANG[name].search(told) for name in ("prompt", "output")]
    if time is None or counts[0] is None or counts[1] is None:
        raise ValueError("a line `Finish:` without its time, prompt_tokens or completion_tokens")
    seconds = float(spent[1]) if spent else 0.0
    return f"{time[1]} {time[2]}", seconds, int(counts[0][1]), int(counts[1][1])


def _seconds_of_year(time: re.Match[str]) -> float:
    month, day, hour, minute, second = (int(part) for part in time.groups())
    # Of a leap year, so that every date exists.
    found = datetime(2000, month, day, hour, minute, second, tzinfo=UTC)
    return (found - datetime(2000, 1, 1, tzinfo=UTC)).total_seconds()


def _last_ids(told: str) -> int | None:
    """How many token ids the last list of them has; words of users stand before it."""
    lists = _IDS.findall(told)
    return len([part for part in lists[-1].split(",") if part.strip()]) if lists else None
