"""The attempts of a batch job at its command, and whether they get any further.

A job that is put into the queue again and again (`slurm_job`) makes one attempt after another. A file in the folder of
the job counts the attempts in a row that ended where they had begun. A command of fastpde finds the path of this file
in its environment, and adds a line when it begins and another one when it has got further: when a checkpoint is later
than the one from which it went on, or a run or a cell of a study is done. Any process of the command may do so, the
processes of a sweep and the first of several ranks too.
"""

from __future__ import annotations

import os
from contextlib import suppress
from pathlib import Path

from fastpde.run.directory import own

VARIABLE = "FASTPDE_ATTEMPT"
MOST = 2  # attempts in a row that may end where they have begun
_BEGUN, _FURTHER = "begun", "further"


def note_begin() -> None:
    """Note that a command of fastpde has begun, where a batch job asks for it."""
    _add(_BEGUN)


def note_progress() -> None:
    """Note that the command has got further than the attempt before, where a batch job asks for it."""
    _add(_FURTHER)


def _add(word: str) -> None:
    path = os.environ.get(VARIABLE)
    if path:
        # The file is that of a job or there is none: no other is made, and a note that fails is no error of a run.
        with suppress(OSError), open(own(path, os.O_WRONLY | os.O_APPEND), "w") as file:
            file.write(f"{word}\n")


class Attempts:
    """The attempts of the job `job` so far. The next one begins with `begin` and ends with `in_vain`."""

    def __init__(self, job: str) -> None:
        self._path = Path(os.path.abspath(f".fastpde-job-{job}"))
        self._count = 0

    def begin(self) -> None:
        """Begin an attempt: commands that are started from now on add their notes. Raises OSError."""
        words = self._words()
        before = words[0] if words else ""
        self._count = int(before) if before.isdecimal() and len(before) < 9 and _FURTHER not in words else 0
        self._write()
        os.environ[VARIABLE] = str(self._path)

    def in_vain(self, died: bool) -> int:
        """Return how many attempts in a row have ended where they had begun, this one included, and keep the number.

        It is 0 if the command got further, or is not known: it has not begun as one of fastpde. `died`: it is one, and
        was ended before it could begin. Raises OSError.
        """
        words = self._words()
        idle = _FURTHER not in words and (died or _BEGUN in words)
        self._count = self._count + 1 if idle else 0
        self._write()
        return self._count

    def forget(self) -> None:
        """Remove the file: the job does not go on by itself."""
        with suppress(OSError):
            self._path.unlink()

    def _words(self) -> list[str]:
        try:
            return self._path.read_text(encoding="utf-8").split()
        except (OSError, ValueError):
            return []

    def _write(self) -> None:
        with open(self._path, "w", encoding="utf-8", opener=own) as file:
            file.write(f"{self._count}\n")
