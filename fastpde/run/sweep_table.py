"""The states of the cells of a sweep, read from their directories, and one table of all of them."""

from __future__ import annotations

import csv
import io
import math
import os
import sys
from collections import Counter
from collections.abc import Iterable
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, TextIO

from fastpde.config import emit
from fastpde.run import directory, lock, progress
from fastpde.run.sweep_folder import TABLE, Folder

FINISHED, FAILED, RUNNING, STOPPED, WAITING = "finished", "failed", "running", "stopped", "waiting"
STATES = (FINISHED, FAILED, RUNNING, STOPPED, WAITING)
_COLUMNS = ("index", "cell", "state")
# Columns, and where status.json has them.
_NUMBERS = {"status": "status", "steps": "step", "elapsed_s": "elapsed_s", "compile_s": "compile_s"}
_KEPT = (*_NUMBERS.values(), "code", "message", "t", "t_end", "systems", "systems_done")  # of status.json
_MANY = 500  # cells from which on reading them takes seconds
_TAIL = 2**16  # bytes at the end of a table that hold its last row


@dataclass(frozen=True)
class Cell:
    """The state of one cell, the entries of its status.json that matter, and the last row of its observables."""

    state: str
    facts: dict[str, Any] = field(default_factory=dict)
    last: dict[str, str] = field(default_factory=dict)

    def far(self) -> str:
        """Return in words how far the cell is, or its error."""
        if self.state == FAILED:
            return str(self.facts.get("message", ""))
        if "systems_done" in self.facts:
            return f"{self.facts['systems_done']} of {self.facts.get('systems')} systems"
        return f"t = {self.facts.get('t')} of {self.facts.get('t_end')}" if "t" in self.facts else ""


def look(path: Path) -> Cell:
    """Return the state of a cell, read from its directory."""
    try:
        status = directory.status_of(path)
    except (OSError, ValueError):
        return Cell(STOPPED if path.exists() else WAITING)
    said, facts = status.get("state"), {name: status[name] for name in _KEPT if name in status}
    if "config" in status and status["config"] != directory.config_digest(path):
        facts["message"] = f"{directory.CONFIG} was edited: put it back, or remove {path} to run the cell again."
        return Cell(FAILED, facts, _last(path / directory.OBSERVABLES))
    if said == directory.FINISHED:
        return Cell(FINISHED, facts, _last(path / directory.OBSERVABLES))
    if said == directory.FAILED and "code" in facts:
        return Cell(FAILED, facts, _last(path / directory.OBSERVABLES))
    return Cell(RUNNING if lock.held(path) else STOPPED, facts, _last(path / directory.OBSERVABLES))


def _last(path: Path) -> dict[str, str]:
    """Return the last whole row of a table of numbers as text by column, {} if there is none."""
    try:
        with path.open("rb") as file:
            names = file.readline().decode().rstrip("\n").split(",")
            start = file.tell()
            file.seek(max(start, file.seek(0, os.SEEK_END) - _TAIL))
            rows = file.read().decode().split("\n")[:-1]  # what follows the last newline is cut short
    except (OSError, ValueError):
        return {}
    values = rows[-1].split(",") if rows else []
    return dict(zip(names, values, strict=True)) if len(values) == len(names) else {}


class Table:
    """The states of the cells of a sweep by their numbers, of all cells or of some."""

    def __init__(self, folder: Folder, cells: Iterable[int] | None = None) -> None:
        self.folder = folder
        self.cells = {i: look(folder.cell(i)) for i in (range(len(folder.cells)) if cells is None else cells)}

    def update(self, index: int) -> None:
        """Read the state of one cell again."""
        self.cells[index] = look(self.folder.cell(index))

    def counts(self) -> Counter[str]:
        """Return the number of cells in each state."""
        return Counter(cell.state for cell in self.cells.values())

    def left(self) -> float:
        """Return about how many seconds the remaining cells need with the processes that run now; nan if not known."""
        running = [cell for cell in self.cells.values() if cell.state == RUNNING]
        took = [elapsed(cell) for cell in self.cells.values() if cell.state == FINISHED]
        if not running or not took:
            return math.nan
        mean, counts = sum(took) / len(took), self.counts()
        ahead = sum(max(0.0, mean - elapsed(cell)) for cell in running)
        return (ahead + mean * (counts[WAITING] + counts[STOPPED])) / len(running)

    def write(self) -> Path:
        """Write cells.csv and return its path. Raises OutputError."""
        directory.replace("the table", self.folder.path / TABLE, self.text())
        return self.folder.path / TABLE

    def text(self) -> str:
        """Return the table: number, digest, state, values, end and last observables of every cell.

        What a cell does not have is left empty.
        """
        keys, numbers = self.folder.sweep.keys, tuple(_NUMBERS)
        names = list(dict.fromkeys(name for cell in self.cells.values() for name in cell.last))
        stream = io.StringIO()
        writer = csv.writer(stream, lineterminator="\n")
        writer.writerow([*_COLUMNS, *keys, *numbers, *names])
        for i, cell in self.cells.items():
            varied = self.folder.sweep.varied(i)
            ends = (cell.facts.get(word, "") for word in _NUMBERS.values())
            values = [text_of(varied[word]) if word in varied else "" for word in keys]
            observed = (cell.last.get(name, "") for name in names)
            writer.writerow([i, self.folder.cells[i], cell.state, *values, *ends, *observed])
        return stream.getvalue()

    def summary(self) -> str:
        """Return the number of cells in each state, in words."""
        counts = self.counts()
        states = ", ".join(f"{counts[state]} {state}" for state in STATES if counts[state])
        return f"{progress.counted(len(self.cells), 'cell')}: {states}"


def read(folder: Folder, stream: TextIO | None = None) -> Table:
    """Return the states of all cells of a sweep; `stream`: where progress is shown if there are many."""
    count = len(folder.cells)
    quiet = stream is None or count < _MANY
    shown = progress.choose(0.0, count, stream or sys.stderr, quiet=quiet, name=progress.CELLS)
    table = Table(folder, ())
    try:
        for i in range(count):
            table.update(i)
            shown.update(i + 1, 0)
    finally:
        shown.close()
    return table


def elapsed(cell: Cell) -> float:
    """Return the seconds that a cell has run, but for the compilation of kernels: the first cells on a machine do that
    for all others. 0 where it is not known.
    """
    seconds, compiled = (cell.facts.get(name) for name in ("elapsed_s", "compile_s"))
    if not isinstance(seconds, int | float):
        return 0.0
    return max(0.0, seconds - compiled) if isinstance(compiled, int | float) else float(seconds)


def text_of(value: object) -> str:
    """Return a value of a plan as cells.csv has it: words as they are, all else as in TOML."""
    return value if isinstance(value, str) else emit.value(value)
