"""Imports follow the map: each module has a number, and an import points to a lower one."""

import ast
from collections.abc import Iterator

import pytest

from rapgym import clone, provenance

# The whole part is the module's layer; the fraction orders modules of one layer.
LAYERS = {
    "errors": 0,
    "specs": 1.0,
    "clone": 0.5,
    "provenance": 1.0,
    "datafiles": 1.0,
    "headed": 1.0,
    "progress": 1.0,
    "on_ray": 1.05,
    "parallel": 1.1,
    "closing": 1.0,
    "heldout": 1.0,
    "landlock": 1.0,
    "blocks": 1.1,
    "corpus": 1.1,
    "own_texts": 1.2,
    "models": 1.1,
    "columns": 2.0,
    "device_profiles": 2.0,
    "memory": 2.0,
    "predictor": 2.0,
    "sources": 2.0,
    "table_header": 2.0,
    "order_spread": 2.1,
    "table_file": 2.1,
    "trace": 2.1,
    "memory_meters": 1.0,
    "recording": 2.2,
    "sampling": 2.3,
    "access_log": 2.2,
    "answer_usage": 2.0,
    "proxy": 2.3,
    "loaders": 2.2,
    "measured_sets": 2.2,
    "predictor_tuning": 2.1,
    "quality_columns": 2.3,
    "quality": 2.4,
    "residence": 3.0,
    "reward": 3.0,
    "servegen": 3.0,
    "shield": 3.0,
    "world": 4.0,
    "simulator": 4.1,
    "bound": 4.2,
    "plan": 4.2,
    "encoding": 5.0,
    "series": 5.0,
    "recorded": 5.05,
    "scenario": 5.1,
    "lanes": 5.2,
    "twin": 5.3,
    "workloads": 5.2,
    "traces": 5.0,
    "runtime": 5.0,
    "runtime.forward": 5.0,
    "runtime.ledger": 5.0,
    "runtime.loss": 5.0,
    "runtime.model": 5.0,
    "runtime.rounding": 5.0,
    "runtime.samples": 5.0,
    "runtime.device_memory": 5.04,
    "runtime.block_weights": 5.05,
    "runtime.live_caches": 5.05,
    "runtime.elastic": 5.1,
    "runtime.ragged": 5.05,
    "runtime.packed": 5.06,
    "runtime.requests": 5.2,
    "runtime.serving": 5.3,
    "runtime.live": 5.4,
    "runtime.segments": 5.45,
    "runtime.device": 5.5,
    "runtime.machine": 5.6,
    "runtime.probe": 5.0,
    "runtime.gpu_probe": 5.05,
    "runtime.tenant_process": 5.0,
    "runtime.tenant": 5.05,
    "runtime.cgroup": 5.0,
    "runtime.enclosure_forms": 5.05,
    "runtime.enclosure": 5.1,
    "runtime.trials": 10.0,
    "runtime.records": 10.1,
    "runtime.profiling": 10.2,
    "runtime.replaying": 10.2,
    "runtime.replay": 10.25,
    "runtime.ranking": 10.2,
    "runtime.agreement": 10.3,
    "runtime.validate": 10.4,
    "runtime.calibration": 10.5,
    "runtime.flops": 5.06,
    "runtime.origins": 5.06,
    "runtime.forward_batch": 5.06,
    "runtime.measure": 5.1,
    "runtime.choice": 5.1,
    "runtime.designs": 5.2,
    "runtime.campaign": 5.3,
    "runtime.table": 5.4,
    "audit_context": 5.3,
    "audit_record": 5.31,
    "audit_text": 5.32,
    "audit_file": 5.33,
    "audit_log": 5.34,
    "audit_read": 5.34,
    "audit_entry": 5.35,
    "audit_step": 8.6,
    "audit_replay": 8.6,
    "audit_sentence": 8.6,
    "audit_summary": 8.62,
    "audit_export": 8.65,
    "audit_run": 9.2,
    "actions": 6.0,
    "env": 6.1,
    "vector_env": 7.0,
    "learning": 7.0,
    "learning.counterfactual": 9.06,
    "learning.limit_features": 9.06,
    "learning.two_curves": 9.07,
    "learning.pooled": 9.08,
    "learning.vec_env": 7.1,
    "learning.lean_env": 7.2,
    "learning.sb3": 7.2,
    "learning.masked_dqn": 7.3,
    "learning.row_buffer": 7.2,
    "learning.checkpoint": 7.1,
    "learning.curve": 7.1,
    "learning.small_steps": 8.2,
    "learning.training": 8.3,
    "learning.runs": 8.4,
    "policies": 8.0,
    "policies.policy": 8.0,
    "policies.reference": 8.1,
    "policies.trained": 8.05,
    "policies.registry": 8.1,
    "policies.tuning": 8.2,
    "watchdog": 8.3,
    "shadow": 8.35,
    "guard": 8.4,
    "policy_child": 8.5,
    "policy_link": 8.55,
    "policy_process": 8.6,
    "episode_log": 8.9,
    "rollout": 9.0,
    "rival_rules": 4.2,
    "format_pruning": 10.01,
    "rivals": 10.02,
    "baselines": 9.1,
    "baselines.*": 9.1,
    "results": 10.0,
    "score": 10.0,
    "table_error": 10.0,
    "champions": 10.1,
    "cells": 10.05,
    "bench": 10.1,
    "scoreboard": 10.2,
    "suitability": 10.2,
    "sensitivity": 10.3,
    "against": 10.1,
    "verify": 10.3,
    "report": 11.0,
    "learning_findings": 11.05,
    "findings": 11.1,
    "testing.model": 4.5,
    "testing.witness": 4.6,
    "testing.hostile": 9.1,
    "testing.worlds": 9.1,
    "testing.strategies": 9.2,
    "testing.machines": 9.3,
    "testing.env_machines": 9.4,
    "testing.audit_machine": 10.4,
    "testing.check": 9.3,
    "testing": 9.5,
    "": 11.9,  # rapgym itself: public names
    "cli": 12.0,
    "cli.measured": 12.05,
    "cli.workers": 12.05,
    "cli.own_traces": 12.05,
    "cli.*": 12.1,
    "__main__": 13.0,
}

# Loaded inside the function that needs them, so that `import rapgym` and `--help` stay instant.
LAZY = {"pandas", "pooch", "plotly", "pyarrow", "ray", "pynvml"}
TORCH = {"torch", "transformers", "accelerate", "gguf", "stable_baselines3", "sb3_contrib"}

MODULES = {
    ".".join(clone.inner(path).with_suffix("").parts).removesuffix("__init__").rstrip("."): path
    for path in sorted(provenance.code_files())
}


def layer(module: str) -> float:
    if module in LAYERS:
        return LAYERS[module]
    package = module.rpartition(".")[0]
    assert f"{package}.*" in LAYERS, f"rapgym.{module} has no place in LAYERS"
    return LAYERS[f"{package}.*"]


def imports(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Absolute name of everything that is imported, and its line."""
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            yield from ((alias.name, node.lineno) for alias in node.names)
        elif isinstance(node, ast.ImportFrom):
            assert node.level == 0, f"line {node.lineno}: write the absolute name"
            yield from ((f"{node.module}.{alias.name}", node.lineno) for alias in node.names)


def own_modules(tree: ast.AST) -> Iterator[tuple[str, int]]:
    """Modules of rapgym that are imported; a name inside a module stands for its module."""
    for name, line in imports(tree):
        top, _, rest = name.partition(".")
        if top == "rapgym":
            while rest not in MODULES:
                rest = rest.rpartition(".")[0]
            yield rest, line


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
def test_imports_point_down(module: str) -> None:
    tree = ast.parse(MODULES[module].read_text())
    for imported, line in own_modules(tree):
        assert layer(imported) < layer(module), (
            f"rapgym/{MODULES[module].name}:{line}: {module or 'rapgym'} ({layer(module)}) "
            f"imports {imported} ({layer(imported)})"
        )


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


def test_the_map_names_no_module_that_is_gone() -> None:
    assert {name for name in LAYERS if not name.endswith("*")} <= set(MODULES)
