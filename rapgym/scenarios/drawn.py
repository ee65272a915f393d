"""Files that are drawn where they are first needed, and kept in the cache."""

import platform
from collections.abc import Callable
from pathlib import Path

import numpy as np

from rapgym.errors import WrongChecksum
from rapgym.files import checked


def drawn_once(
    write: Callable[[Path], None],
    name: str,
    ending: str,
    known: str,
    *,
    story: str,
    what: str,
    key: str,
) -> Path:
    """The file of a workload that is drawn; two processes at once draw it once.

    Args:
        write: draws it into a file.
        name, ending: what the file is called; its sha256 stands between them.
        known: the sha256 that every machine should draw; "" where none is stated.
        story, what, key: whose file it is, what is drawn, and where the scenario states its sha256.

    Raises:
        WrongChecksum: this machine draws something else than the scenario states.
    """
    path = checked.cache_folder() / "workloads" / f"{name}-{known[:12] or 'unchecked'}{ending}"
    if not path.is_file():
        with checked.locked(path.with_suffix(".lock")):
            if not path.is_file():  # another process may have drawn it meanwhile
                write(path)
    if known and (found := checked.sha256_once(path)) != known:
        path.unlink(missing_ok=True)
        raise WrongChecksum(
            f"{story}: this machine draws {what} (sha256 {found[:12]}..., expected {known[:12]}...; NumPy "
            f"{np.__version__}, {platform.platform()}), so that its results would not compare with "
            f'others; report it, or use a scenario with {key} = ""'
        )
    return path
