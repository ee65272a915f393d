"""The house: packages in their order, no circle, and heavy packages imported where they are used."""

import ast
from collections.abc import Iterator
from functools import cache

import pytest

from rapgym.files import places, provenance

# Imports point up this list only: the plan of docs/architecture.md.
PACKAGES = [
    "errors",
    "arrays",
    "heldout",
    "files",
    "jobs",
    "model",
    "quality",
    "world",
    "workload",
    "serving",
    "recorder",
    "scenarios",
    "policies",
    "guard",
    "rollout",
    "envs",
    "rivals",
    "bench",
    "worth",
    "submissions",
    "audit",
    "report",
    "learning",
    "runtime",
    "studies",
    "cli",
    "testing",
]
# Methods know the packages down to `learning`; what runs them knows them by name alone.
METHODS = "learning"
# An environment is given its step: that of a live model is asked for where it is wanted.
LATE = {("envs.play", "runtime.device.machine")}

# Loaded inside the function that needs them, so that `import rapgym` and `--help` stay instant.
LAZY = {"jinja2", "markupsafe", "pandas", "pooch", "plotly", "pyarrow", "ray", "pynvml", "pygame"}
TORCH = {"torch", "transformers", "accelerate", "gguf", "stable_baselines3", "sb3_contrib"}

MODULES = {
    ".".join(places.inner(path).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted({*provenance.code_files(), *places.STUDIES.rglob("*.py")})
}


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute name of everything that is imported, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the absolute name"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def at_import(tree: ast.Module) -> ast.Module:
    """What runs as the module is imported: without bodies of functions and `if TYPE_CHECKING`."""

    class Pruned(ast.NodeTransformer):
        def visit_FunctionDef(self, node: ast.FunctionDef) -> None: ...

        def visit_If(self, node: ast.If) -> ast.AST | None:
            typing_only = isinstance(node.test, ast.Name) and node.test.id == "TYPE_CHECKING"
            return None if typing_only else self.generic_visit(node)

    pruned: ast.Module = Pruned().visit(tree)
    return pruned


def own_modules(tree: ast.AST) -> set[str]:
    """Modules of rapgym that are imported; a name inside a module stands for its module."""
    found = set()
    for name, _ in imports(tree):
        top, _, rest = name.partition(".")
        if top == "rapgym":
            while rest not in MODULES:
                rest = rest.rpartition(".")[0]
            found.add(rest)
    return found


def room(module: str) -> str:
    return module.partition(".")[0]


def place(module: str) -> float:
    """Where in the order its package stands; methods come right after what they know."""
    if room(module) == "baselines":
        return PACKAGES.index(METHODS) + 0.5
    # `rapgym` itself is imported by whom its registration or version concerns; it knows no one early.
    return PACKAGES.index(room(module)) if room(module) else -1


@cache  # not at import: every worker collects this file
def imported_by() -> dict[str, set[str]]:
    """What each module imports of rapgym."""
    return {
        module: own_modules(ast.parse(path.read_text("utf-8"))) for module, path in MODULES.items()
    }


def test_every_package_has_its_place() -> None:
    rooms = {room(module) for module in MODULES} - {"", "__main__", "traces", "baselines"}
    assert rooms == {*PACKAGES}
    assert {(one, other) for one in MODULES for other in imported_by()[one]} >= LATE


@pytest.mark.parametrize("module", sorted({*MODULES} - {"", "__main__"}))
def test_imports_point_up_the_order(module: str) -> None:
    for imported in imported_by()[module] - {other for one, other in LATE if one == module}:
        assert place(imported) <= place(module), f"{module} imports {imported}"


def circle(imported: dict[str, set[str]]) -> list[str]:
    """Names along a circle of imports; none where there is no circle."""
    done: set[str] = set()

    def walk(name: str, way: list[str]) -> list[str]:
        if name in way:
            return way[way.index(name) :]
        if name in done:
            return []
        found = next(
            filter(None, (walk(each, [*way, name]) for each in sorted(imported[name]))), []
        )
        done.add(name)
        return found

    return next(filter(None, (walk(name, []) for name in sorted(imported))), [])


def test_no_circle_of_files() -> None:
    assert circle({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == ["b", "c"], "one would be found"
    assert circle(imported_by()) == []


def test_no_circle_of_packages() -> None:
    between: dict[str, set[str]] = {room(module): set() for module in MODULES}
    for module, others in imported_by().items():
        late = {other for one, other in LATE if one == module}
        between[room(module)] |= {room(other) for other in others - late} - {room(module), ""}
    assert circle(between) == []


@pytest.mark.parametrize("module", MODULES)
def test_heavy_packages_are_imported_where_they_are_used(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    everywhere = {name.partition(".")[0] for name, _ in imports(tree)}
    first = {name.partition(".")[0] for name, _ in imports(at_import(tree))}
    assert not first & LAZY
    if not module.startswith(("runtime.", "learning.")):
        assert not first & TORCH
    if not module.startswith(("runtime.", "learning.", "baselines.")):
        assert not everywhere & TORCH, "only runtime/, learning/ and learning baselines know torch"
