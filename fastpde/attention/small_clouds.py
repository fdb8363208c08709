"""The field of a small cloud at its own tokens: all systems and all heads in one compiled call."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, cast

import numpy as np

from .._types import Array
from ..batches.reduced_form import is_small
from .cloud import Cloud

if TYPE_CHECKING:
    from ..batches.one_call import OneCall
    from ..sums.backend import Backend
    from .base import Attention


def evaluate(attention: Attention, cloud: Cloud, t: float, backend: Backend, out: Array) -> bool:
    """Write the field at the tokens into out (B, n, length), if the cloud is small; return whether it is.

    Where processes share the tokens, each makes all velocities: that costs less than to send them.
    """
    n, d = cloud.partition.n, cloud.x.shape[2]
    if cloud.at is not None or not (backend.sums_in_one_call and is_small(n, d)) or out.shape[2] != d:
        return False
    call = attention._one_call(t)
    if call is None or not call.fits(cloud.x.dtype):
        return False
    with backend.evaluation():
        if call.masked and cloud.limits is None:
            ordered = cloud.ordered(backend)
            result = out if cloud.is_ordered else backend.workspace("one_call", out.shape, out.dtype)
            _evaluate(call, ordered, backend, result)
            if result is not out:
                cloud.placed(result, out)
        else:
            _evaluate(call, cloud, backend, out)
    backend.count(call.heads * len(out))
    return True


def march(
    attention: Attention, cloud: Cloud, times: Sequence[Sequence[float]], sizes: Array, a: Array, backend: Backend,
    *, sphere: bool,
) -> tuple[int, Array] | None:  # fmt: skip
    """Move the tokens of a cloud, in place, by steps of a method in one compiled call; None if that is not possible.

    The arguments and the result are those of `OneCall.course` and `OneCall.march`.
    """
    (count, n, d), whole = cloud.x.shape, cloud.partition.whole
    if not (count == 1 and whole and backend.sums_in_one_call and is_small(n, d)):
        return None
    call = attention._one_call(times[0][0])
    if call is None or not call.fits(cloud.x.dtype) or (call.masked and not cloud.is_ordered):
        return None
    if not (call.layered or all(p.constant for p in attention.parameters())):
        return None
    course = call.course(times, sizes, a, cloud.x.dtype, sphere=sphere)
    if course is None or not len(course.sizes):
        return None
    with backend.evaluation():
        seen = cloud.ordered(backend) if call.masked else cloud
        found = call.march(seen.x, seen.weights, seen.limits, course, backend.workspace.part("one_call"))
    backend.count(call.heads * found[0] * course.places.shape[1])
    return found


def _evaluate(call: OneCall, cloud: Cloud, backend: Backend, out: Array) -> None:
    """Write the field at tokens, in the order of their positions if these matter, into `out`."""
    workspace, partition = backend.workspace.part("one_call"), cloud.partition
    if partition.whole:
        call(cloud.x, cloud.weights, cloud.limits, out, workspace)
        return

    def all_of(rows: Array | None) -> Array | None:
        return None if rows is None else np.ascontiguousarray(partition.gathered(rows))

    x, weights = cast(Array, all_of(cloud.x)), all_of(cloud.weights)
    limits = None if cloud.limits is None else partition.gathered(cloud.limits[None])[0]
    found = workspace("all", x.shape, x.dtype)
    call(x, weights, limits, found, workspace)
    out[...] = found[:, partition.first : partition.first + partition.here]
