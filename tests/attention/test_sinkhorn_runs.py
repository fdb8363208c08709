"""Sinkhorn attention inside runs: warm starts, restarts, scalings that do not converge, and what is remembered."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest

import fastpde as fp
from fastpde.attention.memory import Memory
from fastpde.attention.warm_start import WarmStart
from fastpde.integrate.integrator import Integrator
from fastpde.integrate.problem import Options, Problem
from fastpde.meanfield import bind

EYE = np.eye(2)
TURN = np.array([[1.0, 0.4], [-0.6, 0.8]])


def tokens(*shape, seed=1):
    return np.random.default_rng(seed).normal(size=(*shape, 2))


def started(attention, x, **options):
    asked = {"method": "dopri5", "step": None, "rtol": 1e-6, "atol": 1e-9, "max_steps": 1000, "t_eval": None}
    options = Options(**(asked | options), events=(), observers=(), space=None)
    return Problem.checked(bind(attention, x), x, (0.0, 0.6), options)


def ended(run):
    while run.status is None:
        run.step()
    return run


# ---- warm starts -----------------------------------------------------------------------------------------------------

KERNELS = {"K = Q": (EYE, 1), "K = -Q": (-EYE, 1), "other": (TURN, 1), "K = Q, contracting": (EYE, -1)}


@pytest.mark.parametrize("name", KERNELS)
def test_warm_starts_halve_the_work(name, monkeypatch):
    """Half-iterations per right-hand side in dopri5, cold over warm: at least 2 (measured 2.2 to 2.7)."""
    K, sign = KERNELS[name]
    attention, per_evaluation = fp.Sinkhorn(EYE, K, sign * EYE), []
    for warm in (True, False):
        if not warm:
            monkeypatch.setattr(Memory, "get", lambda *_: None)
        stats = fp.solve(attention, tokens(1000, seed=0), (0.0, 0.3)).stats
        per_evaluation.append(stats["half_iterations"] / stats["evaluations"])
        assert 0.0 < stats["marginal_error"] <= 1e-9
    assert 2.0 * per_evaluation[0] <= per_evaluation[1]


@pytest.mark.parametrize("eps", [0.1, 1.0, 10.0])
def test_cold_half_iterations_of_equal_queries_and_keys(eps):
    attention = fp.Sinkhorn(EYE, EYE, EYE, eps=eps)
    stats = fp.solve(attention, tokens(2000, seed=0), (0.0, 1e-9), method="euler", step=1e-9).stats
    assert stats["evaluations"] == 1 and stats["half_iterations"] <= 25


def scaled(x, s):
    """Tokens and the potentials of a kernel that follows them: -s^2 |x|^2 / 2, as of a Gaussian cloud."""
    return s * x, -((s * x) ** 2).sum(axis=2) / 2


def test_a_cloud_that_contracts_is_foreseen():
    """All moves are along one line, but tokens and their squares are a combination of the last ones, as g is.

    1e-6: the ridge of 1e-13 leaves the root of it in the fit. Linear extrapolation has an error of 0.1^2.
    """
    x = tokens(3, 40) - tokens(3, 40).mean(axis=1, keepdims=True)
    memory = Memory()
    assert not WarmStart(memory, x).start().any()
    for s in (1.0, 0.9, 0.7):
        cloud, g = scaled(x, s)
        WarmStart(memory, cloud).keep(g, np.array([True, True, False]))
    cloud, g = scaled(x, 0.6)
    start = WarmStart(memory, cloud).start()
    np.testing.assert_allclose(start[:2], g[:2], rtol=0, atol=1e-6 * np.abs(g).max())
    assert not start[2].any()  # it was never kept


def test_the_oldest_is_forgotten_and_systems_can_be_selected():
    """Along a cubic path x + t a + t^2 b + t^3 c, g linear in the tokens: nothing is left of the first, wrong g."""
    x, *terms = tokens(4, 2, 30)
    memory = Memory().head(1)

    def cloud(t):
        return x + sum(t**k * term for k, term in enumerate(terms, 1))

    for i in range(20):
        y = cloud(0.1 * i)
        WarmStart(memory, y).keep(y[..., 0] if i > 12 else np.full((2, 30), 1e6), np.ones(2, bool))
    y = cloud(2.0)
    want = WarmStart(memory, y).start()
    np.testing.assert_allclose(want, y[..., 0], rtol=0, atol=1e-4)
    WarmStart(memory, y).window()
    memory.select(np.array([False, True]))
    assert all(len(array) == 1 for array in memory.arrays.values())
    np.testing.assert_array_equal(WarmStart(memory, y[1:]).start(), want[1:])


# ---- restarts --------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("K", [EYE, TURN], ids=["K = Q", "other"])
def test_a_restart_has_the_same_bits(K):
    """From a copy of the state after every step of a run, in a new field: what is remembered is part of the state."""
    x = tokens(2, 60)
    attention = fp.MultiHead([fp.Sinkhorn(EYE, K, EYE), fp.Sinkhorn(EYE, EYE, -0.5 * EYE, eps=0.5)])
    whole, states = Integrator(started(attention, x)), []
    while whole.status is None:
        states.append(whole.state.copy())
        whole.step()
    assert len(states) > 3
    for state in states:
        part = ended(Integrator(started(attention, x), state=state))
        np.testing.assert_array_equal(part.state.y, whole.state.y)
        assert part.stats()["half_iterations"] == whole.stats()["half_iterations"]
    forgetful = states[-1].copy()
    forgetful.memory.clear()
    part = Integrator(started(attention, x), state=forgetful)
    part.step()
    assert not (part.state.y == whole.state.y).all()  # the comparison can fail


# ---- scalings that do not converge -----------------------------------------------------------------------------------


def until(end, low=0.001, max_iter=30):
    """eps falls to `low` at t = `end`, where the scores are too large for so few half-iterations."""
    return fp.Sinkhorn(EYE, TURN, EYE, eps=lambda t: 1.0 if t < end else low, max_iter=max_iter)


@pytest.mark.parametrize("options", [{}, {"method": "rk4", "step": 0.05}], ids=["dopri5", "rk4"])
def test_a_run_that_stops_converging_keeps_its_last_state(options):
    """A status, the rows before it and the last good state: bit for bit those of a run that has no such end."""
    x, times = tokens(50), [0.0, 0.1, 0.2, 0.5]
    sol = fp.solve(until(0.3), x, (0.0, 0.6), t_eval=times, **options)
    assert sol.status is fp.Status.NOT_CONVERGED and not sol.success
    for word in ("marginal error", "half-iterations", "tol = 1e-09", "max_iter", "larger eps", "last good one"):
        assert word in sol.message
    assert isinstance(sol.cause, fp.ConvergenceError) and sol.cause.error > sol.cause.tol and sol.cause.heads == ()
    assert sol.t.tolist() == times[:3]
    if options:  # the stages of the step from 0.25 reach 0.3
        np.testing.assert_allclose(sol.t_final, 0.25, rtol=1e-15)
        whole = fp.solve(until(1.0), x, (0.0, 0.6), t_eval=[*times[:3], 0.25], **options)
        np.testing.assert_array_equal(np.concatenate([sol.x, sol.x_final[None]]), whole.x)
    else:  # smaller and smaller steps end before it
        assert 0.29 < sol.t_final < 0.3
        whole = fp.solve(until(1.0), x, (0.0, 0.6), t_eval=[*times[:3], sol.t_final])
        np.testing.assert_allclose(np.concatenate([sol.x, sol.x_final[None]]), whole.x, rtol=0, atol=1e-5)


def test_a_smaller_step_can_converge(monkeypatch):
    """V = -8 I in one step of the whole span throws tokens apart, to scores that need more half-iterations than there
    are.

    Smaller steps follow the cloud as it contracts. 1e-5: both runs are solved to 1e-6.
    """
    x, failures, fail = tokens(50), [], Memory.fail
    monkeypatch.setattr(Memory, "fail", lambda *arguments: failures.append(fail(*arguments)))
    sol = fp.solve(fp.Sinkhorn(EYE, TURN, -8 * EYE, max_iter=40), x, (0.0, 1.0), step=1.0)
    assert sol.success and sol.cause is None and failures
    plain = fp.solve(fp.Sinkhorn(EYE, TURN, -8 * EYE), x, (0.0, 1.0))
    np.testing.assert_allclose(sol.x[-1], plain.x[-1], rtol=0, atol=1e-5)


def test_restarts_of_a_run_that_stops_converging():
    """The same bits from every step, with the rejected trials in between; and on, where the kernel lets it."""
    x = tokens(40)
    whole, states = Integrator(started(until(0.3, max_iter=20), x)), []
    while whole.status is None:
        states.append(whole.state.copy())
        whole.step()
    assert whole.status is fp.Status.NOT_CONVERGED and whole.state.clock.rejected > 5
    for state in states[1::6]:
        part = ended(Integrator(started(until(0.3, max_iter=20), x), state=state))
        assert part.status is whole.status and part.state.t == whole.state.t
        np.testing.assert_array_equal(part.state.y, whole.state.y)
        for name, array in whole.state.memory.items():
            np.testing.assert_array_equal(part.state.memory[name], array)
    assert ended(Integrator(started(until(1.0), x), state=whole.state)).status.success


@pytest.mark.parametrize("method", ["dopri5", "rk4"])
def test_a_scaling_that_does_not_converge_at_the_start(method):
    """A status like any other: the start is what there is. `velocity` raises."""
    x, attention = tokens(20), until(-1.0)
    sol = fp.solve(attention, x, (0.0, 1.0), method=method, step=0.1 if method == "rk4" else None)
    assert sol.status is fp.Status.NOT_CONVERGED and (sol.t_final, sol.stats["steps"]) == (0.0, 0)
    np.testing.assert_array_equal(sol.x, x[None])
    with pytest.raises(fp.ConvergenceError):
        attention.velocity(x)


def test_the_head_is_named():
    good, bad = fp.Sinkhorn(EYE, EYE, EYE), until(-1.0)
    heads = fp.MultiHead([good, fp.MultiHead([fp.Softmax(EYE, EYE, EYE), bad])])
    sol = fp.solve(heads, tokens(20), (0.0, 1.0))
    assert sol.cause.heads == (1, 1) and "of heads[1] of heads[1] at t = 0.0" in sol.message


@pytest.mark.parametrize("options", [{}, {"method": "rk4", "step": 0.05}], ids=["dopri5", "rk4"])
def test_only_the_systems_that_fail_end(options):
    """The others have the bits of a batch of one; single runs, whose error norm sums otherwise, are those to tol."""
    x, times = tokens(3, 30), [0.0, 0.1, 0.2]
    attention = fp.Sinkhorn(EYE, TURN, EYE, eps=np.array([1.0, 0.001, 2.0]), max_iter=40)
    sol = fp.solve(attention, x, (0.0, 0.2), t_eval=times, **options)
    assert [end.value for end in sol.status] == ["completed", "not_converged", "completed"]
    assert "not_converged: " in sol.message and "max_iter" in sol.message
    for b in (0, 2):
        one = fp.solve(attention.system(b), x[b : b + 1], (0.0, 0.2), t_eval=times, events=[fp.BlowUp(1e6)], **options)
        assert one.stats["path"] == sol.stats["path"] == "batched"
        np.testing.assert_array_equal(sol.x[:, b], one.x[:, 0])
        alone = fp.solve(attention.system(b), x[b], (0.0, 0.2), t_eval=times, **options)
        np.testing.assert_allclose(sol.x[:, b], alone.x, rtol=0, atol=1e-9)
    np.testing.assert_array_equal(sol.x[0, 1], x[1])
    assert np.isnan(sol.x[1:, 1]).all() and sol.t_final[1] == 0.0


def test_a_batch_in_which_systems_fail():
    """One that does not converge and one whose tokens are no numbers: nan for them, and a second evaluation of the
    others as if they were alone, to rounding."""
    x = tokens(4, 30)
    attention = fp.Sinkhorn(EYE, TURN, EYE, eps=np.array([1.0, 0.001, 2.0, 1.0]), max_iter=40)
    field, out = bind(attention, x), np.empty_like(x)
    wrong = x.copy()
    wrong[3, 5] = np.nan
    for y in (wrong, 1.01 * wrong):
        field(0.0, y, out)
        assert np.isnan(out[[1, 3]]).all() and np.isfinite(out[[0, 2]]).all()
        assert field.failed().tolist() == [False, True, False, False]
        assert isinstance(field.failure(), fp.ConvergenceError)
    for b in (0, 2):
        own, alone = bind(attention.system(b), x[b]), np.empty((30, 2))
        for y in (x[b], 1.01 * x[b]):
            own(0.0, y, alone)
        np.testing.assert_allclose(out[b], alone, rtol=0, atol=1e-14)
    # A trial that leaves the range of numbers says nothing about the scaling before it; one that works does.
    wrong[1] = np.nan
    field(0.0, wrong, out)
    assert field.failed().tolist() == [False, True, False, False]
    x[1] *= 1e-3
    field(0.0, x, out)
    assert not field.failed().any() and field.failure() is None and np.isfinite(out).all()


def test_a_step_that_leaves_the_range_of_numbers_is_no_failure_to_converge():
    attention, step = fp.Sinkhorn(EYE, EYE, 1e300 * EYE), 1e10
    solution = fp.solve(attention, np.ones((3, 2)), (0.0, step), method="rk4", step=step)
    assert solution.status is fp.Status.NOT_FINITE


# ---- memory ----------------------------------------------------------------------------------------------------------


def test_memory_grows_with_n():
    """At most one megabyte per thousand tokens at d = 2 where sums are direct: window, packed sources, tokens."""
    attention, peaks = fp.Sinkhorn(EYE, TURN, EYE, eps=10.0), []
    attention.velocity(np.random.default_rng(0).normal(size=(100, 2)))
    for n in (2000, 8000):
        x = np.random.default_rng(0).normal(size=(n, 2))
        tracemalloc.start()
        try:
            attention.velocity(x, backend="direct")
            peaks.append(tracemalloc.get_traced_memory()[1] / n)
        finally:
            tracemalloc.stop()
    assert max(peaks) < 1000.0  # bytes per token
    assert peaks[1] < 1.1 * peaks[0]


def test_what_a_run_remembers_of_a_head():
    """At most 256 KiB of clouds whatever n and d are, and 27 potentials and differences per token."""
    for n, d in ((5000, 2), (300, 100), (7, 3)):
        Q = np.eye(d) / d
        field = bind(fp.Sinkhorn(Q, Q, Q), np.random.default_rng(0).normal(size=(n, d)))
        field(0.0, field.cloud.x[0], np.empty((n, d)))
        size = sum(array.nbytes for array in field.memory.values())
        assert 27 * 8 * n <= size <= 27 * 8 * n + 2**18 + 2000
