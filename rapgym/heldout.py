"""What training may open: checked where rows and columns are handed out, in the whole process.

Training runs inside `only`. Whatever asks there for rows of another split, for test columns or for
a whole workload meets `HeldOut`; what it did open is told, and goes into a policy's provenance.
"""

from collections.abc import Iterator
from contextlib import contextmanager

from rapgym.errors import HeldOut

COLUMNS = "test columns"
WHOLE = "a whole workload"

_guards: list[tuple[frozenset[str], set[str]]] = []  # what may be opened, what was; innermost last


@contextmanager
def only(*splits: str) -> Iterator[set[str]]:
    """While this lasts, no rows but those of `splits` can be opened, and no test columns.

    Threads are held to it as well; processes have guards of their own. Guards inside each other all
    hold.

    Returns:
        What has been opened so far: it grows meanwhile.
    """
    opened: set[str] = set()
    _guards.append((frozenset(splits), opened))
    try:
        yield opened
    finally:
        _guards.pop()


def check(what: str) -> None:
    """Note that something is opened.

    Args:
        what: a split, `COLUMNS` or `WHOLE`.

    Raises:
        HeldOut: a guard forbids it.
    """
    for allowed, opened in _guards:
        if what not in allowed:
            raise HeldOut(
                f"training asked for {what}, and may open rows of {', '.join(sorted(allowed))} alone"
            )
        opened.add(what)
