"""The places on a page that a program fills: between `<!-- begin:NAME -->` and `<!-- end:NAME -->`."""

import re
import sys
from collections.abc import Mapping
from pathlib import Path


def marked(text: str) -> list[str]:
    """Names of the generated parts of a page, in order."""
    return re.findall(r"^<!-- begin:(\S+) -->$", text, flags=re.MULTILINE)


def filled(text: str, made: Mapping[str, str]) -> str:
    """A page with every generated part as it should be.

    Raises:
        SystemExit: a part is not known, or does not end.
    """
    for name in marked(text):
        before, begin, rest = text.partition(f"<!-- begin:{name} -->\n")
        _, end, after = rest.partition(f"<!-- end:{name} -->")
        if name not in made or not end:
            raise SystemExit(f"no part is called {name}, or its end is missing")
        text = f"{before}{begin}{made[name]}\n{end}{after}"
    return text


def part(text: str, name: str) -> str:
    """What stands in one of the places of a page."""
    _, _, rest = text.partition(f"<!-- begin:{name} -->\n")
    return rest.partition(f"\n<!-- end:{name} -->")[0]


def settled(wanted: Mapping[Path, str], *, check: bool, command: str) -> int:
    """Write each file that is not what it should be; the exit code.

    Args:
        check: write nothing, and exit with 1 where a file would be written.
        command: what makes the files, for the message.
    """
    stale = [path for path, text in wanted.items() if not path.exists() or path.read_text() != text]
    for path in stale:
        if check:
            print(f"{path.name} is not what it should be; run: {command}", file=sys.stderr)
        else:
            path.parent.mkdir(exist_ok=True)
            path.write_text(wanted[path])
    return int(check and bool(stale))
