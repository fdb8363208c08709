"""The costs of sums on this machine: measured once, in about a second, and kept beside the compiled kernels.

Times are processor times of one thread: a busy machine does not change them much. Where nothing can be kept they are
those of a typical machine, so that every process of a computation chooses alike.
"""

from __future__ import annotations

import hashlib
import json
import os
import tempfile
import time
from collections.abc import Callable
from contextlib import suppress
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np

from .._jit import cache_folder
from ..errors import InputError, InputTypeError
from ..laws import ExpLaw
from . import planning
from .base import PairSum
from .costs import TYPICAL, Costs
from .direct import Direct
from .fast import Fast
from .gridsum import Box

Call = Callable[[], None]

_ROUNDS = 12
# Sums near the size where the choice is hard: points and dimension; of those in O(n) the half width of their cube, too.
_DIRECT = ((1536, 1), (1536, 2), (1024, 8))
_FAST = ((2048, 1, 2.0), (4096, 2, 2.0), (4096, 3, 2.0))


def path() -> Path | None:
    """The file of this processor, for these kernels; None where nothing can be kept."""
    folder = cache_folder()
    if folder is None:
        return None
    import llvmlite.binding as llvm

    name = f"{llvm.get_host_cpu_name()} {sorted(llvm.get_host_cpu_features().items())}"
    return folder / f"costs-{_digest(name)[:16]}.json"


@cache
def costs() -> Costs:
    """The costs of this machine. The first call ever measures them."""
    file = path()
    if file is None:
        return TYPICAL
    return read(file) or _keep(file, measure())


def read(file: Path) -> Costs | None:
    """The costs in a file; None if there are none, or they are damaged."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        sound = held["digest"] == _digest(json.dumps(held["costs"]))
        return Costs.of(held["costs"]) if sound else None
    except (OSError, ValueError, KeyError, TypeError, InputError, InputTypeError):
        return None


def _keep(file: Path, measured: Costs) -> Costs:
    """Writes the file in one step. Returns what it holds then: another process may have been first."""
    table = measured.table()
    text = json.dumps({"costs": table, "digest": _digest(json.dumps(table))}) + "\n"
    temporary = ""
    try:
        descriptor, temporary = tempfile.mkstemp(prefix=file.name, suffix=".tmp", dir=file.parent)
        with os.fdopen(descriptor, "w", encoding="utf-8") as stream:
            stream.write(text)
        if file.exists() and read(file) is None:
            os.replace(temporary, file)
        else:
            os.link(temporary, file)  # does not replace
    except OSError:
        held = read(file)
        return held or TYPICAL
    finally:
        with suppress(OSError):
            os.unlink(temporary)
    return measured


def measure() -> Costs:
    """The costs, measured now: the typical factor between times here and the expected ones."""
    threads = numba.get_num_threads()
    numba.set_num_threads(1)
    try:
        sums = {"direct": [_direct(*each) for each in _DIRECT], "fast": [_fast(*each) for each in _FAST]}
        factors = _factors(sums)
    finally:
        numba.set_num_threads(threads)
    return Costs(**factors).rounded()


def _factors(sums: dict[str, list[tuple[Call, float]]]) -> dict[str, float]:
    """For each kind the median over its sums of the least time, in units of the expected one; all in turn, so that
    what slows the machine for a while slows both kinds."""
    least = {kind: np.full(len(each), np.inf) for kind, each in sums.items()}
    for call, _ in sums["fast"] + sums["direct"]:  # in the order that `ahead` expects
        call()  # compiles, and touches memory
    for _ in range(_ROUNDS):
        for kind, each in sums.items():
            for i, (call, _) in enumerate(each):
                began = time.process_time()
                call()
                least[kind][i] = min(least[kind][i], time.process_time() - began)
    return {kind: float(np.median(least[kind] / [expected for _, expected in each])) for kind, each in sums.items()}


def _direct(n: int, k: int) -> tuple[Call, float]:
    """A direct sum over n points with keys and values in R^k, and the seconds expected of it."""
    x, out, backend = _cloud(n, k), np.empty((1, n, k)), Direct()
    pair = PairSum(ExpLaw(), True, x, x, x)
    return lambda: backend.attend(pair, out), TYPICAL.pairs(n * n, 2 * k, x.dtype)


def _fast(n: int, k: int, half: float) -> tuple[Call, float]:
    """A sum in O(n) over n points in the cube [-half, half]^k, and the seconds expected of it."""
    x, out, backend = half * _cloud(n, k), np.empty((1, n, k)), Unchecked()
    pair, box = PairSum(ExpLaw(), True, x, x, x), Box.around(*[half * np.array([-np.ones(k), np.ones(k)])] * 2)
    plan = planning.plan(box.loads, n, n, backend.tol)
    return lambda: backend.attend(pair, out), TYPICAL.grid(0.0 if plan is None else plan.seconds)


class Unchecked(Fast):
    """Without the checks of samples, which would be most of the time of a small sum, once in a while."""

    def _check(self, *_: Any) -> bool:
        return True


def _cloud(n: int, k: int) -> np.ndarray[Any, Any]:
    """Points (1, n, k) in the cube [-1, 1]^k: the same for ever."""
    return np.random.default_rng(k).uniform(-1.0, 1.0, (1, n, k))


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
