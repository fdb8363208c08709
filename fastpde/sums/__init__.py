"""The ways to compute pair sums, behind one contract (`backend`). Numba is imported when a first backend is made."""

from __future__ import annotations

from collections.abc import Callable
from contextlib import AbstractContextManager
from typing import TYPE_CHECKING, Any, cast

from ..errors import InputError, InputTypeError

if TYPE_CHECKING:
    from .backend import Backend

NAMES = ("auto", "direct", "fast")


def resolve(backend: Any) -> Backend:
    """Return the backend for one of `NAMES`, or the object itself if it is a backend."""
    from .auto import Auto
    from .backend import Backend
    from .direct import Direct
    from .fast import Fast

    if isinstance(backend, Backend):
        return backend
    need = f"one of {', '.join(map(repr, NAMES))} or a backend object"
    if not isinstance(backend, str):
        raise InputTypeError("backend", repr(backend), need)
    if backend not in NAMES:
        raise InputError("backend", repr(backend), need)
    return {"auto": Auto, "direct": Direct, "fast": Fast}[backend]()


def resolve_alone(backend: Any) -> Backend:
    """Return what `resolve` does, for clouds that this process holds whole.

    Raises InputError where several processes share the tokens.
    """
    found = resolve(backend)
    if found.processes > 1:
        remedy = "Gather the tokens, and give one process all of them."
        raise InputError("backend", repr(found), 'one whose tokens are all in this process, as "auto"', remedy)
    return found


def checking(check: Callable[[], object]) -> AbstractContextManager[None]:
    """Return a context in which long sums call `check`, which may raise, at least every half second or so."""
    from . import slices

    return slices.checking(check)


def set_threads(count: int) -> None:
    """Bound the number of threads of the kernels. Raises InputError above the machine's number of usable cores."""
    if isinstance(count, bool) or not isinstance(count, int):
        raise InputTypeError("threads", repr(count), "a whole number >= 1")
    from ..simd import pool

    usable = pool.most()
    if not 1 <= count <= usable:
        raise InputError("threads", str(count), f"1 to {usable}, the threads this process may use")
    pool.set_threads(count)


def threads() -> int:
    """Return the number of threads that the kernels use."""
    from ..simd import pool

    return pool.threads()


def warmup(report: Callable[[str], None]) -> None:
    """Compile every kernel for both precisions, so that later processes load them, and measure this machine.

    `report` is called with a text for each step.
    """
    from . import calibration, ways
    from .direct import Direct

    Direct.warmup(report)
    ways.warmup(report)
    report("costs of this machine")
    calibration.costs()


def compile_ahead() -> None:
    """Start a second process that compiles, too, if this is the first large run of a machine; see `ahead`."""
    from . import ahead

    ahead.start()


def choices() -> dict[str, str]:
    """Return, as a table for people, the ways to sum, how fast they are here, and what "auto" would choose.

    Measures the machine, in a few seconds.
    """
    from . import calibration, limits, ways
    from .prediction import typical_choices

    costs, file = calibration.costs(), calibration.path()
    told = f"direct sums take {costs.direct:g} times as long as on a core of a typical server, others {costs.fast:g}"
    found = {"costs": f"{told}; measured for {costs.threads:g} threads"}
    found["costs in"] = "memory only: no writable folder" if file is None else str(file)
    found |= {f"way to sum, {way.name}": (type(way).__doc__ or "").partition("\n")[0] for way in ways.WAYS}
    return found | limits.shares() | {f"auto, {name}": text for name, text in typical_choices(costs, 1e-8).items()}


def describe() -> dict[str, str]:
    """Return, as a table for people, what the kernels will use on this machine."""
    import numba

    from .._jit import ABOUT, cache_folder
    from ..simd import pool
    from ..simd.vectors import BITS

    folder, settings = cache_folder(), cast(Any, numba.config)
    kernels = len(list(folder.glob("*.nbc"))) if folder else 0
    others = [other.parent for other in folder.parent.glob(f"*/{ABOUT}") if other.parent != folder] if folder else []
    left = f"; {len(others)} folders beside it are of other versions, see {ABOUT} in each" if others else ""
    return {
        "threads": f"{pool.threads()} of {pool.most()}",
        "vectors": f"{BITS} bits: {BITS // 32} float32 or {BITS // 64} float64 lanes",
        "cpu": settings.CPU_NAME or _cpu_name(),
        "compiled kernels": "not cached: no writable folder" if folder is None else f"{kernels} in {folder}{left}",
    }


def _cpu_name() -> str:
    import llvmlite.binding as llvm

    return llvm.get_host_cpu_name()
