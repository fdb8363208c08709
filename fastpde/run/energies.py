"""The energy of a run: its values, and whether it moves in the direction that theory predicts (Theory 7)."""

from __future__ import annotations

import math
from collections.abc import Callable
from typing import Any

from fastpde.config import Problem
from fastpde.config.schema import FIXED
from fastpde.dissipation import EnergyRow, energy_row, energy_trend
from fastpde.errors import ConvergenceError, InputError

_NOTHING = EnergyRow(math.nan, math.nan, math.nan)


def of_systems(problem: Problem, attention: Any, backend: Any) -> Callable[[float, Any], Any] | None:
    """Return a function of t and tokens (n, d) or (B, n, d) that computes energies; None if they are not recorded.

    An energy is nan where its scaling does not converge. That does not end the run: the scalings of its velocities have
    a warm start, and may converge where that of an energy does not.
    """
    if not problem.config.output.energy:
        return None
    import fastpde as fp

    function: Any = fp.sinkhorn_energy if isinstance(attention, fp.Sinkhorn) else fp.interaction_energy

    def energy(t: float, x: Any) -> Any:
        try:
            return function(attention, x, t=t, backend=backend)
        except ConvergenceError:
            return math.nan if x.ndim == 2 else [energy(t, one) for one in x]

    return energy


def of_one(problem: Problem, attention: Any, backend: Any) -> Callable[[float, Any], EnergyRow] | None:
    """Return a function of t and tokens (n, d) that computes the row energy, rate, slack of a run of one system; None
    if energies are not recorded.

    Rate and slack are nan where no balance is known. The rate is that of the velocities on the run's manifold; what
    noise adds to it is not included.
    """
    plain = of_systems(problem, attention, backend)
    if plain is None:
        return None
    time = problem.config.time
    tolerances = {} if time.method in FIXED else {"rtol": time.rtol, "atol": time.atol}
    manifold = problem.manifold()

    def row(t: float, x: Any) -> EnergyRow:
        try:
            return energy_row(attention, x, t=t, backend=backend, manifold=manifold, **tolerances)
        except ConvergenceError:
            return _NOTHING
        except InputError:  # no balance is known, as for L2
            return EnergyRow(float(plain(t, x)), math.nan, math.nan)

    return row


def trend(problem: Problem, attention: Any) -> int:
    """Return the direction that theory predicts for the recorded energy of the run: 1 up, -1 down, 0 no prediction."""
    if not problem.config.output.energy or problem.systems > 1:
        return 0
    return energy_trend(attention, problem.manifold(), problem.config.time.noise)


class Watch:
    """A check for energies that move against the prediction by more than numerical errors explain."""

    def __init__(self, trend: int, kept: dict[str, Any] | None = None) -> None:
        """Begin with no energies, or go on from `kept`, the `mark` of an earlier part of the run."""
        found = kept or {}
        self.trend = trend
        self.rows: int = found.get("rows", 0)
        self.count: int = found.get("count", 0)
        self.first: float | None = found.get("first")  # time
        self._last: float = math.nan if found.get("last") is None else found["last"]

    def see(self, t: float, row: EnergyRow) -> bool:
        """Add the energy of the next frame; return whether it is the first one that contradicts the prediction.

        Energies that have overflowed or were not found are not compared.
        """
        back, known = self.trend * (self._last - row.energy), math.isfinite(self._last) and math.isfinite(row.energy)
        self._last = row.energy
        if not self.trend or not known:
            return False
        self.rows += 1
        if not back > row.slack:
            return False
        self.count += 1
        if self.count == 1:
            self.first = t
        return self.count == 1

    def mark(self) -> dict[str, Any]:
        """Return the state in a form that JSON can hold."""
        last = self._last if math.isfinite(self._last) else None
        return {"rows": self.rows, "count": self.count, "first": self.first, "last": last}

    def facts(self) -> dict[str, Any]:
        """Return the entry of status.json; {} if theory predicts nothing."""
        if not self.trend:
            return {}
        told = {"expected": "rises" if self.trend > 0 else "falls", "intervals": self.rows, "violations": self.count}
        return {"energy": told | ({} if self.first is None else {"first_violation_t": self.first})}

    def told(self) -> str:
        """Return a sentence about energies that contradict the prediction; "" if there are none."""
        if not self.count:
            return ""
        way = "rise" if self.trend > 0 else "fall"
        where = f"{self.count} of {self.rows} intervals between frames, the first ending at t = {self.first:.6g}"
        remedy = "smaller steps or tolerances may help"
        return f"The energy must {way} and did not in {where}, by more than numerical errors explain: {remedy}."
