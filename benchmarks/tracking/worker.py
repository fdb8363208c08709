"""A process that times cases of one version when it is asked to, and waits in between without using the processor.

It reads one request per line from its input, a JSON object with `case` and `seconds`, calls the case for about so long,
and answers with the seconds of each call. `seconds` 0 builds the case and answers with its error.
"""

from __future__ import annotations

import gc
import json
import sys
import time
from collections.abc import Callable
from typing import Any

from . import reference
from .cases import BY_NAME, Array


class Timer:
    """The cases of this process, each built when its error is asked for, and the units of `reference`."""

    def __init__(self) -> None:
        self._calls: dict[str, Callable[[], object]] = {}

    def error(self, name: str) -> float:
        """Build a case, compile what it needs and return the error of its result."""
        call, error = BY_NAME[name].build()
        self._calls[name] = call
        first: Array = call()
        call()
        return error(first)

    def times(self, name: str, seconds: float) -> list[float]:
        """Return the seconds of each of at least three calls, after one that is not counted: it wakes the caches."""
        if name not in self._calls:
            self._calls |= reference.units()
        call, found = self._calls[name], []
        call()
        gc.collect()
        gc.disable()
        until = time.perf_counter() + seconds
        while len(found) < 3 or time.perf_counter() < until:
            began = time.perf_counter()
            call()
            found.append(time.perf_counter() - began)
        gc.enable()
        return found


def main(arguments: list[str]) -> None:
    """Serve requests until the input ends; the argument is the number of threads."""
    from fastpde.sums import set_threads

    set_threads(int(arguments[0]))
    timer, answers = Timer(), sys.stdout
    sys.stdout = sys.stderr  # a stray print must not become an answer
    for line in sys.stdin:
        asked = json.loads(line)
        answer: dict[str, Any]
        try:
            if asked["seconds"]:
                answer = {"times": timer.times(asked["case"], asked["seconds"])}
            else:
                answer = {"error": timer.error(asked["case"])}
        except Exception as error:
            answer = {"failed": f"{type(error).__name__}: {error}"}
        answers.write(json.dumps(answer) + "\n")
        answers.flush()


if __name__ == "__main__":
    main(sys.argv[1:])
