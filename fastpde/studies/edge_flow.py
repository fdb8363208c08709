"""A law and the edge of its support, moved in a clock of their own until they blow up or a time is over.

The nodes of a quadrature rule of the law are moved as tokens with their weights, and points of the edge of its support
are moved with them, without weight. Near a blow-up the time left is |x| / |x'| or less. In the clock
dtau = dt |x'| / |x| the largest |x| grows like e^tau at most, so that steps need not become short.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any, NamedTuple

import numpy as np

import fastpde as fp

Array = np.ndarray[Any, Any]
_LEFT = 1e-10  # |x| / |x'| over t at a blow-up: what is left of the time
_STEPS = 3000  # more are needed where tokens turn many times about the origin: such a flow is left
_RTOL = 1e-10
_NORM = 8  # |x| is the l^8 norm over the tokens of their lengths: nearly the largest one, and smooth
_FIRST, _GROWTH = 8, 1.5  # points per axis of the first rule, and how many more each next one has
_MOST = 2500  # nodes


class Flow(NamedTuple):
    """The end of a flow: t is the time of the blow-up if it blows up, else the last time asked for, or an earlier one.

    edges (k, p, d) are the points of the edge at the times asked for, nan after the blow-up; edge (p, d) those where
    the flow was left. nodes is the number of nodes, and error the relative difference of the last two rules.
    """

    t: float
    blows_up: bool
    edges: Array
    edge: Array
    nodes: int
    error: float

    @property
    def reach(self) -> Array:
        """The largest |x| (k,) of the edge at the times asked for."""
        return np.asarray(np.linalg.norm(self.edges, axis=2).max(axis=1))


def resolved(attention: fp.Attention, law: fp.laws.Law, edge: Array, times: Sequence[float], tol: float) -> Flow:
    """Return the flow by the first rule that agrees with the one before to `tol`, or by the finest one there is.

    Compared are the blow-up times, or the largest |x| of the edge at all times if nothing blows up.
    """
    m, before = _FIRST, None
    while True:
        nodes, weights = law.nodes(m)
        if before is not None and len(weights) > _MOST:
            return before
        found = followed(attention, nodes, weights, edge, times)
        if before is not None:
            found = found._replace(error=_difference(found, before))
        if (not found.blows_up and found.t < times[-1]) or found.error <= tol:
            return found
        before, m = found, int(np.ceil(_GROWTH * m))


def followed(attention: fp.Attention, nodes: Array, weights: Array, edge: Array, times: Sequence[float]) -> Flow:
    """Move nodes (q, d) with weights (q,), and points of the edge (p, d), to times[-1] or their blow-up, by DOP853."""
    from scipy.integrate import DOP853
    from scipy.optimize import brentq

    q, d = nodes.shape
    backend = fp.Direct()  # whose memory serves all evaluations
    start = np.append(np.concatenate([nodes, edge]).ravel(), 0.0)

    def slope(_: float, y: Array) -> Array:
        x = y[:-1].reshape(-1, d)
        velocity = attention.velocity(x[:q], at=x, weights=weights, backend=backend)
        clock = _size(x) / _size(velocity)
        return np.append((clock * velocity).ravel(), clock)

    edges, reached = np.full((len(times), *edge.shape), np.nan), 0
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):  # of stages that are too far
        run = DOP853(slope, 0.0, start, 1e6, rtol=_RTOL, atol=_RTOL * 1e-3 * _size(edge), max_step=0.5)
        for _ in range(_STEPS):
            run.step()
            if run.status == "failed":
                raise fp.InputError("radii", f"{_size(edge):g}", "radii at which velocities are finite numbers")
            path = run.dense_output() if run.y[-1] >= times[reached] else None
            while path is not None and reached < len(times) and run.y[-1] >= times[reached]:
                wanted = times[reached]
                tau = brentq(lambda s: path(s)[-1] - wanted, run.t_old, run.t, xtol=1e-14, rtol=1e-14)  # noqa: B023
                edges[reached] = path(tau)[:-1].reshape(-1, d)[q:]
                reached += 1
            if reached == len(times):
                return Flow(times[-1], False, edges, edges[-1], q, np.nan)
            if run.f[-1] < _LEFT * run.y[-1]:
                break
    blows_up = bool(run.f[-1] < _LEFT * run.y[-1])
    return Flow(float(run.y[-1]), blows_up, edges, run.y[:-1].reshape(-1, d)[q:], q, np.nan)


def _size(x: Array) -> float:
    """Return the l^8 norm of the lengths of vectors (n, d), which is their largest one up to n^{1/8}."""
    lengths = np.linalg.norm(x, axis=1)
    peak = lengths.max()
    return float(peak * np.sum((lengths / peak) ** _NORM) ** (1.0 / _NORM)) if peak > 0.0 else 0.0


def _difference(a: Flow, b: Flow) -> float:
    """Return the relative difference of two flows: of their blow-up times, or the largest of their reaches.

    Reaches are compared if neither blows up; the difference is inf if one alone does.
    """
    if a.blows_up != b.blows_up:
        return np.inf
    return abs(a.t / b.t - 1.0) if a.blows_up else float(np.abs(a.reach / b.reach - 1.0).max())
