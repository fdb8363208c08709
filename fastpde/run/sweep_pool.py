"""The worker processes of a sweep, as seen from the process that gives the orders."""

from __future__ import annotations

import json
import os
import selectors
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import suppress
from dataclasses import dataclass
from typing import Any

from fastpde.run import sweep_worker
from fastpde.run.sweep_folder import Folder

_THREADS = ("NUMBA_NUM_THREADS", "OMP_NUM_THREADS", "OPENBLAS_NUM_THREADS", "MKL_NUM_THREADS")
_PATIENCE = 5.0  # seconds for a process that has nothing to do, or was told to stop at once, to end
_PIECE = 2**16


class Worker:
    """One worker process; `cell` is the number of the cell that it runs, None if it is idle."""

    def __init__(self, folder: Folder, threads: int, deadline: float | None) -> None:
        code = folder.sweep.files.code
        given = {"path": sys.path, "folder": str(folder.path.absolute()), "deadline": deadline, "code": code}
        command = [sys.executable, "-P", "-c", sweep_worker.BOOTSTRAP, json.dumps(given)]
        environment = {**os.environ, **dict.fromkeys(_THREADS, str(threads))}
        # The process inherits blocked signals: they are blocked there from its first moment on, and here only delayed.
        before = signal.pthread_sigmask(signal.SIG_BLOCK, sweep_worker.BLOCKED)
        try:
            self.process = subprocess.Popen(
                command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, bufsize=0, env=environment
            )
        finally:
            signal.pthread_sigmask(signal.SIG_SETMASK, before)
        self.cell: int | None = None
        self.ready = False
        self._rest = b""

    def order(self, cell: int) -> None:
        """Order it to run a cell."""
        assert self.process.stdin is not None
        self.cell = cell
        with suppress(BrokenPipeError):  # it has ended: that is seen when its answers are read
            self.process.stdin.write((json.dumps({"cell": cell}) + "\n").encode())

    def answers(self) -> Iterator[dict[str, Any] | None]:
        """Read what has arrived from it and yield its answers; None when there will be no more."""
        assert self.process.stdout is not None
        data = os.read(self.process.stdout.fileno(), _PIECE)
        *lines, self._rest = (self._rest + data).split(b"\n")
        yield from map(json.loads, lines)
        if not data:
            yield None

    def stop(self) -> None:
        """Ask it to stop: the first call with a checkpoint of its cell, the second at once; without a cell it ends."""
        if self.cell is not None:
            self.process.send_signal(sweep_worker.PASSED)
        elif not self.ready:
            self.process.kill()  # still loading: nothing is lost
        self.dismiss()

    def dismiss(self) -> None:
        """Close its orders if it is idle, so that it ends."""
        assert self.process.stdin is not None
        if self.cell is None:
            self.process.stdin.close()

    def end(self, patience: float = _PATIENCE) -> int:
        """Wait for its end, kill it after `patience` seconds, and return its exit code."""
        assert self.process.stdin is not None and self.process.stdout is not None
        try:
            code = self.process.wait(patience)
        except subprocess.TimeoutExpired:
            self.process.kill()
            code = self.process.wait()
        self.process.stdin.close()
        self.process.stdout.close()
        return code


@dataclass(frozen=True)
class Answer:
    """The answer of a worker: `said`, or None if it has ended, with the exit code `code` (negative: a signal)."""

    worker: Worker
    said: dict[str, Any] | None
    code: int = 0


class Pool:
    """The worker processes of a sweep, started one by one."""

    def __init__(self, folder: Folder, threads: int, deadline: float | None) -> None:
        self._made = (folder, threads, deadline)
        self._selector = selectors.DefaultSelector()
        self.workers: list[Worker] = []

    def start(self) -> Worker:
        """Start another worker and return it."""
        worker = Worker(*self._made)
        self._selector.register(worker.process.stdout, selectors.EVENT_READ, worker)  # type: ignore[arg-type]
        self.workers.append(worker)
        return worker

    def answers(self, seconds: float) -> Iterator[Answer]:
        """Yield the answers of the workers; wait for the first ones for at most `seconds`."""
        for found, _ in self._selector.select(seconds):
            worker: Worker = found.data
            for said in worker.answers():
                if said is None:
                    self._selector.unregister(found.fileobj)
                    self.workers.remove(worker)
                    yield Answer(worker, None, worker.end())
                else:
                    yield Answer(worker, said)

    def stop(self) -> None:
        """Ask all workers to stop."""
        for worker in self.workers:
            worker.stop()

    def close(self) -> None:
        """End all workers: idle ones end by themselves, in `_PATIENCE` seconds at most, the others are killed."""
        for worker in self.workers:
            worker.dismiss()
        until = time.monotonic() + _PATIENCE
        for worker in self.workers:
            waits = worker.ready and worker.cell is None
            worker.end(max(0.0, until - time.monotonic()) if waits else 0.0)
        self.workers.clear()
        self._selector.close()
