"""Derivatives of the affine field of a law: moved Gauss-Hermite nodes, and the complex step of plain formulas."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from .cases import attentions, field, law, matrices, nodes

STEP = 1e-30


def made(kind, p):
    if kind == "3 half":
        return fp.Sinkhorn(**p, n_half=3)
    return getattr(fp, kind)(**p)


def case(kind, d, k, rank=None):
    p = dict(zip("QKV", matrices(d, k), strict=True)) | {"scale": np.array(0.8)}
    if kind in ("Sinkhorn", "3 half"):
        p["eps"] = np.array(0.7)
    return p, *law(d, rank=rank)


def assert_close(got, want, tol=1e-12):
    np.testing.assert_allclose(got, want, rtol=0, atol=tol * max(1.0, float(np.abs(want).max())))


@pytest.mark.parametrize("rank", [None, 1], ids=["full", "rank one"])
@pytest.mark.parametrize("name", attentions(1))
@pytest.mark.parametrize("d", [1, 2])
def test_moved_nodes_have_the_gaussian_tangent(d, name, rank):
    """Nodes moved by delta = B (x - mean) + b have dS = B S + S B^T: J delta = dM x + dc + M delta (Theory 12.4)."""
    attention, (mean, cov) = attentions(d)[name], law(d, rank=rank)
    rng = np.random.default_rng(5)
    B, b = rng.standard_normal((d, d)), rng.standard_normal(d)
    (M, c), (dM, dc) = attention.gaussian_jvp(mean, cov, b, B @ cov + cov @ B.T)
    x, weights = nodes(mean, cov)
    delta = (x - mean) @ B.T + b
    velocity, tangent = attention.jvp(x, delta, weights=weights, backend="direct")
    # Sinkhorn's potentials are those of the nodes up to its tolerance, 1e-13.
    assert_close(x @ M.T + c, velocity)
    assert_close(x @ dM.T + dc + delta @ M.T, tangent)


@pytest.mark.parametrize("rank", [None, 2, 0], ids=["full", "rank two", "point"])
@pytest.mark.parametrize("kind", ["Softmax", "L2", "Linear", "Sinkhorn", "3 half"])
def test_tangents_and_gradients_are_those_of_plain_formulas(kind, rank):
    """All of mean, covariance and parameters change; changes of the covariance raise its rank, too."""
    p, mean, cov = case(kind, 3, 2, rank)
    rng = np.random.default_rng(6)
    change = {name: rng.standard_normal(np.shape(value)) for name, value in p.items()}
    dmean, dcov = rng.standard_normal(3), rng.standard_normal((3, 3))
    dcov = dcov + dcov.T
    attention = made(kind, p)
    (M, c), (dM, dc) = attention.gaussian_jvp(mean, cov, dmean, dcov, parameters=change)
    moved = {name: value + 1j * STEP * change[name] for name, value in p.items()}
    want_M, want_c = field(kind, mean + 1j * STEP * dmean, cov + 1j * STEP * dcov, moved)
    assert_close(M, want_M.real)
    assert_close(c, want_c.real)
    assert_close(dM, want_M.imag / STEP)
    assert_close(dc, want_c.imag / STEP)

    of_M, of_c = rng.standard_normal(M.shape), rng.standard_normal(c.shape)
    found = attention.gaussian_vjp(mean, cov, of_M, of_c)

    def number(mean, cov, p):
        M, c = field(kind, mean, cov, p)
        return ((of_M * M).sum() + (of_c * c).sum()).imag / STEP

    for name, value in p.items():
        for index in np.ndindex(value.shape):
            unit = np.zeros(value.shape)
            unit[index] = STEP
            assert_close(found.parameters[name][index], number(mean, cov, p | {name: value + 1j * unit}))
    for i in range(3):
        assert_close(found.mean[i], number(mean + 1j * STEP * np.eye(3)[i], cov, p))
        for j in range(3):
            unit = np.outer(np.eye(3)[i], np.eye(3)[j])
            assert_close(found.cov[i, j], number(mean, cov + 0.5j * STEP * (unit + unit.T), p))


@pytest.mark.parametrize("stacked", [True, False])
def test_heads_add_and_their_matrices_have_gradients(stacked):
    p, mean, cov = case("Softmax", 3, 2)
    q, *_ = case("Sinkhorn", 3, 2)
    rng = np.random.default_rng(7)
    W = rng.standard_normal((2, 3, 3))
    heads = fp.MultiHead([made("Softmax", p), made("Sinkhorn", q)], W=W if stacked else list(W))
    names = ["W"] if stacked else ["W[0]", "W[1]"]
    change = {name: rng.standard_normal(W.shape if stacked else (3, 3)) for name in names}
    change |= {"heads[1].eps": np.array(0.3), "heads[0].K": rng.standard_normal((2, 3))}
    dmean, dcov = rng.standard_normal(3), cov
    _, (dM, dc) = heads.gaussian_jvp(mean, cov, dmean, dcov, parameters=change)
    dW = change["W"] if stacked else np.stack([change["W[0]"], change["W[1]"]])
    p["K"] = p["K"] + 1j * STEP * change["heads[0].K"]
    q["eps"] = q["eps"] + 1j * STEP * 0.3
    parts = [
        field(kind, mean + 1j * STEP * dmean, cov + 1j * STEP * dcov, r)
        for kind, r in [("Softmax", p), ("Sinkhorn", q)]
    ]
    moved = W + 1j * STEP * dW
    assert_close(dM, sum(w @ part[0] for w, part in zip(moved, parts, strict=True)).imag / STEP)
    assert_close(dc, sum(w @ part[1] for w, part in zip(moved, parts, strict=True)).imag / STEP)
    of_M, of_c = rng.standard_normal((3, 3)), rng.standard_normal(3)
    found = heads.gaussian_vjp(mean, cov, of_M, of_c)
    along = (found.mean * dmean).sum() + (found.cov * dcov).sum()
    along += sum((found.parameters[name] * value).sum() for name, value in change.items())
    assert np.isclose(along, (of_M * dM).sum() + (of_c * dc).sum(), rtol=1e-12)


def test_batches_are_their_systems():
    """One law under two attentions, two laws under one, and masks, which are what they mask for one law of all."""
    Q, K, V = np.random.default_rng(8).standard_normal((3, 2, 2, 2))
    mean, cov = law(2)
    for attention, m, S in [
        (fp.L2(Q, K, V), mean, cov),
        (fp.Sinkhorn(Q, K[0], V[1]), mean, cov),
        (fp.Sinkhorn(Q[0], K[0], V[0]), np.stack([mean, 2 * mean]), np.stack([cov, 3 * cov])),
    ]:
        each = [
            (attention.system(b), *(a if a.ndim == np.ndim(like) else a[b] for a, like in ((m, mean), (S, cov))))
            for b in (0, 1)
        ]
        of_M, of_c = np.random.default_rng(9).standard_normal((2, 2, 2)), np.ones((2, 2))
        found = attention.gaussian_vjp(m, S, of_M, of_c)
        alone = [one.gaussian_vjp(a, C, of_M[b], of_c[b]) for b, (one, a, C) in enumerate(each)]
        for b in (0, 1):
            np.testing.assert_allclose(found.mean[b], alone[b].mean, rtol=1e-13)
            np.testing.assert_allclose(found.cov[b], alone[b].cov, rtol=1e-13, atol=1e-15)
        shared = sum(one.parameters["K"] for one in alone)
        own = shared if np.asarray(attention.K).ndim == 2 else np.stack([one.parameters["K"] for one in alone])
        np.testing.assert_allclose(found.parameters["K"], own, rtol=1e-12, atol=1e-14)
    plain = fp.Softmax(Q[0], K[0], V[0])
    for a, b in zip(
        fp.Masked(plain).gaussian_jvp(mean, cov, mean, cov)[1], plain.gaussian_jvp(mean, cov, mean, cov)[1], strict=True
    ):
        np.testing.assert_array_equal(a, b)


def test_what_has_no_derivative_says_so():
    mean, cov = law(2)
    Q, K, V = matrices(2)
    for attention in (fp.Sigmoid(Q, K, V), fp.Exponential(Q, K, V), fp.Masked(fp.Linear(Q, K, V))):
        with pytest.raises(fp.NoGaussianClosure):
            attention.gaussian_jvp(mean, cov, mean, cov)

    class Own(fp.Softmax):
        def _closure(self, mean, factor, t):
            return super()._closure(2.0 * mean, factor, t)

    with pytest.raises(fp.InputError, match="known derivatives"):
        Own(Q, K, V).gaussian_vjp(mean, cov, cov, mean)
    softmax = fp.Softmax(Q, K, V)
    for name, arguments, options in [
        ("dmean", (mean[:1], cov), {}),
        ("dcov", (mean, cov + np.triu(cov)), {}),
        ("parameters", (mean, cov), {"parameters": {"P": V}}),
        ("parameters['V']", (mean, cov), {"parameters": {"V": V[0]}}),
    ]:
        with pytest.raises(fp.InputError) as caught:
            softmax.gaussian_jvp(mean, cov, *arguments, **options)
        assert caught.value.name == name


def test_changes_of_parameters_are_named():
    with pytest.raises(fp.InputTypeError, match="parameters: got list; need a dict"):
        fp.Softmax(*np.ones((3, 1, 1))).gaussian_jvp([0.0], [[1.0]], [0.0], [[1.0]], parameters=[np.ones((1, 1))])
