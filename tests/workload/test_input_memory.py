"""Samples of memory as nvidia-smi, DCGM and people write them: units, devices, what is missing."""

import json
import math
from pathlib import Path
from typing import Any

import pytest

from rapgym.errors import InvalidTrace
from rapgym.workload.inputs import formats, memory
from rapgym.workload.inputs.how import MISSING, REPEATED, UNREADABLE, How
from rapgym.workload.inputs.memory import Found
from rapgym.workload.trace import MemoryTrace, write_memory

MIB = 1 << 20
EPOCH_S = 1_790_000_000
SMI = """timestamp, memory.used [MiB]
2026/09/21 14:13:20.250, 1000 MiB
2026/09/21 14:13:21.250, [N/A]
2026/09/21 14:13:22.250, 2100 MiB
"""
TWO = """timestamp, index, uuid, memory.used [MiB], memory.total [MiB]
2026/09/21 14:13:20, 0, GPU-a, 1000 MiB, 46068 MiB
2026/09/21 14:13:20, 1, GPU-b, 22000 MiB, 46068 MiB
2026/09/21 14:13:21, 0, GPU-a, 1200 MiB, 46068 MiB
2026/09/21 14:13:21, 1, GPU-b, 22500 MiB, 46068 MiB
"""


def parse(text: str, **how: Any) -> Found:
    return memory.parse([text], "log", How(**{"timezone": "UTC"} | how))


def used(found: Found) -> list[tuple[float, float]]:
    return list(
        zip(found.memory.t_s.tolist(), (found.memory.used_bytes / MIB).tolist(), strict=True)
    )


def prometheus(*series: dict[str, Any], kind: str = "matrix") -> str:
    return json.dumps({"status": "success", "data": {"resultType": kind, "result": series}})


def dcgm(first: int = 20480, name: str = "DCGM_FI_DEV_FB_USED", **labels: str) -> dict[str, Any]:
    metric = {"__name__": name, "gpu": "0", "UUID": "GPU-a"} | labels
    return {"metric": {k: v for k, v in metric.items() if v}, "values": [
        [EPOCH_S, f"{first}"], [EPOCH_S + 15.5, f"{first + 512}"]]}  # fmt: skip


EXAMPLES: dict[str, tuple[str, list[tuple[float, float]], float | None]] = {
    "rapgym's own": ("t_s,used_bytes\n0,1048576\n1.5,2097152\n", [(0, 1), (1.5, 2)], None),
    "nvidia-smi": (SMI, [(0.25, 1000), (2.25, 2100)], EPOCH_S),
    "Prometheus range query": (prometheus(dcgm()), [(0, 20480), (15.5, 20992)], EPOCH_S),
    "JSON lines or CSV": ("Time;VRAM used (MiB)\n1790000000.5;1000\n1790000003;1000.5\n",
                          [(0.5, 1000), (3, 1000.5)], EPOCH_S),
}  # fmt: skip


def test_every_format_has_an_example() -> None:
    assert {*EXAMPLES} == {each.name for each in formats.MEMORY}


@pytest.mark.parametrize("name", EXAMPLES)
def test_each_format_is_read_and_named(name: str, tmp_path: Path) -> None:
    text, wanted, wall_s = EXAMPLES[name]
    (tmp_path / "log").write_text(text)
    found = memory.read(tmp_path / "log", How(timezone="UTC"))
    assert used(found) == wanted
    assert found.report.formats == {name: len(wanted)}
    known = None if math.isnan(found.memory.start_wall_s) else found.memory.start_wall_s
    assert known == wall_s


def test_series_alone_are_read_as_well() -> None:
    for text in (json.dumps([dcgm()]), json.dumps({"resultType": "matrix", "result": [dcgm()]})):
        assert used(parse(text)) == EXAMPLES["Prometheus range query"][1]


def test_missing_samples_are_counted() -> None:
    found = parse(SMI)
    assert found.report.left_out == {MISSING: 1}
    assert f"left out: 1 {MISSING}" in found.report.sentences()
    with pytest.raises(InvalidTrace, match=r"2 are \[N/A\].*MIG.*DCGM"):
        parse(SMI.replace("1000 MiB", "[N/A]").partition("2026/09/21 14:13:22")[0])
    nan = dcgm() | {"values": [[EPOCH_S, "20480"], [EPOCH_S + 1, "NaN"]]}
    assert parse(prometheus(nan)).report.left_out == {MISSING: 1}


def test_whose_memory_it_is_is_said() -> None:
    for text in (SMI, prometheus(dcgm())):
        assert any("--less PID" in line for line in parse(text).report.sentences())


def test_of_several_gpus_one_is_chosen() -> None:
    with pytest.raises(
        InvalidTrace, match=r"holds 2 GPUs: choose one with --gpu: 0, GPU-a \(2 samples\); 1"
    ):
        parse(TWO)
    for which in ("1", "GPU-b"):
        assert used(parse(TWO, gpu=which)) == [(0, 22000), (1, 22500)]
    with pytest.raises(InvalidTrace, match=r"holds no GPU '7': there are 0, GPU-a"):
        parse(TWO, gpu="7")


def test_parts_of_a_gpu_are_told_apart() -> None:
    parts = prometheus(dcgm(100, GPU_I_ID="1"), dcgm(7000, GPU_I_ID="2"))
    with pytest.raises(InvalidTrace, match="0:1, GPU-a"):
        parse(parts)
    assert used(parse(parts, gpu="0:2")) == [(0, 7000), (15.5, 7512)]
    whole = SMI.replace("[MiB]", "[MiB], mig.mode.current").replace(" MiB\n", " MiB, Enabled\n")
    found = parse(whole.replace("[N/A]\n", "[N/A], Enabled\n"))
    assert any("parted (MIG)" in line for line in found.report.sentences())


@pytest.mark.parametrize(
    ("column", "cell", "mib"),
    [("used_bytes", "1048576000", 1000), ("memory_used_mib", "1000", 1000), ("used_gib", "2.5", 2560),
     ("memory.used [MiB]", "1000", 1000), ("memory.used [MiB]", "2 GiB", 2048), ("used", "1024000 KiB", 1000),
     ("fb_used (GiB)", "1", 1024), ("used_mb", "1000", 1000)],
)  # fmt: skip
def test_units_stand_in_the_header_or_in_the_cells(column: str, cell: str, mib: float) -> None:
    assert used(parse(f"timestamp,{column}\n{EPOCH_S},{cell}\n")) == [(0, mib)]


def test_a_unit_that_is_not_told_is_asked_for() -> None:
    text = f"timestamp,used\n{EPOCH_S},1000\n"
    with pytest.raises(
        InvalidTrace, match=r"unit of its memory is not stated: add --unit B, KiB, MiB"
    ):
        parse(text)
    assert used(parse(text, units=("MiB",))) == [(0, 1000)]
    with pytest.raises(InvalidTrace, match="not stated"):
        parse(prometheus(dcgm(name="")))
    assert used(parse(prometheus(dcgm(name="")), units=("MiB",)))[0] == (0, 20480)
    assert used(parse(prometheus(dcgm(1 << 30, name="gpu_memory_used_bytes"))))[0] == (0, 1024)


def test_mib_where_bytes_are_due_are_refused(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text("t_s,used_bytes\n0,18763\n0.5,23550\n")
    with pytest.raises(InvalidTrace, match=r"23550, below a MiB: these may be MiB.*--unit MiB"):
        memory.read(path)
    assert used(memory.read(path, How(("MiB",)))) == [(0, 18763), (0.5, 23550)]


def test_epochs_in_our_own_columns_become_a_wall_clock(tmp_path: Path) -> None:
    path = tmp_path / "m.csv"
    path.write_text(f"t_s,used_bytes\n{EPOCH_S}.5,{5 * MIB}\n{EPOCH_S + 2},{6 * MIB}\n")
    found = memory.read(path)
    assert (used(found), found.memory.start_wall_s) == ([(0.5, 5), (2, 6)], EPOCH_S)
    assert any("seconds since 1970" in line for line in found.report.sentences())


def test_our_own_format_reads_back_as_it_was_written(tmp_path: Path) -> None:
    import numpy as np

    trace = MemoryTrace("m", np.array([7.0, 9.25]), np.array([5 * MIB, 6 * MIB]), start_wall_s=1e9)
    write_memory(trace, tmp_path / "m.csv.gz")
    found = memory.read(tmp_path / "m.csv.gz")
    assert used(found) == [(7, 5), (9.25, 6)], "second 0 is where it was"
    assert found.memory.start_wall_s == 1e9


def test_runs_of_nvidia_smi_that_were_appended_are_one() -> None:
    later = SMI.replace("14:13", "14:14")
    found = parse(SMI + later)
    assert used(found)[2:] == [(60.25, 1000), (62.25, 2100)]
    assert found.report.left_out == {MISSING: 2}, "their names of columns are no damage"


def test_order_and_repeats_are_mended_and_said() -> None:
    text = f"timestamp,used_mib\n{EPOCH_S + 9},3\n{EPOCH_S},5\n{EPOCH_S},7\nx,1\n"
    found = parse(text)
    assert used(found) == [(0, 7), (9, 3)], "of one instant the highest"
    assert found.report.left_out == {REPEATED: 1, UNREADABLE: 1}
    assert any("sorted" in line for line in found.report.sentences())


def test_json_objects_are_samples_too() -> None:
    entries = [{"ts": EPOCH_S + i, "gpu": 0, "memoryUsedMiB": 1000 + i} for i in range(2)]
    for text in (
        "".join(json.dumps(each) + "\n" for each in entries),
        json.dumps(entries, indent=1),
    ):
        assert used(parse(text)) == [(0, 1000), (1, 1001)]


@pytest.mark.parametrize(
    ("text", "says"),
    [
        ("timestamp,used_mib\n1790000000,1000,5\n", "a decimal comma makes two of one"),
        ("timestamp;used_mib\n1790000000;1000,5\n", "'1000,5' holds a comma"),
        ("arrival_s,prompt_tokens,output_tokens\n0,1,2\n", "these are requests, no memory"),
        ('{"timestamp": 0, "input_length": 3, "output_length": 4}\n', "these are requests, no memory"),
        ("timestamp, utilization.gpu [%]\n2026/09/21 14:13:20, 5 %\n",
         "found: timestamp, utilization_gpu; nearest format"),
        (prometheus(dcgm(name="DCGM_FI_DEV_FB_FREE")), "ask for DCGM_FI_DEV_FB_USED"),
        (prometheus(kind="vector"), "query_range"),
        (prometheus(), "no samples of memory in use"),
        ("2026/09/21 14:13:20, 1000 MiB\n", "run nvidia-smi without noheader"),
        ("", "no samples of memory in use"),
        ("timestamp,used_mib\n5,1000\n", "add --unit s, ms"),
    ],
)  # fmt: skip
def test_a_refusal_says_what_was_found_and_what_to_do(text: str, says: str) -> None:
    with pytest.raises(InvalidTrace, match=says) as error:
        parse(text)
    assert "\n" not in str(error.value)
