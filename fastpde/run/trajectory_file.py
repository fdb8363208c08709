"""What every HDF5 file of a run shares: it is laid out when it is made, and an error of writing or a kill does no harm.

The places of all data are laid out at once (sparse: they take no room on the disk before they are written), so storing
something changes no structure of the file, it only fills bytes in.
"""

from __future__ import annotations

import getpass
import os
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

import h5py

from fastpde.errors import InputError
from fastpde.run.directory import writing

CHUNK = 2**18  # bytes: small pieces share a chunk, and a flush rewrites at most this much of old ones
LARGEST = 2**30  # bytes of a chunk: HDF5 allows 4 GiB
_LEFT: list[FileWriter] = []  # files that cannot even be closed; the command leaves without HDF5's attempt to


def author() -> str:
    """Return the name of the user, if there is one."""
    try:
        return getpass.getuser()
    except (KeyError, OSError, ImportError):  # a user id without a name, as in containers
        return "unknown"


def early(fill: bool) -> Any:
    """Return dataset properties that give every chunk its place at once, filled or left as holes."""
    properties = h5py.h5p.create(h5py.h5p.DATASET_CREATE)
    properties.set_alloc_time(h5py.h5d.ALLOC_TIME_EARLY)
    properties.set_fill_time(h5py.h5d.FILL_TIME_ALLOC if fill else h5py.h5d.FILL_TIME_NEVER)
    return properties


def opened(path: Path) -> h5py.File:
    """Open a file to read it. Raises InputError."""
    try:
        return h5py.File(path, "r", locking=False)
    except OSError as error:
        raise InputError("trajectory", f"{path} ({error})", "an HDF5 file that can be read") from None


def same(path: Path, what: str) -> InputError:
    """Return the error that says that a file is not what its run has written."""
    remedy = "Put it back, or remove the directory to begin again; nothing in it was changed."
    return InputError("--out", f"{path}: {what}", "the file as the run has left it", remedy)


def checked(file: h5py.File, path: Path, name: str) -> h5py.Dataset:
    """Return a dataset that lies in the file itself, without filters. Raises InputError."""
    place = file
    for part in name.split("/"):
        if not isinstance(place, h5py.Group) or not isinstance(place.get(part, getlink=True), h5py.HardLink):
            raise same(path, f"no {name} in it")
        place = place[part]
    properties = place.id.get_create_plist() if isinstance(place, h5py.Dataset) else None
    if properties is None or properties.get_external_count() or properties.get_nfilters():
        raise same(path, f"{name} is no plain data")
    return place


class FileWriter:
    """An HDF5 file to be filled. Subclasses lay it out, store their pieces and `_cut` what never came."""

    def __init__(self, path: Path, size: int | None) -> None:
        """Make the file, if the disk allows one of `size` bytes; None: open the one there is. Raises OutputError."""
        self._path, self._broken = path, False
        with writing("the trajectory", path):
            if size is not None:
                self._probe(size)
            # No lock: readers may look while the run goes on, and many cluster file systems have none to
            # give.
            self._file = h5py.File(path, "r+" if size is None else "w", locking=False)

    def _probe(self, size: int) -> None:
        """Try a file of this size, as holes: limits on file sizes are met here and not inside HDF5."""
        with self._path.open("xb") as file:
            file.truncate(size)

    @contextmanager
    def _storing(self) -> Iterator[None]:
        """Errors become OutputError; after one, let HDF5 close what it holds without writing to the disk again.

        It would try to write what it could not, once more at the interpreter's exit, and crash there. So its
        descriptor is given a file in memory instead: what the disk has stays as it was after the last flush.
        """
        with writing("the trajectory", self._path):
            try:
                yield
            except (OSError, RuntimeError, ValueError):
                self._broken = True
                self._let_go()
                raise

    def _let_go(self) -> None:
        """Close a file that cannot be written, without harm to what the disk has."""
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
        """Cut off what never came."""
        raise NotImplementedError

    def sync(self) -> None:
        """Return when the disk has everything. Raises OutputError."""
        with self._storing():
            self._file.flush()
            os.fsync(self._file.id.get_vfd_handle())

    def close(self, *, cut: bool = True) -> None:
        """Close the file; again is harmless. What never came is cut off, if nobody is to go on. Raises OutputError."""
        if self._broken:
            return
        with self._storing():
            if self._file and cut:
                self._cut()
            self._file.close()
