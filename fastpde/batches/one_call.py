"""The velocities of small systems in one compiled call, of all systems and all heads."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from typing import Any, NamedTuple, cast
from weakref import ref

import numpy as np

from .._types import Array
from ..kernels import motion, systems
from ..kernels.velocities import march, velocities
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


class Course(NamedTuple):
    """Steps of fixed sizes that are to be made one after the other, by a method of S stages."""

    a: Array  # (S, S) its coefficients; the last row makes the result
    sizes: Array  # (k,) of the steps, signed
    places: Array  # (k, S - 1) which system of a form acts at each stage
    sphere: bool


class OneCall:
    """The field of an attention with a reduced form, at the tokens of small systems.

    Args:
        form: the field.
        masked: whether it is that of a masked attention, whose tokens are in the order of their positions.
        places: returns the number of the system of the form that acts at a time; None: the field is that of all times.
    """

    def __init__(self, form: ReducedForm, *, masked: bool, places: Callable[[float], int] | None = None) -> None:
        self.masked, self.heads, self._places = masked, form.A.shape[1], places
        self._form, self._weight = form, kernel_of(form.weight)
        self._parameters: dict[np.dtype[Any], tuple[Array, Parameters | None]] = {}
        self._place: int | None = None  # of the one system of the form that is meant; None: each has its own
        self._last: list[tuple[Any, ...]] = []  # at most one; the calls of all layers have it in common

    def layer(self, place: int) -> OneCall:
        """Return the call of one system of the form, for all systems of tokens."""
        one = OneCall.__new__(OneCall)  # copy.copy takes 20 microseconds, as long as the sums of some systems
        vars(one).update(vars(self), _place=place)
        return one

    @property
    def layered(self) -> bool:
        """Whether the systems of the form are layers, so that the call may have fields of other times."""
        return self._places is not None

    def fits(self, dtype: np.dtype[Any]) -> bool:
        """Return whether the field can be computed in a precision, see `ReducedForm.fits`."""
        if dtype not in self._parameters:
            fits = self._form.fits(dtype)
            self._parameters[dtype] = fits, Parameters(self._form, dtype) if fits.any() else None
        fits, _ = self._parameters[dtype]
        return bool(fits.all() if self._place is None else fits[self._place % len(fits)])

    def course(
        self, times: Sequence[Sequence[float]], sizes: Array, a: Array, dtype: np.dtype[Any], *, sphere: bool
    ) -> Course | None:
        """Return the steps of these sizes (k,), whose stages are at times (k, S - 1), as far as the form has them.

        Returns None if some of the form's matrices do not fit the precision.
        """
        fits, _ = self._parameters[dtype]
        if not fits.all():
            return None
        places = np.zeros((len(sizes), len(a) - 1), np.int64)
        if self._places is not None:
            places[:] = [[self._places(t) for t in row] for row in times]
        known = np.logical_and(places >= 0, places < len(self._form.A)).all(axis=1)
        count = len(places) if known.all() else int(known.argmin())
        return Course(a, sizes[:count], places[:count], sphere)

    def __call__(self, x: Array, weights: Array | None, limits: Array | None, out: Array, workspace: Workspace) -> None:
        """Write the velocities of tokens x (B, n, d), whose precision `fits`, into `out`, both contiguous.

        weights: (1 or B, n) float64, None: 1/n; limits: (n,) how many leading tokens each token sees, None: all.
        """
        shape, forms = self._prepared(x, weights, limits)
        division = _division(len(x), shape)
        scratch, rows, means = self._memory(division.threads, shape, x.dtype, workspace)
        flat = x.reshape(-1), out.reshape(-1)
        for first in range(0, division.items, division.block):
            check()
            last = min(first + division.block, division.items)
            velocities(
                self._weight, shape, forms, first, last, division.portion, division.cuts, division.shared, flat[0],
                scratch, rows, means, flat[1],
            )  # fmt: skip

    def march(
        self, x: Array, weights: Array | None, limits: Array | None, course: Course, workspace: Workspace
    ) -> tuple[int, Array]:
        """Move the tokens x (1, n, d), in place, by up to as many steps of a course as a call should make.

        Returns how many were made: it ends before a step whose result is not finite. And the largest |entries| of x at
        the beginning and after each of them.
        """
        shape, forms = self._all(x, weights, limits)
        division, stages = _division(1, shape), len(course.a) - 1
        count = max(1, min(len(course.sizes), int(_LONG / (_work(shape) * stages))))
        scratch, rows, means = self._memory(division.threads, shape, x.dtype, workspace)
        method = motion.Method(course.a, np.empty(0), np.empty((0, 0)), adaptive=False, dense_needs_last=False)
        steps = motion.allocate(1, shape, method, 0, x.dtype, workspace)
        largest = np.empty(count + 1)
        check()
        made = march(
            self._weight, shape, forms, course.sphere, division.cuts, course.places[:count], course.sizes[:count],
            course.a, x.reshape(-1), scratch, rows, means, steps, largest,
        )  # fmt: skip
        return made, largest[: made + 1]

    def _memory(self, threads: int, shape: systems.Shape, dtype: np.dtype[Any], workspace: Workspace) -> Any:
        """Return the memory of the threads, for systems of their own and one that they share."""

        def make(own: Workspace) -> tuple[systems.Workspace, Array, Array]:
            rows = own("rows", (threads + 1, 2, shape.rows * shape.lanes), dtype)
            means = own("shared_means", (shape.heads * shape.d * shape.lanes,), dtype)
            return systems.allocate(threads, shape, dtype, own), rows, means

        kind = f"small.{shape.heads}.{shape.normalised}.{shape.tilted}.{shape.plain}"  # heads of two kinds take turns
        return workspace.kept(kind, (threads, shape, dtype), make)

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
        self._count, self._place, self._form, self._masked = len(layers[0]), layers[0].place, form, masked
        self._together = max(1, int(_TOGETHER / sum(own.stack[0].nbytes for own in layers)))
        # Pairs, read and replaced whole: threads may share an attention, each at a time of its own.
        self._held: tuple[int, OneCall | None] = (-1, None)
        self._now: tuple[int, OneCall | None] = (-1, None)

    def at(self, t: float) -> OneCall | None:
        """Return the call of the layer that acts at time t; None if it has no reduced form."""
        place = self._place(t)
        known, call = self._now
        if known == place:
            return call
        part = place // self._together  # the same ones together wherever a run begins
        first = part * self._together
        held, calls = self._held
        if held != part:
            form = self._form(first, min(first + self._together, self._count))
            calls = (
                None if form is None else OneCall(form, masked=self._masked, places=lambda t: self._place(t) - first)
            )
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
    cuts: tuple[int, int]  # into how many parts the tokens and the heads of a system are divided
    shared: bool  # whether threads share systems: there are several parts
    items: int  # parts of all systems
    block: int  # items between checks whether to stop
    portion: int  # items that a thread takes at a time


def _division(count: int, shape: systems.Shape) -> _Division:
    """Divide the work of `count` systems: items are worth a thread, and there are some for each."""
    work, tiles, heads = _work(shape), shape.lanes // shape.width, shape.heads if shape.normalised else 1
    threads = max(1, min(pool.threads(), int(count * work / _LEAST)))
    wanted = max(-(-_ITEMS * threads // count) if threads > 1 else 1, int(work / _LONG))
    wanted = max(1, min(wanted, int(work / _LEAST)))
    # Parts of all heads would each make the scores' keys again; those of some heads are nearly free.
    shares = heads if heads < 2 * wanted else wanted
    cuts = min(tiles, -(-wanted // shares)), shares if wanted > 1 else 1
    pieces = cuts[0] * cuts[1]
    items, each = count * pieces, work / pieces
    portion = max(1, items // (2 * _ITEMS * threads), int(_LEAST / each))
    return _Division(threads, cuts, pieces > 1, items, max(1, int(_LONG / each)), portion)
