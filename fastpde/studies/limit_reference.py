"""The reference of the study `mean_field`: the limit of a law, its points, and how fast theory lets errors grow.

Under a mask all positions start with the same law, and token i of n has the position (i + 1/2) / n.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import fastpde as fp

from .limit_distances import Distances
from .limit_settings import Setting, attention_of
from .table import Array

_TOL = 1e-6  # of limits by quadrature: the error of ten million tokens is above 1e-4
_MOST_AXES = 3  # dimensions with quadrature rules
_POINTS = 2**14  # of the law, for sliced distances
_FLOOR = 1  # the seed of the points that are compared with the others, whose seed is 0
_FEW = {1: 24, 2: 8, 3: 5}  # points per axis of a rule that is right to a per cent of an error, by dimension
_FEW_SOBOL = 256
_RATES = 4  # intervals between two times, over which the local rate is integrated
_UNKNOWN = ("attention", "weight", "p")  # what errors name where no bound or no derivative is known


@dataclass(frozen=True)
class Reference:
    """The limit of a law under an attention, at the times of the study.

    Attributes:
        setting: the names of the law and of the attention, and |A|.
        law, attention: these themselves.
        t: (frames,) times, from 0.
        limit: the law of infinitely many tokens.
    """

    setting: Setting
    law: fp.laws.Law
    attention: fp.Attention
    t: Array
    limit: fp.MeanField

    @staticmethod
    def of(setting: Setting, law: fp.laws.Law, parameters: Mapping[str, Any]) -> Reference:
        """Follow a law from t = 0 to 1 / (4 strength). Raises InputError naming strengths if it cannot be followed."""
        attention = attention_of(setting, law.dimension, parameters["seed"])
        t = np.linspace(0.0, 0.25 / setting.strength, parameters["times"])
        more: dict[str, Any] = {"tol": _TOL} if law.dimension <= _MOST_AXES else {}
        try:
            limit = fp.MeanField(attention, law, (0.0, float(t[-1])), **more)
        except fp.InputError as error:
            if error.name not in ("t_span", "tol", "most_nodes"):
                raise
            came = f"{setting.strength:g} for {setting.law} and {setting.variant}"
            need = f"a strength whose limit can be followed to t = 1 / (4 strength) = {t[-1]:g}"
            raise fp.InputError("strengths", came, need, str(error)) from error
        return Reference(setting, law, attention, t, limit)

    @property
    def masked(self) -> bool:
        """Whether positions matter."""
        return self.attention.positional

    def positions(self, n: int, first: float = 0.0) -> Array | None:
        """Return positions (n,), the middles of n parts of [first, 1], or None if positions do not matter."""
        return first + (1.0 - first) * (np.arange(n) + 0.5) / n if self.masked else None

    def velocity(self, frame: int, x: Array, positions: Array | None = None) -> Array:
        """Return the velocity (m, d) of the limit at points x (m, d), at positions (m,) under a mask."""
        return self.limit.velocity(float(self.t[frame]), x, *self._given(positions))

    def push(self, frame: int, x0: Array, positions: Array | None = None) -> Array:
        """Return where the limit carries points x0 (m, d) from t = 0, at positions (m,) under a mask."""
        return self.limit.push(float(self.t[frame]), x0, *self._given(positions)) if frame else x0

    @staticmethod
    def _given(positions: Array | None) -> tuple[Array, ...]:
        return () if positions is None else (positions,)

    @cached_property
    def moments(self) -> list[tuple[Array, Array]]:
        """The mean (d,) and the covariance (d, d) of all tokens, at each time.

        Under a mask they are those of any position: weights are divided by their sum and all positions start alike, so
        they stay alike.
        """
        given = (1.0,) if self.masked else ()
        return [(self.limit.mean(float(t), *given), self.limit.cov(float(t), *given)) for t in self.t]

    @cached_property
    def distances(self) -> Distances:
        """The distances of clouds to the law at each time."""
        return Distances.of(self, _POINTS, 0)

    def rows(self, distances: bool = True) -> list[dict[str, Any]]:
        """Return what is known of the limit at each time, as rows of the table `limits` of the study.

        distances: whether the floors of distances are wanted; nan without.
        """
        other = Distances.of(self, _POINTS, _FLOOR) if distances else None
        bounds, rates = self._log_bounds(), self._log_rates()
        rows = []
        for frame, t in enumerate(self.t):
            w1, w2, slices = (np.nan,) * 3 if other is None else self.distances.apart(other, frame)
            rows.append({
                **self.setting._asdict(),
                "t": float(t),
                "error": float(np.interp(t, self.limit.t, self.limit.error)),
                "variance": float(np.trace(self.moments[frame][1])),
                "w1_floor": w1,
                "w2_floor": w2,
                "sliced_floor": slices,
                "log_bound": float(bounds[frame]),
                "log_rate": float(rates[frame]),
            })  # fmt: skip
        return rows

    def _log_bounds(self) -> Array:
        """Return log C(t, R0) (frames,) of Theory 8.1; nan for unbounded laws, under masks, where no bound is known."""
        R0, unknown = self.law.support_radius, np.full(len(self.t), np.nan)
        if self.masked or not 0.0 < R0 < np.inf:
            return unknown
        return _known(lambda: fp.stability_bound(self.attention, self.t, R0, log=True), unknown)

    def _log_rates(self) -> Array:
        """Return the integral (frames,) over time of the local rate of W_2 of Theory 12.5; nan where it is not known.

        It is that of a rule of the law with few nodes, which are moved.
        """
        unknown = np.full(len(self.t), np.nan)
        if self.masked:
            return unknown
        nodes, weights = few_nodes(self.law)
        fine = np.linspace(0.0, self.t[-1], _RATES * (len(self.t) - 1) + 1)

        def rates() -> Array:
            moved = [self.limit.push(float(t), nodes) if t else nodes for t in fine]
            return np.array([fp.lipschitz(self.attention, x, weights=weights, backend="direct").rate for x in moved])

        found = _known(rates, np.full(len(fine), np.nan))
        # Simpson's rule in each interval of the table.
        parts = [found[k : k + _RATES + 1] @ [1.0, 4.0, 2.0, 4.0, 1.0] for k in range(0, len(fine) - 1, _RATES)]
        return np.concatenate([[0.0], np.cumsum(parts)]) * (fine[1] - fine[0]) / 3.0


def few_nodes(law: fp.laws.Law) -> tuple[Array, Array]:
    """Return nodes (q, d) and weights (q,) of a law: of a coarse rule, or Sobol points where there is none."""
    if law.dimension in _FEW:
        try:
            return law.nodes(_FEW[law.dimension])
        except fp.InputError as error:
            if error.name != "law":  # it has no rule
                raise
    return law.sobol(_FEW_SOBOL, 0), np.full(_FEW_SOBOL, 1.0 / _FEW_SOBOL)


def _known(found: Any, unknown: Array) -> Array:
    """Return found(), or `unknown` where an error says that an attention has no bound, or no derivative."""
    try:
        return np.asarray(found())
    except fp.InputError as error:
        if error.name not in _UNKNOWN:
            raise
        return unknown
