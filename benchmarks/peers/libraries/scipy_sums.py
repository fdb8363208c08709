"""SciPy: `special.softmax` of the scores of a chunk of targets, and `integrate.solve_ivp` on velocities by NumPy."""

from __future__ import annotations

from scipy.integrate import solve_ivp
from scipy.special import softmax

from ..larger import Run
from ..tuning import in_chunks
from ..work import Array, Call, Work
from . import numpy_sums


def call(work: Work) -> Call:
    """Prepare a piece of work."""
    if isinstance(work, Run):
        return run(work)
    x, scale = work.tokens, work.tokens.dtype.type(work.scale)
    return lambda: in_chunks(x, lambda targets: softmax((targets * scale) @ x.T, axis=1) @ x)


def run(work: Run) -> Call:
    """Prepare a run by RK45, which is dopri5."""
    x = work.tokens

    def field(_: float, flat: Array) -> Array:
        return numpy_sums.velocity(flat.reshape(x.shape), work.scale).ravel()

    def solve() -> Array:
        solved = solve_ivp(field, (0.0, work.t_end), x.ravel(), method="RK45", rtol=work.rtol, atol=work.rtol)
        end: Array = solved.y[:, -1].reshape(x.shape)
        return end

    return solve
