"""Finer and finer quadrature rules, until two carry the same points to the same places."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import replace

import numpy as np

from ..errors import InputError
from . import refusals
from .moved_nodes import MovedNodes, Steps
from .node_sets import NodeSets, by_rule
from .setting import Setting

_FIRST, _GROWTH = 6, 1.5  # points per axis: of the first rule, and how many more each next one has
_FINEST = 1e-13  # rtol: below, steps are rounding
_STEPS, _FINER = 1e-2, 0.2  # rtol of the first rule as a fraction of tol, and of the next one as a fraction of that
_DEAR = 1e10  # pairs to be summed, above which is seen first whether the rules that are allowed can agree
_LOOSE, _PARTED = 1e-6, 30.0  # rtol of runs that look ahead; and how far a difference is above tol and their errors
_BEYOND = 2.1  # how far times go beyond the end of nodes, which no rule resolves: it is between two of them
_CLOSER = 3  # how often a time up to which rules agree is sought between the first two times


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

    Raises InputError if no two agree to the end: its message says up to which time two do.
    """
    found, reached, told, end = _search(setting, tol)
    if found is not None:
        return found
    near = setting
    for _ in range(_CLOSER):
        if reached != 1:
            break
        last = min(near.t[1], near.t[0] + _BEYOND * (end - near.t[0]))
        near = replace(near, t=np.linspace(near.t[0], last, len(near.t)))
        found, reached, *_ = _search(near, tol)
        reached = len(near.t) if found is not None else reached
    # The words stand in a sentence with "no", too.
    raise refusals.early(setting, near.t, reached, f"two rules agree to tol = {tol:g}", told, end)


def _search(setting: Setting, tol: float) -> tuple[MovedNodes | None, int, str, float]:
    """Return the first rule that agrees with the one before at all times; or None, at how many times two rules agree,
    what is the matter, and when the nodes end, inf if they do not.

    Nodes are moved no farther than they agree with others.
    """
    rules: list[MovedNodes] = []
    reached, larger, scouted = 0, 0, False
    for k, nodes in enumerate(_rules(setting)):
        larger = nodes.count
        if larger > setting.most:
            if k < 2:
                raise InputError("most_nodes", str(setting.most), f"at least the {larger} nodes of two rules")
            break
        if not scouted and k > 1 and _price(rules[-1], larger) > _DEAR:
            scouted, told = True, _blind(setting, tol)
            if told:
                return None, reached, told, np.inf
        rules = [*rules[:1], *rules[1:][-1:], MovedNodes(setting, nodes, Steps(_rtol(k, tol)))]
        if k:
            found, before = rules[-1], rules[-2]
            reached = max(reached, _agree(found, before, tol))
            if reached == len(setting.t):
                return found, reached, "", np.inf
            if found.ended and reached == found.frames:  # as far as it can be followed
                break
    first, count = rules[0], rules[-1].nodes.count
    first.reach(len(setting.t) - 1)  # few nodes: do they blow up?
    remedy = f"Later {count} nodes do not resolve the law, as where clusters form: raise tol"
    remedy += f", or most_nodes to {larger} and more." if larger > count else "."
    told = refusals.why(rules[-1].sol) or refusals.why(first.sol) or remedy
    return None, reached, told, min(refusals.lost(run.sol) for run in (rules[-1], first))


def _rtol(k: int, tol: float) -> float:
    """Return the relative tolerance of the steps of rule k."""
    return max(_FINEST, _STEPS * _FINER**k * tol)


def _price(before: MovedNodes, count: int) -> float:
    """Return how many pairs are summed to move `count` nodes as far as others have come."""
    return before.sol.stats["evaluations"] * len(before.nodes.x) * float(count) ** 2


def _blind(setting: Setting, tol: float) -> str:
    """Return why the rules that are allowed cannot agree to the end, as runs of the two finest show; "" if they may.

    Their steps are large. What that does to places is seen in two runs of the fewest nodes; a difference that is far
    above it, and above tol, is one of the nodes.
    """
    allowed: list[NodeSets] = []
    for nodes in _rules(setting):
        if nodes.count > setting.most:
            break
        allowed.append(nodes)
    loose = Steps(max(_LOOSE, _STEPS * tol))
    few, finer = (MovedNodes(setting, allowed[0], steps) for steps in (loose, Steps(0.01 * loose.rtol)))
    before, found = (MovedNodes(setting, nodes, loose) for nodes in allowed[-2:])
    with found.reporting() as report:
        for frame, t in enumerate(setting.t):
            if not (found.reach(frame, report) and all(run.reach(frame) for run in (before, few, finer))):
                return ""
            if _difference(found, before, frame) > _PARTED * max(tol, _difference(few, finer, frame)):
                more = f"With more nodes that is later, but {found.nodes.count} do not resolve the law at t = {t:.4g}"
                return f"{more}: raise tol, or most_nodes."
    return ""


def _rules(setting: Setting) -> Iterator[NodeSets]:
    """Yield finer and finer nodes, as far as laws have such.

    Where rules of all sizes have the same nodes, as for points, these are yielded twice and no more.
    """
    m, last = _FIRST, 0
    while True:
        try:
            nodes = by_rule(setting, m)
        except InputError:
            if not last:
                raise
            return
        yield nodes
        if nodes.count == last:  # the second run of these nodes has smaller steps
            return
        m, last = int(np.ceil(_GROWTH * m)), nodes.count


def _agree(found: MovedNodes, before: MovedNodes, tol: float) -> int:
    """Move two rules as far as they agree to tol; return at how many times they do. `found` keeps their differences."""
    off: list[float] = []
    with found.reporting() as report:
        for frame in range(len(found.setting.t)):
            if not (found.reach(frame, report) and before.reach(frame)):
                break
            off.append(max([_difference(found, before, frame), *off[-1:]]))
            if not off[-1] <= tol:
                break
    found.error = np.array(off)
    return int(np.count_nonzero(found.error <= tol))


def _difference(found: MovedNodes, before: MovedNodes, frame: int) -> float:
    """Return the largest relative difference of two rules at a time.

    Lengths are relative to the largest distance of a probe from the origin; at first, moments are compared with those
    of the law, too.
    """
    setting, x = found.setting, found.probes[frame, 0]
    size = max(float(np.linalg.norm(x, axis=1).max()), setting.scale)
    off = float(np.linalg.norm(x - before.probes[frame, 0], axis=1).max()) / size
    (mean, cov), others = found.moments_at(frame), [before.moments_at(frame)]
    if not frame:
        laws = [setting.law_at(float(s)) for s in setting.places]
        others.append((np.array([law.mean for law in laws]), np.array([law.cov for law in laws])))
    for a, b in others:
        off = max(off, float(np.abs(mean - a).max()) / size, float(np.abs(cov - b).max()) / size**2)
    return off
