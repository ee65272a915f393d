"""Recorded runs of a serving engine: what was asked, when each answer came, what the engine was.

A run is a folder with

- `requests.jsonl`, one line a request: `input_toks`, `output_toks`, and on one clock, in seconds,
  `queued_ts`, `first_token_ts` and `last_token_ts`; `scheduled_ts` and `request_id` where known;
- `meta.json`, where there is one: `engine_kwargs` (`max_num_seqs`, `max_num_batched_tokens`) and
  `kv_cache` (`num_gpu_blocks`, `block_size`, `enable_prefix_caching`), as vLLM names them;
- `timeseries.csv`, where there is one: `t` (seconds from about the start), `running`, `waiting` and
  `kv_cache_pct`;
- `shared_prefix.json`, where prompts share prefixes: `pairs` of [request, earlier request, whole
  pages], by the number in `request_id` or the place in the file.

Or it is one JSON file, as `vllm bench serve --save-result --save-detailed` writes it, with the lists
`input_lens`, `output_lens`, `start_times`, `ttfts` and `itls`.
"""

import re
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.arrays import FloatArray, IntArray
from rapgym.errors import DataUnavailable, InvalidTrace
from rapgym.files import columns, incoming, json_text, limits
from rapgym.serving.requests import Requests

TOKENS = ("input_toks", "output_toks")
TIMES = ("queued_ts", "first_token_ts", "last_token_ts")
MAX_REQUESTS = 1_000_000
MOST_VALUES = 1 << 23  # of a results file, which holds the time of each token
LEAST_SHARE = 20.0  # per cent of the KV cache in use from which the number of pages is inferred
ALIGNED_S = np.arange(-2.0, 2.001, 0.05)  # by how much the two clocks of a run may differ


@dataclass(frozen=True, slots=True, eq=False)
class Ticks:
    """What the engine said of itself, about every second."""

    at_s: FloatArray  # on the clock of the requests, [T]
    running: IntArray
    waiting: IntArray
    kv_share: FloatArray | None  # of the KV cache, 0 to 1; None where the column is not filled


@dataclass(frozen=True, slots=True, eq=False)
class Run:
    """A recorded run; times are seconds from its first arrival."""

    name: str
    requests: Requests
    first_s: FloatArray  # of each request's first output token, [R]
    last_s: FloatArray
    ticks: Ticks | None
    engine: dict[str, Any]  # what it says of engine, model and device
    # vLLM's defaults, where it says nothing.
    step_tokens: int = 2048
    max_sequences: int = 256
    page_tokens: int = 16
    prefix_cache: bool = False
    pages: int | None = None  # of the KV cache; None where nothing tells
    pages_from: str = ""  # what told

    @property
    def half_s(self) -> float:
        """The middle of the run: what is fitted sees nothing of what came later."""
        return float(self.last_s.max()) / 2


def read(folder: Path, shared: Path | None = None) -> Run:
    """A recorded run.

    Args:
        folder: of a run, or a results file of vLLM's own benchmark.
        shared: a file like `shared_prefix.json`; the folder's own unless stated.

    Raises:
        DataUnavailable: the folder or its requests are not there.
        InvalidTrace: a file is not what it should be; the message names the line.
    """
    if folder.is_file():
        return _inferred(_of_vllm(folder))
    rows = _rows(folder / "requests.jsonl")
    rows.sort(key=lambda row: row["queued_ts"])
    start_s = rows[0]["queued_ts"]
    prompt, output = (np.array([row[name] for row in rows], dtype=np.int64) for name in TOKENS)
    queued_s, first_s, last_s = (
        np.array([row[name] for row in rows], dtype=np.float64) - start_s for name in TIMES
    )
    meta = _json(folder / "meta.json") if (folder / "meta.json").is_file() else {}
    asked, cache = _part(meta, "engine_kwargs"), _part(meta, "kv_cache")
    pairs = shared or folder / "shared_prefix.json"
    requests = Requests(queued_s, prompt, output)
    if pairs.is_file():
        requests = _with_shared(requests, rows, _json(pairs), pairs)
    elif shared is not None:
        raise DataUnavailable(f"{shared} is not there")
    run = Run(
        name=folder.resolve().name,
        requests=requests,
        first_s=first_s,
        last_s=last_s,
        ticks=_ticks(folder / "timeseries.csv"),
        engine={
            "model": str(meta.get("model", asked.get("model", ""))),
            "version": str(meta.get("vllm_version", "")),
            "device": str(_part(meta, "hardware").get("device_name", "")),
        },
        prefix_cache=bool(cache.get("enable_prefix_caching", pairs.is_file())),
        pages_from="meta.json",
        **_counts(
            asked, {"step_tokens": "max_num_batched_tokens", "max_sequences": "max_num_seqs"}
        ),
        **_counts(cache, {"page_tokens": "block_size", "pages": "num_gpu_blocks"}),
    )
    return _inferred(_aligned(run))


def _rows(path: Path) -> list[dict[str, Any]]:
    rows = list[dict[str, Any]]()
    lines = (line for batch in columns.lines_of(path, "requests") for line in batch)
    for number, line in enumerate(lines, 1):
        if not line.strip():
            continue
        if len(rows) == MAX_REQUESTS:
            raise InvalidTrace(f"{path} holds more than {MAX_REQUESTS} requests")
        try:
            row = json_text.parsed(line)
            fine = all(type(row[name]) is int and row[name] >= 1 for name in TOKENS) and all(
                type(row[name]) in (int, float) and np.isfinite(row[name]) for name in TIMES
            )
        except (ValueError, KeyError, TypeError):
            fine = False
        if not fine:
            raise InvalidTrace(
                f"{path}, line {number}: a request has {', '.join((*TOKENS, *TIMES))}, tokens whole and "
                "above 0, times in seconds"
            )
        if not row["queued_ts"] <= row["first_token_ts"] <= row["last_token_ts"]:
            raise InvalidTrace(f"{path}, line {number}: a request is queued, then answered")
        rows.append(row)
    if not rows:
        raise InvalidTrace(f"{path} holds no request")
    return rows


def _of_vllm(path: Path) -> Run:
    """The run of a results file of vLLM's own benchmark; requests that failed are left out."""
    told = _json(path)
    names = ("input_lens", "output_lens", "start_times", "ttfts", "itls")
    lists = [told.get(name) for name in names]
    if not all(isinstance(each, list) and each for each in lists):
        raise InvalidTrace(
            f"{path} holds no requests one by one: write it with vllm bench serve --save-result "
            "--save-detailed"
        )
    rows = []
    try:
        for prompt, output, start, ttft, itls in zip(*lists, strict=True):
            if output and ttft:
                rows.append((float(start), int(prompt), int(output), float(ttft), sum(itls)))
    except (ValueError, TypeError) as error:
        raise InvalidTrace(f"{path}: {', '.join(names)} are not lists of numbers alike") from error
    if not rows:
        raise InvalidTrace(f"{path} holds no request that was answered")
    rows.sort()
    start_s, prompt_tokens, output_tokens, ttft_s, rest_s = map(np.array, zip(*rows, strict=True))
    arrival_s = start_s - start_s[0]
    return Run(
        name=path.stem,
        requests=Requests(arrival_s, prompt_tokens, output_tokens),
        first_s=arrival_s + ttft_s,
        last_s=arrival_s + ttft_s + rest_s,
        ticks=None,
        engine={"model": str(told.get("model_id", "")), "version": "", "device": ""},
    )


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json_text.parsed(incoming.bounded(path, limits.ANSWER), most_values=MOST_VALUES)
    except OSError as error:
        raise DataUnavailable(f"{path} cannot be read ({error})") from error
    except ValueError as error:
        raise InvalidTrace(f"{path} is no JSON that can be read: {error}") from error
    if not isinstance(found, dict):
        raise InvalidTrace(f"{path} holds no JSON object")
    return found


def _part(whole: dict[str, Any], name: str) -> dict[str, Any]:
    found = whole.get(name)
    return found if isinstance(found, dict) else {}


def _counts(told: dict[str, Any], names: dict[str, str]) -> dict[str, Any]:
    """The whole numbers above 0 that are told, by our names; what is no such number is not told."""
    found = {ours: told.get(theirs) for ours, theirs in names.items()}
    return {ours: value for ours, value in found.items() if type(value) is int and value > 0}


def _with_shared(
    requests: Requests, rows: list[dict[str, Any]], told: dict[str, Any], path: Path
) -> Requests:
    numbers = [re.search(r"(\d+)$", str(row.get("request_id", ""))) for row in rows]
    place = {int(number[1]) if number else index: index for index, number in enumerate(numbers)}
    begins_like, pages = requests.begins_like.copy(), requests.shared_pages.copy()
    for pair in told.get("pairs", []):
        if not (isinstance(pair, list) and len(pair) == 3 and all(type(x) is int for x in pair)):
            raise InvalidTrace(f"{path}: a pair is [request, earlier request, whole pages]")
        later, earlier = place.get(pair[0]), place.get(pair[1])
        if later is not None and earlier is not None and earlier < later and pair[2] > 0:
            begins_like[later], pages[later] = earlier, pair[2]
    return replace(requests, begins_like=begins_like, shared_pages=pages)


def _ticks(path: Path) -> Ticks | None:
    if not path.is_file():
        return None
    kinds: dict[str, columns.Kind] = {
        "t": "float", "running": "int", "waiting": "int", "kv_cache_pct": "float"
    }  # fmt: skip
    found = columns.read(path, path.name, kinds)
    share = found["kv_cache_pct"] / 100
    return Ticks(found["t"], found["running"], found["waiting"], share if share.any() else None)


def _aligned(run: Run) -> Run:
    """Put the ticks on the requests' clock: where most of them agree on how many answers are under way."""
    if run.ticks is None or not len(run.ticks.at_s):
        return run
    there = run.ticks.running + run.ticks.waiting

    def missed(shift_s: float) -> float:
        at_s = run.ticks.at_s + shift_s  # type: ignore[union-attr]
        begun = np.searchsorted(run.requests.arrival_s, at_s, side="right")
        ended = np.searchsorted(np.sort(run.last_s), at_s, side="right")
        return float(np.abs(begun - ended - there).mean())

    best = min(ALIGNED_S, key=missed)
    return replace(run, ticks=replace(run.ticks, at_s=run.ticks.at_s + best))


def _inferred(run: Run) -> Run:
    """Where nothing tells how many pages there are: what the ticks' share of the cache amounts to."""
    if run.pages is not None:
        return run
    if run.ticks is None or run.ticks.kv_share is None:
        return replace(run, pages_from="nothing: as many as the requests ask for")
    found = []
    span_s = np.maximum(run.last_s - run.first_s, 1e-9)
    for at_s, share in zip(run.ticks.at_s, run.ticks.kv_share, strict=True):
        if share * 100 < LEAST_SHARE:
            continue
        made = (at_s - run.first_s) / span_s * run.requests.output_tokens
        tokens = (run.requests.prompt_tokens + made)[(run.first_s <= at_s) & (at_s < run.last_s)]
        found.append(np.ceil(tokens / run.page_tokens).sum() / share)
    if not found:
        return replace(run, pages_from="nothing: as many as the requests ask for")
    return replace(run, pages=int(np.median(found)), pages_from="timeseries.csv")
