"""The choices of fp.Auto between the kinds of sums: its time against that of fp.Direct and fp.Fast over many clouds.

    python scripts/auto_choices.py [--n 1000 2000 ...] [--dims 1 2 3 64] [--tols 1e-6 1e-10] [--threads 2] [--repeats 5]

Every setting is timed with the three backends in random order, each warm; a row shows medians, and Auto's time in
units of the better one. Every sum is checked: the largest difference from the direct one, in units of
tol times the largest token.
"""

from __future__ import annotations

import argparse
import time

import numpy as np
from fast_errors import clouds

import fastpde as fp
from fastpde import sums

KINDS = ("gaussian", "ball", "heavy tails t3", "two tight clusters", "points on a line", "logits of 100")
AT_MOST = 1.3


def timed(attention: fp.Attention, x: np.ndarray, tol: float, repeats: int) -> tuple[list[float], float]:
    """Time Direct, Fast and Auto in turn; return their median seconds and the largest error of the last two."""
    several = [fp.Direct(), fp.Fast(tol), fp.Auto(tol)]
    found = [attention.velocity(x, backend=backend) for backend in several]
    seconds, rng = np.empty((repeats, len(several))), np.random.default_rng(0)
    for repeat in range(repeats):
        for i in rng.permutation(len(several)):  # what ran before matters: threads are awake, or caches are warm
            began = time.perf_counter()
            attention.velocity(x, backend=several[i])
            seconds[repeat, i] = time.perf_counter() - began
    error = max(float(np.abs(other - found[0]).max()) for other in found[1:])
    return np.median(seconds, axis=0).tolist(), error / (tol * float(np.abs(x - x.mean(axis=0)).max()))


def main() -> None:
    """Print one row per setting, and how many are beyond 1.3 times the better one."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--n", type=int, nargs="+", default=[1000, 2000, 4000, 8000, 16_000, 32_000])
    options.add_argument("--dims", type=int, nargs="+", default=[1, 2, 3, 16, 64, 128])
    options.add_argument("--tols", type=float, nargs="+", default=[1e-6, 1e-10])
    options.add_argument("--threads", type=int, default=2)
    options.add_argument("--repeats", type=int, default=5)
    given = options.parse_args()
    sums.set_threads(given.threads)
    print(f"{'n':>7} {'d':>1}  {'cloud':<20}{'tol':>7}{'direct':>10}{'fast':>10}{'auto':>10}{'ratio':>7}{'error':>9}")
    ratios = []
    for d in given.dims:
        attention = fp.Softmax(*[np.eye(d)] * 3)
        for n in given.n:
            every = clouds(n, d)
            for kind in KINDS:
                for tol in given.tols:
                    (direct, fast, auto), error = timed(attention, every[kind], tol, given.repeats)
                    ratios.append(auto / min(direct, fast))
                    print(
                        f"{n:>7} {d}  {kind:<20}{tol:>7.0e}{direct:>10.2e}{fast:>10.2e}{auto:>10.2e}{ratios[-1]:>7.2f}"
                        f"{error:>9.1e}",
                        flush=True,
                    )
    beyond = sum(ratio > AT_MOST for ratio in ratios)
    print(f"{beyond} of {len(ratios)} beyond {AT_MOST}; the worst {max(ratios):.2f}")


if __name__ == "__main__":
    main()
