"""What a policy is: two methods, and the public data it is given."""

from dataclasses import dataclass
from typing import Literal, Protocol, cast, get_args

import numpy as np

from rapgym.arrays import BoolArray, FloatArray
from rapgym.model.memory import Footprint
from rapgym.quality.columns import QualityColumns
from rapgym.scenarios import worlds
from rapgym.scenarios.card import card_bytes
from rapgym.scenarios.catalogue import story_of
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import encoding, pace
from rapgym.world.encoding import Layout, Reading
from rapgym.world.records import Rows, World

# Splits of which a policy may know every row.
Told = Literal[
    "train", "learn", "fit-1", "fit-2", "fit-3", "learn-1", "learn-2", "learn-3"
]  # fmt: skip
KNOWN: tuple[Told, ...] = get_args(Told)
FITS: tuple[Told, ...] = ("fit-1", "fit-2", "fit-3")
# What a policy is told of before each split that is held out.
_BEFORE = {"test": "train", "validation": "fit", "check": "learn"}


def told_before(split: Split) -> Told:
    """Of which split's rows a policy is told that will be judged on this one.

    What is no held-out split it has seen itself: of train it is told before train.
    """
    part, dash, fold = split.partition("-")
    return cast(Told, f"{_BEFORE.get(part, part)}{dash}{fold}")


def held_out(told: Told) -> Split:
    """The split that is held out from what is told: validation-k from fit-k, test from train."""
    after = {before: split for split, before in _BEFORE.items()}
    part, dash, fold = told.partition("-")
    return cast(Split, f"{after[part]}{dash}{fold}")


@dataclass(frozen=True, slots=True)
class Briefing:
    """What a policy is told of the world it will decide in: public data, train rows only."""

    scenario: Scenario
    train: World  # rows of `split` and calibration columns: nothing of test is in it
    layout: Layout  # of the observations that `propose` gets
    split: Told = "train"  # what `told_before` names of the split on which it will be judged

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
        if pace.is_loaded() and getattr(observation, "dtype", None) == np.float32:
            from rapgym.world import reading

            return reading.reader_of(self.layout).read(observation)
        return encoding.read(self.layout, observation)


def briefing(story: Scenario, split: Told = "train") -> Briefing:
    """The briefing of a scenario, for observations without small steps.

    Args:
        split: whose rows it holds: "train" before test, "fit-k" before validation-k, "learn" before
            check.
    """
    train = worlds.world(story, split)
    return Briefing(story, train, encoding.layout(train, card_bytes=card_bytes(story)), split)


def make_briefing(scenario: str | Scenario = "chat-beside-code", split: Told = "train") -> Briefing:
    """What a policy's `reset` is given: public data of a scenario, nothing of test in it.

    Args:
        scenario: a name or a `Scenario`.
        split: whose rows it holds: "train" before test, "fit-k" before validation-k, "learn" before
            check.

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
