"""What could be done on a card where memory moves: each way by name, and how it serves rows of windows.

A way is a format, and what happens in it to a model that does not fit: the batch is refused, its newest
requests are, a smaller set of blocks stays for good, or blocks are dropped at run time: in one fixed
order, or as the frontier lookup says.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Literal

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.bench import pieces
from rapgym.errors import DataUnavailable, InvalidTable, UnmeasuredSet
from rapgym.model.shapes import BF16, Format
from rapgym.policies import reference
from rapgym.rivals import pruned, rivals
from rapgym.rivals.pruned import Text
from rapgym.rivals.rivals import Rival
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import card, tables, worlds
from rapgym.scenarios.story import Scenario, Split
from rapgym.world import reward
from rapgym.world.records import World

# What a way leaves of the model: all of it; one set of blocks for good; what fits, at run time.
Kind = Literal["whole", "fixed", "pruned"]
Rule = Literal[
    "refuse", "admit", "fixed", "trimmed", "lookup",
    # Of the serving engine: see `rapgym.policies.serve_rules`.
    "serve-engine", "serve-fixed", "serve-keep-all-drop", "serve-lookup", "serve-hysteresis", "serve-hurry",
]  # fmt: skip

FORMATS: dict[str, Format] = {"bf16": BF16} | {
    name: form for name, (_, form) in rivals.FORMATS.items()
}
# In which formats blocks are dropped: 16, 8 and 4 bits. The KV cache has at least 8.
PRUNED = ("bf16", "int8-int8-kv", "int4-int8-kv")
ENDINGS: dict[Rule, str] = {  # of a way's name, behind its format; others end as their rule is called
    "refuse": "", "admit": "-admission", "fixed": "-fixed", "trimmed": "-trimmed", "lookup": "-pruned"
}  # fmt: skip
BEFORE_SERVED = "serve-"
SAYS: dict[Rule, str] = {
    "refuse": "a batch that does not fit is refused",
    "admit": "the newest requests are refused until the rest fits",
    "fixed": "one set of blocks for good, chosen on train; a batch that does not fit is refused",
    "trimmed": "at run time blocks go in one fixed order until the rest fits",
    "lookup": "at run time the best measured set that fits: the frontier lookup",
    "serve-engine": "all blocks stay, the last admitted are preempted where memory falls: the engine of today",
    "serve-fixed": "the same counts of blocks dropped for good, chosen on train",
    "serve-keep-all-drop": "blocks go where memory falls below what is in use, and come back as they fit",
    "serve-lookup": "each second the counts of least loss that fit now, tuned on train",
    "serve-hysteresis": "the same, which brings back late, tuned on train",
    "serve-hurry": "the same, which also drops for speed while prompts pile up, tuned on train",
}
KINDS: dict[Rule, Kind] = {
    "refuse": "whole", "admit": "whole", "fixed": "fixed", "trimmed": "pruned", "lookup": "pruned",
    "serve-engine": "whole", "serve-fixed": "fixed", "serve-keep-all-drop": "pruned", "serve-lookup": "pruned",
    "serve-hysteresis": "pruned", "serve-hurry": "pruned",
}  # fmt: skip


@dataclass(frozen=True, slots=True)
class Way:
    """One thing that could be done."""

    format: str  # a name of `FORMATS`
    rule: Rule

    @property
    def name(self) -> str:
        return self.format + ENDINGS.get(self.rule, f"-{self.rule}")

    @property
    def form(self) -> Format:
        return FORMATS[self.format]

    @property
    def kind(self) -> Kind:
        return KINDS[self.rule]

    @property
    def bits(self) -> int:
        """Of its weights."""
        return {"bf16": 16, "int8": 8, "int4": 4}[self.form.weights]

    @property
    def says(self) -> str:
        return f"{self.form.weights} weights, {self.form.kv} KV cache; {SAYS[self.rule]}"


# Simple ones first: where two cost the same, the first is meant.
EVERY = (
    *(Way(form, "refuse") for form in FORMATS),
    *(Way(form, "admit") for form in FORMATS),
    *(Way(form, rule) for rule in ("fixed", "trimmed", "lookup") for form in PRUNED),
    *(Way(form, rule) for rule in KINDS if rule.startswith(BEFORE_SERVED) for form in FORMATS),
)  # fmt: skip
BY_NAME = {way.name: way for way in EVERY}


def name_of(form: Format) -> str:
    """What a format is called here."""
    return next(name for name, each in FORMATS.items() if each == form)


def possible(story: Scenario, only: str = "") -> list[Way]:
    """The ways to serve windows whose quality is known for the scenario's model; to drop blocks needs a table.

    Args:
        only: ways in this format alone; in each unless stated.
    """
    return [
        way
        for way in EVERY
        if not way.rule.startswith(BEFORE_SERVED)
        and only in ("", way.format)
        and _is_known(story, way)
    ]


def _is_known(story: Scenario, way: Way) -> bool:
    try:
        if way.kind == "whole":
            rivals.format_nll(story, way.form, "calib")
        else:
            tables.told(story, way.form)
    except (DataUnavailable, InvalidTable, UnmeasuredSet):
        return False
    return True


def fits(story: Scenario, form: Format, split: Split) -> BoolArray:
    """Whether the full model fits in a format, in each second as it was recorded, bool [T, W]."""
    world = worlds.world(story, split)
    whole = np.ones(world.blocks, dtype=bool)
    return pieces.fitting_seconds(world, whole, card.footprint(story, form))


class Player:
    """Plays ways on one scenario; what several of them or both splits share is found once."""

    def __init__(self, story: Scenario) -> None:
        self.story = story
        self._fixed: dict[Format, BoolArray] = {}

    def log(self, way: Way, split: Split, text: Text) -> EpisodeLog:
        """Every row of a split in all pairings, priced with calibration or test text.

        Whatever the text, blocks are dropped by calibration columns, and the fixed set is train's.
        """
        story = self.story
        if way.rule in ("refuse", "admit"):
            rule: Literal["static", "partial-admission"] = (
                "static" if way.rule == "refuse" else "partial-admission"
            )
            return rivals.log(story, Rival(way.name, way.says, rule, way.form), split, text)
        if way.rule == "lookup":
            return pruned.log(story, way.form, split, text)
        priced = pruned.world(story, way.form, split, text)
        row, limit_row = rollout.paired_rows(priced, story.offsets)
        refuses = way.rule == "fixed"
        kept = self.fixed(way.form) if refuses else np.ones(priced.blocks, dtype=bool)
        proposals = np.broadcast_to(kept, (*row.shape, priced.blocks)).copy()
        return pruned.in_turn(priced, row, limit_row, proposals, refuses_misfit=refuses)

    def fixed(self, form: Format) -> BoolArray:
        """The set that costs least for good on train, refused where it does not fit, bool [N].

        Of the frontier's sets, priced as if what comes back came back at once: exact pricing of each
        would take as long as the rest of a point. What it costs is then played exactly.
        """
        if form not in self._fixed:
            self._fixed[form] = self._chosen(form)
        return self._fixed[form]

    def _chosen(self, form: Format) -> BoolArray:
        world = pruned.world(self.story, form, "train", "calib")
        rows, sets = world.rows, reference.frontier(world.quality)
        used = sets.used_bytes(
            world.footprint, rows.prompt_tokens + rows.reserved_tokens, rows.prompt_tokens
        )
        lowest = np.minimum.accumulate(rows.limit_bytes, axis=1)
        served = np.zeros(len(sets.kept))
        for row, limit_row in _lanes(world, self.story.offsets):
            there = (used[row][:, None] <= lowest[limit_row][:, :, None]).mean(axis=1)
            served += rows.output_tokens[row] @ there
        served /= max(self.story.offsets * int(rows.output_tokens.sum()), 1)
        loss = reward.token_loss(sets.nll, world.ceiling)
        cost = loss * served + world.ceiling * (1 - served)
        chosen: BoolArray = sets.kept[int(cost.argmin())]
        return chosen

    def is_idle(self, form: Format, split: Split) -> bool:
        """Whether a way that drops blocks would drop none: all fits in every second of every pairing."""
        world = worlds.world(self.story, split)
        if not reference.frontier(tables.told(self.story, form)).kept[0].all():
            return False  # a smaller set was measured to be better than all blocks
        foot, rows = card.footprint(self.story, form), world.rows
        whole = np.ones(world.blocks, dtype=bool)
        used = foot.used_bytes(whole, rows.prompt_tokens + rows.reserved_tokens, rows.prompt_tokens)
        lowest = rows.limit_bytes.min(axis=1)
        return all(
            bool((used[row] + foot.margin_bytes <= lowest[limit_row]).all())
            for row, limit_row in _lanes(world, self.story.offsets)
        )


def _lanes(world: World, offsets: int) -> Iterator[tuple[IntArray, IntArray]]:
    """Rows of demand and of the limit, [T] each, in one pairing after the other."""
    row, limit_row = rollout.paired_rows(world, offsets)
    return zip(row.T, limit_row.T, strict=True)
