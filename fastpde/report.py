"""The page report.html about a run or a study: its configuration, its results, and what theory says of them.

Everything on the page is from the directory: pictures are embedded, numbers are copied. No script, no network.
"""

from __future__ import annotations

import base64
import html
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastpde as fp
from fastpde import config, plot, studies
from fastpde.config.schema import FIXED
from fastpde.errors import InputError
from fastpde.integrate import integrate
from fastpde.plot import canvas
from fastpde.run import directory
from fastpde.run.observables import token_moments
from fastpde.run.tables import read_observables

Array = np.ndarray[Any, Any]
NAME, NONE = "report.html", "not applicable"
_MOST_ROWS, _MOST_COLUMNS = 30, 14  # of a table on the page
_SLACK = 1e-6  # the relative error that the steps of a run may have
_BALANCE = 1e-3  # the relative error that a cubic spline through the frames may have

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; max-width: 62rem; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.6rem; margin-bottom: 0; } h2 { font-size: 1.15rem; margin: 2rem 0 .5rem; }
p.about { color: #555; margin-top: .25rem; }
pre { background: #f6f6f6; padding: .75rem 1rem; overflow-x: auto; font-size: 13px; }
img { max-width: 100%; height: auto; display: block; margin: .5rem 0 1.5rem; }
.wide { overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; } th { text-align: left; font-weight: 600; }
td, th { padding: .2rem .7rem; border-bottom: 1px solid #e5e5e5; white-space: nowrap; }
td.number { text-align: right; font-variant-numeric: tabular-nums; } td.text { white-space: normal; }
.holds { color: #00704f; font-weight: 600; } .fails { color: #b03a00; font-weight: 600; }
.unknown, .not { color: #777; }
"""


class Check(NamedTuple):
    """A claim of theory, the verdict on it ("holds", "fails", "unknown" or `NONE`), and the numbers behind it."""

    claim: str
    verdict: str
    numbers: str


def write(path: Path, code: bool = False) -> Path:
    """Write report.html into the directory of a run or a study, its pictures drawn if need be, and return its path.

    code: an attention of the user's own may be read again, whose module is run.
    Raises InputError for a directory that is neither, OSError.
    """
    page = _study(path) if studies.is_study(path) else _run(path, code)
    target = path / NAME
    canvas.write(target, lambda stream: stream.write(page.encode("utf-8")))
    return target


# -- runs and studies -------------------------------------------------------------------------------------------------


def _study(path: Path) -> str:
    study = studies.load(path)
    picture = path / f"{study.name}.png"
    if not picture.is_file():
        study.plot(picture)
    about = study.layout(study.parameters)
    meanings = [(name, column.unit, column.meaning) for name, column in about.items()]
    parts = [
        _pictures([picture]),
        _heading("Parameters"),
        _table(("parameter", "value"), [(name, str(value)) for name, value in study.parameters.items()]),
        _heading("Columns"),
        _table(("column", "unit", "meaning"), meanings),
        _heading(f"Rows ({len(study)} in rows.csv)"),
        _rows(study.columns),
    ]
    return _page(f"Study {study.name}", study.summary() + ".", parts)


def _run(path: Path, code: bool) -> str:
    try:
        status = directory.read_status(path)
        text = (path / directory.CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError):
        need = f"a run directory, with {directory.CONFIG} and {directory.STATUS} in it, or a study's"
        raise InputError("DIR", str(path), need) from None
    there = [p for p in (path / name for name in plot.PICTURES) if p.is_file()]
    pictures = there if plot.are_current(path) else plot.plot_run(path)
    table = read_observables(path / directory.OBSERVABLES)
    facts = [(name, str(value)) for name, value in status.items() if not isinstance(value, dict | list)]
    nested = [
        (f"{name}.{key}", str(value))
        for name, inner in status.items()
        if isinstance(inner, dict)
        for key, value in inner.items()
    ]
    single = (path / directory.TRAJECTORY).is_file()
    parts = [
        _pictures(pictures),
        _heading("What theory says"),
        _checks(checks(text, table, status, directory.data_of(path, status), code) if single else []),
        *_clusters(table),
        _heading("Observables of all tokens" + ("" if single else ", means over the systems")),
        _rows(table),
        _heading("Status"),
        _table(("", ""), facts + nested),
        _heading("Configuration as understood"),
        f"<pre>{html.escape(text)}</pre>",
    ]
    message = str(status.get("message", ""))
    return _page(f"Run {path.resolve().name}", f"{status.get('state', 'unknown state')}. {message}", parts)


# -- theory -----------------------------------------------------------------------------------------------------------


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
    if len(t) < 4 or not np.isfinite([energy, rate]).all() or np.ptp(energy) == 0.0:
        return Check(claim, "unknown", "it needs four frames with both")
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


def _clusters(table: dict[str, Array]) -> list[str]:
    """Return the heading and the table of the metastable numbers of clusters; nothing if none were recorded."""
    if "clusters" not in table:
        return []
    from fastpde.plot.cluster_paths import metastable

    found = [(f"{p.start:.6g}", f"{p.end:.6g}", str(p.count)) for p in metastable(table)]
    about = "Clusters: numbers that stayed for a tenth of the time or longer"
    return [_heading(about), _table(("from t", "to t", "clusters"), found)]


# -- the page ---------------------------------------------------------------------------------------------------------


def _page(title: str, about: str, parts: Sequence[str]) -> str:
    body, about = "\n".join(parts), f"{about} fastpde {fp.__version__}."
    return (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">'
        '<meta name="viewport" content="width=device-width">'
        f"<title>{html.escape(title)}</title><style>{_STYLE}</style></head><body>\n"
        f'<h1>{html.escape(title)}</h1><p class="about">{html.escape(about)}</p>\n'
        f"{body}\n</body></html>\n"
    )


def _heading(text: str) -> str:
    return f"<h2>{html.escape(text)}</h2>"


def _pictures(paths: Iterable[Path]) -> str:
    found = []
    for path in paths:
        kind = "gif" if path.suffix == ".gif" else "png"
        data = base64.b64encode(path.read_bytes()).decode("ascii")
        found.append(f'<img alt="{html.escape(path.name)}" src="data:image/{kind};base64,{data}">')
    return "\n".join(found)


def _table(names: Sequence[str], rows: Iterable[Sequence[str]]) -> str:
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names) if any(names) else ""
    lines = ["".join(f'<td class="text">{html.escape(cell)}</td>' for cell in row) for row in rows]
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    return f'<div class="wide"><table>{f"<tr>{head}</tr>" if head else ""}{body}</table></div>'


def _rows(columns: Any) -> str:
    """Return some rows of a table of numbers and words, evenly spaced, with the first and the last one."""
    names = list(columns)[:_MOST_COLUMNS]
    count = len(columns[names[0]])
    shown = np.unique(np.linspace(0, count - 1, min(count, _MOST_ROWS)).astype(int))  # none of none
    head = "".join(f"<th>{html.escape(name)}</th>" for name in names)
    lines = []
    for i in shown:
        cells = [columns[name][i] for name in names]
        lines.append("".join(f'<td class="number">{html.escape(_cell(cell))}</td>' for cell in cells))
    body = "".join(f"<tr>{line}</tr>" for line in lines)
    left = [
        f"{count - len(shown)} more rows" if count > len(shown) else "",
        f"{len(columns) - len(names)} more columns" if len(columns) > len(names) else "",
    ]
    more = " and ".join(part for part in left if part)
    note = f"<p>{more} in the file.</p>" if more else ""
    return f'<div class="wide"><table><tr>{head}</tr>{body}</table></div>{note}'


def _cell(value: Any) -> str:
    return f"{value:.6g}" if isinstance(value, float | np.floating) else str(value)


def _checks(found: Sequence[Check]) -> str:
    if not found:
        return "<p>Statements are about single clouds; this is an ensemble.</p>"
    lines = [
        f'<td class="text">{html.escape(c.claim)}</td><td class="{c.verdict.split()[0]}">{c.verdict}</td>'
        f'<td class="text">{html.escape(c.numbers)}</td>'
        for c in found
    ]
    return '<div class="wide"><table>' + "".join(f"<tr>{line}</tr>" for line in lines) + "</table></div>"
