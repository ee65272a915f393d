"""What the bench of the serving world says, as frozen records: of a cell, and of a scoreboard entry."""

from collections.abc import Mapping
from dataclasses import dataclass, field, fields
from typing import Any

from rapgym.bench.records import ORACLE, Unit, Verdict, as_plain, record_of
from rapgym.guard.foreign import Isolation
from rapgym.policies.registry import Kind

_OF_USERS = ("isolation",)


@dataclass(frozen=True, slots=True)
class ServeAbout:
    """What describes a cell: one policy with one seed, or one search, on one scenario.

    Costs are nats an output token above the full bf16 model.
    """

    scenario: str  # id
    policy: str  # the name of an entrant, see `bench.serving.entrants`
    kind: Kind
    seed: int = 0
    # Of a rule, found on train; of a search how it looks; of a user's policy how it is guarded.
    settings: Mapping[str, Any] = field(default_factory=dict)
    train_cost: float | None = None  # of these settings, calibration columns; None of others
    # Share of seconds in which the reference decided: for an answer that could not be used, and because
    # the watchdog had it so; 0 to 1.
    fallback: float = 0.0
    watchdog: float = 0.0
    fault: str | None = None  # what was wrong with the first answer that was
    # Microseconds of one decision, median and 99th percentile; None of searches.
    decision_us_p50: float | None = None
    decision_us_p99: float | None = None
    # Of a user's policy: whether its process could read requests and columns; None of all others.
    isolation: Isolation | None = None

    @property
    def is_oracle(self) -> bool:
        """Whether it knows the future."""
        return self.kind == ORACLE

    def as_json(self) -> dict[str, Any]:
        """Its fields by name; `isolation` of users' policies alone."""
        return _plain(self)

    @classmethod
    def from_json(cls, given: object) -> "ServeAbout":
        """The record of what `as_json` gives.

        Raises:
            InvalidResult: a field is unknown, missing or of another type; the message names it.
        """
        return record_of(cls, given, "a cell", {*_OF_USERS})


@dataclass(frozen=True, slots=True)
class ServeScore:
    """One entry of a scoreboard: a policy or a search on one scenario, the mean over its seeds.

    Costs are nats an output token above the full bf16 model, by test columns, over all tokens of requests
    that arrived. Ends of intervals are of 95 %. None stands where something is not defined.
    """

    scenario: str  # id
    traffic: str  # the trace that is served
    claims: bool  # whether its numbers carry a claim
    policy: str
    kind: Kind
    cost: float | None  # on the whole split; None of searches
    cost_low: float | None
    cost_high: float | None
    # Cost less the lookup's.
    low: float | None
    high: float | None
    p_value: float | None  # of no such difference, not corrected
    least_effect: float | None  # that these pieces could have shown with 80 % power
    verdict: Verdict | None
    unit: Unit  # the pieces that a resample draws
    pieces: int
    conditional: bool  # whether all this speaks of these pieces alone
    stretch_cost: float | None  # on the stretches that searches plan; None where none were run
    # Points on those: 0 is today's engine, its time to shedding tuned, and the lookup; 100 the best plan
    # found of each stretch. No bound: more is possible.
    gain: float | None
    gain_low: float | None
    gain_high: float | None
    foresight: float | None
    # What a server would ask, on the whole split (of searches on the stretches).
    nats: float  # of a token that was delivered
    undelivered: float  # share of tokens
    goodput: float  # share of requests that arrived with every token on time
    # Goodput less the lookup's.
    goodput_low: float | None
    goodput_high: float | None
    # Shares of requests that arrived: finished, with a token too late; shed; neither finished nor shed;
    # preempted at least once; with a first token by its deadline; finished, at the pace of `tpot_s`.
    late: float
    shed: float
    lost: float
    preempted: float
    ttft_met: float
    ttft_met_low: float | None  # less the lookup's
    ttft_met_high: float | None
    tpot_met: float
    preemptions: float  # a request
    throughput: float  # output tokens a second of these parts
    ttft_s: float  # means
    tpot_s: float
    e2e_s: float
    # Percentiles over the requests that finished, see `serving.latency`; the mean over seeds. They carry
    # no interval. None where no request has such a time.
    ttft_p50_s: float | None
    ttft_p95_s: float | None
    ttft_p99_s: float | None
    ttft_p99_less_s: float | None  # less the lookup's
    tpot_p50_s: float | None
    tpot_p95_s: float | None
    tpot_p99_s: float | None
    e2e_p50_s: float | None
    e2e_p95_s: float | None
    e2e_p99_s: float | None
    attention: float  # blocks dropped, mean over seconds
    ffn: float
    train_cost: float | None
    fallback: float  # share of seconds, as `ServeAbout` has them
    watchdog: float
    fault: str | None
    decision_us_p50: float | None
    decision_us_p99: float | None
    seeds: int
    isolation: Isolation | None = None

    def as_json(self) -> dict[str, Any]:
        """Its fields by name; `isolation` of users' policies alone."""
        return _plain(self)

    @classmethod
    def from_json(cls, given: object) -> "ServeScore":
        """The record of what `as_json` gives; raises as `ServeAbout.from_json`."""
        return record_of(cls, given, "a score", {*_OF_USERS})


def _plain(record: ServeAbout | ServeScore) -> dict[str, Any]:
    absent = _OF_USERS if record.isolation is None else ()
    return as_plain(
        {f.name: getattr(record, f.name) for f in fields(record) if f.name not in absent}
    )
