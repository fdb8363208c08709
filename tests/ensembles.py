"""Ensembles to run, and the comparison of each of their systems with a run of it alone."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.simd import pool

EULER, RK4 = {"method": "euler", "step": 0.1}, {"method": "rk4", "step": 0.1}
SYSTEMS = 3


@pytest.fixture(autouse=True)
def one_thread():
    """Single runs make many short parallel calls, in which the threads of a busy machine mostly wait for each other.

    What several threads do is tested by bits, in processes of their own.
    """
    before = pool.threads()
    pool.set_threads(1)
    yield
    pool.set_threads(before)


def matrices(d, systems=SYSTEMS, rng=7):
    """Q, K, V (B, d, d), contracting so that no variant blows up."""
    rng = np.random.default_rng(rng)
    Q, K = np.eye(d) * 0.7 + rng.normal(size=(2, systems, d, d)) / (3 * d)
    return Q, K, -0.6 * np.eye(d) + rng.normal(size=(systems, d, d)) / (4 * d)


def tokens(n=21, d=3, systems=SYSTEMS, dtype="float64"):
    return (np.random.default_rng(n).normal(size=(systems, n, d)) / 2 + 0.3).astype(dtype)


def attention_of(kind, d, shared=False, heads=1):
    Q, K, V = (m[0] if shared else m for m in matrices(d))
    bias = {"bias": -0.4} if kind == "Sigmoid" else {}
    scale = 0.8 if shared else np.array([0.5, 0.8, 1.1])
    one = getattr(fp, kind)(Q, K, V, scale=scale, **bias)
    if heads == 1:
        return one
    Q, K, V = matrices(d, rng=8)
    other = getattr(fp, kind)(Q, K, V[:, :2], **bias)
    W = [np.eye(d) + 0.1, np.random.default_rng(1).normal(size=(d, 2)) / 4]
    return fp.MultiHead([one, other], W=W)


def alone(attention, x0, b, t_span, *, weights=None, **options):
    own = weights if weights is None or weights.ndim == 1 else weights[b]
    return fp.solve(attention.system(b), x0[b], t_span, weights=own, **options)


def run_both(attention, x0, t_span, **options):
    """The ensemble, and each of its systems alone."""
    # Both are asked for the end: a single run without t_eval would keep its event instead.
    options.setdefault("t_eval", sorted({*t_span}, reverse=t_span[1] < t_span[0]))
    together = fp.solve(attention, x0, t_span, **options)
    return together, [alone(attention, x0, b, t_span, **options) for b in range(len(x0))]


def assert_same(together, singles, tolerance):
    """States, ends and counts of the ensemble are those of the single runs, relative to the largest coordinate."""
    assert len(singles) == len(together.status)
    for b, one in enumerate(singles):
        size = np.abs(one.x_final).max()
        np.testing.assert_allclose(together.x[: len(one.t), b], one.x, rtol=0, atol=tolerance * size)
        np.testing.assert_allclose(together.x_final[b], one.x_final, rtol=0, atol=tolerance * size)
        assert together.status[b] is one.status
        assert np.isnan(together.x[len(one.t) :, b]).all()
        for name in ("steps", "rejected", "evaluations"):
            assert together.stats[f"{name}_each"][b] == one.stats[name]


def assert_alone(attention, x0, t_span, tolerance, *, path="fused", **options):
    """`assert_same` of a run by the given path, whose steps move every system; returns both."""
    together, singles = run_both(attention, x0, t_span, **options)
    assert together.stats["path"] == path
    assert_same(together, singles, tolerance)
    moved = (together.x_final != x0).any(axis=(1, 2))
    assert moved[together.stats["steps_each"] > 0].all()  # systems that stand still would show nothing
    return together, singles
