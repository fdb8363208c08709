"""Masked attention on a Gaussian per position against particles at Gauss-Hermite nodes (Theory 2.2)."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp

from .cases import attentions, law, matrices, moments, nodes
from .test_flow import TIGHT

MASSES = np.array([0.2, 0.5, 0.3])


def laws(d=2, ranks=(None, 1, 0)):
    found = [law(d, seed=s, rank=rank, size=0.4) for s, rank in enumerate(ranks)]
    return tuple(np.array(part) for part in zip(*found, strict=True))


@pytest.mark.parametrize("positions", [None, [2.0, 0.0, 1.0], [1.0, 0.0, 0.0]], ids=["given", "mixed", "ties"])
@pytest.mark.parametrize("heads", [1, 2])
def test_particles_at_nodes_follow(heads, positions):
    """Nodes of one position are ties: quadrature is exact for the second moments, so only the runs' 1e-11 is left."""
    Q, K, V = matrices(2)
    linear = fp.Linear(Q, K, V, scale=0.8)
    W = np.random.default_rng(3).normal(size=(2, 2, 2)) * 0.7
    attention = fp.Masked(linear if heads == 1 else fp.MultiHead([linear, fp.Linear(K, Q, V)], W=W))
    mean, cov = laws()
    clouds = [nodes(*pair, order=6) for pair in zip(mean, cov, strict=True)]
    sizes = [len(x) for x, _ in clouds]
    x, weights = np.concatenate([x for x, _ in clouds]), np.concatenate([w for _, w in clouds])
    places = np.repeat([0.0, 1.0, 2.0] if positions is None else positions, sizes)
    times = [0.3, 0.6]
    particles = fp.solve(
        attention, x, (0.0, 0.6), weights=weights * np.repeat(MASSES, sizes), positions=places, t_eval=times, **TIGHT
    )
    sol = fp.solve(
        attention, fp.Gaussian(mean, cov), (0.0, 0.6), weights=MASSES, positions=positions, t_eval=times, **TIGHT
    )
    assert sol.status is fp.Status.COMPLETED and sol.mean.shape == (2, 3, 2) and sol.cov.shape == (2, 3, 2, 2)
    ends = np.cumsum(sizes)
    for m in range(2):
        for s, (last, size) in enumerate(zip(ends, sizes, strict=True)):
            want = moments(particles.x[m, last - size : last], weights[last - size : last])
            np.testing.assert_allclose(sol.mean[m, s], want[0], atol=1e-9)
            np.testing.assert_allclose(sol.cov[m, s], want[1], atol=1e-9)
    assert np.abs(sol.cov[-1] - cov).max() > 1e-3


def test_later_positions_change_nothing_before():
    """The first position sees itself alone: it follows the unmasked ODE with its mass (Theory 2.2)."""
    Q, K, V = matrices(2)
    mean, cov = laws()
    sol = fp.solve(fp.Masked(fp.Linear(Q, K, V)), fp.Gaussian(mean, cov), (0.0, 0.5), **TIGHT)
    alone = fp.solve(fp.Linear(Q, K, V / 3), fp.Gaussian(mean[0], cov[0]), (0.0, 0.5), **TIGHT)
    np.testing.assert_allclose(sol.cov[-1, 0], alone.cov[-1], atol=1e-10)


def test_blow_up():
    """1-D, point masses at zero apart from the first: m' = 2 v a theta m^2 for the first second moment m (Theory 3)."""
    start = fp.Gaussian(np.zeros((2, 1)), [[[0.5]], [[0.0]]])
    sol = fp.solve(fp.Masked(fp.Linear([[0.6]], [[0.5]], [[0.7]])), start, (0.0, 100.0), t_eval=[90.0])
    assert sol.status is fp.Status.BLOW_UP and abs(sol.blowup_time * 2 * 0.7 * 0.3 * 0.5 * 0.5 - 1) < 3e-6
    assert len(sol.t) == 0


@pytest.mark.parametrize("name", ["Softmax", "L2", "heads averaging"])
def test_averaging_attention_with_equal_laws(name):
    """theta (x) N is invariant and follows the unmasked flow; with laws that differ there is no closure."""
    Q, K, V = matrices(2)
    averaging = fp.MultiHead([fp.Softmax(Q, K, V), fp.L2(Q, K, V)])
    inside = averaging if name == "heads averaging" else attentions(2)[name]
    mean, cov = law(2)
    equal = fp.Gaussian(np.tile(mean, (3, 1)), np.tile(cov, (3, 1, 1)))
    sol = fp.solve(fp.Masked(inside), equal, (0.0, 0.4), weights=MASSES, **TIGHT)
    one = fp.solve(inside, fp.Gaussian(mean, cov), (0.0, 0.4), **TIGHT)
    assert sol.mean.shape == (2, 3, 2) and sol.status is one.status
    for s in range(3):
        np.testing.assert_array_equal(sol.cov[:, s], one.cov)
        np.testing.assert_array_equal(sol.mean[:, s], one.mean)
    with pytest.raises(fp.NoGaussianClosure, match=r"Theory 2\.2"):
        fp.solve(fp.Masked(inside), fp.Gaussian(*laws()), (0.0, 0.4))


def test_refusals_name_the_argument():
    Q, K, V = matrices(2)
    masked, start = fp.Masked(fp.Linear(Q, K, V)), fp.Gaussian(*laws())
    for name, value in {"weights": [0.5, 0.5], "positions": [0.0, 1.0]}.items():
        with pytest.raises(fp.InputError, match=f"^{name}"):
            fp.solve(masked, start, (0.0, 1.0), **{name: value})
    with pytest.raises(fp.InputError, match=r"^x0.*per position"):
        fp.solve(masked, fp.Gaussian(0.0, np.zeros((2, 3, 2, 2))), (0.0, 1.0))
    several = fp.Masked(fp.Linear(np.stack([Q] * 3), K, V))
    with pytest.raises(fp.InputError, match=r"^attention.*several systems"):
        fp.solve(several, start, (0.0, 1.0))
    linear = fp.Linear(Q, K, V)
    one, other = (fp.solve(a, start, (0.0, 0.1)).cov for a in (fp.MultiHead([fp.Masked(linear)]), masked))
    np.testing.assert_array_equal(one, other)  # heads behind one mask
    for attention in (fp.Masked(fp.Sigmoid(Q, K, V)), fp.MultiHead([fp.Masked(linear), linear])):
        with pytest.raises(fp.NoGaussianClosure):
            fp.solve(attention, start, (0.0, 1.0))
    with pytest.raises(fp.InputError, match=r"^positions.*Masked"):
        fp.solve(fp.Linear(Q, K, V), start, (0.0, 1.0), positions=[0, 1, 2])
