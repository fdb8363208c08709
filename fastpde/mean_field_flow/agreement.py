"""Finer and finer quadrature rules, until two carry the same points to the same places."""

from __future__ import annotations

from collections.abc import Iterator

import numpy as np

from .._types import Array
from ..errors import InputError
from . import refusals
from .moved_nodes import MovedNodes, Steps
from .node_sets import NodeSets, by_rule
from .setting import Setting

_FIRST, _GROWTH = 6, 1.5  # points per axis: of the first rule, and how many more each next one has
_FINEST = 1e-13  # rtol: below, steps are rounding
_STEPS, _FINER = 1e-2, 0.2  # rtol of the first rule as a fraction of tol, and of the next one as a fraction of that


def has_rule(setting: Setting) -> bool:
    """Return whether the laws have quadrature rules."""
    try:
        for s in setting.places:
            setting.law_at(float(s)).nodes(1)
    except InputError:
        return False
    return True


def by_agreement(setting: Setting, tol: float) -> MovedNodes:
    """Return the law by the first rule that agrees with the one before, to tol.

    Raises InputError if there is none: its message says up to which time two do.
    """
    before, reached, larger = None, 0, 0
    for k, nodes in enumerate(_rules(setting)):
        larger = nodes.count
        if larger > setting.most:
            if k < 2:
                raise InputError("most_nodes", str(setting.most), f"at least the {larger} nodes of two rules")
            break
        found = MovedNodes(setting, nodes, Steps(max(_FINEST, _STEPS * _FINER**k * tol)))
        if before is not None:
            found.error = _difference(found, before)
            reached = max(reached, int(np.argmax(np.append(found.error > tol, True))))
            if reached == len(setting.t):
                return found
            if not found.sol.success and reached == len(found.probes):  # as far as it can be followed
                break
        before = found
    count = found.nodes.count
    remedy = f"Later {count} nodes do not resolve the law, as where clusters form: raise tol"
    remedy += f", or most_nodes to {larger} and more." if larger > count else "."
    # The words stand in a sentence with "no", too.
    raise refusals.early(setting, reached, f"two rules agree to tol = {tol:g}", refusals.why(found.sol) or remedy)


def _rules(setting: Setting) -> Iterator[NodeSets]:
    """Yield finer and finer nodes.

    Where rules of all sizes have the same nodes, as for points, these are yielded twice and no more.
    """
    m, last = _FIRST, 0
    while True:
        nodes = by_rule(setting, m)
        yield nodes
        if nodes.count == last:  # the second run of these nodes has smaller steps
            return
        m, last = int(np.ceil(_GROWTH * m)), nodes.count


def _difference(found: MovedNodes, before: MovedNodes) -> Array:
    """Return the largest relative difference (k,) of two rules up to each time that both have reached.

    Lengths are relative to the largest distance of a probe from the origin; at first, moments are compared with those
    of the law, too.
    """
    k, setting = min(len(found.probes), len(before.probes)), found.setting
    size = np.maximum(np.linalg.norm(found.probes[:k, 0], axis=2).max(axis=1), setting.scale)
    off = np.linalg.norm(found.probes[:k, 0] - before.probes[:k, 0], axis=2).max(axis=1) / size
    laws = [setting.law_at(float(s)) for s in setting.places]
    for frame in range(k):
        mean, cov = found.moments_at(frame)
        others = [before.moments_at(frame)]
        if not frame:
            others.append((np.array([law.mean for law in laws]), np.array([law.cov for law in laws])))
        for a, b in others:
            far = np.abs(mean - a).max() / size[frame], np.abs(cov - b).max() / size[frame] ** 2
            off[frame] = max(off[frame], *far)
    return np.maximum.accumulate(off)
