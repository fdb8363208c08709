"""observables.csv: moments of all tokens, one row per frame, flushed row by row."""

from __future__ import annotations

import csv
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import observe
from fastpde.errors import InputError
from fastpde.run.directory import writing

Array = np.ndarray[Any, Any]
LARGEST = 16  # components of the mean and eigenvalues of the covariance that get a column


def columns(d: int) -> list[str]:
    """Return the names of the columns for tokens of dimension d."""
    count = range(min(d, LARGEST))
    means, values = [f"mean_{i}" for i in count], [f"eigenvalue_{i}" for i in count]
    return ["t", "mean_norm", *means, "trace", *values, "effective_rank", "radius", "energy"]


def row(t: float, x: Array, energy: float | None) -> list[float]:
    """Return the numbers of one row; an energy that is not computed is nan."""
    count = min(x.shape[1], LARGEST)
    with np.errstate(over="ignore", invalid="ignore"):  # squares of huge tokens are inf, and say so
        mean = observe.mean(x)
        cov = observe.covariance(x, mean=mean)
        if np.isfinite(cov).all():
            values, rank = observe.spectrum(cov)[:count], observe.effective_rank(cov)
        else:
            values, rank = np.full(count, np.nan), np.nan
        norm = np.linalg.norm(mean)
    middle = [*mean[:count], np.trace(cov), *values, rank, observe.radius(x)]
    return [float(entry) for entry in (t, norm, *middle, np.nan if energy is None else energy)]


class ObservablesWriter:
    """Appends rows to observables.csv."""

    def __init__(self, path: Path, d: int) -> None:
        self._path = path
        with writing("the observables", path):
            self._file = path.open("x", newline="", encoding="utf-8")
            self._writer = csv.writer(self._file, lineterminator="\n")
            self._writer.writerow(columns(d))
            self._file.flush()

    def append(self, numbers: list[float]) -> None:
        """Write one row; numbers read back to the same bits. Raises OutputError."""
        with writing("the observables", self._path):
            self._writer.writerow([repr(number) for number in numbers])
            self._file.flush()

    def close(self) -> None:
        """Close the file. Raises OutputError."""
        with writing("the observables", self._path):
            self._file.close()


def read_observables(path: Path) -> dict[str, Array]:
    """Return the columns by name; a last line that was cut short is left out. Raises InputError if it is no
    such file.
    """
    try:
        with path.open(newline="", encoding="utf-8") as file:
            lines = file.read().split("\n")
        names = lines[0].split(",")
        # What follows the last newline is empty, or a row that a kill cut.
        rows = [[float(entry) for entry in line.split(",")] for line in lines[1:-1]]
        table = np.array(rows, dtype=np.float64).reshape(len(rows), len(names))
    except (OSError, ValueError) as error:
        raise InputError("observables", f"{path} ({error})", "the observables.csv of a run") from None
    return dict(zip(names, table.T, strict=True))
