"""Prices that make sums of a thousand points be made as those of a million are: on grids, by trees, in windows.

`Fast` compares expected seconds. A regime changes what they are made of, for as long as its context lasts.
"""

from __future__ import annotations

from contextlib import contextmanager
from dataclasses import replace

import numpy as np

from fastpde.sums import box_tree, masked_windows, planning, sigmoid_nodes, ways
from fastpde.sums.box_tree import BoxTree
from fastpde.sums.costs import Estimate
from fastpde.sums.direct import Direct

_DEAR = 0.1  # seconds that a direct sum is said to take: no sum on a grid that takes longer is tried
_LONGEST = 0.3  # seconds of a grid of a tree: longer ones take gigabytes, and are not dear enough for these prices


def dear(pairs):
    """Direct sums, and those that the ways make of parts of their pairs, are dear."""
    price = _DEAR / pairs
    return {
        (Direct, "estimate"): lambda self, task: Estimate(pairs=_DEAR), (sigmoid_nodes, "_OVERHEAD"): 0.0,
        (masked_windows, "pair_seconds"): lambda *_: 2.0 * price, (sigmoid_nodes, "pair_seconds"): lambda *_: price,
        (masked_windows, "_LONG"): 0.0, (masked_windows, "_HALVES"): 0.0, (masked_windows, "_LEAF"): 64,
    }  # fmt: skip


def grid(pairs):
    """One grid wherever there is one, windows of masks as short as they can be."""
    return dear(pairs) | {(ways, "WAYS"): [way for way in ways.WAYS if way.name != "tree"]}


def trees(pairs, gathering=1e-3, leaf=1e-6):
    """The tree whatever it costs, with small boxes; gathering: seconds per source of a grid; leaf: seconds per pair of
    its direct sums."""
    whole, prices = BoxTree.estimate, planning.prices

    def affordable(*arguments):
        found = prices(*arguments)
        return np.where(found > _LONGEST, np.inf, found)

    def free(self, task):
        found = whole(self, task)
        return None if found is None else replace(found, parallel=0.0, serial=0.0, pairs=0.0)

    return dear(pairs) | {
        (ways, "WAYS"): [way for way in ways.WAYS if way.name != "grid"], (BoxTree, "estimate"): free,
        (planning, "worth_a_tree"): lambda loads, seconds, targets: 0.1 < loads.sum() < np.inf,
        (planning, "prices"): affordable, (box_tree, "_FEW"): 32, (box_tree, "_GRID"): 0.0,
        (box_tree, "_CHEAP"): np.inf, (box_tree, "_GATHERING"): gathering, (box_tree, "_FURTHER"): 1.0,
        (box_tree, "pair_seconds"): lambda *_: leaf,
    }  # fmt: skip


def grids_of_trees(pairs):
    """The tree, its boxes on grids."""
    return trees(pairs, leaf=1e-2)


def leaves_of_trees(pairs):
    """The tree, its leaves summed directly over the sources that matter."""
    return trees(pairs, leaf=1e-12)


def halves(pairs):
    """Masks are halved down to small leaves; what is left of them is summed on grids."""
    return grid(pairs) | {(masked_windows, "_plan"): lambda reduced, box: None}


def halves_of_trees(pairs):
    """Masks are halved, what is left of them is summed by trees."""
    return trees(pairs) | {(masked_windows, "_plan"): lambda reduced, box: None}


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
