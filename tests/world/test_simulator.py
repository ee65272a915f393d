"""The exact step: an episode with pencil and paper. See toy_world.py for bytes, toy_table.py for nats.

C = 4 and W = 4, and every row but two has weight 1: a second without service costs one nat. With the
5 tokens of most rows each block takes 60 bytes beside 100 of embeddings, so the floor needs 220 and
dense 460. The shield drops 2, 3, 4, 5 in this order: a1 f1 a2 f2.
"""

from dataclasses import replace

import numpy as np
import pytest
from toy_table import kept_without, toy_table
from toy_world import lanes_at, toy_rows, toy_world

from rapgym.arrays import BoolArray, FloatArray
from rapgym.errors import InvalidSpec
from rapgym.model import blocks
from rapgym.world import simulator
from rapgym.world.records import Outcome, State, World
from rapgym.world.shield import Reason

DENSE = kept_without()
FLOOR = kept_without(2, 3, 4, 5)


def serve(world: World, proposals: list[BoolArray], *, strict: bool = False) -> list[Outcome]:
    """All rows of a world in one lane, from dense on."""
    state = lanes_at(world, [0])
    outcomes = []
    for proposal in proposals:
        state, outcome = simulator.step(
            world, state, proposal[None], refuses_misfit=np.array([strict])
        )
        assert (state.loaded == outcome.kept_end).all()
        outcomes.append(outcome)
    return outcomes


def terms(outcome: Outcome) -> list[float]:
    """Quality, stall, emergency, refused."""
    found = outcome.terms
    parts = (found.quality, found.stall, found.emergency, found.refused)
    assert outcome.reward[0] == pytest.approx(-sum(part[0] for part in parts), abs=1e-12)
    return [float(part[0]) for part in parts]


# Each row: tokens, output tokens, limits, proposal | kept, its bytes, reason, kept at the end, terms.
EPISODE = [
    # Dense fits to the byte and costs nothing.
    (5, 10, (460, 460, 460, 460), DENSE,
     DENSE, 460, Reason.POLICY, DENSE, (0, 0, 0, 0)),
    # Without a2 and f2: 340 bytes, four seconds at 0.30. Blocks that leave cost no time.
    (5, 10, (340, 340, 340, 340), kept_without(4, 5),
     kept_without(4, 5), 340, Reason.POLICY, kept_without(4, 5), (0.30, 0, 0, 0)),
    # They return: 40 + 60 bytes of weights (no KV) at 100 B/s are one second of stalling.
    (5, 10, (460, 460, 460, 460), DENSE,
     DENSE, 460, Reason.POLICY, DENSE, (0, 1, 0, 0)),
    # 60 bytes are missing: a1 goes, the first of the order. The floor's bits in a proposal are ignored.
    (5, 10, (400, 500, 500, 500), kept_without(0, 1),
     kept_without(2), 400, Reason.REPAIRED, kept_without(2), (0.10, 0, 0, 0)),
    # a1 returns in 0.4 s. In the third second 120 bytes are missing: a1 and f1 go, it is not served.
    # They stay away although the limit rises again; the fourth second costs 0.35.
    (5, 10, (460, 460, 340, 460), DENSE,
     DENSE, 460, Reason.POLICY, kept_without(2, 3), (0.35 / 4, 0.4, 1, 0)),
    # The floor by its own wish: four seconds at 0.65.
    (5, 10, (460, 460, 460, 460), FLOOR,
     FLOOR, 220, Reason.POLICY, FLOOR, (0.65, 0, 0, 0)),
    # 200 bytes return in 2 s: the first second, then an emergency in which the stall pauses (a1 and f1
    # go; what was asked of the link still passes), then the third. The fourth is served at 0.35.
    (5, 10, (460, 340, 340, 460), DENSE,
     DENSE, 460, Reason.POLICY, kept_without(2, 3), (0.35 / 4, 2, 1, 0)),
    # One byte too few for the floor: nothing is served, whatever comes later. Without KV the floor
    # takes 100 + 40 + 60 = 200, as much as there is in the third second: it stays, a2 and f2 do not.
    (5, 10, (219, 460, 200, 460), DENSE,
     FLOOR, 0, Reason.REFUSED, FLOOR, (0, 0, 0, 4)),
    # Only 159 bytes in the second second: ffn0, the last of the floor, is evicted; attn0 stays (140).
    (5, 10, (219, 159, 460, 460), DENSE,
     FLOOR, 0, Reason.REFUSED, kept_without(1, 2, 3, 4, 5), (0, 0, 0, 4)),
    # The floor again: ffn0 returns in 0.6 s, 3.4 s are served at 0.65.
    (5, 10, (220, 220, 220, 220), FLOOR,
     FLOOR, 220, Reason.POLICY, FLOOR, (3.4 * 0.65 / 4, 0.6, 0, 0)),
    # a2 and f2 return in 1 s; the second second is served at 0.35; in the third not even the floor
    # fits, so the rest is refused, though the fourth would have room.
    (5, 10, (340, 340, 219, 460), kept_without(2, 3),
     kept_without(2, 3), 340, Reason.POLICY, FLOOR, (0.35 / 4, 1, 0, 2)),
    # Stall, then an emergency that drops a2, then a refusal.
    (5, 10, (340, 280, 219, 219), kept_without(2, 3),
     kept_without(2, 3), 340, Reason.POLICY, FLOOR, (0, 1, 1, 2)),
    # Nobody asked: blocks are free to move. Without KV attention takes 40. 60 bytes are missing:
    # a1 (40) and f1 (60) go, then a1 fits again.
    (0, 0, (340, 340, 340, 340), DENSE,
     kept_without(3), 340, Reason.REPAIRED, kept_without(3), (0, 0, 0, 0)),
    # 10 tokens make attention 80: dense needs 520, a1 is enough. f1 returns in 0.6 s. Twice the
    # output, so weight 2.
    (10, 20, (460, 460, 460, 460), DENSE,
     kept_without(2), 440, Reason.REPAIRED, kept_without(2), (2 * 3.4 * 0.10 / 4, 2 * 0.6, 0, 0)),
]  # fmt: skip


def test_an_episode_by_hand() -> None:
    tokens, output, limits, proposals, *_ = zip(*EPISODE, strict=True)
    outcomes = serve(toy_world(toy_rows(tokens, limits, output)), list(proposals))
    for t, (outcome, row) in enumerate(zip(outcomes, EPISODE, strict=True)):
        _, output_tokens, limit, proposal, kept, used_bytes, reason, kept_end, expected = row
        assert outcome.kept[0].tolist() == kept.tolist(), f"row {t}"
        assert outcome.kept_end[0].tolist() == kept_end.tolist(), f"row {t}"
        assert outcome.proposal[0].tolist() == proposal.tolist()
        assert (outcome.used_bytes[0], outcome.limit_bytes[0]) == (used_bytes, limit[0]), f"row {t}"
        assert outcome.reason[0] == reason, f"row {t}"
        assert outcome.output_tokens[0] == output_tokens
        assert terms(outcome) == pytest.approx(list(expected), abs=1e-12), f"row {t}"
        assert outcome.measured[0], "the toy table measures everything"


def test_a_stall_ends_with_its_window() -> None:
    # 200 bytes at 40 B/s are 5 s: four stall this row, the fifth troubles nobody.
    rows = toy_rows([5] * 3, [[460] * 4] * 3)
    outcomes = serve(toy_world(rows, restore_bytes_per_s=40.0), [FLOOR, DENSE, DENSE])
    assert [terms(outcome) for outcome in outcomes] == [
        pytest.approx([0.65, 0, 0, 0]), [0, 4, 0, 0], [0, 0, 0, 0]
    ]  # fmt: skip


def test_notice_covers_an_emergency_but_not_a_refusal() -> None:
    # The second in which a1 and f1 go is served with what is left, at 0.35, as is the fourth. When
    # they come back (100 bytes, 1 s) the floor soon misfits, announced or not.
    rows = toy_rows([5, 5], [[460, 460, 340, 460], [460, 460, 219, 219]])
    covered = serve(toy_world(rows, notice_s=1), [DENSE, DENSE])
    assert terms(covered[0]) == pytest.approx([2 * 0.35 / 4, 0, 0, 0])
    assert covered[0].kept_end[0].tolist() == kept_without(2, 3).tolist()
    assert terms(covered[1]) == pytest.approx([0, 1, 0, 2])


def test_the_rest_of_an_emergencys_second_goes_on_with_what_is_left() -> None:
    # 200 bytes return in 2 s. In the second second a1 and f1 go: 0.25 s are lost, then 0.75 s stall, and
    # 0.25 s in the third; what is left is served at 0.35.
    rows = toy_rows([5, 5, 5], [[460] * 4, [460, 340, 340, 460], [340, 280, 280, 219]])
    found = serve(toy_world(rows, reaction_s=0.25), [FLOOR, DENSE, kept_without(2, 3)])
    assert terms(found[1]) == pytest.approx([1.75 * 0.35 / 4, 2, 0.25, 0])
    assert found[1].seconds.emergency == [0.25]
    # Nothing returns any more; a2 goes, and in the fourth second the floor does not fit.
    left = float(toy_table().calibration().nll(kept_without(2, 3, 4))[0])
    assert terms(found[2]) == pytest.approx([(0.35 + 1.75 * left) / 4, 0, 0.25, 1])


@pytest.mark.parametrize("reaction_s", [-0.1, float("nan"), float("inf")])
def test_a_reaction_is_no_less_than_nothing_and_ends(reaction_s: float) -> None:
    with pytest.raises(InvalidSpec, match="reaction_s"):
        toy_world(toy_rows([5], [[460]]), reaction_s=reaction_s)


def test_no_reaction_is_as_an_announced_loss_and_a_long_one_takes_its_second_alone() -> None:
    rows = toy_rows([5], [[460, 340, 340, 460]])
    sudden, announced = (
        serve(toy_world(rows, **told), [DENSE])[0]
        for told in ({"reaction_s": 0.0}, {"notice_s": 1})
    )
    assert terms(sudden) == terms(announced) == pytest.approx([3 * 0.35 / 4, 0, 0, 0])
    one, two = (serve(toy_world(rows, reaction_s=s), [DENSE])[0] for s in (1.0, 2.0))
    assert terms(one) == terms(two) == pytest.approx([2 * 0.35 / 4, 0, 1, 0])


def test_a_stall_goes_on_through_an_announced_loss() -> None:
    # 200 bytes, 2 s: the announced second is a stalled one like the first, two are served at 0.35.
    rows = toy_rows([5, 5], [[460] * 4, [460, 340, 340, 340]])
    covered = serve(toy_world(rows, notice_s=2), [FLOOR, DENSE])
    assert terms(covered[1]) == pytest.approx([2 * 0.35 / 4, 2, 0, 0])


def test_who_declares_refusal_is_refused_and_keeps_its_set() -> None:
    own = kept_without(4, 5)  # 340 bytes, 300 without KV
    limits = [
        [340, 340, 340, 340],  # fits: 0.30
        [339, 460, 460, 460],  # misfits by a byte: refused, and not repaired; 300 bytes stay
        [340, 340, 340, 340],  # so nothing has to return
        [340, 339, 300, 340],  # refused from the second second on; it stays
        [340, 299, 340, 340],  # and here it does not fit without KV: the floor
        [340, 340, 340, 340],  # a1 and f1 return in 1 s, three seconds at 0.30
    ]
    outcomes = serve(toy_world(toy_rows([5] * 6, limits)), [own] * 6, strict=True)
    assert [terms(outcome) for outcome in outcomes] == [
        pytest.approx(expected)
        for expected in (
            [0.30, 0, 0, 0], [0, 0, 0, 4], [0.30, 0, 0, 0], [0.075, 0, 0, 3], [0.075, 0, 0, 3],
            [0.225, 1, 0, 0],
        )
    ]  # fmt: skip
    reasons = [Reason.POLICY, Reason.REFUSED, *[Reason.POLICY] * 4]
    assert [outcome.reason[0] for outcome in outcomes] == reasons
    ends = [own, own, own, own, FLOOR, own]
    assert [o.kept_end[0].tolist() for o in outcomes] == [end.tolist() for end in ends]
    assert outcomes[1].kept[0].tolist() == FLOOR.tolist()
    assert outcomes[1].used_bytes[0] == 0


def test_a_served_token_costs_at_most_the_ceiling_and_less_than_nothing_where_dropping_helps() -> (
    None
):
    class Fixed:
        order = np.array([2, 3, 4, 5])

        def __init__(self, nats: float) -> None:
            self.nats = nats

        def nll(self, kept: BoolArray) -> tuple[FloatArray, BoolArray]:
            return np.full(len(kept), self.nats), np.zeros(len(kept), dtype=bool)

    for nats, cost in ((9.0, 4.0), (-0.5, -0.5)):
        world = toy_world(toy_rows([5], [[460] * 4]), quality=Fixed(nats))  # type: ignore[arg-type]
        (outcome,) = serve(world, [DENSE])
        assert terms(outcome) == [cost, 0, 0, 0]
        assert not outcome.measured[0]


def test_a_set_that_an_emergency_leaves_may_be_a_predicted_one() -> None:
    # a2 dropped is measured; a1 a2, which the third second leaves, is not.
    columns = toy_table([blocks.key(kept_without(2, 4))]).calibration()
    limits = [[400, 400, 340, 340]]
    for limit, measured in ((limits, False), ([[400] * 4], True)):
        (outcome,) = serve(toy_world(toy_rows([5], limit), quality=columns), [kept_without(4)])
        assert outcome.nll[0] == pytest.approx(0.30), "the nll named is that of the row's start"
        assert outcome.measured[0] == measured
    # A refused row asks no quality, so it has nothing that is not measured.
    (refused,) = serve(toy_world(toy_rows([5], [[219] * 4]), quality=columns), [kept_without(2, 4)])
    assert refused.measured[0]


def test_rows_turn_at_the_end_and_tenant_rows_keep_their_distance() -> None:
    limits = [[460] * 4, [400] * 4, [340] * 4]
    world = toy_world(toy_rows([5, 10, 0], limits))
    state = lanes_at(world, [1], [2])
    visited = []
    for _ in range(4):
        visited.append((int(state.row[0]), int(state.limit_row[0])))
        state, outcome = simulator.step(world, state, DENSE[None])
        assert outcome.limit_bytes[0] == limits[visited[-1][1]][0]
    assert visited == [(1, 2), (2, 0), (0, 1), (1, 2)]


def test_scaling_changes_tokens_alone() -> None:
    world = toy_world(toy_rows([5, 10], [[460] * 4] * 2))
    state = replace(lanes_at(world, [0, 1]), token_scale=np.array([1.1, 0.9]))
    asked = world.demand(state)
    assert asked.prompt_tokens.tolist() == [6, 9]  # 5.5 and 9.0, to even
    assert asked.batch.tolist() == [1, 1]


def test_lanes_are_put_where_they_are_named_and_no_others_move() -> None:
    rows, scales = np.arange(4), np.array([1.0, 2.0, 3.0, 4.0])
    loaded = np.stack([DENSE, kept_without(2), kept_without(3), FLOOR])
    whole = State(rows, rows + 10, scales, loaded)
    part = State(np.array([7, 8]), np.array([17, 18]), np.array([7.0, 8.0]), loaded[[3, 1]])
    found = whole.put(np.array([2, 0]), part)
    assert found.row.tolist() == [8, 1, 7, 3]
    assert found.limit_row.tolist() == [18, 11, 17, 13]
    assert found.token_scale.tolist() == [8.0, 2.0, 7.0, 4.0]
    assert (found.loaded == loaded[[1, 1, 3, 3]]).all()
    assert whole.row.tolist() == [0, 1, 2, 3]
    assert (whole.loaded == np.stack([DENSE, kept_without(2), kept_without(3), FLOOR])).all()
