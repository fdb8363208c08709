"""Heads of one kind as one head, whose parameters have them where those of a batch have systems."""

from __future__ import annotations

from collections.abc import Sequence
from copy import copy
from dataclasses import replace
from typing import Any

import numpy as np

from .._types import Array
from ..errors import InputError
from .base import Attention
from .layered import is_ours
from .parameters import Layers, Parameter
from .single_head import SingleHead


class Unlike(InputError):
    """The error of values that do not stack: they differ in shape, or some have a value for each system."""


class _Values:
    """The values of several parameters at one time, stacked."""

    def __init__(self, parameters: Sequence[Parameter]) -> None:
        self._parameters = parameters
        self._sources: list[Any] = [p.source for p in parameters]
        self._axes = min(parameters[0].axes)

    def __call__(self, t: float) -> Array:
        """Return the values at time t (count, ...). Raises InputError, one of them `Unlike`."""
        try:
            # Copies: functions of time may write into one array.
            found = np.asarray([np.array(source(t)) if callable(source) else source for source in self._sources])
        except ValueError:
            found = np.empty(0, object)
        if found.dtype.kind == "f" and found.ndim == 1 + self._axes:
            return found
        # Something is unusual: each is checked by itself.
        return _stacked([p(t) for p in self._parameters], self._parameters[0].name, self._axes)


def _stacked(values: Sequence[Array], name: str, axes: int) -> Array:
    shapes = {value.shape for value in values}
    if len(shapes) > 1 or values[0].ndim != axes:
        raise Unlike(name, f"shapes {sorted(shapes)}", "one for all heads")
    return np.stack(values)


def parameter_of(parameters: Sequence[Parameter]) -> Parameter:
    """Return parameters as one, whose value is that of all, stacked. Raises `Unlike` where that is not possible."""
    first, (axes, *_) = parameters[0], sorted(parameters[0].axes)
    sources: list[Any] = [p.source for p in parameters]
    if all(p.constant for p in parameters):
        stack = _stacked(sources, first.name, axes)
        stack.flags.writeable = False
        return replace(first, source=stack)
    layers = [source for source in sources if type(source) is Layers]
    if len(layers) == len(sources):
        ends = {(len(source), source.t_end, source.stack.shape) for source in layers}
        if len(ends) == 1 and layers[0].stack.ndim == 1 + axes:
            both = Layers(np.stack([source.stack for source in layers], axis=1), layers[0].t_end)
            return replace(first, source=both)
    return replace(first, source=_Values(parameters))


def head_of(heads: Sequence[Attention]) -> SingleHead | None:
    """Return heads as one, or None if they differ by more than the values of their parameters.

    They are of one of the classes of this package: the score of another may not be made for stacked parameters.
    """
    first = heads[0]
    if not isinstance(first, SingleHead) or any(type(head) is not type(first) for head in heads):
        return None
    one, each = copy(first), [head.__getstate__() for head in heads]
    if not is_ours(first) or any(own.keys() != each[0].keys() for own in each):
        return None
    for name, value in each[0].items():
        values = [own.get(name) for own in each]
        parameters = [own for own in values if isinstance(own, Parameter)]
        if len(parameters) == len(values):
            try:
                vars(one)[name] = parameter_of(parameters)
            except Unlike:
                return None
        elif any(other is not value for other in values):
            return None
    return one
