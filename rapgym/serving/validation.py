"""What `rapgym validate --recorded` finds: a recorded run, and the simulator's account of it."""

from collections.abc import Callable
from dataclasses import asdict
from pathlib import Path
from typing import Any

from rapgym.model.memory import Footprint, footprint
from rapgym.model.shapes import BF16, Format, model_spec
from rapgym.serving import fidelity, fitting, recorded
from rapgym.serving.profile import ServingProfile
from rapgym.serving.recorded import Run


def shape(served: str | None, form: Format = BF16) -> Footprint:
    """The footprint of the model that a run served; a nominal one where nobody states it."""
    return fidelity.NOMINAL if served is None else footprint(model_spec(served), form)


def validated(
    folder: Path,
    profile: ServingProfile | None = None,
    *,
    served: str | None = None,
    shared: Path | None = None,
    watch: Callable[[], None] = lambda: None,
) -> dict[str, Any]:
    """Replay a recorded run and compare.

    Args:
        profile: that replays it, with the run's own limits; fitted to its first half where None.
        served: the model's preset or `config.json`; any model can be replayed without.
        shared: as `recorded.read`.
        watch: called after each simulation of a fit.
    """
    run, where = recorded.read(folder, shared), shape(served)
    used = fidelity.ruled(profile, run) if profile else fitting.fit(run, where, watch).profile
    return compared(run, used, where) | {"fitted_here": profile is None}


def compared(run: Run, profile: ServingProfile, where: Footprint) -> dict[str, Any]:
    """A run beside its simulation under a profile, JSON-able."""
    found = fidelity.replayed(run, profile, where)
    measured = fidelity.measures(run, run.first_s, run.last_s)
    simulated = fidelity.measures(run, found.first_s, found.last_s)
    missed = fidelity.errors(simulated, measured)
    return {
        "run": run.name,
        "requests": len(run.requests),
        "pages": run.pages,
        "pages_from": run.pages_from,
        "profile": asdict(profile),
        "measures": {
            name: {"measured": value, "simulated": simulated[name], "error": missed[name]}
            for name, value in measured.items()
        },
        "ticks": fidelity.tick_errors(run, found),
        "preemptions": found.preemptions,
        "steps": found.steps,
    }
