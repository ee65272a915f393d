"""The folders of the package, once: nothing else asks where a module's own file lies."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
BASELINES = PACKAGE / "baselines"
# What was published: in a clone alone, no part of an installed package.
RESULTS = BASELINES / "results"
TRACES = PACKAGE / "traces"
TABLES = PACKAGE / "tables"
PROFILES = PACKAGE / "profiles"
TRAINED = PACKAGE / "trained"
TUNED = PACKAGE / "policies" / "tuned.json"
