"""How long laws exist under unnormalised attention if their support is large: open question 3 of the paper (13.5).

Laws are N(0, I) truncated at the radius R, in d = 1 and 2, under attention with V a rotation and A diagonal. Under
exponential attention with V A > 0 the time of existence falls to zero as R grows, so that N(0, I) has no solution at
all. Under V A < 0 the law comes down from infinity: the edge at a later time does not depend on R. Under linear
attention the time follows from second moments, and under sigmoid attention nothing blows up.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

import fastpde as fp
from fastpde._numbers import one_of, real
from fastpde.errors import explained
from fastpde.theory import bounds

from .edge_flow import Flow, resolved
from .study_arguments import increasing, several
from .study_cells import Rows, rows_of
from .table import Array, Column, Study

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

VARIANTS = {"exponential": fp.Exponential, "linear": fp.Linear, "sigmoid": fp.Sigmoid}
SPECTRA = ((0.5,), (1.0,), (1.5,), (-1.0,), (1.0, 0.5), (1.0, -1.0), (-1.0, -0.5))
_TOL = 1e-5, 1e-2  # relative, in d = 1 and 2: what two quadrature rules have to agree to in times and edges
_GRADED = 0.15  # ratio of the lengths of two pieces of a rule
_ANGLES = 180  # points on half of the edge of a disc, the other half mirrors it
_FITTED = 4  # radii, the largest ones, to which a power is fitted


@dataclass(frozen=True, eq=False, repr=False)
class BlowUp(Study):
    """The table of `blow_up`."""

    name: ClassVar[str] = "blow-up"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        edges = {
            f"edge_{i}": Column("number", "length", f"largest |x| in the support at t = {t:g}; nan: blown up")
            for i, t in enumerate(parameters["times"])
        }
        return {
            "variant": Column("text", "", "of attention"),
            "lambda_1": Column("number", "1/length^2", "first eigenvalue of A"),
            "lambda_2": Column("number", "1/length^2", "second one; nan in d = 1"),
            "turn": Column("number", "degrees", "angle of the rotation V"),
            "growth": Column("number", "1/length^2", "largest eigenvalue of the symmetric part of V A"),
            "radius": Column("number", "length", "R, at which N(0, I) is truncated"),
            "t_star": Column("number", "time", f"of the blow-up; inf: none up to t = {parameters['times'][-1]:g}; nan: "
                             "not followed so far"),
            "exact": Column("number", "time", "of the blow-up under linear attention, from second moments; else nan"),
            "at_least": Column("number", "time", "up to which a solution exists by Theory 8.2"),
            "frozen": Column("number", "time", "upper bound, by the field of the start; nan where it is none"),
            "tails": Column("number", "time", "upper bound, by the mass beyond the best radius; nan likewise"),
            "angle": Column("number", "degrees", "between what escapes and the direction of growth; else nan"),
            **edges,
            "nodes": Column("whole", "", "of the quadrature rule"),
            "error": Column("number", "", "relative difference of t_star, or of the edges, from a coarser rule"),
        }  # fmt: skip

    def rows(self, variant: str, spectrum: Sequence[float], turn: float = 0.0) -> Array:
        """Return a mask of the rows of one attention, one row per radius."""
        first, second = (*spectrum, np.nan)[:2]
        own = (self["variant"] == variant) & (self["lambda_1"] == first) & (self["turn"] == turn)
        return own & (np.isnan(self["lambda_2"]) if np.isnan(second) else self["lambda_2"] == second)

    def exponent(self, a: float) -> tuple[float, float]:
        """Return (fitted, expected) kappa of t* ~ R^p e^{kappa R^2} under exponential attention, d = 1, V = 1, A = a.

        kappa and p are fitted to the four largest radii. Expected is -a^2/2 for a <= 1, else -(a - 1/2). Fitted is nan
        with fewer than four radii, or if one of them has no blow-up.
        """
        own = self.rows("exponential", (a,))
        R, times = self["radius"][own][-_FITTED:], self["t_star"][own][-_FITTED:]
        expected = -0.5 * a * a if a <= 1.0 else 0.5 - a
        if len(R) < _FITTED or not np.isfinite(times).all():
            return np.nan, expected
        design = np.stack([R**2, np.log(R), np.ones_like(R)], axis=1)
        return float(np.linalg.lstsq(design, np.log(times), rcond=None)[0][0]), expected

    @property
    def outside(self) -> Array:
        """A mask of the rows whose time is outside of its bounds, by more than twice its error."""
        t, slack = self["t_star"], 2.0 * np.where(np.isfinite(self["error"]), self["error"], 0.0)
        low = t < self["at_least"] * (1.0 - slack)
        return low | (t > np.fmin(self["frozen"], self["tails"]) * (1.0 + slack))

    @property
    def settled(self) -> float:
        """The largest relative difference of edges at the same time between the two largest radii, if V A < 0, d = 1.

        nan: there is none.
        """
        found = [np.nan]
        for (a,) in (spectrum for spectrum in self.parameters["spectra"] if len(spectrum) == 1 and spectrum[0] < 0.0):
            own = np.flatnonzero(self.rows("exponential", (a,)))[-2:]
            if len(own) == 2:
                edges = np.array([self[name][own] for name in self.columns if name.startswith("edge_")])
                found.append(float(np.abs(edges[:, 0] / edges[:, 1] - 1.0).max()))
        return float(np.nanmax(found)) if len(found) > 1 else np.nan

    def summary(self) -> str:
        """Return the fitted exponents, how exact linear attention is, and whether bounds hold."""
        told = []
        fits = [(a, *self.exponent(a)) for (a, *rest) in self.parameters["spectra"] if not rest and a > 0.0]
        shown = [f"{found:.4f} ({want:.4g}) for a = {a:g}" for a, found, want in fits if np.isfinite(found)]
        if shown:
            told.append("log t* falls with R^2 at " + ", ".join(shown))
        if np.isfinite(self.settled):
            told.append(f"edges of attracted laws differ by {self.settled:.1g} between the largest radii")
        known = np.isfinite(self["exact"]) & np.isfinite(self["t_star"])
        if known.any():
            off = np.abs(self["t_star"][known] / self["exact"][known] - 1.0).max()
            told.append(f"linear attention blows up at the exact time to {off:.1g}")
        allowed = np.where(np.isnan(self["lambda_2"]), *_TOL)
        rough, outside = int((~(self["error"] <= allowed)).sum()), int(self.outside.sum())
        told.append(f"{outside} of {len(self)} times are outside of their bounds" if outside else "all bounds hold")
        if rough:
            told.append(f"{rough} of {len(self)} rows are not resolved to {_TOL[0]:g} in d = 1, {_TOL[1]:g} in d = 2")
        return "; ".join(told)

    def figure(self) -> Figure:
        """Draw times against R^2, the edges of attracted laws, linear attention, and laws of the plane."""
        from fastpde.plot import existence_times

        return existence_times.figure(self)


@explained
def blow_up(
    spectra: Sequence[Sequence[float]] = SPECTRA,
    variants: Sequence[str] = tuple(VARIANTS),
    *,
    radii: Sequence[float] = (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0),
    plane_radii: Sequence[float] = (2.0, 3.0, 4.0),
    turns: Sequence[float] = (0.0, 60.0),
    times: Sequence[float] = (0.05, 0.5, 2.0),
    cells: str | Path | None = None,
    progress: Any = False,
) -> BlowUp:
    """Follow truncated Gaussian laws under unnormalised attention to their blow-up, and compare with bounds.

    The law is N(0, I) conditioned on |x| <= R. Nodes of a quadrature rule move as tokens, with points of the edge of
    the support, in a clock of their own: near t* the step is a fraction of |x| / |x'|.

    Args:
        spectra: the eigenvalues of A, one for d = 1 or two for d = 2, not all 0.
        variants: some of "exponential", "linear", "sigmoid".
        radii, plane_radii: R, increasing, in d = 1 and in d = 2.
        turns: angles of the rotation V in d = 2, in degrees; V = 1 in d = 1.
        times: increasing times at which the edge is kept; what has not blown up is followed to the last one.
        cells: a file that keeps finished laws, from which an interrupted study goes on.
        progress: True for a bar, or a function of (number of laws that are done, {"systems": number of laws}).

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Theory 13.5, 8.2; Castin et al. 2025, section 3.1.
    """
    parameters: dict[str, Any] = {
        "spectra": [_spectrum(spectrum) for spectrum in several("spectra", spectra)],
        "variants": [one_of("variants", name, VARIANTS) for name in several("variants", variants)],
        "radii": increasing("radii", radii),
        "plane_radii": increasing("plane_radii", plane_radii),
        "turns": [real("turns", turn) for turn in several("turns", turns)],
        "times": increasing("times", times),
    }
    tasks = {" ".join(map(str, case)): (*case, parameters["times"]) for case in cases(parameters)}
    return BlowUp.of_rows(parameters, rows_of(_rows, tasks, cells, parameters, progress))


def cases(parameters: Mapping[str, Any]) -> list[tuple[str, tuple[float, ...], float, float]]:
    """Return (variant, spectrum, turn, radius) of all rows in their order."""
    return [
        (name, tuple(spectrum), turn, R)
        for name in parameters["variants"]
        for spectrum in parameters["spectra"]
        for turn in (parameters["turns"] if len(spectrum) == 2 else [0.0])
        for R in parameters["plane_radii" if len(spectrum) == 2 else "radii"]
    ]


def _spectrum(value: Any) -> list[float]:
    """Return one eigenvalue or two. Raises InputError, InputTypeError."""
    if isinstance(value, str | int | float) or not 1 <= len(value) <= 2:
        raise fp.InputError("spectra", repr(value), "one eigenvalue of A or two, as (1.0, -1.0)")
    found = [real("spectra", number) for number in value]
    if not any(found):
        raise fp.InputError("spectra", repr(value), "an eigenvalue that is not 0")
    return found


def truncated(d: int, R: float) -> fp.laws.Radial:
    """Return N(0, I) on R^d conditioned on |x| <= R.

    Each token next to the edge blows up at a time of its own, so that the flow is singular at the edge: the rule has
    pieces that become shorter and shorter towards it.
    """
    edges = R * (1.0 - _GRADED ** np.arange(1 + (6 if d == 1 else 2)))
    return fp.laws.Radial(lambda r: np.exp(-0.5 * r * r), d, [*edges, R])


def _rows(name: str, spectrum: tuple[float, ...], turn: float, R: float, times: list[float]) -> Rows:
    """Return the row of one law."""
    d, angle = len(spectrum), np.deg2rad(turn)
    A = np.diag(spectrum)
    V = np.array([[np.cos(angle), -np.sin(angle)], [np.sin(angle), np.cos(angle)]]) if d == 2 else np.eye(1)
    attention, law = VARIANTS[name](A, np.eye(d), V), truncated(d, R)
    rates, directions = np.linalg.eigh((V @ A + A.T @ V.T) / 2.0)
    theta = np.arange(_ANGLES) * np.pi / _ANGLES
    edge = R * (np.stack([np.cos(theta), np.sin(theta)], axis=1) if d == 2 else np.ones((1, 1)))
    flow = resolved(attention, law, edge, times, _TOL[d - 1])
    frozen, tails = np.nan, np.nan
    if name == "exponential" and turn == 0.0 and max(spectrum) > 0.0:
        frozen = _frozen(attention, law, R, int(np.argmax(spectrum)))
        tails = _tails(spectrum[0], R) if d == 1 else np.nan
    return [{
        "variant": name,
        "lambda_1": spectrum[0],
        "lambda_2": spectrum[1] if d == 2 else np.nan,
        "turn": turn,
        "growth": float(rates[-1]),
        "radius": R,
        "t_star": flow.t if flow.blows_up else np.inf if flow.t == times[-1] else np.nan,
        "exact": _exact(attention, law, spectrum) if name == "linear" else np.nan,
        "at_least": bounds.existence_time(attention, R),
        "frozen": frozen,
        "tails": tails,
        "angle": _angle(flow, directions[:, -1]),
        **{f"edge_{i}": float(reach) for i, reach in enumerate(flow.reach)},
        "nodes": flow.nodes,
        "error": flow.error,
    }]  # fmt: skip


def _angle(flow: Flow, direction: Array) -> float:
    """Return the angle in degrees between the outermost point of the edge and the line of a unit vector."""
    if not flow.blows_up:
        return np.nan
    x = flow.edge[np.argmax(np.linalg.norm(flow.edge, axis=1))]
    return float(np.rad2deg(np.arccos(min(1.0, abs(x @ direction) / np.linalg.norm(x)))))


def _exact(attention: fp.Attention, law: fp.laws.Law, spectrum: tuple[float, ...]) -> float:
    """Return when linear attention blows up: it moves second moments of every law as those of a Gaussian law."""
    if len(spectrum) == 1:
        return 1.0 / (2.0 * spectrum[0] * float(law.cov[0, 0])) if spectrum[0] > 0.0 else np.inf
    found: Any = fp.solve(attention, fp.Gaussian(law.mean, law.cov), (0.0, 1e4), rtol=1e-12, atol=1e-14)
    return float(found.blowup_time) if np.isfinite(found.blowup_time) else np.inf


def _frozen(attention: fp.Attention, law: fp.laws.Law, R: float, axis: int) -> float:
    """Return int_R^inf dx / Gamma_0(x) along an axis, with the field Gamma_0 of the law at the start.

    The field along the axis grows with time, so this is an upper bound of the blow-up time (Theory 13.5). In units of
    Gamma_0 / Gamma_0' at R the integrand falls faster than e^{-u}.
    """
    nodes, weights = law.nodes(48 if law.dimension == 1 else 32)
    u, w = np.polynomial.legendre.leggauss(80)
    e = np.eye(law.dimension)[axis]

    def field(x: Array) -> Array:
        with np.errstate(over="ignore"):
            return attention.velocity(nodes, at=x[:, None] * e, weights=weights, backend="direct")[:, axis]

    near = field(np.array([R, R * (1.0 + 1e-5)]))
    unit = R * 1e-5 / np.log(near[1] / near[0])
    x = R + 20.0 * unit * (u + 1.0)
    return float(20.0 * unit * (w @ (1.0 / field(x))))


def _tails(a: float, R: float) -> float:
    """Return min over r of ln coth(a r R / 2) / (c a r^2), c the mass beyond r: an upper bound of the blow-up time."""
    from scipy.special import erf

    r = R * (np.arange(2000) + 0.5) / 2000
    mass = (erf(R / np.sqrt(2.0)) - erf(r / np.sqrt(2.0))) / erf(R / np.sqrt(2.0))
    with np.errstate(over="ignore", divide="ignore"):
        return float(np.min(np.log1p(2.0 / np.expm1(a * r * R)) / (mass * a * r * r)))
