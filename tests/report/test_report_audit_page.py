"""The operator's page of an audit log: who decided when, what intervened, and what does not hold."""

import re
from pathlib import Path

import pytest
from audit_logs import context_of, found, serve, written
from report_pages import Parsed
from toy_world import toy_rows, toy_world

from rapgym.audit import sentence as audit_sentence
from rapgym.audit.log import AuditLog
from rapgym.audit.record import Record
from rapgym.audit.summary import Chosen, Log
from rapgym.errors import InvalidResult
from rapgym.model import blocks
from rapgym.report import audit_page, page

pytest.importorskip("plotly", reason="plotly is not installed: pip install 'rapgym[report]'")
pytest.importorskip("jinja2", reason="jinja2 is not installed: pip install 'rapgym[report]'")


def parsed(path: Path, chosen: Chosen | None = None) -> Parsed:
    return Parsed(page.rendered(audit_page.page(Log(path), chosen or Chosen())))


def records(path: Path) -> tuple[Log, list[Record]]:
    log = Log(path)
    return log, list(log.records())


def test_each_decision_that_was_taken_away_is_told(tmp_path: Path) -> None:
    written(tmp_path / "log.jsonl")
    log, all_of_them = records(tmp_path / "log.jsonl")
    text = parsed(tmp_path / "log.jsonl").text
    taken = [r for r in all_of_them if r.reason != "policy"]
    assert len(taken) > 10
    for record in taken:
        assert audit_sentence.explained(log.context(record), record).sentence in text
    assert f"of {len(all_of_them)} decisions from" in text
    sections = {
        s.anchor: s for s in audit_page.page(Log(tmp_path / "log.jsonl"), Chosen()).sections
    }
    assert [row[0] for row in sections["taken"].tables[0].rows] == [r.decision for r in taken]
    own = [r for r in all_of_them if r.reason == "policy" and blocks.kept_of(r.kept, 6).sum() < 6]
    assert [row[0] for row in sections["dropped"].tables[0].rows] == [r.decision for r in own]
    overrides = sum(r.reason == "override" for r in all_of_them)
    assert overrides > 0
    assert f"{overrides} decisions were an operator's override" in text
    assert f"{sum(r.reason == 'fallback' for r in all_of_them)} fallback" in text


def test_the_figure_shows_each_decision_by_its_rule(tmp_path: Path) -> None:
    written(tmp_path / "log.jsonl")
    _, all_of_them = records(tmp_path / "log.jsonl")
    made = parsed(tmp_path / "log.jsonl")
    traces = made.data("data-figure-timeline")["data"]
    limit = next(trace for trace in traces if trace["name"] == "limit")
    assert limit["x"] == [r.decision for r in all_of_them]
    assert [round(y * 2**30) for y in limit["y"]] == [r.limit_bytes for r in all_of_them]
    marks = {t["name"]: t["x"] for t in traces if t.get("meta") == "steps"}
    for reason in {r.reason for r in all_of_them}:
        assert marks[f"decided: {reason}"] == [
            r.decision for r in all_of_them if r.reason == reason
        ]
    attention = next(trace for trace in traces if trace["name"].startswith("attention"))
    dropped = [bin(~int(r.kept, 16) & 0b10101000).count("1") for r in all_of_them]
    assert attention["y"] == dropped
    assert sum(dropped) > 0


def test_the_watchdogs_changes_are_listed(tmp_path: Path) -> None:
    """A state is a lane's: that two lanes differ is no change."""
    from audit_logs import CONTEXT, WORLD
    from toy_world import lanes_at

    from rapgym.audit.step import AuditedStep
    from rapgym.world import simulator

    with AuditLog(tmp_path / "log.jsonl") as log:
        step, state = AuditedStep(simulator.step, log, CONTEXT), lanes_at(WORLD, [0, 1])
        for states in (["policy", "reference"], ["reference", "reference"], ["policy", "reverted"]):
            step.told(watchdog=states)
            state, _ = step(WORLD, state, state.loaded)
    made = parsed(tmp_path / "log.jsonl").text
    assert "the watchdog changed who decides 4 times" in made
    changes = re.findall(r"the reference policy decides for good", made)
    assert len(changes) == 2, "once in the list of states, once in the change"
    assert "No watchdog stood above these decisions." not in made
    written(tmp_path / "without.jsonl")
    assert "No watchdog stood above these decisions." in parsed(tmp_path / "without.jsonl").text


def test_a_stretch_of_time_is_shown_alone(tmp_path: Path) -> None:
    written(tmp_path / "log.jsonl")
    last = records(tmp_path / "log.jsonl")[1][-1]
    made = parsed(tmp_path / "log.jsonl", Chosen(since_us=last.time_us))
    limit = next(t for t in made.data("data-figure-timeline")["data"] if t["name"] == "limit")
    assert limit["x"][-1] == last.decision
    assert all(
        r.time_us >= last.time_us for r in records(tmp_path / "log.jsonl")[1][limit["x"][0] - 1 :]
    )
    none = parsed(tmp_path / "log.jsonl", Chosen(since_us=last.time_us + 1))
    assert "No decision was found." in none.text
    assert "There is nothing to draw." in none.text


def test_more_decisions_than_fit_are_said_to_be_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(audit_page, "MOST_DRAWN", 5)
    monkeypatch.setattr(audit_page, "MOST_TOLD", 3)
    written(tmp_path / "log.jsonl")
    made = parsed(tmp_path / "log.jsonl")
    total = len(records(tmp_path / "log.jsonl")[1])
    assert f"Drawn are the last 5 of {total} decisions" in made.text
    assert "Only the last 3 are told" in made.text
    limit = next(t for t in made.data("data-figure-timeline")["data"] if t["name"] == "limit")
    assert limit["x"] == list(range(total - 4, total + 1))


def test_a_log_that_does_not_hold_says_so_first(tmp_path: Path) -> None:
    written(tmp_path / "log.jsonl")
    path = tmp_path / "log.jsonl"
    path.write_bytes(path.read_bytes().replace(b'"reason":"override"', b'"reason":"policy"', 1))
    text = parsed(path).text
    text = " ".join(text.split())
    assert text.index("The log does not hold") < text.index("Who decided :")
    assert "was changed: its sha256 is not that of its bytes" in text


def test_a_context_that_is_gone_is_no_traceback(tmp_path: Path) -> None:
    written(tmp_path / "log.jsonl")
    path = tmp_path / "log.jsonl"
    kept = [
        line
        for line in path.read_bytes().splitlines(keepends=True)
        if b'"kind":"context"' not in line
    ]
    path.write_bytes(b"".join(kept))
    assert "cannot be explained: decision 1: the log lacks its context" in parsed(path).text


def test_what_is_no_log_is_refused(tmp_path: Path) -> None:
    (tmp_path / "x").write_text("nothing")
    with pytest.raises(InvalidResult, match="no audit log"):
        audit_page.page(Log(tmp_path / "x"), Chosen())


def test_hostile_names_stay_text(tmp_path: Path) -> None:
    hostile = "<img src=x onerror=alert(1)></script><script>alert(2)</script>"
    world = toy_world(toy_rows([5, 0, 8], [[480] * 4, [300] * 4, [260] * 4]))
    with AuditLog(tmp_path / "log.jsonl") as log:
        serve(log, 4, 2, context=context_of(world, policy=hostile), world=world)
    assert found(tmp_path / "log.jsonl")
    made = parsed(tmp_path / "log.jsonl")
    assert hostile in made.text
    assert len(made.run()) == 2
    assert not any(tag == "img" for tag, _ in made.elements)
    assert any(hostile in step["text"] for step in made.data("list-figure-timeline"))
