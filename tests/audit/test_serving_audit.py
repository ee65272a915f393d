"""The audit log of a serving engine: a line a second, run again from the log alone."""

import json
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import gymnasium
import numpy as np
import pytest
from serving_bench import FALTERS, WHO, benched

from rapgym import cli
from rapgym.audit import replay, summary
from rapgym.audit.log import AuditLog
from rapgym.audit.serving import context as audit_context
from rapgym.audit.serving import step as audit_step
from rapgym.audit.serving.context import ServeContext
from rapgym.audit.serving.record import FIELDS, ServeRecord
from rapgym.audit.serving.sentence import sentence
from rapgym.audit.step import audit_env
from rapgym.audit.summary import Chosen, Log
from rapgym.bench.serving import cells
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.guard.foreign import Terms
from rapgym.guard.guard import Guarding
from rapgym.guard.watchdog import Rules
from rapgym.policies.serving import serve_briefing
from rapgym.rollout.serving import play
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import batch
from rapgym.serving.world import Part

PARTS = [Part(0, 30, 70), Part(0, 200, 50)]


@pytest.fixture(scope="module")
def path(serving_story: ServeScenario, tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """A log of the lookup, with two episodes side by side."""
    found = tmp_path_factory.mktemp("audit") / "lookup.jsonl"
    with benched(serving_story):
        with AuditLog(found, on_failure="stop") as log:
            assert audit_step.log_run(log, serving_story, "test", "lookup", parts=PARTS) == 120
        yield found


def records(path: Path) -> list[ServeRecord]:
    return [each for each in Log(path).of_both_worlds() if isinstance(each, ServeRecord)]


def _paid(record: ServeRecord) -> float:
    return sum(part or 0.0 for part in record.cost or ()) * record.output_tokens


def context_of(path: Path) -> ServeContext:
    log = Log(path)
    (found,) = {
        log.serving_context(each) for each in log.of_both_worlds() if isinstance(each, ServeRecord)
    }
    return found


def test_every_second_is_a_line_and_replays(path: Path, serving_story: ServeScenario) -> None:
    found = replay.verified(path)
    assert found.holds, found.sentences
    assert (found.decisions, found.unreplayed) == (120, 0)
    each = records(path)
    world, told = serving_worlds.world(serving_story, "test"), serve_briefing(serving_story)
    make = cells.made_of(cells.rule_facts(serving_story, "lookup"))
    served = play(make, world, PARTS, told)
    for lane in range(2):
        mine = [record for record in each if record.lane == lane]
        assert [record.second for record in mine] == list(range(PARTS[lane].seconds))
        total = served.record[lane]
        assert sum(record.tokens for record in mine) == total[batch.TOKENS]
        assert sum(record.shed for record in mine) == total[batch.SHED]
        paid = sum(_paid(record) for record in mine)
        assert paid == pytest.approx(total[batch.COST])
        limit = world.spans[0].limit_bytes
        assert [r.limit_bytes for r in mine] == limit[PARTS[lane].start_s :][: len(mine)].tolist()
        requests = world.requests(PARTS[lane])
        assert sum(len(record.arrived) for record in mine) == len(requests)
        # Observations are float32: bytes are read back to the byte here, for the card is small.
        assert [r.seen_limit_bytes for r in mine[1:]] == [r.limit_bytes for r in mine[:-1]]


def test_a_context_says_all_that_it_needs(path: Path) -> None:
    context = context_of(path)
    again = audit_context.of_json(json.loads(json.dumps(context.as_json())))
    assert again.id == context.id
    assert len(context.world.spans[0].arrival_us) == 0, "no request is in it"


BAD: dict[str, Any] = {
    "nll": [[0.0]], "goes_next": [[7]], "ceiling": -1.0, "shed_s": 0.0, "table_sha256": "x",
    "scenario": "a\x1b", "means": {"requests": 0.0, "prompt_tokens": 1.0, "output_tokens": 1.0},
    "profile": {}, "footprint": None, "card_bytes": 1 << 63, "link_bytes_per_s": 0.0, "deadlines": [],
    "history_share": ["a"], "reaction_s": float("inf"),
}  # fmt: skip


@pytest.mark.parametrize("name", BAD)
def test_a_context_that_cannot_be_is_refused(name: str, path: Path) -> None:
    told = context_of(path).as_json() | {name: BAD[name]}
    with pytest.raises(InvalidResult):
        audit_context.of_json(told)


@pytest.mark.parametrize("name", ["base_s", "step_tokens", "prefix_cache", "page_tokens"])
def test_a_profile_that_would_never_end_is_refused(name: str, path: Path) -> None:
    told = context_of(path).as_json()
    values = {"base_s": 0.0, "step_tokens": 1 << 40, "prefix_cache": True, "page_tokens": 0}
    with pytest.raises(InvalidResult):
        audit_context.of_json(told | {"profile": told["profile"] | {name: values[name]}})


def rewritten(
    path: Path, out: Path, change: Callable[[dict[str, Any]], None], of: int = 40
) -> Path:
    """The log as a forger writes it, who changes a decision and computes every hash anew."""
    import hashlib

    previous, lines, decision = "0" * 64, list[str](), 0
    for text in path.read_text().splitlines():
        told = json.loads(text)
        decision += told["kind"] == "decision"
        if told["kind"] == "decision" and decision == of:
            change(told)
        told["previous"] = previous
        del told["sha256"]
        body = json.dumps(told, separators=(",", ":"))[:-1]
        previous = hashlib.sha256(body.encode()).hexdigest()
        lines.append(f'{body},"sha256":"{previous}"}}')
    out.write_text("\n".join([*lines, ""]))
    return out


def _put(**values: Any) -> Callable[[dict[str, Any]], None]:
    return lambda told: told.update(values)


def _add(name: str, by: int = 1) -> Callable[[dict[str, Any]], None]:
    return lambda told: told.update({name: told[name] + by})


FORGED: dict[str, Callable[[dict[str, Any]], None]] = {
    "tokens": _add("tokens"), "sheds": _add("shed"), "preemptions": _add("preemptions"),
    "a limit": _add("limit_bytes", -200), "the limit seen": _add("seen_limit_bytes", 50),
    "a decision": _put(decided=[0, 1, 0], asked=[0, 1, 0]), "blocks": _add("ffn_dropped"),
    "what was asked": _put(asked=[2, 2, 0]), "bytes": _add("used_bytes"), "the queue": _add("waiting"),
    "a request": _put(arrived=[[10, 9, 9], [20, 4, 4], [30, 4, 4]]), "the source": _put(source="fallback"),
    "the reason": _put(reason="repaired"), "lateness": _put(late_us=5), "an unread answer": _put(readable=False),
    "the watchdog": _put(watchdog="reference"), "a strange watchdog": _put(watchdog="asleep"),
    "the second": _add("second"), "the episode": _add("episode"), "a cost": _put(cost=[0.0, 0.0, 0.0]),
    "the observation": lambda told: told.update(observation="A" + told["observation"][1:-4] + "AAAA"),
    "too many blocks": _put(decided=[50, 0, 0]), "pages": _add("pages_used"), "steps": _add("steps"),
}  # fmt: skip


@pytest.mark.parametrize("what", FORGED)
def test_what_a_forger_changes_shows(what: str, path: Path, tmp_path: Path) -> None:
    forged = rewritten(path, tmp_path / "forged.jsonl", FORGED[what])
    assert not replay.verified(forged).holds


def test_rewriting_nothing_changes_nothing(path: Path, tmp_path: Path) -> None:
    assert replay.verified(rewritten(path, tmp_path / "same.jsonl", lambda told: None)).holds


def test_a_changed_byte_breaks_the_chain(path: Path, tmp_path: Path) -> None:
    (tmp_path / "x.jsonl").write_text(path.read_text().replace('"tokens":', '"tokens":1', 1))
    assert not replay.verified(tmp_path / "x.jsonl").holds


def test_an_episode_cut_short_replays_as_far_as_it_is_known(path: Path, tmp_path: Path) -> None:
    lines = path.read_text().splitlines(keepends=True)
    (tmp_path / "cut.jsonl").write_text("".join(lines[:60]))
    found = replay.verified(tmp_path / "cut.jsonl")
    assert found.holds, found.sentences
    assert 0 < found.unreplayed < 10
    assert "chain and rule alone" in replay.told(found)


def test_words_speak_of_queue_deadlines_and_memory(path: Path) -> None:
    context, each = context_of(path), records(path)
    busy = next(
        record for record in each if record.waiting and record.ffn_dropped and record.tokens
    )
    said = sentence(context, busy)
    for word in ("waiting", "first token is due 1 s and 10 ms a prompt token", "limit", "FFN", "in use", "by their deadline",
                 "nats a token", "Decided by: the policy's decision"):  # fmt: skip
        assert word in said, said
    shed = next(record for record in each if record.shed)
    assert "given up" in sentence(context, shed)


def test_a_policy_that_falters_is_logged_as_that(
    path: Path, serving_story: ServeScenario, tmp_path: Path
) -> None:
    (tmp_path / "falters.py").write_text(FALTERS)
    with AuditLog(tmp_path / "f.jsonl") as log:
        terms = Terms(folders=(str(tmp_path),))
        audit_step.log_run(log, serving_story, "test", WHO, parts=PARTS[:1], terms=terms)
    found = records(tmp_path / "f.jsonl")
    assert [r.second for r in found if r.reason == "fallback"] == [1, 2]
    assert replay.verified(tmp_path / "f.jsonl").holds
    chosen = Chosen(reasons=frozenset({"fallback"}))
    assert summary.summary(Log(tmp_path / "f.jsonl"), chosen)["decisions"] == 2
    assert "could not be used" in sentence(context_of(tmp_path / "f.jsonl"), found[1])


def test_a_watched_policy_replays_too(
    path: Path, serving_story: ServeScenario, tmp_path: Path
) -> None:
    rules = Rules(window_rows=20, tolerance=0.2, hand_back_rows=10, factor=1.0)
    with AuditLog(tmp_path / "w.jsonl") as log:
        audit_step.log_run(
            log, serving_story, "test", "engine", parts=PARTS, guarding=Guarding(rules)
        )
    assert any(record.reason == "watchdog" for record in records(tmp_path / "w.jsonl"))
    found = replay.verified(tmp_path / "w.jsonl")
    assert found.holds, found.sentences


def test_environments_are_audited_episode_by_episode(
    path: Path, serving_story: ServeScenario, tmp_path: Path
) -> None:
    env = gymnasium.make_vec("RAP-Serve-v0", 2, scenario=serving_story, split="train")
    with AuditLog(tmp_path / "e.jsonl") as log:
        env.reset(seed=1)
        env.step(np.zeros((2, 3), dtype=np.int64))  # before anybody asks
        audit_env(env, log, policy="mine")
        with pytest.raises(InvalidSpec, match="audited already"):
            audit_env(env, log, policy="mine")
        env.step(np.ones((2, 3), dtype=np.int64))
        env.reset(seed=2)
        for _ in range(12):
            env.step(env.action_space.sample())
        env.close()
        assert not log.held, "closing the environment writes what is held"
    found = replay.verified(tmp_path / "e.jsonl")
    assert found.holds, found.sentences
    assert found.decisions == 26
    assert found.unreplayed == 2 + 2 * 3, "what began before, and the last seconds of what goes on"


def test_a_summary_adds_up(path: Path) -> None:
    found = summary.summary(Log(path), Chosen())
    each = records(path)
    assert found["decisions"] == len(each)
    weight = sum(r.output_tokens for r in each if r.cost)
    cost = sum(_paid(r) for r in each) / weight
    assert found["cost"] == pytest.approx(cost)
    assert [*found["terms"]] == ["quality", "lateness", "undelivered"]


def test_an_export_has_every_field(path: Path, tmp_path: Path) -> None:
    import csv

    count = summary.export(Log(path), Chosen(), tmp_path / "out.csv")
    with (tmp_path / "out.csv").open() as file:
        rows = list(csv.DictReader(file))
    assert len(rows) == count == 120
    assert {field.name for field in FIELDS} - {"cost"} <= {*rows[0]}
    assert rows[0]["policy"] == "lookup"
    with pytest.raises(InvalidResult, match="serving engine"):
        list(Log(path).records())


def test_a_second_that_cannot_be_is_not_written(path: Path, tmp_path: Path) -> None:
    from rapgym.audit.serving.lines import ServeSeconds

    context = context_of(path)
    with AuditLog(tmp_path / "n.jsonl") as log:
        for told in ({}, {"lane": -1}):
            with pytest.raises(InvalidSpec):
                log.append(context, ServeSeconds([told]))


def test_the_command_line_makes_explains_and_verifies(
    path: Path, serving_story: ServeScenario, tmp_path: Path,
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str],
) -> None:  # fmt: skip
    from rapgym.scenarios import serving

    monkeypatch.setattr(serving, "is_named", lambda name: True)
    log = str(tmp_path / "c.jsonl")
    made = [
        "audit",
        log,
        "--make",
        "--scenario",
        serving_story.name,
        "--policy",
        "fixed",
        "--split",
        "test",
    ]
    assert cli.main(made) == 0
    assert "cost" in capsys.readouterr().out
    assert cli.main(made) == 2, "nothing is overwritten"
    assert "--force" in capsys.readouterr().err
    assert cli.main(["audit", log, "--row", "30"]) == 0
    assert "first token is due" in capsys.readouterr().out
    assert cli.main(["audit", log, "--row", "30", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["decision"] == 30
    assert cli.main(["audit", log, "--verify"]) == 0
    assert "decisions replay" in capsys.readouterr().out
    assert cli.main(["verify", log]) == 0
    assert cli.main(["audit", str(tmp_path / "s.jsonl"), "--make", "--scenario", serving_story.name,
                     "--policy", "search-10-5", "--split", "test"]) == 2  # fmt: skip
    assert "knows the future" in capsys.readouterr().err
