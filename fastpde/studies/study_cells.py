"""Finished cells of a study that takes long, kept in a file: an interrupted study goes on where it was.

One JSON line per cell, after a first line with the study's parameters; a line that was cut off is not read.
"""

from __future__ import annotations

import json
import os
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import fastpde as fp


class Cells:
    """Rows of finished cells by key. Without a path nothing is kept."""

    def __init__(self, path: str | Path | None, parameters: Mapping[str, Any]) -> None:
        """Read what is there. Raises InputError for cells of other parameters, OSError."""
        self.path = None if path is None else Path(path)
        self._rows: dict[str, list[dict[str, Any]]] = {}
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
        # Written anew without what was cut off; from here on lines are only added.
        self._write("".join(whole) or first + "\n", "w")

    def __contains__(self, key: str) -> bool:
        return key in self._rows

    def __getitem__(self, key: str) -> list[dict[str, Any]]:
        return self._rows[key]

    def add(self, key: str, rows: list[dict[str, Any]]) -> None:
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
