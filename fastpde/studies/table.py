"""The result of a study: a table with named columns, the parameters that made it, a picture, and files.

study.json    the name, the parameters, the version, and for each column its unit and meaning
rows.csv      one row per draw or law, "name [unit]" in the header
NAME.png      the picture
"""

from __future__ import annotations

import csv
import io
import json
import re
from abc import ABC, abstractmethod
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from types import MappingProxyType
from typing import TYPE_CHECKING, Any, ClassVar, Self

import numpy as np

import fastpde as fp
from fastpde.errors import ExplainedMethods

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

Array = np.ndarray[Any, Any]
PARAMETERS, ROWS = "study.json", "rows.csv"
_KINDS: dict[str, Any] = {"number": np.float64, "whole": np.int64, "text": np.str_}


@dataclass(frozen=True)
class Column:
    """The description of a column: kind ("number", "whole" or "text"), unit (empty for pure numbers), meaning."""

    kind: str
    unit: str
    meaning: str


@dataclass(frozen=True, eq=False)
class Study(ExplainedMethods, ABC):
    """The table of a study; `study["rank"]` is a column (rows,), `len(study)` the number of rows.

    Attributes:
        parameters: the arguments of the study, in types that JSON has.
        columns: name -> array (rows,), read-only.
    """

    parameters: Mapping[str, Any]
    columns: Mapping[str, Array]
    name: ClassVar[str]  # the name on the command line

    def __post_init__(self) -> None:
        """Check and fix the columns. Raises InputError for unequal lengths, or names other than those of `layout`."""
        about = self.layout(self.parameters)
        if set(self.columns) != set(about):
            raise fp.InputError("columns", ", ".join(self.columns), ", ".join(about))
        fixed = {name: np.array(self.columns[name], _KINDS[column.kind]) for name, column in about.items()}
        if len({values.shape for values in fixed.values()} | {(len(self),)}) > 1:
            raise fp.InputError("columns", str({name: a.shape for name, a in fixed.items()}), "arrays of one length")
        for values in fixed.values():
            values.flags.writeable = False
        object.__setattr__(self, "columns", MappingProxyType(fixed))
        object.__setattr__(self, "parameters", MappingProxyType(dict(self.parameters)))

    @classmethod
    def of_rows(cls, parameters: Mapping[str, Any], rows: Sequence[Mapping[str, Any]]) -> Self:
        """Return the study with these rows, at least one; each has a value for every column, by name."""
        return cls(parameters, {name: np.array([row[name] for row in rows]) for name in rows[0]})

    @property
    def cited_as(self) -> tuple[str, ...]:
        """The names of what the study has used, for `fp.cite`: its own, and those of its attentions."""
        told = [str(self.parameters.get(key, "")) for key in ("attention", "variant", "variants", "cases")]
        return (self.name, *re.findall(r"\w+", " ".join(told)))

    def __len__(self) -> int:
        return len(next(iter(self.columns.values())))

    def __getitem__(self, name: str) -> Array:
        return self.columns[name]

    def __repr__(self) -> str:
        return f"{type(self).__name__}({len(self)} rows: {', '.join(self.columns)})"

    @classmethod
    @abstractmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        """Return a description of each column, by name and in order."""

    @abstractmethod
    def summary(self) -> str:
        """Return what was found, in one sentence without its full stop."""

    @property
    def tables(self) -> dict[str, Mapping[str, Array]]:
        """The tables beside the rows, by name: most studies have none."""
        return {}

    @abstractmethod
    def figure(self) -> Figure:
        """Draw the picture and return it, as a Matplotlib figure."""

    def plot(self, path: str | Path | None = None) -> Figure:
        """Draw the picture and return it; write it as a PNG if there is a path. Raises OSError."""
        from fastpde.plot import canvas

        return canvas.finished(self.figure(), path)

    def save(self, directory: str | Path) -> Path:
        """Write the files of the study into a directory, which is made if necessary; return the picture's path.

        `studies.load` reads them again, to the bit. Raises OSError.
        """
        folder = Path(directory)
        folder.mkdir(parents=True, exist_ok=True)
        about = self.layout(self.parameters)
        write_csv(folder / ROWS, {_header(name, about[name]): values for name, values in self.columns.items()})
        self._save_more(folder)
        picture = folder / f"{self.name}.png"
        self.plot(picture)
        columns = {name: {"unit": column.unit, "meaning": column.meaning} for name, column in about.items()}
        facts = {"study": self.name, "parameters": dict(self.parameters), "fastpde": fp.__version__, "columns": columns}
        # Written last: a directory that has this file is complete.
        _write(folder / PARAMETERS, json.dumps(facts, indent=2, allow_nan=False) + "\n")
        return picture

    def _save_more(self, folder: Path) -> None:
        """Write the data of the study that is not in the columns."""

    @classmethod
    def read(cls, folder: Path, parameters: Mapping[str, Any]) -> Study:
        """Return the study that `save` wrote. Raises OSError, ValueError."""
        return cls(parameters, cls.read_columns(folder, parameters))

    @classmethod
    def read_columns(cls, folder: Path, parameters: Mapping[str, Any]) -> dict[str, Array]:
        """Return the columns that `save` wrote. Raises OSError, ValueError."""
        about, columns = cls.layout(parameters), read_csv(folder / ROWS)
        headers = {name: _header(name, column) for name, column in about.items()}
        if list(columns) != list(headers.values()):
            raise ValueError(f"{ROWS} has the columns {', '.join(columns)}")
        return {name: np.array(columns[headers[name]], dtype=_KINDS[about[name].kind]) for name in about}


def _header(name: str, column: Column) -> str:
    return f"{name} [{column.unit}]" if column.unit else name


def write_csv(path: Path, columns: Mapping[str, Any]) -> None:
    """Write columns of equal length; numbers in the shortest text that reads back to the same bits. Raises OSError."""
    stream = io.StringIO()
    writer = csv.writer(stream, lineterminator="\n")
    writer.writerow(columns)
    writer.writerows(zip(*(np.asarray(values).tolist() for values in columns.values()), strict=True))
    _write(path, stream.getvalue())


def read_csv(path: Path) -> dict[str, list[str]]:
    """Return the columns of a CSV file as text. Raises OSError, ValueError."""
    with path.open(newline="", encoding="utf-8") as stream:
        header, *rows = [*csv.reader(stream)] or [[]]
    if any(len(row) != len(header) for row in rows):
        raise ValueError(f"{path.name} has rows of unequal length")
    return {name: [row[i] for row in rows] for i, name in enumerate(header)}


def _write(path: Path, text: str) -> None:
    from fastpde.plot import canvas

    canvas.write(path, lambda stream: stream.write(text.encode("utf-8")))
