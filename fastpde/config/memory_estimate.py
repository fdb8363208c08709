"""The estimate of the memory that a run needs, for refusals before anything starts and for `fastpde estimate`."""

from __future__ import annotations

import math
from typing import Any, NamedTuple

import numpy as np

from fastpde.attention.l2 import L2
from fastpde.attention.variants import named
from fastpde.config.matrices import Scaled, Stored
from fastpde.config.schema import Config
from fastpde.errors import InputError
from fastpde.integrate.methods import TABLEAUX
from fastpde.run import machine
from fastpde.sums.costs import may_choose
from fastpde.weights import Linear

BASE = 250 * 2**20  # bytes of the interpreter, the libraries and the compiled code
SHARE = 0.8  # of the machine's memory that a run may need
# Arrays of all tokens alive in a step beside those of its stages: the first state, the present one, the one that is
# tried, and a frame.
_STATES = 4
BLOCK, _COPIES = 2**28, 3  # bytes of the frames of systems that run at a time, and how often they are held
_SUMMED = 3  # those of the stages of a method that keeps their sum, see `integrate.stages`
# Arrays of all tokens, tokens and velocities, and numbers of float64, in the order of positions that are given.
_SORTED, _PLACES = 2, 4
_HEADS = 2  # those in which the fields of several heads are added
_KEYS, _INDEX = 8, 4  # bytes of a coordinate in a sum in O(n), always of float64, and of the place of a sorted point
_PART = 2**15  # sources that are packed at a time to check such a sum
_NODES = 110  # bytes per token of the nodes of a bounded weight; measured
# Bytes per token of trees and of the cells of grids with three and four axes, each up to some: larger clouds fill the
# same cells, and few of them need a tree. Measured.
_TREE, _CELLS = (60, 200 * 2**20), {3: (1000, 200 * 2**20), 4: (1200, 1200 * 2**20)}
_AXES = 4  # coordinates of a sum in O(n), at most
_MASKED, _WINDOWS = 90, (600, 220 * 2**20)  # the same of the windows of a masked sum
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


class PerToken(NamedTuple):
    """The bytes that a token costs at work: those of its states and of the stages of a step, and those of sums."""

    states: float
    sums: float


def at_work(config: Config, systems: int, n: int, d: int) -> int:
    """Return the bytes of all arrays of a run, of the libraries and of the compiled code."""
    each = of_token(config, n, d)
    needs = n * (each.states + each.sums)
    if systems > 1:
        # An ensemble holds the start of all its systems, and all frames of those that run at a time, one at least.
        system = n * d * np.dtype(config.backend.dtype).itemsize
        all_frames = system * frames(config)
        needs += system * systems + _COPIES * max(all_frames, min(BLOCK, all_frames * systems))
    if may_be_fast(config, n, d):
        wide = _packed(d) * np.dtype(config.backend.dtype).itemsize
        needs += wide * (n if config.attention.masked else min(n, _PART)) + _up_to(_TREE, n)
        needs += _up_to(_CELLS[min(d, _AXES)], n) if d >= min(_CELLS) else 0
        needs += n * _MASKED + _up_to(_WINDOWS, n) if config.attention.masked else 0
    return BASE + int(needs)


def of_token(config: Config, n: int, d: int) -> PerToken:
    """Return the bytes that one of n tokens costs, as far as they grow with n."""
    itemsize, heads = np.dtype(config.backend.dtype).itemsize, config.attention.heads
    tableau, layered = TABLEAUX[config.time.method], any(_layered(head) for head in heads)
    arrays = _STATES + (config.time.noise > 0)
    # At the jumps between layers all stages are kept, and the field on either side.
    arrays += _SUMMED if tableau.by_sum and not layered else tableau.stages + (layered and tableau.dense_needs_last)
    sums = max((_of_sum(config, head, n, d) for head in heads), default=0.0)
    if len(heads) > 1 or any(getattr(head, "count", 1) > 1 for head in heads):
        sums += _HEADS * d * itemsize
    if config.output.energy:
        sums += _of_energy(config, n, d)
    if config.output.divergence or config.output.entropy:  # targets, keys, values, columns and results in float64
        sums += 8 * (8 * d + 4) + (_of_grid(d, alike=False) if may_be_fast(config, n, d) else 0)
    if config.output.entropy:  # what is followed, its step and what a checkpoint may need of the one before
        sums += 8 * (2 * d * (tableau.stages + 1) + tableau.stages + 4)
    if config.tokens.positions is not None:
        sums += _SORTED * d * itemsize + 8 * _PLACES
    kept = remembered(config)
    return PerToken(arrays * d * itemsize, sums + (8 * (_SCALING + 2 * kept) if kept else 0))


def _of_sum(config: Config, head: Any, n: int, d: int) -> float:
    """Return the bytes per token of the sums of a head."""
    kind, itemsize = named(head.kind).kind, np.dtype(config.backend.dtype).itemsize
    distances, fast = issubclass(kind, L2), may_be_fast(config, n, d)
    arrays = 1 + (distances or not _plain(head))  # keys; targets, unless they are the tokens
    arrays += distances or not kind.normalised  # what the bias is made of; values, unless they are the keys
    found: float = d * itemsize * arrays + (itemsize if distances else 0)
    if isinstance(kind.weight, Linear):
        return found
    if not fast:
        return found + _packed(d) * itemsize
    # Keys that are rounded to float32 are not targets moved by a constant.
    found += _of_grid(d, alike=itemsize == _KEYS and _alike(head))
    if distances:
        return found + 2 * _KEYS  # the bias as it came, and sorted
    if kind.normalised:
        return found
    # Logs of totals, and of the values what coordinates do not tell; of bounded weights nodes.
    return found + (2 * _KEYS * (1 + d) if named(head.kind).is_exponential else _NODES + 2 * _KEYS * d)


def _of_grid(d: int, *, alike: bool) -> float:
    """Return the bytes per token of coordinates and of points sorted into cells; alike: sorted once for both sides."""
    axes = min(d, _AXES)
    return 2 * _KEYS * axes + _INDEX + (1 if alike else 2) * (_INDEX + _KEYS * axes)


def _of_energy(config: Config, n: int, d: int) -> float:
    """Return the bytes per token of the sum of an energy: values with a one, totals, gradients; a grid of its own."""
    itemsize = np.dtype(config.backend.dtype).itemsize
    values = 8 * (d + 1) * 4
    return 2 * d * itemsize + values + (2 * _KEYS + _of_grid(d, alike=False) if may_be_fast(config, n, d) else 0)


def _packed(d: int) -> int:
    """Return the numbers per source that a direct sum packs: key, value, bias and weight."""
    return 2 * d + 2


def _plain(head: Any) -> bool:
    """Return whether <Q x, K y> is <x, y>, so that the tokens are the targets."""
    return head.Q == head.K == "identity" and head.scale == 1.0


def _alike(head: Any) -> bool:
    """Return whether targets lie as sources do: K is Q times a positive number."""
    same = head.K == head.Q != "normal" or (isinstance(head.K, Scaled) and head.K.scale > 0.0)
    return same and isinstance(head.scale, float) and head.scale > 0.0


def _layered(head: Any) -> bool:
    """Return whether a parameter of the head has layers."""
    return any(isinstance(matrix, Stored) and "layer" in matrix.index for matrix in (head.Q, head.K, head.V))


def _up_to(limited: tuple[int, int], n: int) -> int:
    """Return n times the bytes per token, but no more than the limit."""
    each, limit = limited
    return min(each * n, limit)


def may_be_fast(config: Config, n: int, d: int) -> bool:
    """Return whether sums of n tokens may be made in O(n)."""
    return config.backend.kind == "fast" or (config.backend.kind == "auto" and may_choose(n, d))


def remembered(config: Config) -> int:
    """Return how many float64 numbers per token a run remembers, summed over all heads."""
    scalings = [head for head in config.attention.heads if named(head.kind).scales and head.n_half is None]
    return _REMEMBERED * sum(getattr(head, "count", 1) for head in scalings)


def frames(config: Config) -> float:
    """Return the approximate number of frames of a run."""
    if config.output.times is not None:
        return 2.0 + len(config.output.times)
    return 1.0 + (config.time.t_end - config.time.t_start) / (config.output.every or math.inf)


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
    gathered += 0 if config.tokens.positions is None else 8 * _PLACES * n  # every rank sorts them all
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
