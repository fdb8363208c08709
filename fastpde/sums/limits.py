"""How near sums come to the limits of this machine: its matrix products, its exponentials, and its memory."""

from __future__ import annotations

import time
from collections.abc import Callable
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass

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
_SIDE = 768  # of square matrices, large enough for NumPy's products to be at their best
_LARGE = 2**22  # numbers of one thread that no cache holds
_FEW = 0.2  # seconds of a call from which on it is measured three times only


@dataclass(frozen=True)
class Work:
    """What a computation cannot do without, whatever its algorithm's details are.

    Attributes:
        multiply_adds: of numbers of its precision.
        exponentials: of the same.
        moved: bytes that are read from memory or written to it.
    """

    multiply_adds: float = 0.0
    exponentials: float = 0.0
    moved: float = 0.0

    @staticmethod
    def of_pairs(pairs: float, columns: int) -> Work:
        """Return the work of a pair sum: for each pair a multiply-add per column and an exponential.

        columns: those of the keys and of the values together, 2 d for one head with square matrices.
        """
        return Work(multiply_adds=pairs * columns, exponentials=pairs)

    def __add__(self, other: Work) -> Work:
        return Work(
            self.multiply_adds + other.multiply_adds,
            self.exponentials + other.exponentials,
            self.moved + other.moved,
        )


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


def share(call: Callable[[], object], work: Work, dtype: np.dtype | str) -> float:
    """Measure the share of its limit that a call reaches which does `work` with numbers of a precision.

    The limit is the sum of the times for multiply-adds at the rate of NumPy's products of large matrices, for the
    exponentials alone, and for moving the bytes as NumPy copies large arrays; all on as many threads, in turn with the
    call. Nothing that computes one after the other gets below it, so a share is at most 1, but for noise.
    """
    dtype = np.dtype(dtype)
    first, second, product = np.ones((3, _SIDE, _SIDE), dtype)
    values = np.zeros((pool.threads(), exponentials.SIZE), dtype)
    limits: list[tuple[float, Callable[[], object]]] = []
    if work.multiply_adds:
        limits.append((work.multiply_adds / _SIDE**3, lambda: np.matmul(first, second, out=product)))
    if work.exponentials:
        limits.append((work.exponentials / (values.size * exponentials.TIMES), lambda: exponentials.replace(values)))
    with ThreadPoolExecutor(pool.threads()) as executor:
        if work.moved:
            copy, moved = _copies(executor)
            limits.append((work.moved / moved, copy))
        # The shortest times: others on the machine slow down one or the other.
        seconds, *rates = np.min(_rounds(call, *(limit for _, limit in limits)), axis=0).tolist()
    return sum(times * rate for (times, _), rate in zip(limits, rates, strict=True)) / seconds


def _copies(executor: ThreadPoolExecutor) -> tuple[Callable[[], object], int]:
    """Return a call by which every thread copies a large array, and the bytes that all read and write."""
    arrays = [np.ones((2, _LARGE)) for _ in range(pool.threads())]

    def copy() -> None:
        list(executor.map(lambda pair: np.copyto(pair[0], pair[1]), arrays))

    return copy, sum(pair.nbytes for pair in arrays)


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
    """Return the median seconds of each call."""
    found: list[float] = np.median(_rounds(*calls), axis=0).tolist()
    return found


def _rounds(*calls: Callable[[], object]) -> list[list[float]]:
    """Return the seconds of some rounds of calls, made in turn, each after one that is not counted and a pause.

    If a call takes long, there are fewer rounds.
    """
    rounds: list[list[float]] = []
    while len(rounds) < _ROUNDS and (len(rounds) < 3 or max(rounds[0]) < _FEW):
        seconds = []
        for call in calls:
            time.sleep(0.02)  # threads of the other library may still be waiting for work
            call()
            began = time.perf_counter()
            call()
            seconds.append(time.perf_counter() - began)
        rounds.append(seconds)
    return rounds
