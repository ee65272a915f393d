"""A rule that several modules need stands in one of them: the others ask it."""

import ast
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[1]
MODULES = {
    path.relative_to(ROOT).as_posix(): path
    for folder in ("rapgym", "baselines", "benchmarks")
    for path in sorted((ROOT / folder).rglob("*.py"))
    # In a clone `rapgym/baselines` is a link to a folder that is read anyway.
    if not path.relative_to(ROOT).as_posix().startswith("rapgym/baselines/")
}
INDEPENDENT = "rapgym/testing/model.py"  # says the same once more, so that tests compare with it


def rate_reads(tree: ast.AST) -> Iterator[ast.AST]:
    """The rate of the host link is read, by its name or by a string that holds it."""
    for node in ast.walk(tree):
        if "restore_bytes_per_s" in (getattr(node, "attr", ""), getattr(node, "value", "")):
            yield node


def reaction_reads(tree: ast.AST) -> Iterator[ast.AST]:
    """How long a world takes to react is read."""
    for node in ast.walk(tree):
        is_read = isinstance(node, ast.Attribute) and node.attr == "reaction_s"
        if is_read and _last_name(node.value).endswith("world"):  # type: ignore[attr-defined]
            yield node


def floors(tree: ast.AST) -> Iterator[ast.AST]:
    """All that an order names is taken out of a set: the floor is left."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Assign) and getattr(node.value, "value", None) is False:
            for target in node.targets:
                if isinstance(target, ast.Subscript) and (
                    _last_name(target.value).endswith("floor")
                    or _last_name(target.slice).endswith(("order", "joint"))
                ):
                    yield node


def packings(tree: ast.AST) -> Iterator[ast.AST]:
    """Blocks become bits of bytes, or are read from them."""
    for node in ast.walk(tree):
        if _last_name(node) in ("packbits", "unpackbits") and not isinstance(node, ast.Call):
            yield node


def sums(tree: ast.AST) -> Iterator[ast.AST]:
    """Bytes of the kept blocks are added up, or those of the others."""
    for node in ast.walk(tree):
        if not isinstance(node, ast.Call):
            continue
        if ast.unparse(node.func) in ("np.vecdot", "numpy.vecdot"):
            yield node
        if isinstance(node.func, ast.Attribute) and node.func.attr == "sum":
            chosen = node.func.value
            if isinstance(chosen, ast.Call) and _last_name(chosen.func) == "where":
                summed = [_last_name(part) for part in chosen.args[1:]]
                if any(name.endswith(("costs", "weights")) for name in summed):
                    yield node


def parts_of_a_layer(tree: ast.AST) -> Iterator[ast.AST]:
    """A part of a decoder layer is called by the name that a family of models gives it."""
    names = {"self_attn", "mlp", "input_layernorm", "post_attention_layernorm"}
    for node in ast.walk(tree):
        if isinstance(node, ast.Attribute) and node.attr in names:
            yield node
        if isinstance(node, ast.Constant) and node.value in names:
            yield node


def _last_name(node: ast.AST) -> str:
    """`order` of `world.quality.order`, of `list(order)` and of `order[..., 0]`; empty of others."""
    if isinstance(node, ast.Name):
        return node.id
    if isinstance(node, ast.Attribute):
        return node.attr
    if isinstance(node, ast.Call) and len(node.args) == 1:
        return _last_name(node.args[0])
    if isinstance(node, ast.Subscript):
        # `order[:k]` is a part of the order: what is left of a set is not the floor.
        return "" if isinstance(node.slice, ast.Slice) else _last_name(node.value)
    return ""


@dataclass(frozen=True)
class Rule:
    spelled: Callable[[ast.AST], Iterator[ast.AST]]
    homes: tuple[str, ...]
    faults: tuple[str, ...]  # code that says it elsewhere
    fine: str  # code that looks alike


RULES = {
    "how long blocks take to return": Rule(
        rate_reads,
        # Beside its home: a device profile checks and states the rate that it measured, and the
        # worlds of a scenario are built with it.
        ("rapgym/world/stall.py", "rapgym/model/profiles.py",
         "rapgym/runtime/validate/profiling.py", "rapgym/scenarios/worlds.py"),
        ("left = missing / world.restore_bytes_per_s",
         "row_bytes = self._world.restore_bytes_per_s * self._world.window_s",
         'rate = getattr(world, "restore_bytes_per_s")'),
        "world = replace(world, restore_bytes_per_s=40.0)",
    ),
    "what an emergency loses of its second": Rule(
        reaction_reads,
        # Beside its home: scenarios and reports of validation state it, made worlds hand it on.
        ("rapgym/world/stall.py", "rapgym/bench/suitability.py",
         "rapgym/runtime/validate/validate.py", "rapgym/testing/worlds.py"),
        ("lost = min(world.reaction_s, 1)", "able_s = 1 - self._world.reaction_s"),
        "quick = replace(world, reaction_s=0.1)\nstory.reaction_s",
    ),
    "which blocks always stay": Rule(
        floors,
        ("rapgym/model/blocks.py",),
        ("floor = np.ones(n, dtype=bool)\nfloor[order] = False",
         "stays[self.world.quality.order] = False",
         "stays[list(self.header.orders[0].joint)] = False"),
        "prefix[list(joint[:k])] = False\nkept[gone:, block] = False\nrow[index] = True",
    ),
    "how kept sets are packed": Rule(
        packings,
        ("rapgym/model/blocks.py",),
        ("names = np.packbits(kept, axis=1)", "bits = numpy.unpackbits(raw)",
         "from numpy import packbits\nnames = packbits(kept)"),
        "names = blocks.packed(kept)",
    ),
    "what the parts of a layer are called": Rule(
        parts_of_a_layer,
        ("rapgym/runtime/layers.py",),
        ("out = layer.mlp(stream)", 'PARTS = ("self_attn", "mlp")'),
        "out = view.ffn(stream)",
    ),
    "how many bytes kept blocks take": Rule(
        sums,
        ("rapgym/model/memory.py",),
        ("spent = np.where(kept, costs, 0).sum(axis=-1)",
         "missing = np.where(loaded, 0, world.footprint.weights).sum(axis=1)",
         "spent = np.vecdot(kept, self.costs)"),
        "loss = np.where(judged, np.abs(error), 0).sum(axis=1)\nwhole = footprint.weights.sum()",
    ),
}  # fmt: skip


@pytest.fixture(scope="module")
def trees() -> dict[str, ast.Module]:
    return {path: ast.parse(file.read_text()) for path, file in MODULES.items()}


@pytest.mark.parametrize("name", RULES)
def test_a_rule_stands_in_its_home_alone(name: str, trees: dict[str, ast.Module]) -> None:
    rule = RULES[name]
    spelled = {
        path: [node.lineno for node in rule.spelled(tree)]  # type: ignore[attr-defined]
        for path, tree in trees.items()
    }
    found = {path: lines for path, lines in spelled.items() if lines}
    strays = {path: found[path] for path in found if path not in (*rule.homes, INDEPENDENT)}
    assert not strays, f"{name}: ask {rule.homes[0]} instead"
    assert {*rule.homes} <= {*found}, f"{name}: no longer said there"


@pytest.mark.parametrize("name", RULES)
def test_a_rule_that_is_said_elsewhere_is_noticed(name: str) -> None:
    rule = RULES[name]
    for fault in rule.faults:
        assert [*rule.spelled(ast.parse(fault))], fault
    assert not [*rule.spelled(ast.parse(rule.fine))]
