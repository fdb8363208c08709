"""Runs that end in the middle of nowhere: at each call in turn that opens, writes, flushes, renames or removes a file.

A program of its own: it compiles once and then makes a process for each crash. That is safe here only because it runs
nothing in parallel. It prints how many calls there are, and dies with what went wrong.
"""

from __future__ import annotations

import builtins
import io
import os
import random
import shutil
import sys
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

import h5py
from results import result

from fastpde import config
from fastpde.run import directory, inspect, lock, runner
from fastpde.run.trajectory import read_times

CRASHED = 77  # exit code
CALLS = {
    os: ("open", "write", "pwrite", "fsync", "replace", "rename", "unlink", "rmdir", "mkdir", "truncate", "ftruncate"),
    h5py.File: ("__init__", "flush", "close"),
    h5py.Group: ("create_dataset", "create_group"),
    h5py.Dataset: ("__setitem__", "resize"),
    h5py.AttributeManager: ("__setitem__",),
}


class Calls:
    """Counts the calls that touch files, and ends the process at the one with the number `at`."""

    def __init__(self, at: int = -1) -> None:
        self.count, self.at = 0, at
        for owner, names in CALLS.items():
            for name in names:
                setattr(owner, name, self._counted(getattr(owner, name), name))
        plain = builtins.open

        def opened(file: Any, mode: str = "r", *rest: Any, **options: Any) -> Any:
            if set(mode).isdisjoint("wax+"):
                return plain(file, mode, *rest, **options)
            self.next()
            return Opened(plain(file, mode, *rest, **options), self)

        builtins.open = io.open = opened  # type: ignore[assignment]

    def next(self, before: Callable[[], object] = lambda: None) -> None:
        """Count a call; if it is the last one, leave, with what it does `before` it is through."""
        self.count += 1
        if self.count == self.at:
            before()
            os._exit(CRASHED)

    def _counted(self, plain: Callable[..., Any], name: str) -> Callable[..., Any]:
        def call(*arguments: Any, **options: Any) -> Any:
            half = name in ("write", "pwrite")  # half of what is to be written has come when it ends
            self.next(lambda: half and plain(arguments[0], arguments[1][: len(arguments[1]) // 2], *arguments[2:]))
            return plain(*arguments, **options)

        return call


class Opened:
    """A file whose buffer is written by calls that count."""

    def __init__(self, file: Any, calls: Calls) -> None:
        self._file, self._calls = file, calls

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def flush(self) -> None:
        self._calls.next()
        self._file.flush()

    def close(self) -> None:
        self._calls.next()
        self._file.close()

    def truncate(self, *size: int) -> None:
        self._calls.next()
        self._file.truncate(*size)

    def __enter__(self) -> Opened:
        return self

    def __exit__(self, *_: object) -> None:
        self.close()


def apart(work: Callable[[], object]) -> int:
    """Do something in a process of its own; return its exit code: 0, CRASHED, or 1 for an exception."""
    sys.stdout.flush()
    child = os.fork()
    if child:
        return os.waitstatus_to_exitcode(os.waitpid(child, 0)[1])
    code = 1
    try:
        work()
        code = 0
    except BaseException:
        traceback.print_exc()
    finally:
        os._exit(code)


def run(path: Path, out: Path) -> None:
    """Run a configuration to its end, or on to its end."""
    outcome = runner.run(config.load(path), out, quiet=True)
    assert outcome.code == 0, outcome


def crash(path: Path, out: Path, at: int) -> int:
    """Run, or go on, up to the call number `at`; what is there then can be read. Return the exit code."""

    def work() -> None:
        Calls(at)
        run(path, out)

    def look() -> None:
        _, wrong = inspect.verify(out)
        assert wrong == [], wrong
        if (out / "trajectory.h5").exists():
            last, _ = runner.checkpoint.newest(out)
            assert last.facts["marks"]["trajectory"]["frames"] <= len(read_times(out / "trajectory.h5"))
            # A checkpoint is due after every step.
            assert directory.read_status(out)["step"] <= last.facts["state"]["step"] + 1

    code = apart(work)
    assert code in (0, CRASHED), code
    for file in path.parent.glob(".out.*.tmp/lock"):
        os.utime(file, (0, 0))  # one that says nothing yet is left alone for a while
    if out.exists():
        assert apart(look) == 0, f"after call {at}"
    return code


def total(path: Path, out: Path) -> int:
    """How many calls a whole run makes."""
    reader, writer = os.pipe()

    def work() -> None:
        calls = Calls()
        run(path, out)
        os.write(writer, str(calls.count).encode())

    assert apart(work) == 0
    return int(os.read(reader, 99))


def check(path: Path, every: int) -> int:
    """Crash at each `every`-th call, go on, crash there, and go on to the end. Return how many crashes there were."""
    whole, crashes, source = path.parent / "whole", 0, random.Random(0)
    calls = total(path, whole)
    want = result(whole)
    for at in range(1 + source.randrange(every), calls + 1, every):
        out = path.parent / "out"
        assert crash(path, out, at) == CRASHED
        crashes += 1 + (crash(path, out, source.randint(1, max(2, calls - at))) == CRASHED)
        assert apart(lambda out=out: run(path, out)) == 0, f"after call {at}"
        assert result(out) == want, f"after call {at}"
        assert not lock.held(out)
        for stage in path.parent.glob(".out.*.tmp"):
            stage.rmdir()  # one without a lock is empty, and stays
        left = sorted(file.name for file in out.iterdir() if file.name[0] == "." or file.suffix == ".tmp")
        assert left == [], f"{left} left after call {at}"
        shutil.rmtree(out)
    print(calls, crashes)
    return crashes


if __name__ == "__main__":
    run(Path(sys.argv[1]), Path(sys.argv[1]).parent / "warm")  # compiles, or loads what is compiled
    check(Path(sys.argv[1]), int(sys.argv[2]))
