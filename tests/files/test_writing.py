"""What rapgym writes is whole or not there, says why it is not, and leaves nothing of a killed run."""

import errno
import os
import resource
import subprocess
import sys
import textwrap
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest

from rapgym.errors import DataUnavailable, InvalidSpec, RapgymError, Unwritable
from rapgym.files import writing
from rapgym.files.writing import written_aside
from rapgym.recorder.work_file import WorkFile
from rapgym.workload import trace


def in_small_files(body: str, *arguments: Path) -> subprocess.CompletedProcess[str]:
    """Run Python in a process whose files may have 4 KiB: as on a disk that is full."""
    return subprocess.run(
        [sys.executable, "-c", textwrap.dedent(body), *map(str, arguments)],
        capture_output=True,
        text=True,
        preexec_fn=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (4096, 4096)),
    )


LARGE = """
    import sys
    from pathlib import Path
    from rapgym.errors import Unwritable
    from rapgym.files.writing import written_aside
    try:
        with written_aside(Path(sys.argv[1])) as file:
            file.write(bytes(100_000))
    except Unwritable as error:
        print(error)
"""


def test_a_full_disk_is_told_with_path_and_remedy_and_leaves_what_was_there(tmp_path: Path) -> None:
    path = tmp_path / "table.csv.gz"
    path.write_bytes(b"before")
    done = in_small_files(LARGE, path)
    assert done.stdout.startswith(f"{path} cannot be written (File too large): raise the limit")
    assert done.stdout.count("\n") == 1
    assert done.stderr == ""
    assert path.read_bytes() == b"before"
    assert [each.name for each in tmp_path.iterdir()] == ["table.csv.gz"]


@pytest.mark.parametrize(
    ("code", "remedy"), [(errno.ENOSPC, "free some space on its disk"), (errno.EIO, "name another")]
)
def test_a_disk_that_fails_at_the_end_is_told_too(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, code: int, remedy: str
) -> None:
    def fails(number: int) -> None:
        raise OSError(code, os.strerror(code))

    monkeypatch.setattr(os, "fsync", fails)
    path = tmp_path / "m.csv.gz"
    samples = trace.MemoryTrace("m", np.arange(5.0), np.arange(5))
    with pytest.raises(Unwritable) as refused:
        trace.write_memory(samples, path)
    assert str(path) in str(refused.value)
    assert remedy in str(refused.value)
    assert refused.value.errno == code
    assert not list(tmp_path.iterdir())


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write anywhere")
def test_a_folder_that_may_not_be_written_to_is_told(tmp_path: Path) -> None:
    tmp_path.chmod(0o500)
    with (
        pytest.raises(Unwritable, match="in a folder that you may write to"),
        written_aside(tmp_path / "a"),
    ):
        pass


def test_no_permission_is_told_with_a_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def denied(**names: Any) -> Any:
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(names["dir"]))

    monkeypatch.setattr(writing, "NamedTemporaryFile", denied)
    with (
        pytest.raises(Unwritable, match=r"Permission denied.*in a folder that you may write to"),
        written_aside(tmp_path / "a"),
    ):
        pass


@pytest.mark.parametrize("place", ["file/a", "file/b/a", "folder", "x" * 300])
def test_where_no_file_can_be_is_told(tmp_path: Path, place: str) -> None:
    (tmp_path / "file").write_text("")
    (tmp_path / "folder").mkdir()
    with pytest.raises(Unwritable) as refused, written_aside(tmp_path / place) as file:
        file.write(b"x")
    assert "cannot be written" in str(refused.value)
    assert sorted(each.name for each in tmp_path.iterdir()) == ["file", "folder"]
    assert not list((tmp_path / "folder").iterdir())


def test_what_is_not_of_this_file_keeps_its_own_error(tmp_path: Path) -> None:
    def missing(path: Path) -> None:
        (path / "elsewhere" / "source").read_bytes()

    def ours(path: Path) -> None:
        raise DataUnavailable("no weights")

    cases: tuple[tuple[Callable[[Path], None], type[Exception]], ...] = (
        (missing, FileNotFoundError), (ours, DataUnavailable))  # fmt: skip
    for raising, kind in cases:
        with pytest.raises(kind) as error, written_aside(tmp_path / "a"):
            raising(tmp_path)
        assert not isinstance(error.value, Unwritable)
    assert not list(tmp_path.iterdir())


def test_a_recording_on_a_full_disk_says_so_and_keeps_its_rows(tmp_path: Path) -> None:
    done = in_small_files(
        """
        import sys
        from pathlib import Path
        from rapgym.errors import Unwritable
        from rapgym.recorder.work_file import WorkFile
        with WorkFile(Path(sys.argv[1]), "memory", {}) as work:
            try:
                for second in range(10_000):
                    work.append(float(second), 1)
            except Unwritable as error:
                print(work.rows, error)
        """,
        tmp_path / "m.csv",
    )
    rows, words = done.stdout.split(" ", 1)
    assert "m.csv.recording cannot be written" in words
    from rapgym.recorder import work_file

    assert len(work_file.finish(tmp_path / "m.csv").trace) == int(rows) > 100


KILLED = """
    import os, signal, sys
    from pathlib import Path
    from rapgym.files.writing import written_aside
    with written_aside(Path(sys.argv[1])) as file:
        file.write(b"half")
        file.flush()
        if len(sys.argv) > 2:
            print("writing", flush=True)
            sys.stdin.read()
        os.kill(os.getpid(), signal.SIGKILL)
"""


def test_what_a_killed_writer_left_is_removed_by_the_next_who_says_so(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.csv.gz"
    subprocess.run([sys.executable, "-c", textwrap.dedent(KILLED), str(path)])
    (left,) = tmp_path.iterdir()
    other = tmp_path / f"other{left.name}"
    other.write_bytes(b"of another file")
    assert left.name.endswith(".partial")
    with written_aside(path) as file:
        file.write(b"whole")
    assert capsys.readouterr().err == f"removed {left}, which a run that was killed had left\n"
    assert {each.name for each in tmp_path.iterdir()} == {path.name, other.name}


def test_what_another_process_is_writing_is_left_alone(
    tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    path = tmp_path / "bench.csv.gz"
    with subprocess.Popen(
        [sys.executable, "-c", textwrap.dedent(KILLED), str(path), "wait"],
        stdin=subprocess.PIPE, stdout=subprocess.PIPE,
    ) as other:  # fmt: skip
        assert other.stdout is not None
        assert other.stdout.readline() == b"writing\n"
        with written_aside(path) as file:
            file.write(b"whole")
        assert len(list(tmp_path.glob("*.partial"))) == 1
        assert capsys.readouterr().err == ""


def test_nothing_is_overwritten_unasked(tmp_path: Path) -> None:
    path, link = tmp_path / "a", tmp_path / "link"
    writing.refuse_existing(path, "--out")
    path.write_text("")
    link.symlink_to("nowhere")
    for taken in (path, link):
        with pytest.raises(
            InvalidSpec, match=r"is there already: name another file with --out, or add"
        ):
            writing.refuse_existing(taken, "--out")
        writing.refuse_existing(taken, "--out", force=True)
    with pytest.raises(InvalidSpec, match="is a folder"):
        writing.refuse_existing(tmp_path, "--out", force=True)


def test_a_recording_into_no_folder_is_told(tmp_path: Path) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RapgymError, match="cannot be written"):
        WorkFile(tmp_path / "file" / "m.csv", "memory", {})
