"""The rate of change of the energies of Theory 7 along the flow, and an observer that records their balance."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import TYPE_CHECKING, Any, NamedTuple

import numpy as np

from .._types import Array, as_tokens
from ..attention import Attention, Sinkhorn
from ..attention.base import Balance, as_attention
from ..attention.cloud import make_cloud
from ..attention.composite import terms_of
from ..errors import InputError, explained
from ..manifold import Euclidean, Manifold, as_manifold

if TYPE_CHECKING:
    from ..sums.backend import Backend

_STEPS = 10.0  # between two rows, each with the largest allowed error: dense output and short intervals have fewer
_ROUNDING = 64.0 * 2.0**-52  # relative error of sums in float64


@explained
def dissipation(
    attention: Attention,
    x: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    backend: Any = "auto",
    manifold: Manifold | None = None,
) -> float | Array:
    """Return dE/dt = int <grad dE/dmu, P Gamma_mu> dmu along the flow of an attention, Q^T K symmetric, any V.

    E is `fp.interaction_energy` for Softmax and Exponential, `fp.sinkhorn_energy` for Sinkhorn, and the sum over heads
    for MultiHead, also of heads of several variants. With A = scale K^T Q and V = B A the rate for Softmax is
    int Z Gamma^T B^{-1} Gamma dmu, Z = int e^s dmu, the dissipation of a gradient flow in the twisted metric. With
    V = A it is int |Gamma|^2 dmu for Exponential and -2 eps int |Gamma|^2 dmu for Sinkhorn, that of a W_2 gradient
    flow. These formulas hold in all of R^d, where P is the identity; on a manifold P is the projection to the tangent
    space.

    Args:
        x: tokens (n, d) or (B, n, d); the other arguments as in `velocity`.
        manifold: as in `fp.solve`; the tokens are on it.

    Returns:
        A float, or (B,) for a batch.

    Raises:
        InputError, InputTypeError: naming the argument; where no energy is known, or Q^T K is not symmetric.
        ConvergenceError: of a Sinkhorn scaling.

    Source: Theory 7; Castin et al. 2025.
    """
    from ..sums import resolve

    tokens = as_tokens("x", x)
    found, mean = _balanced(attention, tokens, t, weights, resolve(backend), as_manifold(manifold))
    total = _rate(found, mean)
    return total if tokens.ndim == 3 else float(total[0])


class EnergyRow(NamedTuple):
    """An energy, its rate of change, and by how much numerical errors may have changed it since the row before."""

    energy: float
    rate: float
    slack: float


def energy_row(
    attention: Attention,
    x: Any,
    *,
    t: float = 0.0,
    weights: Any = None,
    backend: Any = "auto",
    manifold: Manifold | None = None,
    rtol: float = 0.0,
    atol: float = 0.0,
) -> EnergyRow:
    """Return the row of the tokens x (n, d) of a run at these tolerances; the other arguments as of `dissipation`.

    Errors dx_i of the tokens change the energy by int <grad dE/dmu, dx> dmu, at most int |grad| |dx| dmu. The slack
    allows each token the error 10 (rtol |x| + atol), that of ten steps, all in the worst direction, where rtol includes
    the tolerances of sums and scalings and the rounding of the tokens; and it allows both energies the error of their
    sums. A method of fixed steps has no tolerance: rtol = atol = 0, and the slack does not cover errors of its steps.

    Raises as `dissipation`.
    """
    from ..sums import resolve

    tokens, summing = as_tokens("x", x), resolve(backend)
    found, mean = _balanced(attention, tokens, t, weights, summing, as_manifold(manifold))
    sums = float(getattr(summing, "tol", 0.0)) + _ROUNDING
    relative = rtol + sums + float(np.finfo(tokens.dtype).eps) + max(_scalings(attention), default=0.0)
    with np.errstate(invalid="ignore", over="ignore"):  # an energy that has overflowed has no slack either
        rate = _rate(found, mean)
        size, steep = (np.linalg.norm(a, axis=2) for a in (tokens.reshape(found.field.shape), found.gradient))
        slack = _STEPS * mean(steep * (relative * size + atol)) + 2.0 * sums * np.abs(found.energy)
    return EnergyRow(float(found.energy[0]), float(rate[0]), float(slack[0]))


def energy_trend(attention: Attention, manifold: Manifold, noise: float) -> int:
    """Return 1 where theory says that the energy rises along a run, -1 where it falls, 0 where nothing is known.

    The theory is about flows in all of R^d, without noise (Theory 7).
    """
    return 0 if noise or not isinstance(manifold, Euclidean) else attention._energy_trend(0.0)


def _balanced(
    attention: Attention, tokens: Array, t: float, weights: Any, backend: Backend, manifold: Manifold
) -> tuple[Balance, Callable[[Array], Array]]:
    """Return the energy balance of tokens, with the field of the run, and the function that averages (B, n) over mu.

    Raises as `dissipation`.
    """
    cloud = make_cloud(as_attention(attention), tokens.astype(np.float64, copy=False), backend, weights)
    attention._check(cloud.x, t, square="attention")
    manifold.check(tokens, "x")
    with backend.evaluation():
        found = attention._energy_balance(cloud, float(t), backend)
    field = np.ascontiguousarray(found.field)  # made for this balance: it may be changed
    manifold.project(cloud.x, field)
    return found._replace(field=field), cloud.mean


def _rate(found: Balance, mean: Callable[[Array], Array]) -> Array:
    """Return the rates of change dE/dt (B,)."""
    with np.errstate(invalid="ignore", over="ignore"):  # of weights that have overflowed
        return mean((found.gradient * found.field).sum(axis=2))


def _scalings(attention: Attention) -> Iterator[float]:
    """Yield the marginal error that each Sinkhorn scaling of an attention may have."""
    for term in terms_of(attention):
        if isinstance(term.head, Sinkhorn):
            yield term.head.tol


class EnergyRecord:
    """A record of the energy of a run and its rate of change, made as the callback of an observer.

        record = fp.EnergyRecord(attention)
        fp.solve(attention, x0, (0.0, 1.0), observers=[fp.Observer(record, time=0.01)])
        record.t, record.energy, record.dissipation     # (m,) each
        record.monotone, record.violations(), record.imbalance()

    The energy is `fp.interaction_energy` or `fp.sinkhorn_energy`, for MultiHead the sum over heads. `trend` says
    what theory predicts: 1 it rises, -1 it falls, 0 nothing is known. A trend is known for one head with constant
    parameters, Q^T K symmetric and (Q^T K)^T V of one sign, in all of R^d and without noise.

    Source: Theory 7.
    """

    def __init__(
        self,
        attention: Attention,
        *,
        weights: Any = None,
        backend: Any = "auto",
        rtol: float = 1e-6,
        atol: float = 1e-9,
        manifold: Manifold | None = None,
        noise: float = 0.0,
    ) -> None:
        """Make an empty record from the arguments of the run; rtol = atol = 0 for fixed steps, which have neither.

        `fp.solve` tells its observers of manifold and noise by itself. Raises InputTypeError for what is no attention,
        or no manifold.
        """
        self.attention = as_attention(attention)
        self._given = {"weights": weights, "backend": backend, "rtol": rtol, "atol": atol}
        self._rows: list[tuple[float, float, float, float]] = []
        self.in_run(as_manifold(manifold), noise)

    def in_run(self, manifold: Manifold, noise: float) -> None:
        """Set the manifold and the noise of the run that is observed, and the trend that follows from them."""
        self._given["manifold"], self._noise = manifold, noise
        self.trend = energy_trend(self.attention, manifold, noise)

    def __call__(self, t: float, x: Array) -> None:
        """Append the row of the tokens x (n, d) at time t."""
        self._rows.append((t, *energy_row(self.attention, x, t=t, **self._given)))

    @property
    def t(self) -> Array:
        """The times, (m,)."""
        return self._column(0)

    @property
    def energy(self) -> Array:
        """The energies E at the times, (m,)."""
        return self._column(1)

    @property
    def dissipation(self) -> Array:
        """The rates dE/dt at the times, (m,), from the velocities; with noise, the part that is due to them alone."""
        return self._column(2)

    @property
    def monotone(self) -> bool | None:
        """True if the energy went as theory says, up to what numerical errors explain; None if theory says nothing."""
        return None if self.trend == 0 else len(self.violations()) == 0

    def violations(self, slack: float | None = None) -> Array:
        """Return the rows i >= 1, (k,), whose energy differs from that of row i - 1 in the wrong direction.

        Differences up to slack |E| are allowed; without `slack`, up to what ten steps at the tolerances of the run, of
        its sums and of its scalings explain. The result is empty where theory says nothing. Violations come from steps
        too large for the flow, or from an attention that is not of the assumed kind.
        """
        energy, forward = self.energy, np.sign(np.diff(self.t))
        allowed = self._column(3) if slack is None else slack * np.abs(energy)
        with np.errstate(invalid="ignore"):  # of an energy that has overflowed nothing is said
            wrong = -self.trend * forward * np.diff(energy) > allowed[1:]
        return np.flatnonzero(wrong) + 1

    def imbalance(self) -> float:
        """Return max_i |E(t_i) - E(t_0) - int_{t_0}^{t_i} dE/dt| / max_i |E(t_i) - E(t_0)|, the integral by a spline.

        It is small if steps are accurate and rows close enough for the spline (of degree 7 from 8 rows on). It is nan
        where a number has overflowed, where the energy does not change, and with noise, which changes it, too.

        Raises InputError for fewer than 4 rows.
        """
        from scipy.interpolate import make_interp_spline

        if len(self._rows) < 4:
            raise InputError("rows", str(len(self._rows)), "at least 4")
        if self._noise or not np.isfinite(self._rows).all():
            return np.nan
        order = np.argsort(self.t, kind="stable")
        t, energy, rate = (column[order] for column in (self.t, self.energy, self.dissipation))
        work = make_interp_spline(t, rate, k=7 if len(t) >= 8 else 3).antiderivative()
        gained = energy - energy[0]
        largest = np.abs(gained).max()
        return float(np.abs(gained - (work(t) - work(t[0]))).max() / largest) if largest > 0.0 else np.nan

    def _column(self, i: int) -> Array:
        return np.array([row[i] for row in self._rows])
