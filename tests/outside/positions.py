"""Attentions whose scores depend on positions, as a user writes them."""

from dataclasses import replace

import numpy as np

import fastpde as fp


def rotations(positions):
    """R(p) (n, 2, 2), a turn by p radians."""
    c, s = np.cos(positions), np.sin(positions)
    return np.moveaxis(np.array([[c, -s], [s, c]]), 2, 0)


class Rotary(fp.SingleHead):
    """Averages by e^{<R(p) Qx, R(q) Ky>}."""

    positional = True

    def score(self, t):
        return replace(super().score(t), turn=rotations)


class LinearBias(fp.SingleHead):
    """Averages by e^{<Qx, Ky> - slope (p - q)}, p and q the positions of target and key."""

    positional = True

    def __init__(self, Q, K, V, scale=1.0, slope=0.3):
        self.slope = slope
        super().__init__(Q, K, V, scale)

    def score(self, t):
        return replace(super().score(t), bias_at=lambda positions: self.slope * np.asarray(positions))


class Forgotten(Rotary):
    """A class that does not say that positions matter."""

    positional = False


class NearBias(LinearBias, fp.L2):
    """The same bias beside e^{-|Qx - Ky|^2}."""

    def score(self, t):
        return replace(super().score(t), distance=True)
