"""Some states of a run, from which all others are made again, last first, in a stated memory."""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator
from typing import Any

import numpy as np

from .._types import Array


class Snapshots:
    """The times of the steps of a run, and some of its states, evenly spread over the steps, in a stated memory.

    Half of the memory is for these states, half for those between two of them, which are made again, see `backwards`.
    """

    def __init__(self, shape: tuple[int, ...], memory: int) -> None:
        self.most = max(2, memory // (2 * 8 * math.prod(shape)))
        self.times: list[float] = []
        self.states: list[Array] = []
        self.stride = 1

    def take(self, t: float, x: Array) -> None:
        """Take note of the state after a step."""
        if self.times and t == self.times[-1]:
            return
        if len(self.times) % self.stride == 0:
            self.states.append(np.array(x, dtype=np.float64))
            if len(self.states) > self.most:
                self.states, self.stride = self.states[::2], 2 * self.stride
        self.times.append(t)


def backwards(
    first: int, last: int, y: Any, room: int, advance: Callable[[int, Any], Any]
) -> Iterator[tuple[int, Any]]:
    """Yield (n, y_n) for n = last - 1, ..., first, where y_{n + 1} = advance(n, y_n) and y = y_first.

    At most `room` states are held beside y and one at work. With less room than states they are made again: half of
    the room is for states spread over the range, and each part of it does with the rest.
    """
    if last - first <= max(1, room):
        states = [y] if last > first else []
        for n in range(first, last - 1):
            states.append(advance(n, states[-1]))
        while states:
            yield first + len(states) - 1, states.pop()
        return
    own = room // 2
    stride = -(-(last - first) // (own + 1))
    if not own:
        for n in range(last - 1, first - 1, -1):
            state = y
            for k in range(first, n):
                state = advance(k, state)
            yield n, state
        return
    starts = [(first, y)]
    state = y
    for n in range(first, first + stride * ((last - first - 1) // stride)):
        state = advance(n, state)
        if (n + 1 - first) % stride == 0:
            starts.append((n + 1, state))
    while starts:
        begin, state = starts.pop()
        yield from backwards(begin, min(begin + stride, last), state, room - own, advance)
