"""The run directory: it appears whole, by one rename, and its status is replaced by one rename, never half written.

config.toml      the configuration as understood, defaults filled in
trajectory.h5    stored tokens, H5MD layout       observables.csv   moments of all tokens, one row per frame
status.json      state, time, rate, versions      log.txt           what happened when
checkpoint.0, .1 all that the run needs to go on  lock              who writes here now
ensemble.h5      several systems' tokens and ends, instead of trajectory.h5
systems.csv      one row per system: its end and the moments of its last state
positions.csv    the positions of the stored tokens, where they are given
clusters.csv     the largest clusters of every frame, where they are asked for
*.png, *.gif     the pictures
"""

from __future__ import annotations

import ast
import dataclasses
import errno
import hashlib
import json
import os
import re
import shutil
import tempfile
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from fastpde.config import Config, dumps, parse
from fastpde.errors import InputError

CONFIG, TRAJECTORY, OBSERVABLES, STATUS, LOG = (
    "config.toml",
    "trajectory.h5",
    "observables.csv",
    "status.json",
    "log.txt",
)
CHECKPOINTS = ("checkpoint.0", "checkpoint.1")
ENSEMBLE, SYSTEMS, POSITIONS = "ensemble.h5", "systems.csv", "positions.csv"
_IN_HDF5 = re.compile(r"error message = '([^']*)'")  # of the operating system, among addresses and offsets
_DATA = "(--data): "
FINISHED, RUNNING, FAILED, STOPPED = "finished", "running", "failed", "stopped"
REMEDY = "Give another --out, or remove the directory; nothing in it was changed."


class OutputError(OSError):
    """The error of an output that could not be written; the text says what, where and why."""


@contextmanager
def writing(what: str, path: Path) -> Iterator[None]:
    """Turn the errors of writing into an OutputError that names the file; HDF5 has several types for them."""
    try:
        yield
    except (OutputError, InputError):
        raise
    except (OSError, RuntimeError, ValueError) as error:
        reason = str(getattr(error, "strerror", None) or error)
        if system := _IN_HDF5.search(reason):
            reason = system[1]
        raise OutputError(f"{what} could not be written to {path}: {reason}") from error


def own(path: str | Path, flags: int, mode: int = 0o666) -> int:
    """Open a file of a run, as an `opener`. Raises OSError for a symbolic link: its target is not the run's."""
    try:
        return os.open(path, flags | os.O_NOFOLLOW, mode)
    except OSError as error:
        if error.errno != errno.ELOOP:
            raise
        raise OSError(error.errno, "it is a symbolic link") from None


def is_free(path: Path) -> bool:
    """Return whether a directory can be made at `path`: nothing is there, or an empty folder.

    Raises InputError for an empty folder that the rename of a finished directory cannot replace, or would take from
    under the shell that stands in it.
    """
    try:
        if not os.path.lexists(path):
            return True
        if not path.is_dir() or path.is_symlink() or any(path.iterdir()):
            return False
        kept = "the current folder" if path.samefile(os.curdir) else "a mount point" if path.is_mount() else ""
    except (OSError, ValueError):
        return False
    if kept:
        remedy = f"It is made elsewhere and renamed at once: name a folder to be made, as --out {path / 'NAME'}."
        raise InputError("--out", f"{path}, {kept}", "the name of a directory that can be replaced", remedy)
    return True


def is_finished(path: Path, config: Config) -> bool:
    """Return whether `path` holds the finished run of this very configuration; False if it can be made, or go on.

    Raises InputError for every other directory, which is left untouched.
    """
    if is_free(path):
        return False
    try:
        text = (path / CONFIG).read_text(encoding="utf-8")
        status = status_of(path)
    except (OSError, ValueError):
        raise InputError("--out", f"{path}, which is no run directory", "a new one", REMEDY) from None
    try:
        same = _physics(parse(text)) == _physics(config)
    except InputError:
        same = False
    if not same:
        came = f"{path}, a run of another configuration"
        raise InputError("--out", came, "a new directory, or that of the same configuration", REMEDY)
    return status.get("state") == FINISHED


def is_there(path: Path) -> bool:
    """Return whether `path` holds a run, finished or not."""
    return (path / CONFIG).exists()


def config_of(path: Path) -> Config:
    """Return the configuration of a run that is there, as it was understood. Raises OSError, InputError."""
    return parse((path / CONFIG).read_text(encoding="utf-8"))


def _physics(config: Config) -> Config:
    """Return the configuration without what may change from one part of a run to the next."""
    return dataclasses.replace(config, output=dataclasses.replace(config.output, checkpoint=1.0))


def status_of(path: Path) -> dict[str, Any]:
    """Return the status of a run directory; {} if it was destroyed or altered, but not the checkpoints."""
    try:
        found = read_status(path)
        if not is_sealed(found):
            raise ValueError(f"{STATUS} was altered")
        return found
    except (OSError, ValueError):
        if not any((path / name).exists() for name in CHECKPOINTS):
            raise
        return {}


def read_status(path: Path) -> dict[str, Any]:
    """Return the status of a run directory; raises OSError or ValueError if none can be read."""
    status = json.loads((path / STATUS).read_text(encoding="utf-8"))
    if not isinstance(status, dict):
        raise ValueError(f"{STATUS} is no table")
    return status


def write_status(path: Path, status: dict[str, Any]) -> None:
    """Replace status.json in one step; its entry `digest` is that of all others. Raises OutputError."""
    status = {**status, "digest": _seal(status)}
    replace("the status", path / STATUS, json.dumps(status, indent=2, allow_nan=False) + "\n")


def is_sealed(status: dict[str, Any]) -> bool:
    """Return whether a status is as it was written; those of earlier versions have no digest and count as such."""
    return "digest" not in status or status["digest"] == _seal(status)


def _seal(status: dict[str, Any]) -> str:
    plain = {name: value for name, value in status.items() if name != "digest"}
    return digest_of(json.dumps(plain, sort_keys=True))


def digest_of(text: str) -> str:
    """Return the digest of a text."""
    return hashlib.blake2b(text.encode(), digest_size=16).hexdigest()


def data_of(path: Path, status: dict[str, Any]) -> Path:
    """Return the folder of the files that a configuration reads."""
    if "data" in status:
        return Path(str(status["data"]))
    try:  # earlier versions had it in the first line of config.toml alone
        first = (path / CONFIG).read_text(encoding="utf-8").split("\n", 1)[0]
        return Path(ast.literal_eval(first.rsplit(_DATA, 1)[1]))
    except (OSError, IndexError, ValueError, SyntaxError):
        return Path()


def replace(what: str, target: Path, text: str) -> None:
    """Replace a text file in one step: a reader sees the old or the new one, whole. Raises OutputError."""
    with writing(what, target):
        temporary = target.with_name(target.name + ".tmp")
        with open(temporary, "w", encoding="utf-8", opener=own) as stream:
            stream.write(text)
        os.replace(temporary, target)


def refuse_links(path: Path) -> None:
    """Raise InputError if log.txt or status.json.tmp, which a run writes whatever they hold, is a symbolic link; the
    other files are compared before they are written.
    """
    for name in (LOG, f"{STATUS}.tmp"):
        if (path / name).is_symlink():
            came = f"{path}, in which {name} is a symbolic link"
            raise InputError("--out", came, "a directory whose files are its own", "Remove the link.")


class Watch:
    """A check that the files which a run has open keep their names: what is written to removed files is lost."""

    def __init__(self) -> None:
        self._files: dict[str, tuple[int, int]] = {}

    def check(self, path: Path) -> None:
        """Raise OutputError if a file is not the one of the first call."""
        # The observables of an ensemble are replaced with every block.
        pair = (TRAJECTORY, OBSERVABLES) if not (path / ENSEMBLE).exists() else (ENSEMBLE, SYSTEMS)
        for name in self._files or pair:
            with writing("the output", path / name):
                found = os.stat(path / name)
            if self._files.setdefault(name, (found.st_dev, found.st_ino)) != (found.st_dev, found.st_ino):
                raise OutputError(f"{path / name} was replaced by another file while the run was writing to it")


class Stage:
    """A run directory under construction: a hidden folder beside the target, which `publish` renames to the target."""

    def __init__(self, target: Path) -> None:
        self.target = target
        with writing("the run directory", target):
            if target.parent.exists() and not target.parent.is_dir():
                raise NotADirectoryError(errno.ENOTDIR, f"{target.parent} is not a directory")
            target.parent.mkdir(parents=True, exist_ok=True)
            self.path = Path(tempfile.mkdtemp(prefix=f".{target.name}.", suffix=".tmp", dir=target.parent))
            umask = os.umask(0)
            os.umask(umask)
            self.path.chmod(0o777 & ~umask)  # mkdtemp makes it private; a run directory is like any other

    def publish(self) -> Path:
        """Rename the directory to the target and return that. An existing directory with content is not replaced."""
        with writing("the run directory", self.target):
            os.rename(self.path, self.target)
        return self.target

    def discard(self) -> None:
        """Remove the directory, if it was not published."""
        shutil.rmtree(self.path, ignore_errors=True)


def write_config(path: Path, config: Config, folder: Path) -> str:
    """Write config.toml, with a note that names the folder of the files it reads; return its digest."""
    note = f"# As understood, defaults filled in. Files are relative to {_DATA}{str(folder.resolve())!a}\n"
    text = note + dumps(config)
    with writing("the configuration", path / CONFIG):
        (path / CONFIG).write_text(text, encoding="utf-8")
    return digest_of(text)


def config_digest(path: Path) -> str:
    """Return the digest of config.toml; empty if it cannot be read."""
    try:
        return digest_of((path / CONFIG).read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return ""
