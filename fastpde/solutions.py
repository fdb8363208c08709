"""The common part of solutions: they are saved as .npz files, and told in a few lines."""

from __future__ import annotations

import os
import re
from collections.abc import Iterable, Mapping
from dataclasses import fields
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.errors import InputError, InputTypeError

_STEPS = ("method", "rtol", "atol", "step", "noise")  # of the settings those that say how steps were made
_FEW = 12  # numbers of an array that are shown
_SUFFIX = re.compile(r"\.[A-Za-z]\w*")  # not the end of a number, as in "t=0.5"


def save(path: str | Path, arrays: Mapping[str, Any], stats: Mapping[str, Any], settings: Mapping[str, Any]) -> Path:
    """Write arrays, numbers and words into a .npz file, with stats/NAME and settings/NAME, and return its path.

    The suffix is added if there is none. A temporary file is renamed when it is complete. `numpy.load` reads it without
    pickle. Raises OSError; InputTypeError for what is no path; InputError for another suffix, or a folder that is not
    there.
    """
    target = file_of(path, ".npz")
    contents = {**arrays, **_named("stats", stats), **_named("settings", settings)}
    temporary = target.with_name(f".{target.name}.{os.getpid()}.tmp")
    try:
        with temporary.open("wb") as stream:
            found: dict[str, Any] = {name: np.asarray(value) for name, value in contents.items()}
            np.savez(stream, **found)
        os.replace(temporary, target)
    finally:
        temporary.unlink(missing_ok=True)
    return target


def file_of(path: str | Path, suffix: str) -> Path:
    """Return the path of a file that is to be made, with the suffix of its kind. Raises InputError, InputTypeError."""
    need = f"the name of a {suffix} file"
    try:
        asked = Path(path)
    except TypeError:
        raise InputTypeError("path", type(path).__name__, need) from None
    if asked.name in ("", "..") or asked.is_dir():
        raise InputError("path", f"{asked}, which is a folder", need)
    if _SUFFIX.fullmatch(asked.suffix) and asked.suffix != suffix:
        remedy = f"Files of other kinds are not written: take {asked.stem}{suffix}, or {asked.name}{suffix}."
        raise InputError("path", f"{asked} with the suffix {asked.suffix}", need, remedy)
    if not asked.parent.is_dir():
        raise InputError("path", f"{asked}, where {asked.parent} is no folder", need, "Make the folder first.")
    return asked if asked.suffix == suffix else asked.with_name(f"{asked.name}{suffix}")


def followed(solution: Any) -> dict[str, Any]:
    """Return the tangents and log densities of a solution, those that it has, by name."""
    names = ("tangents", "tangents_final", "log_density", "log_density_final")
    return {name: found for name in names if (found := getattr(solution, name)) is not None}


def numbered(group: str, entries: Iterable[Any]) -> dict[str, Any]:
    """Return entries under the names GROUP/0, GROUP/1, ..."""
    return _named(group, {str(i): value for i, value in enumerate(entries)})


def _named(group: str, entries: Mapping[str, Any]) -> dict[str, Any]:
    """Return entries under the names GROUP/NAME."""
    return {f"{group}/{name}": value for name, value in entries.items()}


def shown(solution: Any, *names: str) -> str:
    """Return what stands for a solution in a terminal: the shapes of arrays that it has, and its summary."""
    arrays = {name: getattr(solution, name) for name in names}
    shapes = ", ".join(f"{name} {np.shape(array)}" for name, array in arrays.items() if array is not None)
    return "\n  ".join([f"{type(solution).__name__}: {shapes}", *solution.summary().splitlines()])


def brief(result: Any) -> str:
    """Return what stands for a result in a terminal: a line per field, with the numbers of short arrays."""
    lines = [f"{type(result).__name__}:"]
    for item in fields(result):
        value = getattr(result, item.name)
        if isinstance(value, dict):
            text = ", ".join(f"{name} {_brief(one)}" for name, one in value.items())
        else:
            text = _brief(value)
        lines.append(f"{item.name}: {text.splitlines()[0] if text else ''}")
    return "\n  ".join(lines)


def _brief(value: Any) -> str:
    if isinstance(value, float | np.floating):
        return f"{float(value) + 0.0:.8g}"  # -0.0 as 0
    if not isinstance(value, np.ndarray):
        return repr(value)
    if value.ndim == 1 and value.size <= _FEW:
        shown = value + 0.0 if value.dtype.kind in "fc" else value
        return np.array2string(shown, precision=6, max_line_width=10**6)
    return f"shape {value.shape}"


def told(stats: Mapping[str, Any], settings: Mapping[str, Any]) -> list[str]:
    """Return lines that say how many steps were made and how, and what the sums did, as far as that is known."""
    steps, rejected, evaluations = (_total(stats[name]) for name in ("steps", "rejected", "evaluations"))
    counts = f"steps: {steps} accepted, {rejected} rejected; {evaluations} velocities, {stats['wall_time']:.3g} s"
    lines = [counts]
    if settings:
        lines.append("method: " + ", ".join(_setting(name, settings[name]) for name in _STEPS if name in settings))
    if "rtol" in settings:
        lines[-1] += " (of each step, not of the whole run)"
    sums = _sums(stats)
    return [*lines, f"sums: {sums}"] if sums else lines


def _total(count: Any) -> int:
    return int(np.sum(count))


def _setting(name: str, value: Any) -> str:
    return str(value) if name == "method" else f"{name} = {value:g}"


def _sums(stats: Mapping[str, Any]) -> str:
    """Return what a way to sum has counted; "" if it has counted nothing, as direct sums do."""
    parts = []
    if "direct_sums" in stats:
        parts.append(f"{_total(stats['direct_sums'])} direct, {_total(stats.get('fast_sums', 0))} in O(n)")
    if stats.get("fast_sums"):
        checked, failed = (_total(stats.get(f"fast_{name}", 0)) for name in ("checked", "failed"))
        sampled, bound = (stats.get(f"fast_error_{name}", np.nan) for name in ("sampled", "bound"))
        parts.append(f"largest relative error sampled {sampled:.2g}, bound {bound:.2g}")
        parts.append(f"{checked} compared with direct sums, of which {failed} failed and were made again")
    if "half_iterations" in stats:
        error = stats.get("marginal_error", np.nan)
        parts.append(f"{_total(stats['half_iterations'])} Sinkhorn half-iterations, marginal error {error:.2g}")
    if stats.get("bytes_sent"):
        parts.append(f"{_total(stats['bytes_sent'])} bytes sent to other processes")
    return "; ".join(parts)
