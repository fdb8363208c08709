"""Tables of a run: comma-separated values, one row per frame (observables.csv) or per system (systems.csv)."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.config import Problem
from fastpde.errors import InputError
from fastpde.run.directory import POSITIONS, REMEDY, replace, writing

Array = np.ndarray[Any, Any]


def write_table(path: Path, names: list[str], lines: Sequence[Sequence[float]]) -> None:
    """Replace a file by a table in one step. Raises OutputError."""
    replace("the observables", path, table_text(names, lines))


def table_text(names: list[str], lines: Sequence[Sequence[float]]) -> str:
    """Return a table as text."""
    return "\n".join([",".join(names), *(",".join(map(repr, line)) for line in lines)]) + "\n"


class TableWriter:
    """A file of comma-separated values to which rows of words and numbers are appended.

    Attributes:
        names: the names of the columns.
    """

    def __init__(self, path: Path, names: list[str], kept: dict[str, Any] | None = None) -> None:
        """Make the file; or open that of an earlier part of the run, whose `mark` is `kept`, and cut it off there.

        That may have more columns than the `names` that are needed: those of earlier versions, which stay.

        Raises InputError if what precedes the mark was changed, or a column is missing; OutputError.
        """
        self._path, self._digest = path, hashlib.blake2b(digest_size=16)
        if kept is not None and prefix_digest(path, kept["bytes"]) != kept["digest"]:
            raise InputError("--out", f"{path}, which was changed", "the file as the run has left it", REMEDY)
        with writing("the observables", path):
            self._file = path.open("xb" if kept is None else "r+b")
            if kept is None:
                self.names = names
                self._write(",".join(names) + "\n")
                return
            found = self._file.read(kept["bytes"])
            self._digest.update(found)
            self._file.truncate()
        self.names = found.split(b"\n", 1)[0].decode().split(",")
        if missing := [name for name in names if name not in self.names]:
            self._file.close()
            came = f"{path}, without the columns {', '.join(missing)}"
            raise InputError("--out", came, "the columns with which the run has begun", REMEDY)

    def _write(self, text: str) -> None:
        data = text.encode()
        self._file.write(data)
        self._digest.update(data)

    def mark(self) -> dict[str, Any]:
        """Return the length of the file in bytes, and its digest."""
        return {"bytes": self._file.tell(), "digest": self._digest.hexdigest()}

    def sync(self) -> None:
        """Write everything to the disk. Raises OutputError."""
        with writing("the observables", self._path):
            self._file.flush()
            os.fsync(self._file.fileno())
            self._file.flush()

    def append(self, *lines: Sequence[float | str]) -> None:
        """Append rows; numbers are written so that they read back to the same bits. Raises OutputError."""
        with writing("the observables", self._path):
            self._write("".join(",".join(map(_text, one)) + "\n" for one in lines))
            self._file.flush()

    def append_named(self, numbers: dict[str, float]) -> None:
        """Append a row of numbers, given by the names of their columns; nan where there is none. Raises OutputError."""
        self.append([numbers.get(name, np.nan) for name in self.names])

    def close(self, *, cut: bool = True) -> None:
        """Close the file. Raises OutputError."""
        with writing("the observables", self._path):
            self._file.close()


def positions_table(folder: Path, problem: Problem, ids: Array, kept: dict[str, Any] | None) -> TableWriter:
    """Write the positions of the stored tokens `ids` as a table, or open that of an earlier part of the run.

    Raises as `TableWriter`.
    """
    table = TableWriter(folder / POSITIONS, ["token", "position"], kept)
    if kept is None and (positions := problem.positions()) is not None:
        table.append(*zip(ids.tolist(), positions[ids].tolist(), strict=True))
    return table


def _text(entry: float | str) -> str:
    """Return an entry as text; numbers of NumPy look like those of Python."""
    return entry if isinstance(entry, str) else repr(entry.item() if isinstance(entry, np.generic) else entry)


def names_of(path: Path) -> list[str]:
    """Return the names of the columns of a table. Raises OSError."""
    with path.open(encoding="utf-8") as file:
        return file.readline().rstrip("\n").split(",")


def prefix_digest(path: Path, length: int) -> str | None:
    """Return the digest of the first `length` bytes of a file; None if it is shorter or cannot be read."""
    try:
        with path.open("rb") as file:
            data = file.read(length)
    except OSError:
        return None
    return hashlib.blake2b(data, digest_size=16).hexdigest() if len(data) == length else None


def read_observables(path: Path) -> dict[str, Array]:
    """Read an observables.csv and return its columns by name; a last line that was cut short is left out. Raises
    InputError if the file is no such table.
    """
    return read_table(path)


def read_table(path: Path, *, without: str = "") -> dict[str, Array]:
    """Read a table of numbers and return its columns by name, but for one of words; a last line that was cut short is
    left out. Raises InputError if the file is no such table.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = file.read().split("\n")
        names = lines[0].split(",")
        # What follows the last newline is empty, or a row that a kill cut.
        cells = [dict(zip(names, line.split(","), strict=True)) for line in lines[1:-1]]
        kept = [name for name in names if name != without]
        return {name: np.array([float(row[name]) for row in cells], dtype=np.float64) for name in kept}
    except (OSError, ValueError) as error:
        raise InputError("observables", f"{path} ({error})", f"the {path.name} of a run") from None
