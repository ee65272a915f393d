"""Functions that numba compiles: who imports this loads numba."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit
from numba.core.cpu import CPUTargetOptions

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function when it is first called, and keep that for other processes.

    It is kept beside its source or, where that is read-only, in the user's cache; where neither can be
    written to, each process compiles anew. What is kept goes stale when the function's own file changes,
    and no other: compiled functions call only those of their own file, and take constants of elsewhere
    as arguments.
    """
    return _kept(function, {})


def uncounted(function: Function) -> Function:
    """The same for a function that allocates nothing: who holds its arrays is not counted meanwhile.

    Numba counts each array that is handed on, which costs more than a step of the serving engine does.
    Its caller holds the arrays until it returns.
    """
    return _kept(function, _known(_nrt=False))


def inlined(function: Function) -> Function:
    """The same, copied into each of its callers: a record of fifty arrays is not handed on.

    For what is called often and from few places: a caller takes longer to compile with each copy.
    """
    return _kept(function, _known(_nrt=False, forceinline=True))


def _known(**options: bool) -> dict[str, bool]:
    """Those that this numba knows: none changes what a function gives."""
    return {name: value for name, value in options.items() if hasattr(CPUTargetOptions, name)}


def _kept(function: Function, options: dict[str, Any]) -> Function:
    found: Any
    try:
        found = njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it
        found = njit(**options)(function)
    compiled_function: Function = found
    return compiled_function
