"""The panels of sums on a grid against NumPy, and targets that share the cells of the sources."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde._jit import jit
from fastpde.simd import dots
from fastpde.sums.box import Box

ROWS, COLUMNS, COUNT = dots.DOT_ROWS, dots.DOT_COLUMNS, dots.LANE_COUNT


@jit
def dot_panel(left, right, count, out, step):
    dots.dot_panel(left, 0, left.shape[1], right, 0, right.shape[1], count, out, 0, step)


@jit
def sum_products(left, right, out):
    dots.sum_products(left, 0, left.shape[1], right, 0, right.shape[1], left.shape[0], out, 0)


@jit
def exponentials(values, count):
    dots.exponentials(values, count)


def test_a_dot_panel_adds_products_of_rows_in_their_places():
    rng = np.random.default_rng(0)
    count, step = 3 * COUNT, COLUMNS + 1
    left, right = rng.standard_normal((ROWS, 2 + count)), rng.standard_normal((COLUMNS, 2 + count))
    out = np.ones(ROWS * step)
    dot_panel(left, right, count, out, step)
    found = out.reshape(ROWS, step)
    # Sums of at most 24 products of size 1.
    np.testing.assert_allclose(found[:, :COLUMNS] - 1.0, left[:, :count] @ right[:, :count].T, atol=1e-14)
    assert (found[:, COLUMNS:] == 1.0).all()


def test_sums_of_products_along_the_points():
    rng = np.random.default_rng(1)
    left, right = rng.standard_normal((2, 5, 64))
    out = np.zeros(64)
    sum_products(left, right, out)
    width = np.flatnonzero(out).max() + 1
    assert width == 2 * COUNT
    np.testing.assert_allclose(out[:width], (left * right).sum(axis=0)[:width], atol=1e-14)


def test_exponentials_are_exact_to_rounding_and_clamped():
    values = np.concatenate([np.random.default_rng(2).uniform(-900, 900, 61), [-np.inf, -1e300, 2000.0]])
    found = values.copy()
    exponentials(found, len(found))
    want = np.exp2(np.clip(values, -1000.0, 1000.0))
    np.testing.assert_allclose(found, want, rtol=4e-16)


@pytest.mark.parametrize(("moved", "same"), [(0.0, True), (1e-13, True), (1e-6, False)])
def test_targets_that_are_moved_sources_are_known(moved, same):
    """1e-13 changes logits by 1e-13 half widths of the sources, far below a hundredth of the tolerance."""
    y = np.random.default_rng(3).uniform(-2, 2, (2, 500))
    z = y + 0.7
    z[0, 17] += moved
    ends = [np.stack([points.min(axis=1), points.max(axis=1)]) for points in (y, z)]
    assert Box.around(*ends, 2 * np.ones(2), 0.02).like(y, z, 1e-8) is same
    assert not Box.around(*ends, 2 * np.ones(2), 0.02).like(y, z[:, ::-1].copy(), 1e-8)
    assert not Box.around(*ends, 2 * np.ones(2), 0.02).like(y, z[:, :400], 1e-8)


@pytest.mark.parametrize("scale", [1.0, -1.0], ids=["K = Q", "K = -Q"])
def test_shared_cells_and_own_cells_are_both_right(scale):
    """K = Q makes balanced targets moved sources, K = -Q does not; the bound of the error holds for both."""
    centre = np.array([3.0, -1.0])
    x = np.random.default_rng(4).standard_normal((6000, 2)) + centre
    attention = fp.Softmax(np.eye(2), scale * np.eye(2), np.eye(2))
    fast = fp.Fast(1e-9)
    found = attention.velocity(x, backend=fast)
    assert fast.report["grids"] == 1
    spread = np.abs(x - x.mean(axis=0)).max()
    assert np.abs(found - attention.velocity(x, backend="direct")).max() < 1e-9 * spread
