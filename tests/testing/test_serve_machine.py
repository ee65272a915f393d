"""The promises of the serving engine at every step, on worlds that nobody chose; and that a break shows."""

from collections.abc import Callable
from typing import Any, ClassVar

import pytest
from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import run_state_machine_as_test

from rapgym.serving.engine import Engine
from rapgym.testing.serve_machine import ServeMachine
from rapgym.testing.serve_model import PlainCard
from rapgym.testing.witness import BrokenPromise

FEW = settings(
    max_examples=30, stateful_step_count=25, deadline=None, database=None, derandomize=True, phases=[Phase.generate],
    suppress_health_check=[*HealthCheck],
)  # fmt: skip


def test_it_keeps_its_promises() -> None:
    class Machine(ServeMachine):
        seen: ClassVar[dict[str, int]] = {}

    run_state_machine_as_test(Machine, settings=FEW)
    for what in (
        "fell",
        "dropped blocks",
        "stood still",
        "delivered",
        "preempted",
        "given up",
        "came back",
    ):
        assert Machine.seen.get(what), f"{what}: the machine reaches what it is meant for"
    assert {"policy", "fallback"} <= {*Machine.tally.reasons}


def _drops_all(engine: Engine) -> None:
    engine.counts = engine.card.floor


def _keeps_all(engine: Engine) -> None:
    """Lets nothing go."""


def _preempts_all(engine: Engine) -> None:
    while engine.running:
        engine._cancel(engine.running[-1])
        engine._preempt()


BROKEN: dict[str, tuple[str, Callable[[Engine], None]]] = {
    "drops more than it must": ("_drop_until_it_fits", _drops_all),
    "drops nothing": ("_drop_until_it_fits", _keeps_all),
    "preempts nobody": ("_preempt_until_it_fits", _keeps_all),
    "preempts more than it must": ("_preempt_until_it_fits", _preempts_all),
    "does not answer a fall": ("_answer_fall", _keeps_all),
    "never brings a block back": ("_move_blocks", _keeps_all),
}


@pytest.mark.parametrize("how", BROKEN)
def test_a_broken_engine_is_found(how: str, monkeypatch: pytest.MonkeyPatch) -> None:
    name, does = BROKEN[how]
    monkeypatch.setattr(Engine, name, does)

    class Machine(ServeMachine):
        def _same(self) -> None:
            """The compiled engine is whole: the witness alone has to see it."""

        def every_token_is_accounted_for(self) -> None:
            """Likewise."""

    with pytest.raises((BrokenPromise, AssertionError)):
        run_state_machine_as_test(Machine, settings=FEW)


def test_the_plain_model_counts_by_hand() -> None:
    card = PlainCard(3, 40, 60, 3, 100, 4, 1, [[1, 0], [1, 1]])
    # 100 + 2 * 40 + 3 * 60, and two pages and the reserved one over two attention blocks.
    assert card.used((1, 0), 2) == 360 + 3 * 4 * 2 * 3
    assert card.next_to_go((0, 0)) == (0, 1)
    running = [(7, 2), (9, 1)]
    whole = card.used((0, 0), 3)
    left: Any = card.after_fall((0, 0), running, 0, whole - 1, blocks_first=True)
    assert left == ((0, 1), [7, 9])
    assert card.after_fall((0, 0), running, 0, whole - 1, blocks_first=False) == ((0, 0), [7])
    assert card.after_fall((0, 0), running, 0, 0, blocks_first=False) == ((1, 1), [])
