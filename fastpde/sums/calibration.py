"""The costs of sums on this machine: measured once, in about a second, and kept beside the compiled kernels.

Times are processor times of this thread: a busy machine does not change them much. Where nothing can be kept, the costs
are those of a typical machine, so that every process of a computation chooses alike.
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

import numpy as np

from .._jit import cache_folder
from ..errors import InputError, InputTypeError
from ..simd import pool
from ..weights import Exp
from . import ways
from .chebyshev_grid import ChebyshevGrid
from .costs import TYPICAL, Costs, Estimate, pair_seconds
from .direct import Direct
from .pair_sum import PairSum

Call = Callable[[], object]

_ALONE = Costs(threads=1.0)
_ROUNDS = 12
# Sums near the size where the choice is hard: points, dimension, standard deviation.
_DIRECT = ((1536, 1, 1.0), (1536, 2, 1.0), (1024, 8, 1.0))
_FAST = ((2048, 1, 1.5), (4096, 2, 1.0), (4096, 3, 0.7))


def path() -> Path | None:
    """Return the file of the costs of this processor, for these kernels; None where nothing can be kept."""
    folder = cache_folder()
    if folder is None:
        return None
    import llvmlite.binding as llvm

    name = f"{llvm.get_host_cpu_name()} {sorted(llvm.get_host_cpu_features().items())}"
    return folder / f"costs-{_digest(name)[:16]}.json"


@cache
def costs() -> Costs:
    """Return the costs of this machine. The first call ever measures them."""
    file = path()
    if file is None:
        return TYPICAL
    return read(file) or _keep(file, measure())


def read(file: Path) -> Costs | None:
    """Return the costs in a file; None if there are none, or they are damaged."""
    try:
        held = json.loads(file.read_text(encoding="utf-8"))
        sound = held["digest"] == _digest(json.dumps(held["costs"]))
        return Costs.of(held["costs"]) if sound else None
    except (OSError, ValueError, KeyError, TypeError, InputError, InputTypeError):
        return None


def _keep(file: Path, measured: Costs) -> Costs:
    """Write the measured costs into the file, in one step.

    Return what the file holds then: another process may have been first. Return typical costs if it cannot be written.
    """
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
    """Measure the costs now, as the typical ratio of measured and predicted times."""
    threads = pool.threads()
    pool.set_threads(1)
    try:
        sums = {"direct": [_direct(*each) for each in _DIRECT], "fast": [_fast(*each) for each in _FAST]}
        factors = _factors(sums)
    finally:
        pool.set_threads(threads)
    return Costs(**factors, threads=float(_processors())).rounded()


def _processors() -> int:
    """Return the number of processors that this process may use, whatever number of threads is set."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def _factors(sums: dict[str, list[tuple[Call, float]]]) -> dict[str, float]:
    """Return, for each kind of sum, the median ratio of measured and predicted time over its sums.

    A measured time is itself a median. The sums are made in turn, so that what slows the machine for a while slows both
    kinds.
    """
    calls = {kind: [call for call, _ in each] for kind, each in sums.items()}
    for call in calls["fast"] + calls["direct"]:  # in the order that `ahead` expects
        call()  # compiles, and touches memory
    seconds = {kind: np.empty((_ROUNDS, len(each))) for kind, each in calls.items()}
    for row in range(_ROUNDS):
        for kind, each in calls.items():
            for i, call in enumerate(each):
                began = time.thread_time()
                call()
                seconds[kind][row, i] = time.thread_time() - began
    expected = {kind: [price for _, price in each] for kind, each in sums.items()}
    return {kind: float(np.median(np.median(found, axis=0) / expected[kind])) for kind, found in seconds.items()}


def _direct(n: int, k: int, scale: float) -> tuple[Call, float]:
    """Return a call that makes a direct sum over n points with keys and values in R^k, and its predicted seconds."""
    pair, out, backend = _pair(n, k, scale), np.empty((1, n, k)), Direct()
    expected = Estimate(pairs=n * n * pair_seconds(2 * k))
    return lambda: backend.attend(pair, out), _ALONE.seconds(expected)


def _fast(n: int, k: int, scale: float) -> tuple[Call, float]:
    """Return a call that makes such a sum on a grid, in O(n), and its predicted seconds."""
    pair, out, direct, way = _pair(n, k, scale), np.empty((n, k)), Direct(), ChebyshevGrid()

    def call() -> Estimate:
        return ways.only(way, pair, out, np.empty(0), direct)

    return call, _ALONE.seconds(call())


def _pair(n: int, k: int, scale: float) -> PairSum:
    """Return a softmax sum over Gaussian points, always the same ones."""
    x = scale * np.random.default_rng(k).standard_normal((1, n, k))
    return PairSum(Exp(), True, x, x)


def _digest(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()
