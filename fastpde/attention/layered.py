"""The fields of layers, prepared many at a time: a form of layers has them where that of a batch has systems."""

from __future__ import annotations

from collections.abc import Iterable
from copy import copy
from dataclasses import replace
from typing import cast

import numpy as np

from .._types import Array
from ..batches.reduced_form import ReducedForm
from .base import Attention
from .parameters import Layers, Parameter


def is_ours(head: Attention) -> bool:
    """Return whether a head is of a class of this package: the score of another may not be made for stacked numbers."""
    return type(head).__module__.startswith(f"{__package__}.")


def layers_of(parameters: Iterable[Parameter], axes: int = 0) -> list[Layers]:
    """Return the parameters that depend on time, if they are all layers and none has an axis of systems; else none.

    axes: those that every value has beside the fewest that it may have.
    """
    found = []
    for p in parameters:
        layers = p.source if type(p.source) is Layers else None  # a subclass may have other values
        value = p.source if layers is None else layers.stack[0]
        if callable(value) or np.ndim(value) != min(p.axes) + axes:
            return []
        found += [] if layers is None else [layers]
    return found


def form_of(head: Attention, heads: int | None, first: int, last: int) -> ReducedForm | None:
    """Return the fields of layers first .. last - 1 of a head as a reduced form that has them as systems, or None.

    heads: how many heads it is, stacked as by `side_by_side`; None: it is one, not stacked.
    """
    one, count = copy(head), last - first
    for name, p in head.__getstate__().items():
        if not isinstance(p, Parameter):
            continue
        fewest = min(p.axes)
        if isinstance(p.source, Layers):
            value = p.source.stack[first:last]
            value = value.reshape(-1, *value.shape[value.ndim - fewest :])
        else:
            value = cast(Array, p.source)
            value = value if heads is None else np.tile(value, (count, *[1] * fewest))
        vars(one)[name] = replace(p, source=value, breaks=())
    return with_heads(one._reduced_form(), count, heads or 1)


def with_heads(form: ReducedForm | None, systems: int, heads: int) -> ReducedForm | None:
    """Return a form of systems * heads systems, one head each, as one of `systems` systems of `heads` heads."""
    if form is None:
        return None

    def each(value: Array) -> Array:
        return np.broadcast_to(value, (systems * heads, *value.shape[1:])).reshape(systems, heads, *value.shape[2:])

    A, E, V, bias = (each(value) for value in (form.A, form.E, form.V, form.bias))
    return ReducedForm(form.weight, form.normalised, A, E, V, bias, None if form.D is None else each(form.D))
