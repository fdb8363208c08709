"""The velocities of small systems in one compiled call, of all systems and all heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast
from weakref import ref

import numpy as np

from .._types import Array
from ..kernels import systems
from ..kernels.velocities import velocities
from ..simd import pool
from ..simd.called import kernel_of
from ..sums.slices import check
from ..sums.workspace import Workspace
from .forms import Parameters, forms_of, of_one
from .reduced_form import ReducedForm

_LEAST = 1e5  # work in an item or a portion of them, some 20 microseconds; see `_work`
_LONG = 1e9  # work in a call: the next one may be interrupted before it begins
_TOGETHER = 2e6  # bytes of the parameters of layers that are prepared together
_ITEMS = 4  # for each thread, at least: one that was held up does not hold up the call


class OneCall:
    """The field of an attention with a reduced form, at the tokens of small systems.

    Args:
        form: the field.
        masked: whether it is that of a masked attention, whose tokens are in the order of their positions.
    """

    def __init__(self, form: ReducedForm, *, masked: bool) -> None:
        self.masked, self.heads = masked, form.A.shape[1]
        self._form, self._weight = form, kernel_of(form.weight)
        self._parameters: dict[np.dtype[Any], tuple[Array, Parameters | None]] = {}
        self._place: int | None = None  # of the one system of the form that is meant; None: each has its own
        self._last: list[tuple[Any, ...]] = []  # at most one; the calls of all layers have it in common

    def layer(self, place: int) -> OneCall:
        """Return the call of one system of the form, for all systems of tokens."""
        one = OneCall.__new__(OneCall)  # copy.copy takes 20 microseconds, as long as the sums of some systems
        vars(one).update(vars(self), _place=place)
        return one

    def fits(self, dtype: np.dtype[Any]) -> bool:
        """Return whether the field can be computed in a precision, see `ReducedForm.fits`."""
        if dtype not in self._parameters:
            fits = self._form.fits(dtype)
            self._parameters[dtype] = fits, Parameters(self._form, dtype) if fits.any() else None
        fits, _ = self._parameters[dtype]
        return bool(fits.all() if self._place is None else fits[self._place % len(fits)])

    def __call__(self, x: Array, weights: Array | None, limits: Array | None, out: Array, workspace: Workspace) -> None:
        """Write the velocities of tokens x (B, n, d), whose precision `fits`, into `out`, both contiguous.

        weights: (1 or B, n) float64, None: 1/n; limits: (n,) how many leading tokens each token sees, None: all.
        """
        shape, forms = self._prepared(x, weights, limits)
        division = _division(len(x), _work(shape), shape.lanes // shape.width)

        def make(own: Workspace) -> tuple[systems.Workspace, Array]:
            rows = own("rows", (division.threads, 2, shape.rows * shape.lanes), x.dtype)
            return systems.allocate(division.threads, shape, x.dtype, own), rows

        scratch, rows = workspace.kept("small", (division.threads, shape, x.dtype), make)
        flat = x.reshape(-1), out.reshape(-1)
        for first in range(0, division.items, division.block):
            check()
            last = min(first + division.block, division.items)
            velocities(
                self._weight, shape, forms, first, last, division.portion, division.parts, flat[0], scratch, rows,
                flat[1],
            )  # fmt: skip

    def _prepared(self, x: Array, weights: Array | None, limits: Array | None) -> tuple[systems.Shape, systems.Forms]:
        """Return the sizes of the systems, and their parameters."""
        shape, forms = self._all(x, weights, limits)
        return shape, forms if self._place is None else of_one(forms, self._place)

    def _all(self, x: Array, weights: Array | None, limits: Array | None) -> tuple[systems.Shape, systems.Forms]:
        """Return the sizes of the systems and all parameters of the form: those of the last call, if it fits."""
        key, (_, n, d) = (x.shape[1:], x.dtype), x.shape
        for same, *seen, found in tuple(self._last):
            if same == key and all(_is(old, new) for old, new in zip(seen, (weights, limits), strict=True)):
                return cast("tuple[systems.Shape, systems.Forms]", found)
        form, (_, parameters) = self._form, self._parameters[x.dtype]
        assert parameters is not None, "does not fit"
        shape = systems.shape_for(
            n, d, self.heads, x.dtype,
            normalised=form.normalised, tilted=form.D is not None, weighted=weights is not None, sphere=False,
        )  # fmt: skip
        found = shape, forms_of(shape, parameters, weights, limits)
        if weights is None or len(weights) == 1:
            self._last[:] = [(key, *(None if array is None else ref(array) for array in (weights, limits)), found)]
        return found


class LayerCalls:
    """The calls of all layers of an attention, which are prepared some at a time.

    Args:
        layers: the parameters that depend on time, of one length and duration.
        form: returns the fields of layers first .. last - 1 as a reduced form, or None.
        masked: see `OneCall`.
    """

    def __init__(self, layers: Sequence[Any], form: Callable[[int, int], ReducedForm | None], *, masked: bool) -> None:
        self._layers, self._form, self._masked = layers[0], form, masked
        self._together = max(1, int(_TOGETHER / sum(own.stack[0].nbytes for own in layers)))
        # Pairs, read and replaced whole: threads may share an attention, each at a time of its own.
        self._held: tuple[int, OneCall | None] = (-1, None)
        self._now: tuple[int, OneCall | None] = (-1, None)

    def at(self, t: float) -> OneCall | None:
        """Return the call of the layer that acts at time t; None if it has no reduced form."""
        place = self._layers.place(t)
        known, call = self._now
        if known == place:
            return call
        part = place // self._together  # the same ones together wherever a run begins
        first = part * self._together
        held, calls = self._held
        if held != part:
            form = self._form(first, min(first + self._together, len(self._layers)))
            calls = None if form is None else OneCall(form, masked=self._masked)
            self._held = part, calls
        call = None if calls is None else calls.layer(place - first)
        self._now = place, call
        return call


def _is(held: Any, array: Array | None) -> bool:
    """Return whether an array, or None, is the one to which a weak reference is held."""
    return array is None if held is None else array is not None and held() is array


def _work(shape: systems.Shape) -> float:
    """Return the work of a system, in units of some 0.2 nanoseconds of a thread."""
    return float(shape.heads * shape.lanes * shape.n * (4 + 2 * shape.d))


class _Division(NamedTuple):
    """How a call is divided among threads."""

    threads: int
    parts: int  # of a system
    items: int  # parts of all systems
    block: int  # items between checks whether to stop
    portion: int  # items that a thread takes at a time


def _division(count: int, work: float, tiles: int) -> _Division:
    """Divide the work of `count` systems of so many tiles: items are worth a thread, and there are some for each."""
    threads = max(1, min(pool.threads(), int(count * work / _LEAST)))
    wanted = max(-(-_ITEMS * threads // count) if threads > 1 else 1, int(work / _LONG))
    parts = max(1, min(tiles, wanted, int(work / _LEAST)))
    items, each = count * parts, work / parts
    portion = max(1, items // (2 * _ITEMS * threads), int(_LEAST / each))
    return _Division(threads, parts, items, max(1, int(_LONG / each)), portion)
