"""The table of formats: how each is known, what is read of it, in which unit and on which clock.

The readers, `rapgym record --help`, docs/own-traces.md and the tests go by it.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Literal

from rapgym.workload.inputs import tokens
from rapgym.workload.inputs.names import Entry, plain
from rapgym.workload.inputs.tokens import Counts

Clock = Literal["wall", "start", "either"]
CLOCKS: dict[Clock, str] = {
    "wall": "points in time",
    "start": "from a start",
    "either": "points in time or, with a unit, from a start",
}


@dataclass(frozen=True, slots=True)
class Format:
    """One format. Paths name keys or columns, `a/b` one inside the other; `a|b` is either of two."""

    name: str
    marks: tuple[str, ...]  # it is known by: all are there
    arrival: tuple[str, ...]  # the time, the first that is there
    unit: str  # of a time that is a number; "" where its name or size tells
    clock: Clock
    counted: str  # what is counted, in words
    count: Callable[[Entry], Counts] | None = None  # None: not of entries
    utc: bool = False  # texts without a zone are UTC
    known: str = ""  # how it is known, in words, where marks do not say it

    def fits(self, entry: Entry) -> bool:
        """Whether an entry is of this format."""
        return all(entry.has(mark) for mark in self.marks)

    @property
    def told_by(self) -> str:
        """How it is known, for people."""
        return self.known or ", ".join(f"`{mark.replace('|', '` or `')}`" for mark in self.marks)


def flat(entry: Entry) -> Counts:
    return tokens.told(entry, "usage/")


def _lengths(prompt: str, output: str) -> Callable[[Entry], Counts]:
    def read(entry: Entry) -> Counts:
        one, other = (
            None if value is None else tokens.count(value)
            for value in (entry.at(prompt), entry.at(output))
        )
        return Counts(one, other)

    return read


TIME = (
    "timestamp", "arrival_time", "arrival_s", "arrived_at", "arrival_time_ns", "arrival_ms", "arrival_us",
    "arrival_ns",
    "timestamp_s", "timestamp_ms", "timestamp_us", "timestamp_ns", "start_time", "startTime",
    "start_time_ms", "start_time_ns", "request_time", "received_at", "requested_at", "created_at", "time",
    "datetime", "date", "ts", "ts_ms", "created", "@timestamp", "logged_at",
)  # fmt: skip
OWN, PLAIN = "rapgym's own", "JSON lines or CSV"

# The first that fits an entry is its format.
REQUESTS = (
    Format(OWN, ("arrival_s", "prompt_tokens", "output_tokens"), ("arrival_s",), "s", "either",
           "prompt_tokens, output_tokens", flat),
    Format("vllm bench serve", ("input_lens", "output_lens"), ("start_times",), "s", "start",
           "input_lens, output_lens; those with a text in errors have failed"),
    Format("AIPerf", ("metadata/request_start_ns",), ("metadata/request_start_ns",), "ns", "wall",
           "metrics: input_sequence_length, output_sequence_length",
           _lengths("metrics/input_sequence_length/value", "metrics/output_sequence_length/value")),
    Format("OTel GenAI spans", ("attributes/gen_ai.usage.input_tokens|attributes/gen_ai.usage.prompt_tokens"
                                "|gen_ai.usage.input_tokens",),
           ("startTimeUnixNano", "start_time_unix_nano", "start_time", "startTime", "timestamp"), "", "wall",
           "gen_ai.usage.input_tokens, output_tokens; spans of agents, which sum up others, are left out",
           tokens.of_spans),
    Format("Langfuse", ("startTime|start_time|timestamp", "usageDetails|usage_details|usage/input"),
           ("startTime", "start_time", "timestamp"), "", "wall",
           "usageDetails: input and output with all their parts, as total says", tokens.langfuse),
    Format("LLMServingSim", ("arrival_time_ns", "input_toks", "output_toks"), ("arrival_time_ns",), "ns",
           "start", "input_toks, output_toks; of a session its first request", flat),
    Format("Bailian", ("chat_id", "timestamp", "input_length", "output_length"), ("timestamp",), "s", "start",
           "input_length, output_length", flat),
    Format("Mooncake", ("hash_ids", "timestamp", "input_length", "output_length"), ("timestamp",), "ms", "start",
           "input_length, output_length", flat),
    Format("Azure", ("TIMESTAMP", "ContextTokens", "GeneratedTokens"), ("TIMESTAMP",), "", "wall",
           "ContextTokens, GeneratedTokens (2023 and 2024); times without a zone are UTC", flat, utc=True),
    Format("BurstGPT", ("Timestamp", "Request tokens", "Response tokens"), ("Timestamp",), "s", "start",
           "Request tokens, Response tokens; those with 0 response tokens have failed", flat),
    Format("LiteLLM", ("startTime", "prompt_tokens", "completion_tokens"), ("startTime",), "", "wall",
           "prompt_tokens, completion_tokens; status `failure` has failed", flat),
    Format("Gemini", ("usageMetadata/promptTokenCount",), ("createTime", *TIME), "", "either",
           "prompt, results of tools, candidates and thoughts", tokens.gemini),
    Format("Responses API", ("usage/input_tokens", "usage/output_tokens",
                             "object=response|usage/input_tokens_details|usage/output_tokens_details"),
           ("created_at", *TIME), "", "wall",
           "usage: input_tokens, output_tokens, cached and reasoning tokens included", flat),
    Format("Anthropic", ("usage/input_tokens|input_tokens",
                         "usage/cache_read_input_tokens|usage/cache_creation_input_tokens|type=message"
                         "|cache_read_input_tokens|cache_creation_input_tokens"), TIME, "", "either",
           "input_tokens and, beside them, cache_read_input_tokens and cache_creation_input_tokens; "
           "output_tokens", flat),
    Format("OpenAI", ("usage/prompt_tokens",), TIME, "", "either",
           "usage: prompt_tokens, completion_tokens; reasoning tokens where the total says that they stand "
           "beside", flat),
    Format(PLAIN, (), TIME, "", "either",
           "the usual names: prompt_tokens or input_tokens, completion_tokens or output_tokens", flat,
           known="a time under `timestamp`, `arrival_s`, `created`, `time` or the like, and two counts"),
    Format("vLLM's log", (), (), "", "start", "token ids, of a stream those of all its pieces",
           known="`Received request` and `Generated response`: --enable-log-requests, --enable-log-outputs"),
    Format("SGLang's log", (), (), "", "wall", "prompt_tokens, completion_tokens",
           known="`Finish: obj=`: --log-requests"),
)  # fmt: skip

MEMORY = (
    Format(OWN, ("t_s", "used_bytes"), ("t_s",), "s", "either", "used_bytes"),
    Format("nvidia-smi", ("timestamp", "memory.used"), ("timestamp",), "", "wall",
           "memory.used, in the unit of its header or cells; [N/A] is missing",
           known="`memory.used` of --query-gpu=timestamp,memory.used --format=csv"),
    Format("Prometheus range query", ("data/result|result|metric",), ("values",), "s", "wall",
           "DCGM_FI_DEV_FB_USED is MiB, names that end in _bytes are bytes; any other needs --unit",
           known="`data/result` of /api/v1/query_range, or the list of series in it, as of DCGM's exporter"),
    Format(PLAIN, (), ("t_s", *TIME), "", "either",
           "the usual names with their unit: used_bytes, memory_used_mib, fb_used [MiB] or the like",
           known="a time under `t_s`, `timestamp`, `time` or the like, and memory in use"),
)  # fmt: skip

KINDS: dict[str, tuple[Format, ...]] = {"requests": REQUESTS, "memory": MEMORY}


def format_of(name: str, kind: str = "requests") -> Format:
    """The format of this name."""
    return next(each for each in KINDS[kind] if each.name == name)


def named(kind: str) -> str:
    """Names of all formats of one kind, for a sentence."""
    names = [each.name for each in KINDS[kind]]
    return f"{', '.join(names[:-1])} and {names[-1]}"


def nearest(columns: set[str], kind: str) -> str:
    """Which format such keys or columns come nearest to, and what they lack of it; plain names.

    Of no format that has marks of its own, the plain one.
    """
    best, share = format_of(PLAIN, kind).name, 0.0
    lacking: list[str] = []
    for each in KINDS[kind]:
        # A time alone brings a file near to none.
        marks = [
            mark for mark in each.marks if "=" not in mark and not {*mark.split("|")} & {*TIME}
        ]
        there = [mark for mark in marks if any(_names(one) & columns for one in mark.split("|"))]
        if marks and len(there) / len(marks) > share:
            share = len(there) / len(marks)
            best, lacking = each.name, [mark for mark in marks if mark not in there]
    return f"{best} without {', '.join(lacking)}" if lacking else best


def _names(path: str) -> set[str]:
    return {plain(part) for part in path.split("/")}


def of_memory(columns: set[str]) -> str:
    """The format of memory samples that such columns are of, in plain names; empty where of none."""
    for each in MEMORY:
        marks = {plain(mark.partition("/")[0]) for mark in each.marks}
        if marks and marks <= columns:
            return each.name
    return ""
