"""Reports of progress: a bar, a callback, or nothing."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

from fastpde import compiling
from fastpde._numbers import show
from fastpde.errors import InputTypeError
from fastpde.integrate.controller import Span

Report = Callable[[float, dict[str, float]], object]

_FORMAT = "{l_bar}{bar}| %s = {n:.4g} of {total:.4g} [{elapsed}<{remaining}, {rate_fmt}{postfix}]"


def check_progress(progress: object) -> bool | Report:
    """Return `progress` if it is a bool or a function (t, stats), or raise."""
    if isinstance(progress, bool) or (callable(progress) and not isinstance(progress, type)):
        return progress
    raise InputTypeError("progress", show(progress), "True, False or a function (t, stats)")


@contextmanager
def reporting(progress: bool | Report, span: Span, what: str = "t") -> Iterator[Report | None]:
    """Yield the function report(t, stats) to call after every accepted step, or None; `what`: what is counted."""
    if progress is not True:
        yield progress or None
        return
    from tqdm import tqdm  # here: only a run that shows a bar needs it

    total = abs(span.end - span.start)
    with (
        compiling.shown(sys.stderr),
        tqdm(total=total, unit=f" {what}", bar_format=_FORMAT % what, file=sys.stderr) as bar,
    ):

        def report(t: float, stats: dict[str, float]) -> None:
            bar.set_postfix_str(f"{stats['steps']} steps", refresh=False)
            # The difference to what is shown, so that rounding does not build up.
            bar.update(abs(t - span.start) - bar.n)

        yield report


@contextmanager
def counting(progress: object, systems: int) -> Iterator[Callable[[int], object]]:
    """Yield report(done), to call with the number of systems that are done: it moves a bar, calls progress(done, stats)
    with {"systems": systems}, or does nothing. Raises InputTypeError as `check_progress`.
    """
    progress = check_progress(progress)
    if not isinstance(progress, bool):
        told = progress
        yield lambda done: told(done, {"systems": systems})
        return
    if not progress:
        yield lambda done: None
        return
    from tqdm import tqdm

    with compiling.shown(sys.stderr), tqdm(total=systems, unit=" systems", file=sys.stderr) as bar:
        yield lambda done: bar.update(done - bar.n)


def leaps_told(count: int) -> str:
    """Return a sentence that begins with a space on steps of a fixed size that are too large; "" if there were none."""
    if not count:
        return ""
    steps = "1 step" if count == 1 else f"{count} steps"
    return f" In {steps} the largest entry grew more than tenfold: take smaller steps, or an adaptive method."
