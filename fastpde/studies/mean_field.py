"""Errors of n random tokens against the law they are drawn from: velocity, mean, covariance and distance over time.

The law is Gaussian at first. Where it stays so, its exact flow is the reference; elsewhere weighted Gauss-Hermite nodes
are moved as tokens, which is exact to rounding for smooth fields (Theory 2).
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from operator import attrgetter
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np
from scipy.special import logsumexp

import fastpde as fp
from fastpde.attention.variants import chosen, named, suiting

from . import draws as laws
from .power_laws import Rate, fit_rate
from .study_cells import Cells
from .table import Array, Column, Study, read_csv, write_csv

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

SIZES = (100, 316, 1000, 3162, 10_000, 31_623, 100_000, 316_228, 1_000_000)
ERRORS = ("velocity", "mean", "cov", "sliced_w2")
_NODES = 24  # Gauss-Hermite nodes per axis
_FEW_NODES = {1: 24, 2: 24, 3: 12}  # by dimension, where there is a matrix over pairs of nodes
_HALF_STEPS = 1000  # largest number of iterations of a scaling of nodes; each gains a factor of about |A|^2
_CLT = "clt.csv"
_CLT_POINTS, _CLT_BLOCK = 8, 250
_PROJECTIONS = 32
_has_limit = attrgetter("has_limit")
_MARGINAL = 1e-7  # tolerance of Sinkhorn scalings: n^{-1/2} is 3e-5 for a billion tokens


@dataclass(frozen=True, eq=False, repr=False)
class MeanField(Study):
    """The table of `mean_field`.

    Attributes:
        clt: columns variant, strength, point, predicted and measured; the last two are the trace of n Cov Gamma_n(x) at
            some points x.
    """

    clt: Mapping[str, Array] = field(default_factory=dict)
    name: ClassVar[str] = "mean-field"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        """Return a description of each column, by name and in order."""
        return {
            "variant": Column("text", "", "of attention"),
            "strength": Column("number", "1/length^2", "|A|, the law at t = 0 is N(0, I)"),
            "n": Column("whole", "", "tokens"),
            "draw": Column("whole", "", "number of the draw"),
            "t": Column("number", "time", ""),
            "velocity": Column("number", "length/time", "root mean square of Gamma_n - Gamma over points of the law"),
            "mean": Column("number", "length", "|mean of the tokens - mean of the law|"),
            "cov": Column("number", "length^2", "|covariance of the tokens - that of the law|, Frobenius"),
            "sliced_w2": Column("number", "length", "sliced W_2 from the tokens to the law; nan if it is not Gaussian"),
        }

    def rate(self, error: str, variant: str, strength: float, t: float) -> Rate:
        """Return the fitted power of n of an error, with its 95 % interval."""
        rows = (self["variant"] == variant) & (self["strength"] == strength) & (self["t"] == t)
        return fit_rate(self["n"][rows], self["draw"][rows], self[error][rows])

    def settings(self) -> list[tuple[str, float]]:
        """Return all pairs of a variant and a strength."""
        return [(variant, s) for variant in self.parameters["variants"] for s in self.parameters["strengths"]]

    def summary(self) -> str:
        """Return the powers of n of the velocity's error at t = 0, and how well its covariance is predicted."""
        several, sizes = len(self.parameters["strengths"]) > 1, self.parameters["sizes"]
        told = []
        for variant, s in self.settings():
            if len(sizes) > 1:
                found = str(self.rate("velocity", variant, s, 0.0))
            else:
                rows = (self["variant"] == variant) & (self["strength"] == s) & (self["t"] == 0.0)
                found = f"{np.sqrt(np.mean(self['velocity'][rows] ** 2)):.3g}"
            told.append(f"{variant}{f' (|A| = {s:g})' if several else ''} {found}")
        what = (
            "velocity error ~ n^p, p =" if len(sizes) > 1 else f"velocity error at n = {sizes[0]} (one size: no power)"
        )
        text = f"{what} {', '.join(told)}"
        known = np.isfinite(self.clt["predicted"]) & (self.clt["strength"] ** 2 < 0.5)
        if known.any():
            worst = 0.0
            for variant in np.unique(self.clt["variant"][known]):
                rows = known & (self.clt["variant"] == variant)
                ratio = self.clt["measured"][rows].sum() / self.clt["predicted"][rows].sum()
                worst = max(worst, abs(float(ratio) - 1.0))
            text += f"; n Cov within {100 * worst:.1f} % of the prediction"
        return text

    def figure(self) -> Figure:
        """Draw the errors against n, with the fitted powers."""
        from fastpde.plot import convergence

        return convergence.figure(self)

    def _save_more(self, folder: Path) -> None:
        write_csv(folder / _CLT, self.clt)

    @classmethod
    def read(cls, folder: Path, parameters: Mapping[str, Any]) -> MeanField:
        """Return the study that `save` wrote. Raises OSError, ValueError."""
        text = read_csv(folder / _CLT)
        clt = {name: np.array(text[name]) for name in ("variant",)}
        clt |= {name: np.array(text[name], float) for name in ("strength", "point", "predicted", "measured")}
        return cls(parameters, cls.read_columns(folder, parameters), clt)


def mean_field(
    variants: Sequence[Any] = suiting(_has_limit),
    sizes: Sequence[int] = SIZES,
    draws: int = 16,
    *,
    dimension: int = 2,
    strengths: Sequence[float] = (0.25,),
    times: int = 3,
    steps: int = 8,
    points: int = 32,
    clt_draws: int = 8000,
    seed: int = 0,
    backend: Any = "auto",
    cells: str | Path | None = None,
    progress: Any = False,
) -> MeanField:
    """Compare n tokens drawn from N(0, I) with that law, for many n: errors, their powers of n, their central limit.

    Attention has A = strength G, |G| = 1 a random matrix, and V = I. The tokens are followed to t = 1 / (4 strength),
    half of the shortest time in which such a law could blow up under softmax attention.

    Args:
        variants: some of "softmax", "l2", "sigmoid", "sinkhorn" (eps = 1), or bounded classes of your own.
        sizes: numbers of tokens.
        draws: number of clouds of each size; draw b of n tokens comes from `np.random.default_rng([seed, n, b])`.
        dimension: the dimension d, at most 3.
        strengths: values of |A|. The law of the velocity's error has a second moment only for |A| < 1 / sqrt 2 (Theory
            8.3).
        times: number of times at which errors are measured, evenly spaced from first to last; at least 2.
        steps: number of steps of rk4, at least times - 1.
        points: number of points, drawn from the law anew for each cloud, at which velocities are compared.
        clt_draws: number of clouds of 1000 tokens from whose velocities n Cov Gamma_n(x) at t = 0 is measured; 0: none.
        seed: the seed of all random numbers.
        backend: as for `fp.solve`.
        cells: a file that keeps finished cells, from which an interrupted study goes on.
        progress: True for a bar, or a function of (number of cells that are done, {"systems": number of cells}).

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Theory 8.3; Fournier and Guillin (2015).
    """
    if getattr(backend, "processes", 1) > 1:
        remedy = "Give each process variants or sizes of its own."
        raise fp.InputError("backend", repr(backend), "one whose tokens are all in this process", remedy)
    asked = [chosen("variants", name, _has_limit) for name in laws.several("variants", variants)]
    names = laws.several("variants", [variant.name for variant in asked])
    counts = [laws.whole("sizes", n, 2) for n in laws.several("sizes", sizes)]
    found = [laws.positive("strengths", s) for s in laws.several("strengths", strengths)]
    count, d = laws.whole("draws", draws, 2), laws.whole("dimension", dimension, 1, 3)
    frames = laws.whole("times", times, 2)
    parameters = {
        "variants": names,
        **laws.code_of(names),
        "sizes": counts,
        "draws": count,
        "dimension": d,
        "strengths": found,
        "times": frames,
        "steps": laws.whole("steps", steps, frames - 1),
        "points": laws.whole("points", points, 1),
        "clt_draws": laws.whole("clt_draws", clt_draws, 0),
        "seed": laws.whole("seed", seed, 0),
    }
    kept, rows = Cells(cells, parameters), []
    settings = [(name, s) for name in names for s in found]
    with laws.told(progress, len(settings) * len(counts) * count) as report:
        for name, s in settings:
            reference = Reference.of(name, s, parameters)
            for n in counts:
                for b in range(count):
                    key = f"{name} {s!r} {n} {b}"
                    if key not in kept:
                        kept.add(key, _cell(reference, n, b, parameters, backend))
                    rows += kept[key]
                    report(len(rows) // frames)
    clt = _clt(settings, parameters)
    return MeanField(parameters, {name: np.array([row[name] for row in rows]) for name in rows[0]}, clt)


@dataclass(frozen=True)
class Reference:
    """The exact law at some times, and its field.

    Attributes:
        name, strength, attention: the variant, |A| and the attention that move the law.
        t: (frames,) times.
        mean, cov: (frames, d), (frames, d, d).
        nodes, weights: (frames, N, d), (N,) nodes of the quadrature that are moved, where the law does not stay
            Gaussian.
    """

    name: str
    strength: float
    attention: fp.Attention
    t: Array
    mean: Array
    cov: Array
    nodes: Array | None = None
    weights: Array | None = None

    @staticmethod
    def of(name: str, strength: float, parameters: Mapping[str, Any]) -> Reference:
        """Follow N(0, I) under a variant, and return its law at the times of the study."""
        d = parameters["dimension"]
        attention = _attention(name, strength, d, parameters["seed"])
        t = np.linspace(0.0, 0.25 / strength, parameters["times"])
        try:
            law: Any = fp.solve(attention, _normal(d), (0.0, t[-1]), t_eval=t, rtol=1e-11)
            return Reference(name, strength, attention, t, law.mean, law.cov)
        except fp.NoGaussianClosure:
            nodes, weights = _normal(d).nodes(_NODES)
            found: Any = fp.solve(
                attention, nodes, (0.0, t[-1]), t_eval=t, weights=weights, rtol=1e-10, atol=1e-12, backend="direct"
            )
            moved = found.x
            mean = np.einsum("i,mia->ma", weights, moved)
            centred = moved - mean[:, None]
            cov = np.einsum("i,mia,mib->mab", weights, centred, centred)
            return Reference(name, strength, attention, t, mean, cov, moved, weights)

    def velocity(self, frame: int, x: Array) -> Array:
        """Return the exact field at points x (m, d)."""
        if self.nodes is None:
            return self.attention.gaussian_velocity(x, self.mean[frame], self.cov[frame])
        return self.attention.velocity(self.nodes[frame], at=x, weights=self.weights, backend="direct")


def _normal(d: int) -> fp.Gaussian:
    """Return N(0, I) in R^d."""
    return fp.Gaussian(0.0, np.eye(d))


def _attention(name: str, strength: float, d: int, seed: int) -> fp.SingleHead:
    G = np.random.default_rng([seed, d]).standard_normal((d, d))
    root = np.sqrt(strength)
    own = named(name)
    more: dict[str, Any] = {"tol": _MARGINAL} if own.scales else {}
    attention: fp.SingleHead = own.kind(root * G / np.linalg.norm(G, 2), root * np.eye(d), np.eye(d), **more)
    return attention


def _cell(reference: Reference, n: int, b: int, parameters: Mapping[str, Any], backend: Any) -> list[dict[str, Any]]:
    """Return the rows of one cloud, one for each time."""
    d, t = parameters["dimension"], reference.t
    stream = np.random.default_rng([parameters["seed"], n, b])
    x0, z = stream.standard_normal((n, d)), stream.standard_normal((parameters["points"], d))
    attention = reference.attention
    found: Any = fp.solve(
        attention, x0, (0.0, t[-1]), t_eval=t, method="rk4", step=t[-1] / parameters["steps"], backend=backend
    )
    if not found.success:
        raise fp.InputError("backend", repr(backend), "one that can follow the tokens", found.message)
    rows = []
    for frame, x in enumerate(found.x):
        mean, cov = reference.mean[frame], reference.cov[frame]
        at = mean + z @ np.linalg.cholesky(cov).T
        off = attention.velocity(x, at=at, backend=backend) - reference.velocity(frame, at)
        own = x.mean(axis=0)
        distance = np.nan
        if reference.nodes is None:
            law = fp.Gaussian(mean, cov)
            sliced: Any = fp.wasserstein(x, law, method="sliced", projections=_PROJECTIONS)
            distance = float(sliced)
        rows.append({
            "variant": reference.name,
            "strength": reference.strength,
            "n": n,
            "draw": b,
            "t": float(t[frame]),
            "velocity": float(np.sqrt((off**2).sum(axis=1).mean())),
            "mean": float(np.linalg.norm(own - mean)),
            "cov": float(np.linalg.norm((x - own).T @ (x - own) / n - cov)),
            "sliced_w2": distance,
        })  # fmt: skip
    return rows


def predicted_covariance(attention: fp.SingleHead, x: Array) -> Array:
    """Return the limit (m, d, d) of n Cov Gamma_n(x) at points x (m, d), for tokens from N(0, I).

    Normalised attention has V E[g^2 (y - m_x)(y - m_x)^T] V^T / Z^2, g the weight of y, Z the total weight and m_x the
    weighted mean; a sum V Cov(g y) V^T; Sinkhorn attention V E[psi_x psi_x^T] V^T / eps^2, psi_x the
    influence of a token. Source: Theory 8.3.
    """
    d, score = x.shape[1], attention.score(0.0)
    if isinstance(attention, fp.Sinkhorn):
        y, w = _normal(d).nodes(_FEW_NODES[d])
        eps = float(attention.eps(0.0))
        psi = _influence(y @ score.matrix.T @ y.T / eps, x @ score.matrix.T @ y.T / eps, y, w)
        inner = np.einsum("j,ija,ijb->iab", w, psi, psi) / eps**2
        return np.asarray(score.V @ inner @ score.V.T)
    y, w = _normal(d).nodes(_NODES)
    scores = score.values(x, y)
    g = score.weight.value(scores - scores.max(axis=1, keepdims=True) if score.shifts else scores)
    if score.normalised:
        total = g @ w
        away = (y - ((g * w) @ y / total[:, None])[:, None]) * (g / total[:, None])[..., None]
    else:
        away = y * g[..., None]
        away -= np.einsum("j,ija->ia", w, away)[:, None]
    return np.asarray(score.V @ np.einsum("j,ija,ijb->iab", w, away, away) @ score.V.T)


def _influence(scores: Array, at: Array, y: Array, w: Array) -> Array:
    """Return the influence of each node on E[y kappa(x, y)]: (m, N, d), for points x and nodes y_j.

    It is the derivative with respect to mass that is added at y_j and removed from the law in proportion. scores (N, N)
    are those of nodes y (N, d) with weights w (N,), `at` (m, N) those of points x with the nodes; both are divided by
    eps. The potentials change with the law: f by -nu_1 - T g', g by g' = -nu_2 - T* f', where T is the kernel and nu
    its sums over the change of the law. So (I - T* T) g' = T* nu_1 - nu_2, up to constants.
    """
    f, g = np.zeros(len(y)), np.zeros(len(y))
    for _ in range(_HALF_STEPS):
        f = -logsumexp(scores + g, axis=1, b=w)
        before, g = g, -logsumexp(scores.T + f, axis=1, b=w)
        if np.abs(g - before).max() < 1e-14:
            break
    kernel = np.exp(scores + f[:, None] + g)
    onto, back = kernel * w, kernel.T * w
    change = np.linalg.solve(np.eye(len(y)) - back @ onto + w, back @ (kernel - 1.0) - (kernel.T - 1.0))
    seen = np.exp(at + g - logsumexp(at + g, axis=1, b=w)[:, None])
    away = seen[..., None] * (y - ((seen * w) @ y)[:, None])
    return np.asarray(away + np.einsum("j,ija,jk->ika", w, away, change, optimize=True))


def _clt(settings: Sequence[tuple[str, float]], parameters: Mapping[str, Any]) -> dict[str, Array]:
    """Return the traces of n Cov Gamma_n(x) at t = 0, predicted and measured, as columns."""
    d, n, count = parameters["dimension"], 1000, parameters["clt_draws"]
    columns: dict[str, list[Any]] = {name: [] for name in ("variant", "strength", "point", "predicted", "measured")}
    stream = np.random.default_rng([parameters["seed"], 1])
    x = stream.standard_normal((_CLT_POINTS, d))
    for name, s in settings if count else ():
        attention = _attention(name, s, d, parameters["seed"])
        seen = []
        for first in range(0, count, _CLT_BLOCK):
            clouds = stream.standard_normal((min(_CLT_BLOCK, count - first), n, d))
            at = np.broadcast_to(x, (len(clouds), *x.shape)).copy()
            seen.append(attention.velocity(clouds, at=at, backend="direct"))
        measured = n * np.concatenate(seen).var(axis=0, ddof=1).sum(axis=1)
        want = np.trace(predicted_covariance(attention, x), axis1=1, axis2=2)
        columns["variant"] += [name] * len(x)
        columns["strength"] += [s] * len(x)
        columns["point"] += range(len(x))
        columns["predicted"] += want.tolist()
        columns["measured"] += measured.tolist()
    return {name: np.array(values) for name, values in columns.items()}
