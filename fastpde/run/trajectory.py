"""The stored tokens as an H5MD 1.1 file that stays readable whenever the writer is killed.

    /h5md                            version, author, creator
    /particles/tokens/box            dimension, boundary (none)
    /particles/tokens/id             (m,) index of each stored token
    /particles/tokens/position/      step (f,)   time (f,)   value (f, m, d)

`step` counts frames: integrators choose their own steps and frames are interpolated between them.

Storing a frame only fills bytes in (`trajectory_file`). Until a frame is whole its time is nan; what never came is cut
off when the file is closed, and left out by `read_trajectory`.
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fastpde.errors import InputError
from fastpde.run.trajectory_file import CHUNK, LARGEST, FileWriter, author, early, opened

Array = np.ndarray[Any, Any]
_BOUNDARIES = 4096  # HDF5 attributes hold at most 64 KiB
_TIMES = 1024  # entries of step and time per chunk
_AHEAD = 4096  # chunks that are laid out at a time; a run that needs more extends the file now and then


def _chunk(m: int, d: int, itemsize: int) -> tuple[int, int, int]:
    """Return (frames, tokens, d) of a chunk."""
    frame = m * d * itemsize
    return max(1, min(_TIMES, CHUNK // frame)), min(m, max(1, LARGEST // (d * itemsize))), d


class TrajectoryWriter(FileWriter):
    """Appends frames of the tokens `ids`; every frame is with the operating system when `append` returns."""

    def __init__(self, path: Path, ids: Array, like: Array, *, frames: int, version: str) -> None:
        """Make the file.

        `like` (any, d) has the dtype and dimension to come; `frames` is how many are expected, more are
        allowed.
        """
        self._ids, self._count = ids, 0
        d, itemsize = like.shape[1], like.dtype.itemsize
        chunk = _chunk(len(ids), d, itemsize)
        self._block = min(frames, chunk[0] * max(1, _AHEAD // math.ceil(len(ids) / chunk[1])))
        super().__init__(path, self._block * len(ids) * d * itemsize)
        with self._storing():
            self._layout(d, like.dtype, chunk, version)
            self._file.flush()

    def _layout(self, d: int, dtype: Any, chunk: tuple[int, int, int], version: str) -> None:
        root = self._file.create_group("h5md")
        root.attrs["version"] = np.array([1, 1], dtype=np.int32)
        root.create_group("author").attrs["name"] = author()
        creator = root.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "fastpde", version
        tokens = self._file.create_group("particles/tokens")
        box = tokens.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = np.int32(d), ["none"] * min(d, _BOUNDARIES)
        tokens.create_dataset("id", data=self._ids)
        position = tokens.create_group("position")
        shape = (self._block, len(self._ids), d)
        many = {"chunks": (_TIMES,), "maxshape": (None,), "dcpl": early(True)}
        self._value = position.create_dataset(
            "value", shape, dtype, chunks=chunk, maxshape=(None, *shape[1:]), dcpl=early(False)
        )
        self._step = position.create_dataset("step", shape[:1], np.int64, fillvalue=-1, **many)
        many["dcpl"] = early(True)
        self._time = position.create_dataset("time", shape[:1], np.float64, fillvalue=np.nan, **many)

    def _resize(self, frames: int) -> None:
        for dataset in (self._value, self._step, self._time):
            dataset.resize(frames, axis=0)

    def append(self, t: float, x: Array) -> None:
        """Store the tokens `ids` of x (n, d) as the frame of time t. Raises OutputError."""
        frame = self._count
        with self._storing():
            if frame == len(self._time):
                self._resize(frame + self._block)
                self._file.flush()
            self._value[frame] = x if len(x) == len(self._ids) else x[self._ids]
            self._file.flush()  # the tokens before the time that vouches for them
            self._step[frame], self._time[frame] = frame, t
            self._file.flush()
        self._count += 1

    def _cut(self) -> None:
        if self._count < len(self._time):
            self._resize(self._count)


@dataclass(frozen=True)
class Trajectory:
    """Frames read from a file: `time` (f,), `value` (f, m, d) and `ids` (m,), the index of each token among
    all.
    """

    time: Array
    value: Array
    ids: Array


def read_times(path: Path) -> Array:
    """Return the times of all whole frames, shape (f,). Raises InputError if the file is no trajectory."""
    with opened(path) as file:
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
    with opened(path) as file:
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
