"""The sentence for who answers for a decision: numbers that can be checked by hand."""

from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_logs import CONTEXT, WORLD, context_of, found, one, records, written
from toy_table import kept_without

from rapgym.arrays import BoolArray
from rapgym.audit import entry as audit_entry
from rapgym.audit import sentence as audit_sentence
from rapgym.audit import step as audit_step
from rapgym.audit.context import AuditContext
from rapgym.audit.decisions import Decisions
from rapgym.audit.log import AuditLog
from rapgym.audit.record import Record
from rapgym.errors import InvalidResult
from rapgym.model import blocks
from rapgym.policies.reference import frontier
from rapgym.quality.columns import QualityColumns
from rapgym.scenarios.story import Scenario
from rapgym.world import shield
from rapgym.world.shield import Reason


def proposing(kept: BoolArray, *, strict: bool = False, source: Reason = Reason.POLICY,
              tokens: int = 3, limit: int = 480, **more: Any) -> Decisions:  # fmt: skip
    """One decision of the toy world about a proposal."""
    asked = one(tokens, limit)
    proposal, whose, refuses = kept[None], np.array([source]), np.array([strict])
    costs = CONTEXT.footprint.block_bytes(asked.demand.tokens)
    made = shield.decide(proposal, costs, asked.budget_bytes, CONTEXT.order, whose, refuses)
    nll, measured = WORLD.quality.nll(made.kept)
    told = {"nll": nll, "measured": measured} | more
    return replace(
        asked, proposal=proposal, source=whose, refuses_misfit=refuses, decision=made, **told
    )


def explained(path: Path, decisions: Decisions) -> audit_sentence.Explained:
    path.unlink(missing_ok=True)
    with AuditLog(path) as log:
        log.append(CONTEXT, decisions)
    (record,) = records(path)
    return audit_sentence.explained(CONTEXT, record)


@pytest.fixture
def path(tmp_path: Path) -> Path:
    return tmp_path / "log.jsonl"


def test_the_sentence_of_a_repair(path: Path) -> None:
    told = explained(path, proposing(np.ones(6, dtype=bool), limit=330))
    # Of 436 bytes attn1 and ffn1 go (0.35 nats); attn2 and ffn2 would have cost 0.30 at as many bytes.
    assert told.nats == pytest.approx(0.35)
    assert (told.runner_up.nats, told.dense_bytes) == (0.30, 436)
    assert told.dropped == (2, 3)
    _, _, rest = told.sentence.partition("UTC, ")
    assert rest == (
        "random on toy-v0): 1 request with 3 prompt tokens and room for 0 more met a limit of 330 bytes; "
        "the full model would have needed 436 bytes. 1 attention and 1 FFN blocks were dropped (attn1, "
        "ffn1), which left 324 bytes in use. By calibration text that costs 0.350 nats a token (+41.9% "
        "perplexity); the runner-up, the reference policy's set, would have cost 0.300 nats a token "
        "(+35.0% perplexity), which is less. Decided by: the policy's proposal did not fit, so the "
        "shield dropped more, in its fixed order, until it did."
    )


def test_the_runner_up_of_the_reference_policys_own_set_is_the_next_best_that_fits(
    path: Path,
) -> None:
    told = explained(path, proposing(kept_without(4, 5), limit=330))
    # What else fits below 330 bytes: 0.40 for a1 a2 f2 (272 bytes) is the least after 0.30.
    assert told.nats == pytest.approx(0.30)
    assert told.runner_up.name == "the next best set that fitted"
    assert told.runner_up.nats == pytest.approx(0.40)
    assert told.runner_up.kept is not None
    assert blocks.key(told.runner_up.kept) == blocks.key(kept_without(2, 4, 5))
    assert "which is less" not in told.sentence
    assert "executed unchanged" in told.sentence


def test_where_all_fits_the_full_model_is_the_reference(path: Path) -> None:
    told = explained(path, proposing(kept_without(3), limit=480))
    assert (told.runner_up.nats, told.runner_up.name) == (0.0, "the reference policy's set")
    dense = explained(path, proposing(np.ones(6, dtype=bool), limit=480))
    assert dense.nats == 0.0
    assert dense.runner_up.nats == pytest.approx(0.10)
    assert "Nothing was dropped: 436 bytes were in use." in dense.sentence


def test_a_refusal_costs_c_and_nothing_else_fitted(path: Path) -> None:
    told = explained(path, proposing(np.ones(6, dtype=bool), limit=150))
    assert told.record.refused
    assert (told.nats, told.runner_up.kept, told.runner_up.nats) == (4.0, None, 4.0)
    assert "The requests were refused." in told.sentence
    assert "refusing the requests, since nothing else fitted" in told.sentence
    assert told.sentence.endswith(
        "not even the smallest permitted set fitted, so the requests were refused."
    )


def test_a_refusal_that_the_policy_asks_for_says_so(path: Path) -> None:
    told = explained(path, proposing(np.ones(6, dtype=bool), limit=330, strict=True))
    assert (told.nats, told.runner_up.nats) == (4.0, 0.30)
    assert audit_sentence.STRICT in told.sentence


@pytest.mark.parametrize(
    ("source", "more", "says"),
    [
        (Reason.FALLBACK, {}, "the policy's answer could not be used"),
        (Reason.FALLBACK, {"readable": np.array([False])}, "the policy's answer was no proposal"),
        (Reason.FALLBACK, {"late_us": np.array([2500])}, "came 2.5 ms too late"),
        (Reason.WATCHDOG, {}, "the watchdog has put the reference policy in charge"),
        (
            Reason.OVERRIDE,
            {},
            "an operator has pinned this set; of it, the shield kept what fitted",
        ),
        (Reason.EMERGENCY, {"second": 2}, "so the shield dropped blocks at once"),
    ],
)
def test_the_rule_that_decided_is_named(
    path: Path, source: Reason, more: dict[str, Any], says: str
) -> None:
    told = explained(path, proposing(np.ones(6, dtype=bool), source=source, limit=330, **more))
    assert says in told.sentence.partition("Decided by: ")[2]


def test_what_is_predicted_or_measured_is_said(path: Path) -> None:
    guess = proposing(kept_without(3), measured=np.array([False]))
    assert "predicted, not measured" in explained(path, guess).sentence
    live = proposing(kept_without(3), measured_bytes=np.array([3 << 20]))
    told = explained(path, live).sentence
    assert "left 3.0 MiB in use. On the text that was served that costs 0.200 nats" in told


def test_quality_that_is_not_on_record_is_looked_up_in_the_grid_or_not_known(path: Path) -> None:
    told = explained(path, proposing(kept_without(4, 5), nll=None, measured=None))
    assert told.nats == pytest.approx(0.30)
    unknown = explained(path, proposing(kept_without(2, 5), nll=None, measured=None))
    assert unknown.nats is None
    assert "What that costs in quality is not on record; the runner-up" in unknown.sentence


def test_the_reference_policys_set_is_what_the_reference_policy_does(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path, rows=20)
    quality = WORLD.quality
    assert isinstance(quality, QualityColumns)
    best, met = frontier(quality), set()
    for line in found(path):
        if line.kind != "decision":
            continue
        record = audit_entry.record_of(line)
        tokens = np.array([record.prompt_tokens + record.reserved_tokens])
        used = best.used_bytes(CONTEXT.footprint, tokens, np.array([record.prompt_tokens]))
        index = int(best.best_fitting(used, np.array([record.limit_bytes]))[0])
        told = audit_sentence.explained(CONTEXT, record).runner_up
        if used[0, index] > record.limit_bytes:
            assert told.kept is None
            met.add("not even the floor fits")
        elif record.refused or record.kept != blocks.key(best.kept[index]):
            assert told.kept is not None
            assert (told.kept == best.kept[index]).all()
            assert told.nats == best.nll[index]
            met.add("another set is kept")
        else:
            assert told.name != "the reference policy's set"
            met.add("its own is kept")
    assert len(met) == 3, "each case is tried"


def test_every_decision_of_a_scenario_has_its_sentence(toy_story: Scenario, tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    with AuditLog(path) as log:
        audit_step.log_run(log, toy_story, "validation-3", "gsi")
    contexts = dict(audit_entry.context_of(line) for line in found(path) if line.kind == "context")
    decided = records(path)
    assert len(decided) > 30
    for record in decided:
        context = contexts[record.context]
        assert isinstance(context, AuditContext)
        told = audit_sentence.explained(context, record)
        assert told.sentence.startswith(f"Decision {record.decision} (")
        assert told.nats is not None
        # The reference policy does the best that fits: nothing executed on the grid beats it.
        assert told.runner_up.nats >= 0


def test_a_decision_of_another_model_is_refused(tmp_path: Path) -> None:
    path = tmp_path / "log.jsonl"
    written(path, rows=1)
    (record, *_) = records(path)
    other = replace(record, kept="ffff")
    assert isinstance(other, Record)
    with pytest.raises(InvalidResult, match="no key of 6 blocks"):
        audit_sentence.explained(context_of(WORLD), other)
