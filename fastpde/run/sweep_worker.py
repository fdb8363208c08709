"""A worker process of a sweep, which runs many cells one after another: it starts, and loads compiled code, once.

Orders come as lines of JSON, {"cell": 3}, on the standard input; answers go to the standard output. When the process
that gives the orders ends, for whatever reason, the cell that runs is stopped with a checkpoint. Signals that a
terminal or a batch system sends to every process are ignored here; the process that gives the orders passes them on as
`PASSED`.
"""

from __future__ import annotations

import json
import os
import signal
import sys
import threading
import time
import traceback
from contextlib import suppress
from pathlib import Path
from queue import SimpleQueue
from typing import Any, NoReturn

from fastpde.errors import InputError, InputTypeError

PASSED = signal.SIGUSR1
BLOCKED = (signal.SIGINT, signal.SIGTERM, signal.SIGXCPU)
BUSY, BROKEN = -1, 1  # answers in place of an exit code: another process is at work there; an error of the program
_PATIENCE = 60.0  # seconds for a checkpoint after the end of the process that gives the orders
# Run with the module path of the process that starts it, and not from the current folder.
BOOTSTRAP = (
    "import json, sys; given = json.loads(sys.argv[1]); sys.path[:] = given.pop('path'); "
    "from fastpde.run.sweep_worker import serve; serve(**given)"
)


class _Orders:
    """The orders, read by a separate thread so that their end is noticed while a cell runs."""

    def __init__(self) -> None:
        self._given, self._done = 0, -1  # each written by one thread
        self._queue: SimpleQueue[dict[str, Any] | None] = SimpleQueue()
        threading.Thread(target=self._read, daemon=True).start()

    def _read(self) -> None:
        with suppress(ValueError, OSError):
            for line in sys.stdin:
                self._given += 1
                self._queue.put(json.loads(line))
        self._queue.put(None)
        if self._given > self._done:
            os.kill(os.getpid(), PASSED)
            time.sleep(_PATIENCE)
            os._exit(1)

    def next(self) -> dict[str, Any] | None:
        """Wait for the next order and return it, None after the last; the order before must have been carried out."""
        self._done += 1
        return self._queue.get()


def serve(folder: str, deadline: float | None, code: bool) -> NoReturn:
    """Run the cells that are ordered, until there are no more orders.

    deadline: as of `runner.run`; code: as of `config.load`.
    """
    answers = os.dup(1)
    os.dup2(2, 1)  # what a library prints is no answer
    from fastpde.run import runner  # noqa: F401  (heavy: before the first order)
    from fastpde.run.sweep_folder import Digests, load

    orders, sweep, digests = _Orders(), load(Path(folder), code), Digests()
    with suppress(BrokenPipeError):
        _answer(answers, {"ready": True})
        while (order := orders.next()) is not None:
            left, message = _run(sweep, int(order["cell"]), digests, deadline)
            _answer(answers, {"cell": order["cell"], "code": left, "message": message})
    os._exit(0)  # as `cli` exits: HDF5 must not try again to write to a full disk


def _answer(file: int, answer: dict[str, Any]) -> None:
    data = (json.dumps(answer) + "\n").encode()
    while data:
        data = data[os.write(file, data) :]


def _run(sweep: Any, index: int, digests: Any, deadline: float | None) -> tuple[int, str]:
    """Run one cell; return its exit code and message."""
    from fastpde.run import directory, lock, runner

    target = sweep.cell(index)
    if lock.held(target):
        return BUSY, ""
    there = directory.is_there(target)
    try:
        problem = sweep.problem(index, digests)
        outcome = runner.run(problem, target, quiet=True, deadline=deadline, say=lambda _: None)
    except (InputError, InputTypeError) as error:
        return (BUSY, "") if lock.held(target) else (runner.BAD, str(error))
    except Exception as error:
        traceback.print_exc()
        return BROKEN, f"{type(error).__name__}: {error}"
    if outcome.code == runner.UNWRITABLE and not there and directory.is_there(target):
        return BUSY, ""  # another process was quicker
    return outcome.code, outcome.message
