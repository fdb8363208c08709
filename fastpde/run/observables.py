"""Tables of moments of all tokens: observables.csv has one row per frame, systems.csv one per system of an ensemble."""

from __future__ import annotations

import hashlib
import os
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import observe
from fastpde.errors import InputError
from fastpde.run.directory import REMEDY, replace, writing
from fastpde.run.rows import Blocks

Array = np.ndarray[Any, Any]
BLOCK = 65_536  # tokens whose moments are summed together, whichever ranks hold them
LARGEST = 16  # components of the mean and eigenvalues of the covariance that get a column
_AT_WORK = 2**22  # numbers of tokens whose float64 copies are alive at a time


def columns(d: int) -> list[str]:
    """Return the names of the columns for tokens of dimension d."""
    count = range(min(d, LARGEST))
    means, values = [f"mean_{i}" for i in count], [f"eigenvalue_{i}" for i in count]
    return ["t", "mean_norm", *means, "trace", *values, "effective_rank", "radius", "energy"]


def row(t: float, x: Array | Blocks, energy: float | None) -> list[float]:
    """Return one row of the table: `t`, the moments of tokens x, and their energy, nan if it is None.

    x: tokens (n, d), or their `Blocks` of `BLOCK` tokens on any number of ranks, which give the same bits.
    """
    tokens = x if isinstance(x, Blocks) else Blocks.alone(x, BLOCK)
    n, d = tokens.n, tokens.d
    count = min(d, LARGEST)
    with np.errstate(over="ignore", invalid="ignore"):  # squares of huge tokens are inf, and say so
        mean = tokens.sum(lambda x: observe.mean(x, np.full(len(x), 1.0 / n)), (d,))
        cov = tokens.sum(lambda x: observe.covariance(x, np.full(len(x), 1.0 / n), mean=mean), (d, d))
        if np.isfinite(cov).all():
            values, rank = observe.spectrum(cov)[:count], observe.effective_rank(cov)
        else:
            values, rank = np.full(count, np.nan), np.nan
        norm = np.linalg.norm(mean)
    middle = [*mean[:count], np.trace(cov), *values, rank, _radius(tokens)]
    return [float(entry) for entry in (t, norm, *middle, np.nan if energy is None else energy)]


def _radius(tokens: Blocks) -> float:
    """Return max_i |x_i|, scaled against overflow as `observe.radius` does."""
    peak = tokens.largest(lambda x: float(np.abs(x.astype(np.float64)).max()))
    if peak == 0.0 or not np.isfinite(peak):
        return peak
    return peak * tokens.largest(lambda x: float(np.linalg.norm(x.astype(np.float64) / peak, axis=1).max()))


def rows(t: Array | float, x: Array, energy: Array | None) -> Array:
    """Return `row` of each of the systems x (B, n, d), shape (B, c), at the times t, () or (B,)."""
    if x.ndim != 3 or 0 in x.shape[1:]:
        raise InputError("x", f"shape {x.shape}", "tokens of shape (B, n, d) with n, d >= 1")
    count, together = min(x.shape[2], LARGEST), max(1, _AT_WORK // (x.shape[1] * x.shape[2]))
    found = np.full((len(x), len(columns(x.shape[2]))), np.nan)
    found[:, 0] = t
    for first in range(0, len(x), together):
        found[first : first + together, 1:-1] = _moments(x[first : first + together].astype(np.float64), count)
    if energy is not None:
        found[:, -1] = energy
    return found


def _moments(x: Array, count: int) -> Array:
    """Return the columns between time and energy, (B, c - 2), of systems x (B, n, d), by the formulas of `observe`."""
    with np.errstate(over="ignore", invalid="ignore", divide="ignore"):
        mean = x.mean(axis=1)
        centred = x - mean[:, None]
        cov = centred.transpose(0, 2, 1) @ centred / x.shape[1]
        fine = np.isfinite(cov).all(axis=(1, 2))
        values = np.maximum(np.linalg.eigvalsh(np.where(fine[:, None, None], cov, 0.0))[:, ::-1], 0.0)
        p = values / values[:, :1]
        p = p / p.sum(axis=1, keepdims=True)
        rank = np.exp(-np.where(p > 0, p * np.log(p), 0.0).sum(axis=1))
        rank[values[:, 0] == 0.0] = 0.0
        values[~fine], rank[~fine] = np.nan, np.nan
        peak = np.abs(x).max(axis=(1, 2))
        unit = np.where((peak > 0) & np.isfinite(peak), peak, 1.0)
        radius = unit * np.linalg.norm(x / unit[:, None, None], axis=2).max(axis=1)
        norm, trace = np.linalg.norm(mean, axis=1), np.trace(cov, axis1=1, axis2=2)
    return np.column_stack([norm, mean[:, :count], trace, values[:, :count], rank, radius])


def write_table(path: Path, names: list[str], lines: Sequence[Sequence[float]]) -> None:
    """Replace a file by a table in one step. Raises OutputError."""
    text = [",".join(names), *(",".join(map(repr, line)) for line in lines)]
    replace("the observables", path, "\n".join(text) + "\n")


class TableWriter:
    """A file of comma-separated values to which rows of words and numbers are appended."""

    def __init__(self, path: Path, names: list[str], kept: dict[str, Any] | None = None) -> None:
        """Make the file; or open that of an earlier part of the run, whose `mark` is `kept`, and cut it off there.

        Raises InputError if what precedes the mark was changed, OutputError.
        """
        self._path, self._digest = path, hashlib.blake2b(digest_size=16)
        if kept is not None and prefix_digest(path, kept["bytes"]) != kept["digest"]:
            raise InputError("--out", f"{path}, which was changed", "the file as the run has left it", REMEDY)
        with writing("the observables", path):
            self._file = path.open("xb" if kept is None else "r+b")
            if kept is None:
                self._write(",".join(names) + "\n")
                return
            self._digest.update(self._file.read(kept["bytes"]))
            self._file.truncate()

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
            rows = ([entry if isinstance(entry, str) else repr(entry) for entry in one] for one in lines)
            self._write("".join(",".join(row) + "\n" for row in rows))
            self._file.flush()

    def close(self, *, cut: bool = True) -> None:
        """Close the file. Raises OutputError."""
        with writing("the observables", self._path):
            self._file.close()


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
