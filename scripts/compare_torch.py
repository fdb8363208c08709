"""Velocities of fastpde against PyTorch's scaled_dot_product_attention on the CPU, in one process, interleaved.

    python scripts/compare_torch.py [--n 16384] [--repeats 7] [--threads 2]

Softmax with Q = K = V = I and scale 1 on standard normal tokens, the same arrays for both; medians of interleaved
repetitions, errors against a naive sum in extended precision on 64 rows. Then the other kinds of pair sum by their
speed per useful pair relative to softmax, and 2048 systems of 32 tokens with matrices of their own against batched
matrix products and batched attention: velocities, and right-hand sides of a run of `fp.solve`. PyTorch is no dependency
of fastpde: `pip install torch`.
"""

from __future__ import annotations

import argparse
import os
import sys
import time
from collections.abc import Callable
from typing import Any, NamedTuple

import numpy as np

Array = np.ndarray[Any, Any]
Work = Callable[[], Any]
WIDE = np.longdouble
ROWS, SYSTEMS, SMALL = 64, 2048, 32
# Of the runs of ensembles: steps, systems whose error is taken, and calls of PyTorch beside them.
STEPS, STEP, FEW, CALLS = 50, 0.01, 4, 20
DIMENSIONS, SMALL_DIMENSIONS = (1, 2, 8, 16, 64), (2, 4, 8)
STEPPED = ((32, 2), (32, 4), (32, 8), (64, 2))
DTYPES = ("float64", "float32")
LINE = "{:<22} {:>3} {:<8} {:>10} {:>10} {:>7} {:>9} {:>9}"


class Case(NamedTuple):
    """The same field twice: `ours` and `theirs` return it whole, `naive` is its value on the part that `pick` gives."""

    ours: Work
    theirs: Work
    pick: Callable[[Array], Array]
    naive: Array


def medians(works: list[Work], repeats: int) -> list[float]:
    """Return the median seconds of each work; all are run in turn in every repetition, after one unmeasured round."""
    for work in works:
        work()
    times = np.empty((repeats, len(works)))
    for row in times:
        for i, work in enumerate(works):
            start = time.perf_counter()
            work()
            row[i] = time.perf_counter() - start
    return [float(t) for t in np.median(times, axis=0)]


def softmax(scores: Array, values: Array) -> Array:
    """Return softmax(scores) values in the precision of the scores."""
    weight = np.exp(scores - scores.max(axis=-1, keepdims=True))
    return weight @ values / weight.sum(axis=-1, keepdims=True)


def error(got: Array, want: Array) -> float:
    """Return max |got - want| / max |want|."""
    return float(np.abs(got.astype(WIDE) - want).max() / np.abs(want).max())


def one_system(n: int, d: int, dtype: str) -> Case:
    """Return the case of n tokens with Q = K = V = I and scale 1."""
    import torch

    import fastpde as fp

    x = np.random.default_rng(d).standard_normal((n, d)).astype(dtype)
    attention, backend, tensor = fp.Softmax(*[np.eye(d)] * 3), fp.Direct(), torch.from_numpy(x)[None, None]
    rows = np.linspace(0, n - 1, min(n, ROWS)).astype(int)
    wide = x.astype(WIDE)
    return Case(
        lambda: attention.velocity(x, backend=backend),
        lambda: torch.nn.functional.scaled_dot_product_attention(tensor, tensor, tensor, scale=1.0)[0, 0].numpy(),
        lambda y: y[rows],
        softmax(wide[rows] @ wide.T, wide),
    )


def many_systems(d: int, dtype: str, n: int = SMALL) -> Case:
    """Return the case of many systems of n tokens, each with Q, K, V of its own."""
    import torch

    import fastpde as fp

    rng = np.random.default_rng(d)
    x = rng.standard_normal((SYSTEMS, n, d)).astype(dtype)
    matrices = (rng.standard_normal((3, SYSTEMS, d, d)) / np.sqrt(d)).astype(dtype)
    attention, backend = fp.Softmax(*matrices), fp.Direct()
    tensor, transposed = torch.from_numpy(x), [torch.from_numpy(m).transpose(1, 2).contiguous() for m in matrices]

    def theirs() -> Array:
        q, k, v = (torch.bmm(tensor, m)[:, None] for m in transposed)
        return torch.nn.functional.scaled_dot_product_attention(q, k, v, scale=1.0)[:, 0].numpy()

    q, k, v = (x[:ROWS].astype(WIDE) @ m[:ROWS].astype(WIDE).swapaxes(1, 2) for m in matrices)
    naive = softmax(q @ k.swapaxes(1, 2), v)
    return Case(lambda: attention.velocity(x, backend=backend), theirs, lambda y: y[:ROWS], naive)


def naive_rk4(x: Array, q: Array, k: Array, v: Array) -> Array:
    """Return x (B, n, d) after STEPS steps of size STEP, in the precision of x."""

    def field(y: Array) -> Array:
        scores = (y @ q.swapaxes(1, 2)) @ (y @ k.swapaxes(1, 2)).swapaxes(1, 2)
        return softmax(scores, y @ v.swapaxes(1, 2))

    for _ in range(STEPS):
        k1 = field(x)
        k2 = field(x + STEP / 2 * k1)
        k3 = field(x + STEP / 2 * k2)
        x = x + STEP / 6 * (k1 + 2 * k2 + 2 * k3 + field(x + STEP * k3))
    return x


def stepping(n: int, d: int, dtype: str, repeats: int) -> None:
    """Print the time of one right-hand side of 2048 systems, and the error of the run.

    It is that of a whole run of `fp.solve` with rk4, divided by the number of right-hand sides, against batched
    projections and batched attention alone.
    """
    import fastpde as fp

    once, rng = many_systems(d, dtype, n).theirs, np.random.default_rng(d)
    x = rng.standard_normal((SYSTEMS, n, d)).astype(dtype)
    matrices = (rng.standard_normal((3, SYSTEMS, d, d)) / np.sqrt(d)).astype(dtype)
    attention = fp.Softmax(*matrices)

    def ours() -> Array:
        end: Array = fp.solve(attention, x, (0.0, STEPS * STEP), method="rk4", step=STEP).x_final
        return end

    def theirs() -> None:  # many in a row: a single one after a pause takes twice as long
        for _ in range(CALLS):
            once()

    times = medians([ours, theirs], repeats)
    mine, other = times[0] / (4 * STEPS), times[1] / CALLS
    off = error(ours()[:FEW], naive_rk4(x[:FEW].astype(WIDE), *(m[:FEW].astype(WIDE) for m in matrices)))
    numbers = (f"{mine * 1e3:.2f}", f"{other * 1e3:.2f}", f"{other / mine:.2f}", f"{off:.1e}", "")
    print(LINE.format(f"{SYSTEMS} of {n}, solve", d, dtype, *numbers))


def against_torch(name: str, d: int, dtype: str, case: Case, repeats: int) -> None:
    """Print one comparison: milliseconds of both, how many times faster fastpde is, errors of both."""
    ours, theirs = medians([case.ours, case.theirs], repeats)
    errors = [f"{error(case.pick(work()), case.naive):.1e}" for work in (case.ours, case.theirs)]
    print(LINE.format(name, d, dtype, f"{ours * 1e3:.2f}", f"{theirs * 1e3:.2f}", f"{theirs / ours:.2f}", *errors))


def against_softmax(n: int, d: int, dtype: str, repeats: int) -> None:
    """Print the speed of the other sums per useful pair, softmax being 1."""
    import fastpde as fp

    rng = np.random.default_rng(d)
    x, eye, backend = rng.standard_normal((n, d)).astype(dtype), np.eye(d), fp.Direct()
    weights = rng.uniform(0.5, 1.5, n).astype(dtype)
    weights /= weights.sum(dtype=np.float64)
    plain, l2, sigmoid = (kind(eye, eye, eye) for kind in (fp.Softmax, fp.L2, fp.Sigmoid))
    masked, half = fp.Masked(plain), (n + 1) / (2 * n)
    works: dict[str, tuple[Work, float]] = {
        "softmax": (lambda: plain.velocity(x, backend=backend), 1.0),
        "l2": (lambda: l2.velocity(x, backend=backend), 1.0),
        "weights": (lambda: plain.velocity(x, weights=weights, backend=backend), 1.0),
        "masked": (lambda: masked.velocity(x, backend=backend), half),
        "sigmoid": (lambda: sigmoid.velocity(x, backend=backend), 1.0),
    }
    times = medians([work for work, _ in works.values()], repeats)
    for (name, (_, pairs)), seconds in zip(works.items(), times, strict=True):
        speed = pairs * times[0] / seconds
        print(LINE.format(f"{name} / softmax", d, dtype, f"{seconds * 1e3:.2f}", "", f"{speed:.2f}", "", ""))


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=16384, help="tokens (default 16384)")
    parser.add_argument("--repeats", type=int, default=7, help="repetitions of which the median is taken (default 7)")
    parser.add_argument("--threads", type=int, default=os.cpu_count(), help="threads of both (default: all cores)")
    read = parser.parse_args(arguments)
    for name in ("n", "repeats", "threads"):
        if getattr(read, name) < 1:
            parser.error(f"--{name}: got {getattr(read, name)}; need a whole number of at least 1")
    return read


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    chosen = options(arguments)
    # Before Numba and PyTorch start their threads.
    os.environ["NUMBA_NUM_THREADS"] = os.environ["OMP_NUM_THREADS"] = str(chosen.threads)
    try:
        import torch
    except ImportError:
        print(
            "compare_torch: error: PyTorch is not installed; it is needed here only: pip install torch", file=sys.stderr
        )
        return 2
    torch.set_num_threads(chosen.threads)
    print(f"n = {chosen.n}, threads: {chosen.threads}, PyTorch {torch.__version__}; ratio > 1: fastpde is faster")
    print(LINE.format("work", "d", "dtype", "ours ms", "torch ms", "ratio", "our err", "their err"))
    for dtype in DTYPES:
        for d in DIMENSIONS:
            against_torch("softmax", d, dtype, one_system(chosen.n, d, dtype), chosen.repeats)
    for dtype in DTYPES:
        for d in (2, 8):
            against_softmax(chosen.n, d, dtype, chosen.repeats)
    for dtype in DTYPES:
        for d in SMALL_DIMENSIONS:
            against_torch(f"{SYSTEMS} systems of {SMALL}", d, dtype, many_systems(d, dtype), chosen.repeats)
    for dtype in DTYPES:
        for n, d in STEPPED:
            stepping(n, d, dtype, chosen.repeats)
    return 0


if __name__ == "__main__":
    sys.exit(main())
