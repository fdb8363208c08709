"""What follows from the heads of an attention: masks beside none, nested heads, parameters that begin late."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.theory.dissipation import _scalings

RNG = np.random.default_rng(0)
Q, K, V = RNG.standard_normal((3, 2, 2)) * 0.5
EYE = np.eye(2)
LAW = (RNG.standard_normal(2), EYE)


def test_masked_beside_unmasked_heads():
    """Under one law at all positions a mask changes no average: limits, fields and closures are those without it."""
    free, masked = (
        fp.MultiHead([wrap(fp.Softmax(Q, -Q, V)), fp.L2(Q, K, V)]) for wrap in (lambda head: head, fp.Masked)
    )
    for one, other in zip(masked.affine(*LAW), free.affine(*LAW), strict=True):
        np.testing.assert_array_equal(one, other)
    assert str(fp.limit(masked, fp.Gaussian(*LAW))) == str(fp.limit(free, fp.Gaussian(*LAW)))
    assert masked._reduced_form() is None and fp.MultiHead([fp.Softmax(Q, K, V)] * 2)._reduced_form() is not None


def test_a_field_that_is_not_affine_beside_a_mask():
    x = RNG.standard_normal((4, 2))
    free, masked = (fp.MultiHead([wrap(fp.Softmax(Q, K, V)), fp.Sigmoid(Q, K, V)]) for wrap in (lambda h: h, fp.Masked))
    np.testing.assert_array_equal(masked.gaussian_velocity(x, *LAW), free.gaussian_velocity(x, *LAW))
    with pytest.raises(fp.NoGaussianClosure, match="per position"):
        fp.MultiHead([fp.Masked(fp.Linear(Q, K, V))]).gaussian_velocity(x, *LAW)
    with pytest.raises(fp.NoGaussianClosure, match="per position"):
        fp.Masked(fp.Sigmoid(Q, K, V)).gaussian_velocity(x, *LAW)


def test_the_slack_of_a_nested_scaling_counts():
    head = fp.Sinkhorn(EYE, EYE, EYE, tol=1e-3)
    flat, nested = (_scalings(fp.MultiHead(heads)) for heads in ([head, head], [fp.MultiHead([head]), head]))
    assert list(flat) == list(nested) == [1e-3, 1e-3]


def test_parameters_that_begin_late():
    def late(t):
        if t < 0.5:
            raise ZeroDivisionError
        return Q

    for attention in (fp.Softmax(late, K, V), fp.L2(Q, late, V), fp.MultiHead([fp.Softmax(Q, K, late)])):
        assert fp.EnergyRecord(attention).trend == 0
        assert fp.solve(attention, RNG.standard_normal((9, 2)), (1.0, 1.1)).success
