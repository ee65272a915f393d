"""rapgym: which blocks of a language model stay in memory, decided at run time, benchmarked.

Importing registers the environments `RAP-v0`, `RAP-Counts-v0`, `RAP-KeptSet-v0` and `RAP-Serve-v0` with
Gymnasium and opens no file. What this module offers is loaded when it is first asked for.
"""

import importlib
from typing import TYPE_CHECKING, Any

from rapgym.envs import registration as _registration
from rapgym.files import clone as _clone
from rapgym.files import provenance as _provenance

if TYPE_CHECKING:
    from rapgym import errors
    from rapgym.audit.log import AuditLog
    from rapgym.audit.step import audit_env
    from rapgym.bench.results import read_results
    from rapgym.bench.run import run_bench
    from rapgym.bench.verify import verify_results
    from rapgym.guard.process import PolicyProcess
    from rapgym.policies.policy import Policy, make_briefing
    from rapgym.quality.table import load_table, read_table
    from rapgym.report import figures
    from rapgym.rollout.rollout import run_policy
    from rapgym.scenarios.catalogue import list_scenarios, load_scenario
    from rapgym.scenarios.worlds import make_world
    from rapgym.testing.check import check_policy

__version__ = _provenance.VERSION
__all__ = [
    "AuditLog",
    "Policy",
    "PolicyProcess",
    "__version__",
    "audit_env",
    "check_policy",
    "errors",
    "figures",
    "list_scenarios",
    "load_scenario",
    "load_table",
    "make_briefing",
    "make_world",
    "read_results",
    "read_table",
    "run_bench",
    "run_policy",
    "verify_results",
]

# Names that are modules.
_MODULES = {"errors": "rapgym.errors", "figures": "rapgym.report.figures"}
# Where each other name lives.
_HOMES = {
    "AuditLog": "rapgym.audit.log",
    "Policy": "rapgym.policies.policy",
    "PolicyProcess": "rapgym.guard.process",
    "audit_env": "rapgym.audit.step",
    "check_policy": "rapgym.testing.check",
    "list_scenarios": "rapgym.scenarios.catalogue",
    "load_scenario": "rapgym.scenarios.catalogue",
    "load_table": "rapgym.quality.table",
    "make_briefing": "rapgym.policies.policy",
    "make_world": "rapgym.scenarios.worlds",
    "read_results": "rapgym.bench.results",
    "read_table": "rapgym.quality.table",
    "run_bench": "rapgym.bench.run",
    "run_policy": "rapgym.rollout.rollout",
    "verify_results": "rapgym.bench.verify",
}


if not TYPE_CHECKING:  # to type checkers a name that is not imported above is an error

    def __getattr__(name: str) -> Any:
        if name in _MODULES:
            return importlib.import_module(_MODULES[name])
        if name not in _HOMES:
            raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
        found = getattr(importlib.import_module(_HOMES[name]), name)
        globals()[name] = found  # the next look-up does not come here
        return found


def __dir__() -> list[str]:
    return list(__all__)


_clone.follow()
_registration.register_all()
