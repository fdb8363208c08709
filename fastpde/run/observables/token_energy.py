"""The energy of the tokens: its values, and whether it moves in the direction that theory predicts (Theory 7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from functools import partial
from typing import Any

import numpy as np

from fastpde.config import Problem
from fastpde.config.schema import FIXED
from fastpde.errors import ConvergenceError, InputError
from fastpde.observable import Observable
from fastpde.parallel.spread import Tokens
from fastpde.theory.dissipation import EnergyRow, energy_row, energy_trend

Array = np.ndarray[Any, Any]
_NOTHING = EnergyRow(math.nan, math.nan, math.nan)


def observable(problem: Problem, attention: Any, backend: Any, positions: Any) -> Observable | None:
    """Return the energy, and of one system its rate of change; None if energies are not recorded.

    An energy is nan where its scaling does not converge. That does not end the run: the scalings of its velocities have
    a warm start, and may converge where that of an energy does not.
    """
    if not problem.config.output.energy:
        return None
    energy = _energy(attention, backend, positions)
    if problem.systems > 1:

        def many(t: Array, x: Array) -> Array:
            if len(x) and (t == t[0]).all():
                return np.reshape(energy(float(t[0]), x), (-1, 1))
            return np.array([energy(float(time), one) for time, one in zip(t, x, strict=True)]).reshape(-1, 1)

        return Observable("energy", ["energy"], energy, many)
    row = _row(problem, attention, backend, energy) if positions is None else _alone(energy)
    watch = Watch(energy_trend(attention, problem.manifold(), problem.config.time.noise))

    def one(t: float, tokens: Tokens) -> list[float]:
        found = row(t, tokens.here)
        watch.see(t, found)
        return [found.energy, found.rate]

    return Observable("energy", ["energy", "dissipation"], one, shared=True, watch=watch)


def _energy(attention: Any, backend: Any, positions: Any) -> Callable[[float, Array], Any]:
    """Return the function of t and tokens (n, d) or (B, n, d) that computes energies, nan where there is none."""
    import fastpde as fp

    scaled = isinstance(attention, fp.Sinkhorn)
    function: Any = fp.sinkhorn_energy if scaled else partial(fp.interaction_energy, positions=positions)

    def energy(t: float, x: Array) -> Any:
        try:
            return function(attention, x, t=t, backend=backend)
        except ConvergenceError:
            return math.nan if x.ndim == 2 else [energy(t, one) for one in x]

    return energy


def _row(
    problem: Problem, attention: Any, backend: Any, energy: Callable[[float, Array], Any]
) -> Callable[[float, Array], EnergyRow]:
    """Return the function of t and the tokens (m, d) of this rank that computes energy, rate and slack.

    Rate and slack are nan where no balance is known. The rate is that of the velocities on the run's manifold; what
    noise adds to it is not included.
    """
    time = problem.config.time
    tolerances = {} if time.method in FIXED else {"rtol": time.rtol, "atol": time.atol}
    manifold = problem.manifold()

    def row(t: float, x: Array) -> EnergyRow:
        try:
            return energy_row(attention, x, t=t, backend=backend, manifold=manifold, **tolerances)
        except ConvergenceError:
            return _NOTHING
        except InputError:  # no balance is known, as for L2
            return EnergyRow(float(energy(t, x)), math.nan, math.nan)

    return row


def _alone(energy: Callable[[float, Array], Any]) -> Callable[[float, Array], EnergyRow]:
    """Return the function of `_row` for tokens with positions, of whose energies no balance is known."""
    return lambda t, x: EnergyRow(float(energy(t, x)), math.nan, math.nan)


class Watch:
    """A check for energies that move against the prediction by more than numerical errors explain."""

    def __init__(self, trend: int) -> None:
        """Begin with no energies. trend: 1 if theory predicts that they rise, -1 if they fall, 0: no prediction."""
        self.trend, self._news = trend, False
        self.go_on({})

    def go_on(self, mark: dict[str, Any]) -> None:
        """Restore the state of a `mark`."""
        self.rows: int = mark.get("rows", 0)
        self.count: int = mark.get("count", 0)
        self.first: float | None = mark.get("first")  # time
        self._last: float = math.nan if mark.get("last") is None else mark["last"]

    def see(self, t: float, row: EnergyRow) -> None:
        """Add the energy of the next frame. Energies that have overflowed or were not found are not compared."""
        back, known = self.trend * (self._last - row.energy), math.isfinite(self._last) and math.isfinite(row.energy)
        self._last = row.energy
        if not self.trend or not known:
            return
        self.rows += 1
        if back > row.slack:
            self.count += 1
            if self.count == 1:
                self.first, self._news = t, True

    def news(self) -> str:
        """Return a sentence once, after the first energy that contradicts the prediction; else ""."""
        new, self._news = self._news, False
        return self.told() if new else ""

    def mark(self) -> dict[str, Any]:
        """Return the state in a form that JSON can hold."""
        last = self._last if math.isfinite(self._last) else None
        return {"rows": self.rows, "count": self.count, "first": self.first, "last": last}

    def facts(self) -> dict[str, Any]:
        """Return the entry of status.json; {} if theory predicts nothing."""
        if not self.trend:
            return {}
        told: dict[str, Any] = {"expected": "rises" if self.trend > 0 else "falls"}
        told |= {"intervals": self.rows, "violations": self.count}
        return told | ({} if self.first is None else {"first_violation_t": self.first})

    def told(self) -> str:
        """Return a sentence about energies that contradict the prediction; "" if there are none."""
        if not self.count:
            return ""
        way = "rise" if self.trend > 0 else "fall"
        where = f"{self.count} of {self.rows} intervals between frames, the first ending at t = {self.first:.6g}"
        remedy = "smaller steps or tolerances may help"
        return f"The energy must {way} and did not in {where}, by more than numerical errors explain: {remedy}."
