"""How the energies of MATH 7 change along the flow, and an observer that keeps their balance."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._types import Array, as_tokens
from .attention import Attention, Sinkhorn
from .attention.base import make_cloud
from .energy import interaction_energy, sinkhorn_energy
from .errors import InputError, InputTypeError


def dissipation(
    attention: Attention, x: Any, *, t: float = 0.0, weights: Any = None, backend: Any = "auto"
) -> float | Array:
    """dE/dt = int <grad dE/dmu, Gamma_mu> dmu along the flow of an attention, Q^T K symmetric, any V.

    E is `fp.interaction_energy` for Softmax and Exponential, `fp.sinkhorn_energy` for Sinkhorn, and the sum over heads
    for MultiHead. With V = B Q^T K it is int Z Gamma^T B^{-1} Gamma dmu, Z = int e^s dmu, for Softmax: the dissipation
    of a gradient flow in the twisted metric; with V = Q^T K int |Gamma|^2 dmu for Exponential and
    -2 eps int |Gamma|^2 dmu for Sinkhorn: that of a W_2 gradient flow.

    Args:
        x: tokens (n, d) or (B, n, d); the other arguments as in `velocity`.

    Returns:
        A float, or (B,) for a batch.

    Raises:
        InputError, InputTypeError: naming the argument; where no energy is known, or Q^T K is not symmetric.
        ConvergenceError: of a Sinkhorn scaling.

    Source: MATH 7; Castin et al. 2025.
    """
    from .backends import resolve

    if not isinstance(attention, Attention):
        raise InputTypeError("attention", type(attention).__name__, "an attention, as fp.Softmax(Q, K, V)")
    tokens = as_tokens("x", x)
    wide = tokens.astype(np.float64, copy=False)
    cloud = make_cloud(attention, wide, weights, None, None, None)
    length = attention.check(cloud.x, t)
    if length != cloud.x.shape[2]:
        raise InputError("attention", f"a field of length {length}", f"{cloud.x.shape[2]}, the dimension of the tokens")
    summing = resolve(backend)
    gradient = attention.energy_gradient(cloud, float(t), summing)
    field = np.empty(cloud.x.shape)
    attention.evaluate(cloud, float(t), summing, field)
    work = (gradient * field).sum(axis=2)
    total = work.mean(axis=1) if cloud.weights is None else (cloud.weights * work).sum(axis=1)
    return total if tokens.ndim == 3 else float(total[0])


class EnergyRecord:
    """Records the energy of a run and its rate of change, as the callback of an observer.

        record = fp.EnergyRecord(attention)
        fp.solve(attention, x0, (0.0, 1.0), observers=[fp.Observer(record, time=0.01)])
        record.t, record.energy, record.dissipation     # (m,) each
        record.violations(), record.imbalance()

    `trend` is what theory says the energy does: 1 it rises, -1 it falls, 0 nothing is known. It is known for one head
    with constant parameters, Q^T K symmetric and (Q^T K)^T V of one sign.

    Source: MATH 7.
    """

    def __init__(self, attention: Attention, *, weights: Any = None, backend: Any = "auto") -> None:
        """The arguments are those of the run. Raises InputTypeError unless `attention` is one."""
        if not isinstance(attention, Attention):
            raise InputTypeError("attention", type(attention).__name__, "an attention, as fp.Softmax(Q, K, V)")
        self.attention = attention
        self.trend = attention.energy_trend(0.0)
        self._given = {"weights": weights, "backend": backend}
        self._rows: list[tuple[float, float, float]] = []

    def __call__(self, t: float, x: Array) -> None:
        """Adds the row of the tokens x (n, d) at time t."""
        function: Any = sinkhorn_energy if isinstance(self.attention, Sinkhorn) else interaction_energy
        energy = function(self.attention, x, t=t, **self._given)
        self._rows.append((t, energy, float(dissipation(self.attention, x, t=t, **self._given))))

    @property
    def t(self) -> Array:
        """The times, (m,)."""
        return self._column(0)

    @property
    def energy(self) -> Array:
        """E at the times, (m,)."""
        return self._column(1)

    @property
    def dissipation(self) -> Array:
        """dE/dt at the times, (m,), from the velocities."""
        return self._column(2)

    def violations(self, slack: float = 1e-9) -> Array:
        """The rows i >= 1 whose energy is on the wrong side of the row before by more than slack |E|, (k,).

        Empty where theory says nothing. A step too large for the flow makes them, and an attention that is not what
        it was thought to be.
        """
        energy = self.energy
        with np.errstate(invalid="ignore"):  # of an energy that has overflowed nothing is said
            wrong = -self.trend * np.diff(energy) > slack * np.abs(energy[1:])
        return np.flatnonzero(wrong) + 1

    def imbalance(self) -> float:
        """max_i |E(t_i) - E(t_0) - int_{t_0}^{t_i} dE/dt| / max_i |E(t_i) - E(t_0)|, the integral by a spline.

        It is small for accurate steps, and rows that are close enough for the spline (of degree 7 from 8 rows on).
        nan where a number has overflowed. Raises InputError for fewer than 4 rows.
        """
        from scipy.interpolate import make_interp_spline

        if len(self._rows) < 4:
            raise InputError("rows", str(len(self._rows)), "at least 4")
        if not np.isfinite(self._rows).all():
            return np.nan
        order = np.argsort(self.t, kind="stable")
        t, energy, rate = (column[order] for column in (self.t, self.energy, self.dissipation))
        work = make_interp_spline(t, rate, k=7 if len(t) >= 8 else 3).antiderivative()
        gained = energy - energy[0]
        return float(np.abs(gained - (work(t) - work(t[0]))).max() / np.abs(gained).max())

    def _column(self, i: int) -> Array:
        return np.array([row[i] for row in self._rows])
