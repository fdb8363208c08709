"""The stored tokens as an H5MD 1.1 file that stays readable whenever the writer is killed.

    /h5md                            version, author, creator
    /particles/tokens/box            dimension, boundary (none)
    /particles/tokens/id             (m,) index of each stored token
    /particles/tokens/position/      step (f,)   time (f,)   value (f, m, d)

`step` counts frames: integrators choose their own steps and frames are interpolated between them.

Why a kill does no harm: the places of all frames are laid out when the file is made (sparse: they take no
room on
the disk before they are written), so storing a frame changes no structure of the file, it only fills bytes
in. Until a
frame is whole its time is nan; what never came is cut off when the file is closed, and left out by
`read_trajectory`.
"""

from __future__ import annotations

import getpass
import math
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fastpde.errors import InputError
from fastpde.run.directory import writing

Array = np.ndarray[Any, Any]
_BOUNDARIES = 4096  # HDF5 attributes hold at most 64 KiB
_CHUNK = 2**18  # bytes: small frames share a chunk, and a flush rewrites at most this much of old frames
_LARGEST = 2**30  # bytes of a chunk: HDF5 allows 4 GiB
_TIMES = 1024  # entries of step and time per chunk
_AHEAD = 4096  # chunks that are laid out at a time; a run that needs more extends the file now and then


def _author() -> str:
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name, as in containers
        return "unknown"


def _chunk(m: int, d: int, itemsize: int) -> tuple[int, int, int]:
    """Return (frames, tokens, d) of a chunk."""
    frame = m * d * itemsize
    return max(1, min(_TIMES, _CHUNK // frame)), min(m, max(1, _LARGEST // (d * itemsize))), d


def _early(fill: bool) -> Any:
    """Return dataset properties that give every chunk its place at once, filled or left as holes."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_ALLOC if fill else h5py.h5d.FILL_TIME_NEVER)
    return properties


class TrajectoryWriter:
    """Appends frames of the tokens `ids`; every frame is with the operating system when `append` returns."""

    def __init__(self, path: Path, ids: Array, like: Array, *, frames: int, version: str) -> None:
        """Make the file.

        `like` (any, d) has the dtype and dimension to come; `frames` is how many are expected, more are
        allowed.
        """
        self._path, self._ids, self._count, self._broken = path, ids, 0, False
        d, itemsize = like.shape[1], like.dtype.itemsize
        chunk = _chunk(len(ids), d, itemsize)
        self._block = min(frames, chunk[0] * max(1, _AHEAD // math.ceil(len(ids) / chunk[1])))
        with writing("the trajectory", path):
            self._probe(self._block * len(ids) * d * itemsize)
            # No lock: readers may look while the run goes on, and many cluster file systems have none to
            # give.
            self._file = h5py.File(path, "w", locking=False)
            with self._harmless():
                self._layout(d, like.dtype, chunk, version)
                self._file.flush()

    def _probe(self, size: int) -> None:
        """Try a file of this size, as holes: limits on file sizes are met here and not inside HDF5."""
        with self._path.open("xb") as file:
            file.truncate(size)

    @contextmanager
    def _harmless(self) -> Iterator[None]:
        """After an error, let HDF5 close what it holds without writing to the disk again.

        It would try to write what it could not, once more at the interpreter's exit, and crash there. So its
        descriptor is given a file in memory instead: what the disk has stays as it was after the last frame.
        """
        try:
            yield
        except (OSError, RuntimeError, ValueError):
            self._broken = True
            if hasattr(os, "memfd_create"):
                memory = os.memfd_create("fastpde")
                os.dup2(memory, self._file.id.get_vfd_handle())
                os.close(memory)
            with suppress(OSError, RuntimeError, ValueError):
                self._file.close()
            raise

    def _layout(self, d: int, dtype: Any, chunk: tuple[int, int, int], version: str) -> None:
        root = self._file.create_group("h5md")
        root.attrs["version"] = np.array([1, 1], dtype=np.int32)
        root.create_group("author").attrs["name"] = _author()
        creator = root.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "fastpde", version
        tokens = self._file.create_group("particles/tokens")
        box = tokens.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = np.int32(d), ["none"] * min(d, _BOUNDARIES)
        tokens.create_dataset("id", data=self._ids)
        position = tokens.create_group("position")
        shape = (self._block, len(self._ids), d)
        many = {"chunks": (_TIMES,), "maxshape": (None,), "dcpl": _early(True)}
        self._value = position.create_dataset(
            "value", shape, dtype, chunks=chunk, maxshape=(None, *shape[1:]), dcpl=_early(False)
        )
        self._step = position.create_dataset("step", shape[:1], np.int64, fillvalue=-1, **many)
        many["dcpl"] = _early(True)
        self._time = position.create_dataset("time", shape[:1], np.float64, fillvalue=np.nan, **many)

    def _resize(self, frames: int) -> None:
        for dataset in (self._value, self._step, self._time):
            dataset.resize(frames, axis=0)

    def append(self, t: float, x: Array) -> None:
        """Store the tokens `ids` of x (n, d) as the frame of time t. Raises OutputError."""
        frame = self._count
        with writing("the trajectory", self._path), self._harmless():
            if frame == len(self._time):
                self._resize(frame + self._block)
                self._file.flush()
            self._value[frame] = x if len(x) == len(self._ids) else x[self._ids]
            self._file.flush()  # the tokens before the time that vouches for them
            self._step[frame], self._time[frame] = frame, t
            self._file.flush()
        self._count += 1

    def close(self) -> None:
        """Cut off the frames that never came and close the file; again is harmless. Raises OutputError."""
        if self._broken:
            return
        with writing("the trajectory", self._path), self._harmless():
            if self._file and self._count < len(self._time):
                self._resize(self._count)
            self._file.close()


@dataclass(frozen=True)
class Trajectory:
    """Frames read from a file: `time` (f,), `value` (f, m, d) and `ids` (m,), the index of each token among
    all.
    """

    time: Array
    value: Array
    ids: Array


def _open(path: Path) -> h5py.File:
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError("trajectory", f"{path} ({error})", "an HDF5 file that can be read") from None


def read_times(path: Path) -> Array:
    """Return the times of all whole frames, shape (f,). Raises InputError if the file is no trajectory."""
    with _open(path) as file:
        return _times(file, path)


def _times(file: h5py.File, path: Path) -> Array:
    try:
        position = file["particles/tokens/position"]
        count = min(len(position[name]) for name in ("step", "time", "value"))
        times = position["time"][:count]
    except (KeyError, TypeError, AttributeError):
        raise InputError("trajectory", str(path), "an H5MD file with particles/tokens/position") from None
    return times[np.isfinite(times)]


def read_trajectory(path: Path, *, frames: Any = None, max_tokens: int | None = None) -> Trajectory:
    """Return a trajectory, or only some `frames` of it (indices), thinned evenly to at most `max_tokens`
    tokens.

    Raises InputError if the file is no trajectory. A file whose writer is still running or was killed can be
    read.
    """
    with _open(path) as file:
        times = _times(file, path)
        chosen = range(len(times)) if frames is None else frames
        tokens = file["particles/tokens"]
        ids = tokens["id"][:]
        stride = 1 if max_tokens is None else max(1, math.ceil(len(ids) / max_tokens))
        value = tokens["position/value"]
        kept = np.empty((len(chosen), len(ids[::stride]), value.shape[2]), dtype=value.dtype)
        for i, frame in enumerate(chosen):
            kept[i] = value[frame][::stride]
        return Trajectory(times[list(chosen)], kept, ids[::stride])
