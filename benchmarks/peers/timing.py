"""Times of fastpde and a peer that take turns in one process."""

from __future__ import annotations

import time
from dataclasses import dataclass

import numpy as np

from .registry import Peer
from .rows import Row
from .work import Array, Call, Work


@dataclass(frozen=True)
class Rules:
    """How times are taken.

    Attributes:
        repeats: calls of each, of which medians are taken; fewer, but three, if they would take longer than `budget`.
        budget: seconds for the calls of one row.
        limit: seconds; a peer whose call takes longer is called no more, and not with more tokens.
        pause: seconds before each call. Threads of some libraries keep a core busy for a while after a call.
        patience: seconds after which a row is given up.
    """

    repeats: int = 7
    budget: float = 10.0
    limit: float = 5.0
    pause: float = 0.05
    patience: float = 300.0


def seconds(call: Call) -> float:
    """Return how long one call takes."""
    start = time.perf_counter()
    call()
    return time.perf_counter() - start


def in_turns(calls: list[Call], repeats: int, pause: float) -> Array:
    """Return seconds (repeats, calls); before each measured call there are a pause and an unmeasured one."""
    times = np.empty((repeats, len(calls)))
    for row in times:
        for i, call in enumerate(calls):
            time.sleep(pause)
            call()
            row[i] = seconds(call)
    return times


def measure(peer: Peer, work: Work, rules: Rules) -> Row:
    """Do a piece of work by both, after a call of each in which code may be compiled."""
    ours, theirs = work.ours(), peer.call(work)
    our_error = work.error(ours())
    their_error = peer.judged(work).error(theirs())
    once = np.array([[seconds(ours), seconds(theirs)]])
    slow = once[0, 1] > rules.limit
    repeats = min(rules.repeats, max(3, int(rules.budget / (2 * once.sum() + 2 * rules.pause))))
    times = once if slow else in_turns([ours, theirs], repeats, rules.pause)
    mine, other = (float(t) for t in np.median(times, axis=0))
    return Row.of(
        work,
        peer.name,
        setting=getattr(theirs, "setting", ""),
        ours=mine,
        theirs=other,
        ratio=float(np.median(times[:, 1] / times[:, 0])),
        our_error=our_error,
        their_error=their_error,
        repeats=len(times),
    )
