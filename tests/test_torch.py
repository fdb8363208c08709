"""The bridge to PyTorch against PyTorch's own derivatives of the formulas, and differences of its values."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

torch = pytest.importorskip("torch")
import fastpde.torch as ft  # noqa: E402

RUN = {"method": "rk4", "step": 0.25, "backend": "direct"}


def drawn(*shape, seed=0):
    values = np.random.default_rng([seed, *shape]).standard_normal(shape)
    return torch.tensor(0.7 * values, requires_grad=True)


def softmax(x, Q, K, V, seen=None):
    """Sum as the formula says, with derivatives of PyTorch's own."""
    s = (x @ Q.mT) @ (x @ K.mT).mT
    s = s if seen is None else s.masked_fill(~seen, -torch.inf)
    return torch.softmax(s, dim=-1) @ (x @ V.mT)


def rk4(f, x, steps, h):
    for _ in range(steps):
        a = f(x)
        b = f(x + h / 2 * a)
        c = f(x + h / 2 * b)
        x = x + h / 6 * (a + 2 * b + 2 * c + f(x + h * c))
    return x


def assert_same_gradients(got, want, inputs, tol):
    """Of <c, result>, for a c drawn once."""
    assert (got - want).detach().abs().max() <= tol * want.detach().abs().max()
    c = torch.tensor(np.random.default_rng(1).standard_normal(want.shape), dtype=want.dtype)
    mine = torch.autograd.grad((c * got).sum(), inputs)
    theirs = torch.autograd.grad((c * want).sum(), inputs)
    for a, b in zip(mine, theirs, strict=True):
        assert a.dtype == b.dtype and (a - b).abs().max() <= tol * b.abs().max()


@pytest.mark.parametrize("batch", [(), (2,)])
def test_velocity(batch):
    """A batch has a Q for each system, and shares K and V."""
    x, Q, K, V = drawn(*batch, 6, 3), drawn(*batch, 2, 3, seed=1), drawn(2, 3, seed=2), drawn(3, 3, seed=3)
    got = ft.velocity(fp.Softmax, x, Q=Q, K=K, V=V)
    assert_same_gradients(got, softmax(x, Q, K, V), (x, Q, K, V), 1e-12)


def test_masks_heads_weights_and_points():
    x, Q, K, V = drawn(6, 2), drawn(2, 2, 2, seed=1), drawn(2, 2, seed=2), drawn(2, 2, 2, seed=3)
    places = torch.tensor([0, 1, 1, 2, 3, 0])
    seen = places[None] <= places[:, None]
    heads = lambda Q, K, V: fp.MultiHead([fp.Masked(fp.Softmax(Q[0], K, V[0])), fp.Softmax(Q[1], K, V[1])])  # noqa: E731
    got = ft.velocity(heads, x, positions=places, Q=Q, K=K, V=V)
    want = softmax(x, Q[0], K, V[0], seen) + softmax(x, Q[1], K, V[1])
    assert_same_gradients(got, want, (x, Q, K, V), 1e-12)

    at, eye = drawn(4, 2, seed=5), torch.eye(2, dtype=torch.float64)
    w = torch.tensor([0.1, 0.2, 0.3, 0.15, 0.15, 0.1], dtype=torch.float64, requires_grad=True)
    scale = torch.tensor(0.3, dtype=torch.float64, requires_grad=True)
    got = ft.velocity(fp.Exponential, x, at=at, weights=w, Q=eye, K=K, V=V[0], scale=scale)
    want = (torch.exp(scale * at @ (x @ K.mT).mT) * w) @ (x @ V[0].mT)
    assert_same_gradients(got, want, (x, at, w, K, V, scale), 1e-12)


def test_differences():
    """Of a run on the sphere with layers and states on the way, and of a scaling with eps, by `gradcheck`."""
    x, Q = drawn(3, 2), drawn(2, 2, 2, seed=1)
    eps = torch.tensor(0.8, dtype=torch.float64, requires_grad=True)

    def run(x, Q):
        on = x / x.norm(dim=1, keepdim=True)  # differences leave the sphere, and PyTorch comes back
        make = lambda Q: fp.Softmax(fp.Layers(Q, 0.5), np.eye(2), np.eye(2))  # noqa: E731
        return ft.solve(make, on, (0.0, 0.5), t_eval=[0.3, 0.5], manifold=fp.Sphere(), **RUN, Q=Q)

    def scaling(x, Q, eps):
        return ft.velocity(fp.Sinkhorn, x, Q=Q[0], K=np.eye(2), V=np.eye(2), eps=eps, tol=1e-13)

    assert torch.autograd.gradcheck(run, (x, Q), eps=1e-5, atol=1e-8, rtol=1e-7)
    assert torch.autograd.gradcheck(scaling, (x, Q, eps), eps=1e-5, atol=1e-8, rtol=1e-7)


def test_a_batch_of_runs():
    """With a Q for each system, and states on the way."""
    x, Q, w = drawn(2, 5, 2), drawn(2, 2, 2, seed=1), torch.full((5,), 0.2, dtype=torch.float64, requires_grad=True)
    eye = torch.eye(2, dtype=torch.float64)
    got = ft.solve(fp.Softmax, x, (0.0, 1.0), t_eval=[0.5, 1.0], weights=w, **RUN, Q=Q, K=eye, V=eye)

    def velocity(y):
        e = w * torch.exp((y @ Q.mT) @ y.mT)
        return (e @ y) / e.sum(dim=-1, keepdim=True)

    half = rk4(velocity, x, 2, 0.25)
    assert_same_gradients(got, torch.stack([half, rk4(velocity, half, 2, 0.25)]), (x, Q, w), 1e-12)


def test_states_on_the_way():
    x, V = drawn(6, 2), drawn(2, 2, seed=3)
    eye = torch.eye(2, dtype=torch.float64)
    got = ft.solve(fp.Softmax, x, (0.0, 1.0), t_eval=[0.5, 1.0], **RUN, Q=eye, K=eye, V=V)
    half = rk4(lambda y: softmax(y, eye, eye, V), x, 2, 0.25)
    want = torch.stack([half, rk4(lambda y: softmax(y, eye, eye, V), half, 2, 0.25)])
    assert_same_gradients(got, want, (x, V), 1e-12)


def test_solve_in_both_precisions():
    """float32 tensors move in float64 and get gradients rounded to their own precision."""
    for dtype, tol in ((torch.float64, 1e-12), (torch.float32, 1e-5)):
        inputs = [drawn(6, 2), drawn(2, 2, seed=1), drawn(2, 2, seed=2), drawn(2, 2, seed=3)]
        x, Q, K, V = (value.detach().to(dtype).requires_grad_() for value in inputs)
        got = ft.solve(fp.Softmax, x, (0.0, 1.0), **RUN, Q=Q, K=K, V=V)
        assert got.dtype == dtype
        want = rk4(lambda y, p=(Q, K, V): softmax(y, *p), x, 4, 0.25)
        assert_same_gradients(got, want, (x, Q, K, V), tol)


def test_a_module_learns():
    """A layer with parameters of PyTorch, its optimiser and its loss."""
    x, goal = drawn(20, 2).detach(), drawn(20, 2, seed=9).detach()
    V = torch.nn.Parameter(torch.zeros(2, 2, dtype=torch.float64))
    optimiser, losses, eye = torch.optim.SGD([V], lr=0.5), [], torch.eye(2, dtype=torch.float64)
    for _ in range(5):
        optimiser.zero_grad()
        loss = ((ft.solve(fp.L2, x, (0.0, 1.0), **RUN, Q=eye, K=eye, V=V) - goal) ** 2).mean()
        loss.backward()
        optimiser.step()
        losses.append(loss.item())
    assert (np.diff(losses) < 0).all()


def test_memory_is_shared_and_needless_gradients_are_not_made():
    x, Q = drawn(4, 2), drawn(2, 2, seed=1)
    places = []

    def make(Q):
        places.append(Q.ctypes.data)
        return fp.Softmax(Q, np.eye(2), np.eye(2))

    v = ft.velocity(make, x.detach(), Q=Q.detach())
    assert not v.requires_grad and places == [Q.data_ptr()]
    with torch.no_grad():
        ft.velocity(make, x, Q=Q)
    assert places == [Q.data_ptr()] * 2


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda x: ft.velocity(fp.Softmax, x.detach().numpy(), Q=x, K=x, V=x), "x: got ndarray"),
        (lambda x: ft.velocity(fp.Softmax, x.long(), Q=x, K=x, V=x), "x: got dtype int64"),
        (lambda x: ft.velocity(fp.Softmax, x, Q=x.bfloat16(), K=x, V=x), "Q: got dtype bfloat16"),
        (lambda x: ft.velocity(fp.Softmax, x.to("meta"), Q=x, K=x, V=x), "x: got a tensor on meta"),
        (lambda x: ft.velocity(lambda Q: fp.Softmax(2 * Q, Q, Q), x, Q=x), "make: got a function that calculates"),
        (lambda x: ft.velocity(fp.Softmax, x, Q=x, K=x), "Softmax: got missing a required argument"),
        (lambda x: ft.solve(fp.Softmax, x, (0.0, 1.0), max_steps=1, Q=x, K=x, V=x), "t_span: got a run that ended"),
    ],
)
def test_what_is_refused(call, message):
    with pytest.raises((fp.InputError, fp.InputTypeError), match=message):
        call(drawn(2, 2))


def test_second_derivatives_are_refused_and_not_zero():
    x, eye = drawn(3, 2), torch.eye(2, dtype=torch.float64)
    with pytest.raises(RuntimeError, match="have no gradients themselves"):
        torch.autograd.functional.hessian(lambda y: ft.velocity(fp.Softmax, y, Q=eye, K=eye, V=eye).square().sum(), x)


def test_a_loss_that_does_not_see_the_run():
    x, V, w = drawn(3, 2), drawn(2, 2, seed=1), torch.full((3,), 1 / 3, dtype=torch.float64, requires_grad=True)
    end = ft.solve(fp.Softmax, x, (0.0, 0.5), weights=w, Q=np.eye(2), K=np.eye(2), V=V)
    (0.0 * end).sum().backward()
    assert not x.grad.any() and not V.grad.any() and not w.grad.any()
