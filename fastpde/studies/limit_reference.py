"""The reference of the study `mean_field`: the limit of a law, its points, and how fast theory lets errors grow.

Under a mask all positions start with the same law. As fields are averages then, they keep the same law at all times
(Theory 2.2), also where tokens have a few positions only: points of the law need no position of their own.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

import fastpde as fp

from .limit_distances import Distances
from .limit_settings import Setting, attention_of, has_derivatives
from .mask_levels import Levels
from .table import Array

_TOL = 1e-6  # of limits by quadrature: the error of ten million tokens is above 1e-4
_TOL_OF_SOBOL = 5e-4  # of others
_PROBES = 128  # points of the law whose largest distance from the origin is the length of a limit
_POINTS, _POINTS_OF_MANY = 2**14, 2**10  # of the law, for distances of all tokens, and of those of each position
_FLOOR = 1  # the seed of the points that are compared with the others, whose seed is 0
_FEW = {1: 24, 2: 8, 3: 5}  # points per axis of a rule that is right to a per cent of an error, by dimension
_FEWEST = {1: 6, 2: 3, 3: 3}  # of one that is right to 1e-5 of a local rate, where they are at many positions
_FEW_SOBOL, _FEWEST_SOBOL = 256, 32
_LEVELS = 32  # positions under a mask, as many as 32,768 tokens have, at which these nodes are
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
        tol = _TOL if _has_rule(law) or _stays_gaussian(law, attention) else _TOL_OF_SOBOL
        try:
            limit = fp.MeanField(attention, law, (0.0, float(t[-1])), tol=tol)
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

    def levels(self, n: int) -> Levels:
        """Return the positions of n tokens: one if positions do not matter."""
        return Levels.of(n, self.masked)

    def velocity(self, frame: int, x: Array) -> Array:
        """Return the velocity (m, d) of the limit at points x (m, d)."""
        return self.limit.velocity(float(self.t[frame]), x, *self._anywhere)

    def push(self, frame: int, x0: Array) -> Array:
        """Return where the limit carries points x0 (m, d) from t = 0."""
        return self.limit.push(float(self.t[frame]), x0, *self._anywhere) if frame else x0

    @property
    def _anywhere(self) -> tuple[float, ...]:
        """A position, if positions matter: all are alike."""
        return (0.5,) if self.masked else ()

    @cached_property
    def moments(self) -> list[tuple[Array, Array]]:
        """The mean (d,) and the covariance (d, d) of the law, at each time."""
        return [(self.limit.mean(float(t), *self._anywhere), self.limit.cov(float(t), *self._anywhere)) for t in self.t]

    @cached_property
    def distances(self) -> Distances:
        """The distances of clouds to the law at each time."""
        return self._distances(0)

    def _distances(self, seed: int) -> Distances:
        """Return these distances; the points of the law have a seed."""
        return Distances.of(self, _POINTS_OF_MANY if self.masked else _POINTS, seed)

    def rows(self, distances: bool = True) -> list[dict[str, Any]]:
        """Return what is known of the limit at each time, as rows of the table `limits` of the study.

        distances: whether the floors of distances are wanted; nan without.
        """
        other = self._distances(_FLOOR) if distances else None
        probes = self.law.sobol(_PROBES, 0)
        bounds, rates = self._log_bounds(), self._log_rates()
        rows = []
        for frame, t in enumerate(self.t):
            w1, w2, slices = (np.nan,) * 3 if other is None else self.distances.apart(other, frame)
            rows.append({
                **self.setting._asdict(),
                "t": float(t),
                "reference": self.limit.how,
                "error": float(np.interp(t, self.limit.t, self.limit.error)),
                "length": float(np.linalg.norm(self.push(frame, probes), axis=1).max()),
                "variance": float(np.trace(self.moments[frame][1])),
                "w1_floor": w1,
                "w2_floor": w2,
                "sliced_floor": slices,
                "log_bound": float(bounds[frame]),
                "log_rate": float(rates[frame]),
            })  # fmt: skip
        return rows

    def _log_bounds(self) -> Array:
        """Return log C(t, R0) (frames,) of Theory 8.1; nan for unbounded laws, and where no bound is known."""
        R0, unknown = self.law.support_radius, np.full(len(self.t), np.nan)
        if not 0.0 < R0 < np.inf:
            return unknown
        return _known(lambda: fp.stability_bound(self.attention, self.t, R0, log=True), unknown)

    def _log_rates(self) -> Array:
        """Return the integral (frames,) over time of the local rate of W_2 of Theory 12.5; nan where it is not known.

        It is that of a rule of the law with few nodes, which are moved; under a mask they are at many positions, with
        whose number the rate still rises a little.
        """
        if not self.has_derivatives:
            return np.full(len(self.t), np.nan)
        nodes, weights = few_nodes(self.law, fewest=self.masked)
        fine = np.linspace(0.0, self.t[-1], _RATES * (len(self.t) - 1) + 1)
        levels = _LEVELS if self.masked else 1
        more: dict[str, Any] = {"weights": np.tile(weights / levels, levels), "backend": "direct"}
        if self.masked:
            more["positions"] = np.repeat(np.arange(levels), len(nodes))

        def rates() -> Array:
            moved = [self.limit.push(float(t), nodes, *self._anywhere) if t else nodes for t in fine]
            return np.array([fp.lipschitz(self.attention, np.tile(x, (levels, 1)), **more).rate for x in moved])

        found = _known(rates, np.full(len(fine), np.nan))
        # Simpson's rule in each interval of the table.
        parts = [found[k : k + _RATES + 1] @ [1.0, 4.0, 2.0, 4.0, 1.0] for k in range(0, len(fine) - 1, _RATES)]
        return np.concatenate([[0.0], np.cumsum(parts)]) * (fine[1] - fine[0]) / 3.0

    @property
    def has_derivatives(self) -> bool:
        """Whether the derivatives of the field are known: not those of a weight of one's own without a derivative."""
        return has_derivatives(self.attention)


def _has_rule(law: fp.laws.Law) -> bool:
    """Return whether a law has a quadrature rule, or is one of points."""
    if not (isinstance(law, fp.laws.Empirical) or law.dimension in _FEW):
        return False
    try:
        law.nodes(1)
    except fp.InputError as error:
        if error.name != "law":
            raise
        return False
    return True


def _stays_gaussian(law: fp.laws.Law, attention: fp.Attention) -> bool:
    """Return whether the law is Gaussian at all times."""
    if not isinstance(law, fp.Gaussian):
        return False
    try:
        attention.affine(law.mean, law.cov)
    except fp.NoGaussianClosure:
        return False
    return True


def few_nodes(law: fp.laws.Law, *, fewest: bool = False) -> tuple[Array, Array]:
    """Return nodes (q, d) and weights (q,) of a law: of a coarse rule, or Sobol points where there is none."""
    if _has_rule(law):
        return law.nodes((_FEWEST if fewest else _FEW).get(law.dimension, 1))
    count = _FEWEST_SOBOL if fewest else _FEW_SOBOL
    return law.sobol(count, 0), np.full(count, 1.0 / count)


def _known(found: Any, unknown: Array) -> Array:
    """Return found(), or `unknown` where an error says that an attention has no bound, or no derivative."""
    try:
        return np.asarray(found())
    except fp.InputError as error:
        if error.name not in _UNKNOWN:
            raise
        return unknown
