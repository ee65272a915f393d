"""Every kind of file that rapgym reads: a valid one, how it is damaged, and what reads it."""

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import damage
import numpy as np
import table_device  # noqa: F401  # torch's import, once
import toy_table
import toy_world
from audit_logs import written
from hypothesis import strategies as st
from plain_records import about_of

from rapgym.audit import replay as audit_replay
from rapgym.baselines.keep_all import KeepAll
from rapgym.bench import cells, results
from rapgym.bench.results import Results
from rapgym.model import profiles
from rapgym.policies import registry, trained
from rapgym.policies.policy import briefing
from rapgym.policies.trained import TrainedPolicy
from rapgym.quality import file as table_file
from rapgym.quality.table import QualityTable
from rapgym.recorder import work_file
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios.story import Scenario
from rapgym.workload import series, trace
from rapgym.workload.inputs import memory, requests


@dataclass(frozen=True)
class Kind:
    """One kind of file."""

    name: str  # of the file that is damaged
    damaged: Callable[[bytes], st.SearchStrategy[bytes]]
    read: Callable[[Path], Any]


def read_table(path: Path) -> Any:
    """A table and all that is asked of it."""
    table = QualityTable.load(path)
    for columns in (table.calibration(), table.test()):
        nll, _ = columns.nll(columns.grid_kept)
        assert np.isfinite(nll).all()
        assert columns.ceiling == columns.ceiling


def read_series(path: Path) -> Any:
    found = series.read(path)
    for split in series.SPLITS:
        found.part(series.split_rows(len(found), split))
    return found.single_requests()


def read_recording(path: Path) -> Any:
    out = path.with_suffix("")
    try:
        return work_file.finish_left_over(out)
    finally:
        for made in path.parent.glob("*.csv"):
            made.unlink()


def read_results(path: Path) -> Any:
    found = results.read(path)
    return results.most_served(found, 3)


def read_settings(path: Path) -> Any:
    """Settings that were tuned on this machine, asked for the toy scenario on own traces."""
    return registry.own_tuned()


KINDS = {
    "table": Kind("table.csv.gz", damage.headed, read_table),
    "series": Kind("series.csv.gz", damage.headed, read_series),
    "results": Kind("results.csv.gz", damage.headed, read_results),
    "results-xz": Kind("results.csv.xz", damage.headed, read_results),
    "requests": Kind("requests.csv", damage.plain, lambda path: trace.read_requests(path, "r")),
    "requests-gz": Kind("requests.csv.gz", damage.damaged, lambda path: trace.read_requests(path, "r")),
    "memory": Kind("memory.csv", damage.plain, lambda path: trace.read_memory(path, "m")),
    "recording": Kind("out.csv.recording", damage.plain, read_recording),
    "access-log": Kind("access.jsonl", damage.json_lines, requests.read),
    "access-log-gz": Kind("access.jsonl.gz", damage.damaged, requests.read),
    "memory-log": Kind("smi.csv", damage.plain, memory.read),
    "memory-json": Kind("range.json", damage.json_file, memory.read),
    "profile": Kind("profile.json", damage.json_file, lambda path: profiles.read(str(path))),
    "settings": Kind("tuned.json", damage.json_file, read_settings),
    "trained": Kind("policy.npz", damage.damaged, trained.read),
    "audit-log": Kind("audit.jsonl", damage.json_lines, audit_replay.verified),
}  # fmt: skip


def write_all(folder: Path, story: Scenario) -> None:
    """A valid file of each kind; the story's table, model and series are at hand."""
    rows = table_file.packed(toy_table.toy_header(), toy_table.toy_rows())
    (folder / "table.csv.gz").write_bytes(rows)
    series.write(toy_world.toy_series(40), folder / "series.csv.gz")
    for name in ("results.csv.gz", "results.csv.xz"):
        results.write(folder / name, toy_results(story))
    times, tokens = np.arange(20) * 1.5, np.arange(20) + 1
    requests = trace.RequestTrace("r", times, tokens, tokens, start_wall_s=1e9)
    for name in ("requests.csv", "requests.csv.gz"):
        trace.write_requests(requests, folder / name)
    trace.write_memory(trace.MemoryTrace("m", times, tokens * 1000), folder / "memory.csv")
    with work_file.WorkFile(folder / "out.csv", "memory", {"source": "system"}) as work:
        for second in range(12):
            work.append(float(second), 1000 * second)
    lines = [
        json.dumps({"timestamp": 1e9 + i, "status": 200, "usage": {"prompt_tokens": 5 + i,
                    "completion_tokens": 3}}) for i in range(12)
    ]  # fmt: skip
    lines.append(
        "INFO 01-02 03:04:05 Received request cmpl-1: prompt: 'x', prompt_token_ids: [1, 2]"
    )
    lines.append(
        "[2025-01-02 03:04:05] Finish: obj='prompt_tokens': 7, 'completion_tokens': 2, 'e2e_latency': 1.5"
    )
    import gzip

    text = "\n".join([*lines, ""]).encode()
    (folder / "access.jsonl").write_bytes(text)
    (folder / "access.jsonl.gz").write_bytes(gzip.compress(text))
    smi = [f"2026/07/21 12:00:{second:02d}.5, {1000 + second} MiB" for second in range(12)]
    (folder / "smi.csv").write_text("\n".join(["timestamp, memory.used [MiB]", *smi, ""]))
    samples = [[1_790_000_000 + 15 * i, str(20_000 + i)] for i in range(12)]
    series_of = {"metric": {"__name__": "DCGM_FI_DEV_FB_USED", "gpu": "0"}, "values": samples}
    told = {"status": "success", "data": {"resultType": "matrix", "result": [series_of]}}
    (folder / "range.json").write_text(json.dumps(told))
    profile = profiles.stored(profiles.path_of("cpu-2core"))
    profiles.write(profile, folder / "profile.json")
    (folder / "tuned.json").write_text(
        json.dumps({"forecast": {"toy-v0": {"train": {"near": 3}, "table_sha256": "0"}}})
    )
    trained.write(folder / "policy.npz", toy_policy(story))
    written(folder / "audit.jsonl", rows=6, lanes=2)


def toy_results(story: Scenario) -> Results:
    log: EpisodeLog = rollout.run(KeepAll, story, "test", briefing(story))
    about = about_of("keep-all", scenario=story.id, kind="reactive")
    header: dict[str, Any] = {"scenarios": {}, "tables": {}, "workloads": {}}
    return Results(header, (cells.scored(story, about, log),))


def toy_policy(story: Scenario) -> TrainedPolicy:
    return TrainedPolicy(
        method="weighted",
        scenario=story.id,
        told="train",
        seed=3,
        table_sha256="0" * 64,
        workload_sha256="0" * 64,
        world_sha256="0" * 64,
        observation={"schema": 1},
        training={"opened": ["learn"]},
        arrays={"kept": np.ones((4, 6), dtype=np.float16), "bias": np.zeros(6)},
    )
