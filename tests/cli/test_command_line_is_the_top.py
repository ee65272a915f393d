"""The command line stands above everything: nothing imports it, and what it parses stays in it."""

import ast

from rapgym.files import places, provenance

PATHS = sorted({*provenance.code_files(), *places.STUDIES.rglob("*.py")})
CLI = places.PACKAGE / "cli"
OUTSIDE = [path for path in PATHS if CLI not in path.parents]


def test_nothing_but_the_entry_imports_the_command_line() -> None:
    assert len(OUTSIDE) > 100
    assert places.BASELINES / "forecast.py" in OUTSIDE, "methods are looked at too"
    found = set()
    for path in OUTSIDE:
        for node in ast.walk(ast.parse(path.read_text())):
            if not isinstance(node, ast.Import | ast.ImportFrom):
                continue
            names = [alias.name for alias in node.names]
            if isinstance(node, ast.ImportFrom):
                names = [f"{node.module}.{name}" for name in names]
            if any(f"{name}.".startswith("rapgym.cli.") for name in names):
                found.add(path.name)
    assert found == {"__main__.py"}


def test_parsed_arguments_stay_in_the_command_line() -> None:
    """Below it settings are records; a study's `main` parses what it is told and hands that on."""
    takers = set()
    for path in PATHS:
        for node in ast.walk(ast.parse(path.read_text())):
            names = [getattr(node, part, "") for part in ("attr", "id", "name")]
            if "Namespace" in names:
                takers.add(path.parent)
    assert takers == {CLI}
