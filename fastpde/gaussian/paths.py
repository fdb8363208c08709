"""The paths of Gaussian laws to their limits, in the rescaled time (clock), gauge and scale of `kernels.tail`.

A compiled explicit method moves all laws together. A law may be stiff, because one direction relaxes exponentially
while another decays like 1 / t or grows slower. The explicit method would need far too many steps there: LSODA goes on
with that law.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from .._types import Array
from ..attention.base import Attention
from ..attention.small_matrices import transposed
from ..batches.affine import AffineHeads
from ..integrate import Problem
from ..integrate.options import Options
from .closure_field import Field

if TYPE_CHECKING:
    from ..batches.small_systems import Runs

_GRID = 0.25  # step of the clock tau, the rescaled time, between points of a path
_LONGER = 1.1  # a path is judged again when it is longer by a tenth
_FIRST, _LAST = 4.0, 3000.0  # tau up to which laws are followed at first, and at most
_FIRST_STEP = 1e-3
_STEPS = 200, 400.0  # attempts allowed at rtol 1e-9, and per unit of tau; a law that needs more is stiff
_IMPLICIT = 1e-8  # tolerance of the implicit method, on a slow manifold to which errors decay
_END = 1e12  # a value of tau that is never reached
_RENEW = 7.0  # growth of log t after which a stiff law's tolerance, which grows with t, is set anew
_SMALLEST = 0.01  # absolute tolerance, relative to |X| = 1 and the relative one


@dataclass(frozen=True)
class Way:
    """The recorded path of one law, at m points.

    t is the time, H = log tr S (with the mean's part where the mean matters), in the caller's unit of length. Times and
    rates are in the units of `heads`, in which they are near one at the start.
    """

    unit: float  # unit of time, 1 / |M(S0)|
    t: Array  # (m,)
    path: Array  # (m,) int w dt, approximately
    H: Array  # (m,)
    g: Array  # (m,) H'
    w: Array  # (m,) |S'| / |S|, with the mean's part
    M: Array  # (m,) |M| on the range of S
    spectrum: Array  # (m, r) logs of the eigenvalues of S on its range, descending
    columns: Array  # (m, d, r) columns of a factor of S / e^H
    whole: Array  # (m, d, 1 + r) the mean, where it matters, and the columns of L, over their norm
    size: Array  # (m,) the log of that norm, in units of `heads`
    heads: AffineHeads  # of this law, in units in which its start is near one
    time: float  # the unit of time, in the caller's unit
    lost: bool  # whether its numbers have left the range of floats

    def before(self, factor: float) -> int:
        """Return the index of the last point before t / factor, t the last time; 0 where there is none."""
        return max(int(np.searchsorted(self.t, self.t[-1] / factor)) - 1, 0)

    def below(self, fall: float) -> int:
        """Return the index of the last point whose H is at least `fall` below the last H; 0 where there is none."""
        return int(np.max(np.flatnonzero(self.H[-1] - self.H >= fall), initial=0))

    def cov(self, index: int) -> Array:
        """Return S (d, d) at a point."""
        L = self.columns[index]
        return np.exp(self.H[index]) * (L @ L.T)

    def second(self, index: int) -> Array:
        """Return the second moment (d, d) at a point, or S where the mean does not matter, in units of `heads`."""
        Y = np.exp(self.size[index]) * self.whole[index]
        return Y @ Y.T


class Ways:
    """The paths of B laws, each of which is followed until it is dropped.

    Args:
        attention: with constant parameters, one value or B of them, and a closure.
        mean, factor: (B, d) and (B, d, d); columns that are zero in all laws last.
        units: (B,) units of time, 1 / |M(S0)|.
        rtol, max_steps: tolerance and largest number of implicit steps of the integration.
        scales: (B,) the units of length and of time of the other arguments, in the caller's units; None: 1.
    """

    def __init__(
        self,
        attention: Attention,
        mean: Array,
        factor: Array,
        units: Array,
        rtol: float,
        max_steps: int,
        scales: tuple[Array, Array] | None = None,
    ) -> None:
        from ..batches.gaussian_laws import Tails
        from ..compiled_runs import CompiledRuns

        heads = attention._affine_heads()
        if heads is None:
            raise ValueError("the flow of Gaussian laws to their ends needs constant parameters and a closure")
        used = max(1, int(np.max(np.flatnonzero(factor.any(axis=(0, 1))) + 1, initial=0)))
        states = _states(np.zeros_like(mean) if attention.mean_free else mean, factor[:, :, :used])
        options: dict[str, Any] = {"rtol": rtol, "atol": _SMALLEST * rtol, "step": _FIRST_STEP}
        problem = Problem.checked(Field(attention), states, (0.0, _FIRST), Options(**options))
        self._batch = Tails(heads, states, units)
        self._all = CompiledRuns(problem, self._batch, problem.times)
        self._all.begin(0, len(states))
        self._heads, self._scales = heads, scales or (np.ones(len(states)), np.ones(len(states)))
        self._units, self._tau, self._rtol, self._max_steps = units, 0.0, rtol, max_steps
        self._stiff: dict[int, Stiff] = {}
        self.on = np.arange(len(states))  # the laws that are followed
        self._clock = np.zeros(1)
        self._states = states[None]
        self._seen = self._batch.look(self.on, self._states)

    @property
    def _runs(self) -> Runs:
        return self._all.runs

    def extend(self) -> Array:
        """Follow every law further; return a mask of `on` of the laws that cannot go on."""
        from ..batches.gaussian_laws import COMPLETED, MAX_STEPS

        end = np.ceil(max(_FIRST, _LONGER * self._tau) / _GRID) * _GRID
        times = np.arange(self._tau + _GRID, end + _GRID / 2, _GRID)
        most = int((_STEPS[0] + _STEPS[1] * end) * (1e-9 / self._rtol) ** 0.2)
        self._all.runs = self._batch.extend(self._runs, self.on, times, most)
        self._all.finish(0, len(self._runs.y), lambda done: None)
        states, status = self._runs.x[:, self.on], self._batch.status(self._runs)[self.on]
        ended = (status != COMPLETED) | (end >= _LAST)
        for place in np.flatnonzero(status == MAX_STEPS):
            law = int(self.on[place])
            tau, row = self._batch.clock(self._runs, law), self._runs.y[law]
            if law not in self._stiff:
                where = len(row) - self._states.shape[2] + 1
                self._stiff[law] = Stiff(self._batch.velocity(law), tau, row.copy(), where, self._rtol)
            ahead = np.flatnonzero(times > tau)
            states[ahead, place] = self._batch.tokens(self._stiff[law].follow(times[ahead], self._max_steps))
            ended[place] = self._stiff[law].failed or end >= _LAST
        self._clock = np.concatenate([self._clock, times])
        self._states = np.concatenate([self._states, states])
        self._seen = np.concatenate([self._seen, self._batch.look(self.on, states)])
        self._tau = end
        return ended

    def keep(self, mask: Array) -> None:
        """Drop all laws that are followed but those of a mask of `on`."""
        self.on, self._states, self._seen = self.on[mask], self._states[:, mask], self._seen[:, mask]

    def steps(self, law: int) -> int:
        """Return the number of accepted steps of a law."""
        stiff = self._stiff[law].steps if law in self._stiff else 0
        return int(self._batch.counters(self._runs)[law, 0]) + stiff

    def way(self, place: int) -> Way:
        """Return the path of law on[place], up to the first point that is not finite."""
        states, seen = self._states[:, place], self._seen[:, place]
        good = np.isfinite(seen.sum(axis=1))
        m = len(good) if good.all() else int(np.argmin(good))
        size, passed = states[:m, 0, -1], states[:m, 1, -1]
        X, seen = states[:m, :, :-1], seen[:m]
        law = int(self.on[place])
        length, time = (float(scale[law]) for scale in self._scales)
        H = 2.0 * (size + np.log(length))
        unit = float(self._units[law])
        logs = H[:, None] + 2.0 * np.log(np.maximum(seen[:, 3:], 1e-150))
        whole = transposed(X / np.sqrt(np.square(X).sum(axis=(1, 2)))[:, None, None])
        return Way(
            unit, unit * np.expm1(passed), self._clock[:m] - passed, H, 2.0 * seen[:, 0], seen[:, 1],
            seen[:, 2], -np.sort(-logs, axis=1), whole[:, :, 1:], whole, size, self._heads.of(law), time,
            m < len(good),
        )  # fmt: skip


class Stiff:
    """One law that LSODA follows from a point (tau, row) of its path; row[place] is log(1 + t / unit)."""

    def __init__(self, slope: Callable[[float, Array], Array], tau: float, row: Array, place: int, rtol: float) -> None:
        self._slope, self._place, self._rtol = slope, place, max(rtol, _IMPLICIT)
        self.steps, self.failed = 0, False
        self._begin(tau, row, 1e-3)

    def _begin(self, tau: float, row: Array, step: float) -> None:
        """Start LSODA with a tolerance that suits the present time.

        Where M falls like 1 / t by cancellation, its rounding grows like t in the rescaled time, and so must the
        tolerance.
        """
        from scipy.integrate import LSODA  # imported here: it takes half a second

        options = {"rtol": self._rtol, "atol": self._rtol + 1e-15 * np.exp(row[self._place])}
        self._since = row[self._place]
        self._run = LSODA(self._slope, tau, row, _END, first_step=min(step, 1.0), max_step=2.0, **options)

    def follow(self, times: Array, most: int) -> Array:
        """Return the rows (len(times), size) at later rescaled times.

        They are nan where the numbers are no longer finite, or after `most` steps.
        """
        rows, done = np.full((len(times), len(self._run.y)), np.nan), 0
        while done < len(times) and not self.failed:
            if self._run.t < times[done]:
                self._advance()
                self.failed = self.failed or self.steps >= most
                continue
            due = int(np.searchsorted(times, self._run.t, side="right"))
            rows[done:due] = self._run.dense_output()(times[done:due]).T
            done = due
        return rows

    def _advance(self) -> None:
        """Make one step; start LSODA again where the tolerance must grow."""
        if self._run.y[self._place] > self._since + _RENEW:
            self._begin(self._run.t, self._run.y.copy(), self._run.t - self._run.t_old)
        with np.errstate(all="ignore"), warnings.catch_warnings():
            warnings.simplefilter("ignore")  # LSODA warns why it has failed
            try:
                self._run.step()
            except RuntimeError:  # SciPy before 1.17 has one LSODA at a time: that of another law has taken its place
                self._begin(self._run.t, self._run.y.copy(), self._run.t - self._run.t_old)
                self._run.step()
        self.steps += 1
        self.failed = self._run.status != "running" or not np.isfinite(self._run.y).all()


def _states(mean: Array, factor: Array) -> Array:
    """Return states (B, 1 + r, d + 1) of laws on [mean, L], as `kernels.tail` reads them.

    The rows are those of [mean, L]^T / |[mean, L]|; the last column is log |[mean, L]| in the first row and 0 below.
    """
    columns = np.concatenate([mean[:, None], transposed(factor)], axis=1)
    norm = np.sqrt(np.square(columns).sum(axis=(1, 2)))
    states = np.zeros((*columns.shape[:2], columns.shape[2] + 1))
    states[:, :, :-1] = columns / norm[:, None, None]
    states[:, 0, -1] = np.log(norm)
    return states
