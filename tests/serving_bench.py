"""What tests of a serving bench share: the toy scenario by its name, short pieces, one small search."""

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import replace
from typing import Any

import numpy as np
import pytest

from rapgym.bench.serving import cells
from rapgym.policies import serve_rules
from rapgym.policies.serving import ServeBriefing
from rapgym.rollout import serve_search
from rapgym.rollout.serve_search import Search
from rapgym.scenarios import serving
from rapgym.scenarios.serving import ServeScenario
from rapgym.serving import world

WHO = "falters:Mine"
FALTERS = (
    "import numpy as np\n"
    "class Mine:\n"
    "    def reset(self, batch, briefing): self.seconds = 0\n"
    "    def decide(self, observation, rng):\n"
    "        self.seconds += 1\n"
    "        if self.seconds == 2: raise ValueError('not yet')\n"
    "        if self.seconds == 3: return np.full((len(observation), 3), 99)\n"
    "        return np.tile(np.array([0, 0, 1]), (len(observation), 1))\n"
)


@contextmanager
def benched(story: ServeScenario) -> Iterator[None]:
    """While this lasts the toy scenario is one of the package's, and its test split has several pieces."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serving, "shipped", lambda: (story,))
        patch.setattr(world, "PIECE_S", 120)
        patch.setattr(serve_search, "SEARCHES", (Search(10, 5, 2, 2),))
        patch.setattr(cells, "SEARCH_PARTS", 2)
        patch.setattr(cells, "SEARCH_S", 60)
        few = {
            "lookup": serve_rules.crossed(margin=(0.0,), demand=(0.5, 1.0), price=(0.3, 1.0)),
            "fixed": serve_rules.crossed(attention=(0, 1), ffn=(0, 1), on_fall=(1,)),
        }
        for name, settings in few.items():
            whole = {key: np.asarray(value) for key, value in settings.items()}
            patch.setitem(serve_rules.RULES, name, replace(serve_rules.RULES[name], tried=whole))
        forget_settings()
        yield
    forget_settings()


def forget_settings() -> None:
    """Let rules be tuned anew."""
    cells.tuned.cache_clear()
    cells.tuned_patience.cache_clear()


@contextmanager
def few_settings() -> Iterator[None]:
    """While this lasts, tuning tries one in nine of the settings of each rule."""
    every = serve_rules.settings_of

    def some(name: str, briefing: ServeBriefing) -> dict[str, Any]:
        return {key: values[::9] for key, values in every(name, briefing).items()}

    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(serve_rules, "settings_of", some)
        forget_settings()
        yield
    forget_settings()
