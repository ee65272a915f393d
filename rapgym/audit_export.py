"""Decisions of an audit log as a table: CSV, or Parquet with observations as lists of numbers."""

import base64
import binascii
import csv
import io
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

from rapgym import audit_sentence, audit_summary
from rapgym.audit_entry import Record
from rapgym.audit_summary import TERMS, Chosen, Log
from rapgym.errors import InvalidResult, InvalidSpec
from rapgym.files import checked
from rapgym.model import blocks

CHUNK = 4096
_WHOLE = ("decision", "seq", "time_us", "second", "batch", "prompt_tokens", "reserved_tokens",
          "longest_tokens", "limit_bytes", "budget_bytes", "used_bytes", "lane", "row", "limit_row",
          "late_us", "measured_bytes", "output_tokens", "dropped_attention", "dropped_ffn")  # fmt: skip
_FLAGS = ("readable", "pinned", "measured", "refuses_misfit", "refused")
_TEXTS = ("time", "scenario", "policy", "split", "source", "reason", "watchdog", "proposal", "kept",
          "loaded", "own_proposal", "context")  # fmt: skip
_TERMS = tuple(f"cost_{term}" for term in TERMS)
_NUMBERS = ("nll", "nats", "runner_up_nats", *_TERMS)
COLUMNS = (*_WHOLE, *_TEXTS, *_FLAGS, *_NUMBERS, "observation")


def export(log: Log, chosen: Chosen, out: Path) -> int:
    """Write the decisions asked for; how many they are.

    Costs are in nats a token: `nats` of what was executed and `runner_up_nats` by calibration text,
    the four terms as means over the row.

    Raises:
        InvalidSpec: the file's name ends neither in .csv nor in .parquet.
        InvalidResult: a decision is damaged.
    """
    if out.suffix not in (".csv", ".parquet"):
        raise InvalidSpec(f"{out}: the ending says how to write it, .csv or .parquet")
    rows = (_row(log, record) for record in log.records(chosen))
    return _write_csv(rows, out) if out.suffix == ".csv" else _write_parquet(rows, out)


def _row(log: Log, record: Record) -> dict[str, Any]:
    context = log.context(record)
    told = audit_sentence.explained(context, record)
    attention, ffn = blocks.dropped_counts(blocks.kept_of(record.kept, context.blocks)).tolist()
    found = {name: getattr(record, name, None) for name in COLUMNS}
    found |= {"time": audit_summary.moment(record.time_us), "scenario": context.scenario}
    found |= {"policy": context.policy, "split": context.split, "nats": told.nats}
    found |= {"runner_up_nats": told.runner_up.nats}
    found |= {"dropped_attention": attention, "dropped_ffn": ffn}
    return found | dict(zip(_TERMS, record.cost or [None] * len(_TERMS), strict=True))


def _write_csv(rows: Iterator[dict[str, Any]], out: Path) -> int:
    count = 0
    with checked.written_aside(out) as file:
        text = io.TextIOWrapper(file, encoding="utf-8", newline="")
        writer = csv.DictWriter(text, COLUMNS)
        writer.writeheader()
        for row in rows:
            count += 1
            writer.writerow({name: _cell(value) for name, value in row.items()})
        text.detach()
    return count


def _cell(value: Any) -> Any:
    """A cell that no spreadsheet takes for a formula."""
    return f"'{value}" if isinstance(value, str) and value[:1] in ("=", "+", "-", "@") else value


def _write_parquet(rows: Iterator[dict[str, Any]], out: Path) -> int:
    import pyarrow as pa
    import pyarrow.parquet as pq

    types = dict.fromkeys(_WHOLE, pa.int64()) | dict.fromkeys(_TEXTS, pa.string())
    types |= dict.fromkeys(_FLAGS, pa.bool_()) | dict.fromkeys(_NUMBERS, pa.float64())
    types["observation"] = pa.list_(pa.float32())
    schema = pa.schema([(name, types[name]) for name in COLUMNS])
    count = 0
    with checked.written_aside(out) as file, pq.ParquetWriter(file, schema) as writer:
        while chunk := list(islice(rows, CHUNK)):
            count += len(chunk)
            columns = {name: [row[name] for row in chunk] for name in COLUMNS}
            columns["observation"] = [_numbers(text) for text in columns["observation"]]
            writer.write_table(pa.table(columns, schema=schema))
    return count


def _numbers(text: str | None) -> list[float] | None:
    import numpy as np

    if text is None:
        return None
    try:
        return np.frombuffer(base64.b64decode(text, validate=True), dtype="<f4").tolist()
    except (binascii.Error, ValueError) as error:
        raise InvalidResult(f"an observation cannot be read ({error})") from error
