"""A point of the map of a serving scenario: the engine of today, counts for good, and the rules that prune.

Rules are tuned on stretches of train as in the study of the engine, with fewer settings of each
(`serve_rules.coarse_settings`); what a rule costs under the settings that it got is played exactly.
"""

from functools import partial
from typing import Any

from rapgym import heldout
from rapgym.bench.serving.score import estimate
from rapgym.policies import serve_rules
from rapgym.policies.serving import serve_briefing
from rapgym.rollout import serving as rollout_serving
from rapgym.rollout.serving import Served
from rapgym.scenarios import serving_worlds, tables
from rapgym.scenarios.serving import ServeScenario
from rapgym.worth import point as worth_point
from rapgym.worth.axes import Place
from rapgym.worth.point import Part, Point
from rapgym.worth.ways import BEFORE_SERVED, KINDS, Rule, Way

RULES: tuple[Rule, ...] = tuple(rule for rule in KINDS if rule.startswith(BEFORE_SERVED))


def played(story: ServeScenario, place: Place | None = None, *, held_out: bool = True) -> Point:
    """Play every rule on a serving scenario as it is, in its own format.

    Args:
        place: where that is on a map, for the record.
        held_out: also its test seconds; without, nothing of them is opened.
    """
    place = place or Place.own(story)
    known = {rule: Way(place.format, rule).name for rule in RULES}
    with heldout.only("train"):
        told = serve_briefing(story)
        stretches, costs = rollout_serving.spread(told.train), dict[str, float]()
        settings = dict[str, dict[str, Any]]()
        for rule, way in known.items():
            tried = serve_rules.coarse_settings(_plain(rule), told)
            settings[way], costs[way] = rollout_serving.best_settings(
                _made(rule), tried, told, stretches
            )
    compared = worth_point.compared_on_train(costs)
    test: Part | None = None
    count = 0
    if held_out:
        world = serving_worlds.scoring_world(story)
        served: dict[str, Served] = {
            way: rollout_serving.play(
                partial(_made(rule), **settings[way]), world, world.pieces, told
            )
            for rule, way in known.items()
        }
        test, count = Part({way: each.cost for way, each in served.items()}, {}), len(world.pieces)
        compared = {
            name: pair
            and worth_point.judged(
                pair, estimate(served[pair.way], served[pair.over]), served[pair.over].cost
            )
            for name, pair in compared.items()
        }
    return Point(
        place, tables.ceiling(story.base), Part(costs, {}), test, "hour" if held_out else None, count,
        compared["lead"], compared["pruning"], settings,
    )  # fmt: skip


def _plain(rule: Rule) -> str:
    return rule.removeprefix(BEFORE_SERVED)


def _made(rule: Rule) -> Any:
    return serve_rules.RULES[_plain(rule)].make
