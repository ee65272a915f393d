"""Files from elsewhere: damaged, enormous or lying ones are refused by our own errors, and no others."""

import contextlib
import gzip
import io
import json
import lzma
import tracemalloc
import zipfile
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from hostile_files import KINDS, toy_results, write_all
from hypothesis import given, settings
from hypothesis import strategies as st
from plain_records import score_of

from rapgym.audit import replay as audit_replay
from rapgym.bench import results
from rapgym.errors import RapgymError
from rapgym.files import headed, limits
from rapgym.model import profiles
from rapgym.policies import registry, trained
from rapgym.quality import table as quality_table
from rapgym.recorder import work_file
from rapgym.report import bench as bench_report
from rapgym.scenarios import catalogue, worlds
from rapgym.scenarios.story import Scenario
from rapgym.workload import series, trace
from rapgym.workload.inputs import requests

MIB = 1 << 20


@pytest.fixture(scope="module")
def folder(toy_story: Scenario, tmp_path_factory: pytest.TempPathFactory) -> Path:
    found = tmp_path_factory.mktemp("hostile")
    write_all(found, toy_story)
    return found


@pytest.fixture(autouse=True)
def settings_lie_here(folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("RAPGYM_CACHE", str(folder / "hostile"))


def read(kind: str, folder: Path, content: bytes) -> Any:
    """Read a file of this content; our own errors alone may leave."""
    place = folder / "hostile"
    place.mkdir(exist_ok=True)
    path = place / KINDS[kind].name
    path.write_bytes(content)
    try:
        return KINDS[kind].read(path)
    except RapgymError:
        return None


@pytest.mark.parametrize("kind", KINDS)
def test_an_undamaged_file_is_read(kind: str, folder: Path) -> None:
    assert KINDS[kind].read is not None
    path = folder / "hostile" / KINDS[kind].name
    path.parent.mkdir(exist_ok=True)
    path.write_bytes((folder / KINDS[kind].name).read_bytes())
    KINDS[kind].read(path)


@pytest.mark.parametrize("kind", KINDS)
def test_a_damaged_file_gives_our_own_errors_and_no_others(kind: str, folder: Path) -> None:
    content = (folder / KINDS[kind].name).read_bytes()

    @given(KINDS[kind].damaged(content))
    @settings(max_examples=80)
    def damaged_files_are_read_or_refused(found: bytes) -> None:
        read(kind, folder, found)

    damaged_files_are_read_or_refused()


@pytest.mark.parametrize("kind", KINDS)
@given(content=st.binary(max_size=200))
@settings(max_examples=20)
def test_any_bytes_at_all(kind: str, folder: Path, content: bytes) -> None:
    read(kind, folder, content)


@pytest.mark.parametrize("kind", KINDS)
def test_a_folder_or_nothing_in_place_of_a_file(
    kind: str, tmp_path: Path, monkeypatch: Any
) -> None:
    monkeypatch.setenv("RAPGYM_CACHE", str(tmp_path))
    path = tmp_path / KINDS[kind].name
    for _ in range(2):
        with contextlib.suppress(RapgymError):
            KINDS[kind].read(path)
        path.mkdir(exist_ok=True)


@pytest.mark.parametrize("kind", KINDS)
def test_json_that_is_nested_without_end(kind: str, folder: Path) -> None:
    nested = b'{"schema": 1, "kind": ' + b"[" * 200_000
    text = b"# " + nested + b"\n1,2\n" if "json" not in KINDS[kind].name else nested
    for content in (text, gzip.compress(text), lzma.compress(text)):
        read(kind, folder, content)


BOMB = b"0" * (40 * MIB)  # packs into 40 KiB


@pytest.mark.parametrize("pack", [gzip.compress, lambda text: lzma.compress(text, preset=0)])
@pytest.mark.parametrize("head", [b"", b"# {}\n"])
def test_what_unpacks_without_end_is_refused_before_it_is_there(
    head: bytes, pack: Any, monkeypatch: pytest.MonkeyPatch
) -> None:
    content = pack(head + BOMB)
    tracemalloc.start()
    with pytest.raises(ValueError, match=r"too large|longer than"):
        headed.unpack(content, MIB, 1000)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 8 * MIB


def test_traces_and_logs_that_unpack_without_end_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    bomb = tmp_path / "bomb.csv.gz"
    bomb.write_bytes(gzip.compress(b"t_s,used_bytes\n" + b"0,0\n" * (2 * MIB)))
    monkeypatch.setattr(limits, "CSV", MIB)
    with pytest.raises(RapgymError, match="1 MiB unpacked"):
        trace.read_memory(bomb, "bomb")
    bomb.write_bytes(gzip.compress(BOMB))
    monkeypatch.setattr(limits, "ACCESS_ENDLESS", 12 * MIB)
    tracemalloc.start()
    with pytest.raises(RapgymError, match="has no end"):
        requests.read(bomb)
    taken = tracemalloc.get_traced_memory()[1]
    tracemalloc.stop()
    assert taken < 32 * MIB, "a line without end is read in pieces"


def test_more_cells_and_requests_than_memory_holds_are_refused(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = tmp_path / "long.csv"
    path.write_text("t_s,used_bytes\n" + "".join(f"{i},1\n" for i in range(100)))
    monkeypatch.setattr(limits, "CSV_CELLS", 100)
    with pytest.raises(RapgymError, match="more than 100 cells"):
        trace.read_memory(path, "long")
    log = tmp_path / "log.jsonl"
    line = {"timestamp": 1, "prompt_tokens": 1, "completion_tokens": 1}
    log.write_text((json.dumps(line) + "\n") * 30)
    monkeypatch.setattr(limits, "ACCESS_REQUESTS", 20)
    with pytest.raises(RapgymError, match="more than 20 requests"):
        requests.read(log)


def npz(**entries: bytes) -> bytes:
    """An archive of these members, deflated."""
    buffer = io.BytesIO()
    with zipfile.ZipFile(buffer, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in entries.items():
            archive.writestr(f"{name}.npy", content)
    return buffer.getvalue()


def test_a_trained_policy_that_unpacks_without_end_or_holds_objects_is_refused(
    folder: Path,
) -> None:
    pickled = io.BytesIO()
    np.save(pickled, np.array([{"a": 1}], dtype=object), allow_pickle=True)
    for content in (npz(header=BOMB), npz(header=pickled.getvalue()), npz(header=b"")):
        assert read("trained", folder, content) is None


HOSTILE_NAMES = ["../../etc/passwd", "/etc/passwd", "..", ".", "", "a\x00b", "a" * 5000, "con\n",
                 "~root/x", "<script>", "\x1b[2J", "file:///etc/passwd", "http://localhost/x"]  # fmt: skip


@pytest.mark.parametrize("name", HOSTILE_NAMES, ids=ascii)
def test_no_name_leads_out_of_its_folder_or_ends_in_anothers_error(name: str) -> None:
    readers: list[Any] = [
        catalogue.scenario,
        lambda name: registry.build(
            registry.entry(name), {}
        ),  # a module is looked for by name alone
        trained.path_of,
        profiles.read,
        quality_table.QualityTable.load,
        lambda name: quality_table.QualityTable.load(f"{name}.csv.gz"),
        lambda name: trained.path_of(f"{name}.npz"),
        lambda name: trained.read(Path(name)),
        lambda name: profiles.read(f"{name}.json"),
        lambda name: series.read(Path(name)),
        lambda name: results.read(Path(name)),
        lambda name: trace.read_memory(Path(name), "m"),
        lambda name: requests.read(Path(name)),
        lambda name: work_file.finish(Path(name)),
        lambda name: audit_replay.verified(Path(name)),
        lambda name: worlds.workload(catalogue.scenario(f"laptop[memory={name}]")),
    ]
    for reader in readers:
        with pytest.raises(RapgymError):
            reader(name)


def test_a_file_of_a_training_run_chooses_no_code(
    folder: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Policies that are Python run only when the user names them: not when a file does."""
    run = trained.read(folder / "policy.npz")
    (tmp_path / "stolen.py").write_text("raise SystemExit('this must not run')\n")
    monkeypatch.syspath_prepend(str(tmp_path))
    monkeypatch.chdir(tmp_path)
    for method in ("stolen:Policy", "itself.npz", "frontier"):
        trained.write(tmp_path / "itself.npz", replace(run, method=method))
        with pytest.raises(RapgymError, match="does not train"):
            registry.entry("itself.npz")


@pytest.mark.parametrize("name", ["<script>alert(1)</script>", "a|b", "`x`", "<img src=x>"])
def test_names_of_a_file_are_no_markup_in_a_page(name: str) -> None:
    entry = score_of(name, scenario=name, kind=name)
    page = bench_report.markdown([entry])
    assert name not in page
    assert "<script" not in page
    assert "<img" not in page


@pytest.mark.parametrize("name", ["\x1b[2J", "a\nb", "", "x" * 5000, 7, None])
def test_a_results_file_names_policies_in_plain_text(
    name: Any, toy_story: Scenario, tmp_path: Path
) -> None:
    found = toy_results(toy_story)
    (cell,) = found.cells
    about = replace(cell.about, policy=name)
    path = tmp_path / "results.csv.gz"
    results.write(path, replace(found, cells=(replace(cell, about=about),)))
    with pytest.raises(RapgymError, match=r"printable|not text"):
        results.read(path)
