"""Steps of a run, made again from the states before them: for what tokens carry along, and for the way back."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Protocol

import numpy as np

from fastpde.integrate.breaks import Breaks
from fastpde.integrate.dense import Chord
from fastpde.integrate.space import VectorSpace
from fastpde.integrate.tableau import Tableau


class Place(Protocol):
    """What moves states to a manifold, and makes velocities tangent to it, in place."""

    def retract(self, x: np.ndarray) -> None:
        """Move every token of x to the manifold."""

    def project(self, x: np.ndarray, v: np.ndarray) -> None:
        """Make every vector of v tangent at the token of x."""


@dataclass
class StepAgain:
    """A step made again, as far as its stages are known.

    Attributes:
        number, t, end, h, y: of the step: its number, its ends, its signed size, and the state where it begins.
        arguments: (S, *shape), those of its stages before they are moved to the manifold; the last is the state after.
        stages: (S, *shape), their velocities; with noise its increment over h as one more, made tangent.
        noise: the same before it is made tangent; None: there is none.
    """

    number: int
    t: float
    end: float
    h: float
    y: np.ndarray
    arguments: np.ndarray
    stages: np.ndarray
    noise: np.ndarray | None = None


class StepsAgain:
    """How the steps of a run are made again; who makes them computes the velocities, stage by stage.

    Args:
        tableau, breaks: of the run.
        place: the manifold.
        noise: noise(number, h, y, out) of the run, before it is made tangent; None: there is none.

    Attributes:
        count: the number S of stages.
        rows: (S, S), with noise (S, S + 1), the weights of the stages in their arguments, in the last row in the state
            after the step.
    """

    def __init__(
        self, tableau: Tableau, breaks: Breaks, place: Place, noise: Callable[..., object] | None = None
    ) -> None:
        self._tableau, self._breaks, self._place, self._noise = tableau, breaks, place, noise
        self.count = tableau.stages
        width = self.count + (noise is not None)
        self.rows = [(*row, node)[:width] for row, node in zip(tableau.a, tableau.c, strict=True)]

    def begin(self, number: int, ends: tuple[float, float], h: float, y: np.ndarray) -> StepAgain:
        """Return a step from y, between its ends, of which nothing but the noise is known."""
        stages = np.zeros((len(self.rows[0]), *y.shape))
        step = StepAgain(number, *ends, h, y, np.empty((self.count, *y.shape)), stages)
        if self._noise is not None:
            step.noise = np.empty_like(y)
            self._noise(number, h, y, step.noise)
            stages[-1] = step.noise
            self._place.project(y, stages[-1])
        return step

    def argument(self, step: StepAgain, s: int) -> np.ndarray:
        """Compute the argument of stage s, whose stages before are known; return it on the manifold."""
        space = VectorSpace(step.y.shape, step.y.dtype)
        space.combine(step.y, step.h, self.rows[s], step.stages, step.arguments[s])
        return self.moved(step, s)

    def moved(self, step: StepAgain, s: int) -> np.ndarray:
        """Return a copy of the argument of stage s on the manifold; that of the first stage is a state."""
        out = step.arguments[s].copy()
        if s:
            self._place.retract(out)
        return out

    def at(self, step: StepAgain, s: int) -> float:
        """Return the time at which stage s evaluates the field: at a break point that of the side of the step."""
        node = self._tableau.c[s]
        if node == 0.0:
            return self._breaks.begins(step.t)
        return self._breaks.ends(step.end) if node == 1.0 else step.t + node * (step.end - step.t)

    @property
    def dense_needs_last(self) -> bool:
        """Whether states within a step depend on its last stage."""
        return self._noise is None and self._tableau.dense_needs_last

    def between(self, theta: float) -> tuple[Sequence[float], Sequence[float]]:
        """Return the weights of the stages in the state at the fraction theta of a step, over h, and their slopes."""
        noisy = self._noise is not None
        extension = Chord((*self._tableau.b, 1.0)) if noisy else self._tableau
        return extension.weights_at(theta), extension.slopes_at(theta)
