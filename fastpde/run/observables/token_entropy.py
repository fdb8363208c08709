"""The entropy of the law of the tokens, -E log rho, whose density is followed along them (Theory 12.3)."""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import replace
from typing import Any

import numpy as np

from fastpde.config import Problem
from fastpde.config.token_law import token_law
from fastpde.errors import ConvergenceError, InputError
from fastpde.manifold import Sphere
from fastpde.observable import Observable
from fastpde.tangents import Follower

Array = np.ndarray[Any, Any]


def observable(problem: Problem, attention: Any, backend: Any, positions: Any) -> Observable | None:
    """Return the entropy, on the run's manifold; None if it is not recorded.

    It is minus the mean of log rho over the tokens, and changes by the integral of the mean divergence; nan from where
    the derivative of a step needs a scaling that does not converge. Raises InputError for several systems, several
    processes, noise, and tokens from a file, whose density is not known.
    """
    from fastpde.sums import resolve

    if not problem.config.output.entropy:
        return None
    processes = resolve(backend).processes
    for came, need in (
        (problem.systems > 1 and f"for {problem.systems} systems", "one: fp.solve has log_density for several"),
        (processes > 1 and f"for tokens on {processes} processes", "one process: derivatives need that"),
        (problem.config.time.noise > 0 and "in a run with noise", "time.noise = 0: log rho is known along tokens then"),
        (problem.config.tokens.kind == "file" and "for tokens from a file", "a law: what drew them is not known"),
    ):
        if came:
            raise InputError("output.entropy", f"true, {came}", need, "Or leave it out.")
    density = Density(_start(problem))
    return Observable("entropy", ["entropy"], density.entropy, along=density)


def _start(problem: Problem) -> Callable[[Array], Array]:
    """Return the function of tokens (n, d) that is the logarithm (n,) of the density of their law at the start."""
    d, tokens = problem.d, problem.config.tokens
    if isinstance(problem.manifold(), Sphere):
        area = math.log(2.0) + 0.5 * d * math.log(math.pi) - math.lgamma(0.5 * d)
        return lambda x: np.full(len(x), -area)
    law = token_law(tokens, d)
    try:
        law.log_density(law.mean[None])
    except InputError:
        raise InputError("output.entropy", f"true, for tokens of {law!r}", f"a law with a density in R^{d}") from None
    return law.log_density


class Density:
    """The log density along the tokens of a run.

    Args:
        start: a function of the tokens (n, d) that returns it (n,) at the start.
    """

    def __init__(self, start: Callable[[Array], Array]) -> None:
        self._start = start
        self._follower: Follower | None = None
        self._step, self._before, self._lost = 0, dict[str, Array](), False

    def entropy(self, t: float, x: Array) -> float:
        """Return -E log rho where the run is; before it begins that of tokens x (n, d) at the start."""
        if self._lost:
            return np.nan
        found = self._start(x) if self._follower is None else self._follower.log_density_at(t)
        return -float(found.mean())

    def begin(self, problem: Any, state: Any, kept: Mapping[str, Array]) -> None:
        """Begin with a run, or go on at a state of it."""
        y0 = problem.y0 if state is None else state.y
        alone = replace(problem, y0=y0, t_eval=None, events=(), observers=())
        follower = Follower(alone, np.empty((0, *y0.shape)), self._start(y0) if state is None else np.zeros(len(y0)))
        if state is not None:
            follower.restore(kept)
            self._step = state.step
        self._follower = follower
        self._lost = state is not None and bool(np.isnan(kept["log_density"]).any())

    def follow(self, run: Any) -> None:
        """Follow the last step of the run, unless that has been done."""
        assert self._follower is not None, "it has begun"
        if run.state.step > self._step:
            self._before = {name: array.copy() for name, array in self._follower.parts().items()}
            self._step = run.state.step
            try:
                self._follower(run)
            except ConvergenceError:  # of a scaling that had a better start in the run
                self._lose()

    def _lose(self) -> None:
        """Note that a step could not be followed: from here on the entropy is nan."""
        assert self._follower is not None, "it has begun"
        self._lost = True
        self._follower.restore({"log_density": np.full_like(self._follower.parts()["log_density"], np.nan)})

    def parts(self, step: int) -> dict[str, Array]:
        """Return what is kept, after that step or the one before."""
        assert self._follower is not None, "it has begun"
        assert self._step - step in (0, 1), "a state of the run"
        return self._follower.parts() if step == self._step else self._before
