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


class FileWriter:
    """An HDF5 file to be filled. Subclasses lay it out, store their pieces and `_cut` what never came."""

    def __init__(self, path: Path, size: int) -> None:
        """Make the file, if the disk allows one of `size` bytes. Raises OutputError."""
        self._path, self._broken = path, False
        with writing("the trajectory", path):
            self._probe(size)
            # No lock: readers may look while the run goes on, and many cluster file systems have none to
            # give.
            self._file = h5py.File(path, "w", locking=False)

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
                if hasattr(os, "memfd_create"):
                    memory = os.memfd_create("fastpde")
                    os.dup2(memory, self._file.id.get_vfd_handle())
                    os.close(memory)
                with suppress(OSError, RuntimeError, ValueError):
                    self._file.close()
                raise

    def _cut(self) -> None:
        """Cut off what never came."""
        raise NotImplementedError

    def close(self) -> None:
        """Cut off what never came and close the file; again is harmless. Raises OutputError."""
        if self._broken:
            return
        with self._storing():
            if self._file:
                self._cut()
            self._file.close()
