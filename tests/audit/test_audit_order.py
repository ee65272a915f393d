"""What no writer produces shows in a log whose chain holds."""

from pathlib import Path
from typing import Any

import pytest
from audit_logs import faults, forged, found, written

from rapgym.audit import log as audit_log
from rapgym.audit import replay as audit_replay
from rapgym.audit.log import AuditLog
from rapgym.audit.read import Line


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path: Path = tmp_path_factory.mktemp("order") / "decisions.jsonl"
    written(path, rows=4, lanes=2)
    return path


def said(path: Path) -> str:
    return "\n".join(audit_replay.verified(path).sentences)


def lied(log: Path, folder: Path, change: dict[int, dict[str, Any]]) -> Path:
    forged(log, folder / "forged.jsonl", change)
    return folder / "forged.jsonl"


def first(path: Path, kind: str) -> Line:
    return next(each for each in found(path) if each.kind == kind)


@pytest.mark.parametrize(
    ("change", "told"),
    [
        ({"time_us": 5}, "time runs back"),
        ({"watchdog": "asleep"}, "no watchdog has the state asleep"),
        ({"second": 999, "source": "emergency"}, "second 999 of a row"),
        ({"cost": [0.0, -1.0, 0.0, 0.0]}, "its cost is none that a row can have"),
        ({"cost": [0.0, 99.0, 0.0, 0.0]}, "its cost is none that a row can have"),
    ],
)
def test_a_decision_that_cannot_be_is_named(
    change: dict[str, Any], told: str, log: Path, tmp_path: Path
) -> None:
    seq = found(log)[-2].head.seq
    assert told in said(lied(log, tmp_path, {seq: change}))


def test_a_decision_that_stands_twice_is_named(log: Path, tmp_path: Path) -> None:
    """Two lanes of one moment, the second of which was written over with the first."""
    one = first(log, "decision")
    assert one.fields["lane"] == 0
    again = {name: one.fields[name] for name in one.fields if name not in ("seq", "decision", "previous", "sha256")}  # fmt: skip
    path = lied(log, tmp_path, {one.head.seq + 1: again})
    assert "lane 0 decides twice at the same time" in said(path)


def test_a_decision_after_the_close_is_named(log: Path, tmp_path: Path) -> None:
    last = found(log)[-1]
    assert last.kind == "close"
    one = found(log)[-2]
    path = lied(log, tmp_path, {one.head.seq - 1: {"kind": "close"}})
    assert "after its close" in said(path)


def test_a_writer_that_goes_on_with_a_log_begins_anew(log: Path, tmp_path: Path) -> None:
    path = tmp_path / "on.jsonl"
    path.write_bytes(log.read_bytes())
    with AuditLog(path):
        pass
    assert faults(path) == []
    assert said(path) == ""


def test_a_clock_that_is_set_back_changes_no_order(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    times = iter(range(10_000_000, 0, -1000))
    monkeypatch.setattr(audit_log, "now_us", lambda: next(times))
    path = tmp_path / "back.jsonl"
    written(path, rows=4, lanes=2)
    assert said(path) == ""
