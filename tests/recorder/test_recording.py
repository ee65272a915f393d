"""Recordings: what was acknowledged outlives kill -9, the clock does not drift, meters by hand."""

import json
import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import numpy as np
import pytest

from rapgym import cli
from rapgym.errors import DataUnavailable, InvalidSpec, InvalidTrace
from rapgym.recorder import meters, sampling, work_file
from rapgym.recorder.work_file import WorkFile, work_path
from rapgym.workload.trace import MemoryTrace, RequestTrace, read_memory, read_requests

# Appends as fast as it can and says on stdout what it knows to be safe.
RECORDER = """
import sys
from pathlib import Path
from rapgym.recorder.work_file import WorkFile
with WorkFile(Path(sys.argv[1]), "memory", {}) as work:
    row = 0
    while True:
        work.append(float(row), row * 7)
        print(row, flush=True)
        row += 1
"""


def started(*command: str) -> subprocess.Popen[str]:
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def told(process: subprocess.Popen[str]) -> str:
    """All that the process printed on stdout; its pipes are closed."""
    return process.communicate()[0]


def memory_recording(out: Path, *rows: tuple[float, int], **about: Any) -> None:
    with WorkFile(out, "memory", about) as work:
        for row in rows:
            work.append(*row)


@pytest.mark.parametrize("round_", range(4))
def test_kill_9_loses_no_row_that_was_acknowledged(tmp_path: Path, round_: int) -> None:
    out = tmp_path / "killed.csv.gz"
    process = started(sys.executable, "-c", RECORDER, str(out))
    assert process.stdout is not None
    first = process.stdout.readline()
    time.sleep(random.Random(round_).uniform(0, 0.05))
    process.kill()
    with process:  # its pipe holds 64 KiB: all that it printed and nobody read yet
        text = first + process.stdout.read()
    acknowledged = [int(line) for line in text.split("\n")[:-1]]
    assert acknowledged == list(range(len(acknowledged)))
    found = work_file.finish(out).trace
    assert isinstance(found, MemoryTrace)
    # One row more may be there: written, and not yet said to be.
    assert len(found) - len(acknowledged) in (0, 1)
    assert found.t_s.tolist() == list(range(len(found)))
    assert found.used_bytes.tolist() == [7 * row for row in range(len(found))]
    assert not work_path(out).exists()
    assert read_memory(out, "").used_bytes.tolist() == found.used_bytes.tolist()


@pytest.mark.parametrize("cut", range(1, 9))
def test_a_row_that_was_cut_in_two_is_passed_over(tmp_path: Path, cut: int) -> None:
    out = tmp_path / "torn.csv"
    memory_recording(out, (0.0, 1000), (0.5, 2000))
    path = work_path(out)
    path.write_bytes(path.read_bytes() + b"1.0,3000\n"[:cut])
    found = work_file.finish(out)
    assert isinstance(found.trace, MemoryTrace)
    assert found.trace.used_bytes.tolist() == [1000, 2000], "3000 without a digit reads as a number"
    assert found.damaged_rows == 1


def test_whole_lines_that_are_damaged_are_counted_and_the_rest_is_kept(tmp_path: Path) -> None:
    out = tmp_path / "damaged.csv"
    memory_recording(out, (0.0, 1), (0.5, 2), (1.0, 3))
    path = work_path(out)
    path.write_bytes(path.read_bytes().replace(b"0.5,2", b"0.5\x00\xff2"))
    found = work_file.finish(out)
    assert isinstance(found.trace, MemoryTrace)
    assert (found.trace.t_s.tolist(), found.damaged_rows) == ([0.0, 1.0], 1)


def test_requests_are_sorted_by_arrival_and_estimates_counted(tmp_path: Path) -> None:
    out = tmp_path / "requests.csv.gz"
    with WorkFile(out, "requests", {"source": "proxy"}) as work:
        for row in ((2.0, 7, 1, 0), (0.5, 3, 9, 1), (2.0, 8, 2, 0)):
            work.append(*row)
    found = work_file.finish(out)
    back = read_requests(out, "back")
    assert isinstance(found.trace, RequestTrace)
    for trace in (found.trace, back):
        assert trace.arrival_s.tolist() == [0.5, 2.0, 2.0]
        assert trace.prompt_tokens.tolist() == [3, 7, 8], "ties as they were written"
        assert trace.output_tokens.tolist() == [9, 1, 2]
        assert trace.start_wall_s == pytest.approx(work.start_wall_s, abs=1e-3)
    assert (found.estimated_rows, found.about) == (1, {"kind": "requests", "source": "proxy"})


def test_nothing_recorded_is_ever_overwritten(tmp_path: Path) -> None:
    out = tmp_path / "twice.csv"
    memory_recording(out, (0.0, 1))
    with pytest.raises(InvalidSpec, match="--finish"):
        WorkFile(out, "memory", {})
    work_file.finish(out)
    before = out.read_bytes()
    with pytest.raises(InvalidSpec, match="is there already"):
        WorkFile(out, "memory", {})
    with pytest.raises(DataUnavailable, match="no unfinished recording"):
        work_file.finish(out)
    assert out.read_bytes() == before
    assert not work_path(out).exists()


def test_a_recording_is_not_finished_under_its_recorder(tmp_path: Path) -> None:
    out = tmp_path / "running.csv"
    with WorkFile(out, "memory", {}) as work:
        work.append(0.0, 1)
        with pytest.raises(InvalidSpec, match="still runs"):
            work_file.finish(out)
        with pytest.raises(InvalidSpec, match="still runs"):
            work_file.finish_left_over(out)
        work.append(1.0, 2)
    assert len(work_file.finish(out).trace) == 2


def test_what_a_killed_recorder_left_makes_room_under_a_name_of_its_own(tmp_path: Path) -> None:
    out = tmp_path / "desk.csv.gz"
    assert work_file.finish_left_over(out) is None
    memory_recording(out, (0.0, 1), (0.5, 2))
    left = work_file.finish_left_over(out)
    assert left is not None
    assert left.path.name.startswith("desk-20")
    assert left.path.name.endswith(".csv.gz")
    assert len(read_memory(left.path, "")) == 2
    memory_recording(out, (0.0, 5))
    assert len(work_file.finish(out).trace) == 1


def test_a_recording_without_a_row_leaves_nothing(tmp_path: Path) -> None:
    out = tmp_path / "none.csv"
    memory_recording(out)
    assert list(tmp_path.iterdir()) == []
    work_path(out).write_text("# nonsense")
    with pytest.raises(InvalidTrace, match="no recording"):
        work_file.finish(out)
    assert work_file.finish_left_over(out) is None
    assert list(tmp_path.iterdir()) == []


def test_a_trace_has_a_name_that_bench_can_read(tmp_path: Path) -> None:
    with pytest.raises(InvalidSpec, match=r"\.csv or a \.csv\.gz"):
        WorkFile(tmp_path / "trace.txt", "memory", {})


class Clock:
    """Time that passes when somebody sleeps, or reads a slow meter."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_s = 100.0
        monkeypatch.setattr(time, "monotonic", lambda: self.now_s)

    def sleep(self, seconds: float) -> None:
        self.now_s += seconds + 0.003  # every sleep is late


def sampled(
    out: Path, clock: Clock, reading_s: list[float], interval_s: float, seconds: float
) -> list[float]:
    """When samples were taken, if reading the meter takes this long: the last time over and over."""
    taken = 0

    def meter() -> int:
        nonlocal taken
        clock.now_s += reading_s[min(taken, len(reading_s) - 1)]
        taken += 1
        return taken

    with WorkFile(out, "memory", {}) as work:
        sampling.sample(meter, work, interval_s, seconds, sleep=clock.sleep)
    found = work_file.finish(out).trace
    assert isinstance(found, MemoryTrace)
    return [float(t_s) for t_s in found.t_s]


def test_lateness_does_not_add_up(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    taken = sampled(tmp_path / "t.csv", Clock(monkeypatch), [0.004], 0.5, 500)
    assert len(taken) == 1000
    late = np.array(taken) - 0.5 * np.arange(1000)
    assert late.min() >= 0
    assert late.max() <= 0.004, "the last is as late as the first"


def test_what_was_slept_through_is_left_out(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    taken = sampled(tmp_path / "t.csv", Clock(monkeypatch), [0, 0, 7.2, 0], 1.0, 12)
    assert [round(t_s, 1) for t_s in taken] == [0.0, 1.0, 2.0, 10.0, 11.0]


def test_sampling_ends_when_what_is_measured_is_gone(tmp_path: Path) -> None:
    readings = iter([5, 6, None])
    with WorkFile(tmp_path / "t.csv", "memory", {}) as work:
        sampling.sample(lambda: next(readings), work, 0.01)
    assert work.rows == 2


def failing(*readings: int | None) -> Callable[[], int]:
    """A meter whose readings fail where None is given, and from the last on."""
    left = iter(readings)

    def meter() -> int:
        if (found := next(left, None)) is None:
            raise DataUnavailable("the driver says nothing")
        return found

    return meter


def test_a_reading_that_fails_does_not_end_a_recording(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    clock, missed = Clock(monkeypatch), list[float]()
    with WorkFile(tmp_path / "t.csv", "memory", {}) as work:
        meter = failing(5, None, None, 6, 7)
        with pytest.raises(DataUnavailable, match="says nothing"):
            sampling.sample(
                meter, work, 1.0, sleep=clock.sleep, missed=lambda t_s, _: missed.append(t_s)
            )
    found = work_file.finish(tmp_path / "t.csv").trace
    assert isinstance(found, MemoryTrace)
    assert found.used_bytes.tolist() == [5, 6, 7]
    assert len(missed) == 2 + sampling.PATIENCE_S, "then it is over"
    with (
        WorkFile(tmp_path / "none.csv", "memory", {}) as work,
        pytest.raises(DataUnavailable, match="says nothing"),
    ):
        sampling.sample(failing(), work, 1.0, sleep=clock.sleep)


def test_the_end_of_a_recording_names_what_is_saved(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "memory.csv"
    monkeypatch.setattr(sampling, "PATIENCE_S", 0.05)
    monkeypatch.setattr(meters, "system", lambda less: failing(5 << 20, None, 6 << 20))
    assert cli.main(["record", "--out", str(out), "--interval", "0.02"]) == 2
    told = capsys.readouterr().err
    assert "a reading failed (the driver says nothing); going on" in told
    assert (
        f"saved in {work_path(out)}: make a trace of it with rapgym record --finish --out {out}"
        in told
    )
    assert cli.main(["record", "--out", str(out), "--finish"]) == 0
    assert read_memory(out, "").used_bytes.tolist() == [5 << 20, 6 << 20]


@pytest.mark.parametrize(("interval_s", "seconds"), [(0.001, 9), (float("nan"), 9), (1, 0)])
def test_a_clock_that_cannot_be_kept_is_refused(
    tmp_path: Path, interval_s: float, seconds: float
) -> None:
    with (
        WorkFile(tmp_path / "t.csv", "memory", {}) as work,
        pytest.raises(InvalidSpec, match="--interval"),
    ):
        sampling.sample(lambda: 1, work, interval_s, seconds)


def proc_folder(folder: Path, available_kib: int, **resident: tuple[int, int]) -> Path:
    """A /proc with so much available of 1000 KiB, and processes of resident and shared pages."""
    text = (
        f"MemTotal:  1000 kB\nMemFree: 5 kB\nMemAvailable: {available_kib} kB\nHugePages_Total: 0\n"
    )
    (folder / "meminfo").write_text(text)
    for pid, (pages, shared) in resident.items():
        (folder / pid).mkdir()
        (folder / pid / "statm").write_text(f"9999 {pages} {shared} 0 0 0 0\n")
    return folder


def test_memory_of_the_machine_by_hand(tmp_path: Path) -> None:
    page, own = os.sysconf("SC_PAGE_SIZE"), str(os.getpid())
    proc = proc_folder(tmp_path, 200, **{own: (10, 4), "77": (30, 5)})
    assert meters.total_bytes(proc) == 1000 << 10
    assert meters.system(proc=proc)() == (800 << 10) - 6 * page
    assert meters.system([77], proc)() == (800 << 10) - 31 * page
    with pytest.raises(DataUnavailable, match="no process 78"):
        meters.system([78], proc)
    with pytest.raises(DataUnavailable, match="recorded on Linux"):
        meters.system(proc=tmp_path / "elsewhere")


def test_memory_of_processes_by_hand(tmp_path: Path) -> None:
    page = os.sysconf("SC_PAGE_SIZE")
    proc = proc_folder(tmp_path, 200, **{"5": (10, 4), "6": (30, 5)})
    meter = meters.processes([5, 6], proc)
    assert meter() == 31 * page
    (proc / "5" / "statm").unlink()
    assert meter() == 25 * page, "one that ended holds nothing"
    (proc / "6" / "statm").write_text("0 0 0 0 0 0 0\n")
    assert meter() is None, "both ended, one is not waited for yet"


class FakeNvml:
    """An NVIDIA driver with one GPU; `NVMLError` is what it raises for any other."""

    class NVMLError(Exception): ...

    def __init__(self, used: int, **held: int | None) -> None:
        self.used, self.held, self.fails = used, held, False

    def nvmlInit(self) -> None: ...  # noqa: N802

    def nvmlDeviceGetHandleByIndex(self, index: int) -> int:  # noqa: N802
        if index:
            raise self.NVMLError("Invalid Argument")
        return index

    def nvmlDeviceGetMemoryInfo(self, handle: int) -> SimpleNamespace:  # noqa: N802
        if self.fails:
            raise self.NVMLError("GPU is lost")
        return SimpleNamespace(used=self.used)

    def nvmlDeviceGetComputeRunningProcesses(self, handle: int) -> list[SimpleNamespace]:  # noqa: N802
        return [
            SimpleNamespace(pid=int(pid[1:]), usedGpuMemory=used) for pid, used in self.held.items()
        ]


def test_memory_of_a_gpu_less_what_is_served_there() -> None:
    nvml = FakeNvml(9000, p7=4000, p8=100)
    assert meters.gpu(0, nvml=nvml)() == 9000
    assert meters.gpu(0, [7], nvml)() == 5000
    with pytest.raises(DataUnavailable, match="GPU 1 cannot be read"):
        meters.gpu(1, nvml=nvml)
    with pytest.raises(DataUnavailable, match="leave out --less"):
        meters.gpu(0, [7], FakeNvml(9000, p7=None))
    meter = meters.gpu(0, nvml=nvml)
    nvml.fails = True
    with pytest.raises(DataUnavailable, match="cannot be read any more"):
        meter()


def record(*arguments: str) -> list[str]:
    return [sys.executable, "-m", "rapgym", "record", "--json", "--quiet", *arguments]


def until_it_holds(process: subprocess.Popen[str], path: Path, rows: int) -> None:
    """Wait until a work file holds so many rows."""
    while not path.exists() or path.read_bytes().count(b"\n") < rows + 2:
        assert process.poll() is None, told(process)
        time.sleep(0.02)


@pytest.mark.parametrize("ending", [signal.SIGTERM, signal.SIGINT])
def test_the_command_makes_a_trace_of_what_it_has_when_it_is_ended(
    tmp_path: Path, ending: signal.Signals
) -> None:
    out = tmp_path / "memory.csv.gz"
    process = started(*record("--out", str(out), "--interval", "0.02"))
    until_it_holds(process, work_path(out), 3)
    process.send_signal(ending)
    summary = json.loads(told(process))
    assert process.returncode == 0
    found = read_memory(out, "")
    assert summary["rows"] == len(found) >= 3
    assert (summary["source"], summary["interval_s"], summary["damaged_rows"]) == (
        "system",
        0.02,
        0,
    )
    assert summary["max_bytes"] == found.used_bytes.max() > 0
    assert found.start_wall_s == pytest.approx(time.time(), abs=3600)
    assert list(tmp_path.iterdir()) == [out]


def test_the_command_finishes_what_a_killed_one_left(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "memory.csv"
    process = started(*record("--out", str(out), "--interval", "0.02"))
    until_it_holds(process, work_path(out), 3)
    process.kill()
    told(process)
    assert not out.exists()
    assert cli.main(["record", "--out", str(out), "--finish", "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["rows"] == len(read_memory(out, "")) >= 3
    assert cli.main(["record", "--out", str(out), "--finish"]) == 2
    assert "no unfinished recording" in capsys.readouterr().err


def test_the_command_records_a_process_until_it_ends(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    out = tmp_path / "process.csv"
    held = f"held = bytearray({64 << 20}); print(flush=True); input()"
    process = subprocess.Popen(
        [sys.executable, "-c", held], stdin=subprocess.PIPE, stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    recorder = started(*record("--out", str(out), "--interval", "0.02", "--pid", str(process.pid)))
    until_it_holds(recorder, work_path(out), 2)
    process.communicate("\n")
    summary = json.loads(told(recorder))
    assert recorder.returncode == 0
    assert 64 << 20 <= summary["max_bytes"] < 96 << 20
    assert (
        cli.main(["record", "--out", str(out.with_name("x.csv")), "--pid", str(process.pid)]) == 2
    )
    assert f"no process {process.pid}" in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == [out]


@pytest.mark.parametrize(
    ("arguments", "complaint"),
    [
        (["--proxy", "8001"], "go together"),
        (["--upstream", "http://localhost:1"], "go together"),
        (["--less", "1", "--pid", "1"], "--less is for"),
        (["--seconds", "0"], "--seconds above 0"),
    ],
)
def test_the_command_says_what_does_not_go_together(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], arguments: list[str], complaint: str
) -> None:
    assert cli.main(["record", "--out", str(tmp_path / "t.csv"), *arguments]) == 2
    assert complaint in capsys.readouterr().err
    assert list(tmp_path.iterdir()) == []
