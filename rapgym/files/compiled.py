"""Functions that numba compiles: who imports this loads numba."""

import hashlib
import inspect
from collections.abc import Callable, Iterator
from contextlib import AbstractContextManager, ExitStack, contextmanager, nullcontext, suppress
from functools import partial
from pathlib import Path
from types import ModuleType
from typing import Any, TypeVar

from numba import njit, typeof
from numba.core.compiler_lock import global_compiler_lock
from numba.core.cpu import CPUTargetOptions

from rapgym.files import compiling
from rapgym.files.checked import locked

Function = TypeVar("Function", bound=Callable[..., Any])

# Sums may be added up in another order: many times as fast, and other last digits on another processor.
LOOSE = {"reassoc", "contract", "nsz"}


# No way in from C, which nobody takes: it would be compiled, too.
FROM_PYTHON = {"no_cfunc_wrapper": True}
# No way in from Python either.
WITHIN = {"no_cpython_wrapper": True, **FROM_PYTHON}


def compiled(function: Function) -> Function:
    """Compile a function when it is first called, and keep that for other processes.

    It is kept beside its source or, where that is read-only, in the user's cache; where neither can be
    written to, each process compiles anew. What is kept goes stale when the function's own file changes,
    and no other: compiled functions call only those of their own file, and take constants of elsewhere
    as arguments. `resting_on` is for those that call others.
    """
    return _kept(function, FROM_PYTHON)


def inner(function: Function) -> Function:
    """The same for a function that only compiled ones call: Python cannot.

    Its way in from Python would unpack every array of its arguments, and takes longer to compile than
    the function itself where these are records of many arrays.
    """
    return _kept(function, WITHIN)


def uncounted(function: Function) -> Function:
    """The same for a function that allocates nothing: who holds its arrays is not counted meanwhile.

    Numba counts each array that is handed on, which costs more than a step of the serving engine does.
    Its caller holds the arrays until it returns.
    """
    return _kept(function, _known(_nrt=False) | FROM_PYTHON)


def uncounted_inner(function: Function) -> Function:
    """An `inner` one that allocates nothing: see `uncounted`."""
    return _kept(function, _known(_nrt=False) | WITHIN)


def inlined(function: Function) -> Function:
    """An `uncounted_inner` one, copied into each of its callers: a record of fifty arrays is not handed on.

    For what is called often and from few places: a caller takes longer to compile with each copy.
    """
    return _kept(function, _known(_nrt=False, forceinline=True) | WITHIN)


def resting_on(
    *modules: ModuleType,
    loose: bool = False,
    inlined: bool = False,
    within: bool = False,
    allocates: bool = False,
) -> Callable[[Function], Function]:
    """`compiled` for a function that calls compiled functions of these modules, too.

    What is kept bears their source in its name, so it goes stale with any of them.

    Args:
        loose: sums may be added up in any order.
        inlined: it becomes part of what calls it; else many arrays are handed over at each call.
        within: only compiled functions call it, as an `inner` one.
        allocates: what it calls makes arrays, which are counted then.
    """
    options = {"fastmath": LOOSE if loose else False, **_known(_nrt=allocates, forceinline=inlined)}
    options |= WITHIN if within else FROM_PYTHON
    source = "".join(inspect.getsource(module) for module in modules)
    named = sorted((name, str(value)) for name, value in (options | {"fastmath": loose}).items())
    mark = hashlib.sha256(f"{source}{named}".encode()).hexdigest()[:12]

    def marked(function: Function) -> Function:
        function.__qualname__ = f"{function.__qualname__}-{mark}"
        return _kept(function, options)

    return marked


def entry_of(function: Any, *given: Any) -> Callable[..., Any]:
    """What runs a compiled function on arguments of the same types as these, and does not look at them.

    Looking takes several times as long as many a call, where arrays are many. Who calls it with an array of
    another type, number of axes or order reads other memory.
    """
    types = tuple(typeof(each) for each in given)  # type: ignore[no-untyped-call]
    if types not in function.overloads:
        function.compile(types)
    entry: Callable[..., Any] = function.overloads[types].entry_point
    return entry


def settled(function: Any) -> Callable[..., Any]:
    """A compiled function whose arguments are of the types of its first call at every other one: see `entry_of`."""
    entry: Callable[..., Any] | None = None

    def called(*given: Any) -> Any:
        nonlocal entry
        if entry is None:
            entry = entry_of(function, *given)
        return entry(*given)

    return called


def _known(**options: bool) -> dict[str, bool]:
    """Those that this numba knows: none changes what a function gives."""
    return {name: value for name, value in options.items() if hasattr(CPUTargetOptions, name)}


def _kept(function: Function, options: dict[str, Any]) -> Function:
    found: Any
    try:
        found = njit(cache=True, **options)(function)
    except RuntimeError:  # nowhere to keep it
        found = njit(**options)(function)
        found.compile = _in_turn(found, nullcontext)
    else:
        found.compile = _in_turn(found, partial(_held, _lock_of(found)))
    compiled_function: Function = found
    return compiled_function


def _lock_of(function: Any) -> Path:
    name = f"{function.py_func.__module__}.{function.py_func.__qualname__}.lock"
    return Path(function.stats.cache_path) / name


def _in_turn(
    function: Any, alone: Callable[[], AbstractContextManager[None]]
) -> Callable[[Any], Any]:
    """How a function is compiled by one thread at a time, and what that takes is counted.

    Args:
        alone: holds other processes back: who waited takes what the first one kept.
    """
    compile_it = function.compile

    def compile_in_turn(types: Any) -> Any:
        if types in function.overloads:
            return compile_it(types)
        # Numba's own lock first: a thread that held the file would wait for one that wants the file.
        with global_compiler_lock, compiling.counted(), alone():
            return compile_it(types)

    return compile_in_turn


@contextmanager
def _held(path: Path) -> Iterator[None]:
    """`locked`, where a file can be made: else two may do the same work."""
    with ExitStack() as held:
        with suppress(OSError):
            held.enter_context(locked(path))
        yield
