"""Log densities along tokens: Gaussian laws exactly, other laws by the volumes that tangents of probes span."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from ..gaussian.cases import attentions, law, nodes
from .test_adjoint import P

RNG = np.random.default_rng(0)


def log_normal(x, mean, cov):
    solved = np.linalg.solve(cov, (x - mean).T).T
    return -0.5 * (np.einsum("ni,ni->n", x - mean, solved) + np.linalg.slogdet(2 * np.pi * cov)[1])


@pytest.mark.parametrize(
    ("kind", "atol"), [("Softmax", 1e-12), ("L2", 1e-12), ("MultiHead", 1e-12), ("Sinkhorn", 1e-9)]
)
def test_a_gaussian_law(kind, atol):
    """Its law at any time is that of the closure: log densities at Gauss-Hermite nodes, and the entropy.

    Steps are right to 1e-13, under Sinkhorn attention to 1e-9. Far nodes see tails that no quadrature has.
    """
    attention, (mean, cov), times = attentions(2)[kind], law(2), [0.0, 0.2, 0.4]
    x, w = nodes(mean, cov, 22, 1e-18)
    exact = fp.solve(attention, fp.Gaussian(mean, cov), (0.0, 0.4), t_eval=times, rtol=1e-13, atol=1e-15)
    options = {"weights": w, "t_eval": times, "rtol": 0.1 * atol, "atol": 0.01 * atol}
    found = fp.solve(attention, x, (0.0, 0.4), log_density=lambda y: log_normal(y, mean, cov), **options)
    bulk = np.linalg.norm(x - mean, axis=1) < 2.5 * np.sqrt(np.linalg.eigvalsh(cov)[-1])
    for m in range(3):
        want = log_normal(found.x[m], exact.mean[m], exact.cov[m])
        np.testing.assert_allclose(found.log_density[m, bulk], want[bulk], rtol=0, atol=10 * atol)
        entropy = 0.5 * np.linalg.slogdet(2 * np.pi * np.e * exact.cov[m])[1]
        assert abs(-w @ found.log_density[m] - entropy) < 10 * atol
    assert np.array_equal(found.log_density[-1], found.log_density_final)


@pytest.mark.parametrize("method", ["euler", "dopri5"])
@pytest.mark.parametrize("place", ["plane", "sphere", "mask"])
def test_small_volumes_around_tokens_without_mass(place, method):
    """A token of hardly any mass moves by a field that it does not change: its tangents span what div integrates.

    The mass is 1e-14. A layer's density is exact at the ends of steps and between them; steps of dopri5 are right to
    1e-12.
    """
    d, n = (3, 7) if place == "sphere" else (2, 7)
    x = RNG.standard_normal((n, d))
    w = np.r_[np.full(4, 0.25), np.full(3, 1e-14)]
    basis = np.repeat(np.eye(d)[:, None], n, axis=1)
    options = {"method": method, "step": 0.17} if method == "euler" else {"rtol": 1e-12, "atol": 1e-14}
    attention = fp.Softmax(*(0.6 * RNG.standard_normal((3, d, d))))
    if place == "sphere":
        x /= np.linalg.norm(x, axis=1, keepdims=True)
        _, _, frames = np.linalg.svd(x[:, None])
        basis, options = np.moveaxis(frames[:, 1:], 1, 0), options | {"manifold": fp.Sphere()}
    elif place == "mask":
        attention = fp.Masked(attention)
    basis[:, :4] = 0.0
    start = RNG.standard_normal(n)
    options |= {"t_eval": [0.0, 0.4, 1.0], "weights": w / w.sum()}
    found = fp.solve(attention, x, (0.0, 1.0), tangents=basis, log_density=start, **options)
    gram = np.einsum("mind,mjnd->mnij", found.tangents, found.tangents)[:, 4:]
    want = start[4:] - 0.5 * np.log(np.linalg.det(gram))
    atol = 1e-12 if method == "euler" else 1e-10
    np.testing.assert_allclose(found.log_density[:, 4:], want, rtol=0, atol=atol)
    assert np.abs(found.log_density[-1] - start)[4:].max() > 0.05


def test_a_layer_that_collapses_a_direction():
    """With V = -1 and h = 1 a step of linear attention with unit second moment maps everything to one point."""
    x = np.array([[-1.0], [1.0]])
    found = fp.solve(
        fp.Linear([[1.0]], [[1.0]], [[-1.0]]), x, (0.0, 1.0), method="euler", step=1.0, log_density=np.zeros(2)
    )
    assert np.array_equal(found.log_density_final, [np.inf, np.inf])


def test_an_event_ends_a_density_too():
    attention, options = fp.Softmax(**P), {"rtol": 1e-10}
    x = RNG.standard_normal((6, 2))
    whole = fp.solve(attention, x, (0.0, 1.0), t_eval=[0.37], log_density=np.zeros(6), **options)
    cut = fp.solve(attention, x, (0.0, 1.0), events=[lambda t, _: t - 0.37], log_density=np.zeros(6), **options)
    np.testing.assert_allclose(cut.log_density_final, whole.log_density[0], rtol=0, atol=1e-13)
    assert cut.tangents is None and cut.log_density.shape == (2, 6)
