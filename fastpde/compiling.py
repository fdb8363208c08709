"""Word of kernels being compiled: on a machine's first run that takes half a minute, before anything moves."""

from __future__ import annotations

import time
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any, TextIO

_SOON = 1.0  # seconds of compilation after which it is shown


@contextmanager
def shown(stream: TextIO, *, quiet: bool = False) -> Iterator[Callable[[], float]]:
    """Show, in a context, that kernels are being compiled: a bar that goes away on a terminal, a line elsewhere.

    It yields a function that returns for how many seconds they have been so far, also if nothing is shown.
    """
    from numba.core import event  # here: the command line imports this module

    event.Listener.register(_Word)
    word = _Word(None if quiet else stream)
    try:
        with event.install_listener("numba:compile", word):
            yield word.seconds
    finally:
        word.close()


class _Word:
    """What is shown of functions that are compiled, each while those that it calls are."""

    def __init__(self, stream: TextIO | None) -> None:
        self._stream, self._said = stream, False
        self._bar: Any = None
        self._count = self._depth = 0
        self._seconds = self._began = 0.0

    def notify(self, event: Any) -> None:
        """Take note that the compilation of a function begins or ends."""
        if event.is_start:
            self._begin()
        else:
            self._end()

    def seconds(self) -> float:
        """Return for how long functions have been compiled, one under way included."""
        return self._seconds + (time.monotonic() - self._began if self._depth else 0.0)

    def close(self) -> None:
        """Remove the bar."""
        if self._bar is not None:
            self._bar.close()
            self._bar = None

    def _begin(self) -> None:
        """Show one more function, if compilation has taken a while."""
        if not self._depth:
            self._began = time.monotonic()
        self._depth += 1
        self._count += 1
        if self._stream is not None and self.seconds() >= _SOON:
            self._show(self._stream)

    def _end(self) -> None:
        """Remove the bar when the outermost function is compiled."""
        self._depth -= 1
        if not self._depth:
            self._seconds += time.monotonic() - self._began
            self.close()

    def _show(self, stream: TextIO) -> None:
        if not stream.isatty():
            if not self._said:
                stream.write("fastpde: compiling kernels, which later runs on this machine find in a cache\n")
                stream.flush()
            self._said = True
            return
        if self._bar is None:
            from tqdm import tqdm

            form = "fastpde: compiling kernels for this and later runs, {n} functions so far"
            self._bar = tqdm(file=stream, bar_format=form, leave=False, dynamic_ncols=True, initial=self._count)
        self._bar.update(self._count - self._bar.n)
