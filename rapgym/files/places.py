"""The folders of the package, once: nothing else asks where a module's own file lies."""

from pathlib import Path

PACKAGE = Path(__file__).parents[1]
BASELINES = PACKAGE / "baselines"
TRACES = PACKAGE / "traces"
TABLES = PACKAGE / "tables"
PROFILES = PACKAGE / "profiles"
TRAINED = PACKAGE / "trained"
TUNED = PACKAGE / "policies" / "tuned.json"
