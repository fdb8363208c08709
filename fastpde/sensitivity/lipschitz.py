"""How fast clouds move apart near a cloud: the norms of its Jacobian in the metric of W_2 (Theory 12.5)."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .._numbers import below_one
from .._types import Array
from ..attention.base import Attention
from ..errors import FieldError, explained
from ..manifold import Manifold
from ..solutions import brief
from .cloud_jacobian import DENSE, CloudJacobian, one_cloud

_RESTARTS = 300  # of Lanczos' method, ten products each


@dataclass(frozen=True)
class Lipschitz:
    """How the velocities of a cloud change with the cloud, returned by `lipschitz`. All rates are per unit of time.

    Attributes:
        norm: the largest singular value of J, the Lipschitz constant of the map from the cloud to its velocities.
        log_norm: the largest eigenvalue of (J + J*) / 2: no small distance of two clouds grows faster, token by token.
        point_rate: the largest eigenvalue of (D + D^T) / 2 of all tokens, D the Jacobian in the point for a fixed
            measure: the same for parts of a token that leave it in opposite directions.
        direction: (n, d), the displacement that grows at the rate `log_norm`, of W_2 norm one.
    """

    norm: float
    log_norm: float
    point_rate: float
    direction: Array

    def __repr__(self) -> str:
        return brief(self)

    @property
    def rate(self) -> float:
        """The local rate of W_2, max(log_norm, point_rate): see `lipschitz`."""
        return max(self.log_norm, self.point_rate)


@explained
def lipschitz(
    attention: Attention,
    x: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    manifold: Manifold | None = None,
    backend: Any = "auto",
    tol: float = 1e-8,
) -> Lipschitz:
    """Return the Lipschitz constants of the velocity at a cloud, in the norm |delta|_w^2 = sum_i w_i |delta_i|^2.

    J is the derivative of the velocities of all tokens in all their places, J* = W^{-1} J^T W its adjoint, in memory
    O(n) by Lanczos' method. Two clouds near x come apart at most at the `rate` of the result,

        d/dt log W_2 <= max( lambda_max((J + J*) / 2), max_i lambda_max((D_i + D_i^T) / 2) ),

    for W_2 of their laws; of masked attention for `fp.conditional_wasserstein`. The integral of the rate along a run
    bounds log W_2 of runs near it, usually far below `fp.stability_bound`, which holds for all clouds in a ball.

    Args:
        x: one cloud (n, d); it is taken in float64.
        t, weights, positions, backend: as of `velocity`. A backend in O(n) limits the accuracy to its own.
        manifold: as of `solve`: velocities and displacements are tangent to it.
        tol: relative accuracy of the eigenvalues, below 1.

    Raises:
        InputError, InputTypeError: naming the argument; for velocities that are not finite. FieldError: an eigenvalue
        was not found to `tol`.

    Source: Theory 12.5.
    """
    accuracy = below_one("tol", tol)
    moving, tokens = one_cloud("x", attention, x, t, weights, positions, manifold, backend)
    J = CloudJacobian(moving, tokens, float(t))
    D = J.of_points()
    point_rate = float(np.linalg.eigvalsh(0.5 * (D + D.swapaxes(1, 2))).max())
    if J.size <= DENSE:
        matrix = J.matrix()
        values, vectors = np.linalg.eigh(0.5 * (matrix + matrix.T))
        return Lipschitz(float(np.linalg.norm(matrix, 2)), float(values[-1]), point_rate, J.vectors(vectors[:, -1]))
    square, _ = _largest(J, lambda u: J.pull(J.push(u)), accuracy)
    norm = float(np.sqrt(max(square, 0.0)))
    # Shifted: an eigenvalue near zero would have to be found to more digits than there are.
    shifted, direction = _largest(J, lambda u: 0.5 * (J.push(u) + J.pull(u)) + 2.0 * norm * u, accuracy)
    return Lipschitz(norm, shifted - 2.0 * norm, point_rate, J.vectors(direction))


def _largest(J: CloudJacobian, apply: Callable[[Array], Array], tol: float) -> tuple[float, Array]:
    """Return the largest eigenvalue of a symmetric map, and its eigenvector (N,) of norm one."""
    from scipy.sparse.linalg import ArpackNoConvergence, eigsh

    start = np.random.default_rng(0).standard_normal(J.size)
    if not apply(start).any():
        return 0.0, start / np.linalg.norm(start)
    try:
        values, vectors = eigsh(J.operator(apply), k=1, which="LA", v0=start, tol=tol, maxiter=_RESTARTS)
    except ArpackNoConvergence as error:
        what = f"The largest eigenvalue was not found to {tol:g} in {_RESTARTS} restarts of Lanczos' method"
        raise FieldError(f"{what}: a larger tol, or sums as exact as it, are needed.") from error
    return float(values[0]), vectors[:, 0]
