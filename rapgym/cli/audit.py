"""`rapgym audit`: what was decided, by which rule, at what cost, and whether the log holds."""

import argparse
import json
from dataclasses import asdict
from pathlib import Path
from typing import TYPE_CHECKING, Any

from rapgym.cli import COMMANDS, Subparsers, at_least, require, users
from rapgym.files.shown import shown, shown_lines

if TYPE_CHECKING:
    from rapgym.audit.sentence import Explained
    from rapgym.audit.serving.context import ServeContext
    from rapgym.audit.serving.record import ServeRecord
    from rapgym.audit.summary import Chosen

REASONS = ("policy", "repaired", "fallback", "emergency", "watchdog", "override", "refused")


def add(subparsers: Subparsers) -> None:
    """Register `audit`."""
    command = subparsers.add_parser(
        "audit",
        help=COMMANDS["audit"],
        description="Says what an audit log holds; --row explains one decision in a sentence. A log "
        "is a text file of one JSON object a line, chained by sha256. Exit code 1, and what is wrong, "
        "where it does not hold.",
        epilog="example: rapgym audit decisions.jsonl --row 12; a log to try it on: rapgym audit "
        "decisions.jsonl --make --policy frontier-margin",
    )
    command.add_argument("log", type=Path, metavar="LOG")
    command.add_argument(
        "--row", type=at_least(1), metavar="K", help="explain decision K, counted from 1"
    )
    command.add_argument(
        "--since",
        metavar="TIME",
        help="decisions from then on: 2026-11-25 or 2026-11-25T10:30:00, UTC",
    )
    command.add_argument("--until", metavar="TIME", help="decisions before then")
    command.add_argument(
        "--reason", action="append", choices=REASONS, help="decisions by this rule; may be repeated"
    )
    command.add_argument(
        "--verify", action="store_true", help="follow the chain and replay every decision"
    )
    command.add_argument(
        "--head",
        metavar="SEQ:SHA256",
        help="with --verify: a head that was kept elsewhere, to see that nothing is gone since",
    )
    command.add_argument(
        "--export",
        type=Path,
        metavar="FILE",
        help="write the decisions to FILE.csv or FILE.parquet",
    )
    command.add_argument(
        "--make",
        action="store_true",
        help="log what --policy decides on --scenario first",
    )
    command.add_argument(
        "--force",
        action="store_true",
        help="with --make, add to a log that is there (none is ever overwritten); with --export, "
        "overwrite FILE",
    )
    command.add_argument(
        "--scenario",
        metavar="NAME",
        default="chat-beside-code",
        help="for --make (chat-beside-code); of a serving scenario (serve-...) every second is a decision",
    )
    command.add_argument(
        "--policy",
        metavar="NAME",
        help="for --make (frontier; lookup of a serving scenario); or module:Class",
    )
    command.add_argument(
        "--split",
        choices=("validation-1", "validation-2", "validation-3", "test"),
        default="validation-3",
        help="for --make (validation-3)",
    )
    users.add_options(command, watched=False)
    command.add_argument("--seed", type=at_least(0), default=0, metavar="N", help="for --make (0)")
    command.add_argument(
        "--watchdog", action="store_true", help="for --make: the watchdog stands above the policy"
    )
    command.add_argument(
        "--durable",
        action="store_true",
        help="for --make: a decision is acknowledged once it is on the disk, not only written",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    from rapgym.errors import InvalidSpec
    from rapgym.files import writing

    jobs = ("row", "verify", "export")
    asked = [name for name in jobs if getattr(arguments, name)]
    if len(asked) > 1:
        raise InvalidSpec(f"--{asked[0]} and --{asked[1]} do not go together")
    if arguments.head and not arguments.verify:
        raise InvalidSpec("--head goes with --verify")
    if arguments.export:
        writing.refuse_existing(arguments.export, "--export", force=arguments.force)
    if arguments.make:
        _make(arguments)
    if arguments.row:
        return _row(arguments)
    if arguments.verify:
        return _verify(arguments)
    return _export(arguments) if arguments.export else _summary(arguments)


def _make(arguments: argparse.Namespace) -> None:
    import sys

    from rapgym.audit import step as audit_step
    from rapgym.audit.log import AuditLog
    from rapgym.guard import foreign
    from rapgym.guard.guard import Guarding
    from rapgym.guard.watchdog import Rules
    from rapgym.policies import registry
    from rapgym.scenarios import serving
    from rapgym.scenarios.catalogue import scenario

    if serving.is_named(arguments.scenario):
        _make_serving(arguments)
        return
    name = arguments.policy or "frontier"
    story, entry = scenario(arguments.scenario), registry.entry(name)
    _refuse_log(arguments)
    terms = users.terms(arguments)
    terms = terms.hiding([arguments.log], story)
    foreign.check(entry, terms)
    guarding = Guarding(watchdog=Rules()) if arguments.watchdog else None
    with AuditLog(arguments.log, durable=arguments.durable, on_failure="stop") as log:
        rows = audit_step.log_run(
            log,
            story,
            arguments.split,
            name,
            seed=arguments.seed,
            guarding=guarding,
            terms=terms,
        )
    print(
        f"logged {rows} rows of {story.id}, {arguments.split}, to {arguments.log}", file=sys.stderr
    )


def _refuse_log(arguments: argparse.Namespace) -> None:
    """Raises InvalidSpec where a log is there that is not to be added to."""
    from rapgym.audit.replay import is_log
    from rapgym.errors import InvalidSpec

    if is_log(arguments.log) and not arguments.force:
        raise InvalidSpec(
            f"{arguments.log} is there already: name another log, or add to it with --force"
        )


def _make_serving(arguments: argparse.Namespace) -> None:
    """The same of a serving scenario, second by second."""
    import sys

    from rapgym.audit.log import AuditLog
    from rapgym.audit.serving import step as audit_step
    from rapgym.bench.serving.entrants import ServeUser, entrant
    from rapgym.guard import foreign
    from rapgym.guard.guard import Guarding
    from rapgym.guard.serving import RULES
    from rapgym.scenarios import serving

    story, name = serving.story_of(arguments.scenario), arguments.policy or "lookup"
    terms = users.terms(arguments).hiding([arguments.log], story.base)
    asked = entrant(name, terms)
    _refuse_log(arguments)
    if isinstance(asked, ServeUser):
        foreign.check(asked.entry, terms, "serving")
    guarding = Guarding(watchdog=RULES) if arguments.watchdog else None
    with AuditLog(arguments.log, durable=arguments.durable, on_failure="stop") as log:
        seconds = audit_step.log_run(
            log, story, arguments.split, name, seed=arguments.seed, guarding=guarding, terms=terms
        )
    print(
        f"logged {seconds} seconds of {story.id}, {arguments.split}, to {arguments.log}",
        file=sys.stderr,
    )


def _chosen(arguments: argparse.Namespace) -> "Chosen":
    from rapgym.audit.summary import Chosen, moment_us

    since, until = (None if text is None else moment_us(text) for text in (arguments.since, arguments.until))  # fmt: skip
    return Chosen(since, until, frozenset(arguments.reason or ()))


def _row(arguments: argparse.Namespace) -> int:
    from rapgym.audit import sentence as audit_sentence
    from rapgym.audit import summary as audit_summary
    from rapgym.audit.serving.record import ServeRecord
    from rapgym.audit.summary import Log

    log = Log(arguments.log)
    record = audit_summary.record_numbered(log, arguments.row)
    if isinstance(record, ServeRecord):
        return _second(log.serving_context(record), record, as_json=arguments.json)
    found = audit_sentence.explained(log.context(record), record)
    print(json.dumps(_explained(found), indent=2) if arguments.json else shown(found.sentence))
    return 0


def _second(context: "ServeContext", record: "ServeRecord", *, as_json: bool) -> int:
    """A decision for a second of a serving engine."""
    from rapgym.audit import summary as audit_summary
    from rapgym.audit.serving import sentence as audit_sentence

    said = audit_sentence.sentence(context, record)
    told = asdict(record) | {
        "time": audit_summary.moment(record.time_us),
        "scenario": context.scenario,
        "policy": context.policy,
        "table_sha256": context.table_sha256,
        "dense_bytes": audit_sentence.dense_bytes(context, record),
        "sentence": said,
    }
    print(json.dumps(told, indent=2) if as_json else shown(said))
    return 0


def _explained(found: "Explained") -> dict[str, Any]:
    from rapgym.audit import summary as audit_summary
    from rapgym.model import blocks

    other, context = found.runner_up, found.context
    return asdict(found.record) | {
        "time": audit_summary.moment(found.record.time_us),
        "scenario": context.scenario,
        "policy": context.policy,
        "table_sha256": context.table_sha256,
        "dropped": [blocks.name(block) for block in found.dropped],
        "nats": found.nats,
        "dense_bytes": found.dense_bytes,
        "runner_up": {
            "name": other.name,
            "kept": None if other.kept is None else blocks.key(other.kept),
            "nats": other.nats,
        },
        "sentence": found.sentence,
    }


def _verify(arguments: argparse.Namespace) -> int:
    from rapgym.audit import chain
    from rapgym.audit import replay as audit_replay

    kept = chain.kept_head(arguments.head) if arguments.head else None
    found = audit_replay.verified(arguments.log, kept)
    print(
        json.dumps(found.as_json())
        if arguments.json
        else shown_lines(audit_replay.told(found, kept))
    )
    return 0 if found.holds else 1


def _export(arguments: argparse.Namespace) -> int:
    from rapgym.audit import summary as audit_summary
    from rapgym.audit.summary import Log

    if arguments.export.suffix == ".parquet":
        require("report", "pyarrow")
    count = audit_summary.export(Log(arguments.log), _chosen(arguments), arguments.export)
    if arguments.json:
        print(json.dumps({"decisions": count, "file": str(arguments.export)}))
    else:
        print(f"wrote {count} decisions to {arguments.export}")
    return 0


def _summary(arguments: argparse.Namespace) -> int:
    from rapgym.audit import summary as audit_summary
    from rapgym.audit.summary import Log

    chosen = _chosen(arguments)
    found = audit_summary.summary(Log(arguments.log), chosen)
    if arguments.json:
        print(json.dumps(found, indent=2))
    else:
        print("\n".join(map(shown_lines, _lines(found, chosen))))
    return 1 if found["faults"] else 0


def _lines(found: dict[str, Any], chosen: "Chosen") -> list[str]:
    """A summary as a person reads it."""

    def counts(of: dict[str, int]) -> str:
        return ", ".join(f"{name} {count}" for name, count in of.items()) or "none"

    lines = [
        f"decisions   {found['decisions']}",
        f"from        {found['since'] or '-'}",
        f"to          {found['until'] or '-'}",
        f"reasons     {counts(found['reasons'])}",
    ]
    lines += [
        f"policy      {each['policy']} on {each['scenario']}: {each['decisions']}"
        for each in found["policies"]
    ]
    if found["cost"] is not None:
        parts = ", ".join(f"{name} {value:.4f}" for name, value in found["terms"].items())
        lines.append(
            f"cost        {found['cost']:.4f} nats an output token above the full model: {parts}"
        )
    if found["watchdog"]:
        lines.append(f"watchdog    {counts(found['watchdog'])}")
    if found["late"]:
        lines.append(f"late        {found['late']} answers came after their deadline")
    if found["predicted"]:
        lines.append(f"predicted   the quality of {found['predicted']} is predicted, not measured")
    lines += [
        f"gap         {gap['decisions']} decisions after decision {gap['after']} were not logged: "
        f"{gap['cause']}"
        for gap in found["gaps"]
    ]
    ended = "its last one ended it" if found["closed"] else "the last one has not ended it (yet)"
    lines += [f"writers     {found['writers']}; {ended}", f"head        {found['head']}"]
    lines += [f"wrong       {sentence}" for sentence in found["fault_sentences"]]
    if found["first"]:
        first = ", ".join(map(str, found["first"]))
        more = ", ..." if found["decisions"] > len(found["first"]) else ""
        which = "" if chosen.everything else f" (these are {first}{more})"
        lines.append(
            f"\nexplain one with: rapgym audit {found['file']} --row {found['first'][0]}{which}"
        )
    return lines
