"""Seeded Brownian motion: the noise of a noisy Transformer, with bits that depend on nothing but the seed.

The increment of step k is noise sqrt(h) xi, where token i of system b gets its d standard normal numbers xi from the
Philox stream whose key comes from (seed, purpose) and whose counter says (k, b, block of `BLOCK` tokens). They come in
the order of the tokens, so a token's numbers depend neither on how many tokens or systems there are, nor on threads,
output or restarts; nothing has to be remembered but k.

Source: Salmon, Moraes, Dror, Shaw, Parallel random numbers: as easy as 1, 2, 3 (SC 2011).
"""

from __future__ import annotations

import math
from collections.abc import Callable
from copy import copy
from typing import Any

import numpy as np

from ._numbers import real, show, whole
from ._types import Array
from .errors import InputError
from .initial import BLOCK

_PURPOSE = 3  # the spawn key's first number; tokens have 0, parameters 1, subsets 2
_CHUNK = 16384  # numbers drawn at a time: the scratch array stays in the second-level cache


class Brownian:
    """The random velocity of a step, noise xi / sqrt(h); times the step h it is the increment noise sqrt(h) xi.

    Args:
        noise: standard deviation per square root of time, at least 0.
        seed: an int of at least 0.
        first_system: the number of the first system of a batch, so that a part of a batch can be run alone.
        first_token: the number of the first token, where a process holds some of the tokens.
        project: project(y, v) makes v tangent at y, in place; None: tokens move in all of R^d.

    Raises:
        InputError, InputTypeError: naming noise, seed or first_system.
    """

    def __init__(
        self,
        noise: Any,
        seed: Any = 0,
        *,
        first_system: Any = 0,
        first_token: int = 0,
        project: Callable[[Array, Array], None] | None = None,
    ) -> None:
        self.noise = real("noise", noise)
        if self.noise < 0.0:
            raise InputError("noise", show(noise), "a number >= 0")
        self.seed, self.first_system = whole("seed", seed, 0), whole("first_system", first_system, 0)
        self._project, self._first_token = project, first_token
        if self.first_system >= 2**62:
            raise InputError("first_system", show(first_system), "an int below 2^62")
        key = np.random.SeedSequence(self.seed, spawn_key=(_PURPOSE,)).generate_state(2, np.uint64)
        self._philox = np.random.Philox(key=key)
        self._generator = np.random.Generator(self._philox)
        self._start: Any = self._philox.state  # before the first number: nothing is buffered
        self._normals = np.empty(_CHUNK)

    def from_system(self, first: int) -> Brownian:
        """Return the noise of a part of the batch that begins with its system number `first`."""
        part = copy(self)
        part.first_system += first
        return part

    def free(self) -> Brownian:
        """Return the same noise before it is made tangent."""
        whole = copy(self)
        whole._project = None
        return whole

    def __call__(self, step: int, h: float, y: Array, out: Array) -> None:
        """Write the velocity of step `step`, of size h > 0 from y (n, d) or (B, n, d), into `out`."""
        scale = self.noise / math.sqrt(h)
        for b, tokens in enumerate(out.reshape(-1, *out.shape[-2:])):
            start = 0
            while start < len(tokens):
                block, before = divmod(self._first_token + start, BLOCK)
                stop = start + BLOCK - before
                self._go_to(step, self.first_system + b, block)
                self._skip(before * tokens.shape[1])
                self._fill(tokens[start:stop].reshape(-1), scale)
                start = stop
        if self._project is not None:
            self._project(y, out)

    def _go_to(self, step: int, system: int, block: int) -> None:
        # The lowest word counts the numbers drawn; setting the state is ten times faster than a new generator.
        self._start["state"]["counter"][:] = 0, block, system, step
        self._philox.state = self._start

    def _skip(self, count: int) -> None:
        """Draw and discard `count` numbers: how much of its stream a normal number uses is not known in advance."""
        for start in range(0, count, _CHUNK):
            self._generator.standard_normal(out=self._normals[: min(_CHUNK, count - start)])

    def _fill(self, out: Array, scale: float) -> None:
        """Write the next normal numbers times `scale` into `out`; they are drawn in float64, whatever its dtype."""
        for start in range(0, out.size, _CHUNK):
            part = out[start : start + _CHUNK]
            normals = self._normals[: part.size]
            self._generator.standard_normal(out=normals)
            np.multiply(normals, scale, out=part, casting="same_kind")
