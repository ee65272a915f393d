"""`baselines/` and `traces/` lie at the top of a clone, and are `rapgym.baselines` and `rapgym.traces`."""

import importlib.resources
import importlib.util
import pickle
import shutil
import sys
from pathlib import Path

import pytest

import rapgym.baselines.keep_all
from rapgym.bench import origin
from rapgym.files import clone, places, provenance

CLONE = Path(__file__).parents[2]


@pytest.fixture
def elsewhere(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """A copy of the two folders, which the package takes for its own while a test lasts."""
    for name in ("baselines", "traces"):
        ignored = shutil.ignore_patterns("__pycache__", "servegen*")
        shutil.copytree(CLONE / name, tmp_path / name, ignore=ignored)
        monkeypatch.setattr(places, name.upper(), tmp_path / name)
    monkeypatch.setattr(places, "HOLDER", tmp_path)
    return tmp_path


def test_the_folders_are_those_at_the_top() -> None:
    assert places.PACKAGE == CLONE / "rapgym", "the tests run on the code beside them"
    assert (places.BASELINES, places.TRACES) == (CLONE / "baselines", CLONE / "traces")
    assert Path(rapgym.baselines.keep_all.__file__) == CLONE / "baselines" / "keep_all.py"
    names = {entry.name for entry in importlib.resources.files("rapgym.traces").iterdir()}
    assert {"README.md", "azure-conv1-code2-pool8.csv.gz"} <= names


@pytest.mark.parametrize("name", ["tests", "benchmarks", "docs", "rapgym", "traces.nothing"])
def test_nothing_else_of_a_clone_is_a_part_of_the_package(name: str) -> None:
    assert importlib.util.find_spec(f"rapgym.{name}") is None


def test_a_method_is_one_class_and_pickles_by_its_name() -> None:
    method = rapgym.baselines.keep_all.KeepAll()
    assert b"rapgym.baselines.keep_all" in pickle.dumps(method)
    assert type(pickle.loads(pickle.dumps(method))) is type(method)


def test_the_finder_is_asked_once_and_first() -> None:
    clone.follow()
    assert sys.meta_path.count(clone._AtTheTop) == 1
    editable = [getattr(finder, "__name__", "") == "_EditableFinder" for finder in sys.meta_path]
    assert not any(editable[: sys.meta_path.index(clone._AtTheTop)])


@pytest.mark.parametrize("missing", [None, "pyproject.toml", "baselines", "traces"])
def test_only_a_whole_clone_is_one(tmp_path: Path, missing: str | None) -> None:
    """Beside an installed package, a folder `baselines` may be anyone's."""
    (tmp_path / "rapgym").mkdir()
    for name in {"pyproject.toml", "baselines", "traces"} - {missing}:
        if name == "pyproject.toml":
            (tmp_path / name).touch()
        else:
            (tmp_path / name).mkdir()
            (tmp_path / name / "__init__.py").touch()
    expected = tmp_path / "rapgym" if missing else tmp_path
    assert places._holder(tmp_path / "rapgym") == expected


def test_an_installed_package_holds_its_folders(tmp_path: Path) -> None:
    for name in ("baselines", "traces", "rapgym/baselines", "rapgym/traces"):
        (tmp_path / name).mkdir(parents=True)
        (tmp_path / name / "__init__.py").touch()
    (tmp_path / "pyproject.toml").touch()
    assert places._holder(tmp_path / "rapgym") == tmp_path / "rapgym"


@pytest.mark.parametrize(
    ("file", "of_code"),
    [("baselines/gsi.py", True), ("traces/azure-conv1-code2-pool8.csv.gz", False)],
)
def test_the_digests_cover_both_folders(elsewhere: Path, file: str, of_code: bool) -> None:
    def digests() -> tuple[str, str]:
        return origin.code_sha256.__wrapped__(), provenance.package_sha256.__wrapped__()

    before = digests()
    with (elsewhere / file).open("ab") as changed:
        changed.write(b"\n")
    after = digests()
    assert (before[0] != after[0], before[1] != after[1]) == (of_code, True)


def test_the_digests_cover_what_fits_and_settings_are_kept_in(
    monkeypatch: pytest.MonkeyPatch,
) -> None:
    taken: list[set[Path]] = []
    monkeypatch.setattr(provenance, "files_sha256", lambda paths: taken.append({*paths}))
    origin.code_sha256.__wrapped__()
    provenance.package_sha256.__wrapped__()
    assert places.INCREMENTS.is_file()
    assert all(places.INCREMENTS in each for each in taken)
    assert places.TUNED in taken[0]


def test_every_module_has_the_name_of_a_file_in_the_package() -> None:
    names = {str(places.inner(path)) for path in provenance.code_files()}
    assert {"files/clone.py", "baselines/gsi.py", "traces/__init__.py", "cli/__init__.py"} <= names
    assert len(names) == len(provenance.code_files())
