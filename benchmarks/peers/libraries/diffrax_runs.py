"""diffrax: `diffeqsolve` with velocities by JAX; rk4 from a tableau, since diffrax has none of its own."""

from __future__ import annotations

from typing import Any, ClassVar

import diffrax
import jax
import jax.numpy as jnp
import numpy as np

from ..larger import Run
from ..work import Call
from .jax_sums import velocity

_CLASSICAL = diffrax.ButcherTableau(
    c=np.array([0.5, 0.5, 1.0]),
    b_sol=np.array([1 / 6, 1 / 3, 1 / 3, 1 / 6]),
    b_error=np.zeros(4),
    a_lower=(np.array([0.5]), np.array([0.0, 0.5]), np.array([0.0, 0.0, 1.0])),
)


class ClassicalRk4(diffrax.AbstractERK):  # type: ignore[misc, unused-ignore]
    """The classical Runge-Kutta method of order 4, without an estimate of its error."""

    tableau: ClassVar[diffrax.ButcherTableau] = _CLASSICAL
    interpolation_cls: ClassVar[Any] = diffrax.ThirdOrderHermitePolynomialInterpolation.from_k

    def order(self, terms: Any) -> int:
        """Return the order of convergence."""
        return 4


def call(work: Run) -> Call:
    """Prepare a run."""
    field = velocity(work.scale)
    term = diffrax.ODETerm(lambda t, y, args: field(y))
    fixed = work.method == "rk4"
    control: Any = diffrax.ConstantStepSize() if fixed else diffrax.PIDController(rtol=work.rtol, atol=work.rtol)
    solver: Any = ClassicalRk4() if fixed else diffrax.Dopri5()
    first = work.step if fixed else None

    def solve(x: Any) -> Any:
        return diffrax.diffeqsolve(term, solver, 0.0, work.t_end, first, x, stepsize_controller=control).ys[-1]

    x, compiled = jnp.asarray(work.tokens), jax.jit(solve)
    return lambda: np.asarray(compiled(x))
