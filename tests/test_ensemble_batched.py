"""Ensembles whose fields are asked for the velocities of all systems at once: each system is that of a single run.

Sinkhorn attention is scaled to `tol`, from where the last scalings ended, and what is remembered of them depends a
little on the company. So its systems are those of single runs to some tol, the others to the bit.
"""

from __future__ import annotations

import signal

import numpy as np
import pytest

import fastpde as fp
from fastpde import ensemble

from .ensembles import RK4, SYSTEMS, alone, assert_alone, matrices, one_thread, run_both, tokens  # noqa: F401
from .problems import DTYPES, run

EYE, TOL = np.eye(2), 1e-11
TURN = np.array([[1.0, 0.4], [-0.6, 0.8]])
SCALED = 1e3 * TOL
HIT = {"events": [fp.BlowUp(1e6)]}  # never happens


def sinkhorn(d=2, **options):
    return fp.Sinkhorn(*matrices(d), eps=np.array([0.7, 1.0, 1.5]), tol=TOL, **options)


def linear(d=2):
    Q, K, V = matrices(d)
    return fp.Linear(Q, K, V, scale=np.array([0.5, 0.8, 1.1]))


def with_a_sinkhorn_head(d=2):
    W = np.random.default_rng(1).normal(size=(SYSTEMS, 2, d, d)) / 4 + np.eye(d)
    return fp.MultiHead([fp.MultiHead([sinkhorn(d), linear(d)], W=W), fp.Softmax(*matrices(d, rng=8))])


FIELDS = {
    "Sinkhorn": (sinkhorn(), {}, SCALED),
    "symmetric Sinkhorn": (fp.Sinkhorn(EYE, EYE, -0.6 * EYE, tol=TOL), {}, SCALED),
    "half-iterations": (sinkhorn(n_half=3), {}, 0.0),
    "two laws": (fp.MultiHead([fp.Softmax(*matrices(2)), fp.Sigmoid(*matrices(2))]), {}, 0.0),
    "a masked head": (fp.MultiHead([fp.Masked(fp.Softmax(*matrices(2))), fp.Softmax(*matrices(2))]), {}, 0.0),
    "Linear": (linear(), {}, 0.0),
    "a Sinkhorn head": (with_a_sinkhorn_head(), {}, SCALED),
    "Masked(Linear)": (fp.Masked(linear()), {"positions": [3, 1, 4, 1, 5, 9, 2, 6, 5, 3, 5]}, 0.0),
}
each_field = pytest.mark.parametrize("name", FIELDS)


# ---- the same as alone -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rk4", "bosh3", "dopri5"])
@each_field
def test_systems_are_those_of_single_runs(name, method):
    """Of sizes 1, 2 and 4, with as many steps of their own; times in the midst of steps, and before a step."""
    attention, options, tolerance = FIELDS[name]
    x0 = tokens(11, 2) * np.array([0.25, 1.0, 2.0])[:, None, None]
    step = {"step": 0.1} if method == "rk4" else {"rtol": 1e-5, "atol": 1e-8}
    times = [0.0, 0.17, 0.4, 0.5]
    together, _ = assert_alone(
        attention, x0, (0.0, 0.5), tolerance, path="batched", method=method, t_eval=times, **step, **options, **HIT
    )
    assert together.success and np.isnan(together.t_events[0]).all()


@pytest.mark.parametrize("form", ["shared", "own"])
@pytest.mark.parametrize("name", ["Sinkhorn", "Linear", "a Sinkhorn head"])
def test_weights(name, form):
    attention, options, tolerance = FIELDS[name]
    weights = np.random.default_rng(3).dirichlet(np.full(11, 5.0), None if form == "shared" else SYSTEMS)
    assert_alone(attention, tokens(11, 2), (0.0, 0.3), tolerance, path="batched", weights=weights, **options)


@pytest.mark.parametrize("name", ["Sinkhorn", "Linear", "Masked(Linear)"])
def test_spheres(name):
    attention, options, tolerance = FIELDS[name]
    x0 = tokens(11, 2)
    x0 /= np.linalg.norm(x0, axis=-1, keepdims=True)
    together, _ = assert_alone(
        attention, x0, (0.0, 1.0), tolerance, path="batched", manifold=fp.Sphere(), t_eval=[0.3, 1.0], **options
    )
    np.testing.assert_allclose(np.linalg.norm(together.x, axis=-1), 1.0, rtol=0, atol=1e-14)


@pytest.mark.parametrize("n, d", [(1, 1), (2, 3), (33, 9), (70, 5)])
def test_sizes(n, d):
    """Tokens that fill tiles or do not, in both precisions."""
    for dtype in DTYPES:
        assert_alone(linear(d), tokens(n, d, dtype=dtype), (0.0, 0.5), 0.0, path="batched", rtol=1e-4)


@pytest.mark.parametrize("options", [{}, HIT], ids=["", "an event"])
def test_fixed_steps(options):
    """At their ends, and between them, backwards, too."""
    assert_alone(linear(3), tokens(), (0.0, 1.0), 0.0, path="batched", t_eval=[0.33, 0.5, 1.0], **RK4, **options)
    assert_alone(linear(3), tokens(), (1.0, 0.3), 0.0, path="batched", **RK4, **options)


def test_a_backend_of_ones_own_is_asked():
    """It is no part of the compiled loop."""
    attention = fp.Softmax(*matrices(2))
    assert_alone(attention, tokens(11, 2), (0.0, 0.5), 0.0, path="batched", backend=fp.Direct())


# ---- events and ends -------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
@pytest.mark.parametrize("kind", ["Linear", "Sinkhorn"])
def test_events_of_each_system_are_those_of_single_runs(kind, method):
    """The first system collapses, the second leaves the radius, the third contracts to a line and stands still there.

    Each goes on without the rest, with what its field remembers. Event times are roots, from velocities to some tol.
    """
    x0 = tokens(11, 2)
    x0 -= x0.mean(axis=1, keepdims=True)
    V = np.array([np.diag([-2.0, -2.0]), np.diag([2.0, 2.0]), np.diag([-2.0, 0.0])])
    attention = fp.Linear(EYE, EYE, V, scale=3.0)
    if kind == "Sinkhorn":
        attention = fp.Sinkhorn(EYE, EYE, V / 5, eps=0.2, tol=TOL)
    events = [fp.Collapsed(0.5), fp.BlowUp(1.5, terminal=False), fp.BlowUp(3.0), fp.SteadyState(0.05)]
    step = {} if method == "dopri5" else {"step": 0.05}
    tolerance, times = SCALED if kind == "Sinkhorn" else 0.0, [0.02, 0.6, 4.0]
    together, singles = assert_alone(
        attention, x0, (0.0, 4.0), tolerance, path="batched", method=method, events=events, t_eval=times, **step
    )
    assert [status.value for status in together.status] == ["collapsed", "blow_up", "steady_state"]
    for b, one in enumerate(singles):
        for e, times in enumerate(one.t_events):
            near = 1e-8 if kind == "Sinkhorn" else 0.0
            np.testing.assert_allclose(together.t_events[e][b], times[0] if len(times) else np.nan, rtol=near)


def test_a_step_that_is_tried_again_starts_as_the_first_time():
    """First steps far too long, in part so long that the trial is not finite."""
    x0 = tokens(9, 2) * np.array([1.0, 2.0, 4.0])[:, None, None]
    for attention, step, tolerance in ((linear(), 30.0, 0.0), (sinkhorn(), 2.0, SCALED)):
        together, _ = assert_alone(attention, x0, (0.0, 30.0), tolerance, path="batched", step=step, max_steps=12)
        assert (together.stats["rejected_each"] > 0).any()


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_system_that_fails_does_not_disturb_the_others(method):
    """Linear attention with V > 0 blows up in finite time; the bits of its neighbours do not change."""
    V = np.array([-1.0, 1.0, -1.0])[:, None, None] * EYE
    x0, attention = tokens(9, 2), fp.Linear(EYE, EYE, V)
    x0[1] *= 5
    options = {"events": [fp.BlowUp(1e300)]} | ({} if method == "dopri5" else {"step": 0.2})
    sol = fp.solve(attention, x0, (0.0, 4.0), method=method, **options)
    one = alone(attention, x0, 1, (0.0, 4.0), method=method, **options)
    assert sol.stats["path"] == "batched" and sol.status[1] is one.status
    assert sol.status[1] in (fp.Status.NOT_FINITE, fp.Status.STEP_TOO_SMALL) and np.isfinite(sol.x_final).all()
    fine = [0, 2]
    two = fp.solve(attention.system(np.array(fine)), x0[fine], (0.0, 4.0), method=method, **options)
    np.testing.assert_array_equal(two.x_final, sol.x_final[fine])
    assert two.success


def test_a_failure_among_systems_of_the_same_steps():
    """The others reach the end, with their bits."""
    x0 = tokens(11, 2)
    x0[1] *= 1e200
    sol = fp.solve(linear(), x0, (0.0, 0.3), method="euler", step=0.1)
    assert sol.stats["path"] == "batched" and "1 not_finite" in sol.message
    np.testing.assert_array_equal(sol.x_final[1], x0[1])
    for b in (0, 2):
        want = alone(linear(), x0, b, (0.0, 0.3), method="euler", step=0.1).x_final
        np.testing.assert_array_equal(sol.x_final[b], want)


def test_a_velocity_that_is_no_number_at_the_start():
    x0 = tokens(11, 2)
    x0[1] *= 1e200
    sol = fp.solve(linear(), x0, (0.0, 0.3))
    assert [status.value for status in sol.status] == ["completed", "not_finite", "completed"]
    assert sol.t_final[1] == 0.0 and sol.stats["steps_each"][1] == 0


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_scaling_that_does_not_converge_ends_its_system(method):
    """The second needs more half-iterations as it spreads, the third at once; the first does not notice."""
    V = np.array([-1.0, 3.0, 1.0])[:, None, None] * EYE
    x0 = tokens(11, 2) * np.array([1.0, 1.5, 12.0])[:, None, None]
    attention = fp.Sinkhorn(EYE, TURN, V, tol=1e-11, max_iter=20)
    step = {"step": 0.05} if method == "rk4" else {}
    sol, singles = run_both(attention, x0, (0.0, 1.5), method=method, **step, **HIT)
    assert [status.value for status in sol.status] == ["completed", "not_converged", "not_converged"]
    assert sol.status == tuple(one.status for one in singles) and sol.t_final[2] == 0.0
    # Where 20 half-iterations just suffice is a matter of rounding.
    assert 0.3 < sol.t_final[1] < 1.0 and abs(sol.t_final[1] - singles[1].t_final) < 0.05
    np.testing.assert_allclose(sol.x_final[0], singles[0].x_final, rtol=0, atol=1e-9)


# ---- independence ----------------------------------------------------------------------------------------------------


def test_company_cuts_and_blocks_change_no_bit(monkeypatch):
    """Of a field that remembers nothing."""
    x0 = tokens(9, 2, systems=70)
    attention = fp.Linear(EYE, EYE, -EYE)
    options = {"events": [fp.Collapsed(0.4)], "t_eval": np.linspace(0, 4, 9)}
    whole = fp.solve(attention, x0, (0.0, 4.0), **options)
    assert len(set(whole.status)) == 2  # some leave before the others
    monkeypatch.setattr(ensemble, "_PAIRS", 1.0)
    monkeypatch.setattr(ensemble, "_SMALLEST_BLOCK", 16)
    cut = fp.solve(attention, x0, (0.0, 4.0), **options)
    for one, other in ((whole.x, cut.x), (whole.x_final, cut.x_final), (whole.t_events[0], cut.t_events[0])):
        np.testing.assert_array_equal(one, other)
    for b in (0, 69):
        own = fp.solve(attention, x0[b : b + 1], (0.0, 4.0), **options)
        np.testing.assert_array_equal(own.x[:, 0], whole.x[:, b])


BITS = """
import json, fastpde as fp
from fastpde.simd import pool
from tests.problems import digest
from tests.test_ensemble_batched import FIELDS, tokens
found = []
for threads in (1, 2):
    pool.set_threads(threads)
    names = ("Sinkhorn", "Linear", "a Sinkhorn head")
    found.append([digest(fp.solve(FIELDS[name][0], tokens(11, 2), (0.0, 0.1), max_steps=4).x_final) for name in names])
print(json.dumps(found))
"""


def test_threads_change_no_bit():
    (one, two), _ = run(BITS, NUMBA_NUM_THREADS=2)
    assert one == two and len(set(one)) == 3


def test_ctrl_c_leaves_promptly():
    """Half a second into a run without end: the signal is seen between two velocities, or never."""

    def interrupt(*_):
        raise KeyboardInterrupt

    fp.solve(linear(), tokens(11, 2), (0.0, 0.1))  # compiled or loaded
    before = signal.signal(signal.SIGALRM, interrupt)
    signal.setitimer(signal.ITIMER_REAL, 0.5)
    try:
        with pytest.raises(KeyboardInterrupt):
            fp.solve(linear(), tokens(11, 2), (0.0, 1e6), method="rk4", step=1e-3, max_steps=10**9, **HIT)
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0.0)
        signal.signal(signal.SIGALRM, before)
