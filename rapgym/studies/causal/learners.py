"""Policies that learn, trained on the train part of a twin: for `study --learned`."""

from functools import partial

from rapgym.files import checked
from rapgym.learning import runs
from rapgym.policies import registry
from rapgym.policies.policy import Policy
from rapgym.scenarios.story import Scenario


def hindsight(story: Scenario, seed: int) -> partial[Policy]:
    """What makes a policy of one training run on a twin's scenario."""
    settings, out = runs.settings_of("hindsight", {}), checked.cache_folder() / "twins" / "runs"
    run = runs.Run("hindsight", story, "train", seed, settings, out)
    run.do()
    return partial(registry.build, registry.entry("hindsight"), {"file": str(run.path)})
