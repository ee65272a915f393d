"""Records of a bench that say nothing in particular, for tests that say the rest."""

from typing import Any

from rapgym.bench.records import About, Score


def about_of(policy: str = "mine", **more: Any) -> About:
    """A cell of a policy on the toy scenario."""
    plain: dict[str, Any] = {
        "scenario": "toy-v0", "policy": policy, "kind": "heuristic", "blocks": 6, "ceiling": 4.0,
    }  # fmt: skip
    return About(**(plain | more))


def score_of(policy: str = "mine", **more: Any) -> Score:
    """A policy that lies between the lookup and the bound."""
    plain: dict[str, Any] = {
        "scenario": "toy-v0", "group": "8-bit", "claims": True, "bits": 16, "traffic": "toy", "policy": policy,
        "kind": "heuristic", "action_space": "kept set", "gain": 90.0, "gain_low": 80.0,
        "gain_high": 95.0, "foresight": 12.5, "low": -0.02, "high": -0.003, "p_value": None,
        "least_effect": 0.011, "least_effect_points": 11.0, "unit": "burst", "pieces": 8,
        "conditional": True,
        "cost": 0.1, "quality": 0.04, "stall": 0.01, "emergency": 0.05, "refused": 0.0,
        "validation_cost": None, "table_error": 0.0, "behind_best": 0.0,
        "behind_best_low": 0.0, "behind_best_high": 0.0, "tied_for_best": False,
        "behind_champion": None, "behind_champion_low": None, "behind_champion_high": None,
        "behind_unpruned": None, "behind_unpruned_low": None, "behind_unpruned_high": None,
        "behind_bound": 0.0, "behind_bound_low": 0.0, "behind_bound_high": 0.0, "unmeasured": 0.02,
        "fallback": 0.0, "fault": None, "decision_us_p50": 40.2, "decision_us_p99": 81.0,
        "calibration_passes": 464.0, "calibration_tokens": None, "break_even_tokens": None,
        "seeds": 1, "seed_costs": (0.1,),
    }  # fmt: skip
    return Score(**(plain | more))


def known(value: float | None) -> float:
    """A number of a record that the test needs."""
    assert value is not None
    return value
