"""How near direct sums come to the limits of this machine: its matrix products, and its exponentials."""

from __future__ import annotations

import time
from collections.abc import Callable

import numpy as np

from .._types import Array
from ..kernels import exponentials
from ..simd import pool
from ..weights import Exp
from .direct import Direct
from .pair_sum import PairSum

_POINTS, _BLOCK = 4096, 256
_ROUNDS = 5
_DIMENSIONS = (2, 16, 64)


def shares() -> dict[str, str]:
    """Return, as a table for people, the share of its limits that a direct sum of softmax attention reaches.

    A pair needs two products of vectors, of keys and of values, and an exponential. The limits are the times of NumPy's
    matrix products for blocks of targets, and of the exponentials alone, on as many threads.
    """
    found = {}
    for dtype in (np.float64, np.float32):
        powers = exponentials_of(np.dtype(dtype))
        for d in _DIMENSIONS:
            x = np.random.default_rng(d).standard_normal((1, _POINTS, d)).astype(dtype) / d**0.5
            seconds, products = _timed(_direct(x), _products(x[0]))
            found[f"direct sums, {np.dtype(dtype).name}, d = {d}"] = (
                f"{_POINTS**2 / seconds / 1e9:.2g} billion pairs per second: {products / seconds:.0%} of the speed of "
                f"matrix products, {powers * _POINTS**2 / seconds:.0%} of that of exponentials"
            )
    return found


def exponentials_of(dtype: np.dtype) -> float:
    """Measure the seconds per exponential of arrays in the cache, on all threads."""
    values = np.zeros((pool.threads(), exponentials.SIZE), dtype)
    (seconds,) = _timed(lambda: exponentials.replace(values))
    return seconds / (values.size * exponentials.TIMES)


def _direct(x: Array) -> Callable[[], None]:
    """Return a call that makes the sum over points (1, n, d) for themselves."""
    backend, pair, out = Direct(), PairSum(Exp(), True, x, x), np.empty_like(x)
    return lambda: backend.attend(pair, out)


def _products(x: Array) -> Callable[[], None]:
    """Return a call that makes the matrix products of a sum over points (n, d) with themselves, block by block."""
    scores, sums, y = np.empty((_BLOCK, len(x)), x.dtype), np.empty((_BLOCK, x.shape[1]), x.dtype), x.T.copy()

    def call() -> None:
        for start in range(0, len(x), _BLOCK):
            np.matmul(x[start : start + _BLOCK], y, out=scores)
            np.matmul(scores, x, out=sums)

    return call


def _timed(*calls: Callable[[], object]) -> list[float]:
    """Return the median seconds of each call, made in turn, after one that is not counted and a pause."""
    seconds = np.empty((_ROUNDS, len(calls)))
    for row in range(_ROUNDS):
        for i, call in enumerate(calls):
            time.sleep(0.02)  # threads of the other library may still be waiting for work
            call()
            began = time.perf_counter()
            call()
            seconds[row, i] = time.perf_counter() - began
    return np.median(seconds, axis=0).tolist()
