"""The continuous extension over one step."""

import numpy as np
import pytest

from fastpde.integrate.dense import Piece
from fastpde.integrate.methods import METHODS, TABLEAUX
from fastpde.integrate.space import VectorSpace


@pytest.mark.parametrize("name", METHODS)
def test_ends(name):
    tableau, h = TABLEAUX[name], 0.25
    rng = np.random.default_rng(0)
    y0, stages = rng.normal(size=(3, 2)), rng.normal(size=(tableau.stages, 3, 2))
    piece = Piece(tableau, VectorSpace(y0.shape, y0.dtype), 1.0, h, y0, stages)
    out = np.empty_like(y0)
    piece.evaluate(1.0, out)
    assert out.tobytes() == y0.tobytes()
    piece.evaluate(1.25, out)
    # The weights at theta = 1 are sums of terms up to 90 (tsit5): their rounding, times h and stages of size
    # 3.
    np.testing.assert_allclose(out, y0 + h * np.tensordot(tableau.b, stages, 1), rtol=0, atol=1e-13)
    if tableau.dense_needs_last:
        # C1: the slope at the end is the last stage. The error of a central difference is its step squared
        # times a third derivative of at most 1e3 / h^2: 2e-6.
        low, high = np.empty_like(y0), np.empty_like(y0)
        piece.evaluate(1.25 - 1e-5, low)
        piece.evaluate(1.25 + 1e-5, high)
        np.testing.assert_allclose((high - low) / 2e-5, stages[-1], rtol=0, atol=1e-4)
