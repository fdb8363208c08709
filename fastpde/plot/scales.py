"""The scale of an axis of numbers: linear, logarithmic, or logarithmic on both sides of zero, by what they span."""

from __future__ import annotations

from typing import Any

import numpy as np
from matplotlib.colors import LogNorm, Normalize, SymLogNorm
from matplotlib.scale import SymmetricalLogTransform
from matplotlib.ticker import FixedLocator, NullFormatter

Array = np.ndarray[Any, Any]
_DECADES = 30.0  # ratio of the largest to the smallest size of numbers of one sign from which on logarithms are drawn
# Of numbers of both signs, or with zeros: the ratio of the largest size to the median one, which lies on a linear axis.
_FLAT = 1000.0
# Of the largest size: smaller numbers are drawn as zeros. Of both signs they are rounding; further down Matplotlib
# overflows.
_ROUNDING, _DEEPEST = 1e-12, 1e-150
_HUGE, _LARGEST = 1e30, 1e300  # numbers above which logarithms are drawn; and nothing, as no axis holds them
_ENDS = 1e-306, 1e306  # of a logarithmic axis
_APART = 0.14  # of the length of an axis: the least distance of its ticks
_TIMES, _EVEN = 4, 0.3  # times that an axis needs to be logarithmic, and the relative spread of their ratios
_LOGS = "log10"  # in the names of logarithms


def readable(said: str, values: Array) -> tuple[str, Array]:
    """Return the name of numbers as a picture has it, and these: of huge ones their logarithms, nan for too large ones.

    Where some are negative, these are sign(v) log10(1 + |v|).
    """
    values = np.where(np.abs(values) < _LARGEST, values, np.nan)
    known = values[np.isfinite(values)]
    if not known.size or np.abs(known).max() <= _HUGE:
        return said, values
    if known.min() > 0.0:
        return f"{_LOGS} of {said}", np.log10(values)
    return f"±{_LOGS}(1 + |{said}|)", np.sign(values) * np.log10(1.0 + np.abs(values))


def kind(values: Array, said: str = "") -> tuple[str, float]:
    """Return the scale that suits the finite values: "linear", "log" or "symlog", and the width of its linear part.

    Positive numbers over decades have a logarithmic scale. It is on the side below zero for negative ones, and on both
    sides for others of which most would lie flat on the axis of a linear scale.
    said: their name; what `readable` calls logarithms has a linear scale.
    """
    known = values[np.isfinite(values)]
    sizes = np.abs(known[known != 0.0])
    if not sizes.size or _LOGS in said:
        return "linear", 0.0
    low, high = float(sizes.min()), float(sizes.max())
    if known.min() > 0.0:
        return ("log", 0.0) if high > _DECADES * low else ("linear", 0.0)
    if high > (_DECADES * low if known.max() < 0.0 else _FLAT * float(np.median(sizes))):
        return "symlog", max(low, high * (_ROUNDING if known.min() < 0.0 < known.max() else _DEEPEST))
    return "linear", 0.0


def colours(values: Array, said: str = "") -> Normalize:
    """Return the scale of colours for the finite values; said: as of `kind`."""
    known = values[np.isfinite(values)]
    if not known.size:
        return Normalize(0.0, 1.0)
    low, high = float(known.min()), float(known.max())
    name, width = kind(known, said)
    if name == "log":
        return LogNorm(low, high)
    if name == "symlog":
        return SymLogNorm(width, vmin=low, vmax=high)
    pad = 0.0 if high > low else 0.5 * max(abs(low), 1.0)  # one value: the middle of the colours
    return Normalize(low - pad, high + pad)


def ticks(norm: Normalize) -> list[float]:
    """Return the numbers beside colours where Matplotlib would write too many; [] elsewhere."""
    if not isinstance(norm, SymLogNorm) or norm.vmin is None or norm.vmax is None:
        return []
    return _ticks(SymmetricalLogTransform(10.0, norm.linthresh, 1.0), np.array([norm.vmin, norm.vmax]), norm.linthresh)


def vertical(axes: Any, values: Array, said: str = "") -> None:
    """Set the scale and the limits of the vertical axis, with room at the bottom for marks of what has no value.

    said: as of `kind`.
    """
    known = values[np.isfinite(values)]
    name, width = kind(known, said)
    if name != "linear":
        axes.set_yscale(name, **({} if name == "log" else {"linthresh": width}))
        transform = axes.yaxis.get_transform()
        low, high = transform.transform([known.min(), known.max()])
        with np.errstate(over="ignore"):
            ends = transform.inverted().transform([low - 0.12 * (high - low), high + 0.08 * (high - low)])
        axes.set_ylim(*np.clip(ends, _ENDS[0] if name == "log" else -_ENDS[1], _ENDS[1]))
        if name == "symlog":
            axes.yaxis.set_major_locator(FixedLocator(_ticks(transform, ends, width)))
        axes.yaxis.set_minor_formatter(NullFormatter())
    elif known.size:
        axes.ticklabel_format(axis="y", scilimits=(-3, 4), useOffset=False)
        low, high = float(known.min()), float(known.max())
        if high - low <= 1e-9 * max(abs(low), abs(high)):  # a constant, not its rounding
            pad = 0.1 * abs(low) or 1e-4
            axes.set_ylim(low - pad, high + pad)
        else:
            axes.set_ylim(low - 0.12 * (high - low), high + 0.08 * (high - low))


def in_ratios(values: Array) -> bool:
    """Return whether positive numbers (m,), m >= 3, in rising order lie more evenly on a logarithmic axis."""
    return _unevenness(np.log(values)) < _unevenness(values)


def _unevenness(values: Array) -> float:
    steps = np.diff(values)
    return float(np.std(steps) / np.mean(steps))


def times(axes: Any, t: Array, said: str = "t", *, whole: bool = False) -> None:
    """Name the axis of times t (m,), and make it logarithmic if these, but for a first 0, are in equal ratios.

    whole: it reaches from the first to the last time, wherever there is something to draw.
    """
    axes.set_xlabel(said)
    known = np.unique(t[np.isfinite(t)])
    if whole and len(known) > 1:
        axes.set_xlim(known[0] - 0.03 * (known[-1] - known[0]), known[-1] + 0.03 * (known[-1] - known[0]))
    positive = known[known > 0.0]
    if len(positive) < _TIMES or known[0] < 0.0 or positive[-1] < _DECADES * positive[0]:
        return
    if _unevenness(np.log(positive)) > _EVEN or not in_ratios(positive):
        return
    if known[0] > 0.0:
        axes.set_xscale("log")
        axes.set_xlim(known[0] / 1.15, 1.15 * known[-1])
    else:
        axes.set_xscale("symlog", linthresh=float(positive[0]))
        axes.set_xlim(0.0, 1.15 * float(positive[-1]))
    axes.xaxis.set_minor_formatter(NullFormatter())


def _ticks(transform: Any, ends: Array, width: float) -> list[float]:
    """Return zero and powers of ten of both signs between the ends of an axis, so few that no labels touch."""
    low, high = transform.transform(ends)
    found = [0.0] if ends[0] <= 0.0 <= ends[1] else []
    powers = 10.0 ** np.arange(np.ceil(np.log10(width)), np.floor(np.log10(np.abs(ends).max())) + 1)
    for sign in (1.0, -1.0):
        last = 0.0 if found else -np.inf
        for power, place in zip(powers.tolist(), transform.transform(powers).tolist(), strict=True):
            if ends[0] <= sign * power <= ends[1] and place - last >= _APART * (high - low):
                found.append(sign * power)
                last = place
    return sorted(found)
