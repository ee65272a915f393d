"""Does what was found hold where one number of a scenario is another? One thing changed at a time.

A variant is a scenario in which a single choice differs. Every free parameter is tuned anew on the
variant's train part, then its test part is served; beside that stands what the settings of the
scenario as it is stated cost there. The `rankings` of a results file answer another question: they
price the same proposals at other values of C.
"""

from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass, replace
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from rapgym.bench import cells, pieces, rankings, score, verdicts
from rapgym.bench import origin as bench_origin
from rapgym.bench.cells import ADMISSION, BOUND, LOOKUP
from rapgym.bench.results import Cell
from rapgym.bench.score import NOTHING
from rapgym.bench.suitability import fitting_share
from rapgym.errors import InvalidSpec
from rapgym.files import checked, provenance
from rapgym.guard.guard import refuses_misfit
from rapgym.jobs import kept
from rapgym.jobs.progress import Progress
from rapgym.policies import registry
from rapgym.policies.policy import Briefing, briefing
from rapgym.rivals import rivals
from rapgym.rollout import rollout
from rapgym.scenarios import catalogue, tables, worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload import series

# Days of traffic would take days of tuning: scenarios of an hour alone.
SCENARIOS = ("chat", "chat-gqa-8bit")
METHODS = ("static-best", "keep-all", "gsi", LOOKUP, "frontier-margin", "forecast")
FORESEEING = ("frontier-margin", "forecast")  # the ones whose settings are also carried over
# Pairings on which settings are tuned, of a scenario's 16: all would take three times as long.
TUNING_PAIRINGS = 4
DECIMALS = 9  # of what is written: far below any error, and stable across processors

WINDOWS_S = (5, 10)
RESTORE_S = (0.1, 0.5, 2.0, 8.0)
REACTION_S = (0.0, 0.03, 0.1, 0.3, 1.0)
NOTICE_S = (0, 1, 3)
CARD_MORE_GIB = (-4, -2, 2, 4)
DRAWS = (0, 1, 2)

Entry = dict[str, Any]
Settings = Mapping[str, dict[str, Any]]  # policy -> its settings


@dataclass(frozen=True, slots=True)
class Variant:
    """A scenario in which one thing is changed."""

    base: str  # id of the scenario as it is stated
    field: str  # of the scenario, which is changed; empty for the scenario as it is stated
    value: Any
    story: Scenario


def changes(story: Scenario) -> dict[str, Sequence[Any]]:
    """Field of a scenario -> the values that it takes."""
    domains = tables.table(story).header.domains
    return {
        "ceiling": rankings.ceilings(story),
        "window_s": WINDOWS_S,
        "restore_s": RESTORE_S,
        "reaction_s": REACTION_S,
        "notice_s": NOTICE_S,
        "card_gib": [story.card_gib + more for more in CARD_MORE_GIB],
        "draw": DRAWS,
        "told_domain": domains,
        "domain": domains,
        "splits": ("blocked",),
    }


def variants(story: Scenario, fields: Sequence[str] | None = None) -> list[Variant]:
    """The scenario as it is stated, and every change of one of `fields` (all unless named).

    Raises:
        InvalidSpec: no such field is changed.
    """
    known = changes(story)
    if unknown := {*(fields or ())} - known.keys():
        raise InvalidSpec(
            f"{', '.join(sorted(unknown))} is not varied; there are {', '.join(known)}"
        )
    found = [Variant(story.id, "", None, story)]
    for field in known if fields is None else fields:
        found += [
            Variant(story.id, field, value, _changed(story, field, value))
            for value in known[field]
            if getattr(story, field) != value
        ]
    return found


def _changed(story: Scenario, field: str, value: Any) -> Scenario:
    change: dict[str, Any] = {field: value, "name": f"{story.name}:{field}={value}"}
    if field == "window_s":
        change["workload"] = f"{story.workload}-w{value}"
    return replace(story, **change)


def window_stories(names: Sequence[str] = SCENARIOS) -> list[Scenario]:
    """The variants that need a series of their own, for `rapgym scenarios build --variants`."""
    return [
        variant.story
        for name in names
        for variant in variants(catalogue.scenario(name), ["window_s"])
        if variant.field
    ]


def why_not(variant: Variant) -> str | None:
    """Why a variant cannot be measured here; None where it can."""
    table, draw = tables.table(variant.story), variant.story.draw
    if draw is not None and draw >= len(table.header.orders):
        return f"{table.name} holds orders of {len(table.header.orders)} draws of calibration text"
    return None


def entries() -> list[registry.Entry]:
    """The methods that are compared, as far as the registry has them."""
    known = {entry.name: entry for entry in registry.POLICIES}
    return [known[name] for name in METHODS if name in known]


def measured(variant: Variant, stated: Settings | None = None) -> Entry:
    """Tune every method on a variant's train part, serve its test part, and score it.

    Args:
        stated: settings of the scenario as it is stated, where they shall be served too.

    Returns:
        What goes into the results: costs and scores by policy, those of the bound, and the share of
        train rows in which dense fits.
    """
    story = variant.story
    told = briefing(story)
    tuned_on = briefing(replace(story, offsets=min(TUNING_PAIRINGS, story.offsets)))
    settings = {entry.name: _tuned(entry, tuned_on) for entry in entries()}
    served = {entry.name: _cell(entry, settings[entry.name], told) for entry in entries()}
    served[BOUND] = cells.bound_cell(story)
    scores = _scores(story, served)
    for entry in entries():
        scores[entry.name]["settings"] = settings[entry.name]
        if entry.name in FORESEEING and stated is not None:
            before = stated[entry.name]
            same = before == settings[entry.name]
            cell = served[entry.name] if same else _cell(entry, before, told)
            scores[entry.name]["stated_settings_cost"] = _cost(cell)
    world = worlds.world(story, "train")
    return _plain(
        {
            **_place(variant),
            "dense_fits": fitting_share(world, np.ones(world.blocks, dtype=bool)),
            "ceiling": world.ceiling,
            "policies": scores,
        }
    )


def _place(variant: Variant) -> Entry:
    return {"scenario": variant.base, "field": variant.field, "value": variant.value}


def _tuned(entry: registry.Entry, told: Briefing) -> dict[str, Any]:
    tune = registry.tuning(entry)
    return tune(told) if tune else {}


def _cell(entry: registry.Entry, settings: dict[str, Any], told: Briefing) -> Cell:
    make = partial(registry.build, entry, settings)
    strict = refuses_misfit(make())
    story = told.scenario
    about = replace(
        cells.described(story, entry.name, entry.kind),
        settings=settings,
        on_misfit="refuse" if strict else "repair",
    )
    return cells.scored(story, about, rollout.run(make, story, "test", told))


def _cost(cell: Cell) -> float:
    return score.mean_cost(cell.test_cost, cell.log.output_tokens)


def _scores(story: Scenario, served: Mapping[str, Cell]) -> dict[str, Entry]:
    """Cost, both scores and the difference from the lookup of each policy, on the same resamples.

    Gain is not known where the variant's series keeps no single requests: nobody can be admitted alone.
    """
    log = served[BOUND].log
    draws = score.resamples(pieces.of_split(story), log.offsets)
    admission = _admission(story)
    every = [*served.values(), *([admission] if admission else [])]
    *sums, whole = draws.summed(
        [*(cell.test_cost for cell in every), np.ones(log.row.shape)], log.output_tokens
    )
    summed = dict(zip([*served, ADMISSION], sums, strict=False))
    lookup, bound = (_cost(served[name]) for name in (LOOKUP, BOUND))
    room = lookup - bound if lookup - bound >= verdicts.LEAST_ROOM else np.nan
    found = {}
    for name, cell in served.items():
        gain = NOTHING
        if admission:
            gain = score.score(summed[name], summed[ADMISSION], summed[BOUND], draws.pieces)
        less = score.difference(summed[name], summed[LOOKUP], whole, draws.pieces)
        found[name] = {
            "cost": _cost(cell),
            "gain": gain.value,
            "gain_low": gain.low,
            "gain_high": gain.high,
            "foresight": 100 * (lookup - _cost(cell)) / room,
            "low": less.low,
            "high": less.high,
            "unmeasured": 1 - float(cell.test_measured.mean()),
        }
    return found


def _admission(story: Scenario) -> Cell | None:
    """The full model with partial admission; None where the series keeps no single requests."""
    whole = worlds.workload(story)
    test = series.split_rows(len(whole), "test", story.splits)
    if series.NOT_KEPT in whole.requests[test].tolist():
        return None
    return cells.rival_cell(story, rivals.rival(ADMISSION))


def _plain(value: Any) -> Any:
    """As JSON gives it back: rounded, and None for what is not defined."""
    if isinstance(value, dict):
        return {name: _plain(inner) for name, inner in value.items()}
    if isinstance(value, float):
        return round(value, DECIMALS) + 0.0 if np.isfinite(value) else None
    return value


def run(
    wanted: Sequence[Variant], work: Path, *, jobs: int = 1, quiet: bool = False
) -> dict[str, Any]:
    """Measure what is not kept aside in `work` yet, so that a run that was killed goes on.

    Args:
        wanted: with every variant, the scenario as it is stated is measured too.
        work: a JSON-lines file; what other code, table or series gave is not taken from it.
        jobs: processes that measure variants side by side.

    Returns:
        What a file of results holds: `entries` in the order of `wanted`, `skipped` with a reason
        each, and what they depend on.
    """
    possible = [variant for variant in wanted if why_not(variant) is None]
    found: dict[int, Entry] = {}
    with Progress("sensitivity", len(possible), quiet=quiet) as progress:
        # First the scenarios as they are stated: the others are also served with their settings.
        first = [i for i, variant in enumerate(possible) if not variant.field]
        rest = [i for i, variant in enumerate(possible) if variant.field]
        for part in (first, rest):
            stated = {
                found[i]["scenario"]: {
                    name: each["settings"]
                    for name, each in found[i]["policies"].items()
                    if "settings" in each
                }
                for i in first
                if i in found
            }
            found |= _measured_part(possible, part, stated, work, jobs, progress)
    return {
        **origin(possible),
        "skipped": [{**_place(v), "why": why} for v in wanted if (why := why_not(v))],
        "entries": [found[i] for i in range(len(possible))],
    }


def _measured_part(
    every: Sequence[Variant],
    part: Sequence[int],
    stated: Mapping[str, Settings],
    work: Path,
    jobs: int,
    progress: Progress,
) -> dict[int, Entry]:
    """Those of `every` variants whose places are in `part`."""
    calls = [partial(measured, every[i], stated.get(every[i].base)) for i in part]
    bases = [_basis(every[i], stated.get(every[i].base)) for i in part]
    found: dict[int, Entry] = {}
    for place, entry, before in kept.results(calls, bases, work, jobs):
        i = part[place]
        found[i] = entry
        progress.advance(skipped=before, note=every[i].story.name)
    return found


def _basis(variant: Variant, stated: Settings | None) -> dict[str, Any]:
    """All that an entry depends on."""
    story = variant.story
    return {
        "code_sha256": bench_origin.code_sha256(),
        "table_sha256": tables.table(story).sha256,
        "workload_sha256": checked.sha256_of(worlds.workload_file(story)),
        "place": _place(variant),
        "story": asdict(story),
        "stated": stated,
    }


def origin(measured_ones: Sequence[Variant]) -> dict[str, Any]:
    """What the entries depend on, when and with what they were made."""
    stories = [variant.story for variant in measured_ones]
    return {
        "rapgym": provenance.VERSION,
        **bench_origin.surroundings(),
        "code_sha256": bench_origin.code_sha256(),
        "tables": {story.table: tables.table(story).sha256 for story in stories},
        "workloads": {
            story.workload: checked.sha256_of(worlds.workload_file(story)) for story in stories
        },
        "tuning_pairings": TUNING_PAIRINGS,
    }
