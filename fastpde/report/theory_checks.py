"""What theory says of a run of one system, beside what the run has measured of it: statements that apply to it."""

from __future__ import annotations

import sys
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastpde as fp
from fastpde import config
from fastpde.config.schema import FIXED, FileTokens
from fastpde.config.token_law import token_law
from fastpde.errors import InputError
from fastpde.integrate import integrate
from fastpde.run import opened
from fastpde.run.observables import token_moments
from fastpde.theory import bounds, statements
from fastpde.theory.statements import Setting

Array = np.ndarray[Any, Any]
HOLDS, FAILS, UNKNOWN, STATED = "holds", "fails", "unknown", "stated"
_SLACK = 1e-6  # the relative error that the steps of a run may have
_BALANCE = 1e-3  # the relative error that a cubic spline through the frames may have
_TOGETHER = 500  # tokens at one position between which an exact distance is found

Found = tuple[str, str]  # a verdict, and the numbers behind it


class Check(NamedTuple):
    """A statement about a run, a verdict on it, and what the run has measured.

    The verdict is "holds", "fails" or "unknown"; "stated", if the numbers stand beside a statement that one run cannot
    decide. A check that is not from theory has no formula and no source; where: its section in the documentation.
    """

    name: str
    claim: str
    verdict: str
    numbers: str
    formula: str = ""
    source: str = ""
    where: str = ""
    links: Sequence[tuple[str, str]] = ()


@dataclass(frozen=True)
class Record:
    """What a run has left: its observables by column, its status, its directory (None: unknown), and what it was of."""

    setting: Setting
    config: config.Config
    table: dict[str, Array]
    status: dict[str, Any]
    path: Path | None

    @property
    def attention(self) -> fp.Attention:
        """The attention."""
        return self.setting.attention

    @property
    def slack(self) -> float:
        """The relative error that the run may have."""
        rtol = 0.0 if self.config.time.method in FIXED else 10.0 * self.config.time.rtol
        return max(_SLACK, rtol, 100.0 * float(np.finfo(self.config.backend.dtype).eps))

    def reach(self) -> Array:
        """Return the bound R(t) of the radii at all times. Raises InputError if none is known."""
        t = self.table["t"]
        return np.asarray(fp.support_bound(self.attention, t, float(self.table["radius"][0]), t0=float(t[0])))


def checks(
    text: str,
    table: dict[str, Array],
    status: dict[str, Any],
    folder: Path = Path(),
    code: bool = False,
    path: Path | None = None,
) -> list[Check]:
    """Return what theory says of a run with this config.toml, observables and status.json, of one system.

    folder: of the files that the configuration reads. path: the directory of the run, if its frames may be read.
    """
    understood = config.parse(text)
    if understood.time.manifold == "sphere":
        off = float(np.abs(table["radius"] - 1.0).max())
        numbers = f"largest | |x| - 1 |: {off:.1e}"
        return [_finite(table), Check("sphere", "Tokens stay on the sphere", _verdict(off < 1e-5), numbers)]
    try:
        problem = config.resolve(understood, config.Files(folder, code))
        attention = problem.attention()
    except (InputError, OSError) as error:
        why = f"the attention could not be read again: {error}"
        return [_finite(table), Check("attention", "Everything else", UNKNOWN, why)]
    if understood.time.noise:
        why = "there is no statement about single runs with noise"
        return [_finite(table), Check("noise", "Everything else", UNKNOWN, why)]
    law = None if isinstance(understood.tokens, FileTokens) else token_law(understood.tokens, problem.d)
    record = Record(Setting(attention, law, problem.n), understood, table, status, path)
    found = [_finite(table)]
    for name, said in statements.of_run(record.setting).items():
        try:
            measured = _MEASURES[name](record)
        except (InputError, fp.InputTypeError):  # no bound is known of this attention
            measured = None
        if measured is not None:
            found.append(Check(name, said.claim, *measured, said.formula, said.source, said.where, said.links))
    return found


def _verdict(good: bool) -> str:
    return HOLDS if good else FAILS


def _finite(table: dict[str, Array]) -> Check:
    numbers = np.array([table[name] for name in token_moments.columns(token_moments.LARGEST) if name in table])
    rows = numbers.shape[1]
    broken = int((~np.isfinite(numbers)).any(axis=0).sum())
    return Check("finite", "All moments are finite", _verdict(broken == 0), f"{rows - broken} of {rows} rows")


def _support(run: Record) -> Found:
    radius, reach = run.table["radius"], run.reach()
    ratio, later = float((radius / reach).max()), (radius / reach)[1:]
    numbers = f"largest |x| and R(t): {radius[-1]:.6g} and {reach[-1]:.6g} at t = {run.table['t'][-1]:.6g}"
    if len(later):
        numbers += f"; after the start |x| comes up to {later.max():.4g} R(t)"
    return _verdict(ratio <= 1.0 + _SLACK), numbers


def _existence(run: Record) -> Found:
    """Compare the time up to which tokens exist at least with how far the run came."""
    t, radius = run.table["t"], run.table["radius"]
    until = float(t[0]) + bounds.existence_time(run.attention, float(radius[0]), float(t[0]))
    reached = float(t[np.isfinite(radius)][-1])
    numbers = f"R₀ = {radius[0]:.6g} guarantees t* ≥ {until:.6g}; the run reached t = {reached:.6g}, where the largest "
    numbers += f"|x| is {radius[np.isfinite(radius)][-1]:.6g}"
    if reached >= min(until, run.config.time.t_end) * (1.0 - _SLACK):
        return HOLDS, numbers
    failed = run.status.get("state") == "failed" and run.config.time.method not in FIXED  # else steps may be too large
    return (FAILS if failed else UNKNOWN), numbers


def _no_limit(run: Record) -> Found:
    radius = float(run.table["radius"][0])
    return STATED, f"{run.setting.n} tokens reach out to {radius:.6g}, and exist for a time that depends on n"


def _stability(run: Record) -> Found:
    t, radius = run.table["t"], run.table["radius"]
    R0 = float(radius[0])
    ahead = fp.stability_bound(run.attention, float(t[-1]), R0, t0=float(t[0]), log=True)
    seen = fp.measured_stability_bound(run.attention, t, radius, log=True)[-1]
    numbers = f"up to t = {t[-1]:.6g}: log C {_exponent(ahead)} from R₀ = {R0:.4g}"
    return STATED, f"{numbers}; {_exponent(seen)} for laws that stay within the radii of this run"


def _exponent(value: float) -> str:
    """Return "= 3.2" for the logarithm of a bound, with a word where the bound is no number."""
    if value > sys.float_info.max:
        return "exceeds 1e308: no useful bound"
    return f"= {value:.4g}" + (": no useful bound" if value > 700.0 else "")


def _moved(run: Record) -> Found | None:
    """Compare the conditional distance from the first to the last frame with the largest distance of a token."""
    if run.path is None:
        return None
    frames = opened.open_run(run.path)
    if len(frames.t) < 2 or frames.positions is None:
        return None
    if np.unique(frames.positions, return_counts=True)[1].max() > _TOGETHER:
        return None
    far = fp.conditional_wasserstein(frames.x[0], frames.x[-1], frames.positions)
    last = int(np.searchsorted(run.table["t"], frames.t[-1]))
    most = float((run.reach()[min(last, len(run.table["t"]) - 1)] - run.table["radius"][0]).item())
    numbers = f"d₂ = {far:.6g} from t = {frames.t[0]:.6g} to {frames.t[-1]:.6g}; R(t) − R₀ = {most:.6g}"
    return _verdict(far <= most * (1.0 + run.slack) + run.slack * float(run.table["radius"][0])), numbers


def _mean_field(run: Record) -> Found:
    n, law = run.setting.n, run.setting.law
    d = 0 if law is None else law.dimension
    power = "n^(−1/2)" if d < 4 else "n^(−1/2) log n" if d == 4 else f"n^(−2/{d})"
    return STATED, f"d = {d}: {power}, with n = {n} tokens and n^(−1/2) = {n**-0.5:.2g}"


def _hull(run: Record) -> Found:
    t, c = run.table["t"], run.setting.factor
    assert c is not None
    scaled = run.table["radius"] * np.exp(-c * (t - t[0]))
    good = bool((np.diff(scaled) <= run.slack * scaled[:-1]).all())
    numbers = f"c = {c:.6g}: from {scaled[0]:.6g} to {scaled[-1]:.6g}"
    counts = run.table.get("clusters")
    if counts is not None and np.isfinite(counts[[0, -1]]).all():
        numbers += f"; clusters counted: {counts[0]:g} at first, {counts[-1]:g} at the end"
    return _verdict(good), numbers


def _gaussian(run: Record) -> Found | None:
    """Compare the trace of the covariance in the end with that of the Gaussian law."""
    law, t = run.setting.law, run.table["t"]
    assert law is not None
    if not t[-1] > t[0]:
        return None
    sol: Any = fp.solve(run.attention, fp.Gaussian(law.mean, law.cov), (float(t[0]), float(t[-1])), rtol=1e-8)
    if np.isfinite(sol.blowup_time):
        words = "finitely many tokens do not" if run.setting.is_bounded else "the run is of finitely many tokens"
        return STATED, f"the law blows up at t = {float(sol.blowup_time):.6g}; {words}"
    if not sol.success:
        return None
    want, got = float(np.trace(sol.cov[-1])), float(run.table["trace"][-1])
    numbers = f"tr S at t = {t[-1]:.6g}: {got:.6g} of the tokens, {want:.6g} of the law"
    numbers += f"; n^(−1/2) = {run.setting.n**-0.5:.2g}"
    if all(isinstance(term.head, fp.Softmax) for term in run.setting.terms):
        values, vectors = np.linalg.eigh(sol.cov[-1])
        root = vectors * np.sqrt(np.maximum(values, 0.0)) @ vectors.T
        size = max(float(np.linalg.norm(root @ A @ root, 2)) for A in run.attention._score_matrices(float(t[-1])))
        if size > 0.5**0.5:
            numbers += (
                f"; |S^½ A S^½| = {size:.3g}, and random tokens leave the law where it is above 0.707 (Theory 4.6)"
            )
    return STATED, numbers


def _rank(run: Record) -> Found | None:
    head, table = run.setting.head, run.table
    assert head is not None
    Q = np.asarray(head.Q(0.0))
    want = Q.shape[-1] - int(np.linalg.matrix_rank(Q))
    numbers = f"rank {want} of {Q.shape[-1]}; the effective rank of the tokens is {table['effective_rank'][0]:.4g} at "
    return STATED, numbers + f"first and {table['effective_rank'][-1]:.4g} at t = {table['t'][-1]:.6g}"


def _mean(run: Record) -> Found | None:
    """Compare the means with the linear flow that they follow, made by the steps of the run itself.

    What is allowed is ten times what the run states: marginal errors of the scalings, rtol, and rounding.
    """
    attention, table, time = run.setting.head, run.table, run.config.time
    assert isinstance(attention, fp.Sinkhorn)
    names = [name for name in table if name.startswith("mean_") and name != "mean_norm"]
    flow = attention.V(0.0) / float(np.reshape(attention.eps(0.0), -1)[0])
    if len(names) < len(flow):
        return UNKNOWN, f"observables have {len(names)} of {len(flow)} components"
    means, t = np.stack([table[name] for name in names], axis=1), table["t"]
    if len(t) < 2:
        return UNKNOWN, "there is one frame"

    def field(_: float, m: Array, out: Array) -> None:
        np.matmul(m, flow.T, out=out)

    fixed = time.method in FIXED
    own = {"step": time.step, "method": time.method} if fixed else {"rtol": 1e-12, "atol": 1e-300}
    want = integrate(field, means[:1].copy(), (time.t_start, time.t_end), t_eval=t, **own).x[:, 0]  # type: ignore[arg-type]
    stated = attention.tol * np.linalg.norm(flow, 2) * (t[-1] - t[0]) + (0.0 if fixed else time.rtol)
    stated += float(np.finfo(run.config.backend.dtype).eps) * 100.0
    size = float(np.abs(want).max() + table["radius"].max())
    off = float(np.abs(means - want).max()) / size
    numbers = f"largest difference relative to the cloud: {off:.1e}; the run states {stated:.1e}"
    return _verdict(off <= 10.0 * stated), numbers


def _energy(run: Record) -> Found:
    """Check the energies by what the run itself recorded: it knows the errors that its steps and sums may have."""
    found = run.status.get("energy")
    if not isinstance(found, dict):
        return UNKNOWN, "none was recorded: energy = true in [output] of the configuration records it"
    intervals, wrong = int(found["intervals"]), int(found["violations"])
    if not intervals:
        return UNKNOWN, "fewer than two energies were recorded, or they have overflowed"
    first = f"; the first that does not ends at t = {found['first_violation_t']:.6g}" if wrong else ""
    return _verdict(wrong == 0), (
        f"it {found['expected']}: {intervals - wrong} of {intervals} intervals between frames do{first}"
    )


def _balance(run: Record) -> Found | None:
    """Compare the energies of all frames with the integral of dE/dt from the first frame on, by a cubic spline."""
    t = run.table["t"]
    energy, rate = (run.table.get(name, np.full(len(t), np.nan)) for name in ("energy", "dissipation"))
    if not np.isfinite(rate).any():  # none is known, or none was recorded
        return None
    if len(t) < 4 or not np.isfinite([energy, rate]).all():
        return UNKNOWN, "it needs four frames or more, all of them with both"
    if np.ptp(energy) == 0.0:
        return UNKNOWN, "the energy has not changed"
    from scipy.interpolate import CubicSpline

    positive = energy.min() > 0.0
    if positive:  # energies of exponentials grow faster than exponentials: their logarithms can be followed
        energy, rate = np.log(energy), rate / energy
    work = CubicSpline(t, rate).antiderivative()
    off = float(np.abs(energy - energy[0] - (work(t) - work(t[0]))).max() / np.ptp(energy))
    far = "" if off < _BALANCE else "; frames or steps are too far apart to tell"
    name = "log E" if positive else "E"
    verdict = HOLDS if off < _BALANCE else UNKNOWN
    return verdict, f"largest difference relative to the change of {name}: {off:.1e}{far}"


_MEASURES: dict[str, Callable[[Record], Found | None]] = {
    "support": _support,
    "existence-exponential": _existence,
    "existence-linear": _existence,
    "no-limit": _no_limit,
    "stability": _stability,
    "stability-masked": _stability,
    "moved": _moved,
    "mean-field": _mean_field,
    "hull": _hull,
    "mean": _mean,
    "energy": _energy,
    "balance": _balance,
    "gaussian": _gaussian,
    "rank": _rank,
}
