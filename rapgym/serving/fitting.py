"""A serving profile fitted to the first half of a recorded run."""

from collections.abc import Callable
from dataclasses import dataclass, replace

import numpy as np

from rapgym.arrays import FloatArray
from rapgym.model.memory import Footprint
from rapgym.serving import fidelity, kernel
from rapgym.serving.card import Card
from rapgym.serving.profile import ServingProfile
from rapgym.serving.recorded import Run

# Where the search begins and what a run that cannot tell is left with: seconds of a step whatever it
# does, of reading all weights, of a token in the linear layers, of a token of KV cache, of a pair in
# prefill, of a sequence.
STARTS = (
    (1e-3, 20e-3, 100e-6, 120e-9, 1.5e-9, 2e-6),
    (2e-3, 8e-3, 40e-6, 60e-9, 0.6e-9, 10e-6),
    (1e-3, 40e-3, 300e-6, 300e-9, 5e-9, 2e-6),
)
PRIOR_S = 0.01  # seconds of error that one natural logarithm away from the start counts for
EVALUATIONS = 250  # of each start


@dataclass(frozen=True, slots=True)
class Fitted:
    """A profile, and how well it says what it was fitted to, and what came after."""

    profile: ServingProfile
    fitted_s: float  # root mean square error of the times in the first half
    held_out_s: float  # of those in the second


def profile_of(log_seconds: FloatArray, run: Run, card: Card) -> ServingProfile:
    """The profile whose logarithms of seconds these are, in the order of `STARTS`."""
    base, weights, token, kv, pair, sequence = np.exp(log_seconds).tolist()
    profile = ServingProfile(
        name=run.name,
        base_s=base,
        weight_bytes_per_s=card.weight_bytes((0, 0)) / weights,
        tokens_per_s=1 / token,
        kv_bytes_per_s=card.token_bytes((0, 0)) / kv,
        pair_s=pair,
        sequence_s=sequence,
    )
    return fidelity.ruled(profile, run)


def fit(
    run: Run, footprint: Footprint = fidelity.NOMINAL, watch: Callable[[], None] = lambda: None
) -> Fitted:
    """The profile that reproduces the first half of a run best.

    Args:
        watch: called after each simulation.
    """
    from scipy.optimize import minimize

    blank = fidelity.ruled(ServingProfile("blank", 0.0, 1.0, 1.0, 1.0, 0.0), run)
    card = fidelity.card_of(run, footprint, blank)
    world = fidelity.world_of(run, card, blank)

    def missed(log_seconds: FloatArray, early: bool) -> float:
        profile = profile_of(log_seconds, run, card)
        here = world._replace(profile=kernel.constants(profile))
        lane = kernel.lane_of(here)
        # What is fitted sees no later request either: by then the simulated run may lag behind.
        kernel.run(here, lane, 1.5 * run.half_s if early else np.inf, 0, 0, 0)
        return _error_s(run, lane.first_s, lane.last_s, early)

    def loss(log_seconds: FloatArray, start: FloatArray) -> float:
        watch()
        return missed(log_seconds, True) + PRIOR_S * float(np.mean((log_seconds - start) ** 2))

    found = []
    for seconds in STARTS:
        start = np.log(np.array(seconds))
        best = minimize(
            loss, start, args=(start,), method="Nelder-Mead",
            options={"maxfev": EVALUATIONS, "xatol": 1e-3, "fatol": 1e-4,
                     "initial_simplex": start + 0.3 * np.eye(len(start) + 1, len(start), -1)},
        )  # fmt: skip
        found.append((float(best.fun), best.x))
    _, best = min(found, key=lambda each: each[0])
    early_s, late_s = missed(best, True), missed(best, False)
    provenance = {
        "fitted_to": run.name,
        "half_s": run.half_s,
        "fitted_error_s": early_s,
        "held_out_error_s": late_s,
        "losses_of_starts": [round(each, 6) for each, _ in found],
        "pages": run.pages,
        "pages_from": run.pages_from,
        **run.engine,
    }
    return Fitted(replace(profile_of(best, run, card), provenance=provenance), early_s, late_s)


def _error_s(run: Run, first_s: FloatArray, last_s: FloatArray, early: bool) -> float:
    """Root mean square error of the times in one half of the run; what is missing misses by all of it."""
    told, measured = np.append(first_s, last_s), np.append(run.first_s, run.last_s)
    half = (measured <= run.half_s) if early else (measured > run.half_s)
    missed = np.where(np.isnan(told), run.half_s, told - measured)[half]
    return float(np.sqrt(np.mean(missed**2)))
