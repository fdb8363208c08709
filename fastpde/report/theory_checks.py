"""The statements of theory about a run of one system, checked on its observables."""

from __future__ import annotations

from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastpde as fp
from fastpde import config
from fastpde.config.schema import FIXED
from fastpde.errors import InputError
from fastpde.integrate import integrate
from fastpde.run.observables import token_moments

Array = np.ndarray[Any, Any]
NONE = "not applicable"
_SLACK = 1e-6  # the relative error that the steps of a run may have
_BALANCE = 1e-3  # the relative error that a cubic spline through the frames may have


class Check(NamedTuple):
    """A claim of theory, the verdict on it ("holds", "fails", "unknown" or `NONE`), and the numbers behind it."""

    claim: str
    verdict: str
    numbers: str


def checks(
    text: str, table: dict[str, Array], status: dict[str, Any], folder: Path = Path(), code: bool = False
) -> list[Check]:
    """Return what theory says of the observables of a run with this config.toml and status.json, one system.

    folder: of the files that the configuration reads.
    """
    numbers = np.array([table[name] for name in token_moments.columns(token_moments.LARGEST) if name in table])
    rows = numbers.shape[1]
    broken = int((~np.isfinite(numbers)).any(axis=0).sum())
    found = [Check("All moments are finite", _verdict(broken == 0), f"{rows - broken} of {rows} rows")]
    understood = config.parse(text)
    if understood.time.manifold == "sphere":
        off = float(np.abs(table["radius"] - 1.0).max())
        return [*found, Check("Tokens stay on the sphere", _verdict(off < 1e-5), f"largest | |x| - 1 |: {off:.1e}")]
    try:
        attention = config.resolve(understood, config.Files(folder, code)).attention()
    except (InputError, OSError) as error:
        return [*found, Check("Everything else", "unknown", f"the attention could not be read again: {error}")]
    if understood.time.noise:
        return [*found, Check("Everything else", NONE, "there is no statement about single runs with noise")]
    return [
        *found,
        _support(attention, table),
        _mean(attention, understood, table),
        _energy(attention, status),
        _balance(table),
    ]


def _verdict(good: bool) -> str:
    return "holds" if good else "fails"


def _support(attention: fp.Attention, table: dict[str, Array]) -> Check:
    claim = "Tokens stay in the ball of radius R(t) (Theory 8.2)"
    t, radius = table["t"], table["radius"]
    try:
        reach = fp.support_bound(attention, t, float(radius[0]), t0=float(t[0]))
    except (InputError, fp.InputTypeError) as error:
        return Check(claim, "unknown", str(error))
    ratio = float((radius / reach).max())
    return Check(claim, _verdict(ratio <= 1.0 + _SLACK), f"largest radius / R(t): {ratio:.6g}")


def _mean(attention: fp.Attention, understood: config.Config, table: dict[str, Array]) -> Check:
    """Compare the means with the linear flow that they follow, made by the steps of the run itself.

    What is allowed is ten times what the run states: marginal errors of the scalings, rtol, and rounding.
    """
    claim = "Under Sinkhorn attention the mean follows m' = V m / eps, whatever the tokens (Theory 1.1)"
    if not isinstance(attention, fp.Sinkhorn):
        return Check(claim, NONE, "another attention")
    if attention.n_half is not None:
        return Check(claim, NONE, f"{attention.n_half} half-iterations leave a marginal that is not uniform")
    if not all(p.constant for p in attention.parameters()):
        return Check(claim, NONE, "parameters depend on time")
    names = [name for name in table if name.startswith("mean_") and name != "mean_norm"]
    flow = attention.V(0.0) / float(np.reshape(attention.eps(0.0), -1)[0])
    if len(names) < len(flow):
        return Check(claim, "unknown", f"observables have {len(names)} of {len(flow)} components")
    means, t, time = np.stack([table[name] for name in names], axis=1), table["t"], understood.time
    if len(t) < 2:
        return Check(claim, "unknown", "there is one frame")

    def field(_: float, m: Array, out: Array) -> None:
        np.matmul(m, flow.T, out=out)

    fixed = time.method in FIXED
    own = {"step": time.step, "method": time.method} if fixed else {"rtol": 1e-12, "atol": 1e-300}
    want = integrate(field, means[:1].copy(), (time.t_start, time.t_end), t_eval=t, **own).x[:, 0]  # type: ignore[arg-type]
    stated = attention.tol * np.linalg.norm(flow, 2) * (t[-1] - t[0]) + (0.0 if fixed else time.rtol)
    stated += float(np.finfo(understood.backend.dtype).eps) * 100.0
    size = float(np.abs(want).max() + table["radius"].max())
    off = float(np.abs(means - want).max()) / size
    numbers = f"largest difference relative to the cloud: {off:.1e}; the run states {stated:.1e}"
    return Check(claim, _verdict(off <= 10.0 * stated), numbers)


def _energy(attention: fp.Attention, status: dict[str, Any]) -> Check:
    """Check the energies by what the run itself recorded: it knows the errors that its steps and sums may have."""
    found = status.get("energy")
    if not isinstance(found, dict):
        verdict, why = NONE, "nothing is known for this attention"
        if attention.energy_trend(0.0):
            verdict, why = "unknown", "none was recorded"
        return Check("The energy is monotone (Theory 7)", verdict, why)
    claim = f"The energy {found['expected']} (Theory 7)"
    intervals, wrong = int(found["intervals"]), int(found["violations"])
    if not intervals:
        return Check(claim, "unknown", "fewer than two energies were recorded, or they have overflowed")
    first = f"; the first that does not ends at t = {found['first_violation_t']:.6g}" if wrong else ""
    return Check(claim, _verdict(wrong == 0), f"{intervals - wrong} of {intervals} intervals between frames do{first}")


def _balance(table: dict[str, Array]) -> Check:
    """Compare the energies of all frames with the integral of dE/dt from the first frame on, by a cubic spline."""
    claim = "The energy changes by the integral of the dissipation (Theory 7)"
    t = table["t"]
    energy, rate = (table.get(name, np.full(len(t), np.nan)) for name in ("energy", "dissipation"))
    if not np.isfinite(energy).any():
        return Check(claim, "unknown", "no energy was recorded")
    if not np.isfinite(rate).any():
        return Check(claim, NONE, "no dissipation is known for this attention")
    if len(t) < 4 or not np.isfinite([energy, rate]).all():
        return Check(claim, "unknown", "it needs four frames or more, all of them with both")
    if np.ptp(energy) == 0.0:
        return Check(claim, "unknown", "the energy has not changed")
    from scipy.interpolate import CubicSpline

    positive = energy.min() > 0.0
    if positive:  # energies of exponentials grow faster than exponentials: their logarithms can be followed
        energy, rate = np.log(energy), rate / energy
    work = CubicSpline(t, rate).antiderivative()
    off = float(np.abs(energy - energy[0] - (work(t) - work(t[0]))).max() / np.ptp(energy))
    verdict = "holds" if off < _BALANCE else "unknown"
    far = "" if off < _BALANCE else "; frames or steps are too far apart to tell"
    return Check(
        claim, verdict, f"largest difference relative to the change of {'log E' if positive else 'E'}: {off:.1e}{far}"
    )
