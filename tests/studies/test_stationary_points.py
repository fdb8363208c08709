"""Ends of random laws if nothing commutes, against `fp.limit`, an integration in t, and what theory says of growth."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import solve_ivp

import fastpde as fp


@pytest.fixture(scope="module")
def found():
    return fp.studies.stationary_points(((2, 2), (3, 3)), 12, seed=1)


def drawn(d, k, b):
    stream = np.random.default_rng([1, d, k, b])
    return [stream.standard_normal(shape) for shape in ((k, d), (k, d), (d, d), (d, d))]


def test_outcomes_in_the_plane_are_those_of_limits(found):
    """The study follows shapes; `fp.limit` decides by other rules, and may leave a law open."""
    seen = set()
    for b in range(12):
        Q, K, V, G = drawn(2, 2, b)
        limit = fp.limit(fp.Softmax(Q, K, V), fp.Gaussian(0.0, G @ G.T), closed_forms=False)
        outcome = found["outcome"][b]
        seen.add(outcome)
        if outcome != "moves" and limit.outcome is not fp.Outcome.UNDECIDED:
            want = {"converges": (fp.Outcome.CONVERGES, 1), "decays": (fp.Outcome.CONVERGES, 0)}
            assert (limit.outcome, limit.rank) == want.get(outcome, (fp.Outcome.BLOWS_UP, -1)), b
        if outcome == "converges":
            A = K.T @ Q
            scale = np.linalg.norm(A) * np.linalg.norm(V) * np.trace(limit.cov)
            rates = limit.growth_rates.real / scale  # the first is zero, along the family of multiples of u u^T
            assert limit.attracting and rates[1] == pytest.approx(found["rate"][b], abs=1e-5)
    assert {"converges", "blows up"} <= seen


def test_isotropic_shapes_whose_law_grows(found):
    """S = e^{lambda t} u u^T + w w^T: log tr S is linear in t, the second eigenvalue stays, <u, A V^{-1} u> = 0."""
    rows = np.flatnonzero(found["outcome"] == "grows")
    assert len(rows) and (found["d"][rows] == 3).all() and (found["rank"][rows] == 1).all()
    assert (found["drift"][rows] < 2e-2).all() and (found["rate"][rows] < 0.0).all()
    Q, K, V, G = drawn(3, 3, int(found["draw"][rows[np.argmin(found["drift"][rows])]]))
    A = K.T @ Q

    def large(t, y):
        return y @ y - 1e9

    large.terminal = True
    run = solve_ivp(
        lambda t, y: (V @ y.reshape(3, 3) @ (y.reshape(3, 3).T @ A @ y.reshape(3, 3))).ravel(),
        (0.0, 200.0), G.ravel(), method="Radau", rtol=1e-8, atol=1e-11, events=large,
    )  # fmt: skip
    values = np.array([np.linalg.svd(y.reshape(3, 3), compute_uv=False) ** 2 for y in run.y.T])
    late = values[:, 0] > 1e5
    slopes = np.diff(np.log(values[late, 0])) / np.diff(run.t[late])
    assert late.sum() > 5 and slopes.max() / slopes.min() < 1.05 and np.ptp(np.log(values[late, 1])) < 0.05


def test_isotropic_ends_attract(found, tmp_path):
    """Theory 12.4; what is saved is read again, and a study goes on from its finished laws."""
    ends = found.isotropic
    assert ends.sum() > 8 and (found["rate"][ends] < 0.0).all() and "stable linearised flow" in found.summary()
    counts = found.counts(3, 3)
    assert sum(counts.values()) == 12 and counts["grows"] == np.sum(found["outcome"] == "grows")
    assert found.save(tmp_path / "a").read_bytes()[:4] == b"\x89PNG"
    assert fp.studies.load(tmp_path / "a").summary() == found.summary()
    kept = tmp_path / "kept"
    first = fp.studies.stationary_points(((2, 2),), 2, seed=1, cells=kept)
    kept.write_text("\n".join(kept.read_text().split("\n")[:2]) + "\n")
    again = fp.studies.stationary_points(((2, 2),), 2, seed=1, cells=kept)
    assert all(
        np.array_equal(first[name], again[name], equal_nan=first[name].dtype.kind == "f") for name in first.columns
    )
    assert (first["outcome"] == found["outcome"][:2]).all()


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("cases", {"cases": (3, 3)}),
        ("cases", {"cases": ((1, 1),)}),
        ("cases", {"cases": ((2, 2), (2, 2))}),
        ("draws", {"draws": 0}),
        ("tau", {"tau": 10.0}),
        ("seed", {"seed": "0"}),
    ],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.stationary_points(**arguments)
    assert caught.value.name == name
