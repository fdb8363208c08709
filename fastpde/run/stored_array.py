"""An array in an HDF5 file that is read where it is indexed, so that a trajectory need not fit into the memory."""

from __future__ import annotations

import math
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.errors import InputError
from fastpde.run.trajectory_file import opened

Array = np.ndarray[Any, Any]


class StoredArray:
    """An array in a file, which is open only while something is read; `array[index]` is a NumPy array.

    Indices are those of NumPy. Of the file only the frames and systems that are asked for are read; `numpy.asarray`
    reads everything. Raises InputError if the file cannot be read any more.

    Attributes:
        shape, dtype: as of an array.
    """

    def __init__(self, path: Path, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        """Describe the dataset `name` of a file, up to `shape`: what lies beyond is not whole."""
        self._path, self._name = path, name
        self.shape, self.dtype = shape, np.dtype(dtype)

    @property
    def ndim(self) -> int:
        """The number of axes."""
        return len(self.shape)

    @property
    def size(self) -> int:
        """The number of entries."""
        return math.prod(self.shape)

    @property
    def nbytes(self) -> int:
        """The number of bytes that the whole array takes in memory."""
        return self.size * self.dtype.itemsize

    def __len__(self) -> int:
        return self.shape[0]

    def __repr__(self) -> str:
        return f"StoredArray(shape={self.shape}, dtype={self.dtype}, {self._name} in {self._path})"

    def __iter__(self) -> Iterator[Array]:
        return (self[i] for i in range(len(self)))

    def __array__(self, dtype: Any = None, copy: bool | None = None) -> Array:
        if copy is False:
            raise ValueError("an array in a file cannot be had without a copy")
        return np.asarray(self[...], dtype=dtype)

    def __getitem__(self, index: Any) -> Any:
        first, *others = (index or (Ellipsis,)) if isinstance(index, tuple) else (index,)
        if _plain(first, *others):
            return self._read(_one_per_axis((first, *others), self.ndim))
        if _plain(*others) and np.ndim(first) == 1 and Ellipsis not in others:  # some frames, by a list or a mask
            frames = np.arange(len(self))[np.asarray(first, None if len(first) else np.int64)]
            found = [self[(int(frame), *others)] for frame in frames]
            return np.stack(found) if found else self[(slice(0), *others)]
        return np.asarray(self)[index]

    def _read(self, entries: list[Any]) -> Any:
        """Return what integers and slices, one per axis, choose; HDF5 knows steps forward only."""
        boxes: list[Any] = []
        for length, entry in zip(self.shape, entries, strict=True):
            chosen = range(length)[entry]  # a whole number, or a range
            if isinstance(chosen, range):
                forward = chosen if chosen.step > 0 else chosen[::-1]
                chosen = slice(forward.start, forward.stop, forward.step) if len(forward) else slice(0)
            boxes.append(chosen)
        with opened(self._path) as file:
            try:
                found = file[self._name][tuple(boxes)]
            except (OSError, KeyError) as error:
                raise InputError("directory", f"{self._path} ({error})", f"a file with {self._name} in it") from None
        return found[tuple(slice(None, None, -1 if _backward(entry) else 1) for entry in entries if _is_slice(entry))]


def _plain(*entries: Any) -> bool:
    """Return whether all entries of an index are integers, slices or dots."""
    whole = int | np.integer | slice
    return all(entry is Ellipsis or (isinstance(entry, whole) and not isinstance(entry, bool)) for entry in entries)


def _is_slice(entry: Any) -> bool:
    return isinstance(entry, slice)


def _backward(entry: slice) -> bool:
    return entry.step is not None and entry.step < 0


def _one_per_axis(entries: tuple[Any, ...], ndim: int) -> list[Any]:
    """Return integers and slices, one for each axis: the dots, or the end, stand for all axes that are not named."""
    dots = sum(entry is Ellipsis for entry in entries)
    missing = ndim - len(entries) + dots
    if dots > 1 or missing < 0:
        raise IndexError(f"{len(entries)} indices for {ndim} axes")
    place = next((i for i, entry in enumerate(entries) if entry is Ellipsis), len(entries))
    every = [slice(None)] * missing
    return [*entries[:place], *every, *entries[place + dots :]]
