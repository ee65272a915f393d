"""Functions that numba compiles: who imports this loads numba."""

from collections.abc import Callable
from typing import Any, TypeVar

from numba import njit

Function = TypeVar("Function", bound=Callable[..., Any])


def compiled(function: Function) -> Function:
    """Compile a function when it is first called, and keep that for other processes.

    It is kept beside its source or, where that is read-only, in the user's cache; where neither can be
    written to, each process compiles anew. What is kept goes stale when the function's own file changes,
    and no other: compiled functions call only those of their own file, and take constants of elsewhere
    as arguments.
    """
    found: Any
    try:
        found = njit(cache=True)(function)
    except RuntimeError:  # nowhere to keep it
        found = njit(function)
    compiled_function: Function = found
    return compiled_function
