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
    return _kept(function)


def inner(function: Function) -> Function:
    """The same for a function that only compiled ones call: Python cannot.

    Its way in from Python would unpack every array of its arguments, and takes longer to compile than
    the function itself where these are records of many arrays.
    """
    return _kept(function, no_cpython_wrapper=True, no_cfunc_wrapper=True)


def _kept(function: Function, **options: Any) -> Function:
    found: Any
    try:
        found = njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it
        found = njit(**options)(function)
    compiled_function: Function = found
    return compiled_function
