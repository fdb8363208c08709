"""The directory of a sweep, and the names of its cells.

plan.toml    the plan as understood, ranges written out      base.toml   its configuration
manifest     one line per cell: its number and its digest    sweep.json  where the .npy files are, digests of these
cells/       the run directories; the name of each is the digest of its configuration and of the files that it reads
cells.csv    one row per cell

Cells are shared by all plans that a directory ever had: an edited plan runs only what is new.
"""

from __future__ import annotations

import dataclasses
import json
import shutil
import time
from contextlib import suppress
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from fastpde.config import Problem, Sweep, dumps, load_sweep, memory_estimate
from fastpde.config.sweep_plan import BASE
from fastpde.errors import InputError
from fastpde.run import directory, inputs, lock, machine
from fastpde.run.directory import OutputError
from fastpde.run.lock import RunLock

PLAN, MANIFEST, FACTS, CELLS, TABLE = "plan.toml", "manifest", "sweep.json", "cells", "cells.csv"
_STALE = 60.0  # seconds after which a half-made run directory without a lock is taken for that of a killed process
_AGAIN = "Run fastpde sweep PLAN.toml --out DIR again."


class Digests:
    """The digests of problems; a file that belongs to several problems is read once, as long as it does not change."""

    def __init__(self) -> None:
        self._files: dict[tuple[str, int, int, int], str] = {}

    def of(self, problem: Problem) -> str:
        """Return the digest of a configuration and of the files it reads: of all that makes it another run.

        The interval of checkpoints and the costs of a machine do not. Raises InputError, OSError.
        """
        config = problem.config
        output = dataclasses.replace(config.output, checkpoint=1.0)
        config = dataclasses.replace(config, output=output, backend=dataclasses.replace(config.backend, costs=None))
        files = sorted((name, self._file(path)) for name, path in inputs.paths(problem).items())
        return directory.digest_of(json.dumps([dumps(config), files]))

    def _file(self, path: Path) -> str:
        found = path.stat()
        stamp = (str(path), found.st_ino, found.st_size, found.st_mtime_ns)
        if stamp not in self._files:
            self._files[stamp] = inputs.digest(path)
        return self._files[stamp]


@dataclass(frozen=True)
class Planned:
    """A sweep whose cells have all been checked: their digests, and the memory and the tokens of the largest ones."""

    sweep: Sweep
    digests: tuple[str, ...]
    memory: int  # bytes
    tokens: int

    def files(self) -> dict[str, str]:
        """Return the texts of a sweep's files by name; the last one, sweep.json, has the digest of the others."""
        manifest = "".join(f"{i} {digest}\n" for i, digest in enumerate(self.digests))
        texts = {BASE: self.sweep.text, PLAN: self.sweep.dumps(), MANIFEST: manifest}
        facts = {
            "digest": directory.digest_of(json.dumps([*texts.values()])),
            "data": str(self.sweep.files.folder.resolve()),
            "cells": len(self.digests),
            "memory": self.memory,
            "tokens": self.tokens,
            "fastpde": machine.version(),
        }
        return {**texts, FACTS: json.dumps(facts, indent=2) + "\n"}


def planned(sweep: Sweep) -> Planned:
    """Check every cell of a sweep and return it with their digests. Raises InputError that names the cell and the key,
    or two equal cells.
    """
    found: dict[str, int] = {}
    most, largest, digests = 0, 0, Digests()
    for i in range(len(sweep)):
        problem = sweep.problem(i)
        try:
            digest = digests.of(problem)
        except OSError as error:
            raise InputError(sweep.words(i), f"a file that cannot be read ({error})", "files that can") from None
        if digest in found:
            need = "different configurations: none would be run twice"
            raise InputError("PLAN", f"{sweep.words(found[digest])} and {sweep.words(i)}, which are the same", need)
        found[digest] = i
        most = max(most, memory_estimate.at_work(problem.config, problem.systems, problem.n, problem.d))
        largest = max(largest, problem.n)
    return Planned(sweep, tuple(found), most, largest)


@dataclass(frozen=True)
class Folder:
    """The directory of a sweep: its present plan, and the digests of the cells."""

    path: Path
    sweep: Sweep
    cells: tuple[str, ...]
    facts: dict[str, Any]

    @property
    def digest(self) -> str:
        """The digest of the plan as a whole."""
        return str(self.facts["digest"])

    def cell(self, index: int) -> Path:
        """Return the path of the run directory of a cell, whether it exists or not."""
        return self.path / CELLS / self.cells[index]

    def problem(self, index: int, digests: Digests) -> Problem:
        """Return the problem of a cell. Raises InputError if a file was changed since the plan was read."""
        problem = self.sweep.problem(index)
        try:
            same = digests.of(problem) == self.cells[index]
        except OSError:
            same = False
        if not same:
            came = "files that were changed since the plan was read"
            raise InputError(self.sweep.words(index), came, "those of the plan", _AGAIN)
        return problem

    def clean(self, index: int | None = None) -> None:
        """Remove half-made run directories that killed runs have left: the old ones, or those of the cell `index`,
        whose process is known to be dead.
        """
        for path in (self.path / CELLS).glob(".*.tmp" if index is None else f".{self.cells[index]}.*.tmp"):
            with suppress(OSError):
                old = index is not None or time.time() - path.stat().st_mtime > _STALE
                if old and not lock.held(path):
                    shutil.rmtree(path)


def is_sweep(path: Path) -> bool:
    """Return whether `path` is the directory of a sweep."""
    return (path / FACTS).is_file()


def load(path: Path, code: bool = False) -> Folder:
    """Return the sweep of a directory; code: as in `config.load`.

    Raises InputError if it is none, or its files are not those of one plan.
    """
    need = "the directory of a sweep"
    try:
        facts = json.loads((path / FACTS).read_text(encoding="utf-8"))
        texts = [_read(path / name) for name in (BASE, PLAN, MANIFEST)]
        if facts["digest"] != directory.digest_of(json.dumps(texts)):
            raise ValueError(f"{BASE}, {PLAN} and {MANIFEST} are not those of one plan")
        cells = tuple(line.split()[1] for line in texts[2].splitlines())
        data, count = Path(facts["data"]), facts["cells"]
    except (OSError, ValueError, KeyError, TypeError, IndexError) as error:
        raise InputError("DIR", f"{path} ({error})", need, _AGAIN) from None
    sweep = load_sweep(path / PLAN, data, code=code)
    if not len(cells) == len(sweep) == count:
        raise InputError("DIR", f"{path}, with a manifest of {len(cells)} cells for {len(sweep)}", need, _AGAIN)
    return Folder(path, sweep, cells, facts)


def _read(path: Path) -> str:
    """Return the text of a file, its line ends unchanged."""
    return path.read_bytes().decode("utf-8")


def make(path: Path, plan: Planned) -> tuple[Folder, RunLock]:
    """Make the directory of a sweep, or give the existing one this plan; return it with its lock.

    Raises InputError for a directory of anything else, or one where another process writes; OutputError.
    """
    if not is_sweep(path):
        _create(path, plan)
    held = RunLock(path)
    try:
        for name, text in plan.files().items():
            if not (path / name).is_file() or _read(path / name) != text:
                directory.replace("the plan", path / name, text)
        return load(path, plan.sweep.files.code), held
    except BaseException:
        held.release()
        raise


def again(path: Path, code: bool = False) -> tuple[Folder, RunLock]:
    """Return the sweep of a directory with its lock. Raises InputError as `load` and `make` do, OutputError."""
    held = RunLock(path)
    try:
        return load(path, code), held
    except BaseException:
        held.release()
        raise


def _create(path: Path, plan: Planned) -> None:
    if not directory.is_free(path):
        raise InputError("--out", f"{path}, which is no sweep", "a new directory, or that of a sweep", directory.REMEDY)
    stage = directory.Stage(path)
    try:
        with directory.writing("the plan", path):
            (stage.path / CELLS).mkdir()
            for name, text in plan.files().items():
                (stage.path / name).write_bytes(text.encode())
        stage.publish()
    except OutputError:
        if not is_sweep(path):  # else another process was quicker
            raise
    finally:
        stage.discard()
