"""Softmax velocities against the same sums by FINUFFT, on one thread, with the error of each beside its time.

    python -m benchmarks.finufft_gauss [n]

With Q = K = V = I the weights e^{<x, y>} are e^{|x|^2/2} e^{|y|^2/2} e^{-|x - y|^2/2}, and the Gauss kernel is a sum of
plane waves: one transform of type 1 of the weights e^{|y|^2/2}, and 1 + d of type 2 for the sum F and its gradient; the
mean of y is x + grad F / F. Tokens are centred first. Its error is relative to the largest weight, so it grows like
e^{|x|^2/2}. FINUFFT is asked for tighter and tighter tolerances; the first whose error is not above 3 times ours, if
there is one, is what we are compared with: the median of the ratios of runs that take turns.
"""

from __future__ import annotations

import math
import sys
import time
from collections.abc import Callable
from functools import partial

import numpy as np

import fastpde as fp
from fastpde.sums import set_threads

from . import common

LADDER = (1e-8, 1e-9, 1e-10, 1e-11, 1e-12, 1e-13, 1e-14)
REPEATS = 7  # odd: medians are of one pair


def nufft_means(x: common.Array, eps: float) -> common.Array:
    """Return the softmax means of tokens (n, d) with Q = K = I."""
    import finufft

    centre = (x.max(axis=0) + x.min(axis=0)) / 2
    u = x - centre
    n, d = u.shape
    cut = math.sqrt(2 * math.log(1 / eps))  # where the kernel, and its transform, fall below eps
    step = 2 * np.pi / (2 * np.abs(u).max() + cut)
    modes = 2 * math.ceil(cut / step) + 1
    waves = step * np.arange(-(modes // 2), modes // 2 + 1)
    points = [np.ascontiguousarray(column) for column in (step * u).T]
    # <x, y> = <x, u_y> + const: the targets keep their centre, which weighs the sources.
    logs = u @ centre + 0.5 * np.square(u).sum(axis=1)
    weights = np.exp(logs - logs.max()).astype(complex)
    options = {"eps": eps, "nthreads": 1}
    down = {1: finufft.nufft1d1, 2: finufft.nufft2d1, 3: finufft.nufft3d1}[d]
    up = {1: finufft.nufft1d2, 2: finufft.nufft2d2, 3: finufft.nufft3d2}[d]
    table = down(*points, weights, (modes,) * d, isign=-1, **options)
    for k in range(d):
        table *= np.exp(-0.5 * waves**2).reshape([-1 if i == k else 1 for i in range(d)])
    total = up(*points, table, isign=1, **options).real
    out = np.empty((n, d))
    for k in range(d):
        slope = up(*points, table * (1j * waves).reshape([-1 if i == k else 1 for i in range(d)]), isign=1, **options)
        out[:, k] = x[:, k] + slope.real / total
    return out


def seconds(*works: Callable[[], common.Array]) -> common.Array:
    """Return processor seconds (REPEATS, works), taken in turn: a machine that slows down slows all of them."""
    times = np.empty((REPEATS, len(works)))
    for row in times:
        for i, work in enumerate(works):
            start = time.process_time()
            work()
            row[i] = time.process_time() - start
    return times


def error(got: common.Array, x: common.Array) -> float:
    """Return the largest error at some rows, random and the farthest, relative to the spread of the tokens."""
    far = np.argsort(np.square(x - x.mean(axis=0)).sum(axis=1))[-20:]
    rows = np.unique(np.concatenate([np.random.default_rng(0).integers(0, len(x), 80), far]))
    want = fp.Softmax(*[np.eye(x.shape[1])] * 3).velocity(x, at=x[rows], backend=fp.Direct())
    return float(np.abs(got[rows] - want).max() / np.abs(x - x.mean(axis=0)).max())


def compare(x: common.Array, name: str) -> None:
    """Print times and errors of both for tokens (n, d)."""
    attention, backend = fp.Softmax(*[np.eye(x.shape[1])] * 3), fp.Fast(1e-8)

    def ours() -> common.Array:
        return attention.velocity(x, backend=backend)

    reached, wrong = error(ours(), x), math.inf
    print(f"{name}, largest logit {np.square(x).sum(axis=1).max():.0f}")
    for eps in LADDER:
        theirs = partial(nufft_means, x, eps)
        wrong = error(theirs(), x)
        times = seconds(ours, theirs)
        mine, other = np.median(times, axis=0)
        print(
            f"  fastpde tol 1e-08 {mine:7.3f} s, error {reached:.1e};  finufft eps {eps:.0e} {other:7.3f} s, error "
            f"{wrong:.1e};  {np.median(times[:, 1] / times[:, 0]):.1f} times as fast",
            flush=True,
        )
        if wrong <= 3 * reached:
            return
    print("  FINUFFT does not reach this error", flush=True)


def main(n: int) -> None:
    """Run all comparisons."""
    try:
        import finufft  # noqa: F401
    except ImportError:
        print("skipped: FINUFFT is not installed (pip install 'fastpde[bench]')")
        return
    set_threads(1)
    for d in (1, 2, 3):
        compare(common.tokens(n, d, "float64"), f"n = {n:g}, d = {d}, normal tokens")
    for d in (1, 2):
        x = common.tokens(n // 10, d, "float64")
        x *= math.sqrt(150.0 / np.square(x).sum(axis=1).max())
        compare(x, f"n = {n // 10:g}, d = {d}, logits of 150")


if __name__ == "__main__":
    main(int(float(sys.argv[1])) if len(sys.argv) > 1 else 1_000_000)
