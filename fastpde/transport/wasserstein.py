"""Wasserstein distances between clouds, and from a cloud to a Gaussian law."""

from __future__ import annotations

import warnings
from typing import Any, Literal, overload

import numpy as np

from .._types import Array
from ..errors import InputError, TransportError, closest, explained
from .bures import bures_wasserstein
from .divergence import divergence
from .line import line_cost, line_cost_to_normal
from .measures import Normal, Weighted, as_cloud, as_power, common_unit, refuse_if_large, same_dimension
from .sliced import sliced

METHODS = ("exact", "sliced", "sinkhorn")
# Bytes per pair of tokens that POT's network simplex takes, the costs included, measured.
_SIMPLEX = 48
# POT stops silently at its limit of pivots unless that is out of reach.
_PIVOTS = 2**62
# What rounding may leave of a marginal: sums of n numbers of size 1/n.
_MARGINAL = 1e-9


@overload
def wasserstein(
    x: Any,
    y: Any,
    p: float = 2,
    *,
    x_weights: Any = None,
    y_weights: Any = None,
    method: str = "exact",
    projections: int = 200,
    seed: int = 0,
    eps: float | None = None,
    backend: Any = "auto",
    return_error: Literal[False] = False,
) -> float: ...
@overload
def wasserstein(
    x: Any,
    y: Any,
    p: float = 2,
    *,
    x_weights: Any = None,
    y_weights: Any = None,
    method: str = "exact",
    projections: int = 200,
    seed: int = 0,
    eps: float | None = None,
    backend: Any = "auto",
    return_error: Literal[True],
) -> tuple[float, float]: ...
@explained
def wasserstein(
    x: Any,
    y: Any,
    p: float = 2,
    *,
    x_weights: Any = None,
    y_weights: Any = None,
    method: str = "exact",
    projections: int = 200,
    seed: int = 0,
    eps: float | None = None,
    backend: Any = "auto",
    return_error: bool = False,
) -> float | tuple[float, float]:
    """Return W_p(mu, nu) = min over couplings of (E |x - y|^p)^{1/p} of two clouds, or what `method` computes instead.

    - "exact": to rounding. d = 1: by sorting, any n. Else by POT's network simplex, in O(n m) memory and more than
      O(n m) time: about 3 s for n = m = 3000.
    - "sliced": the sliced distance, the mean over random directions of W_p^p on the line. It is another distance, at
      most W_p, of the same topology on bounded sets. O(n log n).
    - "sinkhorn", p = 2: the root of the Sinkhorn divergence, which tends to W_2 with eps, in O(n) memory.

    Args:
        x: tokens (n, d).
        y: tokens (m, d); or an `fp.Gaussian`, for p = 1 or 2: exact in d = 1 by quantiles, sliced in every d (its
            projections are known, nothing is sampled). For d > 1 there is no formula; `fp.bures_wasserstein(x, y)`
            bounds W_2 from below. Two Gaussians: exact for p = 2.
        p: a number >= 1.
        x_weights, y_weights: (n,), (m,), positive, sum 1; default 1/n, 1/m.
        projections, seed: number of directions and seed of "sliced".
        eps: regularisation of "sinkhorn", in units of |x - y|^2; default: a thousandth of the largest squared
            half-width of the box around both clouds.
        backend: how "sinkhorn" sums over pairs, as in `velocity`.
        return_error: return (value, error). "sliced": the standard error over the directions. "sinkhorn": a bound of
            the difference from W_2, proved by a coupling and by dual potentials. "exact": 0, rounding aside.

    Returns:
        A float, or (float, float) with `return_error`.

    Raises:
        InputError, InputTypeError: naming the argument; for a problem that does not fit the memory.
        TransportError: if the solver did not solve the problem.

    Source: Theory 8.3; Flamary et al., POT (JMLR 22, 2021); Feydy et al. (AISTATS 2019).
    """
    p = as_power(p)
    if method not in METHODS:
        remedy = closest(method, METHODS) if isinstance(method, str) else ""
        raise InputError("method", repr(method), f"one of {', '.join(map(repr, METHODS))}", remedy)
    if isinstance(x, Normal) or isinstance(y, Normal):
        found = _to_normal(x, y, p, x_weights, y_weights, method, projections, seed)
    else:
        left, right = as_cloud("x", x, x_weights), as_cloud("y", y, y_weights)
        same_dimension(left, right)
        if method == "exact":
            left, right, unit = common_unit(left, right)
            found = exact_cost(left, right, p) ** (1.0 / p) * unit, 0.0
        elif method == "sliced":
            found = sliced(left, right, p, projections, seed)
        else:
            found = divergence(left, right, p, eps, backend)
    return found if return_error else found[0]


def exact_cost(x: Weighted, y: Weighted, p: float) -> float:
    """Return W_p^p of two clouds. Raises InputError if the problem does not fit the memory; TransportError."""
    if x.x.shape[1] == 1:
        return line_cost(x, y, p)
    return _simplex(x, y, p)


def _costs(x: Array, y: Array, p: float) -> Array:
    """Return |x_i - y_j|^p (n, m), from differences, so that close tokens keep their digits."""
    from scipy.spatial.distance import cdist

    refuse_if_large(len(x), len(y), _SIMPLEX)
    if p == 2.0:
        return cdist(x, y, "sqeuclidean")
    costs = cdist(x, y)
    return costs if p == 1.0 else np.power(costs, p, out=costs)


def _simplex(x: Weighted, y: Weighted, p: float) -> float:
    """Return the cost of the optimal plan, found by POT's network simplex.

    Raises TransportError unless POT calls the plan optimal and its marginals are the masses. For equal masses the plan
    is an assignment too (Birkhoff); SciPy's solver of that is faster for clouds that are close, and several times
    slower for shifted ones.
    """
    import ot

    a, b = x.masses, y.masses
    costs = _costs(x.x, y.x, p)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # the log has the text of the warnings too
        plan, log = ot.emd(a, b, costs, numItermax=_PIVOTS, log=True)
    off = max(np.abs(plan.sum(axis=1) - a).sum(), np.abs(plan.sum(axis=0) - b).sum())
    if log["warning"] is not None or not off <= _MARGINAL:
        said = log["warning"] or "optimal"
        raise TransportError(
            f"The network simplex of {len(a)} and {len(b)} tokens ended with: {said}; its marginals are off by "
            f'{off:.3g}, need {_MARGINAL:g}. Take method="sinkhorn", or weights that differ less in size.'
        )
    return float(np.vdot(plan, costs))


def _to_normal(
    x: Any, y: Any, p: float, x_weights: Any, y_weights: Any, method: str, projections: int, seed: int
) -> tuple[float, float]:
    """Return the distance, and its error, where x or y is a Gaussian law."""
    for name, law, weights in (("x", x, x_weights), ("y", y, y_weights)):
        if isinstance(law, Normal) and weights is not None:
            raise InputError(f"{name}_weights", "values", "none for a Gaussian law")
        if isinstance(law, Normal) and law.mean.ndim != 1:
            raise InputError(name, f"a batch of Gaussian laws, {law.mean.shape[:-1]}", "one law")
    if isinstance(x, Normal) and isinstance(y, Normal):
        if p != 2.0 or method != "exact":
            raise InputError("p, method", f"{p:g}, {method!r}", 'p = 2 and method="exact" for two Gaussian laws')
        return float(bures_wasserstein(x, y)), 0.0
    name, tokens, weights, law = ("y", y, y_weights, x) if isinstance(x, Normal) else ("x", x, x_weights, y)
    cloud = as_cloud(name, tokens, weights)
    d = len(law.mean)
    if cloud.x.shape[1] != d:
        raise InputError(name, f"dimension {cloud.x.shape[1]}", f"dimension {d}, that of the law")
    if method == "sliced":
        return sliced(cloud, law, p, projections, seed)
    if method == "exact" and d == 1:
        return line_cost_to_normal(cloud, float(law.mean[0]), abs(float(law.factor[0, 0])), p) ** (1.0 / p), 0.0
    raise InputError(
        "method",
        f"{method!r} for a Gaussian law in dimension {d}",
        'method="sliced", or "exact" in dimension 1',
        "fp.bures_wasserstein(x, y) is a lower bound of W_2; tokens drawn from the law can take its place.",
    )
