"""Grids whose size does not depend on the number of points."""

from __future__ import annotations

import numpy as np
import pytest

from fastpde.sums.planning import plan, steady

TOL = 1e-8


def sizes(grid):
    return [grid.slabs.tolist(), grid.order_z.tolist(), grid.order_y.tolist()]


def gaussian_loads(n):
    """What n tokens of N(0, I) have on each of two axes: the square of the largest of 2 n normal numbers, about."""
    return np.full(2, 2.0 * np.log(n) - np.log(np.pi * np.log(n)))


def test_a_steady_grid_does_not_grow_with_the_number_of_points():
    counts = (10**5, 10**6, 10**7)
    cheapest = [plan(gaussian_loads(n), n, n, TOL) for n in counts]
    found = [steady(gaussian_loads(n), grid, TOL) for n, grid in zip(counts, cheapest, strict=True)]
    assert sizes(found[0]) == sizes(found[1]) == sizes(found[2])
    nodes = [np.prod(grid.slabs * grid.order_y) for grid in cheapest]
    assert nodes[2] > 2 * nodes[0]


@pytest.mark.parametrize("axes", [1, 2])
@pytest.mark.parametrize("load", [0.5, 7.9, 8.0, 8.1, 60.0])
def test_a_steady_grid_is_fine_enough(axes, load):
    """Its cells are no wider than those of the grid planned for the larger box, whose error is bounded by tol; the
    bounds of both sides grow with the width of a cell. A box of at most twice the logits per axis, or four times."""
    L = np.full(axes, load)
    found = steady(L, plan(L, 1000, 1000, TOL), TOL)
    above = {1: 4.0, 2: 2.0}[axes] ** np.ceil(np.log(load) / np.log({1: 4.0, 2: 2.0}[axes]) - 1e-9)
    assert load <= above * (1 + 1e-8) < 4.01 * load
    assert sizes(found) == sizes(plan(np.full(axes, above), 10**6, 10**6, TOL))
    assert found.error <= TOL


def test_where_more_nodes_would_cost_too_much_the_cheapest_grid_serves():
    for L in (np.full(3, 9.0), np.full(2, 120.0)):  # three axes; out of range once rounded up
        cheapest = plan(L, 10**4, 10**4, TOL)
        assert steady(L, cheapest, TOL) is cheapest
