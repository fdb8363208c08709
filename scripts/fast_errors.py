"""A table of errors of fp.Fast over tolerances, in units of what is allowed: the largest of many sums for every cloud.

    python scripts/fast_errors.py [--n 10 1000 10000 100000] [--tols 1e-4 1e-6 1e-8 1e-10] [--dims 1 2 3] [--only TEXT]

Errors are differences from fp.Direct, for means relative to the spread of the tokens, for unnormalised sums relative to
the total weight times the largest token (the sum itself may cancel). They are taken at all tokens or, where there are
many, at random ones, the farthest, and those at the ends of the axes.
An error of tol + 4 u L is allowed (u the rounding unit, L the largest |logit|), because scores of size L have no more
digits. The direct sum may have the error 4 u L, too, so smaller differences say nothing.
"""

from __future__ import annotations

import argparse
import time

import numpy as np

import fastpde as fp

UNIT = 2.0**-52
ALL = 3000  # tokens up to which every one is compared


def clouds(n: int, d: int) -> dict[str, np.ndarray]:
    """Return tokens (n, d) of every kind, by name."""
    rng = np.random.default_rng([n, d])
    g = rng.standard_normal((n, d))
    u = g / np.linalg.norm(g, axis=1, keepdims=True)
    ball = u * rng.random((n, 1)) ** (1 / d)
    turn = np.linalg.qr(rng.standard_normal((d, d)))[0]
    side = np.where(rng.random((n, 1)) < 0.5, 1.0, -1.0)
    return {
        "gaussian": g,
        "ball": 5 * ball,
        "sphere": 3 * u,
        "heavy tails t3": rng.standard_t(3, (n, d)),
        "heavy tails t1.5": rng.standard_t(1.5, (n, d)),
        "anisotropic 1:100": 5 * (g * np.geomspace(1, 0.01, d)) @ turn,
        "two tight clusters": 20 / d**0.5 * side + 1e-3 * g,
        "collapsed 1e-12": 0.3 + 1e-12 * g,
        "points on a line": np.outer(2 * rng.standard_normal(n), turn[0]),
        "20 clusters": 3 * rng.standard_normal((20, d))[rng.integers(0, 20, n)] + 1e-2 * g,
        "logits of 100": 10 * ball,
        "logits of 300": 300**0.5 * ball,
        "logits of 1000": 1000**0.5 * ball,
    }


def attentions(d: int) -> dict[str, tuple[fp.Attention, np.ndarray | None]]:
    """Return attentions on R^d for the Gaussian cloud, by name."""
    rng = np.random.default_rng(d)
    one, (Q, K) = np.eye(d), rng.normal(size=(2, d, d)) / d**0.25
    heads = [fp.Softmax(Q, K, one), fp.L2(one, one, K), fp.Softmax(-one, one, Q)]
    return {
        "K = -Q": fp.Softmax(one, -one, one),
        "random Q": fp.Softmax(Q, K, one),
        "exponential": fp.Exponential(Q / 2, K / 2, one),
        "masked": fp.Masked(fp.Softmax(one, one, one)),
        "multi-head": fp.MultiHead(heads),
    }


def compared(x: np.ndarray) -> np.ndarray:
    """Return the indices of the tokens at which sums are compared."""
    if len(x) <= ALL:
        return np.arange(len(x))
    rng, size = np.random.default_rng(0), np.square(x - x.mean(axis=0)).sum(axis=1)
    ends = [np.argsort(x[:, k])[place] for k in range(x.shape[1]) for place in (slice(5), slice(-5, None))]
    return np.unique(np.concatenate([rng.integers(0, len(x), 60), np.argsort(size)[-40:], *ends]))


def logits(attention: fp.Attention, x: np.ndarray) -> float:
    """Return an upper bound of the largest |logit|."""
    parts = attention.heads if isinstance(attention, fp.MultiHead) else [getattr(attention, "attention", attention)]
    reach = np.square(x).sum(axis=1).max()
    return max(reach * (np.linalg.norm(part._score_matrix(0.0), 2) + isinstance(part, fp.L2)) for part in parts)


def ratio(attention: fp.Attention, x: np.ndarray, tol: float, weights: np.ndarray | None) -> float:
    """Return the largest error over what is allowed."""
    rows = compared(x)
    options = {} if weights is None else {"weights": weights}
    got = attention.velocity(x, backend=fp.Fast(tol), **options)[rows]
    if isinstance(attention, fp.Masked):
        options["at_positions"] = rows
    want = attention.velocity(x, at=x[rows], backend="direct", **options)
    allowed = tol + 4 * UNIT * (1 + logits(attention, x))
    if isinstance(attention, fp.Exponential):
        totals = np.exp(x[rows] @ attention._score_matrix(0.0).T @ x.T).mean(axis=1)
        return float((np.abs(got - want).max(axis=1) / totals).max() / (np.abs(x).max() * allowed))
    spread = np.abs(x - x.mean(axis=0)).max() or 1.0
    rounding = 4 * UNIT * np.abs(x).max() / spread  # of the tokens themselves
    return float(np.abs(got - want).max() / (spread * (allowed + rounding)))


def cases(n: int, d: int):
    """Yield (name, attention, tokens, weights) of every kind."""
    rng = np.random.default_rng([n, d, 1])
    one, weights = np.eye(d), rng.uniform(0.01, 1.0, n)
    weights /= weights.sum()
    for name, x in clouds(n, d).items():
        yield name, fp.Softmax(one, one, one), x, None
        yield f"{name}, L2", fp.L2(one, one, one), x, weights
    for name, attention in attentions(d).items():
        if name != "masked" or n <= 30000:
            yield name, attention, rng.standard_normal((n, d)), None
    if d == 2:
        for k in (1, 2, 3):
            Q, K = rng.normal(size=(2, k, 8)) / 8**0.5
            yield (
                f"rank {k} in d = 8",
                fp.Softmax(Q, K, rng.normal(size=(8, 8)) / 8**0.5),
                rng.normal(size=(n, 8)),
                weights,
            )


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("--n", type=float, nargs="+", default=[10, 1000, 1e4, 1e5])
    parser.add_argument("--tols", type=float, nargs="+", default=[1e-4, 1e-6, 1e-8, 1e-10])
    parser.add_argument("--dims", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--only", default="", help="clouds whose name has this in it")
    options = parser.parse_args()
    print(f"{'n':>8} d  {'cloud':32}" + "".join(f"{tol:>10.0e}" for tol in options.tols) + "   seconds")
    worst = 0.0
    for n in map(int, options.n):
        for d in options.dims:
            for name, attention, x, weights in cases(n, d):
                if options.only in name:
                    start = time.process_time()
                    found = [ratio(attention, x, tol, weights) for tol in options.tols]
                    worst = max(worst, *found)
                    numbers = "".join(f"{value:10.1e}" for value in found)
                    print(f"{n:8d} {d}  {name:32}{numbers}{time.process_time() - start:10.2f}", flush=True)
    print(f"largest error over what is allowed: {worst:.2g}")


if __name__ == "__main__":
    main()
