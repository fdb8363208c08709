"""The estimate of the memory that a run needs, for refusals before anything starts and for `fastpde estimate`."""

from __future__ import annotations

import math
from typing import NamedTuple

import numpy as np

from fastpde.attention.variants import named
from fastpde.config.schema import Config
from fastpde.errors import InputError
from fastpde.run import machine
from fastpde.sums.costs import may_choose

BASE = 250 * 2**20  # bytes of the interpreter, the libraries and the compiled code
SHARE = 0.8  # of the machine's memory that a run may need
# Arrays of all tokens alive in a step, measured: those of the stepper beside its stages, and those of a direct sum.
_STEPPER, _DIRECT = 5, 4
_STAGES = {"euler": 1, "heun": 2, "rk4": 4, "bosh3": 4, "dopri5": 7, "tsit5": 7}
_FAST, _FAST_AXIS = 20, 33  # bytes per token of a sum in O(n), and of each of its coordinates; measured
# Bytes per token of trees and of the cells of grids with more than two axes, each up to some: larger clouds fill the
# same cells, and few of them need a tree.
_TREE, _CUBE, _MOST = 60, 1000, 200 * 2**20
_PLANE, _AXES = 2, 4  # coordinates: of grids that are small, and at most
_MASKED = 150 * 2**20  # bytes of the windows of a masked sum
# Numbers of float64 per token: what a scaling works with, and what a run remembers of each head (potentials, window),
# of which there is a copy that an evaluation cut by a signal goes back to.
_SCALING, _REMEMBERED = 40, 27
# Arrays of all tokens that a rank holds if its sums gather the tokens, and do not send the moments of one grid.
_GATHERED = 3


class Ranks(NamedTuple):
    """The processes that share the tokens of a run: `size` in all, `here` of them on this machine."""

    size: int = 1
    here: int = 1


ALONE = Ranks()


def at_work(config: Config, systems: int, n: int, d: int) -> int:
    """Return the bytes of all arrays of a run, of the libraries and of the compiled code."""
    array = n * d * np.dtype(config.backend.dtype).itemsize
    copies: float = _STAGES[config.time.method] + _STEPPER + _DIRECT
    if systems > 1:
        # An ensemble holds the start of all its systems, and all frames of those that run at a time, one at least.
        copies += frames(config) + systems
    fast = may_be_fast(config, n, d)
    per_token = _FAST + _FAST_AXIS * min(d, _AXES) if fast else 0
    kept = remembered(config)
    per_token += 8 * (_SCALING + 2 * kept) if kept else 0
    windows = _MASKED if fast and config.attention.masked else 0
    trees = min(_TREE * n, _MOST) if fast else 0
    cells = min(_CUBE * n, _MOST) if fast and d > _PLANE else 0
    return BASE + int(array * copies) + n * per_token + windows + trees + cells


def may_be_fast(config: Config, n: int, d: int) -> bool:
    """Return whether sums of n tokens may be made in O(n)."""
    return config.backend.kind == "fast" or (config.backend.kind == "auto" and may_choose(n, d))


def remembered(config: Config) -> int:
    """Return how many float64 numbers per token a run remembers, summed over all heads."""
    scalings = [head for head in config.attention.heads if named(head.kind).scales and head.n_half is None]
    return _REMEMBERED * sum(getattr(head, "count", 1) for head in scalings)


def frames(config: Config) -> float:
    """Return the approximate number of frames of a run."""
    return (config.time.t_end - config.time.t_start) / (config.output.every or math.inf)


def of_ranks(config: Config, systems: int, n: int, d: int, ranks: Ranks) -> int:
    """Return the bytes of all ranks on this machine.

    Each holds its own tokens and, unless its sums send the moments of one grid, at times the keys and values of all
    tokens. Of an ensemble, each makes the initial tokens of all systems.
    """
    if ranks.size == 1 or systems > 1:
        return ranks.here * at_work(config, systems, n, d)
    own = at_work(config, systems, -(-n // ranks.size), d)
    heads = config.attention.heads
    grids = (
        may_be_fast(config, n, d)
        and not config.attention.masked
        and all(named(head.kind).is_exponential for head in heads)
    )
    gathered = 0 if grids else _GATHERED * n * d * np.dtype(config.backend.dtype).itemsize
    return ranks.here * (own + gathered)


def check(config: Config, systems: int, n: int, d: int, ranks: Ranks = ALONE) -> None:
    """Raise InputError, with the numbers, if a run needs more than 80 % of the memory that this process may use."""
    limit, size = machine.memory(), of_ranks(config, systems, n, d, ranks)
    if size > SHARE * limit:
        many = "tokens.systems" if systems > 1 and systems > frames(config) else "tokens.n"
        name = "tokens.path" if config.tokens.kind == "file" else many
        came = f"{n} tokens of dimension {d}, about {size / 2**30:.3g} GiB at work"
        came = came if systems == 1 else f"{systems} systems of {came}"
        raise InputError(name, came, f"less than 80 % of this machine's {limit / 2**30:.3g} GiB")
