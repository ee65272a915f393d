"""What a policy is: two methods, and the public data it is given."""

from dataclasses import dataclass
from typing import Literal, Protocol

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.model.memory import Footprint
from rapgym.quality.columns import QualityColumns
from rapgym.scenarios import worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding
from rapgym.world.encoding import Layout, Reading
from rapgym.world.records import Rows, World

Told = Literal["train", "fit", "learn"]  # splits of which a policy may know every row
# What a policy is told of before each split; it has seen the rows of the last three.
TOLD: dict[Split, Told] = {
    "test": "train",
    "validation": "fit",
    "check": "learn",
    "train": "train",
    "fit": "fit",
    "learn": "learn",
}


@dataclass(frozen=True, slots=True)
class Briefing:
    """What a policy is told of the world it will decide in: public data, train rows only."""

    scenario: Scenario
    train: World  # rows of `split` and calibration columns: nothing of test is in it
    layout: Layout  # of the observations that `propose` gets
    split: Told = "train"  # "fit" where it will be judged on validation, "learn" where on check

    @property
    def footprint(self) -> Footprint:
        """Bytes of blocks and of their KV cache."""
        return self.train.footprint

    @property
    def quality(self) -> QualityColumns:
        """Calibration columns of the quality table."""
        columns = self.train.quality
        assert isinstance(columns, QualityColumns)
        return columns

    @property
    def rows(self) -> Rows:
        """The rows of `split`, realised outputs included."""
        return self.train.rows

    def read(self, observation: FloatArray) -> Reading:
        """An observation in tokens and bytes."""
        return encoding.read(self.layout, observation)


def briefing(story: Scenario, split: Told = "train") -> Briefing:
    """The briefing of a scenario, for observations without small steps.

    Args:
        split: whose rows it holds: "train" before test, "fit" before validation, "learn" before check.
    """
    train = worlds.world(story, split)
    return Briefing(story, train, encoding.layout(train, card_bytes=card_bytes(story)), split)


def make_briefing(scenario: str | Scenario = "chat-beside-code", split: Told = "train") -> Briefing:
    """What a policy's `reset` is given: public data of a scenario, nothing of test in it.

    Args:
        scenario: a name or a `Scenario`.
        split: whose rows it holds: "train" before test, "fit" before validation, "learn" before check.

    Returns:
        A frozen record: `scenario`, `footprint` (bytes of each block), `quality` (calibration
        columns), `rows` (of the split, realised outputs included), `layout` (what each entry of an
        observation means), and `read`, which turns an observation into tokens and bytes.

    Raises:
        InvalidSpec: there is no such scenario or split.
        InvalidTable, InvalidTrace, DataUnavailable: a file of it is damaged or not here.

    Example:
        >>> told = rapgym.make_briefing("chat-beside-code")
        >>> told.train.blocks
        60
    """
    return briefing(story_of(scenario), split)


class Policy(Protocol):
    """Says which blocks it would keep. It sees briefing and observations; the shield decides.

    A class attribute `on_misfit = "refuse"` declares that a proposal which does not fit shall be
    refused rather than repaired.

    Example:
        >>> class KeepAll:
        ...     def reset(self, batch, briefing):
        ...         self.shape = batch, briefing.train.blocks
        ...
        ...     def propose(self, observation, rng):
        ...         return np.ones(self.shape, dtype=bool)
        >>> log = rapgym.run_policy(KeepAll, "laptop", "check")
        >>> bool(log.proposal.all()), bool(log.kept.all())
        (True, False)
    """

    def reset(self, batch: int, briefing: Briefing) -> None:
        """Forget the last episodes; `batch` new ones start in the world that `briefing` describes."""

    def propose(self, observation: FloatArray, rng: np.random.Generator) -> BoolArray:
        """float32 [B, O] -> proposal, bool [B, N]."""
        ...
