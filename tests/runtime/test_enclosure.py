"""A limit that is enforced stops who goes over it, reports it, and touches nobody else."""

import errno
import os
import signal
import subprocess
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from rapgym.errors import InvalidSpec
from rapgym.runtime import probe
from rapgym.runtime.device import cgroup
from rapgym.runtime.device.enclosure import KINDS, Enclosure, out_of_memory
from rapgym.runtime.device.enclosure_forms import AllocatorForm, GroupForm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="limits are Linux's")
MIB = 2**20
LIMIT = 64 * MIB
GROUPS = ("cgroup-v2", "cgroup-v1")

# Takes as many MiB as each line says, and says how many bytes it holds or what refused them.
TAKER = """
import mmap, sys
held = []
for line in sys.stdin:
    try:
        held.append(mmap.mmap(-1, int(line) << 20, flags=mmap.MAP_PRIVATE | mmap.MAP_ANONYMOUS))
        for at in range(0, len(held[-1]), mmap.PAGESIZE):
            held[-1][at] = 1
        print(sum(map(len, held)), flush=True)
    except (OSError, MemoryError) as error:
        print("refused", flush=True)
"""


class Taker:
    """A process that takes memory as it is told."""

    def __init__(self, code: str = TAKER, *arguments: str) -> None:
        self.process = subprocess.Popen(
            [sys.executable, "-I", "-S", "-c", code, *arguments],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
            bufsize=1,
        )

    @property
    def pid(self) -> int:
        return self.process.pid

    def take(self, mib: int) -> str:
        """What it answers; nothing where it was killed."""
        assert self.process.stdin is not None
        assert self.process.stdout is not None
        self.process.stdin.write(f"{mib}\n")
        return self.process.stdout.readline().strip()


@contextmanager
def taker(code: str = TAKER, *arguments: str) -> Iterator[Taker]:
    found = Taker(code, *arguments)
    with found.process:
        try:
            yield found
        finally:
            found.process.kill()


def opened(kind: str, limit_bytes: int = LIMIT) -> Enclosure:
    try:
        return Enclosure.open(limit_bytes, kinds=[kind])
    except InvalidSpec as error:
        pytest.skip(str(error))


@pytest.fixture(params=GROUPS)
def group(request: pytest.FixtureRequest) -> Iterator[Enclosure]:
    with opened(request.param) as found:
        yield found


def path_of(enclosure: Enclosure) -> Path:
    assert isinstance(enclosure.form, GroupForm)
    assert enclosure.form._group is not None
    return enclosure.form._group.path


@pytest.mark.parametrize("kind", KINDS)
def test_who_stays_under_the_limit_is_untouched(kind: str) -> None:
    with opened(kind) as enclosure, taker() as process:
        assert 0 <= enclosure.add(process.pid) < 16 * MIB
        assert process.take(20) == str(20 * MIB)
        assert process.take(20) == str(40 * MIB)
        assert enclosure.exceeded() == 0
        enclosure.close()
        assert process.take(60) == str(100 * MIB), "free again"
        assert enclosure.exceeded() == 0


def test_who_goes_over_is_killed_by_a_group(group: Enclosure) -> None:
    with taker() as process, taker() as outside:
        group.add(process.pid)
        assert process.take(40) == str(40 * MIB)
        assert process.take(40) == ""
        assert process.process.wait() == -signal.SIGKILL
        assert group.exceeded() == 1
        assert outside.take(80) == str(80 * MIB), "who is not in it takes what it likes"
    group.close()
    assert group.exceeded() == 1, "told after closing too"


def test_a_group_counts_its_processes_together(group: Enclosure) -> None:
    with taker() as first, taker() as second:
        for process in (first, second):
            group.add(process.pid)
            assert process.take(25) == str(25 * MIB)
        assert isinstance(group.form, GroupForm)
        assert group.form.used_bytes() == pytest.approx(50 * MIB, abs=8 * MIB)
        answers = [first.take(25), second.take(1)]
        assert answers.count("") >= 1
        assert group.exceeded() >= 1


def test_a_limit_that_falls_below_what_is_held_stops_the_holder(group: Enclosure) -> None:
    with taker() as process:
        group.add(process.pid)
        process.take(40)
        group.limit(50 * MIB)
        assert process.process.poll() is None
        assert group.exceeded() == 0
        group.limit(24 * MIB)
        assert process.process.wait() == -signal.SIGKILL
        assert group.exceeded() == 1
    with taker() as process:
        group.limit(96 * MIB)
        group.add(process.pid)
        assert process.take(80) == str(80 * MIB), "raised again"
        assert group.exceeded() == 1


FILES = """
import os, sys
chunk = os.urandom(1 << 20)
for line in sys.stdin:
    with open(sys.argv[1], "wb") as file:
        for _ in range(int(line)):
            file.write(chunk)
    with open(sys.argv[1], "rb") as file:
        read = 0
        while part := file.read(1 << 20):
            read += len(part)
    print(read, flush=True)
"""


def test_page_cache_does_not_count_as_exceeding(group: Enclosure, tmp_path: Path) -> None:
    on = subprocess.run(
        ["stat", "-f", "-c", "%T", str(tmp_path)], capture_output=True, text=True, check=True
    )
    if on.stdout.strip() == "tmpfs":
        pytest.skip("files in memory are no page cache")
    with taker(FILES, str(tmp_path / "file")) as process:
        group.add(process.pid)
        assert process.take(3 * LIMIT // MIB) == str(3 * LIMIT)
        assert group.exceeded() == 0
        names = ("memory.max_usage_in_bytes", "memory.peak")
        peaks = [
            int(path.read_text()) for name in names if (path := path_of(group) / name).exists()
        ]
        assert all(peak > 0.9 * LIMIT for peak in peaks), "the cache did fill the group"
        group.limit(LIMIT // 4)  # what is cached is in nobody's way
        assert process.process.poll() is None
        assert group.exceeded() == 0


def test_swap_does_not_widen_a_group(group: Enclosure) -> None:
    path = path_of(group)
    for limit_bytes in (LIMIT, 2 * LIMIT, LIMIT // 2):
        group.limit(limit_bytes)
        if (whole := path / "memory.memsw.limit_in_bytes").exists():
            assert int(whole.read_text()) == limit_bytes
    for name in ("memory.swap.max", "memory.swappiness"):
        if (path / name).exists():
            assert int((path / name).read_text()) == 0


def test_a_closed_group_is_gone_and_its_processes_live(group: Enclosure) -> None:
    path = path_of(group)
    with taker() as process:
        group.add(process.pid)
        assert str(process.pid) in (path / "cgroup.procs").read_text().split()
        group.close()
        group.close()
        assert not path.exists()
        assert process.take(1) == str(MIB)
    with pytest.raises(InvalidSpec, match="closed"):
        group.limit(LIMIT)


def test_an_error_removes_the_group() -> None:
    kind = next((each for each in GROUPS if available(each)), None)
    if kind is None:
        pytest.skip("no group may be made here")
    enclosure = opened(kind)
    path = path_of(enclosure)
    with pytest.raises(ZeroDivisionError), enclosure:
        raise ZeroDivisionError
    assert not path.exists()


def available(kind: str) -> bool:
    try:
        Enclosure.open(LIMIT, kinds=[kind]).close()
    except InvalidSpec:
        return False
    return True


# Encloses a process of its own, says where, and waits for its end; in a group to begin with.
OWNER = """
import os, subprocess, sys, time
from rapgym.runtime.device.enclosure import Enclosure
if sys.argv[2]:
    open(sys.argv[2] + "/cgroup.procs", "w").write(str(os.getpid()))
enclosure = Enclosure.open(64 << 20, kinds=[sys.argv[1]])
inside = subprocess.Popen(["sleep", "600"])
enclosure.add(inside.pid)
print(enclosure.form._group.path, inside.pid, flush=True)
time.sleep(600)
"""


@contextmanager
def owner(kind: str, start: str = "") -> Iterator[tuple[subprocess.Popen[str], Path, int]]:
    opened(kind).close()  # skips where there is none
    with subprocess.Popen(
        [sys.executable, "-c", OWNER, kind, start], stdout=subprocess.PIPE, text=True
    ) as process:
        assert process.stdout is not None
        path, inside = process.stdout.readline().split()
        try:
            yield process, Path(path), int(inside)
        finally:
            process.kill()
            os.kill(int(inside), signal.SIGKILL)


def alive(pid: int) -> bool:
    try:
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] != "Z"
    except OSError:
        return False


@pytest.mark.parametrize("kind", GROUPS)
@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGHUP])
def test_a_signal_removes_the_group(kind: str, number: signal.Signals) -> None:
    with owner(kind) as (process, path, inside):
        assert path.exists()
        process.send_signal(number)
        assert process.wait() == -number, "it ends as it would have without a group"
        assert not path.exists()
        assert alive(inside)


@pytest.mark.parametrize("kind", GROUPS)
def test_the_next_run_removes_what_a_killed_one_left(kind: str) -> None:
    with owner(kind) as (process, path, inside), opened(kind) as other:
        assert path.exists(), "a living run's group stays"
        process.kill()
        process.wait()
        assert path.exists()
        with opened(kind):
            assert not path.exists()
            assert alive(inside)
        assert path_of(other).exists()


def test_what_was_left_in_another_group_is_removed_too() -> None:
    opened("cgroup-v1").close()
    home = cgroup.places(1)[0].parent
    beside = home.parent / f"beside-{os.getpid()}"
    if not (home.parent / "cgroup.procs").exists():
        pytest.skip("there is no group above this one")
    beside.mkdir()
    try:
        with owner("cgroup-v1", str(beside)) as (process, path, inside):
            assert path.parent == beside, "as of a run that was started elsewhere"
            with opened("cgroup-v1"):
                assert path.exists(), "a living run's group stays"
            process.kill()
            process.wait()
            with opened("cgroup-v1"):
                assert not path.exists()
            assert alive(inside)
            assert str(inside) in (beside / "cgroup.procs").read_text().split(), "back where it was"
    finally:
        cgroup._remove(beside, home)


FORK = """
import os, signal, sys
from rapgym.runtime.device.enclosure import Enclosure
with Enclosure.open(64 << 20, kinds=[sys.argv[1]]) as enclosure:
    for ending in ("enclosure.close(); os._exit(0)", "os.kill(os.getpid(), signal.SIGTERM)"):
        if not (pid := os.fork()):
            exec(ending)
        os.waitpid(pid, 0)
        print(enclosure.form._group.path.exists())
"""


@pytest.mark.parametrize("kind", GROUPS)
def test_a_forked_process_does_not_remove_the_group(kind: str) -> None:
    opened(kind).close()
    found = subprocess.run(
        [sys.executable, "-c", FORK, kind], capture_output=True, text=True, check=True
    )
    assert found.stdout.split() == ["True", "True"]


def test_rlimit_refuses_and_leaves_alive() -> None:
    with opened("rlimit-data") as enclosure, taker() as process:
        enclosure.add(process.pid)
        assert process.take(40) == str(40 * MIB)
        assert process.take(40) == "refused"
        assert process.take(10) == str(50 * MIB), "what is under the limit is still given"
        enclosure.limit(30 * MIB)
        assert enclosure.exceeded() == 1, "it holds more than it may"
        assert process.take(1) == "refused"
        enclosure.limit(120 * MIB)
        assert process.take(40) == str(90 * MIB)
        with pytest.raises(InvalidSpec, match="one process"):
            enclosure.add(os.getpid())


# A process that encloses itself, as a replay does.
SELF = """
import os, mmap, sys
from rapgym.runtime.device.enclosure import Enclosure
from rapgym.runtime import probe
with Enclosure.open(probe.anonymous_bytes() + (48 << 20), kinds=["rlimit-data"]) as enclosure:
    enclosure.add(os.getpid())
    with enclosure.watched():
        held = bytearray(32 << 20)
    print(enclosure.exceeded())
    try:
        with enclosure.watched():
            more = bytearray(32 << 20)
    except MemoryError:
        print(enclosure.exceeded())
    try:
        with enclosure.watched():
            raise ValueError("no matter of memory")
    except ValueError:
        print(enclosure.exceeded())
more = bytearray(32 << 20)
print(enclosure.exceeded())
"""


def test_a_process_under_its_own_rlimit_counts_what_was_refused() -> None:
    opened("rlimit-data").close()
    found = subprocess.run([sys.executable, "-c", SELF], capture_output=True, text=True, check=True)
    assert found.stdout.split() == ["0", "1", "1", "1"]


def test_refusals_are_told_from_other_errors() -> None:
    torch = pytest.importorskip("torch")
    with pytest.raises(RuntimeError) as refused:
        torch.empty(1 << 60, dtype=torch.uint8)
    assert out_of_memory(refused.value)
    assert out_of_memory(torch.cuda.OutOfMemoryError("CUDA out of memory."))
    assert out_of_memory(MemoryError())
    assert out_of_memory(OSError(errno.ENOMEM, "Cannot allocate memory"))
    assert not out_of_memory(OSError(errno.ENOENT, "no file"))
    assert not out_of_memory(RuntimeError("shapes do not match"))


@pytest.mark.parametrize("kind", KINDS)
def test_who_is_gone_cannot_be_enclosed(kind: str) -> None:
    with opened(kind) as enclosure:
        with taker() as process:
            pass
        with pytest.raises(InvalidSpec, match=str(process.pid)):
            enclosure.add(process.pid)
        with pytest.raises(InvalidSpec, match="positive"):
            enclosure.limit(0)


def test_where_nothing_is_offered_the_reasons_are_told(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(cgroup, "places", lambda version: [])
    with pytest.raises(InvalidSpec, match="no memory controller"):
        Enclosure.open(LIMIT, kinds=GROUPS)
    with Enclosure.open(LIMIT) as enclosure:
        assert enclosure.kind == "RLIMIT_DATA of one process"


MOUNT = "31 23 0:28 {root} {at} rw,relatime shared:9 - {kind} {kind} rw,{options}\n"


def test_groups_of_version_1_go_into_the_own_one(tmp_path: Path) -> None:
    (tmp_path / "job" / "7").mkdir(parents=True)
    mounts = MOUNT.format(root="/", at=tmp_path / "cpu", kind="cgroup", options="cpu")
    mounts += MOUNT.format(root="/", at=tmp_path, kind="cgroup", options="memory")
    own = "5:cpu:/else\n4:memory:/job/7\n0::/\n"
    inner = tmp_path / "job" / "7"
    assert cgroup.places(1, mounts, own) == [cgroup.Place(1, inner, inner)]
    assert cgroup.places(2, mounts, own) == []
    # In a container the own group is what is mounted, under the host's name for it.
    mounts = MOUNT.format(root="/docker/ab", at=tmp_path, kind="cgroup", options="memory")
    for own in ("4:memory:/docker/ab\n", "4:memory:/\n"):
        assert cgroup.places(1, mounts, own) == [cgroup.Place(1, tmp_path, tmp_path)]


def test_groups_of_version_2_go_where_the_controller_is_handed_down(tmp_path: Path) -> None:
    own_group = tmp_path / "user.slice" / "app.slice" / "shell.scope"
    own_group.mkdir(parents=True)
    for path, controllers in (
        (tmp_path, "cpu memory"),
        (tmp_path / "user.slice", "pids"),
        (own_group.parent, "memory pids"),
        (own_group, ""),
    ):
        (path / "cgroup.subtree_control").write_text(controllers + "\n")
    mounts = MOUNT.format(root="/", at=tmp_path, kind="cgroup2", options="nsdelegate")
    found = cgroup.places(2, mounts, "0::/user.slice/app.slice/shell.scope\n")
    assert [place.parent for place in found] == [own_group.parent, tmp_path]
    assert {place.home for place in found} == {own_group}


class FakeAllocator:
    """A device, of 1 GiB by default, whose allocator holds what it is told."""

    def __init__(self, total: int = 1024 * MIB) -> None:
        self.total, self.held, self.share, self.refused = total, 0, 1.0, 3

    def total_bytes(self) -> int:
        return self.total

    def reserved_bytes(self) -> int:
        return self.held

    def allow(self, share: float) -> None:
        self.share = share

    def refusals(self) -> int:
        return self.refused

    def take(self, count: int) -> None:
        if self.held + count > int(self.share * self.total_bytes()):
            self.refused += 1
            raise RuntimeError("CUDA out of memory. Tried to allocate")
        self.held += count


def test_an_allocators_limit_refuses_and_is_lifted_in_the_end() -> None:
    device = FakeAllocator()
    with Enclosure(AllocatorForm(LIMIT, device)) as enclosure:
        assert enclosure.add(os.getpid()) == 0
        device.take(LIMIT)
        assert enclosure.exceeded() == 0, "what was refused before is not ours"
        with pytest.raises(RuntimeError), enclosure.watched():
            device.take(1)
        assert enclosure.exceeded() == 1
        enclosure.limit(LIMIT // 2)
        assert enclosure.exceeded() == 2, "it holds more than it may"
        with pytest.raises(InvalidSpec, match="no other"):
            enclosure.add(os.getpid() + 1)
        with pytest.raises(InvalidSpec, match="less than a limit"):
            enclosure.limit(2048 * MIB)
    assert device.share == 1.0
    device.refused += 1
    assert enclosure.exceeded() == 2


def test_an_allocators_limit_is_exact_whatever_the_device_has() -> None:
    total = 85_028_503_552  # of which the share of many a limit, multiplied back, is one byte short
    limits = range(2 * MIB, total, 514 * MIB)
    assert any(int(limit / total * total) < limit for limit in limits)
    for limit in (*limits, total):
        device = FakeAllocator(total)
        with Enclosure(AllocatorForm(limit, device)):
            device.take(limit)
            with pytest.raises(RuntimeError):
                device.take(1)


@pytest.mark.parametrize("kind", KINDS)
def test_what_a_process_held_before_is_told(kind: str) -> None:
    with opened(kind, 256 * MIB) as enclosure, taker() as process:
        process.take(32)
        held = enclosure.add(process.pid)
        assert held == pytest.approx(probe.anonymous_bytes(process.pid), abs=MIB)
        assert held >= 32 * MIB
