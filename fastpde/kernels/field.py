"""The field of a small system, chosen by the type of its parameters.

These are tokens (`systems.Forms`), Gaussians (`closure.Closure`), or Gaussians followed to their limit (`tail.Tail`).
The code of a step calls the two functions of this module and is compiled once for each type: as for weights, the type
of a NamedTuple selects the code.
"""

from __future__ import annotations

from numba.core import types
from numba.extending import overload

from . import closure, systems, tail


def memory_of(scratch, thread):
    """Return the workspace of one thread."""
    raise NotImplementedError("compiled code only")


def velocity(weight, shape, forms, b, x, memory, out):
    """Write the velocity of system b at x into `out`; both are flat rows of lanes."""
    raise NotImplementedError("compiled code only")


def _is(value, kind) -> bool:
    return isinstance(value, types.BaseNamedTuple) and value.instance_class is kind


@overload(memory_of, inline="always")
def _memory_of(scratch, thread):
    if _is(scratch, systems.Workspace):
        return lambda scratch, thread: (
            scratch.keys[thread], scratch.values[thread], scratch.targets[thread], scratch.means[thread],
            scratch.weights[thread], scratch.bias[thread], scratch.squares[thread], scratch.shift[thread],
            scratch.tops[thread], scratch.sums[thread], scratch.centre[thread], scratch.wide_shift[thread],
        )  # fmt: skip
    if _is(scratch, tail.Workspace):
        all_of = tail.Workspace
        return lambda scratch, thread: all_of(
            memory_of(scratch.law, thread), scratch.X[thread], scratch.Y[thread], scratch.F[thread],
            scratch.W[thread], scratch.G[thread], scratch.seen[thread],
        )  # fmt: skip
    work = closure.Workspace
    return lambda scratch, thread: work(
        scratch.Y[thread], scratch.F[thread], scratch.L[thread], scratch.X[thread], scratch.Z[thread],
        scratch.T[thread], scratch.W[thread], scratch.C[thread], scratch.U[thread], scratch.R[thread],
        scratch.G[thread], scratch.M[thread], scratch.P[thread], scratch.slope[thread], scratch.b[thread],
    )  # fmt: skip


@overload(velocity, inline="always")
def _velocity(weight, shape, forms, b, x, memory, out):
    if _is(forms, systems.Forms):
        of_tokens = systems.velocity
        return lambda weight, shape, forms, b, x, memory, out: of_tokens(weight, shape, forms, b, x, memory, out)
    of_law = tail.flat_velocity if _is(forms, tail.Tail) else closure.flat_velocity
    return lambda weight, shape, forms, b, x, memory, out: of_law(forms, b, x, memory, out)
