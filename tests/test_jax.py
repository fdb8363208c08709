"""The bridge to JAX against JAX's own derivatives of the formulas."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

jax = pytest.importorskip("jax")
import jax.numpy as jnp  # noqa: E402

import fastpde.jax as fj  # noqa: E402

RUN = {"method": "rk4", "step": 0.25, "backend": "direct"}


@pytest.fixture(autouse=True, scope="module")
def float64():
    before = jax.config.jax_enable_x64
    jax.config.update("jax_enable_x64", True)
    yield
    jax.config.update("jax_enable_x64", before)


def drawn(*shape, seed=0):
    return jnp.asarray(0.7 * np.random.default_rng([seed, *shape]).standard_normal(shape))


def softmax(x, Q, K, V):
    return jax.nn.softmax((x @ Q.T) @ (x @ K.T).T, axis=-1) @ (x @ V.T)


def rk4(f, x, steps, h):
    for _ in range(steps):
        a = f(x)
        b = f(x + h / 2 * a)
        c = f(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c))
    return x


@pytest.mark.parametrize("jit", [False, True])
def test_gradients(jit):
    """Of <c, velocity> and <c, end of a run>, in tokens and parameters."""
    values = (drawn(6, 2), drawn(2, 2, seed=1), drawn(2, 2, seed=2), drawn(2, 2, seed=3))
    c = drawn(6, 2, seed=4)
    pairs = [
        (lambda x, Q, K, V: fj.velocity(fp.Softmax, x, Q=Q, K=K, V=V), softmax),
        (
            lambda x, Q, K, V: fj.solve(fp.Softmax, x, (0.0, 1.0), **RUN, Q=Q, K=K, V=V),
            lambda x, Q, K, V: rk4(lambda y: softmax(y, Q, K, V), x, 4, 0.25),
        ),
    ]
    for mine, theirs in pairs:
        made = [jax.value_and_grad(lambda *a, f=f: (c * f(*a)).sum(), argnums=(0, 1, 2, 3)) for f in (mine, theirs)]
        (got, found), (want, known) = (jax.jit(f)(*values) if jit else f(*values) for f in made)
        assert abs(got - want) < 1e-12
        for a, b in zip(found, known, strict=True):
            assert float(jnp.abs(a - b).max()) <= 1e-12 * float(jnp.abs(b).max())


def test_heads_points_weights_and_batches():
    x, at, Q = drawn(6, 2), drawn(4, 2, seed=5), drawn(2, 2, 2, seed=1)
    w, eye = jnp.asarray([0.1, 0.2, 0.3, 0.15, 0.15, 0.1]), np.eye(2)
    heads = lambda Q: fp.MultiHead([fp.Exponential(q, eye, eye) for q in Q])  # noqa: E731
    mine = lambda x, at, w, Q: (fj.velocity(heads, x, at=at, weights=w, Q=Q) ** 2).sum()  # noqa: E731
    theirs = lambda x, at, w, Q: (sum((jnp.exp(at @ q.T @ x.T) * w) @ x for q in Q) ** 2).sum()  # noqa: E731
    for a, b in zip(*(jax.grad(f, argnums=(0, 1, 2, 3))(x, at, w, Q) for f in (mine, theirs)), strict=True):
        assert float(jnp.abs(a - b).max()) <= 1e-12 * float(jnp.abs(b).max())
    many = jnp.stack([x, 2.0 * x])
    each = jax.vmap(lambda x: fj.velocity(fp.Softmax, x, Q=Q[0], K=eye, V=eye))(many)
    np.testing.assert_allclose(each, fj.velocity(fp.Softmax, many, Q=Q[0], K=eye, V=eye), rtol=1e-13)


def test_single_precision_and_states_on_the_way():
    x, Q = drawn(5, 2).astype(jnp.float32), drawn(2, 2, seed=1).astype(jnp.float32)
    eye = np.eye(2)

    def loss(x, Q):
        return (fj.solve(fp.L2, x, (0.0, 1.0), t_eval=[0.5, 1.0], **RUN, Q=Q, K=eye, V=eye) ** 2).sum()

    def theirs(x, Q):
        def velocity(y):
            s = -(((y @ Q.T)[:, None] - y[None]) ** 2).sum(axis=2)
            return jax.nn.softmax(s, axis=1) @ y

        half = rk4(velocity, x, 2, 0.25)
        return (half**2).sum() + (rk4(velocity, half, 2, 0.25) ** 2).sum()

    for a, b in zip(jax.grad(loss, (0, 1))(x, Q), jax.grad(theirs, (0, 1))(x, Q), strict=True):
        assert a.dtype == jnp.float32 and float(jnp.abs(a - b).max()) <= 1e-5 * float(jnp.abs(b).max())


def test_many_tokens_do_not_wait_for_each_other():
    """What is computed by JAX, as tokens here, is there when the callback reads it."""
    x = jax.jit(lambda x: jnp.sin(x) * 2.0)(jnp.arange(6000.0).reshape(3000, 2))
    v = jax.jit(lambda x: fj.velocity(fp.Softmax, x, Q=np.eye(2), K=np.eye(2), V=np.eye(2)))(x)
    np.testing.assert_array_equal(v, fp.Softmax(np.eye(2), np.eye(2), np.eye(2)).velocity(np.asarray(x)))


def test_what_is_refused():
    x = drawn(2, 2)
    with pytest.raises(fp.InputTypeError, match="x: got dtype int"):
        fj.velocity(fp.Softmax, jnp.arange(4).reshape(2, 2), Q=x, K=x, V=x)
    with pytest.raises(fp.InputError, match="make: got a function that calculates"):
        jax.grad(lambda Q: fj.velocity(lambda Q: fp.Softmax(2 * Q, Q, Q), x, Q=Q).sum())(x)
    with pytest.raises(Exception, match="t_span: got a run that ended"):
        fj.solve(fp.Softmax, x, (0.0, 1.0), max_steps=1, Q=x, K=x, V=x).block_until_ready()
