"""The pictures of a sweep, drawn from the states and the last observables of its cells."""

from __future__ import annotations

from collections import Counter
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.config import Sweep
from fastpde.errors import InputError
from fastpde.plot import canvas, sweep_figures
from fastpde.plot.sweep_axes import CASE, CellColumns, layout
from fastpde.run import directory, sweep_table
from fastpde.run.sweep_table import FINISHED, Cell, Table

RESULTS, ENDS = "results.png", "cells.png"
_LINES = 3  # of the label of a case
_USUAL = "completed"  # the status of a run that reached the end of its time span


def current(table: Table) -> list[Path]:
    """Return the paths of the pictures of a sweep, which are drawn again unless they show all that it holds.

    Observables that were asked for when they were drawn stay until then.
    """
    paths = [table.folder.path / name for name in (RESULTS, ENDS)]
    if canvas.made_of(paths[-1]) != _contents(table):
        return save(table)
    return [path for path in paths if path.is_file()]


def save(table: Table, columns: Sequence[str] = ()) -> list[Path]:
    """Draw results.png, unless no cell has finished, and cells.png; return their paths.

    columns: the observables to draw; default: those that people look at first.

    Raises InputError for a column that no finished cell has, OSError.
    """
    cells, target = _cells(table), table.folder.path
    shown, title = layout(cells.varied, len(cells)), canvas.plain(f"Sweep {target.resolve().name}, {table.summary()}")
    names, left = sweep_figures.main_columns(cells)
    known = [*names, *left]
    for name in columns:
        if name not in known:
            raise InputError("--columns", name, f"names of observables of finished cells: {', '.join(known) or 'none'}")
    if columns:
        names = list(dict.fromkeys(columns))[: sweep_figures.MOST]
        left = [name for name in known if name not in names]
    made, paths = _contents(table), [target / RESULTS] if names else []
    if names:
        canvas.save(sweep_figures.results(cells, shown, names, left, title), paths[0], made)
    else:  # of an earlier plan
        (target / RESULTS).unlink(missing_ok=True)
    paths.append(target / ENDS)
    canvas.save(sweep_figures.ends(cells, shown, title), paths[-1], made)
    return paths


def _contents(table: Table) -> str:
    """Return what a sweep holds: the number of cells in each state, and the digest of all that its table says."""
    return f"{table.summary()}; table {directory.digest_of(table.text())}"


def _cells(table: Table) -> CellColumns:
    """Return the cells of a table as columns; only finished cells have last values."""
    found, sweep = list(table.cells.values()), table.folder.sweep
    names = dict.fromkeys(name for cell in found if cell.state == FINISHED for name in cell.last)
    return CellColumns(
        _varied(sweep, list(table.cells)),
        np.array([cell.state for cell in found]),
        [_outcome(cell) for cell in found],
        np.array([sweep_table.elapsed(cell) if "elapsed_s" in cell.facts else np.nan for cell in found]),
        {
            name: np.array([_number(cell.last.get(name)) if cell.state == FINISHED else np.nan for cell in found])
            for name in names
        },
    )


def _varied(sweep: Sweep, cells: list[int]) -> dict[str, list[object]]:
    """Return the values of the cells with these numbers by key; where cases have different keys, each is one value."""
    values = [sweep.varied(i) for i in cells]
    keys, cases = sweep.keys, sweep.asked.cases
    if len({frozenset(case) for case in cases}) == 1:
        return {key: [one[key] for one in values] for key in keys}
    words, each = [_case(case, keys) for case in cases], len(sweep) // len(cases)
    found: dict[str, list[object]] = {CASE: [words[i // each] for i in cells]}
    return found | {axis.key: [one[axis.key] for one in values] for axis in sweep.asked.vary}


def _case(case: Mapping[str, object], keys: Sequence[str]) -> str:
    """Return the first keys and values of a case, a line for each; of keys the part that tells them from others."""
    ends = Counter(key.partition(".")[2] or key for key in keys)
    lines = []
    for key, value in case.items():
        end = key.partition(".")[2] or key
        lines.append(f"{end if ends[end] == 1 else key} = {sweep_table.text_of(value)}")
    if len(lines) > _LINES:
        lines[_LINES - 1 :] = [f"and {len(lines) - _LINES + 1} more"]
    return "\n".join(lines) or "as configured"


def _outcome(cell: Cell) -> str:
    status = str(cell.facts.get("status", _USUAL))
    usual = cell.state != FINISHED or status == _USUAL
    return cell.state if usual else f"{cell.state}: {status.replace('_', ' ')}"


def _number(value: Any) -> float:
    try:
        return float(value)
    except (TypeError, ValueError):
        return float("nan")
