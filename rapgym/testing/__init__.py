"""For whoever writes a policy or a shield: is it safe, and does it survive a hostile world?

    from rapgym.testing import check_policy

    print(check_policy(MyPolicy))  # a class, a factory, an object, or a name such as "gsi"

`check_policy` needs nothing but rapgym. For tests of your own there are two Hypothesis strategies
(`pip install 'rapgym[testing]'`): `worlds_strategy` draws worlds in which memory is lost at the worst
moment and blocks fit to the byte, `policies_strategy` draws policies that return anything at all.

    from hypothesis import given
    from rapgym.testing import policies_strategy, worlds_strategy

    @given(worlds_strategy(), policies_strategy())
    def test_my_shield(world, policy): ...

`Witness` wraps a step, the simulator's or one of your own, and raises `BrokenPromise` where a row is
not what a plain recount of it says, or a promise of the shield does not hold.
"""

from typing import Any

from rapgym.testing.check import Checkup, check_policy
from rapgym.testing.witness import BrokenPromise, Tally, Witness

__all__ = [
    "BrokenPromise",
    "Checkup",
    "Tally",
    "Witness",
    "check_policy",
    "policies_strategy",
    "worlds_strategy",
]


def worlds_strategy(scenario: str | None = None, rows: int = 16) -> Any:
    """A Hypothesis strategy of worlds (`rapgym.world.records.World`).

    Args:
        scenario: whose model, table and train rows the worlds have, memory and demand made hostile;
            unless given, tiny worlds of two to four layers, which shrink well.
        rows: of each world; tiny worlds have up to six.

    Raises:
        MissingExtra: hypothesis is not installed.
    """
    from rapgym.testing import strategies

    return (
        strategies.tiny_worlds() if scenario is None else strategies.hostile_worlds(scenario, rows)
    )


def policies_strategy(*, fair: bool = True, hostile: bool = True) -> Any:
    """A Hypothesis strategy of policy objects, made anew for each example.

    Args:
        fair: with policies that follow the protocol, however badly they choose.
        hostile: with policies that return anything at all, raise, or write where they must not.

    Raises:
        MissingExtra: hypothesis is not installed.
    """
    from rapgym.testing import strategies

    return strategies.policies(fair=fair, unfair=hostile)
