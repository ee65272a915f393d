"""Every second of serving lanes on record: a batch of lanes that logs what it is asked to serve."""

import base64
from collections.abc import Sequence
from typing import Any

import numpy as np

from rapgym.arrays import BoolArray, IntArray
from rapgym.audit.log import AuditLog
from rapgym.audit.serving.context import ServeContext
from rapgym.audit.serving.lines import ServeSeconds
from rapgym.bench.serving import cells, entrants
from rapgym.bench.serving.entrants import RuleEntrant, ServeUser
from rapgym.bench.serving.records import ServeAbout
from rapgym.envs.serve_play import ServePlay
from rapgym.errors import InvalidPolicy, InvalidSpec
from rapgym.guard import foreign
from rapgym.guard.foreign import Terms
from rapgym.guard.guard import Guarding
from rapgym.guard.serving import ServeDecided, ServeGuard, mode_name
from rapgym.policies.serving import serve_briefing
from rapgym.rollout.serving import LANES
from rapgym.scenarios import serving_worlds
from rapgym.scenarios.serving import ServeScenario
from rapgym.scenarios.story import Split
from rapgym.serving import batch, sight
from rapgym.serving.batch import Batch
from rapgym.serving.world import US, Part, ServeWorld
from rapgym.world.shield import Reason

_SAME = {
    "tokens": batch.TOKENS, "on_time_tokens": batch.ON_TIME, "shed": batch.SHED,
    "shed_tokens": batch.SHED_TOKENS, "lost_tokens": batch.LOST, "preemptions": batch.PREEMPTIONS,
    "steps": batch.STEPS, "still_waiting": batch.WAITING, "still_running": batch.RUNNING,
    "pages_used": batch.PAGES_USED, "attention_dropped": batch.ATTENTION_DROPPED,
    "ffn_dropped": batch.FFN_DROPPED,
}  # fmt: skip


def outcome_of(context: ServeContext, record: Any) -> dict[str, Any]:
    """What a second came to, by names of `ServeRecord`, from its record [K]."""
    found: dict[str, Any] = {name: int(record[place]) for name, place in _SAME.items()}
    found["loading"] = int(record[batch.LOADING]) + 1
    found["used_bytes"] = context.used_bytes(
        found["attention_dropped"], found["ffn_dropped"], found["loading"], found["pages_used"]
    )
    weight = found["tokens"] + found["shed_tokens"] + found["lost_tokens"]
    found["output_tokens"] = weight
    lost = (found["shed_tokens"] + found["lost_tokens"]) * context.world.harm.ceiling
    nats, cost = float(record[batch.NATS]), float(record[batch.COST])
    terms = [nats / weight, (cost - nats - lost) / weight, lost / weight] if weight else None
    return found | {"cost": terms}


def seen_of(world: ServeWorld, seen: Any) -> dict[str, Any]:
    """What a policy saw of queue and engine, by names of `ServeRecord`, from its observation [O].

    What was cut in the observation stays cut.
    """
    units, parts = sight.units(world), sight.SLICES
    waiting, tokens, oldest = (float(each) for each in seen[parts["queue"]])
    return {
        "seen_limit_bytes": round(float(seen[parts["limit"]][-1]) * units[sight.CARD_BYTES]),
        "waiting": round(waiting * units[sight.MOST_SEQUENCES]),
        "queued_tokens": round(tokens * units[sight.MOST_TOKENS]),
        "oldest_ms": round(1000 * oldest * units[sight.OLDEST_S]),
        "running": round(float(seen[parts["running"]][0]) * units[sight.MOST_SEQUENCES]),
        "held_tokens": round(float(seen[parts["held"]][0]) * units[sight.MOST_TOKENS]),
    }


def text_of(seen: Any) -> str:
    """An observation as a line has it."""
    return base64.b64encode(np.asarray(seen, dtype="<f4").tobytes()).decode()


class AuditedBatch(Batch):
    """Lanes whose every second is a line of an audit log, written once it has been served.

    Under `on_failure="stop"` no second is served while the log cannot be written.
    """

    def __init__(
        self, worlds: list[ServeWorld], log: AuditLog, contexts: Sequence[ServeContext]
    ) -> None:
        super().__init__(worlds)
        self._log, self._contexts = log, list(contexts)
        self._episodes = -np.ones(len(worlds), dtype=np.int64)
        self._begun = 0
        self._told: tuple[ServeDecided, int] | None = None

    def begin(self, lane: int, part: Part) -> None:
        super().begin(lane, part)
        self._episodes[lane], self._begun = self._begun, self._begun + 1

    def adopt(self, other: Batch) -> None:
        """Go on where other lanes of the same worlds stand; what they served before is on no record."""
        self.__dict__.update(other.__dict__)
        self._episodes = np.arange(len(self.worlds))
        self._begun = len(self.worlds)

    def close(self) -> None:
        """Write what is held; the log stays open."""
        self._log.flush()

    def told(self, decided: ServeDecided, late_us: int) -> None:
        """What a guard knows of the next second, all lanes of it."""
        self._told = decided, late_us

    def advance(self, actions: IntArray, acting: BoolArray) -> None:
        """As `Batch.advance`.

        Raises:
            AuditFailed: the log cannot be written, and its rule is to stop.
        """
        self._log.check()
        told, self._told = self._told, None
        lanes = np.flatnonzero(acting).tolist()
        seen, second = self.seen.copy(), [int(self.entries[lane][2].second[0]) for lane in lanes]
        super().advance(actions, acting)
        by_context: dict[str, tuple[ServeContext, list[dict[str, Any]]]] = {}
        for lane, at in zip(lanes, second, strict=True):
            context = self._contexts[lane]
            line = {
                "lane": lane,
                "episode": int(self._episodes[lane]),
                "second": at,
                "decided": actions[lane].tolist(),
                **self._asked_for(lane, at),
                **_guarded(told, lane, actions[lane]),
                **seen_of(self.worlds[lane], seen[lane]),
                **outcome_of(context, self.record[lane]),
                "observation": text_of(seen[lane]),
            }
            by_context.setdefault(context.id, (context, []))[1].append(line)
        for context, rows in by_context.values():
            self._log.append(context, ServeSeconds(rows))

    def _asked_for(self, lane: int, second: int) -> dict[str, Any]:
        """Requests and limits of a second, and what stood before the first."""
        world, part = self.worlds[lane], self.parts[lane]
        span, at = world.spans[part.span], part.start_s + second
        first, last = np.searchsorted(span.arrival_us, (at * US, (at + 1) * US)).tolist()
        offset = span.arrival_us[first:last] - at * US
        requests = (offset, span.prompt_tokens[first:last], span.output_tokens[first:last])
        return {
            "seconds": part.seconds,
            "before": None if second else world.before(part).tolist(),
            "limit_bytes": int(span.limit_bytes[at]),
            "arrived": np.column_stack(requests).astype(np.int64).tolist(),
        }


def _guarded(told: tuple[ServeDecided, int] | None, lane: int, action: IntArray) -> dict[str, Any]:
    """Whose a lane's decision is; without a guard it is the caller's."""
    if told is None:
        policy = Reason.POLICY.name.lower()
        return {
            "late_us": None, "readable": None, "watchdog": None, "source": policy, "reason": policy,
            "asked": action.tolist(),
        }  # fmt: skip
    decided, late_us = told
    source = Reason(int(decided.source[lane])).name.lower()
    readable = bool(decided.readable[lane])
    return {
        "late_us": late_us,
        "readable": readable,
        "watchdog": None if decided.mode is None else mode_name(int(decided.mode[lane])),
        "source": source,
        "reason": source,
        "asked": decided.asked[lane].tolist() if readable else None,
    }


def audit(play: ServePlay, log: AuditLog, *, policy: str) -> None:
    """Log every second that a serving environment serves from now on; see `audit.step.audit_env`.

    Raises:
        InvalidSpec: it is audited already.
    """
    if isinstance(play.batch, AuditedBatch):
        raise InvalidSpec("the environment is audited already; make another for another log")
    contexts = [
        ServeContext.of(story, play.split, policy, world)
        for story, world in zip(play.stories, play.worlds, strict=True)
    ]
    audited = AuditedBatch(play.worlds, log, contexts)
    audited.adopt(play.batch)
    play.batch = audited


def log_run(
    log: AuditLog,
    story: ServeScenario,
    split: Split,
    name: str,
    *,
    seed: int = 0,
    guarding: Guarding | None = None,
    terms: Terms | None = None,
    parts: Sequence[Part] | None = None,
) -> int:
    """Log what a policy decides on a split, its pieces side by side; how many seconds it served.

    Args:
        name: of a rule, tuned on what it is told of, or `module:Class`.
        terms: on which a user's policy is run; in a process of its own unless stated.
        parts: of the split; all of its pieces unless stated.

    Raises:
        InvalidPolicy: there is none of this name, or its process ended.
        AuditFailed: the log cannot be written, and its rule is to stop.
    """
    entrant, terms = entrants.entrant(name, terms), terms or Terms()
    told, world = serve_briefing(story, split), serving_worlds.world(story, split)
    guarding = guarding or Guarding()
    maker: Any
    about = ServeAbout(story.id, name, entrant.kind)
    if isinstance(entrant, ServeUser):
        maker = foreign.Foreign(entrant.entry, entrant.entry.options, terms, "serving")
    elif isinstance(entrant, RuleEntrant):
        about = cells.rule_facts(story, name, split)
        maker, world = _Own(cells.made_of(about)), cells.served_by(world, about)
    else:
        raise InvalidPolicy(f"{name} knows the future: there is no decision of it to answer for")
    called = f"{name} (in-process)" if entrant.is_own and terms.in_process else name
    context = ServeContext.of(story, split, called, world)
    # What needs no stand-in has none: tuning the lookup takes longest.
    asks_lookup = entrant.is_own or guarding != Guarding()
    judge = cells.rule_facts(story, cells.LOOKUP, split) if asks_lookup else about
    reference = cells.made_of(judge)
    deadline_us = np.inf if guarding.deadline_ms is None else 1e3 * guarding.deadline_ms
    every = list(world.pieces) if parts is None else list(parts)
    with maker as make:
        for first in range(0, len(every), LANES):
            here = every[first : first + LANES]
            lanes = AuditedBatch([world] * len(here), log, [context] * len(here))
            for lane, part in enumerate(here):
                lanes.begin(lane, part)
            lanes.look(np.ones(len(here), dtype=bool))
            guard = ServeGuard(make(), reference(), lanes, told, guarding)
            seconds, rng = (
                np.array([part.seconds for part in here]),
                np.random.default_rng([seed, first]),
            )
            for second in range(int(seconds.max())):
                acting = second < seconds
                decided = guard.decide(rng)
                late_us = max(1, int(decided.spent_us - deadline_us)) if decided.late else 0
                lanes.told(decided, late_us)
                lanes.advance(np.where(acting[:, None], decided.decisions, 0), acting)
                guard.judge(acting)
                make.check()
    return sum(part.seconds for part in every)


class _Own:
    """Makes policies of the package's own, as `Foreign` makes those of users."""

    def __init__(self, make: Any) -> None:
        self._make = make

    def __call__(self) -> Any:
        return self._make()

    def check(self) -> None:
        """Nothing ends by itself here."""

    def __enter__(self) -> "_Own":
        return self

    def __exit__(self, *error: object) -> None:
        """Nothing is held open."""
