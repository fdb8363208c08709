"""The central limit of tokens: closed forms, differences in the weights, and what clouds show."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.studies.central_limit import _Probed, predicted_covariance
from fastpde.studies.limit_settings import Setting, attention_of


def test_the_predicted_covariance_has_the_closed_form_of_softmax():
    """S = I: e^{|u|^2} V (I + u u^T) V^T with u = A x (Theory 8.3).

    The rule has 8 points per axis, and is exact to degree 15: the integrand e^{2 <u, y>} y y^T, |u| < 0.6, has terms of
    degree 16 of size 1.2^14 / 14! * 15!! / 2 < 1e-3.
    """
    rng = np.random.default_rng(0)
    Q, K, V = 0.4 * rng.standard_normal((3, 2, 2))
    x = rng.uniform(-1, 1, (5, 2))
    u = x @ (K.T @ Q).T
    assert np.linalg.norm(u, axis=1).max() < 0.6
    want = np.exp((u * u).sum(axis=1))[:, None, None] * (V @ (np.eye(2) + u[:, :, None] * u[:, None, :]) @ V.T)
    found = predicted_covariance(fp.Softmax(Q, K, V), fp.Gaussian(0.0, np.eye(2)), x)
    np.testing.assert_allclose(found, want, rtol=2e-3, atol=1e-6)


@pytest.mark.parametrize("variant", ["softmax", "sinkhorn", "multihead", "masked", "exponential"])
def test_influences_are_derivatives_with_respect_to_the_weights(variant):
    """n Cov against sum_z w_z IF_z IF_z^T, IF_z by central differences in the weights w + h (e_z - w).

    A probe has the mass 1e-6 in runs, so that places are right to 1e-5 or so; differences are to h^2 of third
    derivatives, weights of 1/12 changing by a thousandth.
    """
    attention = attention_of(Setting("ball", variant, 2.0), 2, 1)
    levels = 2 if variant == "masked" else 1
    rng = np.random.default_rng(2)
    nodes, x = rng.standard_normal((12, 2)), rng.standard_normal((2, 2))
    w = rng.uniform(0.5, 1.5, (levels, 12 // levels))
    w = (w / w.sum(axis=1, keepdims=True) / levels).ravel()
    probed = _Probed(attention, nodes, w, x, levels)
    places = np.arange(12) // (12 // levels), np.arange(2) % levels
    how = {"positions": places[0], "at_positions": places[1]} if levels > 1 else {}
    end, tiny, h = 0.3, 1e-6, 1e-4

    def velocity(masses):
        return attention.velocity(nodes, at=x, weights=masses, backend="direct", **how)

    def place(masses):
        both = np.concatenate([masses * (1 - 2 * tiny), [tiny, tiny]])
        run = fp.solve(attention, np.concatenate([nodes, x]), (0.0, end), weights=both, rtol=1e-11, atol=1e-13,
                       positions=np.concatenate(places) if levels > 1 else None, backend="direct")  # fmt: skip
        return run.x[-1][12:]

    for seen, found in ((velocity, probed.velocities()), (place, probed.places(end, 0.01))):
        influence = []
        for z in range(12):  # the mass of its position goes to z
            level = places[0] == places[0][z]
            change = (np.arange(12) == z) - w * level / w[level].sum()
            influence.append((seen(w + h * change) - seen(w - h * change)) / (2 * h))
        want = np.einsum("z,zpa,zpb->pab", w, influence, influence)
        np.testing.assert_allclose(found, want, rtol=2e-4, atol=1e-5 * np.abs(want).max())


def check(found):
    """All covariances are within 3 standard errors, at t = 0 and at three later times."""
    assert set(np.unique(found.clt["what"])) == {"velocity", "place"}
    off = found.deviations()
    for row, one in enumerate(off):
        told = {name: values[row] for name, values in found.clt.items()}
        assert abs(one) <= 3.0, told


def test_clouds_show_what_is_predicted():
    found = fp.studies.mean_field(("sigmoid",), (10,), 2, laws=("ball",), dimension=1, times=2, steps=3, clt_draws=400)
    assert len(found.clt["t"]) == 4 and list(found.clt["t"]) == [0.0, *np.linspace(0.0, 1.0, 4)[1:]]
    check(found)


@pytest.mark.soak
@pytest.mark.parametrize("d", [1, 2])
def test_clouds_of_all_variants_show_what_is_predicted(d):
    found = fp.studies.mean_field(
        sizes=(10,), draws=2, laws=("ball",), dimension=d, times=2, steps=6, distances=False, clt_draws=1000
    )
    check(found)
