"""One writer per run directory: a lock that names its host and process, and that no dead process keeps.

The operating system drops the lock (flock) with the process. Where a file system has no such locks, or has them for
each host alone, what the file says decides: a process of this host that is not there holds nothing, nor does one of
another host that has given no sign of life for a while, nor an earlier part of the same SLURM job.
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
        """Take the lock. Raises InputError that names the holder; OutputError if there can be no such file."""
        self._path = folder / NAME
        self._beaten = time.monotonic()
        with writing("the lock", self._path):
            self._file = self._locked()
            self._say()

    def _locked(self) -> int:
        """Return the lock file, locked: the one that has the name, not one removed in between."""
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
            sure = False  # no such locks here
        found = holder(self._path)
        if found and _alive(found, self._path, sure):
            raise _busy(self._path, found)

    def _say(self) -> None:
        mine = {"host": platform.node(), "pid": os.getpid(), "job": os.environ.get(_JOB)}
        os.ftruncate(self._file, 0)
        os.pwrite(self._file, json.dumps(mine).encode(), 0)

    def beat(self) -> None:
        """Give a sign of life, now and then."""
        if time.monotonic() - self._beaten > _BEAT:
            self._beaten = time.monotonic()
            with suppress(OSError):
                os.utime(self._file)

    def release(self) -> None:
        """Remove the lock; again is harmless."""
        if self._file >= 0:
            with suppress(OSError):
                if os.fstat(self._file).st_ino == os.stat(self._path).st_ino:
                    os.unlink(self._path)
            os.close(self._file)
            self._file = -1

    def moved(self, folder: Path) -> None:
        """Take note that the directory has got its name."""
        self._path = folder / NAME


def holder(path: Path) -> dict[str, Any]:
    """Return what a lock file says, {} if nothing."""
    try:
        found = json.loads(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return {}
    return found if isinstance(found, dict) else {}


def held(folder: Path) -> dict[str, Any]:
    """Return who holds the lock of a run directory, as far as can be seen; {}: nobody."""
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
    """Remove what processes that died while they made the run directory `target` have left beside it."""
    for stage in target.parent.glob(f".{glob.escape(target.name)}.*.tmp"):
        file = stage / NAME
        with suppress(OSError):  # without a lock, somebody is about to take it
            said = bool(holder(file)) or time.time() - file.stat().st_mtime > _SILENT
            if said and not held(stage):
                for other in stage.iterdir():
                    if other != file:
                        other.unlink()
                shutil.rmtree(stage)  # the lock at the end: what is left on the way can be told, too


def _alive(found: dict[str, Any], path: Path, sure: bool) -> bool:
    """Whether a holder may be alive, if the operating system has given us its lock (`sure`) or knows no locks."""
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
