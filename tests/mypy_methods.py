"""mypy's view of the methods: it looks for `rapgym.baselines` in `rapgym/` alone, and runs no finder.

Named as a plugin in pyproject.toml, so that each run of mypy begins here: it copies `baselines/` to
where its `mypy_path` points. Tests that import a method then see its types. The methods themselves are
checked where they lie; the copies are read in silence.
"""

import shutil
from pathlib import Path

from mypy.plugin import Plugin

CLONE = Path(__file__).parents[1]
COPY = CLONE / ".mypy_cache" / "methods" / "rapgym" / "baselines"


def plugin(version: str) -> type[Plugin]:
    """What mypy calls as it begins; nothing of how it checks is changed."""
    methods = {path.name: path for path in (CLONE / "baselines").glob("*.py")}
    COPY.mkdir(parents=True, exist_ok=True)
    for gone in {path.name for path in COPY.iterdir()} - methods.keys():
        (COPY / gone).unlink()
    for name, path in methods.items():
        shutil.copy2(path, COPY / name)
    return Plugin
