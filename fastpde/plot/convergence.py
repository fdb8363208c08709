"""Errors against the number of tokens, with fitted powers; central limits and the growth of distances beside them."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import numpy as np
from matplotlib.ticker import LogLocator, NullFormatter, StrMethodFormatter

from fastpde.plot import canvas, palette

if TYPE_CHECKING:
    from matplotlib.figure import Figure

    from fastpde.studies.limit_settings import Setting
    from fastpde.studies.limit_table import MeanField

Array = np.ndarray[Any, Any]
_ERRORS = (  # column, number of the time, title
    ("velocity", 0, "error of the velocity at t = 0"),
    ("coupling", -1, "coupling error at the end"),
    ("cov", -1, "error of the covariance at the end"),
    ("w2", -1, "$W_2$ to the law at the end"),
    ("sliced_w2", -1, "sliced $W_2$ to the law at the end"),
)
_FLOORS = {"w2": "w2_floor", "sliced_w2": "sliced_floor"}
_COLOURS = (*canvas.COLOURS, canvas.INK)
_STYLES = ("--", "-.", (0, (5, 1, 1, 1, 1, 1)))  # of n^{-1/2}, of what theory allows, and of that under a mask
_CRITICAL = np.sqrt(0.5)
_COLUMNS, _HEIGHT = 3, 4.2  # panels in a row, and the height of one
_LINE = 0.055  # of the height of a panel: a line of its legend


@canvas.in_style
def figure(study: MeanField) -> Figure:
    """Draw panels for each law, three in a row: errors against n, the ratio of covariances, the growth of W_2.

    They are those of the first strength; with several ones another panel has the powers of n against the strength.
    """
    laws, strengths = study.parameters["laws"], study.parameters["strengths"]
    shown = _shown(study)
    grows = len(study.limits) > 0 and np.isfinite(study["w2"]).any()
    more = [name for name, has in (("clt", len(study.clt.get("t", ())) > 0), ("growth", grows)) if has]
    more += ["powers"] if len(strengths) > 1 else []
    count = len(shown) + len(more)
    columns = min(_COLUMNS, count)
    height = -(-count // columns)  # rows of panels of a law
    drawn = canvas.figure(max(5.0, 3.1 * columns), 0.9 + _HEIGHT * height * len(laws))
    grid = drawn.subplots(height * len(laws), columns, squeeze=False)
    for row, law in enumerate(laws):
        panels, rest = np.split(grid[height * row : height * (row + 1)].ravel(), [count])
        own = [setting for setting in study.settings() if setting.law == law and setting.strength == strengths[0]]
        for axes, (error, end, title) in zip(panels, shown, strict=False):
            _errors(axes, study, own, error, end)
            axes.set_title(f"{canvas.plain(law)}\n{title}", fontsize=canvas.LABEL)
            axes.set_ylabel("error")
        for axes, name in zip(panels[len(shown) :], more, strict=True):
            {"clt": _clt, "growth": _growth, "powers": _powers}[name](axes, study, law)
            axes.set_title(f"{canvas.plain(law)}\n{axes.get_title()}", fontsize=canvas.LABEL)
        for axes in panels:
            canvas.tidy(axes)
        for axes in rest:
            axes.remove()
    bars = "Points: root mean square over the draws; bars: its 16 and 84 % quantiles over resampled draws."
    bars += " Dotted: what the points of the reference allow to see." if "w2" in [name for name, *_ in shown] else ""
    bars += " Lines: fitted powers, with the mean at t = 0 as control." if len(study.limits) else ""
    if _cut(study, shown):
        bars += " Lines end where errors are no longer far above that of the reference."
    if "masked" in study.parameters["variants"]:
        bars += " Masked: distances are conditional, other errors times the root of the part of tokens that is seen."
    size = f"d = {study.parameters['dimension']}, |A| = {strengths[0]:g}"
    canvas.caption(drawn, f"{size}, {study.parameters['draws']} draws of each size. {bars} {study.summary()}.")
    return drawn


def _shown(study: MeanField) -> list[tuple[str, int, str]]:
    """Return the panels of errors that a table has; in one dimension the sliced distance is W_2."""
    finite = {name: np.isfinite(study[name]).any() for name, *_ in _ERRORS}
    hidden = {"cov"} if finite["coupling"] else set()
    hidden |= {"sliced_w2"} if finite["w2"] and study.parameters["dimension"] == 1 else set()
    return [panel for panel in _ERRORS if finite[panel[0]] and panel[0] not in hidden]


def _cut(study: MeanField, shown: list[tuple[str, int, str]]) -> bool:
    """Return whether some fit leaves a number of tokens out at which the error is known."""
    for error, end, _ in shown:
        for setting in study.settings():
            t = study.times(setting)[end]
            known = study.rows(setting, t) & np.isfinite(study[error])
            if len(study.fitted(error, setting, t)) < len(np.unique(study["n"][known])):
                return True
    return False


def _colour(study: MeanField, variant: str) -> str:
    return _COLOURS[study.parameters["variants"].index(variant) % len(_COLOURS)]


def _marker(study: MeanField, variant: str) -> str:
    return palette.MARKERS[study.parameters["variants"].index(variant) % len(palette.MARKERS)]


def _errors(axes: Any, study: MeanField, settings: list[Setting], error: str, end: int) -> None:
    """Draw an error against n with its fitted powers, and the power of n that theory allows distances."""
    highest = []
    for setting in settings:
        t = study.times(setting)[end]
        rows = study.rows(setting, t) & np.isfinite(study[error])
        if not rows.any():  # an error that this variant does not have
            continue
        sizes, middle, low, high = _quantiles(study["n"][rows], study[error][rows])
        rate, colour = study.rate(error, setting, t), _colour(study, setting.variant)
        label = setting.variant
        if np.isfinite(rate.power):
            label += f": $n^{{{rate.power:.3f} \\pm {rate.half_width:.3f}}}$"
            fitted = study.fitted(error, setting, t).astype(float)
            axes.plot(fitted, rate.factor * fitted**rate.power, color=colour, linewidth=1)
        bars = [np.maximum(middle - low, 0.0), np.maximum(high - middle, 0.0)]
        mark = _marker(study, setting.variant)
        axes.errorbar(sizes, middle, yerr=bars, fmt=mark, markersize=4, color=colour, label=label, linewidth=1)
        floor = study.floor(_FLOORS[error], setting, t) if error in _FLOORS and len(study.limits) else 0.0
        if floor > 0.0:
            axes.axhline(floor, color=colour, linewidth=0.8, linestyle=":")
        highest.append((sizes[0], sizes[-1], high.max()))
    if not highest:
        axes.set(xticks=[], yticks=[])
        axes.text(0.5, 0.5, "not known of these variants", transform=axes.transAxes, ha="center", color=canvas.FAINT)
        return
    expected: dict[float, bool] = {}  # whether it is for masks only
    for setting in settings:
        power = study.expected(error, setting)
        expected[power] = expected.get(power, True) and setting.variant == "masked"
    _guides(axes, expected, np.array(highest))
    axes.set_xscale("log")
    axes.set_yscale("log")
    axes.set_xlabel("n")
    _legend(axes)
    for axis, (low, high) in ((axes.xaxis, axes.get_xlim()), (axes.yaxis, axes.get_ylim())):
        if high < 150 * low:  # about two powers of ten, or fewer
            axis.set_major_locator(LogLocator(subs=(1.0, 2.0, 5.0)))
            axis.set_major_formatter(StrMethodFormatter("{x:g}"))
        axis.set_minor_formatter(NullFormatter())


def _legend(axes: Any) -> None:
    """Draw the legend at the bottom of a panel, which is extended so that nothing lies under it."""
    room = min(0.6, _LINE * len(axes.get_legend_handles_labels()[1]))
    scale = axes.yaxis.get_transform()
    low, high = scale.transform(axes.get_ylim())
    axes.set_ylim(*scale.inverted().transform([high - (high - low) / (1.0 - room), high]))
    axes.legend(loc="lower left", labelspacing=0.2)


def _guides(axes: Any, expected: dict[float, bool], seen: Array) -> None:
    """Draw n^{-1/2} and the powers of theory above all errors; expected: each power, and whether it is for masks only.

    seen (m, 3): first and last n, and the largest error, of each setting.
    """
    sizes = np.array([seen[:, 0].min(), seen[:, 1].max()])
    bounds = [power for power in expected if power != -0.5]
    for power, style in zip([-0.5, *bounds], _STYLES, strict=False):
        told = ", theory" if power in expected else ""
        told += ", masked" if expected.get(power) and len(expected) > 1 else ""
        line = 1.3 * seen[:, 2].max() * (sizes / sizes[0]) ** power
        axes.plot(sizes, line, linestyle=style, color=canvas.FAINT, linewidth=1, label=f"$n^{{{power:.3g}}}${told}")


def _quantiles(n: Array, values: Array) -> tuple[Array, Array, Array, Array]:
    """Return sizes, the root mean square of the values of each, and its quantiles over resampled draws."""
    sizes, stream, found = np.unique(n), np.random.default_rng(0), []
    for size in sizes:
        own = np.square(values[n == size])
        again = np.sqrt(own[stream.integers(0, len(own), (500, len(own)))].mean(axis=1))
        found.append((np.sqrt(own.mean()), np.quantile(again, 0.16), np.quantile(again, 0.84)))
    middle, low, high = np.array(found).T
    return sizes, middle, low, high


def _clt(axes: Any, study: MeanField, law: str) -> None:
    """Draw measured over predicted covariances, with three standard errors, against the time."""
    table, variants = study.clt, study.parameters["variants"]
    rows = (table["law"] == law) & (table["strength"] == study.parameters["strengths"][0])
    spacing = np.diff(np.unique(table["t"][rows])).min(initial=np.inf)
    width = 0.5 * spacing / len(variants) if np.isfinite(spacing) else 0.01
    for i, variant in enumerate(variants):
        own = rows & (table["variant"] == variant)
        with np.errstate(invalid="ignore"):
            ratio, bar = (table[name][own] / table["predicted"][own] for name in ("measured", "error"))
        bar = np.where(np.isfinite(bar), 3.0 * bar, 0.0)
        place = table["t"][own] + width * (i - 0.5 * (len(variants) - 1))
        mark = _marker(study, variant)
        axes.errorbar(place, ratio, yerr=bar, fmt=mark, markersize=4, color=_colour(study, variant), linewidth=1)
    axes.axhline(1.0, color=canvas.FAINT, linewidth=1)
    axes.set_xlabel("t (0: velocities; later: places)")
    axes.set_ylabel("measured / predicted")
    axes.set_title("n Cov, with 3 standard errors")


def _growth(axes: Any, study: MeanField, law: str) -> None:
    """Draw the largest log W_2(t) / W_2(0) to the limit, with the local rate and the bound, against the time."""
    highest, lowest = 0.05, 0.0
    for setting in study.settings():
        if setting.law != law or setting.strength != study.parameters["strengths"][0]:
            continue
        t, colour = study.times(setting), _colour(study, setting.variant)
        ratio = np.array([study.log_ratio(setting, one) for one in t])
        bound, rate = np.array([study.bounds(setting, one) for one in t]).T
        mark = _marker(study, setting.variant)
        axes.plot(t, ratio, mark, linestyle="-", markersize=4, color=colour, linewidth=1, label=setting.variant)
        axes.plot(t, rate, "--", color=colour, linewidth=1)
        axes.plot(t, bound, ":", color=colour, linewidth=1)
        known = np.concatenate([ratio, rate])[np.isfinite(np.concatenate([ratio, rate]))]
        highest, lowest = max(highest, *known, 0.0), min(lowest, *known, 0.0)
    room = 0.1 * (highest - lowest)
    axes.set_ylim(lowest - room, highest + 3.0 * room)
    _legend(axes)
    axes.set_xlabel("t")
    axes.set_ylabel(r"largest $\log W_2(t) / W_2(0)$")
    axes.set_title("growth; - - local rate, ··· bound")


def _powers(axes: Any, study: MeanField, law: str) -> None:
    """Draw the powers of n of the velocity's error at t = 0 against the strength."""
    strengths = np.array(study.parameters["strengths"])
    for variant in study.parameters["variants"]:
        own = [s for s in study.settings() if s.law == law and s.variant == variant]
        rates = [study.rate("velocity", setting, 0.0) for setting in own]
        axes.errorbar(
            [setting.strength for setting in own],
            [rate.power for rate in rates],
            yerr=[rate.half_width for rate in rates],
            fmt=_marker(study, variant),
            linestyle="-",
            color=_colour(study, variant),
            label=variant,
            capsize=2,
        )
    axes.axhline(-0.5, color=canvas.FAINT, linewidth=1, linestyle="--")
    if law == "gaussian" and strengths.max() > 0.6 * _CRITICAL:
        name = r"$|A| = 1/\sqrt{2}$"
        axes.axvline(_CRITICAL, color=canvas.FAINT, linewidth=1, linestyle=":", label=name)
    axes.set(xlabel="|A|", ylabel="power of n", title="velocity's error at t = 0")
    _legend(axes)
