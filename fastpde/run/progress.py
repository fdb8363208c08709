"""The progress of a run as the user sees it: a bar on a terminal, a line now and then in a log, nothing when quiet."""

from __future__ import annotations

import math
import time
from typing import Any, Protocol, TextIO

LINE_EVERY = 30.0  # seconds
TIME, SYSTEMS, CELLS = "t =", "systems", "cells"


def counted(count: int, what: str) -> str:
    """Return "1 cell" or "3 cells" for the word "cell"."""
    return f"{count} {what}" if count == 1 else f"{count} {what}s"


class Progress(Protocol):
    """A display that is updated after every accepted step, or when systems or cells are done, and closed at the end."""

    def update(self, t: float, steps: int) -> None:
        """Show that the run has reached the time t, or the number t of systems or cells, after `steps` steps."""

    def close(self) -> None:
        """End the display."""


class Quiet:
    """A display that shows nothing."""

    def update(self, t: float, steps: int) -> None:
        """Show nothing."""

    def close(self) -> None:
        """Do nothing."""


class Bar:
    """A tqdm bar over the interval of time, or over the systems of an ensemble."""

    def __init__(self, start: float, end: float, stream: TextIO, name: str) -> None:
        from tqdm import tqdm

        digits = ":.3g" if name == TIME else ":.0f"
        place = f"{name} {{n{digits}}}/{{total{digits}}}"
        form = "{desc}: {percentage:3.0f}%|{bar}| " + place + " [{elapsed}<{remaining}{postfix}]"
        self._start = start
        self._bar: Any = tqdm(total=end - start, desc="fastpde", file=stream, bar_format=form, dynamic_ncols=True)

    def update(self, t: float, steps: int) -> None:
        """Move the bar to t."""
        if steps:
            self._bar.set_postfix_str(f"{steps} steps", refresh=False)
        self._bar.update(t - self._start - self._bar.n)

    def close(self) -> None:
        """Leave the last bar on the screen."""
        self._bar.close()


class Lines:
    """One line per `LINE_EVERY` seconds, for logs of batch jobs."""

    def __init__(self, start: float, end: float, stream: TextIO, name: str, every: float = LINE_EVERY) -> None:
        self._start, self._end, self._stream, self._name, self._every = start, end, stream, name, every
        self._began = self._last = time.monotonic()

    def update(self, t: float, steps: int) -> None:
        """Print a line if the last one is old enough."""
        now = time.monotonic()
        if now - self._last < self._every:
            return
        self._last = now
        left = remaining(self._start, t, self._end, now - self._began)
        share = 100 * (t - self._start) / (self._end - self._start)
        count = f", {steps} steps" if steps else ""
        ahead = f"about {left:.0f} s left" if math.isfinite(left) else "just begun"
        self._stream.write(f"fastpde: {self._name} {t:.6g} of {self._end:.6g} ({share:.0f} %){count}, {ahead}\n")
        self._stream.flush()

    def close(self) -> None:
        """Do nothing."""


def remaining(start: float, t: float, end: float, elapsed: float) -> float:
    """Return the seconds that are left at the mean pace so far, inf before the first step."""
    return elapsed * (end - t) / (t - start) if t > start else math.inf


def choose(start: float, end: float, stream: TextIO, *, quiet: bool, name: str = TIME) -> Progress:
    """Return the display that suits the stream; `name` is the quantity that is shown: TIME, SYSTEMS or CELLS."""
    if quiet:
        return Quiet()
    return Bar(start, end, stream, name) if stream.isatty() else Lines(start, end, stream, name)
