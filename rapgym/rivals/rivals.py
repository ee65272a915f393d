"""Rivals outside the action space: what else one could do where memory moves, in the same nats.

They play the rows of the policies in all pairings, in the served model's own bytes, and nothing of them
is tuned. All costs are nats an output token above the full bf16 model, as those of policies are; a format
costs the full model what its rounding was measured to.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.errors import InvalidSpec
from rapgym.model.memory import Footprint
from rapgym.model.shapes import Format
from rapgym.quality import table as quality_table
from rapgym.quality.columns import QualityColumns
from rapgym.quality.predictor import Settings
from rapgym.quality.sets import MeasuredSets
from rapgym.rivals import pruned as pruned_rivals
from rapgym.rivals import rules as rival_rules
from rapgym.rivals.pruned import Text
from rapgym.rollout import rollout
from rapgym.rollout.log import EpisodeLog
from rapgym.scenarios import card, worlds
from rapgym.scenarios import tables as scenarios_tables
from rapgym.scenarios.catalogue import shipped
from rapgym.scenarios.story import Scenario, Split
from rapgym.workload import series
from rapgym.world.records import World
from rapgym.world.shield import Reason


@dataclass(frozen=True, slots=True)
class Rival:
    """A way around pruning, whose rule is in `rules`; or pruning on top of another format."""

    name: str
    summary: str
    rule: Literal["static", "partial-admission", "weight-streaming", "pruned"]
    form: Format | None = None  # the scenario's own unless stated

    @property
    def prunes(self) -> bool:
        return self.rule == "pruned"

    def form_on(self, story: Scenario) -> Format:
        """The format in which it serves a scenario."""
        return story.form if self.form is None else self.form


# What else the served model can be stored in, by the name that rivals carry.
FORMATS = {
    "int8": ("int8 weights", Format("int8")),
    "int4": ("int4 weights", Format("int4")),
    "int8-kv": ("bf16 weights, int8 KV cache", Format("bf16", "int8")),
    "int8-int8-kv": ("int8 weights, int8 KV cache", Format("int8", "int8")),
    "int4-int8-kv": ("int4 weights, int8 KV cache", Format("int4", "int8")),
}
# Each needs a quality table of its format; `every` gives those whose table is here.
PRUNED = tuple(
    Rival(
        f"{name}-pruned", f"{told}; on top of it the frontier lookup drops blocks", "pruned", form
    )
    for name, (told, form) in FORMATS.items()
)
WHOLE: tuple[Rival, ...] = (  # they prune nothing
    *(
        Rival(name, f"{told}; a batch that does not fit is refused", "static", form)
        for name, (told, form) in FORMATS.items()
    ),
    *(
        Rival(f"{name}-admission", f"{told}; the newest requests are refused until the rest fits",
              "partial-admission", form)
        for name, (told, form) in FORMATS.items()
    ),
    Rival("partial-admission", "the newest requests are refused until the rest fits",
          "partial-admission"),
    Rival("weight-streaming", "what does not fit is read at every forward pass",
          "weight-streaming"),
)  # fmt: skip


def every() -> tuple[Rival, ...]:
    """The rivals that can be run here: those that prune need their tables."""
    return (*WHOLE, *(each for each in PRUNED if _needed(each) <= {*quality_table.shipped()}))


def _needed(rival: Rival) -> set[str]:
    """The quality tables with which a rival that prunes serves every scenario."""
    return {
        scenarios_tables.table_name(scenarios_tables.base_name(s), rival.form_on(s))
        for s in shipped()
    }


def rival(name: str) -> Rival:
    """The rival of this name.

    Raises:
        InvalidSpec: there is none, and the message lists those there are; or its table is not here.
    """
    here = every()
    for found in here:
        if found.name == name:
            return found
    for absent in PRUNED:
        if absent.name == name and absent.form is not None:
            form, tables = absent.form, ", ".join(sorted(_needed(absent)))
            raise InvalidSpec(
                f"{name} needs the quality table {tables}, which is not shipped; `rapgym measure MODEL "
                f"--format {form.weights}/{form.kv}` makes one"
            )
    raise InvalidSpec(f"no rival is called {name!r}; there are {', '.join(r.name for r in here)}")


def same_as(rival: Rival, story: Scenario) -> str:
    """What another entry does that a rival would do on a scenario served in its format; or nothing."""
    if rival.form is None or rival.form != story.form:
        return ""
    return {"partial-admission": "partial-admission", "pruned": "frontier"}.get(rival.rule, "")


def tables(story: Scenario) -> dict[str, str]:
    """The quality tables on which a scenario's cells depend, name -> sha256.

    Its own, the one in bf16, and those of the formats in which rivals prune, as far as they are here.
    """
    own = {
        table.name: table.sha256
        for table in (scenarios_tables.table(story), scenarios_tables.base_table(story))
    }
    for form in dict.fromkeys(rival.form_on(story) for rival in every() if rival.prunes):
        name = scenarios_tables.table_name(scenarios_tables.base_name(story), form)
        if quality_table.path_of(name).is_file():
            own[name] = scenarios_tables.format_table(story, form).sha256
    return own


def format_nll(story: Scenario, form: Format, text: Text) -> float:
    """Nats a token that a format costs the full model, above bf16; 0 of that.

    Raises:
        UnmeasuredSet: it was not measured on this text.
    """
    return scenarios_tables.base_table(story).format_nll(form, text, story.domain)


def format_nll_se(story: Scenario, rival: Rival, text: Text) -> float:
    """Standard error of what a rival's format costs beyond the scenario's own; 0 of that.

    Both were measured on the same text; their errors are taken as independent, which they are not:
    too much.

    Raises:
        UnmeasuredSet: one of the two was not measured on this text.
    """
    form, base = rival.form_on(story), scenarios_tables.base_table(story)
    if form == story.form:
        return 0.0
    return math.hypot(
        *(base.format_nll_se(each, text, story.domain) for each in (form, story.form))
    )


def log(story: Scenario, rival: Rival, split: Split, text: Text = "calib") -> EpisodeLog:
    """Every row of a split in all pairings, with the format's quality on calibration or test text.

    As in a policy's log: but of rivals that prune nothing proposal and kept are whole, for every block
    takes part in every answer, and kept_end is what is loaded (of weight streaming whole, wherever the
    weights lie). One that prunes decides by calibration columns, whichever text is asked for.

    Raises:
        UnmeasuredSet: the format was not measured on this text.
        InvalidTrace: the series keeps no single requests of these rows, and admission needs them.
        DataUnavailable: the rival prunes, and its format has no table.
    """
    form = rival.form_on(story)
    if rival.prunes:
        return pruned_rivals.log(story, form, split, text)
    return played(story, rival, split, format_nll(story, form, text))


def played(story: Scenario, rival: Rival, split: Split, nll: float) -> EpisodeLog:
    """The same of a rival that prunes nothing, with a given quality of its format.

    Args:
        nll: nats a token above the full model in bf16.
    """
    world = whole_world(
        worlds.world(story, split), card.footprint(story, rival.form_on(story)), nll
    )
    return _log(world, _rule(story, rival, split, world, nll), story.offsets, nll)


def _rule(
    story: Scenario, rival: Rival, split: Split, world: World, nll: float
) -> rival_rules.Rule:
    if rival.rule == "static":
        return rival_rules.static(world)
    if rival.rule == "weight-streaming":
        return rival_rules.weight_streaming(world, nll)
    return rival_rules.partial_admission(world, _batches(story, split, world), nll)


def whole_world(world: World, footprint: Footprint, nll: float) -> World:
    """The world of a deployment that drops nothing: its bytes, one quality, all blocks its floor."""
    return replace(world, footprint=footprint, quality=_constant(world, world.blocks, nll))


def _constant(world: World, n: int, nll: float) -> QualityColumns:
    """Columns that know the dense set alone, and say `nll` of it."""
    none, whole = np.zeros(0, dtype=np.int64), np.ones((1, n), dtype=bool)
    unknown = np.array([np.nan])
    return QualityColumns(
        name=world.quality.name,
        split=world.quality.split,
        domain=world.quality.domain,
        sets=MeasuredSets(
            kept=whole,
            nll=np.array([nll]),
            nll_se=unknown,
            kl=unknown,
            top1=unknown,
            sample=("",),
            design=("format",),
            judged=np.array([True]),
        ),
        floor=whole[0],
        order=none,
        attention_order=none,
        ffn_order=none,
        at_counts=np.array([[nll]]),
        grid_kept=whole[None],
        grid_measured=np.array([[True]]),
        single=np.full(n, np.nan),
        importance=np.zeros(n),
        ceiling=world.ceiling,
        predictor_settings=Settings(),
    )


def _batches(story: Scenario, split: Split, world: World) -> rival_rules.Batches:
    """The split's single requests, in the tokens of the model that serves."""
    whole = worlds.workload(story)
    part = whole.part(series.split_rows(len(whole), split, story.splits))
    single = part.single_requests()
    k = np.arange(int(part.batch.max()) + 1)
    there = k <= part.batch[:, None]
    at = np.minimum(single.first[:-1, None] + k, single.first[1:, None])

    def first_k(tokens: IntArray) -> IntArray:
        total = np.append(0, np.cumsum(tokens))
        return total[at] - total[single.first[:-1], None]

    def serving(tokens: IntArray) -> IntArray:
        return np.where(there, card.tokens(story, tokens), -1)

    return rival_rules.batches(
        world,
        serving(first_k(single.prompt_tokens)),
        serving(k * part.reserve_tokens),
        first_k(single.output_tokens),
    )


def _log(world: World, rule: rival_rules.Rule, offsets: int, nll: float) -> EpisodeLog:
    """Every row in all pairings, each from dense."""
    row, limit_row = rollout.paired_rows(world, offsets)
    found = rival_rules.in_turn(rule, row, limit_row)
    whole: BoolArray = np.ones((*row.shape, world.blocks), dtype=bool)
    return EpisodeLog(
        row=row,
        limit_row=limit_row,
        proposal=whole,
        source=np.full(row.shape, Reason.POLICY, dtype=np.int64),
        kept=whole,
        kept_end=found.after.reshape(whole.shape) if found.after.dtype == bool else whole,
        reason=found.reason.reshape(row.shape),
        limit_bytes=world.rows.limit_bytes[limit_row][:, :, 0],
        used_bytes=found.used_bytes.reshape(row.shape),
        nll=np.full(row.shape, nll),
        measured=np.ones(row.shape, dtype=bool),
        output_tokens=world.rows.output_tokens[row],
        quality=found.quality.reshape(row.shape),
        stall=found.stall.reshape(row.shape),
        emergency=found.emergency.reshape(row.shape),
        refused=found.refused.reshape(row.shape),
    )
