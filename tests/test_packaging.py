"""The package as a user gets it: built from a copy of the tree, installed outside any clone."""

import json
import os
import re
import shutil
import subprocess
import sys
import tarfile
import tomllib
import venv
import zipfile
from collections.abc import Iterator
from pathlib import Path

import pytest

from rapgym.policies import registry

pytestmark = pytest.mark.packaging

ROOT = Path(__file__).parents[1]
PRIVATE = {"PYTHONPATH", "RAPGYM_DATA", "RAPGYM_CACHE", "PYTHONWARNINGS"}
SIZE_LIMIT_BYTES = 10 << 20


def outside(*command: str | Path, folder: Path) -> str:
    """Run a command in `folder`, with nothing of this clone in its environment; its output."""
    environment = {name: value for name, value in os.environ.items() if name not in PRIVATE}
    done = subprocess.run(
        [str(word) for word in command],
        cwd=folder,
        env=environment | {"PIP_DISABLE_PIP_VERSION_CHECK": "1"},
        capture_output=True,
        text=True,
    )
    assert done.returncode == 0, f"{command}\n{done.stdout}\n{done.stderr}"
    return done.stdout


@pytest.fixture(scope="module")
def copy(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The tree as a clone has it, symlinks kept."""
    folder = tmp_path_factory.mktemp("clone") / "rapgym"
    hidden = shutil.ignore_patterns(".*", "__pycache__", "*.egg-info", "build", "dist", "results")
    shutil.copytree(ROOT, folder, symlinks=True, ignore=hidden)
    return folder


@pytest.fixture(scope="module")
def built(copy: Path) -> dict[str, Path]:
    """The sdist, and the wheel that is built from it."""
    dist = copy.parent / "dist"
    python_build = (sys.executable, "-m", "build", "--no-isolation")
    outside(*python_build, "--outdir", dist, copy, folder=copy.parent)
    (wheel,), (sdist,) = dist.glob("*.whl"), dist.glob("*.tar.gz")
    return {"wheel": wheel, "sdist": sdist}


@pytest.fixture(scope="module")
def names(built: dict[str, Path]) -> set[str]:
    with zipfile.ZipFile(built["wheel"]) as wheel:
        return {name for name in wheel.namelist() if not name.endswith("/")}


def environment(folder: Path, *wanted: str | Path) -> Path:
    """A new environment with `wanted` and what it depends on; its folder of programs."""
    venv.create(folder, with_pip=False, symlinks=os.name != "nt")
    programs = folder / ("Scripts" if os.name == "nt" else "bin")
    pip = (sys.executable, "-m", "pip", "--python", programs / "python", "install", "--quiet")
    outside(*pip, "-c", ROOT / "constraints.txt", *wanted, folder=folder)
    return programs


@pytest.fixture(scope="module")
def installed(built: dict[str, Path], tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    folder = tmp_path_factory.mktemp("installed")
    yield environment(folder / "env", built["wheel"])
    shutil.rmtree(folder)


def test_the_wheel_has_one_top_level_package(names: set[str]) -> None:
    top = {name.partition("/")[0] for name in names}
    assert {name for name in top if not name.endswith(".dist-info")} == {"rapgym"}


def test_the_wheel_has_every_file_of_the_package(names: set[str], copy: Path) -> None:
    """Modules, tables, series of the scenarios, settings of methods: all that is committed."""
    expected = {
        Path(folder, file).relative_to(copy).as_posix()
        for folder, _, files in os.walk(copy / "rapgym", followlinks=True)
        for file in files
        # Of the trained policies the wheel has the best method's alone.
        if "trained" not in Path(folder).parts or "hindsight" in Path(folder).parts
    }
    shipped = {name for name in names if name.startswith("rapgym/")}
    assert shipped == expected
    assert any(re.fullmatch(r"rapgym/tables/[^/]+\.csv\.gz", name) for name in names)
    assert any(re.fullmatch(r"rapgym/traces/[^/]+\.csv\.gz", name) for name in names)
    assert "rapgym/traces/README.md" in names, "attribution travels with the series"
    assert "rapgym/baselines/__init__.py" in names


def test_the_package_is_small(built: dict[str, Path]) -> None:
    assert {name: path.stat().st_size < SIZE_LIMIT_BYTES for name, path in built.items()} == {
        "wheel": True,
        "sdist": True,
    }


def test_the_sdist_holds_the_package_once(built: dict[str, Path], names: set[str]) -> None:
    with tarfile.open(built["sdist"]) as sdist:
        members = {m.name.partition("/")[2] for m in sdist.getmembers() if not m.isdir()}
        assert all(member.isfile() for member in sdist.getmembers() if not member.isdir())
    assert {name for name in names if name.startswith("rapgym/")} <= members
    assert not [name for name in members if name.startswith(("baselines/", "traces/"))]


def test_the_list_of_packages_is_that_of_the_folders() -> None:
    listed = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["packages"]
    folders = [ROOT / "rapgym", *(p for p in (ROOT / "rapgym").iterdir() if p.is_dir())]
    found = {
        ".".join(folder.relative_to(ROOT).parts) for folder in folders if list(folder.glob("*.py"))
    }
    assert set(listed) == found


def test_every_requirement_of_an_extra_is_pinned() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    extras = project["optional-dependencies"]
    wanted = [*project["dependencies"], *(r for e in extras if e != "ray" for r in extras[e])]
    names = {re.split(r"[\[<>=]", requirement)[0] for requirement in wanted} - {"rapgym"}
    lines = (ROOT / "constraints.txt").read_text().splitlines()
    pinned = {line.partition("==")[0].lower().replace("_", "-") for line in lines if "==" in line}
    assert names <= pinned


def test_the_installed_wheel_runs(installed: Path, tmp_path: Path) -> None:
    assert "commands" in outside(installed / "rapgym", "--help", folder=tmp_path)
    assert "example" in outside(installed / "rapgym", "bench", "--help", folder=tmp_path)
    where = "import rapgym, rapgym.baselines; print(rapgym.baselines.__file__)"
    found = Path(outside(installed / "python", "-c", where, folder=tmp_path).strip())
    assert found.is_relative_to(installed.parent)


def test_the_installed_wheel_benches_offline(installed: Path, tmp_path: Path) -> None:
    """Every baseline, tuned setting, series and table is in the wheel."""
    printed = outside(
        installed / "rapgym", "bench", "--json", "--quiet", "--scenario", "chat-beside-code",
        folder=tmp_path,
    )  # fmt: skip
    policies = {entry["policy"] for entry in json.loads(printed)}
    assert {e.name for e in registry.POLICIES if not e.train or e.name == "hindsight"} <= policies
    outside(installed / "rapgym", "verify", "results/bench.csv.gz", folder=tmp_path)


@pytest.mark.parametrize("module", ["baselines", "traces", "tests"])
def test_no_module_of_a_common_name_is_installed(
    installed: Path, tmp_path: Path, module: str
) -> None:
    code = f"import importlib.util; print(importlib.util.find_spec('{module}'))"
    assert outside(installed / "python", "-c", code, folder=tmp_path).strip() == "None"


def test_an_editable_install_follows_the_clone(copy: Path, tmp_path: Path) -> None:
    programs = environment(tmp_path / "env", "-e", copy)
    assert "commands" in outside(programs / "rapgym", "--help", folder=tmp_path)
    code = (
        "import importlib.util, rapgym.baselines, rapgym.cli.models\n"
        "print(rapgym.__file__)\n"
        "print([importlib.util.find_spec(name) for name in ('baselines', 'traces')])"
    )
    found, common = outside(programs / "python", "-c", code, folder=tmp_path).splitlines()
    assert Path(found).samefile(copy / "rapgym" / "__init__.py")
    assert common == "[None, None]"
    shutil.rmtree(tmp_path / "env")
