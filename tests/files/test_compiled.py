"""Compiled functions are kept beside their source, in the user's cache, or not at all; they answer in each case."""

import importlib.util
import os
import subprocess
import sys
from contextlib import ExitStack
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from numba import njit
from numba.core import caching, config
from numba.core.errors import NumbaError

from rapgym.files import compiling
from rapgym.files.compiled import inlined, uncounted

SOURCE = """
from rapgym.files.compiled import compiled


@compiled
def twice(value):
    return 2 * value
"""


def module_of(folder: Path, source: str = SOURCE) -> Any:
    path = folder / "doubled.py"
    path.write_text(source)
    spec = importlib.util.spec_from_file_location("doubled", path)
    assert spec is not None
    assert spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


def read_only(self: Any) -> None:
    raise OSError(30, "Read-only file system")


def kept_in(folder: Path) -> list[Path]:
    return [*folder.rglob("doubled.twice*.nbi")]


@pytest.fixture
def installed(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A folder to install in, and a user's cache beside it."""
    monkeypatch.delenv("NUMBA_CACHE_DIR", raising=False)
    monkeypatch.setattr(config, "CACHE_DIR", "")
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "cache"))
    (tmp_path / "installed").mkdir()
    return tmp_path / "installed"


def test_what_is_compiled_is_kept_beside_its_source(installed: Path) -> None:
    waited_s = compiling.waited_s()
    assert module_of(installed).twice(3) == 6
    assert kept_in(installed)
    assert compiling.waited_s() > waited_s


def test_of_a_read_only_install_it_is_kept_in_the_users_cache(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(caching.InTreeCacheLocator, "ensure_cache_path", read_only)
    assert module_of(installed).twice(3) == 6
    assert not kept_in(installed)
    assert kept_in(installed.parent / "cache")


def test_where_nothing_can_be_written_it_is_compiled_anew(
    installed: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    for locator in (caching.InTreeCacheLocator, caching.UserWideCacheLocator):
        monkeypatch.setattr(locator, "ensure_cache_path", read_only)
    waited_s = compiling.waited_s()
    assert module_of(installed).twice(3) == 6
    assert not kept_in(installed.parent)
    assert compiling.waited_s() > waited_s, "a bench tells it from its cells' own time"


def added(numbers: Any) -> Any:
    total = 0
    for each in numbers:
        total += each
    return total


def added_aside(numbers: Any) -> Any:
    return numbers.copy().sum()


def added_beside(numbers: Any) -> Any:
    """Of its own: by what numba keeps the two ways cannot be told apart."""
    return numbers.copy().sum()


def test_what_allocates_nothing_need_not_count_who_holds_its_arrays() -> None:
    within = inlined(added)

    @njit
    def outer(numbers: Any) -> Any:
        return within(numbers)

    assert uncounted(added)(np.arange(4)) == outer(np.arange(4)) == 6
    for way in (uncounted, inlined):
        with pytest.raises(NumbaError, match="NRT required"):
            way(added_aside)(np.arange(4))


def test_a_numba_that_knows_no_other_way_counts(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("rapgym.files.compiled.CPUTargetOptions", object)
    assert uncounted(added_beside)(np.arange(4)) == 6


def test_what_only_compiled_functions_call_has_no_way_in_from_python(installed: Path) -> None:
    source = SOURCE.replace("import compiled", "import compiled, inner").replace(
        "@compiled\ndef twice(value):", "@inner\ndef _sum(value):\n    return value + value\n\n\n"
        "@compiled\ndef twice(value):",
    ).replace("2 * value", "_sum(value)")  # fmt: skip
    module = module_of(installed, source)
    assert module.twice(3) == 6

    def ways_in(function: Any) -> list[str]:
        library = function.overloads[function.signatures[0]].library
        names = [each.name for each in library.get_defined_functions()]
        return [name for name in names if "cpython" in name]

    assert ways_in(module.twice)
    assert ways_in(module._sum) == []


ASKED = """
import sys
from doubled import twice

print("ready", flush=True)
sys.stdin.readline()
assert twice(3) == 6
print(sum(twice.stats.cache_misses.values()))
"""


def test_of_processes_that_want_it_at_the_same_time_one_compiles(installed: Path) -> None:
    (installed / "doubled.py").write_text(SOURCE)
    found = {**os.environ, "PYTHONPATH": os.pathsep.join([str(installed), *sys.path])}
    command, pipe = [sys.executable, "-c", ASKED], subprocess.PIPE
    with ExitStack() as ended:
        both: list[Any] = [
            ended.enter_context(
                subprocess.Popen(command, env=found, text=True, stdin=pipe, stdout=pipe)
            )
            for _ in range(2)
        ]
        assert [each.stdout.readline() for each in both] == ["ready\n"] * 2
        for each in both:
            each.stdin.write("\n")
            each.stdin.flush()
        assert sorted(each.communicate()[0] for each in both) == ["0\n", "1\n"]
