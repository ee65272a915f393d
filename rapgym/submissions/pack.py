"""From a results file and a policy to a submission."""

from collections.abc import Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

from rapgym.bench import results
from rapgym.bench.results import Cell, Results
from rapgym.errors import InvalidPolicy, InvalidResult, InvalidSpec
from rapgym.files import incoming, limits
from rapgym.policies import registry
from rapgym.policies.registry import SAVED, Entry
from rapgym.submissions import check
from rapgym.submissions.header import Header, Stand, Stated
from rapgym.submissions.stored import POLICY, ROWS
from rapgym.submissions.submission import Submission, sha256

# Of a results file's header: what its rows depend on, and with what they were made.
_KEPT = ("rapgym", "code_sha256", "numpy", "seeds", "scenarios", "env_spec", "workloads", "tables",
         "date", "commit", "packages")  # fmt: skip


def made(
    found: Results, policy: str, stated: Stated, folder: Path, include: Sequence[Path] = ()
) -> Submission:
    """A submission of one policy's rows. That they replay is what `check.differences` says.

    Args:
        found: a results file that has run it.
        policy: as `rapgym bench --policy` named it.
        folder: where its module lies, and where the command was typed.
        include: more files and folders below that one that the policy opens, or imports.

    Raises:
        InvalidResult: no row is of this policy, or it cannot be packed.
        InvalidPolicy: it is one of rapgym's own, or its files are not there.
        InvalidSpec: what is stated, or included, cannot be.
    """
    rows = [cell for cell in found.cells if cell.about.policy == policy]
    if not rows:
        there = sorted({cell.about.policy for cell in found.cells if cell.about.decides})
        raise InvalidResult(
            f"no rows of {policy} are among these results; there are {', '.join(there)}"
        )
    entry = registry.entry(policy)
    if not entry.is_own and not entry.file:
        raise InvalidPolicy(
            f"{policy} is one of rapgym's own, which the leaderboard shows without a submission"
        )
    files = _files(entry, folder, include)
    cells = tuple(_under_its_name(cell, stated.name, entry) for cell in rows)
    header = {name: found.header[name] for name in _KEPT if name in found.header}
    kept = Results({**header, "seeds": sorted({cell.about.seed for cell in cells})}, cells)
    digests = {name: sha256(content) for name, content in files.items()}
    digests[ROWS] = sha256(results.packed(kept, xz=True))
    named = policy if entry.is_own and not entry.holds_pickles else _saved_name(entry)
    try:
        # Its scores need it, and it needs its scores: those of nothing stand in first.
        blank = Stand("", 0.0, None, None, None, None, None)
        draft = Submission(Header(stated, named, (blank,), digests), files, kept)
        stands = tuple(map(Stand.of, check.scores(draft)))
        return replace(draft, header=replace(draft.header, scores=stands))
    except ValueError as error:
        raise InvalidSpec(str(error)) from error


def _under_its_name(cell: Cell, name: str, entry: Entry) -> Cell:
    """A cell as an entry has it: without what only a choice among methods needs."""
    about = replace(cell.about, policy=name, validation_cost=None, validation_parts=())
    if not entry.is_own:
        about = replace(about, settings=check.of_a_run(about))
    return replace(cell, about=about)


def _saved_name(entry: Entry) -> str:
    prefix = SAVED if entry.holds_pickles else ""
    return prefix + Path(entry.name.removeprefix(SAVED)).name


def _files(entry: Entry, folder: Path, include: Sequence[Path]) -> dict[str, bytes]:
    """Name and content of all that the policy consists of."""
    if entry.holds_pickles or entry.file:
        path = Path(entry.name.removeprefix(SAVED))
        named = {path.name: path}
    else:
        named = {path.relative_to(folder).as_posix(): path for path in _module(entry, folder)}
    for path in include:
        whole = folder / path
        if not whole.exists():
            raise InvalidSpec(f"--include {path}: there is no such file or folder")
        if not whole.resolve().is_relative_to(folder.resolve()):
            raise InvalidSpec(f"--include {path}: it can lie in the folder of the policy alone")
        every = [each for each in whole.rglob("*") if each.is_file()] if whole.is_dir() else [whole]
        named |= {each.relative_to(folder).as_posix(): each for each in every if not _is_made(each)}
    if len(named) > limits.SUBMISSION_FILES:
        raise InvalidSpec(f"a submission holds at most {limits.SUBMISSION_FILES} files")
    return {f"{POLICY}/{name}": _content(path) for name, path in sorted(named.items())}


def _is_made(path: Path) -> bool:
    return "__pycache__" in path.parts


def _content(path: Path) -> bytes:
    try:
        return incoming.bounded(path, limits.SUBMISSION_WHOLE)
    except FileNotFoundError:
        raise InvalidPolicy(f"{path} is not there") from None
    except (OSError, ValueError) as error:
        raise InvalidPolicy(f"{path} cannot be packed: {error}") from error


def _module(entry: Entry, folder: Path) -> list[Path]:
    """The files of a `module:Class`: of a module its own, of a package every module."""
    steps: Any = entry.target.partition(":")[0].split(".")
    package, single = folder / steps[0], folder / f"{steps[0]}.py"
    if len(steps) == 1 and single.is_file():
        return [single]
    if package.is_dir():
        return [each for each in sorted(package.rglob("*.py")) if not _is_made(each)]
    raise InvalidPolicy(
        f"{entry.target} is no module of {folder}: type the command in the folder of its file"
    )
