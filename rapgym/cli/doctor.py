"""`rapgym doctor`: what is installed, where data lies, and what to do about what is missing."""

import argparse
import importlib.metadata
import json
import os
import platform
import re
from collections.abc import Iterable, Iterator
from dataclasses import asdict, dataclass
from typing import Literal

from rapgym.cli import COMMANDS, Subparsers
from rapgym.errors import DataUnavailable, RapgymError, WrongChecksum
from rapgym.files import checked
from rapgym.model import pretrained
from rapgym.quality import texts

State = Literal["ok", "absent", "wrong"]
EXTRAS_SHOWN = ("device", "train", "ray", "report", "testing")


@dataclass(frozen=True, slots=True)
class Finding:
    """One line of the report; `absent` is something optional, `wrong` is something to mend."""

    subject: str
    state: State
    detail: str
    remedy: str = ""


def add(subparsers: Subparsers) -> None:
    """Register `doctor`."""
    command = subparsers.add_parser(
        "doctor",
        help=COMMANDS["doctor"],
        description="Check versions, extras, data, weights, tables and traces. Exit code 1 says "
        "that something is wrong, not that something optional is absent.",
        epilog="example: rapgym doctor",
    )
    command.add_argument("--json", action="store_true", help="print JSON")
    command.set_defaults(run=run)


def run(arguments: argparse.Namespace) -> int:
    """Print every finding; 1 where one of them is wrong."""
    findings = [finding for check in CHECKS for finding in check()]
    if arguments.json:
        print(json.dumps([asdict(finding) for finding in findings], indent=2))
    else:
        for finding in findings:
            print(f"{finding.state:<7} {finding.subject}: {finding.detail}")
            if finding.remedy:
                print(f"{'':7} -> {finding.remedy}")
    return int(any(finding.state == "wrong" for finding in findings))


def python() -> Iterator[Finding]:
    """The interpreter."""
    yield Finding("Python", "ok", f"{platform.python_version()} on {platform.platform()}")


def packages() -> Iterator[Finding]:
    """Every dependency that the installed package declares, core and extras."""
    try:
        declared = importlib.metadata.requires("rapgym") or []
    except importlib.metadata.PackageNotFoundError:
        yield Finding("rapgym", "wrong", "runs without being installed", "run: pip install -e .")
        return
    yield Finding("rapgym", "ok", importlib.metadata.version("rapgym"))
    for extra in ("", *EXTRAS_SHOWN):
        yield from _packages_of(extra, declared)


def _packages_of(extra: str, declared: Iterable[str]) -> Iterator[Finding]:
    missing = []
    for requirement in declared:
        wanted, _, marker = requirement.partition(";")
        named = re.search(r"extra == [\"']([\w-]+)[\"']", marker)
        if (named.group(1) if named else "") != extra:
            continue
        name = re.split(r"[\[<>=!~ ]", wanted.strip())[0]
        subject = f"{name} ({extra})" if extra else name
        try:
            version = importlib.metadata.version(name)
        except importlib.metadata.PackageNotFoundError:
            missing.append(name)
            continue
        if within(version, wanted):
            yield Finding(subject, "ok", version)
        else:
            remedy = f"run: pip install '{wanted.strip()}'"
            yield Finding(subject, "wrong", f"{version} is not supported", remedy)
    if missing and extra:
        remedy = f"for what needs it, run: pip install 'rapgym[{extra}]'"
        yield Finding(f"extra {extra}", "absent", f"without {', '.join(missing)}", remedy)
    elif missing:
        yield Finding("core", "wrong", f"without {', '.join(missing)}", "run: pip install rapgym")


def within(version: str, requirement: str) -> bool:
    """Whether `version` meets the `>=` and `<` bounds of a requirement; numbers alone are compared."""
    found = _numbers(version)
    floors = re.findall(r">=\s*([\d.]+)", requirement)
    ceilings = re.findall(r"<\s*([\d.]+)", requirement)
    return all(found >= _numbers(floor) for floor in floors) and all(
        found < _numbers(ceiling) for ceiling in ceilings
    )


def _numbers(version: str) -> tuple[int, ...]:
    leading = re.match(r"\d+(\.\d+)*", version)
    parts = [int(part) for part in leading.group().split(".")] if leading else [0]
    while parts and parts[-1] == 0:
        parts.pop()  # 2.0 is 2
    return tuple(parts)


def data() -> Iterator[Finding]:
    """The cache folder, and the mirror of raw traces and texts that RAPGYM_DATA names."""
    cache = checked.cache_folder()
    nearest = next(folder for folder in (cache, *cache.parents) if folder.exists())
    if os.access(nearest, os.W_OK):
        yield Finding("cache", "ok", str(cache))
    else:
        remedy = "set RAPGYM_CACHE to a folder that can be written"
        yield Finding("cache", "wrong", f"{cache} cannot be written", remedy)
    mirror = checked.mirror_folder()
    if mirror is None:
        yield Finding("RAPGYM_DATA", "absent", "not set", "to rebuild series, set it")
    elif not mirror.is_dir():
        yield Finding("RAPGYM_DATA", "wrong", f"{mirror} is no folder", "set it to a folder")
    else:
        yield Finding("RAPGYM_DATA", "ok", str(mirror))
    for text in texts.TEXTS:
        try:
            texts.read(text.domain, text.split)
        except WrongChecksum as error:
            yield Finding(f"text {text.name}", "wrong", str(error))
        except DataUnavailable:
            remedy = "run: rapgym texts pull" if text.url else "only a mirror has it; optional"
            yield Finding(f"text {text.name}", "absent", "not on this machine", remedy)
        else:
            yield Finding(f"text {text.name}", "ok", text.sha256[:12])


def weights() -> Iterator[Finding]:
    """Weights of the known models."""
    for model in pretrained.KNOWN_MODELS:
        remedy = f"run: rapgym models pull {model.name}"
        if not model.file.is_file():
            yield Finding(f"weights {model.name}", "absent", "not on this machine", remedy)
            continue
        try:
            checked.checked(model.file, model.sha256, remedy)
        except DataUnavailable as error:
            yield Finding(f"weights {model.name}", "wrong", str(error))
        else:
            yield Finding(f"weights {model.name}", "ok", str(model.file))


def scenarios() -> Iterator[Finding]:
    """Quality tables and workload series that the shipped scenarios read."""
    from rapgym.quality import table as quality_table
    from rapgym.scenarios import catalogue, tables, worlds

    remedy = "reinstall rapgym, or restore the file from its repository"
    for name in quality_table.shipped():
        try:
            yield Finding(f"table {name}", "ok", quality_table.QualityTable.load(name).sha256[:12])
        except RapgymError as error:
            yield Finding(f"table {name}", "wrong", str(error), remedy)
    for story in catalogue.shipped():
        try:
            tables.table(story)
            if story.is_drawn:
                yield Finding(
                    f"scenario {story.name}", "ok", "drawn at first use, which takes minutes"
                )
                continue
            rows = len(worlds.workload(story))
        except RapgymError as error:
            yield Finding(f"scenario {story.name}", "wrong", str(error), remedy)
        else:
            yield Finding(f"scenario {story.name}", "ok", f"{rows} rows, table {story.table}")


def raw_traces() -> Iterator[Finding]:
    """Raw traces, which only the making of series needs."""
    from rapgym.workload import sources

    for source in sources.SOURCES:
        try:
            path = sources.path_of(source.name)
        except WrongChecksum as error:
            yield Finding(f"trace {source.name}", "wrong", str(error))
        except DataUnavailable as error:
            yield Finding(f"trace {source.name}", "absent", str(error))
        else:
            yield Finding(f"trace {source.name}", "ok", str(path))


CHECKS = (python, packages, scenarios, data, weights, raw_traces)
