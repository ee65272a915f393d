"""The simulated world against the machine: rows replayed on a live model, and a report of both."""

import hashlib
import json
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from datetime import UTC, datetime
from pathlib import Path

from rapgym.bench import origin as bench_origin
from rapgym.files import provenance, writing
from rapgym.guard.foreign import Terms
from rapgym.policies import registry
from rapgym.runtime.validate import agreement, profiling, ranking, replay, trials
from rapgym.runtime.validate.records import Record
from rapgym.runtime.validate.replaying import Job
from rapgym.runtime.validate.trials import Trial
from rapgym.scenarios import card, tables, worlds
from rapgym.scenarios.story import Scenario, Split, described
from rapgym.world.records import World

POLICIES = ("static-best", "keep-all", "frontier", "frontier-margin", "gsi-per-byte", "random",
            "forecast")  # fmt: skip
SCHEMA = 1
UNSHIELDED_TRIALS = 2  # the tightest rows, executed as `keep-all` proposes them


@dataclass(frozen=True, slots=True)
class Settings:
    """How rows are replayed."""

    device: str = "cpu"
    threads: int = 1
    chunk_tokens: int = 128
    enforced: bool = True


@dataclass(frozen=True, slots=True)
class Plan:
    """What is replayed."""

    story: Scenario
    split: Split
    rows: tuple[int, ...]
    trials: Mapping[str, Mapping[int, Trial]]  # policy -> row -> trial
    stands_for: Mapping[Trial, Trial]  # each trial -> the one that is measured in its place
    unshielded: tuple[Trial, ...]
    in_process: tuple[str, ...] = ()  # users' policies that ran where their rows were played

    @property
    def measured(self) -> tuple[Trial, ...]:
        """Distinct trials, rows together, so that a row's dense reference is at hand."""
        found = dict.fromkeys(
            self.stands_for[t] for per in self.trials.values() for t in per.values()
        )
        return tuple(sorted(found, key=lambda trial: (trial.row, trial.loaded, trial.proposal)))


def plan(
    story: Scenario,
    split: Split,
    names: Sequence[str],
    count: int,
    terms: Terms | None = None,
) -> Plan:
    """Choose rows and trials by the policies' simulated runs.

    Args:
        terms: on which users' policies are run; in processes of their own unless stated.

    Raises:
        InvalidTrace: the series keeps no single requests.
    """
    world = worlds.world(story, split)
    logs = {name: trials.policy_log(story, split, name, terms=terms) for name in names}
    rows = trials.chosen_rows(world, logs, trials.rows_with_requests(story, split), count)
    per = {
        name: trials.trials(log, rows, trials.is_strict(story, split, name, terms))
        for name, log in logs.items()
    }
    first: dict[tuple[object, ...], Trial] = {}
    stands_for = {
        trial: first.setdefault(trials.alike(world, trial), trial)
        for found in per.values()
        for trial in found.values()
    }
    in_process = tuple(
        name for name in names if terms and terms.in_process and registry.entry(name).is_own
    )
    return Plan(story, split, tuple(rows), per, stands_for, _unshielded(world, rows), in_process)


def _unshielded(world: World, rows: Sequence[int]) -> tuple[Trial, ...]:
    """Dense in the rows where that exceeds the limit most; none where it fits everywhere."""
    dense = trials.dense_trials(world, rows)
    return tuple(trial for over, trial in dense[:UNSHIELDED_TRIALS] if over > 0)


def basis(story: Scenario, split: Split, settings: Settings) -> Record:
    """All that a measured row depends on beside its trial."""
    found = {
        "code_sha256": bench_origin.code_sha256(),
        "story": described(story),
        "table_sha256": tables.table(story).sha256,
        "split": split,
        "settings": asdict(settings),
    }
    known: Record = json.loads(json.dumps(found))
    return known


def work_file(work: Path, known: Record) -> Path:
    """Where the rows of this basis are kept while they are measured."""
    named = hashlib.sha256(json.dumps(known, sort_keys=True).encode()).hexdigest()
    return work / f"{named[:16]}.jsonl"


def measured(
    story: Scenario,
    split: Split,
    wanted: Sequence[Trial],
    settings: Settings,
    work: Path,
    *,
    shielded: bool = True,
    advance: Callable[[bool], None] = lambda skipped: None,
) -> tuple[dict[Trial, Record], replay.Ended]:
    """Records of these trials, those that earlier runs left among them.

    Args:
        work: folder of unfinished work.
        advance: called once for each trial, with whether it was measured before.

    Raises:
        InvalidResult: the process broke off; finished rows are kept.
    """
    known = basis(story, split, settings) | {"shielded": shielded}
    out = work_file(work, known)
    before = replay.by_trial(replay.records(out))
    missing = tuple(trial for trial in wanted if trial not in before)
    for _ in range(len(wanted) - len(missing)):
        advance(True)
    if missing:
        job = Job(
            story, split, missing, out, settings.device, settings.threads, settings.chunk_tokens,
            shielded, settings.enforced,
        )  # fmt: skip
        ended = replay.replayed(job, lambda: advance(False))
        replay.check(ended, job)
    else:
        about = [line["about"] for line in replay.lines(out) if "about" in line]
        ended = replay.Ended(0, about[-1] if about else {}, 0.0)
    return replay.by_trial(replay.records(out)), ended


def run(
    planned: Plan,
    settings: Settings,
    work: Path,
    advance: Callable[[bool], None] = lambda skipped: None,
) -> Record:
    """Replay a plan with the shield, then the tightest rows without it, and report."""
    story, split = planned.story, planned.split
    found, ended = measured(story, split, planned.measured, settings, work, advance=advance)
    said = report(planned, found, settings, ended)
    said["limit"]["enforced_by"] = ended.about.get("enforced_by")
    off: list[Record] = []
    for trial in planned.unshielded:  # each in a process of its own, as it may be killed
        records, how = measured(
            story, split, (trial,), settings, work, shielded=False, advance=advance
        )
        off.append(unshielded_row(trial, records.get(trial), how))
    if off:
        said["limit"]["unshielded"] = {
            "trials": len(off),
            "exceeded": sum(row["exceeded"] for row in off),
            "rows": off,
        }
    return said


def report(
    planned: Plan, found: Mapping[Trial, Record], settings: Settings, ended: replay.Ended
) -> Record:
    """Predicted against measured."""
    story, split = planned.story, planned.split
    world = judging_world(story, split)
    profile = card.profile_of(story)
    rows = {trial: agreement.row(world, found[trial], profile) for trial in planned.measured}
    shared = {trial: rows[stand] for trial, stand in planned.stands_for.items()}
    used = [found[trial] for trial in planned.measured]
    total = agreement.totals(
        [*rows.values()], used, world.blocks, tables.table(story).header.sequence_tokens
    )
    ranks = ranking.policies(world, shared, planned.trials)
    return {
        "schema": SCHEMA,
        **origin(story, split, settings, ended),
        "policies": ranks,
        **({"in_process": list(planned.in_process)} if planned.in_process else {}),
        "total": total,
        "reaction": {"stated_s": world.reaction_s, **profiling.reaction(used)},
        "verdicts": agreement.verdicts(total, ranks, gpu=settings.device.startswith("cuda")),
        "limit": {"exceeded_with_shield": sum(row["over_bytes"] > 0 for row in rows.values())},
        "rows": [{"policies": _served_by(planned, trial)} | row for trial, row in rows.items()],
    }


def _served_by(planned: Plan, stand: Trial) -> list[str]:
    return [
        name
        for name, per in planned.trials.items()
        if any(planned.stands_for[trial] == stand for trial in per.values())
    ]


def judging_world(story: Scenario, split: Split) -> World:
    """Test columns for test rows, calibration columns for all others."""
    return worlds.scoring_world(story, split) if split == "test" else worlds.world(story, split)


def origin(story: Scenario, split: Split, settings: Settings, ended: replay.Ended) -> Record:
    """What a report was made of, and with what."""
    return {
        "rapgym": provenance.VERSION,
        "date": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "commit": provenance.commit(),
        "code_sha256": bench_origin.code_sha256(),
        "scenario": json.loads(json.dumps(described(story))),
        "split": split,
        "table_sha256": tables.table(story).sha256,
        "settings": asdict(settings),
        "machine": ended.about,
        "seconds": round(ended.seconds, 1),
    }


def unshielded_row(trial: Trial, record: Record | None, ended: replay.Ended) -> Record:
    """What happened where a proposal was executed as it was; no record: the process was killed."""
    if record is None:
        how = (
            f"the process was ended by code {ended.code}, {ended.exceeded} times for want of memory"
        )
        return {"row": trial.row, "exceeded": ended.exceeded > 0, "over_bytes": None, "how": how}
    over, broke = record["measured"]["over_bytes"], record["measured"]["broke"]
    return {
        "row": trial.row,
        "exceeded": over > 0 or broke is not None,
        "over_bytes": over,
        "how": broke or "the limit of its seconds was exceeded, that of the card was not",
    }


def write(found: Record, path: Path) -> None:
    """Write a report, complete or not at all."""
    with writing.written_aside(path) as file:
        file.write((json.dumps(found, indent=1) + "\n").encode())
