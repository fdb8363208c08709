"""The random numbers of seeded clouds, and clouds and positions of files: the initial states of simulations.

A token's numbers depend on the seed and on its own index, never on how many tokens are asked for: tokens come in blocks
of `BLOCK`, and block b of the variate number v (0: normals, 1: uniforms) has a Philox stream of its own, keyed by
`SeedSequence(seed, spawn_key=(0, v, b))`. A block is always drawn from its start, row by row, in float64, and then
rounded, so any range of whole blocks can be made alone (by one process of many, say) and the first m of n tokens are
the cloud of m tokens. What makes tokens of these numbers is a law, see `fastpde.laws`.

The argument `rows`, a slice, selects the tokens that are made, such as those of one process of many; None: all.

The clouds of an ensemble are drawn one by one: `system` s > 0 has the keys (0, v, b, s), so a system's numbers do not
depend on how many there are, and system 0 is the cloud of a run of one system.
"""

from __future__ import annotations

import warnings
from collections.abc import Callable, Iterator
from functools import lru_cache
from pathlib import Path
from tokenize import TokenError
from typing import Any

import numpy as np

from fastpde._types import NUMBERS
from fastpde.errors import InputError

BLOCK = 4096
_TOKENS = 0  # the spawn key's first number: other users of the same seed take another
_POSITIONS = 4
_NORMAL, _UNIFORM = 0, 1
_SHOWN = 40  # characters of a wrong entry that a message shows
# What NumPy raises for a file that is no .npy file: its header is parsed as Python.
_UNREADABLE = (ValueError, EOFError, OSError, TypeError, OverflowError, SyntaxError, TokenError, RecursionError)

Array = np.ndarray[Any, Any]
Place = Callable[[Array, Array], Array]  # normals (n, a) and uniforms (n, b) -> points (n, d)


def stream(seed: int, *key: int) -> np.random.Generator:
    """Return the Philox generator of one purpose: `key` says which, so purposes never share numbers."""
    return np.random.Generator(np.random.Philox(np.random.SeedSequence(seed, spawn_key=key)))


def in_blocks(
    place: Place,
    variates: tuple[int, int],
    n: int,
    seed: int,
    *,
    dtype: Any = np.float64,
    system: int = 0,
    rows: slice | None = None,
) -> Array:
    """Return n points (n, d), or their `rows`, that `place` makes of `variates`: a normal and b uniform ones for each.

    Raises InputError naming n, system or rows.
    """
    if n < 1:
        raise InputError("n", str(n), "a whole number of at least 1")
    if system < 0:
        raise InputError("system", str(system), "a whole number of at least 0")
    own = (system,) if system else ()
    first, last = _range(rows, n)
    x = np.empty((0, 0))
    for b in range(first // BLOCK, -(-last // BLOCK)):
        count, skipped = min(BLOCK, last - b * BLOCK), max(0, first - b * BLOCK)
        z, u = np.empty((count, 0)), np.empty((count, 0))
        if variates[0]:
            z = stream(seed, _TOKENS, _NORMAL, b, *own).standard_normal((count, variates[0]))
        if variates[1]:
            u = stream(seed, _TOKENS, _UNIFORM, b, *own).random((count, variates[1]))
        drawn, start = place(z, u)[skipped:], b * BLOCK + skipped - first
        x = x if x.size else np.empty((last - first, drawn.shape[1]), dtype=dtype)
        x[start : start + BLOCK - skipped] = drawn
    return x


def _range(rows: slice | None, n: int) -> tuple[int, int]:
    """Return the first index and the end of `rows` among n tokens. Raises InputError if it is empty or skips some."""
    if rows is None:
        return 0, n
    chosen = range(*rows.indices(n))
    if chosen.step != 1 or not chosen:
        raise InputError("rows", str(rows), f"a slice of some of {n} tokens, in their order")
    return chosen.start, chosen.stop


def open_array(path: Path, name: str) -> Array:
    """Map a .npy file of float64, float32 or whole numbers into memory without reading it; or read a .csv file of
    numbers (n, d).

    A .csv file has a row for each token, with commas; a first line of names is passed over.

    Raises InputError naming `name` for anything else: no file, pickled objects, a cut file, other numbers.
    """
    if not path.is_file():
        need = "the name of a .npy file, or of a .csv file"
        raise InputError(name, f'"{path.name}", which is no file in {path.parent}', need)
    if path.suffix == ".csv":
        found = path.stat()
        return _table(path, name, found.st_mtime_ns, found.st_size)
    try:
        array = np.lib.format.open_memmap(path, mode="r")  # unlike np.load it looks for nothing but a .npy file
    except _UNREADABLE as error:
        raise InputError(name, f'"{path.name}": {error}', "a readable, complete .npy file") from None
    if array.dtype.kind not in "iu" and (array.dtype.kind != "f" or array.dtype.itemsize not in (4, 8)):
        remedy = "Save it with astype(float)." if array.dtype.kind in "fb" else ""
        raise InputError(name, f'"{path.name}" with {array.dtype}', f"an array of {NUMBERS}", remedy)
    return array


@lru_cache(maxsize=2)  # asked for its shape first
def _table(path: Path, name: str, *_: int) -> Array:
    """Return the numbers (n, d) of a .csv file, read-only."""
    names = False
    try:
        with path.open(encoding="utf-8") as file:
            names = any(_is_word(entry) for entry in file.readline().split(","))
        with warnings.catch_warnings():
            warnings.simplefilter("error")  # a file without numbers
            array = np.loadtxt(path, delimiter=",", skiprows=int(names), ndmin=2, encoding="utf-8", comments=None)
    except (ValueError, OSError, UserWarning) as error:
        need = "rows of numbers, with as many in each and commas between them"
        raise InputError(name, f'"{path.name}": {_fault(path, names) or error}', need) from None
    array.flags.writeable = False
    return array


def _fault(path: Path, names: bool) -> str:
    """Return what is wrong with the first wrong line of a table, counted from 1; "" if that cannot be found."""
    width = 0
    try:
        for number, line in enumerate(path.read_text(encoding="utf-8").splitlines(), 1):
            entries = line.split(",")
            if not line.strip() or (names and number == 1):
                continue
            for place, entry in enumerate(entries, 1):
                if _is_word(entry):
                    return f'"{entry.strip()[:_SHOWN]}" as number {place} of line {number}'
            width = width or len(entries)
            if len(entries) != width:
                return f"{len(entries)} numbers in line {number} and {width} before it"
    except (OSError, ValueError):
        return ""
    return "" if width else "no numbers"


def _is_word(entry: str) -> bool:
    try:
        float(entry)
    except ValueError:
        return True
    return False


def from_file(
    path: Path,
    *,
    n: int | None = None,
    dtype: Any = np.float64,
    name: str = "path",
    system: int = 0,
    rows: slice | None = None,
) -> Array:
    """Return the first n (default: all) tokens (n, d) of one system of a .npy file (m, d) or (systems, m, d), or those
    of them that are in `rows`.

    They are read block by block. Raises InputError naming `name` if they are not finite, or the file is of no use.
    """
    source = open_array(path, name)
    if source.ndim not in (2, 3) or 0 in source.shape:
        raise InputError(name, f'"{path.name}" of shape {source.shape}', "shape (n, d) or (systems, n, d)")
    systems = len(source) if source.ndim == 3 else 1
    if not 0 <= system < systems:
        raise InputError("system", str(system), f"one of the {systems} systems of {path.name}, counted from 0")
    origin = f"system {system} of {path.name}" if source.ndim == 3 else path.name
    source = source[system] if source.ndim == 3 else source
    if n is not None and n > source.shape[0]:
        raise InputError("n", str(n), f"at most the {source.shape[0]} tokens of {path.name}")
    first, last = _range(rows, n or source.shape[0])
    source = source[first:last]
    x = np.empty(source.shape, dtype=dtype)
    for part in _ranges(len(x)):
        with np.errstate(over="ignore"):  # too large for float32: found by the check below
            x[part] = source[part]
        bad = ~np.isfinite(x[part])
        if bad.any():
            row, column = np.argwhere(bad)[0]
            where = f"{x[part][row, column]} at row {first + part.start + row}, column {column} of {origin}"
            raise InputError(name, where, f"numbers that are finite in {np.dtype(dtype).name}")
    return x


def uniform_positions(n: int, *, seed: int, rows: slice | None = None) -> Array:
    """Return n positions uniform in [0, 1), or those of the tokens in `rows`; each depends on its index alone."""
    first, last = _range(rows, n)
    blocks = range(first // BLOCK, -(-last // BLOCK))
    drawn = np.concatenate([stream(seed, _POSITIONS, b).random(BLOCK) for b in blocks])
    return drawn[first - blocks.start * BLOCK : last - blocks.start * BLOCK].copy()


def open_positions(path: Path, n: int, name: str = "path") -> Array:
    """Map a .npy file (m,) or (m, 1), or read a .csv file with one number in each row; return the first n (n,).

    Raises InputError naming `name` for another shape, for fewer than n, and as `open_array`.
    """
    source = open_array(path, name)
    if source.ndim != 1 and source.shape[1:] != (1,):
        raise InputError(name, f'"{path.name}" of shape {source.shape}', "shape (n,), one position for each token")
    if len(source) < n:
        raise InputError(name, f'"{path.name}" with {len(source)} positions', f"one for each of the {n} tokens")
    return source.reshape(len(source))[:n]


def _ranges(n: int) -> Iterator[slice]:
    return (slice(start, min(start + BLOCK, n)) for start in range(0, n, BLOCK))


def subset(n: int, size: int, *, seed: int) -> Array:
    """Return the sorted indices of a fixed random subset of `size` tokens out of n, at most all."""
    if size >= n:
        return np.arange(n, dtype=np.int64)
    return np.sort(stream(seed, 2).choice(n, size=size, replace=False, shuffle=False)).astype(np.int64)


def some_of(count: int, most: int | None) -> Array:
    """Return the indices of at most `most` of `count` tokens, None: all; a random subset, always the same one.

    It is for showing: every k-th token could miss a cluster of tokens that have an order, as those of a file.
    """
    return subset(count, count if most is None else most, seed=0)
