"""Heavy packages are imported where they are used."""

import ast
from collections.abc import Iterator
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1] / "rapgym"

# Loaded inside the function that needs them, so that `import rapgym` and `--help` stay instant.
LAZY = {"pandas", "pooch", "plotly", "pyarrow", "ray", "pynvml"}
TORCH = {"torch", "transformers", "accelerate", "gguf", "stable_baselines3", "sb3_contrib"}

MODULES = {
    ".".join(path.relative_to(ROOT).with_suffix("").parts)
    .removesuffix("__init__")
    .rstrip("."): path
    # A walk does not follow the symlink that `baselines` is in a clone.
    for path in sorted({*ROOT.rglob("*.py"), *ROOT.glob("*/*.py")})
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
