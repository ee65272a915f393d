"""The reference engine, followed by hand."""

from dataclasses import replace

import numpy as np
import pytest
from serving_worlds import FOOT, FULL, HARM, SECOND, asked, card, first_s, last_s, played

from rapgym.serving.cost import Deadlines
from rapgym.serving.engine import DROP, PREEMPT, Decision, Engine

NAN = float("nan")


def same(found: object, expected: object) -> bool:
    return np.array_equal(np.asarray(found, float), np.asarray(expected, float), equal_nan=True)


def test_a_long_prompt_is_cut_into_steps() -> None:
    """8 of 10 prompt tokens, then 2, which make the first output token; two more steps."""
    engine = played(asked((0.0, 10, 3)), card(9))
    assert same(first_s(engine), [2.0])
    assert same(last_s(engine), [4.0])
    assert [step.work.tokens for step in engine.steps] == [8, 2, 1, 1]
    # Pairs of a prompt token and one at or before it: 1 + ... + 8, then 9 + 10. Then KV is read.
    assert [step.work.pairs for step in engine.steps] == [36, 19, 0, 0]
    assert [step.work.read_tokens for step in engine.steps] == [0, 0, 11, 12]
    assert [step.pages for step in engine.steps] == [2, 3, 3, 0]


def test_sequences_that_decode_come_before_prompts() -> None:
    """A decodes while B's prompt takes what is left of each step."""
    engine = played(asked((0.0, 8, 4), (0.5, 14, 1)), card(9))
    assert [step.work.tokens for step in engine.steps] == [8, 8, 8, 1]
    assert [step.work.read_tokens for step in engine.steps] == [0, 9, 10, 11]
    assert same(first_s(engine), [1.0, 3.0])


@pytest.mark.parametrize(("lookahead", "scheduled_s"), [(0, 1.0), (1, 1.0), (2, 1.0)])
def test_a_new_request_waits_for_the_steps_that_are_formed(
    lookahead: int, scheduled_s: float
) -> None:
    """It is seen when the step in flight ends, and runs behind what was formed before."""
    profile = replace(SECOND, lookahead=lookahead)
    engine = played(asked((0.0, 4, 6), (0.5, 4, 1)), card(9), profile)
    assert engine.served[1].scheduled_s == scheduled_s
    assert engine.served[1].first_s == 2.0 + lookahead


def test_the_head_of_the_queue_waits_for_all_its_pages_and_none_is_skipped() -> None:
    """B's 9 tokens need 3 pages, of which 2 are free; C, which would fit, waits behind it."""
    engine = played(asked((0.0, 5, 3), (0.1, 9, 1), (0.2, 2, 1)), card(4))
    # A holds 2 pages until the end of step 3. B then runs 8 of its 9 tokens, and C beside the last.
    assert same([each.scheduled_s for each in engine.served], [0.0, 3.0, 4.0])
    assert same(first_s(engine), [1.0, 5.0, 5.0])


def test_a_preempted_sequence_keeps_its_output_and_begins_anew() -> None:
    """Two sequences of 7 tokens grow until 4 pages are too few: the later one goes back."""
    engine = played(asked((0.0, 7, 6), (0.0, 7, 6)), card(4))
    # Step 1: A's 7 tokens and B's first. Step 2: A's 8th, B's other 6: its first output token.
    # Step 3: A's 9th finds no page; B goes. B's 7 + 1 tokens need 2 pages, and 1 is free until A has left.
    # Step 7: B's 8 tokens at once, which make its second output token.
    assert engine.served[1].preemptions == 1
    assert [step.work.tokens for step in engine.steps] == [8, 7, 1, 1, 1, 1, 8, 1, 1, 1, 1]
    assert same(first_s(engine), [1.0, 2.0])
    assert same(last_s(engine), [6.0, 11.0])
    assert [token.index for token in engine.tokens if token.request == 1] == [0, 1, 2, 3, 4, 5]
    assert [step.waiting for step in engine.steps][2:7] == [1, 1, 1, 1, 0]


def test_nothing_is_admitted_in_a_step_that_preempts() -> None:
    """C would fit beside A in step 3; it comes behind B, which waits at the front."""
    engine = played(asked((0.0, 7, 6), (0.0, 7, 6), (1.5, 1, 1)), card(4))
    assert engine.served[2].scheduled_s >= engine.served[1].first_s
    assert engine.steps[2].running == 1
    assert engine.served[2].first_s == 8.0, "B's second start fills step 7"


def test_what_is_in_flight_of_a_preempted_sequence_is_its_output_too() -> None:
    """Steps are formed one ahead: B goes while the step that makes its first token is under way."""
    profile = replace(SECOND, lookahead=1)
    engine = played(asked((0.0, 7, 6), (0.0, 8, 6)), card(4), profile)
    # Step 3 is formed when step 2 begins, which makes B's first token: A's ninth token takes B's pages.
    assert engine.served[1].preemptions == 1
    assert (engine.steps[1].running, engine.steps[1].waiting) == (1, 1)
    assert engine.served[1].first_s == 2.0
    # Its second start computes 8 tokens of prompt and that one.
    assert [step.work.tokens for step in engine.steps] == [8, 8, 1, 1, 1, 1, 8, 1, 1, 1, 1, 1]
    assert [step.work.pairs for step in engine.steps][6:8] == [36, 9]
    assert [token.index for token in engine.tokens if token.request == 1] == [0, 1, 2, 3, 4, 5]


def test_a_sequence_that_no_page_is_left_for_waits_and_wastes_nothing() -> None:
    """Alone, it grows out of the card: it makes what fits, then waits for memory, and no step runs."""
    where = card([3] * 20 + [9])
    engine = played(asked((0.0, 4, 10)), where, replace(SECOND, lookahead=1))
    idle = [step for step in engine.steps if 9.0 + 6 <= step.begun_s < 20.0]
    assert not idle
    assert last_s(engine)[0] > 20.0
    assert [token.index for token in engine.tokens] == list(range(10))


def test_a_preempted_sequence_finds_pages_that_nobody_took() -> None:
    """The cache remembers: B's second start computes what it lost, no more."""
    profile = replace(SECOND, prefix_cache=True)
    engine = played(asked((0.0, 7, 3), (0.0, 7, 6)), card(4), profile)
    blind = played(asked((0.0, 7, 3), (0.0, 7, 6)), card(4))
    assert blind.served[1].preemptions == engine.served[1].preemptions == 1
    total = [sum(step.work.tokens for step in each.steps) for each in (engine, blind)]
    assert total == [total[1] - 4, total[1]], "one whole page was still there"


def test_prompts_that_begin_alike_share_pages() -> None:
    """B's first 8 tokens are A's: two whole pages, held twice and counted once."""
    requests = asked((0.0, 8, 3), (1.5, 12, 2), like={1: (0, 2)})
    profile = replace(SECOND, prefix_cache=True)
    engine = played(requests, card(9), profile)
    assert engine.steps[2].work.tokens == 1 + 4, "A's token and B's other four"
    assert engine.steps[2].pages == 3, "A has left; B holds its third, and the two that it shared"
    apart = played(requests, card(9))
    assert apart.steps[2].work.tokens == 8


def test_a_request_without_a_first_token_in_time_is_given_up() -> None:
    """B waits behind A, whose pages it needs; it is shed, whatever comes later."""
    engine = played(asked((0.0, 7, 5), (0.0, 9, 2), (3.0, 4, 1)), card(4), shed_s=2.0)
    assert same([each.shed_s for each in engine.served], [NAN, 2.0, NAN])
    assert same(first_s(engine), [1.0, NAN, 4.0])


def test_a_prompt_that_is_being_computed_is_given_up_too() -> None:
    engine = played(asked((0.0, 30, 5)), card(9), shed_s=2.0)
    assert same(first_s(engine), [NAN])
    assert engine.served[0].shed_s == 2.0
    assert engine.pages.used == 0


def falls(on_fall: int, **changes: float) -> Engine:
    """Two sequences of 3 pages together; from second 2 on one page less than they use fits."""
    where = card([9, 9, 2], **changes)
    decision = Decision(on_fall=on_fall)
    return played(asked((0.0, 4, 5), (0.0, 4, 5)), where, decisions=[decision])


def test_a_fall_is_answered_by_preempting() -> None:
    """From second 2 on 2 pages fit, and 4 are used: the later sequence goes, no block does."""
    engine = falls(PREEMPT)
    assert [step.counts for step in engine.steps] == [(0, 0)] * len(engine.steps)
    assert [each.preemptions for each in engine.served] == [0, 1]
    assert all(
        used_bytes(engine, step) <= limit(engine, step.begun_s) for step in engine.steps[:-1]
    )


def test_a_fall_is_answered_by_dropping() -> None:
    """The order drops an attention block first: 40 bytes and a third of the KV."""
    where, decision = card([9, 9, 2]), Decision(on_fall=DROP)
    requests = asked((0.0, 4, 5), (0.0, 4, 5), (9.0, 4, 1))
    engine = played(requests, where, decisions=[decision])
    assert [each.preemptions for each in engine.served] == [0, 0, 0]
    assert [step.counts for step in engine.steps[:5]] == [(0, 0)] * 2 + [(1, 0)] * 3
    assert engine.steps[-1].counts == (0, 0), "it came back once no page was in the way"
    drawn = [token.attention for token in engine.tokens if token.request == 0]
    assert drawn == [0, 0, 1, 1, 1], "a sequence keeps the most that was dropped"


def test_serving_pauses_while_memory_is_let_go() -> None:
    calm, hasty = falls(DROP), falls(DROP, reaction_s=0.5)
    assert hasty.steps[2].begun_s == calm.steps[2].begun_s + 0.5
    assert hasty.now_s == calm.now_s + 0.5


def limit(engine: Engine, at_s: float) -> int:
    return engine.card.limit(at_s)


def used_bytes(engine: Engine, step: object) -> int:
    return engine.card.used_bytes(step.counts, step.pages * 4)  # type: ignore[attr-defined]


def test_where_not_even_the_floor_fits_the_engine_stands_still() -> None:
    """For two seconds the card is another's; the request is answered afterwards."""
    where = card(9)
    where = replace(where, limit_bytes=np.array([FULL + 108, 50, 50, FULL + 108]))
    engine = played(asked((0.0, 4, 3)), where, decisions=[Decision()])
    assert same(first_s(engine), [1.0])
    assert not [step for step in engine.steps if 1.0 <= step.begun_s < 3.0]
    assert last_s(engine)[0] > 3.0
    assert engine.served[0].preemptions == 1


def test_blocks_come_back_one_after_the_other_over_the_link() -> None:
    """2 FFN and 2 attention blocks at 100 bytes a second: 0.6, 0.4 s each, seen at a step's end."""
    drop, back = Decision(attention=2, ffn=2), Decision()
    engine = played(asked((0.0, 4, 12)), card(9), decisions=[drop, back])
    counts = [step.counts for step in engine.steps]
    assert counts[0] == (2, 2)
    sizes = [4 - sum(each) for each in counts]
    assert sizes == sorted(sizes)
    assert counts[-1] == (0, 0)
    # The order drops attention first from (1, 1): of the last pair the FFN block comes back first.
    assert counts[2] == (2, 1)
    taken = [engine.card.used_bytes(each, 0) for each in counts]
    assert max(taken) <= FULL


def test_a_block_comes_back_only_where_it_fits_beside_the_pages() -> None:
    where = card(9)
    where = replace(where, limit_bytes=np.array([FULL, FULL - 60 + 4 * 3 * 4]))
    engine = played(asked((0.0, 9, 5)), where, decisions=[Decision(ffn=1), Decision()])
    assert {step.counts for step in engine.steps} == {(0, 1)}, (
        "three pages, and 48 bytes: no room for 60"
    )


def test_a_dropped_block_makes_a_step_faster() -> None:
    """Weights are read at 100 bytes a second, the token's work scales with what is kept."""
    profile = replace(SECOND, base_s=0.0, weight_bytes_per_s=100.0)
    whole = played(asked((0.0, 1, 1)), card(9), profile)
    part = played(asked((0.0, 1, 1)), card(9), profile, decisions=[Decision(1, 1)])
    assert whole.served[0].first_s == pytest.approx(3.0)
    assert part.served[0].first_s == pytest.approx(2.0)


def test_harm_of_context_and_of_now() -> None:
    """Attention damage stays; of FFN damage a quarter, where blocks were cut for the context alone."""
    assert HARM.nats(0, 0, 0) == 0.0
    assert HARM.nats(1, 0, 0) == 0.25
    assert HARM.nats(0, 2, 0) == pytest.approx(0.25 * 1.5)
    assert HARM.nats(0, 2, 2) == 1.5
    assert HARM.nats(2, 2, 1) == pytest.approx(1.75 + 0.25 * (3.0 - 1.75))
    assert replace(HARM, ceiling=0.5).nats(2, 2, 2) == 0.5


def test_lateness_costs_up_to_a_refused_token() -> None:
    due = Deadlines(ttft_s=2.0, ttft_token_s=0.5, tpot_s=0.25, late_s=10.0)
    assert due.due_s(1.0, 4, 0) == 5.0
    assert due.due_s(1.0, 4, 8) == 7.0
    assert HARM.cost(1.0, -3.0, due.late_s) == 1.0
    assert HARM.cost(1.0, 5.0, due.late_s) == 2.5
    assert HARM.cost(1.0, 50.0, due.late_s) == 4.0


def test_memory_is_never_above_the_limit_when_a_step_begins() -> None:
    rng = np.random.default_rng(0)
    limits = FULL + rng.integers(-300, 200, 60)
    where = replace(card(9), limit_bytes=limits)
    rows = [(float(at), int(p), int(o)) for at, p, o in zip(
        np.sort(rng.uniform(0, 40, 30)), rng.integers(1, 20, 30), rng.integers(1, 9, 30), strict=True)]  # fmt: skip
    engine, seen = Engine(asked(*rows), where, replace(SECOND, base_s=0.3), 5.0), 0
    for second in range(1, 61):
        attention, ffn, on_fall = rng.integers(0, (3, 3, 2)).tolist()
        engine.decide(Decision(attention, ffn, on_fall))
        while engine.now_s < second and not engine.is_idle:
            engine._arrive()
            engine._answer_fall()
            engine._move_blocks()
            engine._shed()
            engine._form_ahead()
            if engine.formed:
                held = engine._held
                used = engine.card.used_bytes(held, engine.pages.used * 4)
                assert used <= engine.card.limit(engine.now_s)
                seen += 1
                engine._execute()
            else:
                engine.now_s = min(engine._next_event_s(), float(second))
    assert seen > 30
    assert FOOT.layers == 3
