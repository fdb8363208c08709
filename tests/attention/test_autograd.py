"""Derivatives of velocities against automatic differentiation of plain formulas, where PyTorch is installed."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

torch = pytest.importorskip("torch")

RNG = np.random.default_rng(0)
N, D, K = 6, 3, 2
X, DX, AT, C = (RNG.standard_normal(shape) for shape in ((N, D), (N, D), (N, D), (N, D)))
W = RNG.uniform(0.5, 1.5, N)
W /= W.sum()
PLACES = np.array([2, 0, 1, 2, 0, 3])  # with ties
SEEN = torch.tensor(PLACES[None] <= PLACES[:, None])
P = {"Q": RNG.standard_normal((K, D)), "K": RNG.standard_normal((K, D)), "V": RNG.standard_normal((D, D)), "scale": 0.6}
MORE = {"sigmoid": {"bias": -0.4}, "sinkhorn": {"eps": 0.9}, "n_half": {"eps": 0.9}}
VARIANTS = {
    "softmax": fp.Softmax,
    "l2": fp.L2,
    "sigmoid": fp.Sigmoid,
    "exponential": fp.Exponential,
    "linear": fp.Linear,
    "sinkhorn": lambda **p: fp.Sinkhorn(**p, tol=1e-14),
    "n_half": lambda **p: fp.Sinkhorn(**p, n_half=5),
}


def field(kind, x, p, w, seen=None):
    """The velocities of tokens x (n, d), pair by pair."""
    q, k, v = x @ p["Q"].T, x @ p["K"].T, x @ p["V"].T
    if kind == "l2":
        s = -p["scale"] * ((q[:, None] - k[None]) ** 2).sum(-1)
    else:
        s = p["scale"] * (q @ k.T) + (p["bias"] if kind == "sigmoid" else 0.0)
    if kind in ("sinkhorn", "n_half"):
        return scaled(s / p["eps"], w, None if kind == "sinkhorn" else 5) @ v / p["eps"]
    law = {"sigmoid": torch.sigmoid, "linear": lambda s: s}.get(kind, torch.exp)(s) * w
    law = law if seen is None else torch.where(seen, law, torch.zeros_like(law))
    return (law / law.sum(1, keepdim=True) if kind in ("softmax", "l2") else law) @ v


def scaled(s, w, n_half):
    """The kernel w_j kappa_ij of scores, by scalings of rows and columns from g = 0; many of them for n_half = None."""
    g = torch.zeros_like(w)
    for _ in range(400 if n_half is None else n_half // 2):
        f = -torch.logsumexp(s + g + torch.log(w), 1)
        g = -torch.logsumexp(s + f[:, None] + torch.log(w)[:, None], 0)
    return torch.softmax(s + g + torch.log(w), 1)


def assert_close(got, want):
    """To 1e-12 of the largest entry: rounding of sums of six terms, and of scalings."""
    want = want.detach().numpy()
    np.testing.assert_allclose(got, want, rtol=0, atol=1e-12 * max(float(np.abs(want).max()), 1e-3))


def assert_derivatives(attention, function, parameters, **options):
    """Compare velocity, tangent, and gradients in tokens, masses and parameters with those of function(x, w, p)."""
    leaves = {name: torch.tensor(np.asarray(value), requires_grad=True) for name, value in parameters.items()}
    x, w = torch.tensor(X, requires_grad=True), torch.tensor(W, requires_grad=True)
    want, moved = torch.autograd.functional.jvp(lambda y: function(y, w, leaves), x, torch.tensor(DX))
    velocity, tangent = attention.jvp(X, DX, weights=W, **options)
    assert_close(velocity, want)
    assert_close(tangent, moved)
    wanted = torch.autograd.grad((function(x, w, leaves) * torch.tensor(C)).sum(), [x, w, *leaves.values()])
    found = attention.vjp(X, C, weights=W, **options)
    assert set(found.parameters) == {"weights", *leaves}
    for name, gradient in zip(["x", "weights", *leaves], wanted, strict=True):
        assert_close(found.x if name == "x" else found.parameters[name], gradient)


@pytest.mark.parametrize("kind", VARIANTS)
def test_variants(kind):
    p = P | MORE.get(kind, {})
    assert_derivatives(VARIANTS[kind](**p), lambda x, w, p: field(kind, x, p, w), p)


@pytest.mark.parametrize("kind", ["softmax", "l2", "sigmoid", "exponential", "linear"])
def test_masks(kind):
    p = P | MORE.get(kind, {})
    assert_derivatives(fp.Masked(VARIANTS[kind](**p)), lambda x, w, p: field(kind, x, p, w, SEEN), p, positions=PLACES)


@pytest.mark.parametrize("masked", [False, True])
def test_heads(masked):
    """Of every variant, each behind a matrix of its own; Sinkhorn attention cannot be masked."""
    kinds = [kind for kind in VARIANTS if not (masked and "eps" in MORE.get(kind, {}))]
    heads = {kind: {name: (0.5 + 0.1 * h) * np.asarray(v) for name, v in (P | MORE.get(kind, {})).items()}
             for h, kind in enumerate(kinds)}  # fmt: skip
    outer = np.random.default_rng(1).standard_normal((len(kinds), D, D))
    attention = fp.MultiHead([VARIANTS[kind](**p) for kind, p in heads.items()], W=outer)
    named = {f"heads[{h}].{name}": v for h, p in enumerate(heads.values()) for name, v in p.items()}

    def function(x, w, p):
        total = 0.0
        for h, kind in enumerate(kinds):
            own = {name: p[f"heads[{h}].{name}"] for name in heads[kind]}
            total = total + field(kind, x, own, w, SEEN if masked else None) @ p["W"][h].T
        return total

    options = {"positions": PLACES} if masked else {}
    assert_derivatives(fp.Masked(attention) if masked else attention, function, named | {"W": outer}, **options)
