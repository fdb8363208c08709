"""An attention with a weight of its own, as a user writes it."""

import numpy as np

import fastpde as fp


def cauchy(s):
    """w(s) = 1 / (1 + (s - 1)^2): a score of one weighs the most."""
    return 1.0 / (1.0 + (s - 1.0) ** 2)


def slope(s):
    """w'(s)."""
    return -2.0 * (s - 1.0) / (1.0 + (s - 1.0) ** 2) ** 2


def bump(s):
    """w(s) = e^{-s^2 / 2}."""
    return np.exp(-0.5 * s * s)


class Cauchy(fp.SingleHead):
    """Gamma_mu(x) = V int y w(s(x, y)) dmu(y), sharper for a larger `power`."""

    weight = fp.Weight(cauchy, slope, bounded_by=(1.0, 0.65))
    normalised = False

    def __init__(self, Q, K, V, scale=1.0, power=1.0):
        super().__init__(Q, K, V, scale=power * np.asarray(scale))


class Bump(fp.SingleHead):
    """An average by a weight that is small for all large scores."""

    weight = fp.Weight(bump)
    normalised = True
