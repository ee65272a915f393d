"""The compiled engine is the reference: in tokens, pages and preemptions bit for bit, in seconds too."""

from dataclasses import replace

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from serving_worlds import FULL, HARM, SECOND, asked, card, compiled, played

from rapgym.serving import kernel
from rapgym.serving.cost import Deadlines
from rapgym.serving.engine import Decision, Engine
from rapgym.serving.profile import ServingProfile
from rapgym.serving.requests import Requests

DEADLINES = Deadlines(ttft_s=1.0, ttft_token_s=0.01, tpot_s=0.2, late_s=3.0)


@st.composite
def hostile_requests(draw: st.DrawFn) -> Requests:
    """Bursts of requests, some of which begin alike."""
    count = draw(st.integers(1, 14))
    whole = st.integers(0, 40)
    arrivals = sorted(draw(st.lists(whole, min_size=count, max_size=count)))
    sizes = st.lists(st.integers(1, 24), min_size=count, max_size=count)
    prompts, outputs = draw(sizes), draw(sizes)
    like = {}
    for later in range(1, count):
        if draw(st.booleans()):
            earlier = draw(st.integers(0, later - 1))
            like[later] = (earlier, min(prompts[later], prompts[earlier]) // 4)
    rows = zip((at / 4 for at in arrivals), prompts, outputs, strict=True)
    return asked(*rows, like=like)


@st.composite
def profiles(draw: st.DrawFn) -> ServingProfile:
    return replace(
        SECOND,
        base_s=draw(st.sampled_from([0.01, 0.0625, 0.3, 1.0])),
        weight_bytes_per_s=draw(st.sampled_from([1e30, 900.0])),
        tokens_per_s=draw(st.sampled_from([1e30, 30.0])),
        kv_bytes_per_s=draw(st.sampled_from([1e30, 500.0, 9000.0])),
        pair_s=draw(st.sampled_from([0.0, 0.003])),
        sequence_s=draw(st.sampled_from([0.0, 0.01])),
        step_tokens=draw(st.integers(1, 16)),
        max_sequences=draw(st.integers(1, 5)),
        reserved_pages=draw(st.integers(0, 2)),
        lookahead=draw(st.integers(0, 2)),
        prefix_cache=draw(st.booleans()),
    )


DECISIONS = st.lists(
    st.builds(Decision, st.integers(0, 2), st.integers(0, 2), st.integers(0, 1)), max_size=25
)
LIMITS = st.lists(st.integers(FULL - 320, FULL + 260), min_size=1, max_size=25)


@settings(max_examples=150)
@given(
    hostile_requests(),
    profiles(),
    DECISIONS,
    LIMITS,
    st.sampled_from([np.inf, 2.0, 0.5]),
    st.sampled_from([0.0, 0.1, 0.7]),
    st.sampled_from([100.0, 1000.0]),
)
def test_it_gives_what_the_reference_gives(
    requests: Requests,
    profile: ServingProfile,
    decisions: list[Decision],
    limits: list[int],
    shed_s: float,
    reaction_s: float,
    link: float,
) -> None:
    where = replace(
        card(9), limit_bytes=np.array(limits), reaction_s=reaction_s, link_bytes_per_s=link
    )
    engine, decision = Engine(requests, where, profile, shed_s), Decision()
    for second, each in enumerate(decisions, 1):
        decision = each
        engine.decide(decision)
        engine.run(float(second))
    engine.run(120.0)
    lane = compiled(requests, where, profile, decisions, shed_s, DEADLINES, 120.0)
    assert lane.number[kernel.NOW_S] == engine.now_s
    assert tuple(lane.counts[[kernel.ATTENTION_DROPPED, kernel.FFN_DROPPED]]) == engine.counts
    for name in ("scheduled_s", "first_s", "last_s", "shed_s"):
        expected = [getattr(each, name) for each in engine.served]
        assert np.array_equal(getattr(lane, name), expected, equal_nan=True), name
    assert lane.preemptions.tolist() == [each.preemptions for each in engine.served]
    assert lane.counts[kernel.STEPS] == len(engine.steps)
    assert lane.counts[kernel.STEP_TOKENS] == sum(step.work.tokens for step in engine.steps)
    assert lane.counts[kernel.PAGES_USED] == engine.pages.used
    assert lane.counts[kernel.DELIVERED] == len(engine.tokens)
    cost, nats = np.zeros(len(requests)), np.zeros(len(requests))
    for token in engine.tokens:
        request = token.request
        prompt = int(requests.prompt_tokens[request])
        harm = HARM.nats(token.attention, token.ffn, token.ffn_now)
        due_s = DEADLINES.due_s(float(requests.arrival_s[request]), prompt, token.index)
        nats[request] += harm
        cost[request] += HARM.cost(harm, token.at_s - due_s, DEADLINES.late_s)
    cost += ~np.isnan(lane.shed_s) * requests.output_tokens * HARM.ceiling
    assert np.allclose(lane.nats, nats, rtol=0, atol=1e-9)
    assert np.allclose(lane.cost, cost, rtol=0, atol=1e-9)


def test_a_request_whose_first_token_was_cancelled_is_given_up() -> None:
    """It was looked at while its token was promised; then memory fell before the step that makes it."""
    requests, ahead = asked((0.0, 32, 4)), replace(SECOND, lookahead=2)
    where = card([9, 9, 9, 1])
    engine = played(requests, where, ahead, shed_s=1.5)
    assert engine.served[0].shed_s == 3.0
    assert engine.served[0].preemptions == 1
    lane = compiled(requests, where, ahead, [], 1.5, DEADLINES, 120.0)
    assert lane.shed_s[0] == 3.0


QUICK = replace(SECOND, base_s=1 / 16, lookahead=1)  # many steps in which nothing happens


def test_steps_that_only_decode_run_together() -> None:
    """The first of a second looks at all there is, the other 15 go together."""
    requests = asked((0.0, 4, 40), (0.0, 7, 40))
    lane = compiled(requests, card(40), QUICK, [], np.inf, DEADLINES, 120.0)
    assert lane.counts[kernel.STEPS] == len(played(requests, card(40), QUICK).steps)
    assert np.flatnonzero(lane.ended_s).max() + 1 == 15


@pytest.mark.parametrize("lookahead", [0, 1, 2])
@pytest.mark.parametrize(
    ("rows", "pages", "shed_s", "changes"),
    [
        pytest.param([(0.0, 4, 40), (0.3, 4, 20)], 40, np.inf, {}, id="one arrives"),
        pytest.param([(0.0, 4, 9), (0.0, 4, 40), (0.0, 4, 9)], 40, np.inf, {}, id="one waits"),
        pytest.param([(0.0, 4, 40), (0.0, 4, 40), (0.1, 4, 9)], 40, 0.5, {}, id="one comes late"),
        pytest.param([(0.0, 4, 40), (0.0, 6, 40)], 13, np.inf, {}, id="pages run out"),
        pytest.param([(0.0, 4, 40), (0.0, 6, 40)], [40, 8, 40], np.inf, {}, id="memory falls"),
        pytest.param([(0.0, 4, 60)], 40, np.inf, {"kv_bytes_per_s": 9000.0}, id="kv is read"),
    ],
)
def test_steps_run_together_up_to_what_happens(
    rows: list[tuple[float, int, int]], pages: int | list[int], shed_s: float,
    changes: dict[str, float], lookahead: int,
) -> None:  # fmt: skip
    requests, where = asked(*rows), card(pages)
    quick = replace(QUICK, lookahead=lookahead, max_sequences=2, **changes)  # type: ignore[arg-type]
    engine = played(requests, where, quick, shed_s=shed_s)
    lane = compiled(requests, where, quick, [], shed_s, DEADLINES, 120.0)
    for name in ("scheduled_s", "first_s", "last_s", "shed_s"):
        expected = [getattr(each, name) for each in engine.served]
        assert np.array_equal(getattr(lane, name), expected, equal_nan=True), name
    assert lane.counts[kernel.STEPS] == len(engine.steps)
    assert lane.preemptions.tolist() == [each.preemptions for each in engine.served]
    assert np.count_nonzero(lane.ended_s) > 3
