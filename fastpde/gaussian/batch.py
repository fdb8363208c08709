"""The flows of many Gaussian laws at once, each with its own steps and end, in a compiled loop."""

from __future__ import annotations

from typing import Any

import numpy as np

from .._types import Array
from ..attention.base import Attention
from ..integrate import Problem, Status
from ..integrate.options import Options
from ..integrate.reporting import counting
from .closure_field import Field


class Flow:
    """The flow of B Gaussian laws, which can be read and ended between calls.

    The result of a law does not depend, in any bit, on how the flow is cut into calls or on the other laws.

    Args:
        attention: with constant parameters, one value or B of them, and a closure.
        mean, factor: (B, d) and (B, d, d); L L^T are the covariances.
        t_span, options: as in `integrate`; at times `t_eval` the states are kept.

    Raises InputError, InputTypeError: naming the option, before any work.
    """

    def __init__(self, attention: Attention, mean: Array, factor: Array, t_span: Any, **options: Any) -> None:
        from ..batches.gaussian_laws import Gaussians
        from ..compiled_runs import CompiledRuns

        heads = attention._affine_heads()
        if heads is None:
            raise ValueError("the compiled flow of Gaussian laws needs constant parameters and a closure")
        states = _states(mean, factor)
        problem = Problem.checked(Field(attention), states, t_span, Options(**options))
        self.attention, self._problem = attention, problem
        self._batch = Gaussians(heads, states)
        self._all = CompiledRuns(problem, self._batch, problem.times)
        self._all.begin(0, len(states))
        self._runs = self._all.runs

    @property
    def times(self) -> Array:
        """The times (m,) at which states are kept: t_eval, or the ends of the span."""
        return self._problem.times

    @property
    def settings(self) -> dict[str, Any]:
        """The name of the method, and the tolerances or the step that were asked for."""
        return self._problem.settings

    @property
    def t(self) -> Array:
        """The time that each law has reached, (B,)."""
        return self._batch.times(self._runs)

    @property
    def mean(self) -> Array:
        """The means at `t`, (B, d)."""
        return self._now()[0]

    @property
    def factor(self) -> Array:
        """The factors at `t`, (B, d, d)."""
        return self._now()[1]

    @property
    def running(self) -> Array:
        """A mask (B,) of the laws that have not ended."""
        from ..batches.gaussian_laws import RUNNING

        return self._batch.status(self._runs) == RUNNING

    @property
    def status(self) -> tuple[Status, ...]:
        """The status of each law; INTERRUPTED if it still runs or was stopped."""
        from ..batches.gaussian_laws import STOPPED
        from ..compiled_runs import STATUS

        return tuple(STATUS[0 if code == STOPPED else code] for code in self._batch.status(self._runs))

    @property
    def recorded(self) -> tuple[Array, Array]:
        """Means (m, B, d) and factors (m, B, d, d) at `times`; nan where a law has not arrived or had ended."""
        return _laws(self._batch.recorded(self._runs))

    @property
    def stats(self) -> dict[str, Array]:
        """The counters of each law, arrays (B,)."""
        accepted, rejected, evaluations = self._batch.counters(self._runs).T
        last = self._batch.last_steps(self._runs)
        counters = {"steps": accepted, "accepted": accepted, "rejected": rejected, "evaluations": evaluations}
        return counters | {"last_step": last}

    def advance(self, attempts: int) -> int:
        """Advance every running law by at most `attempts` attempted steps; return how many laws still run."""
        return self._batch.advance(self._runs, 0, len(self._runs.y), attempts)

    def stop(self, which: Array) -> None:
        """End the running laws of a mask (B,) where they are."""
        self._batch.stop(self._runs, np.asarray(which))

    def finish(self, progress: Any = False) -> None:
        """Advance every law to its end, in calls short enough to be interrupted; `progress` as in `fp.solve`."""
        with counting(progress, len(self._runs.y)) as report:
            self._all.finish(0, len(self._runs.y), report)

    def _now(self) -> tuple[Array, Array]:
        return _laws(self._batch.tokens(self._runs.y))


def _states(mean: Array, factor: Array) -> Array:
    """Return states (B, 1 + d, d) whose rows are the mean and the columns of the factor, as tokens of a small system.

    The columns are reversed, so that zero columns of a factor with low rank come last.
    """
    return np.ascontiguousarray(np.concatenate([mean[:, None], np.swapaxes(factor, -1, -2)[:, ::-1]], axis=1))


def _laws(states: Array) -> tuple[Array, Array]:
    """Split states (..., 1 + d, d) into means (..., d) and factors (..., d, d)."""
    return states[..., 0, :].copy(), np.swapaxes(states[..., :0:-1, :], -1, -2).copy()
