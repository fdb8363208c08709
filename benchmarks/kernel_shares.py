"""Every kernel that a sum calls: its part of the time, and its share of what this machine can do.

    python -m benchmarks.kernel_shares [--threads 1] [--out FILE]

The limits are measured in the same process, on as many threads: multiply-adds by NumPy's matrix products, exponentials
by the kernels' own alone, bytes by copies of 32 MB. What a kernel must do at least is counted from its arguments:
multiply-adds and exponentials, which use the same units of a processor and so are added, or bytes, whichever takes
longer. Conversions, comparisons, divisions and indices are no part of the limit, though they take time.
"""

from __future__ import annotations

import argparse
import json
import os
import sys
import time
from collections import defaultdict
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from types import ModuleType
from typing import Any

os.environ.pop("OPENBLAS_CORETYPE", None)  # before NumPy is imported: it slows the matrix products

import numpy as np

import fastpde as fp
from fastpde import sums
from fastpde.kernels import attend, cell_moments, cells, contraction, expansion, moments, pack, project, reduce, systems
from fastpde.kernels import velocities as small
from fastpde.sums import limits

from . import common

REPEATS = 7


@dataclass(frozen=True)
class Work:
    """What a call must do at least."""

    products: float = 0.0  # multiply-adds
    exponentials: float = 0.0
    bytes: float = 0.0


@dataclass(frozen=True)
class Limits:
    """Seconds of a multiply-add and of an exponential in a precision, and of a byte, all threads at work."""

    product: dict[str, float]
    exponential: dict[str, float]
    byte: float

    def of(self, work: Work, dtype: str) -> float:
        """Return the seconds that some work takes at least."""
        computing = work.products * self.product[dtype] + work.exponentials * self.exponential[dtype]
        return max(computing, work.bytes * self.byte)


def measured() -> Limits:
    """Measure the limits of this machine, on the threads that are set."""
    found = {dtype: limits.rates(dtype) for dtype in ("float64", "float32")}
    return Limits(
        {dtype: rates[0] for dtype, rates in found.items()},
        {dtype: rates[1] for dtype, rates in found.items()},
        found["float64"][2],
    )


def _of_attend(*given: Any) -> Work:
    """Count a pair sum: products with the key and the carried columns, and an exponential, for each visible pair."""
    _, _, layout, _, _, _, targets, seen, _, out, _ = given
    pairs = targets.shape[0] * targets.shape[1] * layout.n
    if seen.shape[1]:
        pairs = float(seen.sum()) * targets.shape[0] / seen.shape[0]
    return Work(pairs * (targets.shape[2] + out.shape[2]), pairs)


def _of_bytes(*given: Any) -> Work:
    return Work(bytes=float(sum(a.nbytes for a in given if isinstance(a, np.ndarray) and a.ndim)))


def _of_project(x: Any, origin: Any, linear: Any, out: Any) -> Work:
    return Work(float(x.size) * out.shape[-1], bytes=x.nbytes + out.nbytes)


def _of_tiles(keys: Any, values: Any, weights: Any, weight: Any, memory: Any, partial: Any) -> Work:
    return Work(float(keys.size) * values.shape[-1], bytes=keys.nbytes + (0 if values is keys else values.nbytes))


def _of_moments(side: Any, items: Any, count: Any, points: Any, order: Any, *rest: Any) -> Work:
    """Count moments in cells: a product of polynomials on all axes for each point and sort of weights, after their
    recurrences.
    """
    return Work(float(order.size) * (len(rest[-1]) * np.prod(side.orders) + side.degrees))


def _of_expand(
    side: Any, items: Any, count: Any, points: Any, order: Any, tensors: Any, first: Any, gradient: Any, expansion: Any,
    *_: Any,
) -> Work:  # fmt: skip
    """Count the polynomials at each point, with their gradients along every axis, after the recurrences."""
    slopes, r, sums = len(expansion.bent) > 0, len(side.orders), len(tensors)
    bent = sums - (first < 0) if slopes else 0
    bent += first < 0 and gradient
    degrees = side.degrees * (1 + (gradient or slopes))
    return Work(float(order.size) * (np.prod(side.orders) * (sums + bent * (r > 1)) + degrees))


def _of_contract(tensor: Any, first: Any, rest: Any, matrix: Any, lanes: Any, *_: Any) -> Work:
    return Work(float(first) * rest * lanes)


def _of_small(weight: Any, shape: Any, forms: Any, first: Any, last: Any, size: Any, cuts: Any, *_: Any) -> Work:
    """Count the pairs of small systems with one head, as of a pair sum; an item is a part of a system."""
    pairs = (last - first) / (cuts[0] * cuts[1]) * float(shape.n) ** 2
    return Work(pairs * 2 * shape.d, pairs)


COUNTED: dict[tuple[ModuleType, str], Callable[..., Work]] = {
    (attend, "attend"): _of_attend,
    (pack, "pack_sources"): _of_bytes,
    (project, "project"): _of_project,
    (moments, "of_tiles"): _of_tiles,
    (cell_moments, "add_moments"): _of_moments,
    (expansion, "expand"): _of_expand,
    (contraction, "contract"): _of_contract,
    **{(cells, name): _of_bytes for name in ("find_slabs", "count", "scatter", "arrange")},
    (small, "velocities"): _of_small,
}


@contextmanager
def timed() -> Iterator[dict[str, list[tuple[float, Work | None]]]]:
    """Time every call from Python of a kernel, in a context; the works of those that are counted stand beside."""
    from numba.core.dispatcher import Dispatcher

    found: dict[str, list[tuple[float, Work | None]]] = defaultdict(list)
    patched: list[tuple[Any, str, Any]] = []
    kernels = {}
    for module in (attend, cell_moments, cells, contraction, expansion, moments, pack, project, reduce, systems, small):
        for name, kernel in vars(module).items():
            if isinstance(kernel, Dispatcher) and kernel.py_func.__module__ == module.__name__:
                kernels[kernel] = (f"{module.__name__.rpartition('.')[2]}.{name}", COUNTED.get((module, name)))

    def wrapped(kernel: Any, label: str, count: Callable[..., Work] | None) -> Callable[..., Any]:
        def call(*given: Any) -> Any:
            began = time.perf_counter()
            result = kernel(*given)
            seconds = time.perf_counter() - began
            found[label].append((seconds, count(*given) if count else None))
            return result

        return call

    for module in [module for name, module in sys.modules.items() if name.startswith("fastpde") and module]:
        for name, value in list(vars(module).items()):
            if isinstance(value, Dispatcher) and value in kernels and not name.startswith("_"):
                patched.append((module, name, value))
                setattr(module, name, wrapped(value, *kernels[value]))
    try:
        yield found
    finally:
        for module, name, value in patched:
            setattr(module, name, value)


def calls() -> dict[str, tuple[str, Callable[[], object]]]:
    """Return what is measured: name -> precision and a call."""

    def velocity(attention: fp.Attention, n: int, d: int, dtype: str, backend: Any) -> Callable[[], object]:
        x = common.tokens(n, d, dtype)
        return lambda: attention.velocity(x, backend=backend)

    found: dict[str, tuple[str, Callable[[], object]]] = {}
    for dtype in ("float64", "float32"):
        for d in (1, 2, 4, 8, 16, 32, 64, 128, 256):
            eye = np.eye(d)
            soft = fp.Softmax(eye, eye, eye, scale=d**-0.5)
            found[f"direct, d = {d}, {dtype}"] = dtype, velocity(soft, 4096, d, dtype, fp.Direct())
        eye = np.eye(2)
        soft, wide = fp.Softmax(eye, eye, eye), fp.Softmax(eye, eye, eye, scale=1e3)
        found[f"direct, logits of 1e4, d = 2, {dtype}"] = dtype, velocity(wide, 4096, 2, dtype, fp.Direct())
        found[f"direct sigmoid, d = 2, {dtype}"] = (
            dtype,
            velocity(fp.Sigmoid(eye, eye, eye), 4096, 2, dtype, fp.Direct()),
        )
        found[f"direct masked, d = 2, {dtype}"] = dtype, velocity(fp.Masked(soft), 4096, 2, dtype, fp.Direct())
        for d in (8, 64):
            linear = fp.Linear(*[np.eye(d)] * 3)
            found[f"linear, d = {d}, {dtype}"] = dtype, velocity(linear, (1 << 21) // d, d, dtype, fp.Direct())
        x = common.tokens(512 * 32, 2, dtype).reshape(512, 32, 2)
        found[f"512 systems of 32, d = 2, {dtype}"] = dtype, lambda x=x, a=soft: a.velocity(x, backend=fp.Direct())  # type: ignore[misc]
    for d, n in ((1, 1_000_000), (2, 1_000_000), (3, 300_000)):
        eye, backend = np.eye(d), fp.Fast(1e-8)
        found[f"in O(n), n = {n}, d = {d}"] = "float64", velocity(fp.Softmax(eye, eye, eye), n, d, "float64", backend)
    return found


def shares(machine: Limits, dtype: str, call: Callable[[], object]) -> list[tuple[str, float, float]]:
    """Return (kernel, its part of the time of a call, its share of the limit or nan) of the kernels of a call."""
    call()
    call()
    rows: dict[str, list[tuple[float, float]]] = defaultdict(list)
    totals = []
    for _ in range(REPEATS):
        time.sleep(0.02)
        with timed() as found:
            began = time.perf_counter()
            call()
            totals.append(time.perf_counter() - began)
        for label, some in found.items():
            shortest = sum(machine.of(work, dtype) if work else np.nan for _, work in some)
            rows[label].append((sum(seconds for seconds, _ in some), shortest))
    total = float(np.median(totals))
    table = []
    for label, some in rows.items():
        seconds, least = np.median(np.array(some), axis=0)
        table.append((label, float(seconds / total), float(least / seconds)))
    return sorted(table, key=lambda row: -row[1])


def main(arguments: list[str] | None = None) -> None:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--threads", type=int, default=1)
    parser.add_argument("--out", type=Path, help="write the table to this file (JSON)")
    given = parser.parse_args(arguments)
    sums.set_threads(given.threads)
    machine = measured()
    for dtype in machine.product:
        print(
            f"{dtype}: {1e-9 / machine.product[dtype]:.1f} billion multiply-adds, "
            f"{1e-9 / machine.exponential[dtype]:.2f} billion exponentials per second"
        )
    print(f"copies: {1e-9 / machine.byte:.1f} GB per second read and written")
    print(f"{'sum':<36} {'kernel':<26} {'of time':>7} {'of limit':>8}")
    rows = []
    for name, (dtype, call) in calls().items():
        for label, part, share in shares(machine, dtype, call):
            if part > 0.02:
                rows.append((name, label, part, share))
                print(f"{name:<36} {label:<26} {part:>7.0%} {share:>8.0%}", flush=True)
    if given.out:
        given.out.write_text(json.dumps(rows, indent=1) + "\n")


if __name__ == "__main__":
    main()
