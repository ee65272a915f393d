"""The package's folders: each is there, and nothing else asks where its own file lies."""

import ast
from pathlib import Path

import pytest

from rapgym.bench import origin as bench_origin
from rapgym.files import places, provenance
from rapgym.guard.link import hidden_paths, readable_paths

FOLDERS = {name: value for name, value in vars(places).items() if name.isupper() and value.is_dir()}
# A script is started by its path.
STARTED_BY_PATH = {"tenant.py"}


def test_every_place_exists_and_holds_what_its_name_says() -> None:
    held = {
        "PACKAGE": "__init__.py",
        "HOLDER": "baselines/keep_all.py",
        "BASELINES": "keep_all.py",
        "RESULTS": "bench.csv.xz",
        "TRACES": "*.csv.gz",
        "LEADERBOARD": "entries/*/submission.json",
        "STUDIES": "pages/readme.py",
        "STORIES": "*.toml",
        "TABLES": "*.csv.gz",
        "PROFILES": "*.json",
        "TEMPLATES": "page.html",
        "TRAINED": "hindsight/*/*.npz",
    }
    assert held.keys() == FOLDERS.keys()
    for name, pattern in held.items():
        assert list(FOLDERS[name].glob(pattern)), f"{name} holds {pattern}"
    assert places.TUNED.is_file()
    assert places.PACKAGE.name == "rapgym"


def test_no_other_module_asks_where_its_own_file_lies() -> None:
    asking = {
        path.relative_to(places.PACKAGE)
        for path in places.PACKAGE.rglob("*.py")
        for node in ast.walk(ast.parse(path.read_text("utf-8")))
        if (isinstance(node, ast.Name) and node.id == "__file__")
        or (isinstance(node, ast.Attribute) and node.attr == "__file__")
    }
    assert {path for path in asking if path.name not in STARTED_BY_PATH} == {
        Path("files/places.py")
    }


def test_a_policy_process_reaches_neither_rows_nor_columns() -> None:
    hidden = hidden_paths()
    folders = (places.TRACES, places.TABLES, places.RESULTS, places.LEADERBOARD)
    assert {folder.resolve() for folder in folders} <= hidden
    held = [next(path for path in folder.iterdir() if path.is_file()) for folder in folders]
    readable = [each.path for each in readable_paths() if each.content]
    assert not any(file.resolve().is_relative_to(path) for file in held for path in readable)
    code = places.PACKAGE.resolve() / "files" / "places.py"
    assert any(code.is_relative_to(path) for path in readable), "but its own code it can import"


@pytest.mark.parametrize(
    "file", ["files/places.py", "cli/bench.py", "baselines/forecast.py", "policies/tuned.json"]
)
def test_the_digest_of_the_code_covers_every_folder_of_code(
    file: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    read: list[Path] = []
    monkeypatch.setattr(provenance, "files_sha256", read.extend)
    bench_origin.code_sha256.__wrapped__()
    assert file in {str(places.inner(path)) for path in read}
