"""Prices that make sums of a thousand points be made as those of a million are: on grids, by trees, in windows.

`Fast` compares expected seconds. A regime changes the constants behind them, for as long as its context lasts.
"""

from __future__ import annotations

from contextlib import contextmanager

import numpy as np

from fastpde.sums import box_tree, masked_windows, planning, sigmoid_nodes

_DEAR = 0.1  # seconds that a direct sum is said to take: no sum on a grid that takes longer is tried
_LONGEST = 0.3  # seconds of a grid of a tree: longer ones take gigabytes, and are not dear enough for these prices


def grid(pairs):
    """Direct sums are dear: one grid wherever there is one, windows of masks as short as they can be."""
    rate = pairs / _DEAR
    return {
        (box_tree, "_RATE"): rate, (box_tree, "_WORTH_A_TREE"): float("inf"), (masked_windows, "_RATE"): 0.5 * rate,
        (masked_windows, "_SMALL"): 0.0, (masked_windows, "_LEAF"): 64, (sigmoid_nodes, "_RATE"): rate, (sigmoid_nodes, "_OVERHEAD"): 0.0,
    }  # fmt: skip


def trees(pairs, gathering=1e-3, leaf=1e6):
    """The tree whatever it costs, with small boxes; gathering: seconds per source of a grid; leaf: pairs per second of
    its direct sums."""
    whole, prices = box_tree.Sum._tree, planning.prices

    def affordable(*arguments):
        found = prices(*arguments)
        return np.where(found > _LONGEST, np.inf, found)

    return grid(pairs) | {
        (box_tree, "_WORTH_A_TREE"): -1.0, (box_tree, "_GOOD"): 0.0, (box_tree, "_SPLIT_FROM"): 0.1, (box_tree, "_FEW"): 32,
        (box_tree, "_GRID"): 0.0, (box_tree, "_GATHERING"): gathering, (box_tree, "_PRUNED_RATE"): leaf,
        (planning, "prices"): affordable, (box_tree.Sum, "_tree"): lambda job, box, least: whole(job, box, float("inf")),
    }  # fmt: skip


def grids_of_trees(pairs):
    """The tree, its boxes on grids."""
    return trees(pairs, leaf=1e2)


def leaves_of_trees(pairs):
    """The tree, its leaves summed directly over the sources that matter."""
    return trees(pairs, leaf=1e12)


def halves(pairs):
    """Masks are halved down to small leaves; what is left of them is summed on grids."""
    return grid(pairs) | {(masked_windows, "_plan"): lambda job, box: None}


def halves_of_trees(pairs):
    """Masks are halved, what is left of them is summed by trees."""
    return trees(pairs) | {(masked_windows, "_plan"): lambda job, box: None}


def natural(pairs):
    """The prices as they are."""
    return {}


REGIMES = {
    regime.__name__: regime
    for regime in (natural, grid, trees, grids_of_trees, leaves_of_trees, halves, halves_of_trees)
}


@contextmanager
def prices(name, pairs):
    """The prices of a regime for a sum over so many pairs."""
    changed = REGIMES[name](float(pairs))
    before = {(owner, key): getattr(owner, key) for owner, key in changed}  # a name that is gone is an error
    try:
        for (owner, key), value in changed.items():
            setattr(owner, key, value)
        yield
    finally:
        for (owner, key), value in before.items():
            setattr(owner, key, value)
