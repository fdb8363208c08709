"""One writer per run directory: a lock file that names its host and process; a dead process keeps no lock.

The operating system releases the lock (flock) when its process ends. On file systems without such locks, or with locks
that each host sees alone, the content of the file decides. A holder counts as dead if it is a process of this host that
does not exist, a process of another host that has given no sign of life for a while, or an earlier part of the same
SLURM job.
"""

from __future__ import annotations

import errno
import fcntl
import glob
import json
import os
import platform
import shutil
import time
from contextlib import suppress
from pathlib import Path
from typing import Any

from fastpde.errors import InputError
from fastpde.run.directory import own, writing

NAME = "lock"
_SILENT = 600.0  # seconds after which a holder on another host is taken for dead
_BEAT = 30.0  # seconds between its signs of life
_JOB = "SLURM_JOB_ID"
_REMEDY = "Wait for it, or stop it; if it is dead, remove the file lock in the directory."


class RunLock:
    """The lock of a run directory, held until `release` or the end of the process."""

    def __init__(self, folder: Path) -> None:
        """Acquire the lock. Raises InputError that names the holder, OutputError if the lock file cannot be made."""
        self._path = folder / NAME
        self._beaten = time.monotonic()
        with writing("the lock", self._path):
            self._file = self._locked()
            self._say()

    def _locked(self) -> int:
        """Open and lock the lock file, and return its descriptor. Try again if the file was removed in between, so that
        the locked file is the one that has the name.
        """
        while True:
            file = own(self._path, os.O_RDWR | os.O_CREAT, 0o644)
            try:
                self._lock(file)
                with suppress(FileNotFoundError):
                    if os.fstat(file).st_ino == os.stat(self._path).st_ino:
                        return file
            except BaseException:
                os.close(file)
                raise
            os.close(file)

    def _lock(self, file: int) -> None:
        try:
            fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
            sure = True
        except OSError as error:
            if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
                raise _busy(self._path, holder(self._path)) from None
            sure = False  # the file system has no such locks
        found = holder(self._path)
        if found and _alive(found, self._path, sure):
            raise _busy(self._path, found)

    def _say(self) -> None:
        mine = {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get(_JOB)}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(mine).encode(), 0)

    def beat(self) -> None:
        """Touch the lock file, a sign of life for other hosts, if the last one is more than `_BEAT` seconds ago."""
        if time.monotonic() - self._beaten > _BEAT:
            self._beaten = time.monotonic()
            with suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Remove the lock file and close it; a second call does nothing."""
        if self._file >= 0:
            with suppress(OSError):
                if os.fstat(self._file).st_ino == os.stat(self._path).st_ino:
                    os.unlink(self._path)
            os.close(self._file)
            self._file = -1

    def moved(self, folder: Path) -> None:
        """Note that the run directory was renamed to `folder`."""
        self._path = folder / NAME


def holder(path: Path) -> dict[str, Any]:
    """Return the content of a lock file (host, pid, job), {} if it cannot be read."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def held(folder: Path) -> dict[str, Any]:
    """Return the holder of the lock of a run directory, as far as can be seen from here; {} if nobody holds it."""
    path = folder / NAME
    found = holder(path)
    try:
        file = os.open(path, os.O_RDONLY)
    except OSError:
        return {}
    try:
        fcntl.flock(file, fcntl.LOCK_SH | fcntl.LOCK_NB)
        sure = True
    except OSError as error:
        if error.errno in (errno.EWOULDBLOCK, errno.EACCES):
            return found
        sure = False
    finally:
        os.close(file)
    return found if found and _alive(found, path, sure) else {}


def clean_stages(target: Path) -> None:
    """Remove the half-made run directories that dead processes have left beside the run directory `target`."""
    for stage in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        file = stage / NAME
        with suppress(OSError):  # no lock file: a process is about to make it
            said = bool(holder(file)) or time.time() - file.stat().st_mtime > _SILENT
            if said and not held(stage):
                for other in stage.iterdir():
                    if other != file:
                        other.unlink()
                shutil.rmtree(stage)  # the lock file last: if this is cut short, the rest can still be recognised


def _alive(found: dict[str, Any], path: Path, sure: bool) -> bool:
    """Return whether the holder `found` may be alive.

    `sure`: the operating system has given us the lock of the file, as opposed to a file system that has no locks.
    """
    job = os.environ.get(_JOB)
    if job and found.get("job") == job:
        return False
    if found.get("host") != platform.node():
        try:
            return time.time() - path.stat().st_mtime < _SILENT
        except OSError:
            return False
    pid = found.get("pid")
    if sure or not isinstance(pid, int) or pid <= 0 or pid == os.getpid():
        return False
    try:
        os.kill(pid, 0)
    except ProcessLookupError:
        return False
    except OSError:
        return True
    return True


def _busy(path: Path, found: dict[str, Any]) -> InputError:
    who = f"process {found.get('pid', 'unknown')} on {found.get('host', 'an unknown host')}"
    return InputError("--out", f"{path.parent}, where {who} is at work", "a directory that nobody writes to", _REMEDY)
