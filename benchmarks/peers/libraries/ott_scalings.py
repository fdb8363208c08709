"""OTT: `linear.solve` on a point cloud, compiled. It stops by the L^1 norm of a marginal's error."""

from __future__ import annotations

from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from ott.geometry import pointcloud
from ott.solvers import linear

from ..larger import Scaling
from ..tuning import Tuned, tuned
from ..work import Call

jax.config.update("jax_enable_x64", True)

WHOLE = 8192  # up to so many tokens the whole matrix is kept, which is faster
TIGHTER = (1.0, 0.1, 0.01, 0.001)


def call(work: Scaling) -> Tuned:
    """Prepare a piece of work with the loosest threshold that reaches its error."""
    x, batch = jnp.asarray(work.tokens), None if work.n <= WHOLE else 1024

    def make(threshold: float) -> Call:
        def velocity(y: Any) -> Any:
            geometry = pointcloud.PointCloud(y, y, epsilon=work.reg, batch_size=batch)
            solved = linear.solve(geometry, threshold=threshold, max_iterations=100_000)
            return work.n / work.eps * solved.apply(y.T, axis=1).T

        compiled = jax.jit(velocity)
        return lambda: np.asarray(compiled(x))

    return tuned(work, "threshold", [work.tol * factor for factor in TIGHTER], make)
