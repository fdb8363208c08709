"""The page about a sweep: its plan, the states of its cells, what they have found, what failed and how to go on."""

from __future__ import annotations

import csv
import io
import shlex
from pathlib import Path
from typing import TextIO

from fastpde.config.sweep_plan import BASE
from fastpde.plot import sweep_figures, sweep_pictures
from fastpde.report import rendering
from fastpde.run import lock, sweep_folder, sweep_slurm, sweep_table
from fastpde.run.sweep_table import FAILED, RUNNING, STOPPED, WAITING, Table

_ROWS = 300  # of the table of cells
_SLOWEST, _NAMED = 10, 50  # cells of the lists
_WORDS = 5  # values of a key that are written out


def page(path: Path, stream: TextIO | None = None) -> str:
    """Return the page about a sweep, its pictures drawn if need be, its table brought up to date.

    stream: where progress is shown while many cells are read. Raises InputError, OSError.
    """
    folder = sweep_folder.load(path)
    table = sweep_table.read(folder, stream)
    table.write()
    by, counts = lock.held(path), table.counts()
    at_work = f" Process {by.get('pid')} on {by.get('host')} is at work." if by else ""
    unfinished = counts[RUNNING] + counts[STOPPED] + counts[WAITING]
    failed = _listed(table, [i for i, cell in table.cells.items() if cell.state == FAILED])
    open_ones = _listed(table, [i for i, cell in table.cells.items() if cell.state in (RUNNING, STOPPED)])
    return rendering.render(
        "sweep.html",
        title=f"Sweep {path.resolve().name}",
        about=f"{table.summary()}.{at_work}",
        pictures=[rendering.picture(picture) for picture in sweep_pictures.current(table)],
        varied=[(key, *_values(folder.sweep.varied(i).get(key) for i in table.cells)) for key in folder.sweep.keys],
        unfinished=unfinished,
        command=f"fastpde sweep {shlex.quote(str(path.resolve()))}",
        script=sweep_slurm.SCRIPT if (path / sweep_slurm.SCRIPT).is_file() else "",
        failed=failed[:_NAMED],
        open=open_ones[:_NAMED],
        more={"failed": len(failed) - _NAMED, "open": len(open_ones) - _NAMED},
        slowest=_slowest(table),
        count=len(table.cells),
        cells=rendering.excerpt(_columns(table), _ROWS),
        plan=(path / sweep_folder.PLAN).read_text(encoding="utf-8"),
        configuration=(path / BASE).read_text(encoding="utf-8"),
    )


def _values(values: object) -> tuple[int, str]:
    """Return how many different values a key has, and these in words."""
    found = list(dict.fromkeys("not in its case" if value is None else sweep_table.text_of(value) for value in values))  # type: ignore[attr-defined]
    return len(found), ", ".join(found if len(found) <= _WORDS else [*found[: _WORDS - 2], "...", found[-1]])


def _listed(table: Table, cells: list[int]) -> list[tuple[str, str, str, str]]:
    """Return of each of some cells: its values, its state, how far it is or what went wrong, and its directory."""
    words, path = table.folder.sweep.words, table.folder.path
    return [
        (words(i), table.cells[i].state, table.cells[i].far(), str(table.folder.cell(i).relative_to(path)))
        for i in cells
    ]


def _slowest(table: Table) -> list[tuple[str, str, str, str]]:
    """Return the cells that took most time: values, state, seconds and directory."""
    seconds = {i: sweep_table.elapsed(cell) for i, cell in table.cells.items()}
    found = sorted((i for i in seconds if seconds[i] > 0.0), key=lambda i: -seconds[i])[:_SLOWEST]
    return [(words, state, f"{seconds[i]:.4g}", path) for i, (words, state, _, path)
            in zip(found, _listed(table, found), strict=True)]  # fmt: skip


def _columns(table: Table) -> dict[str, list[str]]:
    """Return the columns of cells.csv, but for the digests, numbers with six digits; details stand last."""
    names, *rows = csv.reader(io.StringIO(table.text()))
    columns = dict(zip(names, zip(*rows, strict=True), strict=True))
    observed = {name for cell in table.cells.values() for name in cell.last}
    kept = sorted(
        (name for name in names if name != "cell"), key=lambda name: name in observed and sweep_figures.is_detail(name)
    )
    return {name: [_short(text) for text in columns[name]] for name in kept}


def _short(text: str) -> str:
    try:
        return text if text.lstrip("-").isdigit() else f"{float(text):.6g}"
    except ValueError:
        return text
