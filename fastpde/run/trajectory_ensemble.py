"""The states of an ensemble as an HDF5 file that stays readable whenever the writer is killed.

    attributes            kind ("ensemble"), creator, version, author, systems (asked for), events (their names)
    /time                 (m,) times of the output
    /token_id             (k,) index of each stored token
    /position             (m, S, k, d) tokens of system s at each time, nan after its end
    /position_final       (S, k, d) its last state, at t_final, which an event may have put between two times
    /t_final              (S,)
    /status               (S,) codes; the attribute `names` holds their names, 0 is a system that did not run
    /steps, /rejected     (S,)
    /event_time/NAME      (S,) when the event happened, nan where it never did
    /observables          (m, S, c) moments of all tokens; the attribute `columns` holds their names
    /observable           (c,) these names; with /time and, without values, /system, /token and /coordinate an HDF5
                          dimension scale: they name the axes

Systems are stored in blocks. Until a block is whole the status of its systems is 0. Systems that never came are removed
when the file is closed, and left out by `read_ensemble`.
"""

from __future__ import annotations

import hashlib
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fastpde import initial
from fastpde.errors import InputError
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
KIND = "ensemble"
NOT_RUN = "not_run"
NAMES = (
    NOT_RUN,
    *("completed", "event", "steady_state", "blow_up", "collapsed"),
    *("max_steps", "step_too_small", "not_finite", "interrupted", "not_converged"),
)


@dataclass(frozen=True)
class Block:
    """A block of B systems: `x` (m, B, k, d), `x_final` (B, k, d), `t_final` (B,), names of statuses, steps and
    rejected (B,), event times (B,) by name, observables (m, B, c).
    """

    x: Array
    x_final: Array
    t_final: Array
    status: list[str]
    steps: Array
    rejected: Array
    events: dict[str, Array]
    observables: Array


def _chunk(shape: tuple[int, ...], itemsize: int) -> tuple[int, ...]:
    """Return the shape of a chunk of a dataset (times, systems, ...): whole systems where they fit, otherwise one
    system at some of the times.
    """
    frame = max(1, int(np.prod(shape[2:])) * itemsize)
    systems = min(shape[1], max(1, CHUNK // (shape[0] * frame)))
    tokens = tuple(min(length, LARGEST // itemsize) for length in shape[2:])
    return (min(shape[0], max(1, LARGEST // frame)), systems, *tokens)


class EnsembleWriter(FileWriter):
    """A file to which blocks of systems are appended; the operating system has a block once `append` ends.

    It has all of its datasets open as long as itself: one that closes writes what it has not written yet, and if that
    fails, nobody hears of it and HDF5 crashes later.
    """

    def __init__(
        self,
        path: Path,
        ids: Array,
        times: Array,
        *,
        systems: int,
        like: Array,
        events: dict[str, float],
        columns: list[str],
        version: str,
    ) -> None:
        """Make the file for `systems` systems; `like` (any, any, d) has the dtype and the dimension of the tokens."""
        self._count, self._systems, self._chain = 0, systems, _Chain()
        self._each: dict[str, int] = {}  # the axis of the systems of each dataset
        self._open: dict[str, h5py.Dataset] = {}
        shape = (len(times), systems, len(ids), like.shape[2])
        super().__init__(path, int(np.prod(shape)) * like.dtype.itemsize)
        with self._storing():
            root = self._file.attrs
            root["kind"], root["creator"], root["version"], root["author"] = KIND, "fastpde", version, author()
            root["systems"], root["events"] = systems, list(events) or h5py.Empty("S1")
            given = {"time": times, "token_id": ids}
            whole = {name: self._file.create_dataset(name, data=values) for name, values in given.items()}
            self._states("position", shape, like.dtype)
            self._states("position_final", shape[1:], like.dtype)
            self._states("observables", (*shape[:2], len(columns)), np.dtype(np.float64))
            self._open["observables"].attrs["columns"] = columns
            for name in ("t_final", *(f"event_time/{event}" for event in events)):
                self._numbers(name, np.float64, np.nan)
            for name, dtype in (("steps", np.int64), ("rejected", np.int64), ("status", np.uint8)):
                self._numbers(name, dtype, 0)
            self._open["status"].attrs["names"] = list(NAMES)
            self._name_axes(shape, columns, whole["time"], whole["token_id"])

    @classmethod
    def going_on(cls, path: Path, ids: Array, times: Array, *, systems: int, kept: dict[str, Any]) -> EnsembleWriter:
        """Open the file of an earlier part of the run, whose `mark` is `kept`; systems after it are discarded.

        Raises InputError if the systems before the mark, tokens or times were changed, OutputError.
        """
        stored = read_axes(path)
        if not (np.array_equal(stored[0], times) and np.array_equal(stored[1], ids)):
            raise Altered(path, "the times or the tokens are others")
        chain, count = check(path, systems, kept), kept["systems"]
        writer = cls.__new__(cls)
        writer._count, writer._systems, writer._chain = count, systems, chain
        FileWriter.__init__(writer, path, None)
        with writer._storing():
            writer._each = dict(_axes(writer._file))
            writer._open = {name: writer._file[name] for name in writer._each}
            writer._open["status"][count:] = 0
            writer._file.flush()
        return writer

    def mark(self) -> dict[str, Any]:
        """Return the number of stored systems, and their digests."""
        return {"systems": self._count, **self._chain.digests()}

    def _states(self, name: str, shape: tuple[int, ...], dtype: Any) -> None:
        axis = len(shape) - (2 if name == "observables" else 3)
        chunk = _chunk(shape if axis else (1, *shape), dtype.itemsize)[1 - axis :]
        self._each[name] = axis
        self._open[name] = self._file.create_dataset(
            name, shape, dtype, chunks=chunk, maxshape=shape, dcpl=early(False)
        )

    def _numbers(self, name: str, dtype: Any, fill: float) -> None:
        shape, chunk = (self._systems,), (min(self._systems, CHUNK // 8),)
        self._each[name] = 0
        self._open[name] = self._file.create_dataset(
            name, shape, dtype, chunks=chunk, maxshape=shape, fillvalue=fill, dcpl=early(True)
        )

    def _name_axes(self, shape: tuple[int, ...], columns: list[str], time: h5py.Dataset, ids: h5py.Dataset) -> None:
        """Attach dimension scales to all datasets; shape: (m, S, k, d)."""
        file, sizes = self._file, dict(zip(("system", "token", "coordinate"), shape[1:], strict=True))
        names = file.create_dataset("observable", data=columns, dtype=h5py.string_dtype())
        for name, scale in {"time": time, "observable": names}.items():
            scale.make_scale(name)
        system, token, coordinate = (
            dimension(file, name, size, size if name == "system" else None) for name, size in sizes.items()
        )
        tokens = system, token, coordinate
        name_axes(ids, token)
        for name, axis in self._each.items():
            name_axes(self._open[name], *(time,) * axis, *(tokens if name.startswith("position") else (system,)))
        self._open["observables"].dims[2].attach_scale(names)
        file.flush()  # before the scales close

    def append(self, block: Block) -> None:
        """Store the next block of systems. Raises OutputError."""
        place = slice(self._count, self._count + len(block.t_final))
        data: dict[str, Array] = {"position": block.x, "position_final": block.x_final}
        data |= {"observables": block.observables, "t_final": block.t_final}
        data |= {"steps": block.steps, "rejected": block.rejected}
        data |= {f"event_time/{name}": times for name, times in block.events.items()}
        data["status"] = np.array([NAMES.index(name) for name in block.status], np.uint8)
        data = {name: np.asarray(data[name], self._open[name].dtype) for name in data}
        with self._storing():
            for name, array in data.items():
                if name == "status":
                    self._file.flush()  # the states before the status that vouches for them
                self._open[name][_at(self._each[name], place)] = array
            self._file.flush()
        self._chain.take(data, self._each)
        self._count = place.stop

    def _cut(self) -> None:
        if self._count < self._systems:
            for name, axis in self._each.items():
                self._open[name].resize(self._count, axis=axis)
            if "system" in self._file:  # the name of the axis; earlier versions had none
                self._file["system"].resize(self._count, axis=0)


_VOUCHED = ("position_final", "t_final", "status", "steps")  # all that the digest of earlier versions covers


_AT_ONCE = 2**24  # bytes of systems that are read at a time


def _at(axis: int, place: slice) -> tuple[slice, ...]:
    """Return the index of the systems `place` along an axis."""
    return (*[slice(None)] * axis, place)


class _Chain:
    """The digests of the first systems of a file: of some of their data, as of earlier versions, and of all."""

    def __init__(self) -> None:
        self._some, self._all = hashlib.blake2b(digest_size=16), hashlib.blake2b(digest_size=16)

    def take(self, data: dict[str, Array], axes: dict[str, int]) -> None:
        """Add the next systems; `axes` are those of the systems in each array."""
        rows = {name: np.moveaxis(data[name], axes[name], 0) for name in sorted(data)}
        for system in range(len(rows["status"])):
            own = {name: np.ascontiguousarray(array[system]).tobytes() for name, array in rows.items()}
            for name in own:
                self._all.update(own[name])
            for name in _VOUCHED:
                self._some.update(own[name])

    def digests(self) -> dict[str, str]:
        """Return both digests."""
        return {"digest": self._some.hexdigest(), "all": self._all.hexdigest()}


def check(path: Path, systems: int, kept: dict[str, Any]) -> _Chain:
    """Return the digests of the first systems; raise InputError if they are not those of the mark `kept`."""
    count, chain = kept["systems"], _Chain()
    with opened(path) as file:  # to read: one that is refused is left as it is
        axes = dict(_axes(file))
        found = {name: checked(file, path, name) for name in axes}
        if file.attrs.get("systems") != systems or min(len(found[name]) for name in _VOUCHED) < count:
            raise Altered(path, f"fewer than {count} of {systems} systems")
        step = max(1, _AT_ONCE // max(1, found["position"][:, :1].nbytes))
        for start in range(0, count, step):
            place = slice(start, min(start + step, count))
            chain.take({name: found[name][_at(axis, place)] for name, axis in axes.items()}, axes)
    digests = chain.digests()
    if any(kept[name] != digests[name] for name in digests.keys() & kept.keys()):
        raise Altered(path, f"the first {count} systems were changed")
    return chain


def _axes(file: h5py.File) -> Iterator[tuple[str, int]]:
    """Yield the name of each dataset that has an axis of systems, and this axis."""
    yield from (("position", 1), ("position_final", 0), ("observables", 1))
    yield from ((name, 0) for name in ("t_final", "steps", "rejected", "status"))
    yield from ((f"event_time/{name}", 0) for name in file.get("event_time", {}))


@dataclass(frozen=True)
class EnsembleData:
    """The results of the S systems that are done: `time` (m,), `t_final` (S,), names of statuses, event times (S,) by
    name, observables (m, S) by name, nan after a system's end; the number of systems that were asked for; numbers of
    steps accepted and rejected (S,).
    """

    asked: int
    time: Array
    t_final: Array
    status: tuple[str, ...]
    events: dict[str, Array]
    observables: dict[str, Array]
    steps: Array
    rejected: Array


def read_layout(path: Path) -> tuple[Array, Array, tuple[int, ...], Any]:
    """Return the times (m,), the indices (k,) of the stored tokens, and the shape (m, S, k, d) and the dtype of the
    states of the S systems that are done. Raises InputError if the file is no ensemble.
    """
    with opened(path) as file:
        done, states = _done(file, path), file["position"]
        shape = (states.shape[0], done, *states.shape[2:])
        return file["time"][:], file["token_id"][:], shape, states.dtype


def read_ensemble(path: Path) -> EnsembleData:
    """Read everything but the tokens and return it. Raises InputError if the file is no ensemble.

    A file whose writer is still running or was killed can be read.
    """
    with opened(path) as file:
        done = _done(file, path)
        names = [str(name) for name in file["status"].attrs["names"]]
        events = {name: times[:done] for name, times in file.get("event_time", {}).items()}
        columns = [str(name) for name in file["observables"].attrs["columns"]]
        table = file["observables"][:, :done]
        return EnsembleData(
            int(file.attrs["systems"]),
            file["time"][:],
            file["t_final"][:done],
            tuple(names[code] for code in file["status"][:done]),
            events,
            {name: table[:, :, i] for i, name in enumerate(columns)},
            file["steps"][:done],
            file["rejected"][:done],
        )


def read_axes(path: Path) -> tuple[Array, Array]:
    """Return the times (m,) of the output, and the indices (k,) of the stored tokens. Raises InputError."""
    with opened(path) as file:
        return checked(file, path, "time")[:], checked(file, path, "token_id")[:]


def is_labelled(path: Path) -> bool:
    """Return whether the names of observables that netCDF shows are the columns; earlier versions had none."""
    with opened(path) as file:
        columns = [str(name) for name in file["observables"].attrs["columns"]]
        return "observable" not in file or file["observable"].asstr()[:].tolist() == columns


def read_ends(path: Path, systems: list[int], max_tokens: int) -> tuple[Array, Array]:
    """Return the first and the last state (s, k, d) of some systems that are done, of at most `max_tokens` tokens."""
    with opened(path) as file:
        _done(file, path)
        some = initial.some_of(len(file["token_id"]), max_tokens)
        first = [file["position"][0, s][some] for s in systems]
        last = [file["position_final"][s][some] for s in systems]
        return np.array(first), np.array(last)


def _done(file: h5py.File, path: Path) -> int:
    """Return the number of systems that are stored whole. Raises InputError."""
    if file.attrs.get("kind") != KIND or "status" not in file:
        raise InputError("ensemble", str(path), "the ensemble.h5 of a run")
    status = file["status"][:]
    return int(np.argmin(status != 0)) if (status == 0).any() else len(status)
