"""A process for each peer, which takes one piece of work after another; one that crashes or hangs is replaced."""

from __future__ import annotations

import os
import signal
import sys
import tempfile
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from multiprocessing import get_context
from pathlib import Path
from typing import Any

from .registry import Peer
from .rows import Row
from .timing import Rules, measure
from .work import TRUTHS, Work

# Read by libraries when they are loaded. OPENBLAS_CORETYPE would give NumPy the kernels of another processor.
THREADS = ("OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS", "NUMBA_NUM_THREADS")
UNWANTED = ("OPENBLAS_CORETYPE",)


def serve(pipe: Any, peer: Peer, threads: int, rules: Rules, log: str) -> None:
    """Answer pieces of work with rows until there is a None; what libraries print goes to a file."""
    with open(log, "w") as stream:
        os.dup2(stream.fileno(), 1)
        os.dup2(stream.fileno(), 2)
    if hasattr(os, "setsid"):
        os.setsid()  # so that a compiler that it has started ends with it
    if hasattr(os, "sched_setaffinity"):  # some libraries know no other bound of their threads
        os.sched_setaffinity(0, sorted(os.sched_getaffinity(0))[:threads])
    from fastpde.sums import set_threads

    set_threads(threads)
    while (work := pipe.recv()) is not None:
        try:
            row = measure(peer, work, rules)
        except Exception as problem:
            row = Row.of(work, peer.name, problem=f"failed: {type(problem).__name__}: {problem}".split("\n")[0][:200])
        pipe.send(row)


@contextmanager
def environment(variables: Mapping[str, str]) -> Iterator[None]:
    """Give a process that is started now its variables."""
    before = dict(os.environ)
    for name in UNWANTED:
        os.environ.pop(name, None)
    os.environ.update(variables)
    try:
        yield
    finally:
        os.environ.clear()
        os.environ.update(before)


@dataclass
class Session:
    """All that is measured of one peer.

    Attributes:
        peer: who.
        threads: how many threads both may use.
        rules: how times are taken.
        folder: where processes share true values and write what libraries print.
    """

    peer: Peer
    threads: int
    rules: Rules
    folder: Path
    _process: Any = None
    _pipe: Any = None
    _slowest: dict[Any, tuple[int, float, str]] = field(default_factory=dict)

    def row(self, work: Work) -> Row:
        """Return what is measured of a piece of work, or why it is not."""
        kind = (work.family, work.d, work.dtype)
        if (known := self._slowest.get(kind)) is not None:
            n, took, problem = known
            expected = took * (work.n / n) ** self.peer.growth
            if problem and work.n >= n:
                return Row.of(work, self.peer.name, problem=f"skipped: {problem} with n = {n}")
            if expected > self.rules.limit:
                return Row.of(work, self.peer.name, problem=f"skipped: about {expected:.2g} s are expected")
        row = self._ask(work)
        self._slowest[kind] = work.n, row.theirs or 0.0, row.problem.split(":")[0]
        return row

    def close(self) -> None:
        """End the process."""
        if self._process is None:
            return
        if self._process.is_alive():
            try:
                self._pipe.send(None)
                self._process.join(5)
            except OSError:
                pass
        self._kill()

    def _ask(self, work: Work) -> Row:
        if self._process is None:
            self._start()
        try:
            self._pipe.send(work)
            if self._pipe.poll(self.rules.patience):
                row: Row = self._pipe.recv()
                return row
            problem = f"no result within {self.rules.patience:g} s"
        except (EOFError, OSError):
            self._process.join(5)
            problem = f"crashed: {_ending(self._process.exitcode)}{_last_words(self._log)}"
        self._kill()
        return Row.of(work, self.peer.name, problem=problem)

    @property
    def _log(self) -> Path:
        return self.folder / f"{self.peer.file}.log"

    def _start(self) -> None:
        context = get_context("spawn")
        variables = {name: str(self.threads) for name in THREADS} | {TRUTHS: str(self.folder)}
        self._pipe, other = context.Pipe()
        arguments = (other, self.peer, self.threads, self.rules, str(self._log))
        self._process = context.Process(target=serve, args=arguments, daemon=True)
        with environment(variables | dict(self.peer.environment)):
            self._process.start()
        other.close()

    def _kill(self) -> None:
        process, self._process = self._process, None
        if process.is_alive():
            if hasattr(os, "killpg") and os.getpgid(process.pid) == process.pid:
                os.killpg(process.pid, signal.SIGKILL)
            else:
                process.kill()
        process.join()
        self._pipe.close()


def _ending(code: int | None) -> str:
    if code is not None and code < 0:
        return f"signal {signal.Signals(-code).name}"
    return f"exit code {code}"


def _last_words(log: Path) -> str:
    try:
        lines = [line for line in log.read_text(errors="replace").splitlines() if line.strip()]
    except OSError:
        return ""
    return f", {lines[-1].strip()[:120]}" if lines else ""


@contextmanager
def shared_folder() -> Iterator[Path]:
    """Make a temporary folder for the processes of a comparison."""
    with tempfile.TemporaryDirectory(prefix="fastpde-peers-") as folder:
        yield Path(folder)


def usable_threads() -> int:
    """Return how many threads this process may use."""
    if sys.platform == "linux":
        return len(os.sched_getaffinity(0))
    return os.cpu_count() or 1
