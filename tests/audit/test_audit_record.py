"""One table of fields, from which writer, checks, reader and export of the audit log follow."""

import subprocess
import sys
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from audit_logs import CONTEXT, one, written

from rapgym.audit import chain, record
from rapgym.audit import decisions as audit_decisions
from rapgym.audit.record import FIELDS, LINE, Record
from rapgym.audit.summary import COLUMNS
from rapgym.errors import InvalidSpec

# As format 1 has been written since its beginning: a log that is there must still be read.
GOLDEN = (
    '"kind":"decision","time_us":1700000000000714,"context":"af4f524344ed7b9d","second":0,"batch":1,'
    '"prompt_tokens":3,"reserved_tokens":0,"longest_tokens":3,"limit_bytes":330,"budget_bytes":230,'
    '"used_bytes":324,"lane":3,"row":7,"limit_row":null,"late_us":1500,"measured_bytes":null,'
    '"output_tokens":null,"nll":null,"readable":true,"pinned":false,"measured":null,'
    '"cost":[0.1,null,2.0,3.0],"watchdog":"policy","refuses_misfit":false,"refused":false,'
    '"source":"policy","reason":"repaired","proposal":"fc","kept":"cc","loaded":null,'
    '"own_proposal":"d4","observation":"AAAAPwAAoL+wD6E0"'
)
MORE: dict[str, Any] = {
    "observation": np.array([[0.5, -1.25, 3e-7]], dtype=np.float32),
    "own_proposal": np.array([[True, True, False, True, False, True]]),
    "readable": np.array([True]),
    "late_us": np.array([1500]),
    "watchdog": ["policy"],
    "pinned": np.array([False]),
    "row": np.array([7]),
    "lane": np.array([3]),
    "nll": np.array([np.nan]),
    "cost": np.array([[0.1, np.inf, 2.0, 3.0]]),
}


def test_a_decision_is_written_byte_for_byte_as_ever() -> None:
    held = audit_decisions.held(one(tokens=3, limit=330, **MORE), CONTEXT, 1700000000000714)
    assert list(chain.decisions([held], "af4f524344ed7b9d")) == [GOLDEN]


def test_the_table_is_the_record_and_says_all_of_each_field() -> None:
    assert [field.name for field in FIELDS] == [field.name for field in fields(Record)]
    for field in FIELDS:
        assert field.meaning, field.name
        unit = field.name.rpartition("_")[2]
        assert unit not in ("bytes", "tokens", "us") or field.kind.unit == unit, field.name
    shapes = {field.name: field.kind.shape for field in FIELDS if field.kind.shape}
    sets = dict.fromkeys(("proposal", "kept", "loaded", "own_proposal"), "N")
    assert shapes == sets | {"cost": "4", "observation": "O"}


@pytest.mark.parametrize("field", [f for f in FIELDS if isinstance(f.kind, record.Whole)],
                         ids=lambda field: field.name)  # fmt: skip
def test_reader_and_writer_hold_a_number_to_the_same_range(field: record.Field) -> None:
    kind = field.kind
    assert isinstance(kind, record.Whole)
    for value, sound in ((kind.low, True), (kind.high, True), (kind.low - 1, False), (kind.high + 1, False)):  # fmt: skip
        assert field.holds(value) == sound
        assert (not kind.rule([0, value])) == sound
    assert not field.holds(True)
    assert not field.holds(1.0)


@pytest.mark.parametrize(
    ("change", "says"),
    [
        ({"cost": np.zeros((1, 3))}, "cost .* has 4 parts"),
        ({"second": -1}, "second .* goes from 0"),
        ({"second": (1 << 20) + 1}, "second .* goes from 0"),
    ],
)
def test_what_the_reader_refuses_is_not_written(change: dict[str, Any], says: str) -> None:
    with pytest.raises(InvalidSpec, match=says):
        audit_decisions.held(one(**change), CONTEXT, 0)


@pytest.mark.parametrize("missing", ["source", "budget_bytes", "refuses_misfit", "proposal"])
def test_what_is_always_there_cannot_be_missing(missing: str) -> None:
    decided = one()
    sources = [field.source for field in FIELDS if not field.optional and field.source != LINE]
    assert missing in sources
    setattr(decided, missing, None)
    with pytest.raises(InvalidSpec, match=f"{missing} .* is missing"):
        audit_decisions.held(decided, CONTEXT, 0)


def test_an_export_has_every_field(tmp_path: Path) -> None:
    written(tmp_path / "log.jsonl")
    parts = {f"cost_{term}" for term in record.TERMS}
    assert {field.name for field in FIELDS} - {"cost"} | parts <= set(COLUMNS)


# A field more in the table's source, and nothing else: `Demand.tokens` is what it says.
ADDED = """
import csv, importlib.util, json, sys
from pathlib import Path

spec = importlib.util.find_spec("rapgym.audit.record")
before = "    limit_bytes: Annotated["
after = '''    held_tokens: Annotated[
        int, Whole("tokens", high=30), Of("prompts and reserve", "demand.tokens")
    ]
'''
source = Path(spec.origin).read_text()
assert source.count(before) == 1
record = importlib.util.module_from_spec(spec)
sys.modules["rapgym.audit.record"] = record
exec(compile(source.replace(before, after + before), spec.origin, "exec"), vars(record))
sys.path.insert(0, "TESTS")

import pytest
from audit_logs import CONTEXT, forged, one

from rapgym.audit import entry, read
from rapgym.audit.log import AuditLog
from rapgym.audit.summary import Chosen, Log, export
from rapgym.errors import InvalidResult, InvalidSpec

folder = Path("FOLDER")
path, bad, out = folder / "log.jsonl", folder / "bad.jsonl", folder / "out.csv"
with AuditLog(path) as log:
    log.append(CONTEXT, one(tokens=3))
    with pytest.raises(InvalidSpec, match="held_tokens .prompts and reserve. goes from 0 to 30 tokens"):
        log.append(CONTEXT, one(tokens=31))
assert json.loads(path.read_text().splitlines()[2])["held_tokens"] == 3
assert [record.held_tokens for record in Log(path).records()] == [3]
forged(path, bad, {2: {"held_tokens": 31}})
with pytest.raises(InvalidResult, match="held_tokens"):
    [entry.record_of(line) for line in read.lines(bad) if line.kind == "decision"]
export(Log(path), Chosen(), out)
(row,) = csv.DictReader(out.open())
assert row["held_tokens"] == "3"
print("everywhere")
"""


def test_a_field_of_the_table_alone_reaches_writer_checks_reader_and_export(tmp_path: Path) -> None:
    code = ADDED.replace("TESTS", str(Path(__file__).parents[1])).replace("FOLDER", str(tmp_path))
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    assert done.stdout == "everywhere\n", done.stderr
