"""Finished cells of a long study, kept in a file from which an interrupted study goes on.

The file has a first line with the parameters of the study, then one JSON line per cell; an incomplete line is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

import fastpde as fp
from fastpde.integrate.reporting import counting

Rows = list[dict[str, Any]]  # by the names of columns


def rows_of(
    make: Callable[..., Rows],
    tasks: Mapping[str, tuple[Any, ...]],
    cells: str | Path | None,
    parameters: Mapping[str, Any],
    progress: Any,
) -> Rows:
    """Return the rows make(*task) of all tasks of a study in their order; those of finished cells are read.

    Args:
        tasks: key of a cell -> arguments of `make`.
        cells, parameters: as of `Cells`.
        progress: True for a bar, or a function of (number of cells that are done, {"systems": number of cells}).

    Raises InputError, InputTypeError, OSError.
    """
    kept, rows = Cells(cells, parameters), []
    with counting(progress, len(tasks)) as report:
        for done, (key, task) in enumerate(tasks.items(), 1):
            rows += kept.rows(key, make, *task)
            report(done)
    return rows


class Cells:
    """The rows of finished cells, by key; without a path they are kept in memory only."""

    def __init__(self, path: str | Path | None, parameters: Mapping[str, Any]) -> None:
        """Read the cells that the file holds. Raises InputError for cells of other parameters, OSError."""
        self.path = None if path is None else Path(path)
        self._rows: dict[str, Rows] = {}
        if self.path is None:
            return
        first = json.dumps({"parameters": dict(parameters)})
        lines = self.path.read_text(encoding="utf-8").splitlines(keepends=True) if self.path.exists() else []
        whole = [line for line in lines if line.endswith("\n")]
        if whole and whole[0] != first + "\n":
            remedy = "Give another file, or remove it to start again."
            raise fp.InputError("cells", str(self.path), "a file of cells of the same study and parameters", remedy)
        for line in whole[1:]:
            self._rows.update(json.loads(line))
        # Written anew without the incomplete line; from here on lines are only added.
        self._write("".join(whole) or first + "\n", "w")

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> Rows:
        return self._rows[key]

    def rows(self, key: str, make: Callable[..., Rows], *task: Any) -> Rows:
        """Return the rows of a cell, which are make(*task) unless they are kept. Raises OSError."""
        if key not in self:
            self.add(key, make(*task))
        return self[key]

    def add(self, key: str, rows: Rows) -> None:
        """Keep the rows of a cell; they are on the disk when this returns. Raises OSError."""
        self._rows[key] = rows
        if self.path is not None:
            self._write(json.dumps({key: rows}) + "\n", "a")

    def _write(self, text: str, mode: str) -> None:
        assert self.path is not None
        with self.path.open(mode, encoding="utf-8") as stream:
            stream.write(text)
            stream.flush()
            os.fsync(stream.fileno())
