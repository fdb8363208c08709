"""The common part of the HDF5 files of a run: laid out when they are made, unharmed by a failed write or a kill.

The places of all data are laid out at once (sparse: they take no room on the disk before they are written), so storing
data fills in bytes and does not change the structure of the file.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py
import numpy as np

from fastpde.errors import InputError
from fastpde.run.directory import writing

CHUNK = 2**18  # bytes: small pieces share a chunk, and a flush rewrites at most this much of old ones
LARGEST = 2**30  # bytes of a chunk: HDF5 allows 4 GiB
_LEFT: list[FileWriter] = []  # files that cannot be closed; the command exits without HDF5's attempt to close them


def author() -> str:
    """Return the name of the user, "unknown" if there is none."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name, as in containers
        return "unknown"


def early(fill: bool) -> Any:
    """Return dataset properties that give every chunk its place in the file at once, filled or left as holes."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_ALLOC if fill else h5py.h5d.FILL_TIME_NEVER)
    return properties


def dimension(group: h5py.Group, name: str, size: int, most: int | None = None) -> h5py.Dataset:
    """Make a dimension scale without values, a netCDF dimension that is no variable, and return it.

    It takes no room on the disk. With `most` it can be resized up to this length.
    """
    more = {} if most is None else {"chunks": (min(max(size, 1), CHUNK // 4),), "maxshape": (most,)}
    scale = group.create_dataset(name, (size,), np.dtype(">f4"), **more)
    scale.make_scale(f"This is a netCDF dimension but not a netCDF variable.{size:10d}")
    return scale


def name_axes(dataset: h5py.Dataset, *scales: h5py.Dataset) -> None:
    """Attach a dimension scale to each axis of a dataset: xarray and netCDF name the axis after it."""
    for axis, scale in enumerate(scales):
        dataset.dims[axis].attach_scale(scale)


def opened(path: Path) -> h5py.File:
    """Open a file for reading. Raises InputError."""
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError("trajectory", f"{path} ({error})", "an HDF5 file that can be read") from None


def open_all(path: Path) -> None:
    """Open every object of a file, also those of which no result is made. Raises InputError where one is damaged."""
    with opened(path) as file:
        try:
            file.visititems(lambda name, item: None)
        except (KeyError, OSError, RuntimeError, ValueError) as error:
            reason = str(error).split(" (")[0]  # what follows are places in the file
            raise Altered(path, f"not all of it can be read: {reason}") from None


class Altered(InputError):
    """The error of a file that is not what its run has written. `found` names the file and says what the difference is;
    the text is for who wants to go on with the run.
    """

    def __init__(self, path: Path, what: str) -> None:
        came = f"{path.parent}, in which {path.name} was altered: {what}"
        remedy = "Put it back, or remove the directory to begin again; nothing in it was changed."
        super().__init__("--out", came, "the file as the run has left it", remedy)
        self.found = f"{path.name}: {what}"


def checked(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """Return a dataset that lies in the file itself, without filters or links. Raises InputError for any other."""
    place = file
    for part in name.split("/"):
        if not isinstance(place, h5py.Group) or not isinstance(place.get(part, getlink=True), h5py.HardLink):
            raise Altered(path, f"no {name} in it")
        place = place[part]
    properties = place.id.get_create_plist() if isinstance(place, h5py.Dataset) else None
    if properties is None or properties.get_external_count() or properties.get_nfilters():
        raise Altered(path, f"{name} is no plain data")
    return place


class FileWriter:
    """An HDF5 file that is filled piece by piece. Subclasses lay it out, store data, and `_cut` what was not filled."""

    def __init__(self, path: Path, size: int | None) -> None:
        """Make the file if the disk allows `size` bytes; open the existing one if that is None. Raises OutputError."""
        self._path, self._broken = path, False
        with writing("the trajectory", path):
            if size is not None:
                self._probe(size)
            # No lock: readers may look while the run goes on, and many cluster file systems have none to
            # give.
            self._file = h5py.File(path, "r+" if size is None else "w", locking=False)

    def _probe(self, size: int) -> None:
        """Make a sparse file of this size, so that limits on file sizes are met here and not inside HDF5."""
        with self._path.open("xb") as file:
            file.truncate(size)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Turn errors into OutputError; after one, let HDF5 close the file without writing to the disk again.

        HDF5 would try the failed write again, once more at the interpreter's exit, and crash there. So its descriptor
        is replaced by a file in memory: the disk keeps what it had after the last flush.
        """
        with writing("the trajectory", self._path):
            try:
                yield
            except (OSError, RuntimeError, ValueError):
                self._broken = True
                self._let_go()
                raise

    def _let_go(self) -> None:
        """Close a file that cannot be written, without harm to what is on the disk."""
        place, room = self._file.id.get_vfd_handle(), True
        if hasattr(os, "memfd_create"):
            memory = os.memfd_create("fastpde")
            try:
                os.ftruncate(memory, os.fstat(place).st_size + LARGEST)
                os.ftruncate(memory, 0)
            except OSError:  # limits on the sizes of files hold in memory, too
                room = False
            os.dup2(memory, place)
            os.close(memory)
        if not room:
            _LEFT.append(self)  # half closed, HDF5 would crash when it is collected
            return
        with suppress(OSError, RuntimeError, ValueError):
            self._file.close()

    def _cut(self) -> None:
        """Remove what was laid out but not filled."""
        raise NotImplementedError

    def sync(self) -> None:
        """Write everything to the disk. Raises OutputError."""
        with self._storing():
            self._file.flush()
            os.fsync(self._file.id.get_vfd_handle())

    def close(self, *, cut: bool = True) -> None:
        """Close the file; a second call does nothing. With `cut`, when the run will not go on, what was not filled is
        removed. Raises OutputError.
        """
        if self._broken:
            return
        with self._storing():
            if self._file and cut:
                self._cut()
            self._file.close()
