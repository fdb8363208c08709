"""How near sums come to the limits of this machine: its matrix products, its exponentials, and its memory."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from dataclasses import dataclass
from functools import partial

import numpy as np
from threadpoolctl import threadpool_limits

from .._types import Array
from ..kernels import exponentials
from ..simd import pool
from ..weights import Exp
from .direct import Direct
from .pair_sum import PairSum

_POINTS = 4096
_ROUNDS = 5
_DIMENSIONS = (2, 16, 64)
_SIDE = 512  # of square matrices, large enough for NumPy's products to be near their best
_TRIES = 8  # of what a limit is measured by in each round, of milliseconds each: the fastest counts
_LARGE = 2**22  # numbers of one thread, more than the cache of a core holds
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
    """Return, as a table for people, how fast a direct sum of softmax attention is, and the `share` of its limit."""
    found = {}
    for name in ("float64", "float32"):
        for d in _DIMENSIONS:
            x = np.random.default_rng(d).standard_normal((1, _POINTS, d)).astype(name) / d**0.5
            backend, pair, out = Direct(), PairSum(Exp(), True, x, x), np.empty_like(x)
            times: list[float] = []
            sum_once = partial(backend.attend, pair, out)
            part = share(partial(_timed, sum_once, times), Work.of_pairs(_POINTS**2, 2 * d), name)
            found[f"direct sums, {name}, d = {d}"] = (
                f"{_POINTS**2 / min(times) / 1e9:.2g} billion pairs per second, {part:.0%} of the most that this "
                "machine could do: its multiply-adds as fast as in matrix products, and its exponentials"
            )
    return found


def rates(dtype: np.dtype | str) -> tuple[float, float, float]:
    """Measure the seconds of a multiply-add, an exponential and a moved byte, all threads at work: the shortest."""
    with _meter(np.dtype(dtype), Work(1.0, 1.0, 1.0)) as measured:
        product, exponential, byte = np.min([measured() for _ in range(_ROUNDS)], axis=0)
    return float(product), float(exponential), float(byte)


def share(call: Callable[[], object], work: Work, dtype: np.dtype | str) -> float:
    """Measure the share of its limit that a call reaches which does `work` with numbers of a precision.

    The limit is the sum of the times for multiply-adds at the rate of NumPy's products of square matrices, for the
    exponentials alone, and for moving the bytes as NumPy copies large arrays, all on as many threads. Call and limits
    take turns, and the shortest time of each counts: others on the machine slow down one or the other. A call that does
    several of these at once, and loads and stores less than they do one by one, may be some per cents above 1.
    """
    amounts = np.array([work.multiply_adds, work.exponentials, work.moved])
    seconds: list[float] = []
    found: list[list[float]] = []
    with _meter(np.dtype(dtype), work) as measured:
        while len(found) < _ROUNDS and (len(found) < 3 or seconds[0] < _FEW):
            time.sleep(0.02)  # threads of another library may still be waiting for work
            call()
            seconds.append(_seconds(call))
            found.append(measured())
    return float(amounts @ np.min(found, axis=0) / min(seconds))


@contextmanager
def _meter(dtype: np.dtype, work: Work) -> Iterator[Callable[[], list[float]]]:
    """Give a function that measures the seconds of a multiply-add, an exponential and a byte; 0 for what is no work."""
    pool.start()
    threads = pool.threads()
    matrices = [np.ones((3, _SIDE, _SIDE), dtype) for _ in range(threads)] if work.multiply_adds else []
    copied = [np.ones((2, _LARGE)) for _ in range(threads)] if work.moved else []
    with ThreadPoolExecutor(threads) as executor:

        def measured() -> list[float]:
            powers = _exponential(dtype) if work.exponentials else 0.0
            return [_multiply_add(executor, matrices), powers, _byte(executor, copied)]

        yield measured


def _multiply_add(executor: ThreadPoolExecutor, matrices: list[Array]) -> float:
    """Return the seconds per multiply-add of products (3, n, n): a @ b into c, by every thread for itself.

    Where one product is shared among threads, each waits for the others, even if they have no core.
    """
    if not matrices:
        return 0.0

    def shortest(abc: Array) -> float:
        return min(_seconds(lambda: np.matmul(abc[0], abc[1], out=abc[2])) for _ in range(_TRIES))

    with threadpool_limits(1, "blas"):
        return 1.0 / (_SIDE**3 * sum(1.0 / seconds for seconds in executor.map(shortest, matrices)))


def _exponential(dtype: np.dtype) -> float:
    """Return the seconds per exponential of arrays in the cache, on all threads."""
    values = np.zeros((pool.threads(), exponentials.SIZE), dtype)
    shortest = min(_seconds(lambda: exponentials.replace(values)) for _ in range(_TRIES))
    return shortest / (values.size * exponentials.TIMES)


def _byte(executor: ThreadPoolExecutor, copied: list[Array]) -> float:
    """Return the seconds per byte that is read or written where every thread copies a large array."""
    if not copied:
        return 0.0
    seconds = _seconds(lambda: list(executor.map(lambda pair: np.copyto(pair[0], pair[1]), copied)))
    return seconds / sum(pair.nbytes for pair in copied)


def _timed(call: Callable[[], object], times: list[float]) -> None:
    times.append(_seconds(call))


def _seconds(call: Callable[[], object]) -> float:
    began = time.perf_counter()
    call()
    return time.perf_counter() - began
