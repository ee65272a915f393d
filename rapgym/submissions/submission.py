"""One submission: its header, its policy's files, and the rows of that policy alone."""

import hashlib
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from rapgym.bench import results
from rapgym.bench.results import Results
from rapgym.errors import InvalidResult
from rapgym.files.shown import shown
from rapgym.submissions import stored
from rapgym.submissions.header import Header
from rapgym.submissions.stored import HEADER, POLICY, ROWS


@dataclass(frozen=True, slots=True)
class Submission:
    """What was read, or is to be written; its digests hold."""

    header: Header
    files: Mapping[str, bytes]  # of the policy, by their names in the submission
    rows: Results  # cells under the name of the submission

    @property
    def name(self) -> str:
        return self.header.stated.name

    def packed(self) -> bytes:
        """The bytes of its zip; raises InvalidResult where it is too large."""
        return stored.packed(
            {
                **self.files,
                ROWS: results.packed(self.rows, xz=True),
                HEADER: self.header.text().encode(),
            }
        )


def read(path: Path) -> Submission:
    """A submission from a zip or a folder. Nothing of it is run, and nothing is replayed yet.

    Raises:
        InvalidResult: it cannot be read, or a digest does not hold; the message says what.
    """
    files = stored.read(path)
    try:
        header = Header.of(files.pop(HEADER))
    except (ValueError, KeyError, TypeError) as error:
        raise InvalidResult(f"{HEADER} of {path}: {shown(error)}") from error
    if files.keys() != header.files.keys():
        strange = sorted(files.keys() ^ header.files.keys())
        raise InvalidResult(
            f"{HEADER} of {path} and its files differ: {shown(', '.join(strange)[:300])}"
        )
    for name, content in files.items():
        if sha256(content) != header.files[name]:
            raise InvalidResult(
                f"{name} of {path} is not the file that was packed: its sha256 is "
                f"{sha256(content)[:12]}..., {HEADER} says {header.files[name][:12]}..."
            )
    if not _holds_policy(header, files):
        raise InvalidResult(
            f"{path} holds no {POLICY}/ file of {shown(header.policy[:200])}: a policy is packed whole"
        )
    rows = results.parsed(files.pop(ROWS), f"{ROWS} of {path}")
    return Submission(header, files, rows)


def sha256(content: bytes) -> str:
    """64 hexadecimal digits."""
    return hashlib.sha256(content).hexdigest()


def _holds_policy(header: Header, files: Mapping[str, bytes]) -> bool:
    if header.file is not None:
        return f"{POLICY}/{header.file}" in files
    steps = header.policy.partition(":")[0].split(".")
    if steps[0] == "rapgym":
        return False
    module = "/".join((POLICY, *steps))
    return f"{module}.py" in files or f"{module}/__init__.py" in files
