"""Bounds of stability and support against their formulas in Theory 8, against runs, and against other integrations."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.optimize import linear_sum_assignment
from scipy.special import exp1, expi

import fastpde as fp
from fastpde.theory.bounds import existence_time

RNG = np.random.default_rng(5)
Q, K, V = RNG.normal(size=(3, 2, 2)) / 2
v, a, q, k = (float(np.linalg.norm(m, 2)) for m in (V, K.T @ Q, Q, K))
EPS = 0.7
PLAIN = {
    "Softmax": fp.Softmax(Q, K, V),
    "L2": fp.L2(Q, K, V),
    "Sigmoid": fp.Sigmoid(Q, K, V, bias=-0.5),
    "Exponential": fp.Exponential(Q, K, V),
    "Linear": fp.Linear(Q, K, V),
    "Sinkhorn": fp.Sinkhorn(Q, K, V, eps=EPS),
}


def log_constant(kind, r, r_t, t, p):
    """log C as Theory 8.1 writes it, term by term."""
    c_p = 1 if p >= 2 else 2
    if kind in ("Softmax", "L2"):
        xi, beta, eta = (a, a, 2 * a) if kind == "Softmax" else (2 * a, 2 * k * (q + k), (q + k) ** 2)
        e = eta / p
        bent = c_p * beta / e * (np.exp(e * r_t) - np.exp(e * r))
        return 0.5 * (xi * (r_t - r) + expi(e * r_t) - expi(e * r) + bent)
    if kind == "Sigmoid":
        return v * t + a * (r_t - r) / 4
    return v * t / EPS + a * r * (np.exp(2 * v * t / EPS) - 1) / EPS


@pytest.mark.parametrize("p", [1.0, 1.5, 2.0, 3.0])
@pytest.mark.parametrize("kind", ["Softmax", "L2", "Sigmoid", "Sinkhorn"])
def test_the_formulas_of_the_mathematics(kind, p):
    if kind == "Sinkhorn" and p != 2.0:
        with pytest.raises(fp.InputError, match="p: got"):
            fp.stability_bound(PLAIN[kind], 0.4, 1.1, p)
        return
    t, R0 = 0.4, 1.1
    speed = v / EPS if kind == "Sinkhorn" else v
    want = log_constant(kind, R0**2, R0**2 * np.exp(2 * speed * t), t, p)
    # Closed forms of the same numbers in another order: rounding of a few terms.
    assert fp.stability_bound(PLAIN[kind], t, R0, p, log=True) == pytest.approx(want, rel=1e-12)
    assert fp.stability_bound(PLAIN[kind], t, R0, p) == pytest.approx(np.exp(want), rel=1e-10)
    assert fp.support_bound(PLAIN[kind], t, R0) == pytest.approx(R0 * np.exp(speed * t), rel=1e-13)


def test_rates_of_unnormalised_attention():
    """3 v a R^2 and v e^{a R^2} (1 + 2 a R^2), and the supports of Theory 8.2; R' is integrated here on its own."""
    R0, t = 0.9, 0.3
    assert PLAIN["Linear"].stability_rate(R0) == pytest.approx(3 * v * a * R0**2, rel=1e-14)
    grown = np.exp(a * R0**2)
    assert PLAIN["Exponential"].stability_rate(R0) == pytest.approx(v * grown * (1 + 2 * a * R0**2), rel=1e-14)
    R = R0 / np.sqrt(1 - 2 * v * a * R0**2 * t)
    assert fp.support_bound(PLAIN["Linear"], t, R0) == pytest.approx(R, rel=1e-13)
    assert fp.stability_bound(PLAIN["Linear"], t, R0) == pytest.approx((R / R0) ** 3, rel=1e-12)
    assert fp.support_bound(PLAIN["Linear"], 1.01 / (2 * v * a * R0**2), R0) == np.inf
    R = R0
    for _ in range(1000):  # rk4: an error of 1e-3^4 times a few derivatives
        h, slope = t / 1000, lambda R: v * R * np.exp(a * R * R)
        one = slope(R)
        two = slope(R + h / 2 * one)
        three = slope(R + h / 2 * two)
        R += h / 6 * (one + 2 * two + 2 * three + slope(R + h * three))
    assert fp.support_bound(PLAIN["Exponential"], t, R0) == pytest.approx(R, rel=1e-10)
    from scipy.special import exp1

    ends = exp1(a * R0**2) / (2 * v)
    assert fp.support_bound(PLAIN["Exponential"], 0.999 * ends, R0) < np.inf
    assert fp.stability_bound(PLAIN["Exponential"], 1.001 * ends, R0) == np.inf


@pytest.mark.parametrize("kind", PLAIN)
def test_a_function_of_time_that_is_constant(kind):
    """The ODE against the closed form: 1e-8 is a hundred times its tolerance."""
    moving = type(PLAIN[kind])(lambda t: Q, K, V, **({"eps": EPS} if kind == "Sinkhorn" else {}))
    times = np.array([0.0, 0.1, 0.3])
    for bound in (fp.stability_bound, fp.support_bound):
        np.testing.assert_allclose(bound(moving, times, 1.0), bound(PLAIN[kind], times, 1.0), rtol=1e-8)


def test_parameters_in_time():
    """Layers are composed: C(0, 2h) = C(0, h) C(h, 2h) with the radius carried on; v(t) = |cos t| is integrated."""
    layers = fp.Softmax(Q, K, fp.Layers(np.stack([V, 2 * V]), 1.0))
    radius = fp.support_bound(fp.Softmax(Q, K, V), 0.5, 1.0)
    whole = fp.stability_bound(fp.Softmax(Q, K, V), 0.5, 1.0) * fp.stability_bound(
        fp.Softmax(Q, K, 2 * V), 0.25, radius
    )
    assert fp.stability_bound(layers, 0.75, 1.0) == pytest.approx(whole, rel=1e-12)
    turning = fp.Sigmoid(Q, K, lambda t: np.cos(t) * V)
    # 1e-8: the tolerance of the ODE with room. log R(t) = v sin t.
    assert fp.support_bound(turning, 1.2, 1.5) == pytest.approx(1.5 * np.exp(v * np.sin(1.2)), rel=1e-8)
    later = fp.support_bound(turning, 1.2, 1.5, t0=0.4)
    assert later == pytest.approx(1.5 * np.exp(v * (np.sin(1.2) - np.sin(0.4))), rel=1e-8)


def test_heads():
    """The rates add, with the norms of W_h V_h; heads of different clocks are integrated, here equal ones."""
    W = RNG.normal(size=(2, 2, 2))
    heads = fp.MultiHead([PLAIN["Softmax"], PLAIN["L2"]], W=W)
    rate = sum(type(h)(Q, K, w @ V).stability_rate(1.2, 3.0) for h, w in zip(heads.heads, W, strict=True))
    assert heads.stability_rate(1.2, 3.0) == pytest.approx(rate, rel=1e-13)
    half = fp.Linear(Q, K, V / 2)
    two = fp.MultiHead([half, half])
    assert fp.stability_bound(two, 0.3, 0.9) == pytest.approx(fp.stability_bound(PLAIN["Linear"], 0.3, 0.9), rel=1e-8)
    nested = fp.MultiHead([fp.MultiHead([PLAIN["Sigmoid"]], W=W[:1])], W=W[1:])
    alone = fp.Sigmoid(Q, K, W[1] @ W[0] @ V)
    assert nested.stability_rate(1.0) == pytest.approx(alone.stability_rate(1.0), rel=1e-13)


def test_masks():
    """The formula at its best r on a finer grid; no mask constant where nothing is normalised; p = 1 fails."""
    masked, R, p = fp.Masked(PLAIN["Softmax"]), 1.3, 2.5
    r = np.linspace(1, p, 2000)[:-1]
    c = np.where(r < 2, 2, 1)
    each = v * (a * R**2 + (1 + c * a * R**2) * np.exp(2 * a * R**2 / r) * (p / (p - r)) ** (1 / r))
    # Any r is a bound: 32 values come within a few percent of the best.
    assert each.min() <= masked.stability_rate(R, p) <= 1.03 * each.min()
    assert fp.Masked(PLAIN["Sigmoid"]).stability_rate(R, 1.0) == PLAIN["Sigmoid"].stability_rate(R, 1.0)
    assert masked.stability_rate(R, np.inf) == pytest.approx(v * (1 + 2 * a * R**2), rel=1e-13)
    with pytest.raises(fp.InputError, match="p > 1 for masked"):
        fp.stability_bound(masked, 0.1, 1.0, 1.0)


def test_measured_radii():
    """From radii as large as can be it is the a-priori bound; from constant ones it tends to e^{t L(R)}, from above."""
    soft, times = PLAIN["Softmax"], np.linspace(0.0, 0.5, 6)
    largest = fp.support_bound(soft, times, 1.0)
    np.testing.assert_allclose(
        fp.measured_stability_bound(soft, times, largest), fp.stability_bound(soft, times, 1.0), rtol=1e-11
    )
    many = np.linspace(0.0, 0.5, 401)
    logs = fp.measured_stability_bound(soft, many, np.ones(401), log=True)
    rate = soft.stability_rate(1.0)
    assert 0.5 * rate < logs[-1] < 0.5 * rate * 1.01
    assert logs[0] == 0.0 and (np.diff(logs) > 0).all()


def test_what_has_no_bound_is_refused():
    soft = PLAIN["Softmax"]
    for arguments, name in (
        ((soft, -0.1, 1.0), "t"),
        ((soft, [0.2, 0.1], 1.0), "t"),
        ((soft, 0.1, 0.0), "R0"),
        ((soft, 0.1, 1.0, 0.5), "p"),
        ((fp.Sinkhorn(Q, K, V, n_half=3), 0.1, 1.0), "attention"),
        ((fp.Softmax(np.stack([Q, Q]), K, V), 0.1, 1.0), "attention"),
    ):
        with pytest.raises(fp.InputError) as caught:
            fp.stability_bound(*arguments)
        assert caught.value.name == name
    with pytest.raises(TypeError, match="attention"):
        fp.stability_bound("softmax", 0.1, 1.0)


def test_bounds_that_leave_the_range_of_numbers():
    soft = PLAIN["Softmax"]
    assert fp.stability_bound(soft, 3.0, 3.0) == np.inf
    assert np.isfinite(fp.stability_bound(soft, 1.0, 3.0, log=True))
    assert fp.stability_bound(soft, 50.0, 3.0, log=True) == np.inf
    assert fp.stability_bound(fp.Softmax(lambda t: Q, K, V), 50.0, 3.0, log=True) == np.inf
    assert fp.stability_bound(fp.Softmax(Q, K, 0 * V), 9.0, 1.0) == 1.0
    assert fp.stability_bound(fp.Softmax(0 * Q, K, V), 1.0, 1.0) == pytest.approx(np.exp(v), rel=1e-13)


SYSTEMS, N = 200, 5
# Before anything explodes: E1(1) / 2 = 0.11 and 1 / (2 3) = 0.17 (Theory 8.2).
ENDS = {"Exponential": 0.05, "Linear": 0.1}


def pairs(rng):
    """Clouds (2, SYSTEMS, N, 2) in the unit ball: a third far apart, the others close, some of few distinct tokens."""
    x = rng.normal(size=(2, SYSTEMS, N, 2))
    x[:, ::4] = np.sign(x[:, ::4]) * [1.0, 1e-3]  # two groups at the rim: the steepest softmax
    size = np.where(np.arange(SYSTEMS) % 3 == 0, 1.0, 10.0 ** -rng.uniform(1, 5, SYSTEMS))
    x[1] = x[0] + size[:, None, None] * x[1]
    return x / np.linalg.norm(x, axis=3).max(axis=(0, 2))[:, None, None]


def random_parameters(rng, steepest):
    """|V| = 1, |K^T Q| <= `steepest`: the exponents of the rates are of size one."""
    m = rng.normal(size=(3, SYSTEMS, 2, 2))
    m[:, ::4] = np.eye(2)
    m /= np.linalg.norm(m, 2, axis=(2, 3))[..., None, None]
    grade = np.sqrt(rng.uniform(0.1, 1.0, SYSTEMS) * steepest)[:, None, None]
    return grade * m[0], grade * m[1] * rng.choice([-1, 1], (SYSTEMS, 1, 1)), m[2]


def distances(x, y, p, conditional):
    """W_p, or d_p of one token per position, of clouds (B, N, d), by assignments."""
    each = np.linalg.norm(x[:, :, None] - y[:, None], axis=3)
    if conditional:
        return (np.diagonal(each, axis1=1, axis2=2) ** p).mean(axis=1) ** (1 / p)
    best = [cost[linear_sum_assignment(cost)].mean() for cost in each**p]
    return np.array(best) ** (1 / p)


TESTED = [
    *((kind, p) for kind in ("Softmax", "L2", "Sigmoid", "Exponential", "Linear", "MultiHead") for p in (1.0, 2.0)),
    ("Sinkhorn", 2.0),
    *(("Masked " + kind, p) for kind in ("Softmax", "L2") for p in (1.5, 2.0, 4.0)),
    ("Masked Sigmoid", 1.0),
    ("Masked Exponential", 2.0),
]


@pytest.mark.parametrize(("kind", "p"), TESTED)
def test_no_random_pair_exceeds_the_bound(kind, p):
    """200 pairs; the bound a priori, and a posteriori with the radii seen.

    1 + 1e-9 is for the first distance, where bound and ratio are both 1; the steps' errors, 1e-5, are far less than
    what the bounds leave.
    """
    base = kind.removeprefix("Masked ")
    rng = np.random.default_rng([TESTED.index((kind, p))])
    q, k, v = random_parameters(rng, 1.0 if base == "Exponential" else 3.0)
    if base == "MultiHead":
        W = rng.normal(size=(SYSTEMS, 2, 2, 2)) / 3
        attention = fp.MultiHead([fp.Softmax(q, k, v), fp.Softmax(k, q, v)], W=W)
    else:
        attention = getattr(fp, base)(q, k, v, **({"tol": 1e-10} if base == "Sinkhorn" else {}))
    masked = kind != base
    attention = fp.Masked(attention) if masked else attention
    end = ENDS.get(base, 0.2)
    times = np.linspace(0.0, end, 4)
    runs = [fp.solve(attention, c, (0.0, end), method="rk4", step=end / 6, t_eval=times) for c in pairs(rng)]
    assert all(run.success for run in runs)
    x, y = (run.x for run in runs)
    start = distances(x[0], y[0], p, masked)
    grown = np.stack([distances(a, b, p, masked) for a, b in zip(x, y, strict=True)]) / start
    radii = np.linalg.norm(np.stack([x, y]), axis=4).max(axis=(0, 3))
    worst = 0.0
    for b in range(SYSTEMS):
        one = attention.system(b)
        prior = fp.stability_bound(one, times, radii[0, b], p)
        seen = fp.measured_stability_bound(one, times, radii[:, b], p)
        support = fp.support_bound(one, times, radii[0, b])
        assert (grown[:, b] <= prior * (1 + 1e-9)).all()
        assert (grown[:, b] <= seen * (1 + 1e-9)).all()
        assert (radii[:, b] <= support * (1 + 1e-9)).all()
        worst = max(worst, (np.log(grown[1:, b]) / np.log(seen[1:])).max())
    # Some pair does move apart, at a rate that is not a rounding of the bound's: 0.02 (masked L2) to 0.9999 (linear).
    assert worst > 0.01


def test_times_of_existence():
    """One head has closed forms; several, and parameters in time, are where `support_bound` becomes infinite."""
    R = 1.3
    assert existence_time(fp.Linear(Q, K, V), R) == pytest.approx(1.0 / (2.0 * v * a * R * R), rel=1e-14)
    one = existence_time(PLAIN["Exponential"], R)
    assert one == pytest.approx(exp1(a * R * R) / (2.0 * v), rel=1e-12)
    assert existence_time(fp.Masked(PLAIN["Exponential"]), R, 7.0) == one
    for name in ("Softmax", "L2", "Sigmoid", "Sinkhorn"):
        assert existence_time(PLAIN[name], R) == np.inf
    # Two linear heads add up: R' = 2 v a R^3.
    assert existence_time(fp.MultiHead([fp.Linear(Q, K, V)] * 2), R) == pytest.approx(0.25 / (v * a * R * R), rel=2e-3)
    moving = fp.Linear(Q, K, lambda t: (1.0 + t) * V)  # int v (1 + s) ds = v (t + t^2 / 2)
    until = existence_time(moving, R)
    assert until + until**2 / 2.0 == pytest.approx(1.0 / (2.0 * v * a * R * R), rel=2e-3)
    with pytest.raises(fp.InputError, match="R0"):
        existence_time(moving, -1.0)
