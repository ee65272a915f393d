"""A policy serves a split of a scenario, and an audit log says what was decided."""

import numpy as np

from rapgym import audit_step
from rapgym.audit_log import AuditLog
from rapgym.audit_step import AuditedGuard
from rapgym.guard.guard import Guarding
from rapgym.policies import registry
from rapgym.policies.policy import Told, briefing
from rapgym.rollout import rollout
from rapgym.scenarios import tables, worlds
from rapgym.scenarios.lanes import Lanes
from rapgym.scenarios.story import Scenario, Split

# Before which split a policy is told of what; on all others it has seen the rows.
TOLD: dict[Split, Told] = {"validation": "fit", "test": "train", "check": "learn"}


def log_run(
    log: AuditLog,
    story: Scenario,
    split: Split,
    name: str,
    *,
    seed: int = 0,
    guarding: Guarding | None = None,
) -> int:
    """Log what a policy decides on a split, one pairing after the other; how many rows it served.

    Args:
        name: of the policy, as bench takes it.

    Raises:
        InvalidPolicy: there is none of this name, or it is not tuned for this scenario.
        AuditFailed: the log cannot be written, and its rule is to stop.
    """
    entry, told = registry.entry(name), briefing(story, TOLD[split])
    options = registry.settings(entry, told, tables.table(story).sha256, seed)
    rows = 0
    for pairing, start in enumerate(rollout.whole_split(worlds.world(story, split), story.offsets)):
        lanes = Lanes(story, split, 1)
        audit_step.audit(lanes, log, policy=name)
        lanes.restart(0, start)
        guard = AuditedGuard(registry.build(entry, options), lanes, told, guarding)
        rng = np.random.default_rng([seed, pairing])
        for _ in range(start.rows):
            guard.serve(rng)
        rows += start.rows
    return rows
