"""The result of the study `mean_field`: its tables, the powers of n in them, and what they say of theory."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from .limit_distances import HOW
from .limit_settings import Setting
from .mask_levels import Levels
from .power_laws import Rate, fit_rate, fournier_guillin
from .table import Array, Column, Study, read_csv, write_csv

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

_TEXTS = ("law", "variant", "what", "reference")
_FLOORS = {"w1": "w1_floor", "w2": "w2_floor", "sliced_w2": "sliced_floor"}
_SIZES = ("length", "variance", *_FLOORS.values())
_LIMITS = ("law", "variant", "strength", "t", "reference", "error", *_SIZES, "log_bound", "log_rate")
_CLT = ("law", "variant", "strength", "what", "t", "predicted", "measured", "error")
_MORE = {"limits.csv": _LIMITS, "clt.csv": _CLT}
_CONTROLLED = {"velocity": "mean", "coupling": "drift", "coupling_max": "drift"}
_DEVIATIONS = 3.0  # standard errors that a covariance may be off
_CLEAR, _OFF_FLOOR = 10.0, 2.0  # how many times what a reference is wrong by an error has to be to enter a fit


@dataclass(frozen=True, eq=False, repr=False)
class MeanField(Study):
    """The tables of `mean_field`.

    Attributes:
        limits: of each limit at each time: reference, how it is known, and error, how far it may be off relative to
            `length`: "closure" and "quadrature" have two runs that differ by that, "sobol" a standard error; variance,
            E |x - E x|^2; w1_floor, w2_floor and sliced_floor, the distances of two references, below which none can be
            measured; log_bound, the logarithm of C(t, R0) of Theory 8.1; log_rate, the integral of the local rate of
            Theory 12.5.
        clt: predicted and measured, the trace of n Cov of the velocity at t = 0 (what = "velocity") and of the place
            at time t ("place") of probes, means over 8 of them; error, the standard error of what was measured.
    """

    limits: Mapping[str, Array] = field(default_factory=dict)
    clt: Mapping[str, Array] = field(default_factory=dict)
    name: ClassVar[str] = "mean-field"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        """Return a description of each column, by name and in order."""
        by = ", times the root of the part of all tokens that is seen" if "masked" in parameters["variants"] else ""
        what = "conditional under a mask" if by else "from the tokens to the law"
        ways = "; ".join(f"{word}: {meaning}" for word, meaning in HOW.items())
        return {
            "law": Column("text", "", "of tokens at t = 0"),
            "variant": Column("text", "", "of attention"),
            "strength": Column("number", "1/length^2", "|A|"),
            "n": Column("whole", "", "tokens"),
            "draw": Column("whole", "", "number of the draw"),
            "t": Column("number", "time", ""),
            "positions": Column("whole", "", "number of positions of the tokens"),
            "velocity": Column("number", "length/time", f"root mean square of Gamma_n - Gamma{by}"),
            "mean": Column("number", "length", f"|mean of what a token sees - that of the law|{by}"),
            "cov": Column("number", "length^2", "|covariance of the tokens - that of the law|, Frobenius"),
            "distances": Column("text", "", f"how W_1 and W_2 are known; {ways}"),
            "w1": Column("number", "length", f"W_1, {what}; nan for too many tokens"),
            "w2": Column("number", "length", f"W_2, {what}; nan for too many tokens"),
            "sliced_w2": Column("number", "length", f"sliced W_2, {what}"),
            "followed": Column("whole", "", "number of tokens whose coupling is known, evenly spaced among all"),
            "drift": Column("number", "length", f"coupling that errors of means at t = 0 make{by}"),
            "coupling": Column("number", "length", f"root mean square of |x - x of the limit|{by}"),
            "coupling_max": Column("number", "length", f"largest |x - x of the limit|, from the same start{by}"),
        }  # fmt: skip

    # -- what is in it ------------------------------------------------------------------------------------------------

    def settings(self) -> list[Setting]:
        """Return all settings (law, variant, strength), in order."""
        found = zip(self["law"].tolist(), self["variant"].tolist(), self["strength"].tolist(), strict=True)
        return [Setting(*setting) for setting in dict.fromkeys(found)]

    def rows(self, setting: Sequence[Any], t: float | None = None) -> Array:
        """Return where the rows of a setting are, at one time if there is a t: (rows,) of bool."""
        return _where(self.columns, setting, t)

    def times(self, setting: Sequence[Any]) -> Array:
        """Return the times (frames,) of a setting."""
        return np.unique(self["t"][self.rows(setting)])

    def rate(self, error: str, setting: Sequence[Any], t: float) -> Rate:
        """Return the fitted power of n of an error at a time, with its interval; the n are those of `fitted`.

        Velocities and places are wrong mostly because the mean of what a token sees is wrong at first, and how large
        that error, and the coupling that it makes, are on average is known: these are the controls of `fit_rate`.

        error: the name of a column; setting: (law, variant, strength), as of `settings`.
        """
        rows = self.rows(setting, t)
        rows = rows & np.isin(self["n"], self.fitted(error, setting, t)) & np.isfinite(self[error])
        n, draw, values = self["n"][rows], self["draw"][rows], self[error][rows]
        if error not in _CONTROLLED or not self.limits or not len(n):
            return fit_rate(n, draw, values)
        control, first = _CONTROLLED[error], self.rows(setting, 0.0) & np.isin(self["n"], n)
        variance = self.limits["variance"][_where(self.limits, setting, 0.0)][0]
        at, of = (None, first) if control == "mean" else (t, rows)
        parts = {size: Levels.of(size, setting[1] == "masked").expected(at) for size in np.unique(n).tolist()}
        return fit_rate(n, draw, values, self[control][of], variance * np.array([parts[size] for size in n.tolist()]))

    def fitted(self, error: str, setting: Sequence[Any], t: float) -> Array:
        """Return the numbers of tokens at which an error is known, and is far above that of the reference.

        Distances have to be twice their floor, in the root mean square, and other errors 10 times that of the limit.
        """
        rows = self.rows(setting, t) & np.isfinite(self[error])
        sizes = np.unique(self["n"][rows])
        if not self.limits:
            return sizes
        limit = {name: values[_where(self.limits, setting, t)][0] for name, values in self.limits.items()}
        if error in _FLOORS:
            least = _OFF_FLOOR * limit[_FLOORS[error]]
        else:
            least = _CLEAR * limit["error"] * limit["length"] ** (2 if error == "cov" else 1)
        seen = [np.sqrt(np.mean(self[error][rows & (self["n"] == n)] ** 2)) for n in sizes]
        return sizes[np.array(seen) > least]

    def expected(self, error: str, setting: Sequence[Any] | None = None) -> float:
        """Return the power of n of theory: for W_1 and W_2 that of the bound for all laws, -1/2 for other errors.

        With a setting whose attention is masked, distances are those of the n^{2/3} tokens of a position. Source:
        Theory 8.3, 13.4; Fournier and Guillin (2015).
        """
        power = fournier_guillin(int(error[1]), self.parameters["dimension"]) if error in ("w1", "w2") else -0.5
        return power * 2.0 / 3.0 if error in _FLOORS and setting is not None and setting[1] == "masked" else power

    def log_ratio(self, setting: Sequence[Any], t: float, p: int = 2) -> float:
        """Return the largest log W_p(mu^n_t, mu_t) / W_p(mu^n_0, mu_0) of all clouds; nan where W_p is not known."""
        now, first = self.rows(setting, t), self.rows(setting, 0.0)
        with np.errstate(divide="ignore", invalid="ignore"):
            found = np.log(self[f"w{p}"][now] / self[f"w{p}"][first])
        known = found[np.isfinite(found)]
        return float(known.max()) if len(known) else np.nan

    def bounds(self, setting: Sequence[Any], t: float) -> tuple[float, float]:
        """Return the logarithms of what W_2 may grow by: of C(t, R0), and by the local rate; nan if not known."""
        if not self.limits:
            return np.nan, np.nan
        rows = _where(self.limits, setting, t)
        return float(self.limits["log_bound"][rows][0]), float(self.limits["log_rate"][rows][0])

    def floor(self, name: str, setting: Sequence[Any], t: float) -> float:
        """Return a floor of distances at a time: `name` is a column of `limits`."""
        return float(self.limits[name][_where(self.limits, setting, t)][0])

    def deviations(self) -> Array:
        """Return (measured - predicted) / error of all rows of `clt`."""
        if not self.clt:
            return np.empty(0)
        with np.errstate(divide="ignore", invalid="ignore"):
            return np.asarray((self.clt["measured"] - self.clt["predicted"]) / self.clt["error"])

    # -- in words -----------------------------------------------------------------------------------------------------

    def summary(self) -> str:
        """Return the powers of n, how well covariances are predicted, and how much distances to the limit grow."""
        parts = [self._powers(), self._central_limit(), self._growth()]
        if left := self.parameters.get("skipped"):
            parts.append(f"left out, as they have no limit: {', '.join(left)}")
        if less := self.parameters.get("underived"):
            parts.append(
                f"prediction of n Cov and local rate not available: the weight of {', '.join(less)} has no derivative"
            )
        parts.append(self._errors_of_limits())
        return "; ".join(filter(None, parts))

    def _powers(self) -> str:
        """Return the powers of n of the coupling error at the end, or of what an older version has kept."""
        sizes, settings, told = self.parameters["sizes"], self.settings(), []
        several = {key: len({getattr(s, key) for s in settings}) > 1 for key in ("law", "strength")}
        kept = np.isfinite(self["coupling"]).all()
        error, what = ("coupling", "coupling error at the end") if kept else ("velocity", "velocity error")
        for setting in settings:
            t = self.times(setting)[-1 if kept else 0]
            name = f"{setting.law} {setting.variant}" if several["law"] else setting.variant
            name += f" (|A| = {setting.strength:g})" if several["strength"] else ""
            if len(sizes) > 1:
                known = self.fitted(error, setting, t)
                less = f" (n <= {known.max()})" if len(known) > 1 and known.max() < max(sizes) else ""
                few = "not known, as its limit is not known well enough"
                told.append(f"{name} {str(self.rate(error, setting, t)) + less if len(known) > 1 else few}")
            else:
                told.append(f"{name} {np.sqrt(np.mean(self[error][self.rows(setting, t)] ** 2)):.3g}")
        if len(sizes) > 1:
            return f"{what} ~ n^p, p = {', '.join(told)}"
        return f"{what} at n = {sizes[0]} (one size: no power) {', '.join(told)}"

    def _central_limit(self) -> str:
        """Return how far n Cov is from its prediction."""
        if not self.clt or not len(self.clt["predicted"]):
            return ""
        off = self.deviations()
        ratio = np.abs(self.clt["measured"] / self.clt["predicted"] - 1.0)
        if not np.isfinite(ratio).any():
            return ""
        text = f"n Cov within {100 * np.nanmax(ratio):.1f} % of the prediction"
        known = off[np.isfinite(off)]
        if len(known):
            good = int((np.abs(known) <= _DEVIATIONS).sum())
            text += f", {good} of {len(known)} within {_DEVIATIONS:g} standard errors"
        return text

    def _growth(self) -> str:
        """Return the largest growth of W_2 to the limit beside what theory allows it."""
        told = []
        for setting in self.settings():
            t = self.times(setting)[-1]
            bound, rate = self.bounds(setting, t)
            told.append((self.log_ratio(setting, t) - rate, self.log_ratio(setting, t), rate, bound))
        known = [one for one in told if np.isfinite(one[0])]
        if not known:
            return ""
        _, ratio, rate, bound = max(known)
        text = (
            f"W_2 to the limit grows by a factor of {np.exp(ratio):.3g} where the local rate allows {np.exp(rate):.3g}"
        )
        return text + (f" and C(t, R0) is e^{bound:.3g}" if np.isfinite(bound) else "") + ", at the closest"

    def _errors_of_limits(self) -> str:
        """Return how well limits by Sobol points are known."""
        if not self.limits or not (rows := self.limits["reference"] == "sobol").any():
            return ""
        return f"limits by Sobol points have a standard error of at most {100 * self.limits['error'][rows].max():.2g} %"

    def figure(self) -> Figure:
        """Draw the errors against n with the fitted powers, the covariances and the growth of distances."""
        from fastpde.plot import convergence

        return convergence.figure(self)

    @property
    def tables(self) -> dict[str, Mapping[str, Array]]:
        """The tables beside the rows that are not empty, by name."""
        both = {"limits": self.limits, "clt": self.clt}
        return {name: table for name, table in both.items() if table and len(table["law"])}

    # -- in files -----------------------------------------------------------------------------------------------------

    def _save_more(self, folder: Path) -> None:
        for name, columns in (("limits.csv", self.limits), ("clt.csv", self.clt)):
            write_csv(folder / name, columns or {column: [] for column in _MORE[name]})

    @classmethod
    def read(cls, folder: Path, parameters: Mapping[str, Any]) -> MeanField:
        """Return the study that `save` wrote. Raises OSError, ValueError."""
        if "laws" not in parameters:
            return cls._older(folder, parameters)
        more = [columns_of(read_csv(folder / name), columns) for name, columns in _MORE.items()]
        return cls(parameters, cls.read_columns(folder, parameters), *more)

    @classmethod
    def _older(cls, folder: Path, parameters: Mapping[str, Any]) -> MeanField:
        """Return a study of the version that started from N(0, I) only: what it did not measure is nan."""
        found = read_csv(folder / "rows.csv")
        about, size = cls.layout(parameters), len(next(iter(found.values())))
        plain = {header.split(" [")[0]: values for header, values in found.items()} | {"law": ["gaussian"] * size}
        unknown = {"number": np.nan, "whole": 0, "text": "none"}
        columns = {name: np.array(plain.get(name, [unknown[column.kind]] * size)) for name, column in about.items()}
        kept = read_csv(folder / "clt.csv")
        count = len(kept["variant"])
        kept |= {
            "law": ["gaussian"] * count,
            "what": ["velocity"] * count,
            "t": ["0"] * count,
            "error": ["nan"] * count,
        }
        return cls({**parameters, "laws": ["gaussian"]}, columns, {}, columns_of(kept, _CLT))


def columns_of(rows: Any, names: Sequence[str]) -> Mapping[str, Array]:
    """Return read-only columns of a list of rows, or of columns of texts. Raises ValueError if one is missing."""
    values = {n: [row[n] for row in rows] for n in names} if isinstance(rows, list) else rows
    if missing := [name for name in names if name not in values]:
        raise ValueError(f"a table has no column {missing[0]}")
    found = {name: np.array(values[name], str if name in _TEXTS else float) for name in names}
    for column in found.values():
        column.flags.writeable = False
    return MappingProxyType(found)


def limits_of(rows: list[dict[str, Any]]) -> Mapping[str, Array]:
    """Return the table `limits` of its rows."""
    return columns_of(rows, _LIMITS)


def clt_of(rows: list[dict[str, Any]]) -> Mapping[str, Array]:
    """Return the table `clt` of its rows."""
    return columns_of(rows, _CLT)


def _where(columns: Mapping[str, Array], setting: Sequence[Any], t: float | None) -> Array:
    """Return the rows (m,) of bool of a setting in a table, at one time if there is a t."""
    law, variant, strength = setting
    found = (columns["law"] == law) & (columns["variant"] == variant) & (columns["strength"] == strength)
    return np.asarray(found if t is None else found & (columns["t"] == t))
