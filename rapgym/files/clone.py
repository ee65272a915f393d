"""Where `baselines/` and `traces/` lie: at the top of a clone, inside the package where it is installed.

Their names are `rapgym.baselines` and `rapgym.traces` everywhere. A build puts the folders into the
package (`package-dir` in pyproject.toml). In a clone, installed or not, `follow` lets Python find these
two names at its top, and no other folder of it: Windows makes no symbolic links by default.
"""

import sys
from collections.abc import Sequence
from importlib.machinery import ModuleSpec, PathFinder
from types import ModuleType

from rapgym.files.places import HOLDER, PACKAGE


class _AtTheTop:
    """Finds the two packages beside this one."""

    @staticmethod
    def find_spec(
        name: str, path: Sequence[str] | None = None, target: ModuleType | None = None
    ) -> ModuleSpec | None:
        if name in ("rapgym.baselines", "rapgym.traces"):
            return PathFinder.find_spec(name, [str(HOLDER)])
        return None


def follow() -> None:
    """From now on the two packages are found, if this is a clone."""
    if HOLDER != PACKAGE and _AtTheTop not in sys.meta_path:
        # Before the finder of an editable install, which may be one of another clone.
        sys.meta_path.insert(0, _AtTheTop)
