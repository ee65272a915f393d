"""`rapgym audit`, and `rapgym verify` of a log: what a user types, and what comes back."""

import csv
import json
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_logs import CONTEXT, WORLD, context_of, disk_full, forged, one, records, written

from rapgym.audit.log import AuditLog
from rapgym.audit.summary import moment, moment_us
from rapgym.cli import main
from rapgym.errors import InvalidSpec
from rapgym.scenarios.story import Scenario


@pytest.fixture(scope="module")
def log(tmp_path_factory: pytest.TempPathFactory) -> Path:
    path = tmp_path_factory.mktemp("log") / "log.jsonl"
    written(path, rows=8)
    return path


Capture = pytest.CaptureFixture[str]


def told(capsys: Capture, *words: object) -> tuple[int, str]:
    """Exit code, and all that was printed."""
    code = main(["audit", *map(str, words)])
    printed = capsys.readouterr()
    return code, printed.out + printed.err


def as_json(capsys: Capture, *words: object) -> Any:
    code, printed = told(capsys, *words, "--json")
    assert code == 0
    return json.loads(printed)


def test_the_summary_counts_what_the_log_holds(log: Path, capsys: Capture) -> None:
    every = records(log)
    found = as_json(capsys, log)
    assert found["decisions"] == len(every)
    assert found["reasons"] == {
        r: [e.reason for e in every].count(r) for r in sorted({e.reason for e in every})
    }
    assert found["policies"] == [
        {"policy": "random", "scenario": "toy-v0", "decisions": len(every)}
    ]
    assert (found["since"], found["until"]) == (moment(every[0].time_us), moment(every[-1].time_us))
    rows = [e for e in every if e.cost is not None and e.output_tokens is not None]
    paid = sum(part * e.output_tokens for e in rows for part in e.cost)  # type: ignore[union-attr,operator,misc]
    assert found["cost"] == pytest.approx(paid / sum(e.output_tokens or 0 for e in rows))
    assert sum(found["terms"].values()) == pytest.approx(found["cost"])
    assert (found["writers"], found["closed"], found["lost"], found["faults"]) == (1, True, 0, 0)
    code, text = told(capsys, log)
    assert code == 0
    assert f"decisions   {len(every)}\n" in text
    assert "random on toy-v0" in text
    assert f"head        {found['head']}" in text


def test_filters_choose_by_reason_and_time(log: Path, capsys: Capture) -> None:
    every = records(log)
    chosen = [e.decision for e in every if e.reason in ("repaired", "emergency")]
    found = as_json(capsys, log, "--reason", "repaired", "--reason", "emergency")
    assert (found["decisions"], found["first"]) == (len(chosen), chosen[:10])
    middle = every[len(every) // 2].time_us
    late = as_json(capsys, log, "--since", moment(middle))
    early = as_json(capsys, log, "--until", moment(middle))
    assert late["decisions"] == sum(e.time_us >= middle for e in every)
    assert early["decisions"] + late["decisions"] == len(every)
    none = as_json(capsys, log, "--since", "2001-01-01", "--until", "2001-01-02")
    assert (none["decisions"], none["cost"], none["since"]) == (0, None, None)
    assert (
        f"--row {chosen[0]}"
        in told(capsys, log, "--reason", "repaired", "--reason", "emergency")[1]
    )


def test_moments_are_utc_unless_they_say_otherwise() -> None:
    noon = int(datetime(2026, 11, 25, 12, tzinfo=UTC).timestamp() * 1e6)
    for text in ("2026-11-25T12:00:00", "2026-11-25T14:00:00+02:00", "2026-11-25 12:00"):
        assert moment_us(text) == noon
    assert moment_us(moment(noon + 1)) == noon + 1
    with pytest.raises(InvalidSpec, match="is no moment"):
        moment_us("yesterday")


def test_a_row_is_explained(log: Path, capsys: Capture) -> None:
    code, text = told(capsys, log, "--row", 3)
    assert code == 0
    assert text.startswith("Decision 3 (")
    assert "the runner-up" in text
    assert "Decided by: " in text
    found = as_json(capsys, log, "--row", 3)
    assert found["sentence"] + "\n" == text
    assert (found["decision"], found["policy"], found["scenario"]) == (3, "random", "toy-v0")
    assert set(found["runner_up"]) == {"name", "kept", "nats"}


def test_verify_follows_chain_and_replay(log: Path, tmp_path: Path, capsys: Capture) -> None:
    code, text = told(capsys, log, "--verify")
    assert code == 0
    assert f"{len(records(log))} decisions replay and the chain holds" in text
    assert "--head" in text
    head = as_json(capsys, log, "--verify")["head"]
    code, text = told(capsys, log, "--verify", "--head", head)
    assert (code, "is the one that was kept" in text) == (0, True)
    cut = tmp_path / "cut.jsonl"
    cut.write_bytes(b"".join(log.read_bytes().splitlines(keepends=True)[:-2]))
    assert told(capsys, cut, "--verify")[0] == 0
    code, text = told(capsys, cut, "--verify", "--head", head)
    assert (code, "gone from the end" in text) == (1, True)
    lied = tmp_path / "lied.jsonl"
    forged(log, lied, {4: {"limit_bytes": 1}})
    for words in (["audit", str(lied), "--verify"], ["verify", str(lied)]):
        assert main(words) == 1
        assert "does not replay" in capsys.readouterr().out


def test_the_verify_command_knows_a_log(log: Path, capsys: Capture) -> None:
    assert main(["verify", str(log)]) == 0
    assert "decisions replay" in capsys.readouterr().out
    assert main(["verify", str(log), "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["differing"] == 0


def test_csv_holds_each_decision_as_a_row(log: Path, tmp_path: Path, capsys: Capture) -> None:
    out = tmp_path / "decisions.csv"
    code, text = told(capsys, log, "--export", out)
    every = records(log)
    assert (code, text) == (0, f"wrote {len(every)} decisions to {out}\n")
    with out.open(newline="") as file:
        rows = list(csv.DictReader(file))
    assert [row["kept"] for row in rows] == [e.kept for e in every]
    assert [int(row["limit_bytes"]) for row in rows] == [e.limit_bytes for e in every]
    assert [row["reason"] for row in rows] == [e.reason for e in every]
    assert [row["refused"] for row in rows] == [str(e.refused) for e in every]
    assert [float(row["cost_stall"] or -1) for row in rows] == [
        e.cost[1] if e.cost is not None else -1 for e in every
    ]
    assert all(float(row["runner_up_nats"]) >= 0 for row in rows)
    assert as_json(capsys, log, "--export", out, "--force", "--reason", "policy")[
        "decisions"
    ] < len(every)


def test_no_name_becomes_a_formula(tmp_path: Path, capsys: Capture) -> None:
    path, out = tmp_path / "log.jsonl", tmp_path / "decisions.csv"
    with AuditLog(path) as log:
        log.append(context_of(WORLD, policy="=cmd()"), one())
    assert told(capsys, path, "--export", out)[0] == 0
    with out.open(newline="") as file:
        (row,) = csv.DictReader(file)
    assert row["policy"] == "'=cmd()"


def test_parquet_holds_observations_as_numbers(tmp_path: Path, capsys: Capture) -> None:
    pq = pytest.importorskip("pyarrow.parquet")
    path, out = tmp_path / "log.jsonl", tmp_path / "decisions.parquet"
    seen = np.array([[0.5, -1.5]], dtype=np.float32)
    with AuditLog(path) as log:
        log.append(CONTEXT, one(observation=seen))
        log.append(CONTEXT, one(limit=330))
    assert told(capsys, path, "--export", out)[0] == 0
    table = pq.read_table(out).to_pylist()
    assert [row["observation"] for row in table] == [[0.5, -1.5], None]
    assert [row["used_bytes"] for row in table] == [436, 324]
    assert [row["dropped_ffn"] for row in table] == [0, 1]
    assert [row["refused"] for row in table] == [False, False]


def test_gaps_and_damage_are_in_the_summary(tmp_path: Path, capsys: Capture) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path, batch=1, keep=1, retry_s=0) as log:
        log.append(CONTEXT, one())
        with disk_full(path):
            for _ in range(4):
                log.append(CONTEXT, one())
    found = as_json(capsys, path)
    assert (found["decisions"], found["lost"]) == (2, 3)
    assert "3 decisions after decision 2 were not logged" in told(capsys, path)[1]
    every = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(b"".join([*every[:2], *every[3:]])[:-20])
    code, text = told(capsys, path)
    assert code == 1
    assert "wrong       line 2 is missing before line 3" in text
    assert "the log is cut" in text


@pytest.mark.parametrize(
    ("words", "code", "says"),
    [
        (["LOG", "--row", "9999"], 2, "not 9999"),
        (["LOG", "--row", "1", "--verify"], 2, "do not go together"),
        (["LOG", "--head", "3:ab"], 2, "goes with --verify"),
        (["LOG", "--verify", "--head", "3:ab"], 2, "is no head"),
        (["LOG", "--since", "soon"], 2, "is no moment"),
        (["LOG", "--export", "out.xlsx"], 2, ".csv or .parquet"),
        (["none.jsonl"], 2, "no audit log at 'none.jsonl'"),
        (["NOTES"], 1, "is no audit log"),
        (["EMPTY"], 1, "is empty"),
        (["NOTES", "--verify"], 1, "is no audit log"),
        (["NOTES", "--make"], 1, "is no audit log"),
        (["no-folder/log.jsonl", "--make"], 2, "cannot be opened"),
        (["LOG", "--make", "--policy", "nobody"], 2, "no policy is called"),
    ],
)
def test_wrong_use_is_answered_in_a_sentence(
    log: Path, tmp_path: Path, capsys: Capture, words: list[str], code: int, says: str
) -> None:
    own, notes, empty = tmp_path / "log.jsonl", tmp_path / "notes.txt", tmp_path / "empty"
    own.write_bytes(log.read_bytes())
    notes.write_text("nothing\n")
    empty.write_text("")
    named = {"LOG": own, "NOTES": notes, "EMPTY": empty}
    found, text = told(capsys, *(named.get(word, word) for word in words))
    assert found == code
    assert text.startswith("rapgym: ")
    assert says in text


def test_make_logs_a_policy_that_can_be_tried_at_once(
    toy_story: Scenario, tmp_path: Path, capsys: Capture
) -> None:
    path = tmp_path / "log.jsonl"
    words = (path, "--make", "--scenario", "toy", "--policy", "gsi", "--watchdog")
    code, text = told(capsys, *words)
    assert code == 0
    assert "logged" in text
    assert "gsi on toy-v0" in text
    count = len(records(path))
    assert told(capsys, *words, "--force", "--split", "test", "--durable")[0] == 0
    assert len(records(path)) > count, "a log that is there is added to"
    assert told(capsys, path, "--verify")[0] == 0
    assert told(capsys, path, "--row", count + 1)[0] == 0
