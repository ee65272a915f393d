"""The folders of the package, once: nothing else asks where a module's own file lies."""

from pathlib import Path, PurePosixPath

PACKAGE = Path(__file__).parents[1]


def _holder(package: Path) -> Path:
    """The folder that holds `baselines/` and `traces/`: the package itself, or the clone around it."""
    top = package.parent
    wanted = ("pyproject.toml", "baselines/__init__.py", "traces/__init__.py")
    is_clone = not (package / "baselines").is_dir() and all(
        (top / name).is_file() for name in wanted
    )
    return top if is_clone else package


HOLDER = _holder(PACKAGE)
BASELINES = HOLDER / "baselines"
# What was published: in a clone alone, no part of an installed package.
RESULTS = BASELINES / "results"
TRACES = HOLDER / "traces"
# Verified submissions: in a clone alone. Their rows tell of test rows.
LEADERBOARD = HOLDER / "leaderboard"
# Of the world itself, and pages: in a clone alone.
STUDIES = PACKAGE / "studies"
STORIES = PACKAGE / "stories"
TABLES = PACKAGE / "tables"
PROFILES = PACKAGE / "profiles"
TRAINED = PACKAGE / "trained"
# What reports are laid out with.
TEMPLATES = PACKAGE / "report" / "templates"
TUNED = PACKAGE / "policies" / "tuned.json"
INCREMENTS = PACKAGE / "quality" / "increments.npy"
# What cells of a bench were measured to take.
CELL_TIMES = PACKAGE / "bench" / "cell_times.json"


def inner(path: Path) -> PurePosixPath:
    """A file of the package: its path in the package as it is when installed, alike on every system."""
    return PurePosixPath(path.relative_to(PACKAGE if path.is_relative_to(PACKAGE) else HOLDER))
