"""Record tests/golden/toy.json anew: only where a change of results is meant."""

import json
import sys
from dataclasses import replace
from pathlib import Path
from tempfile import TemporaryDirectory

HERE = Path(__file__).parent
sys.path.insert(0, str(HERE.parent))

import test_rollout  # noqa: E402
import toy_table  # noqa: E402
import toy_world  # noqa: E402

from rapgym.model import shapes  # noqa: E402
from rapgym.policies.policy import briefing  # noqa: E402
from rapgym.quality import table as quality_table  # noqa: E402
from rapgym.rollout import rollout  # noqa: E402
from rapgym.workload import series  # noqa: E402

shapes.MODELS = (*shapes.MODELS, toy_world.MODEL)  # type: ignore[assignment]
table = toy_table.toy_table()
quality_table.QualityTable.load = lambda name, sha256=None: table  # type: ignore[method-assign]
with TemporaryDirectory() as folder:
    story = replace(toy_world.STORY, workload=f"{folder}/toy")
    series.write(toy_world.toy_series(), Path(folder) / "toy.csv.gz")
    log = rollout.run(test_rollout.Drawn, story, "test", briefing(story), seed=1)
told = test_rollout.recorded(log)
lines = ",\n".join(f"{json.dumps(name)}: {json.dumps(rows)}" for name, rows in told.items())
(HERE / "toy.json").write_text("{\n" + lines + "\n}\n")
