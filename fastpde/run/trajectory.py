"""The stored tokens as an H5MD 1.1 file that stays readable whenever the writer is killed.

    /h5md                            version, author, creator
    /particles/tokens/box            dimension, boundary (none)
    /particles/tokens/id             (m,) index of each stored token
    /particles/tokens/position/      step (f,)   time (f,)   value (f, m, d)
    /particles/tokens/token, coordinate     HDF5 dimension scales without values; with `time` they name the axes

`step` counts frames: integrators choose their own steps and frames are interpolated between them.

Storing a frame only fills in bytes (`trajectory_file`). Until a frame is whole its time is nan. Frames that never came
are removed when the file is closed, and left out by `read_trajectory`.
"""

from __future__ import annotations

import hashlib
import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fastpde import initial
from fastpde.errors import InputError
from fastpde.parallel.spread import Spread
from fastpde.run.trajectory_file import (
    CHUNK,
    LARGEST,
    Altered,
    FileWriter,
    author,
    checked,
    dimension,
    early,
    name_axes,
    opened,
)

Array = np.ndarray[Any, Any]
_BOUNDARIES = 4096  # HDF5 attributes hold at most 64 KiB
_POSITION = "particles/tokens/position"
POSITION = f"{_POSITION}/value"  # the dataset of the tokens
_TIMES = 1024  # entries of step and time per chunk
_AHEAD = 4096  # chunks that are laid out at a time; a run that needs more extends the file now and then


def _chunk(m: int, d: int, itemsize: int) -> tuple[int, int, int]:
    """Return the shape (frames, tokens, d) of a chunk."""
    frame = m * d * itemsize
    return max(1, min(_TIMES, CHUNK // frame)), min(m, max(1, LARGEST // (d * itemsize))), d


class TrajectoryWriter(FileWriter):
    """A file to which frames of the tokens `ids` are appended; the operating system has a frame once `store` ends."""

    def __init__(self, path: Path, ids: Array, like: Array, *, frames: int, version: str) -> None:
        """Make the file for tokens of the dtype and the dimension of `like` (any, d); `frames` are expected, more may
        come.
        """
        self._begin(ids, like, frames)
        d, itemsize = like.shape[1], like.dtype.itemsize
        super().__init__(path, self._block * len(ids) * d * itemsize)
        with self._storing():
            self._layout(d, like.dtype, _chunk(len(ids), d, itemsize), version)

    def _begin(self, ids: Array, like: Array, frames: int) -> None:
        self._ids, self._count, self._chain = ids, 0, Chain()
        chunk = _chunk(len(ids), like.shape[1], like.dtype.itemsize)
        self._block = min(frames, chunk[0] * max(1, _AHEAD // math.ceil(len(ids) / chunk[1])))

    @classmethod
    def going_on(cls, path: Path, ids: Array, like: Array, *, frames: int, kept: dict[str, Any]) -> TrajectoryWriter:
        """Open the trajectory of an earlier part of the run, whose `mark` is `kept`; frames after it are discarded.

        Raises InputError if the frames before the mark were changed, OutputError.
        """
        with opened(path) as file:  # to read: one that is refused is left as it is
            values, times, steps = (checked(file, path, f"{_POSITION}/{name}") for name in ("value", "time", "step"))
            stored = checked(file, path, "particles/tokens/id")
            shape, count = (len(ids), like.shape[1]), kept["frames"]
            if stored.shape != ids.shape or (stored[:] != ids).any() or values.shape[1:] != shape:
                raise Altered(path, "the tokens are others")
            if values.dtype != like.dtype or min(map(len, (values, times, steps))) < count:
                raise Altered(path, f"fewer than {count} frames of {like.dtype}")
            chain = Chain.over(times[:count], values)
            counted = (steps[:count] == np.arange(count)).all()
        if chain.digest() != kept["digest"] or not counted:
            raise Altered(path, f"the first {count} frames were changed")
        writer = cls.__new__(cls)
        writer._begin(ids, like, frames)
        FileWriter.__init__(writer, path, None)
        with writer._storing():
            writer._value, writer._time, writer._step = (
                writer._file[f"{_POSITION}/{name}"] for name in ("value", "time", "step")
            )
            # Overwritten, not cut off: a kill in between changes only frames that are to be discarded.
            writer._time[count:], writer._step[count:] = np.nan, -1
            writer._file.flush()
        writer._count, writer._chain = count, chain
        return writer

    def mark(self) -> dict[str, Any]:
        """Return the number of frames, and their digest."""
        return {"frames": self._count, "digest": self._chain.digest()}

    def _layout(self, d: int, dtype: Any, chunk: tuple[int, int, int], version: str) -> None:
        root = self._file.create_group("h5md")
        root.attrs["version"] = np.array([1, 1], dtype=np.int32)
        root.create_group("author").attrs["name"] = author()
        creator = root.create_group("creator")
        creator.attrs["name"], creator.attrs["version"] = "fastpde", version
        tokens = self._file.create_group("particles/tokens")
        box = tokens.create_group("box")
        box.attrs["dimension"], box.attrs["boundary"] = np.int32(d), ["none"] * min(d, _BOUNDARIES)
        ids = tokens.create_dataset("id", data=self._ids)
        position = tokens.create_group("position")
        shape = (self._block, len(self._ids), d)
        many = {"chunks": (_TIMES,), "maxshape": (None,), "dcpl": early(True)}
        self._value = position.create_dataset(
            "value", shape, dtype, chunks=chunk, maxshape=(None, *shape[1:]), dcpl=early(False)
        )
        self._step = position.create_dataset("step", shape[:1], np.int64, fillvalue=-1, **many)
        many["dcpl"] = early(True)
        self._time = position.create_dataset("time", shape[:1], np.float64, fillvalue=np.nan, **many)
        self._time.make_scale("time")
        token, coordinate = dimension(tokens, "token", shape[1]), dimension(tokens, "coordinate", d)
        name_axes(ids, token)
        name_axes(self._step, self._time)
        name_axes(self._value, self._time, token, coordinate)
        self._file.flush()  # before `ids` closes: a failed write there would go unseen, and HDF5 crash later

    def _resize(self, frames: int) -> None:
        for dataset in (self._value, self._step, self._time):
            dataset.resize(frames, axis=0)

    def store(self, t: float, stored: Array | Spread) -> None:
        """Store a frame of the tokens `ids`, (m, d), which may be spread over ranks. Raises OutputError."""
        frame, place = self._count, 0
        self._chain.begin(t)
        with self._storing():
            if frame == len(self._time):
                self._resize(frame + self._block)
                self._file.flush()
            for piece in stored.lines() if isinstance(stored, Spread) else [stored]:
                self._value[frame, place : place + len(piece)] = piece
                self._chain.take(piece)
                place += len(piece)
            self._file.flush()  # the tokens before the time that vouches for them
            self._step[frame], self._time[frame] = frame, t
            self._file.flush()
        self._count += 1

    def _cut(self) -> None:
        if self._count < len(self._time):
            self._resize(self._count)


class Chain:
    """A digest of frames, in their order."""

    def __init__(self) -> None:
        self._state = hashlib.blake2b(digest_size=16)

    @staticmethod
    def over(times: Array, values: Any) -> Chain:
        """Return the digest of stored frames: values (>= f, m, d) at times (f,)."""
        chain = Chain()
        for frame, t in enumerate(times):
            chain.add(t, values[frame])
        return chain

    def add(self, t: float, x: Array) -> None:
        """Add the frame x (m, d) of time t."""
        self.begin(t)
        self.take(x)

    def begin(self, t: float) -> None:
        """Add the time of the next frame."""
        self._state.update(np.array(t, "<f8").tobytes())

    def take(self, x: Array) -> None:
        """Add the next tokens (k, d) of the frame."""
        data: Any = np.ascontiguousarray(x, x.dtype.newbyteorder("<")).reshape(-1).view(np.uint8)
        self._state.update(data)

    def digest(self) -> str:
        """Return the digest so far."""
        return self._state.hexdigest()


def frames_digest(path: Path, count: int) -> str:
    """Return the digest of the first `count` frames of a file; "" if they are not numbered. Raises InputError."""
    with opened(path) as file:
        if not np.array_equal(file[f"{_POSITION}/step"][:count], np.arange(count)):
            return ""
        return Chain.over(_times(file, path)[:count], file[f"{_POSITION}/value"]).digest()


def read_ids(path: Path) -> Array:
    """Return the indices (m,) of the stored tokens. Raises InputError."""
    with opened(path) as file:
        return np.asarray(checked(file, path, "particles/tokens/id")[:])


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


def read_layout(path: Path) -> tuple[Array, Array, tuple[int, ...], Any]:
    """Return the times (f,) of all whole frames, the indices (m,) of the stored tokens, and the shape (f, m, d) and the
    dtype of their positions. Raises InputError if the file is no trajectory.
    """
    with opened(path) as file:
        times, value = _times(file, path), file[POSITION]
        return times, file["particles/tokens/id"][:], (len(times), *value.shape[1:]), value.dtype


def _times(file: h5py.File, path: Path) -> Array:
    try:
        position = file[_POSITION]
        count = min(len(position[name]) for name in ("step", "time", "value"))
        times = position["time"][:count]
    except (KeyError, TypeError, AttributeError):
        raise InputError("trajectory", str(path), "an H5MD file with particles/tokens/position") from None
    return times[np.isfinite(times)]


def read_trajectory(path: Path, *, frames: Any = None, max_tokens: int | None = None) -> Trajectory:
    """Return a trajectory, or only some `frames` of it (indices), of at most `max_tokens` tokens, chosen
    at random.

    Raises InputError if the file is no trajectory. A file whose writer is still running or was killed can be
    read.
    """
    with opened(path) as file:
        times = _times(file, path)
        chosen = range(len(times)) if frames is None else frames
        tokens = file["particles/tokens"]
        ids = tokens["id"][:]
        some = initial.some_of(len(ids), max_tokens)
        value = tokens["position/value"]
        kept = np.empty((len(chosen), len(some), value.shape[2]), dtype=value.dtype)
        for i, frame in enumerate(chosen):
            kept[i] = value[frame][some]
        return Trajectory(times[list(chosen)], kept, ids[some])
