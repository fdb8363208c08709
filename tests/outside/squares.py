"""A weight and a way to sum it, as somebody adds them: one file, and `ways.WAYS.append(Squares())`.

For w(s) = s^2 the sum over the sources is a quadratic form of the target, <z, y>^2 = <z z^T, y y^T>, so that it needs
O(n) operations.
"""

import numpy as np

import fastpde as fp
from fastpde.sums.costs import Estimate
from fastpde.sums.pair_sum import PairSum
from fastpde.sums.summation import Summation


def square(s):
    """w(s) = s^2."""
    return s * s


SQUARE = fp.Weight(square)


class Squared(fp.SingleHead):
    """Gamma_mu(x) = V int y s(x, y)^2 dmu(y)."""

    weight = SQUARE
    normalised = False


class Squares(Summation):
    """The second moments of the sources, and a quadratic form of each target."""

    name = "squares"

    def serves(self, pair):
        return pair.weight == SQUARE

    def estimate(self, task):
        if task.pair.limits is not None or task.pair.bias is not None or task.partition is not None:
            return None
        k, c = task.pair.keys.shape[2], task.pair.carried.shape[2]
        unit = float(np.abs(task.pair.carried).max() * np.square(task.pair.targets).sum(axis=2).max()
                     * np.square(task.pair.keys).sum(axis=2).max())  # fmt: skip
        eps = float(np.finfo(task.out.dtype).eps)
        return Estimate(5e-9 * (task.sources + task.targets) * k * k * c, 1e-4, unit=unit, rounding=64.0 * eps)

    def attend(self, task, plan):
        z, y, values = (rows[0].astype(np.float64) for rows in (task.pair.targets, task.pair.keys, task.pair.carried))
        masses = np.full(len(y), 1.0 / len(y)) if task.pair.masses is None else task.pair.masses[0]
        moments = np.einsum("j,jk,jl,jc->ckl", masses, y, y, values, optimize=True)
        task.out[:] = np.einsum("ik,il,ckl->ic", z, z, moments, optimize=True)

    def examples(self, dtype):
        x = np.random.default_rng(0).standard_normal((1, 100, 2)).astype(dtype)
        yield PairSum(SQUARE, False, x, x)
