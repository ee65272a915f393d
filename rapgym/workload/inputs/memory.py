"""Samples of memory in use, in whatever format of the table, read into a trace."""

import re
from array import array
from collections.abc import Iterable, Iterator
from dataclasses import dataclass, field
from functools import lru_cache
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from rapgym.errors import InvalidTrace
from rapgym.files import limits
from rapgym.workload.inputs import clock, formats, names, own, text
from rapgym.workload.inputs.formats import Format
from rapgym.workload.inputs.how import MEMORY_UNITS, MISSING, REPEATED, How, Report
from rapgym.workload.inputs.names import Entry
from rapgym.workload.inputs.text import Text
from rapgym.workload.inputs.tokens import refuse_decimal_comma
from rapgym.workload.trace import LARGEST, MEMORY_COLUMNS, MemoryTrace, read_memory

USED = (
    "used",
    "memory_used",
    "mem_used",
    "used_memory",
    "fb_used",
    "vram_used",
    "gpu_memory_used",
    "gpu_mem_used",
    "memory_usage",
    "memory",
    "mem",
    "DCGM_FI_DEV_FB_USED",
    "value",
)  # each also with its unit behind it, as `used_bytes`
GPU = ("index", "gpu", "gpu_id", "gpu_index", "uuid", "gpu_uuid", "pci.bus_id", "device")
_UNITS = {"b": "B", "byte": "B", "bytes": "B", "kib": "KiB", "kb": "KiB", "mib": "MiB", "mb": "MiB",
          "gib": "GiB", "gb": "GiB"}  # fmt: skip
_USED = tuple(
    names.plain(f"{name}{end}") for name in USED for end in ("", *(f"_{u}" for u in _UNITS))
)
_GONE = {"[n/a]", "n/a", "na", "nan", "-", "", "none", "null", "[not supported]", "[unknown error]",
         "[insufficient permissions]", "[gpu requires reset]", "+inf", "-inf", "inf"}  # fmt: skip
_CELL = re.compile(r"(\d+(?:\.\d+)?(?:[eE][-+]?\d{1,2})?)\s*([A-Za-z]*)", re.ASCII)
_ROW = re.compile(r"\d[\d/.:T -]*[,;\t]")
_PROMETHEUS = formats.format_of("Prometheus range query", "memory")
_MOST_GPUS, _MOST_SEEN = 1024, 200
_NAMED_UNITS = {"DCGM_FI_DEV_FB_USED": "MiB"}  # of metrics whose name does not end in their unit


class Found(NamedTuple):
    """What a file says of memory in use."""

    memory: MemoryTrace
    report: Report


def read(path: Path, how: How | None = None, name: str = "") -> Found:
    """The samples of a file, in bytes; one that has not changed is not read again.

    Args:
        how: what the user says of units, zones and of which GPU is meant.
        name: of the trace; the file's unless stated.

    Raises:
        DataUnavailable: it cannot be read.
        InvalidTrace: it holds no samples of one device whose unit and time are known; the message says what
            was found and what to state.
    """
    return _once(*own.state(path), how or How(), name or path.name)


@lru_cache(maxsize=2)
def _once(path: Path, size: int, changed_ns: int, how: How, name: str) -> Found:
    if own.is_of(path, MEMORY_COLUMNS) and not how.units:
        report = Report()
        found = own.on_wall(read_memory(path, name), report)
        report.formats[formats.OWN] = len(found)
        return Found(_plausible(found), report)
    return text.read(path, limits.ACCESS_WHOLE, lambda pieces: parse(pieces, name, how))


def parse(pieces: Iterable[str], name: str, how: How | None = None) -> Found:
    """As `read`, of the text of a file, piece by piece."""
    return _Reading(name, how or How()).whole(Text.of(pieces))


def _plausible(found: MemoryTrace) -> MemoryTrace:
    """A trace of bytes that may be.

    Raises:
        InvalidTrace: the largest is below a MiB: no bytes.
    """
    most = int(found.used_bytes.max())
    if 0 < most < MEMORY_UNITS["MiB"]:
        raise InvalidTrace(
            f"{found.name}: the largest of its bytes in use is {most}, below a MiB: these may be MiB; name "
            "the column used_mib, or add --unit MiB"
        )
    return found


@dataclass(slots=True)
class _Reading:
    """One file while it is read."""

    name: str
    how: How
    report: Report = field(default_factory=Report)
    times: clock.Times = field(default_factory=clock.Times)
    used: "array[float]" = field(default_factory=lambda: array("d"))  # bytes
    gpus: dict[str, int] = field(default_factory=dict)  # samples of each
    head: str = ""
    seen: set[str] = field(default_factory=set)

    def whole(self, found: Text) -> Found:
        self.head = found.head
        if found.shape == "table":
            self._table(found)
        else:
            self._json(found)
        if len(self.gpus) > 1 and not self.how.gpu:
            raise InvalidTrace(
                f"{self.name} holds {len(self.gpus)} GPUs: choose one with --gpu: {self._known_gpus()}"
            )
        if not len(self.times):
            raise InvalidTrace(self._nothing())
        return self._found()

    def _table(self, found: Text) -> None:
        rows = text.rows(found, self.name)
        columns = next(rows)
        plain = [names.plain(column) for column in columns]
        self.seen = {*plain}
        form = _form_of(Entry(dict.fromkeys(columns, 1)))
        used = next((plain.index(name) for name in _USED if name in plain), None)
        time = next(
            (plain.index(name) for name in map(names.plain, form.arrival) if name in plain), None
        )
        if used is None or time is None:
            raise InvalidTrace(self._nothing())
        gpus = [plain.index(name) for name in map(names.plain, GPU) if name in plain]
        parted = plain.index("mig_mode_current") if "mig_mode_current" in plain else None
        unit, time_unit = _unit_of(columns[used]), self._time_unit(form, columns[time])
        for number, row in enumerate(rows, 1):
            if len(row) != len(columns):
                self._width(number, row, columns)
            elif row != columns:  # as where a second run was appended
                if parted is not None and row[parted].lower() == "enabled":
                    self._note(
                        "its GPU is parted (MIG): memory.used is of the whole card, not of an instance"
                    )
                named = [row[index] for index in gpus]
                where = f"row {number}"
                self._sample(form, where, (row[time], time_unit), (row[used], unit), named)

    def _time_unit(self, form: Format, key: str) -> str:
        """Of times that are numbers: as stated, as the format has it, as the key's name says; or none."""
        stated = "" if form.clock == "wall" else self.how.time_unit
        return stated or form.unit or clock.unit_of(key)

    def _width(self, number: int, row: list[str], columns: list[str]) -> None:
        if len(row) < len(columns):
            self.report.fault(f"row {number}: it has {len(row)} fields, the header {len(columns)}")
            return
        raise InvalidTrace(
            f"{self.name}: row {number} has {len(row)} fields, its header {len(columns)}: a decimal comma "
            "makes two of one; write numbers with a decimal point"
        )

    def _json(self, found: Text) -> None:
        for value in _values(found, self.report):
            if not isinstance(value, dict):
                self.report.fault("a value that is no JSON object")
                continue
            entry = Entry(value)
            self.seen |= {*entry.level(())} if len(self.seen) < _MOST_SEEN else set()
            form = _form_of(entry)
            if form is _PROMETHEUS:
                inner = entry.at("data") if isinstance(entry.at("data"), dict) else value
                self._prometheus(inner if "result" in inner else {"result": [value]})
                continue
            time_key, time = entry.first(form.arrival)
            key, used = entry.first(_USED)
            if time is None or not key:
                self.report.fault("an object without a time or memory in use")
                continue
            spelled = next((name for name in value if names.plain(name) == names.plain(key)), key)
            gpus = [str(each) for _, each in entry.every(GPU)]
            unit = self._time_unit(form, time_key)
            self._sample(form, "an entry", (time, unit), (used, _unit_of(spelled)), gpus)

    def _prometheus(self, data: dict[str, Any]) -> None:
        if data.get("resultType", "matrix") != "matrix":
            raise InvalidTrace(
                f"{self.name} answers an instant query ({str(data.get('resultType'))[:20]}): ask "
                "/api/v1/query_range, which gives samples over time"
            )
        result = data["result"]
        for series in result if isinstance(result, list) else []:
            labels = series.get("metric") if isinstance(series, dict) else None
            labels = labels if isinstance(labels, dict) else {}
            metric = str(labels.get("__name__", ""))
            unit = _NAMED_UNITS.get(metric) or _unit_of(metric)
            if metric.startswith("DCGM_FI_DEV_FB_") and metric not in _NAMED_UNITS:
                raise InvalidTrace(
                    f"{self.name} holds {metric[:60]}, not memory in use: ask for DCGM_FI_DEV_FB_USED"
                )
            gpus = _of_labels(labels)
            values = series.get("values") if isinstance(series, dict) else None
            for pair in values if isinstance(values, list) else []:
                if not isinstance(pair, list) or len(pair) != 2:
                    self.report.fault("a sample that is no pair of time and value")
                    continue
                time = (pair[0], _PROMETHEUS.unit)
                self._sample(_PROMETHEUS, "a sample", time, (pair[1], unit), gpus)

    def _sample(
        self,
        form: Format,
        where: str,
        time: tuple[Any, str],
        used: tuple[Any, str],
        gpus: list[str],
    ) -> None:
        """One sample: its time and its memory, each with the unit that its name has."""
        which = ", ".join(gpus)
        self.gpus[which] = self.gpus.get(which, 0) + 1
        if len(self.gpus) > _MOST_GPUS:
            raise InvalidTrace(
                f"{self.name} holds more than {_MOST_GPUS} GPUs: is the right column taken?"
            )
        if self.how.gpu and self.how.gpu not in gpus:
            return
        if str(used[0]).strip().lower() in _GONE:
            self.report.leave_out(MISSING)
            return
        try:
            amount = self._bytes(*used)
            at_s, kind = clock.point(*time)
        except InvalidTrace:
            raise
        except (ValueError, TypeError, OverflowError) as error:
            self.report.fault(f"{where}: {str(error)[:200]}")
            return
        self.times.add(at_s, kind)
        self.used.append(amount)
        if len(self.used) > limits.ACCESS_SAMPLES:
            raise InvalidTrace(
                f"{self.name} holds more than {limits.ACCESS_SAMPLES} samples: cut it in parts"
            )
        self.report.formats[form.name] = self.report.formats.get(form.name, 0) + 1

    def _bytes(self, used: Any, unit: str) -> float:
        told = str(used).strip()
        refuse_decimal_comma(told)
        cell = _CELL.fullmatch(told)
        if isinstance(used, bool) or cell is None:
            raise ValueError(f"{told[:40]!r} is no memory in use")
        known = _UNITS.get(cell[2].lower(), "") if cell[2] else self.how.memory_unit or unit
        if cell[2] and not known:
            raise ValueError(f"{told[:40]!r} has a unit that is not known")
        if not known:
            raise InvalidTrace(
                f"{self.name}: the unit of its memory is not stated: add --unit B, KiB, MiB or GiB"
            )
        if (cell[2].lower() if cell[2] else "") in ("kb", "mb", "gb"):
            self._note(f"{cell[2]} is read as {known}")
        amount = float(cell[1]) * MEMORY_UNITS[known]
        if not 0 <= amount <= LARGEST["used_bytes"]:
            raise ValueError(f"{told[:40]!r} is no memory in use")
        return amount

    def _found(self) -> Found:
        is_own = {*self.report.formats} == {formats.OWN}
        settled = clock.settled(self.times, self.name, self.how, self.report, own=is_own)
        used = np.rint(np.array(self.used))[settled.kept].astype(np.int64)
        if (np.diff(settled.at_s) < 0).any():
            self._note("its samples were not in the order of time: sorted")
        if {*self.report.formats} & {"nvidia-smi", _PROMETHEUS.name}:
            self._note(
                "it is memory of all on the GPU: if your own model server ran there, it is taken for one of "
                "those who share the card; rapgym record --gpu with --less PID leaves it out"
            )
        order = np.argsort(settled.at_s, kind="stable")
        at_s, first = np.unique(settled.at_s[order], return_index=True)
        self.report.leave_out(REPEATED, len(order) - len(first))
        # Of several samples of one instant, the highest.
        highest = np.maximum.reduceat(used[order], first)
        trace = MemoryTrace(self.name, at_s, highest, start_wall_s=settled.start_wall_s)
        return Found(_plausible(trace), self.report)

    def _note(self, words: str) -> None:
        if words not in self.report.notes:
            self.report.notes.append(words)

    def _known_gpus(self) -> str:
        shown = [f"{each or 'without a name'} ({rows} samples)" for each, rows in self.gpus.items()]
        return "; ".join(shown[:16])

    def _nothing(self) -> str:
        if self.how.gpu and self.gpus:
            return f"{self.name} holds no GPU {self.how.gpu!r}: there are {self._known_gpus()}"
        if missing := self.report.left_out.get(MISSING):
            return (
                f"{self.name} holds no sample with a value: {missing} are [N/A]; of a part of a GPU (MIG) "
                "nvidia-smi tells nothing, DCGM does"
            )
        found = f"; found: {', '.join(sorted(self.seen)[:12])}" if self.seen else ""
        if self.report.first_fault:
            found += f"; {self.report.first_fault}"
        if not self.seen and _ROW.match(self.head):
            return (
                f"{self.name} begins with a sample, not with the names of its columns: run nvidia-smi without "
                "noheader, or write them into a first line"
            )
        near = f"; nearest format: {formats.nearest(self.seen, 'memory')}" if self.seen else ""
        if _is_of_requests(self.seen):
            near = "; these are requests, no memory: give the file as --access-log or --requests"
        return f"{self.name} holds no samples of memory in use{found}{near}. Read are {formats.named('memory')}"


def _form_of(entry: Entry) -> Format:
    return next(each for each in formats.MEMORY if each.fits(entry))


def _is_of_requests(seen: set[str]) -> bool:
    return any("token" in name or name in ("usage", "input_length", "input_lens") for name in seen)


def _unit_of(name: str) -> str:
    """The unit of a column or metric, in brackets behind its name or at its end; empty without."""
    words = names.plain(name).split("_")
    told = names.unit_in(name).lower() or (words[-1] if len(words) > 1 else "")
    return _UNITS.get(told, "")


def _of_labels(labels: dict[str, Any]) -> list[str]:
    """What a GPU, or a part of one, is called in the labels of a metric."""
    index = str(labels.get("gpu", labels.get("index", labels.get("minor_number", ""))))
    part = str(labels.get("GPU_I_ID", ""))
    host = str(labels.get("Hostname", labels.get("instance", "")))
    named = [
        f"{index}:{part}" if part else index,
        str(labels.get("UUID", labels.get("uuid", ""))),
        host,
    ]
    return [each for each in named if each]


def _values(found: Text, report: Report) -> Iterator[Any]:
    """The JSON values of a file; none where it is no JSON."""
    if found.shape == "lines" and not found.head.startswith("{"):
        return
    for value in text.values(found.whole):
        if isinstance(value, text.Damaged):
            report.fault(value.fault)
        else:
            yield value
