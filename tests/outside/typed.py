"""A program of a user's, fully typed: `mypy --strict` accepts it, see tests/test_typing.py. It runs, too."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

import fastpde as fp

Floats = NDArray[np.float64]


def falling(s: float) -> float:
    """A weight of the user's own."""
    return 1.0 / (1.0 + s * s)


class Falling(fp.SingleHead):
    """An attention of the user's own."""

    weight = fp.Weight(falling)
    normalised = False


def variants(d: int) -> list[fp.Attention]:
    """Return an attention of every kind."""
    i = np.eye(d)
    single: list[fp.Attention] = [
        fp.Softmax(i, i, i, scale=0.5),
        fp.L2(i, -i, i),
        fp.Sigmoid(i, i, i, bias=-1.0),
        fp.Exponential(i, i, -i),
        fp.Linear(i, i, -i),
        fp.Sinkhorn(i, i, i, eps=1.0, tol=1e-6),
        fp.Softmax(fp.Layers(np.stack([i, 2 * i]), 1.0), i, i),
        Falling(i, i, i),
    ]
    return [*single, fp.MultiHead(single[:2]), fp.Masked(single[0])]


def moved(x0: Floats) -> tuple[fp.Solution, fp.EnsembleSolution, fp.GaussianSolution]:
    """Return runs of tokens, of systems and of a law."""
    attention = variants(x0.shape[1])[0]
    note: list[float] = []

    def seen(t: float, x: Floats) -> None:
        note.append(t + float(x.mean()))

    one = fp.solve(
        attention, x0, (0.0, 0.5), method="tsit5", rtol=1e-5, t_eval=[0.0, 0.5], backend=fp.Direct(),
        events=[fp.Collapsed(1e-3), fp.BlowUp(1e3), fp.SteadyState(1e-9)], observers=[fp.Observer(seen, time=0.1)],
    )  # fmt: skip
    many = fp.solve(attention, x0[None], (0.0, 0.5), backend="direct", manifold=fp.Euclidean())
    assert isinstance(one, fp.Solution) and isinstance(many, fp.EnsembleSolution)
    law = fp.solve(attention, fp.Gaussian(np.zeros(x0.shape[1]), 0.1 * np.eye(x0.shape[1])), (0.0, 0.5))
    return one, many, law


def measured(x: Floats, y: Floats) -> dict[str, float]:
    """Return numbers of two clouds."""
    i = np.eye(x.shape[1])
    attention = fp.Softmax(i, i, i)
    value, error = fp.wasserstein(x, y, method="sliced", return_error=True)
    found: fp.Clusters = fp.clusters(x, 0.5)
    rates: fp.Lipschitz = fp.lipschitz(attention, x)
    return {
        "W2": fp.wasserstein(x, y),
        "sliced": value + error,
        "along": fp.conditional_wasserstein(x, y, np.arange(len(x))),
        "energy": float(fp.interaction_energy(attention, x)),
        "bound": fp.stability_bound(attention, 0.1, 2.0),
        "clusters": float(found.count()),
        "rate": rates.rate,
    }


def derived(x: Floats) -> tuple[Floats, Floats]:
    """Return a tangent of the velocity, and the gradient of a loss of a run in its tokens."""
    attention = fp.L2(*[np.eye(x.shape[1])] * 3)
    velocity, tangent = attention.jvp(x, np.ones_like(x))
    pulled: fp.Pullback = attention.vjp(x, velocity)

    def loss(end: Floats) -> tuple[float, Floats]:
        return float((end**2).sum()), 2 * end

    found = fp.gradient(loss, attention, x, (0.0, 0.2), method="rk4", step=0.1)
    assert isinstance(found, fp.Gradient)
    return tangent + pulled.x, found.x0


def told(sol: fp.Solution, path: Path) -> str:
    """Save a solution, draw it, and return what it says of itself."""
    status: fp.Status = sol.status
    sol.save(path / "sol.npz")
    sol.plot(path / "sol.png")
    return "\n".join([status.value, sol.summary(), fp.cite(sol, fp.wasserstein)])


def main(path: Path) -> dict[str, Any]:
    """Use it all, and return some of it."""
    x: Floats = fp.laws.Ball(2).sample(24, 0)
    velocities = [attention.velocity(x, backend="direct") for attention in variants(2)]
    one, many, law = moved(x)
    limit: fp.GaussianLimit = fp.limit(fp.L2(*[np.eye(2)] * 3), fp.Gaussian(np.zeros(2), np.eye(2)))
    try:
        fp.Sigmoid(*[np.eye(2)] * 3).affine(np.zeros(2), np.eye(2))
    except fp.NoGaussianClosure as error:
        reason = str(error)
    return {
        "velocities": velocities,
        "ends": (one.x_final, many.x_final, law.cov[-1], limit.outcome),
        "numbers": measured(x, one.x_final),
        "derived": derived(x),
        "text": told(one, path) + reason,
        "mean field": fp.MeanField(fp.L2(*[np.eye(2)] * 3), fp.laws.Ball(2), (0.0, 0.1), tol=1e-4).mean(0.1),
    }
