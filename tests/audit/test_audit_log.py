"""The audit log as it is written: what was acknowledged stays, whatever happens to the writer."""

import base64
import json
import os
import shutil
import subprocess
import sys
import tempfile
import threading
import time
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_logs import (
    CONTEXT,
    WORLD,
    context_of,
    disk_full,
    faults,
    forged,
    found,
    one,
    records,
    serve,
    written,
)  # fmt: skip
from toy_world import lanes_at

from rapgym.audit import replay as audit_replay
from rapgym.audit.chain import Head, kept_head
from rapgym.audit.log import AuditLog
from rapgym.audit.step import AuditedStep
from rapgym.errors import AuditFailed, InvalidResult, InvalidSpec
from rapgym.files import limits
from rapgym.model import blocks
from rapgym.world import simulator

TESTS = Path(__file__).parents[1]


def test_a_record_is_what_was_decided(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    seen = np.array([[0.5, -1.25, 3e-7]], dtype=np.float32)
    more = {
        "observation": seen,
        "own_proposal": np.array([[True, True, False, True, False, True]]),
        "readable": np.array([True]),
        "late_us": np.array([1500]),
        "watchdog": ["policy"],
        "pinned": np.array([False]),
        "row": np.array([7]),
        "nll": np.array([0.1]),
    }
    before_us = time.time_ns() // 1000
    with AuditLog(path) as log:
        log.append(CONTEXT, one(tokens=3, limit=330, **more))
    (record,) = records(path)
    # Dense takes 436 bytes with 3 tokens: attn1 (52) and ffn1 (60) go, in the order.
    assert record.kept == blocks.key(np.array([True, True, False, False, True, True]))
    assert (record.limit_bytes, record.budget_bytes, record.used_bytes) == (330, 230, 324)
    assert (record.reason, record.source, record.refused) == ("repaired", "policy", False)
    assert (record.prompt_tokens, record.batch, record.row, record.limit_row) == (3, 1, 7, None)
    assert (record.late_us, record.watchdog, record.readable, record.nll) == (
        1500,
        "policy",
        True,
        0.1,
    )
    assert record.own_proposal == blocks.key(more["own_proposal"][0])  # type: ignore[index]
    assert record.observation is not None
    assert base64.b64decode(record.observation) == seen.astype("<f4").tobytes()
    assert before_us <= record.time_us <= time.time_ns() // 1000
    assert [line.kind for line in found(path)] == ["open", "context", "decision", "close"]


def test_what_the_caller_does_to_its_arrays_afterwards_changes_no_record(tmp_path: Path) -> None:
    path, decided = tmp_path / "log.jsonl", one()
    with AuditLog(path) as log:
        log.append(CONTEXT, decided)
        decided.proposal[...] = False
        decided.decision.kept[...] = False
        decided.limit_bytes[...] = 0
    (record,) = records(path)
    assert (record.proposal, record.limit_bytes) == (blocks.key(np.ones(6, dtype=bool)), 480)
    assert audit_replay.verified(path).holds


def test_batches_are_acknowledged_and_the_rest_is_held(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path, batch=4, wait_s=3600) as log:
        log.flush()  # from now on nothing is due for an hour
        for number in range(1, 11):
            log.append(CONTEXT, one())
            assert (log.head.decisions, log.held) == (number // 4 * 4, number % 4)
            assert len(records(path)) == log.head.decisions, "what is acknowledged can be read"
        assert log.flush().decisions == 10
    assert len(records(path)) == 10


def test_a_decision_waits_no_longer_than_wait_s(tmp_path: Path) -> None:
    with AuditLog(tmp_path / "log.jsonl", wait_s=0) as log:
        log.append(CONTEXT, one())
        assert (log.head.decisions, log.held) == (1, 0)


def test_a_log_is_gone_on_with_by_the_next_writer(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    first = written(path)
    second = written(path)
    assert (second.decisions, second.seq) == (2 * first.decisions, 2 * first.seq + 1)
    assert faults(path, first) == faults(path, second) == []
    verified = audit_replay.verified(path)
    assert (verified.holds, verified.decisions) == (True, second.decisions)


def test_a_long_log_is_gone_on_with_from_its_end(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "log.jsonl"
    first = written(path, rows=30)
    monkeypatch.setattr(limits, "AUDIT_LINE", 1500)  # of the file, only twice that is read
    assert path.stat().st_size > 20 * 1500
    second = written(path, rows=30)
    assert second.decisions == 2 * first.decisions
    assert audit_replay.verified(path, first).holds


def test_a_change_of_folder_does_not_move_the_log(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    with AuditLog("log.jsonl", batch=1) as log:
        monkeypatch.chdir("/")
        log.append(CONTEXT, one())
        assert log.head.decisions == 1
    assert len(records(tmp_path / "log.jsonl")) == 1


def test_a_context_is_stated_once_a_writer(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path) as log:
        for context in (CONTEXT, context_of(WORLD), context_of(WORLD, policy="other"), CONTEXT):
            log.append(context, one())
    kinds = [line.kind for line in found(path)]
    assert kinds == [
        "open",
        "context",
        "decision",
        "decision",
        "context",
        "decision",
        "decision",
        "close",
    ]
    assert [r.context for r in records(path)].count(CONTEXT.id) == 3


def test_a_log_has_one_writer(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path) as log:
        log.append(CONTEXT, one())
        with pytest.raises(AuditFailed, match="another process"):
            AuditLog(path)
        log.append(CONTEXT, one())
    assert len(records(path)) == 2
    written(path)  # the lock is gone with its holder


def test_threads_share_a_log(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path, batch=7) as log:
        threads = [threading.Thread(target=serve, args=(log, 20, 2, seed)) for seed in range(4)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
    rows = [record for record in records(path) if not record.second]
    assert len(rows) == 4 * 20 * 2
    assert audit_replay.verified(path).holds


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"lane": np.arange(2)}, "needs 1 entries"),
        ({"watchdog": ["no word"]}, "watchdog"),
        ({"loaded": np.ones((1, 4), dtype=bool)}, "kept sets are bool"),
        ({"loaded": np.ones((1, 6))}, "kept sets are bool"),
        ({"observation": np.zeros(3, dtype=np.float32)}, "observation"),
        ({"tokens": 1 << 40}, "tokens"),
        ({"tokens": -1}, "tokens"),
        ({"output_tokens": np.array([-1])}, "tokens"),
        ({"row": np.array([-1])}, "row "),
        ({"late_us": np.array([-1])}, "late_us"),
        ({"measured_bytes": np.array([(1 << 60) + 1])}, "bytes"),
    ],
)
def test_what_no_decision_can_be_is_refused_at_once(
    tmp_path: Path, change: dict[str, Any], says: str
) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path) as log:
        with pytest.raises(InvalidSpec, match=says):
            log.append(CONTEXT, one(**change))
        log.append(CONTEXT, one())
    assert len(records(path)) == 1


@pytest.mark.parametrize("content", [b"no log\n", b"\x00" * 100, b'{"seq":1}\n', b'{"a":1}'])
def test_another_file_is_not_written_to(tmp_path: Path, content: bytes) -> None:
    path = tmp_path / "notes.txt"
    path.write_bytes(content)
    with pytest.raises(InvalidResult, match="no audit log"):
        AuditLog(path)
    assert path.read_bytes() == content


def test_a_log_without_its_beginning_is_not_written_to(tmp_path: Path) -> None:
    path, end = tmp_path / "log.jsonl", tmp_path / "end.jsonl"
    written(path)
    forged(path, end, {}, Head(-1, "1" * 64, 0))
    content = end.read_bytes()
    with pytest.raises(InvalidResult, match="no audit log"):
        AuditLog(end)
    assert end.read_bytes() == content


def test_a_damaged_last_line_is_not_built_upon(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path)
    content = path.read_bytes()
    path.write_bytes(content[:-5] + b"x" + content[-4:])
    with pytest.raises(InvalidResult, match="begin another log"):
        AuditLog(path)


def test_a_folder_that_is_not_there_or_a_folder_is_an_error(tmp_path: Path) -> None:
    for path in (tmp_path / "none" / "log.jsonl", tmp_path):
        with pytest.raises(AuditFailed, match="cannot be opened"):
            AuditLog(path)


@pytest.mark.parametrize("cut", range(1, 400, 13))
def test_a_line_that_was_cut_in_two_is_taken_off_and_on_record(tmp_path: Path, cut: int) -> None:
    path = tmp_path / "log.jsonl"
    head = written(path)
    whole = path.read_bytes()
    with AuditLog(path) as log:
        log.append(CONTEXT, one())
    more = path.read_bytes()[len(whole) :]
    torn = more.splitlines(keepends=True)[0][: cut % 300]
    path.write_bytes(whole + torn)
    with AuditLog(path) as log:
        log.append(CONTEXT, one())
    (opened,) = [line for line in found(path) if line.head.seq == head.seq + 1]
    assert opened.fields["torn_bytes"] == len(torn)
    assert len(records(path)) == head.decisions + 1


READ_ONLY = """
import os, sys
from pathlib import Path
from rapgym.audit.log import AuditLog
from rapgym.errors import AuditFailed
if os.geteuid() == 0:
    os.setuid(65534)
try:
    AuditLog(Path(sys.argv[1]))
except AuditFailed as error:
    print(error)
"""


@pytest.mark.parametrize("there", [False, True])
def test_a_read_only_folder_is_an_error_that_says_so(there: bool) -> None:
    folder = Path(
        tempfile.mkdtemp(dir="/tmp")
    )  # not below pytest's own, which other users cannot enter
    try:
        path = folder / "log.jsonl"
        if there:
            written(path)
            path.chmod(0o444)
        folder.chmod(0o555)
        command = [sys.executable, "-c", READ_ONLY, str(path)]
        done = subprocess.run(command, capture_output=True, text=True, check=True)
        assert "cannot be opened to write an audit log: Permission denied" in done.stdout
        assert path.exists() == there
    finally:
        folder.chmod(0o755)
        shutil.rmtree(folder)


# A disk that is full


@pytest.mark.parametrize("room", [0, 1, 900])
def test_on_a_full_disk_serving_goes_on_and_the_gap_is_on_record(tmp_path: Path, room: int) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path, batch=4, keep=8, retry_s=0) as log:
        for _ in range(6):
            log.append(CONTEXT, one())
        log.flush()
        before = path.read_bytes()
        with disk_full(path, room):
            for number in range(1, 31):
                log.append(CONTEXT, one())
                assert log.held + log.unlogged == number
            assert log.fault is not None
            assert "too large" in log.fault
            assert path.read_bytes() == before, "nothing half-written is left"
        assert (log.held, log.unlogged) == (8, 22)
        log.append(CONTEXT, one())
        assert not log.fault
        assert log.unlogged == 0
    lines = found(path)
    (gap,) = [line for line in lines if line.kind == "gap"]
    assert (gap.fields["decisions"], gap.head.decisions) == (22, 6 + 8)
    assert "too large" in gap.fields["cause"]
    last_held, first_after = records(path)[6 + 8 - 1], records(path)[6 + 8]
    assert (
        last_held.time_us <= gap.fields["since_us"] < gap.fields["until_us"] <= first_after.time_us
    )
    verified = audit_replay.verified(path)
    assert (verified.holds, verified.decisions, verified.lost) == (True, 6 + 8 + 1, 22)


@pytest.fixture
def tiny_disk(tmp_path: Path) -> Iterator[Path]:
    """A file system of 64 KiB, where this process may mount one."""
    folder = tmp_path / "tiny"
    folder.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", str(folder)]
    if shutil.which("mount") is None or subprocess.run(mount, capture_output=True).returncode:
        pytest.skip("mounting a file system is not permitted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", str(folder)], check=True)


def test_a_disk_that_really_is_full_costs_nothing_that_was_acknowledged(
    tiny_disk: Path, caplog: pytest.LogCaptureFixture
) -> None:
    path, ballast = tiny_disk / "log.jsonl", tiny_disk / "ballast"
    ballast.write_bytes(b"x" * 20_000)
    with AuditLog(path, batch=5, keep=20, retry_s=0) as log:
        for _ in range(200):
            log.append(CONTEXT, one())
        assert log.fault is not None
        assert "No space left" in log.fault
        acknowledged = log.head.decisions
        assert acknowledged + log.held + log.unlogged == 200
        assert len(records(path)) == acknowledged > 0
        ballast.unlink()
        log.append(CONTEXT, one())
        assert log.unlogged == 0
    verified = audit_replay.verified(path)
    assert (verified.holds, verified.decisions) == (True, acknowledged + 20 + 1)
    assert verified.lost == 200 - acknowledged - 20
    told = [record.getMessage() for record in caplog.records]
    assert len(told) == 2, "once when it begins, once when it ends"
    assert "cannot be written" in told[0]
    assert "is written again" in told[1]


def test_on_a_full_disk_serving_stops_where_it_must(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path, batch=1, on_failure="stop", retry_s=0) as log:
        log.append(CONTEXT, one())
        with disk_full(path):
            with pytest.raises(AuditFailed, match="must not go on"):
                log.append(CONTEXT, one())
            with pytest.raises(AuditFailed):
                log.check()
            with pytest.raises(AuditFailed):
                log.append(CONTEXT, one())
            assert (log.head.decisions, log.held, log.unlogged) == (1, 1, 0)
        log.check()  # there is room again: what was held is written
        assert (log.head.decisions, log.held) == (2, 0)
    assert len(records(path)) == 2


def test_no_row_is_served_while_it_could_not_be_logged(tmp_path: Path) -> None:
    path, asked = tmp_path / "log.jsonl", []

    def counted(*arguments: Any) -> Any:
        asked.append(arguments)
        return simulator.step(*arguments)

    state, proposal = lanes_at(WORLD, [0]), np.ones((1, 6), dtype=bool)
    with AuditLog(path, batch=1, on_failure="stop", retry_s=0) as log:
        step = AuditedStep(counted, log, CONTEXT)
        with disk_full(path):
            for _ in range(3):
                with pytest.raises(AuditFailed):
                    step(WORLD, state, proposal)
        assert len(asked) == 1, "the first finds out, and is held; the others are not served"
        step(WORLD, state, proposal)
    assert len([r for r in records(path) if not r.second]) == len(asked) == 2


def test_what_could_not_be_written_by_the_end_is_said(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    log = AuditLog(path, batch=2, keep=2, retry_s=0)
    with disk_full(path):
        for _ in range(5):
            log.append(CONTEXT, one())
        with pytest.raises(AuditFailed, match="5 decisions after line 0 are not in it"):
            log.close()
    log.close()  # a second time does nothing
    with pytest.raises(AuditFailed, match="closed"):
        log.append(CONTEXT, one())
    assert len(found(path)) == 1


@pytest.mark.parametrize("rule", ["continue", "stop"])
@pytest.mark.parametrize("harm", ["cut", "grown", "moved", "deleted", "replaced"])
def test_a_file_that_others_change_is_not_written_to(tmp_path: Path, harm: str, rule: Any) -> None:
    path = tmp_path / "log.jsonl"
    log = AuditLog(path, batch=1, on_failure=rule, retry_s=0)
    log.append(CONTEXT, one())
    content = path.read_bytes()
    if harm in ("cut", "grown"):
        path.write_bytes(content[:-9] if harm == "cut" else content + b"more")
    elif harm == "moved":
        path.rename(tmp_path / "away.jsonl")
    else:
        path.unlink()
        if harm == "replaced":
            path.write_bytes(content)
    if rule == "stop":
        with pytest.raises(AuditFailed, match="put the file back"):
            log.append(CONTEXT, one())
    else:
        log.append(CONTEXT, one())
    assert (log.held, log.head.decisions) == (1, 1)
    if harm == "moved":
        (tmp_path / "away.jsonl").rename(path)
        log.close()
        assert len(records(path)) == 2
    else:
        with pytest.raises(AuditFailed, match="1 decisions after line 2"):
            log.close()


# kill -9

# Starts writers one after the other and kills each; prints what it knew to be safe, and what of that
# the log then lacks.
KILLER = """
import os, random, select, signal, sys, time
from pathlib import Path
sys.path.insert(0, sys.argv[2])
from audit_logs import faults, serve
from rapgym.audit.log import AuditLog
from rapgym.audit.chain import kept_head

path, rng = Path(sys.argv[1]), random.Random(int(sys.argv[4]))

def write(pipe):
    batch, durable = rng.choice([1, 16, 256]), rng.random() < 0.5
    log, said = AuditLog(path, batch=batch, durable=durable), 0
    while True:
        serve(log, rows=4, lanes=3, seed=said)
        if log.head.decisions > said:
            said = log.head.decisions
            os.write(pipe, f"{log.head}\\n".encode())

for kill in range(int(sys.argv[3])):
    rng.random()
    read, pipe = os.pipe()
    child = os.fork()
    if child == 0:
        os.close(read)
        write(pipe)
    os.close(pipe)
    if kill % 4:  # at full speed; else at any moment, while it opens the log too
        select.select([read], [], [])
    time.sleep(rng.uniform(0, 0.08))
    os.kill(child, signal.SIGKILL)
    os.waitpid(child, 0)
    with os.fdopen(read) as told:
        heads = told.read().splitlines()
    last = heads[-1] if heads else "none"
    lacks = [] if not path.exists() or not path.stat().st_size else [
        each for each in faults(path, kept_head(last) if heads else None)
        if "the log is cut" not in each
    ]
    print(last, "; ".join(lacks), sep="|", flush=True)
"""


def check_kills(path: Path, kills: int, seed: int) -> None:
    """One log whose writers are killed over and over: all that any acknowledged is there, each time
    and in the end; no more than an unfinished line is on top of it."""
    command = [sys.executable, "-c", KILLER, str(path), str(TESTS), str(kills), str(seed)]
    done = subprocess.run(command, capture_output=True, text=True, check=True)
    told = [line.partition("|") for line in done.stdout.splitlines()]
    assert len(told) == kills
    assert [lacks for _, _, lacks in told if lacks] == []
    heads = [kept_head(head) for head, _, _ in told if head != "none"]
    assert len(heads) >= kills / 2
    with AuditLog(path):
        pass
    assert all(faults(path, head) == [] for head in heads[:: max(1, kills // 10)])
    verified = audit_replay.verified(path, heads[-1])
    assert (verified.holds, verified.sentences) == (True, [])
    assert verified.decisions > 5 * kills


def test_kill_9_loses_nothing_that_was_acknowledged(tmp_path: Path) -> None:
    check_kills(tmp_path / "log.jsonl", kills=20, seed=0)


@pytest.mark.slow
def test_kill_9_two_hundred_times(tmp_path: Path) -> None:
    check_kills(tmp_path / "log.jsonl", kills=200, seed=1)


def test_lines_are_json_that_any_program_reads(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path)
    before = "0" * 64
    # The chain in a few lines that know nothing of rapgym.
    import hashlib

    lines = path.read_bytes().splitlines()
    assert len(lines) > 10
    for raw in lines:
        told = json.loads(raw)
        body = raw[: raw.rindex(b',"sha256":"')]
        assert told["previous"] == before
        assert hashlib.sha256(body).hexdigest() == told["sha256"]
        before = told["sha256"]


def test_the_log_outlives_a_step_that_raises(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"

    def broken(*_: Any) -> Any:
        raise RuntimeError("the device is gone")

    with AuditLog(path) as log:
        state = lanes_at(WORLD, [0])
        with pytest.raises(RuntimeError):
            AuditedStep(broken, log, CONTEXT)(WORLD, state, np.ones((1, 6), dtype=bool))
        AuditedStep(simulator.step, log, CONTEXT)(WORLD, state, np.ones((1, 6), dtype=bool))
    assert len([r for r in records(path) if not r.second]) == 1
    assert os.path.getsize(path)
