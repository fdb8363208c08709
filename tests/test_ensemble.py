"""Ensembles: what the fused kernel does to system b is what `fp.solve` does to it alone."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde import compiled_runs, ensemble

from .ensembles import (
    EULER,
    RK4,
    SYSTEMS,
    alone,
    assert_alone,
    assert_same,
    attention_of,
    one_thread,  # noqa: F401
    run_both,
    tokens,
)
from .problems import DTYPES, VARIANTS, digest, run

REDUCED = [kind for kind in VARIANTS if kind not in ("Linear", "Sinkhorn")]
each_reduced = pytest.mark.parametrize("kind", REDUCED)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)


# ---- the same as alone -----------------------------------------------------------------------------------------------


@each_dtype
@pytest.mark.parametrize("masked", [False, True])
@each_reduced
def test_fixed_steps_are_those_of_single_runs(kind, masked, dtype):
    """Ten steps; the arithmetic differs in order only: 1e-13 in float64, some tens of eps in float32."""
    attention = attention_of(kind, 3)
    attention = fp.Masked(attention) if masked else attention
    times = [0.0, 0.25, 1.0]
    assert_alone(attention, tokens(dtype=dtype), (0.0, 1.0), 1e-13 if dtype == "float64" else 2e-6, t_eval=times, **RK4)


@pytest.mark.parametrize("n, d", [(1, 1), (2, 1), (8, 2), (33, 9), (200, 5), (7, 70)])
def test_sizes(n, d):
    """Tiles and groups that are full, nearly empty, or many; sources in more than one chunk."""
    assert_alone(attention_of("Softmax", d), tokens(n, d), (0.0, 0.5), 1e-13, **EULER)
    assert_alone(attention_of("L2", d, shared=True), tokens(n, d), (0.0, 0.5), 1e-13, **EULER)


@pytest.mark.parametrize("heads", [1, 2])
@each_reduced
def test_weights_and_heads(kind, heads):
    x0 = tokens()
    for shape in ((21,), (3, 21)):
        weights = np.random.default_rng(3).uniform(0.1, 3.0, shape)
        weights /= weights.sum(axis=-1, keepdims=True)
        assert_alone(attention_of(kind, 3, heads=heads), x0, (0.0, 0.5), 1e-13, weights=weights, **RK4)


def test_tiny_weights_keep_their_digits():
    """The heaviest score belongs to the lightest token: a product of the two alone would be lost."""
    x0 = tokens(5, 2)
    x0[:, 0] = 30.0
    weights = np.array([1e-290, 0.25, 0.25, 0.25, 0.25])
    attention = fp.Softmax(np.eye(2), np.eye(2), -np.eye(2))
    assert_alone(attention, x0, (0.0, 0.2), 1e-13, weights=weights, **EULER)


@each_reduced
def test_masked_with_ties_in_any_order(kind):
    positions = np.random.default_rng(2).integers(-4, 5, 21)
    weights = np.random.default_rng(3).dirichlet(np.full(21, 5.0))
    attention = fp.Masked(attention_of(kind, 3, heads=2))
    assert_alone(attention, tokens(), (0.0, 0.5), 1e-13, positions=positions, weights=weights, t_eval=[0.1, 0.5], **RK4)


@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5"])
def test_a_step_that_is_tried_again_starts_as_the_first_time(method):
    """First steps far too long, in part so long that the trial is not finite: the same retries as alone."""
    x0 = tokens(9, 2)
    both, _ = assert_alone(attention_of("Softmax", 2), x0, (0.0, 2.0), 1e-9, method=method, step=2.0)
    assert (both.stats["rejected_each"] > 0).all() and both.success
    wild = fp.Exponential(*[np.eye(2)] * 3, scale=0.3)
    both, _ = assert_alone(wild, x0 / 3, (0.0, 0.5), 1e-6, method=method, step=0.5, rtol=1e-9)
    assert both.stats["rejected"] > 0
    assert_alone(attention_of("Softmax", 2), x0, (0.0, 2.0), 1e-9, method=method, step=2.0, max_steps=4)


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_max_steps_of_each_system(method):
    """No velocity is taken that a single run does not take."""
    both, _ = assert_alone(
        attention_of("Softmax", 2), tokens(9, 2), (0.0, 2.0), 1e-9, method=method, step=0.1, max_steps=3
    )
    assert set(both.status) == {fp.Status.MAX_STEPS}


@each_dtype
@pytest.mark.parametrize("method", ["bosh3", "dopri5", "tsit5"])
def test_adaptive_steps_are_those_of_single_runs(method, dtype):
    """Each system takes the steps that it takes alone: rounding decides none of them here."""
    x0 = tokens(dtype=dtype) * np.array([0.2, 1.0, 4.0], dtype)[:, None, None]
    times = np.linspace(0.0, 3.0, 8)
    tolerance, rtol, atol = (1e-12, 1e-5, 1e-7) if dtype == "float64" else (1e-5, 1e-4, 1e-6)
    together, _ = assert_alone(
        attention_of("L2", 3), x0, (0.0, 3.0), tolerance, method=method, rtol=rtol, atol=atol, t_eval=times
    )
    assert len(set(together.stats["steps_each"].tolist())) > 1  # steps of their own


def test_backwards_and_a_first_step():
    assert_alone(attention_of("Softmax", 3), tokens(), (1.0, -0.5), 1e-12, method="dopri5", t_eval=[0.5, 0.0])
    assert_alone(attention_of("Softmax", 3), tokens(), (0.0, 0.5), 1e-12, method="tsit5", step=0.01)
    assert_alone(attention_of("Softmax", 3), tokens(), (0.0, 0.37), 1e-13, **RK4)  # a last step that is shorter
    assert_alone(attention_of("Softmax", 3), tokens(), (0.5, 0.5), 1e-13, **RK4)


@each_dtype
@pytest.mark.parametrize("kind", ["Softmax", "L2"])
def test_logits_of_a_million(kind, dtype):
    """Wide mode: where one token takes all the weight, both paths have the same winner and nothing overflows."""
    x0 = tokens(40, 2, dtype=dtype) * np.asarray(1e3, dtype)
    attention = getattr(fp, kind)(np.eye(2), np.eye(2), -np.eye(2))
    together, _ = assert_alone(
        attention, x0, (0.0, 0.02), 1e-11 if dtype == "float64" else 1e-2, method="euler", step=0.01
    )
    assert np.isfinite(together.x_final).all()
    if dtype == "float64":
        scores = x0[0] @ x0[0].T
        assert np.abs(scores).max() > 1e6


@pytest.mark.parametrize("method", ["euler", "dopri5"])
@each_reduced
def test_spheres(kind, method):
    x0 = tokens(12, 3)
    x0 /= np.linalg.norm(x0, axis=-1, keepdims=True)
    step = {"step": 0.1} if method == "euler" else {}
    together, _ = assert_alone(
        attention_of(kind, 3), x0, (0.0, 2.0), 1e-12, method=method, manifold=fp.Sphere(), t_eval=[0.33, 2.0], **step
    )
    np.testing.assert_allclose(np.linalg.norm(together.x, axis=-1), 1.0, rtol=0, atol=1e-14)


# ---- events and ends -------------------------------------------------------------------------------------------------


def test_no_state_is_shown_within_a_step_after_which_the_velocity_overflows():
    """The extension of rk4 uses the velocity at the end of a step: one token grows to where e^(x^2) is inf there."""
    attention, x0, times = fp.Exponential([[1.0]], [[1.0]], [[1.0]]), np.array([[1.38]]), np.arange(65) / 512.0
    seen: list[float] = []
    kept = {"method": "rk4", "step": 1 / 128, "t_eval": times}
    watch = fp.Observer(lambda t, x: seen.append(float(x.max())), time=1 / 512)
    plain = fp.solve(attention, x0, (0.0, 0.125), method="rk4", step=1 / 128)
    one = fp.solve(attention, x0, (0.0, 0.125), **kept, observers=[watch], log_density=np.zeros(1))
    last = one.t_final  # the end of the last step, whose state is finite and whose velocity is not
    assert one.status is fp.Status.NOT_FINITE and last == plain.t_final == 4 / 128 and np.isfinite(one.x_final).all()
    assert np.isinf(attention.velocity(one.x_final)).all()
    rows = (times <= last - 1 / 128) | (times == last)
    assert rows.sum() > 2 and np.array_equal(one.t, times[rows]) and len(one.log_density) == len(one.t)
    assert np.isfinite(one.x).all() and np.isfinite(seen).all() and len(seen) == len(one.t)
    for events in ([], [lambda t, x: 1.0]):
        many = fp.solve(attention, np.stack([x0, x0]), (0.0, 0.125), **kept, events=events)
        assert many.status == (fp.Status.NOT_FINITE,) * 2 and np.array_equal(many.x[rows, 0], one.x)
        assert np.isnan(many.x[~rows]).all()
    ended = fp.solve(attention, x0, (0.0, last), **(kept | {"t_eval": times[times <= last]}))
    assert ended.status is fp.Status.NOT_FINITE and ended.t_final == last


def test_systems_that_run_away_have_not_collapsed():
    """V = I: rounding makes tokens equal at t = 37; V = -I: they meet. So it is alone, together and compiled."""
    V, collapsed = np.array([1.0, -1.0])[:, None, None] * np.eye(2), fp.Collapsed(0.3)
    attention, x0 = fp.Softmax(np.eye(2), np.eye(2), V), tokens(8, 2, systems=2)
    one = fp.solve(attention.system(0), x0[0], (0.0, 42.0), events=[collapsed])
    assert np.ptp(one.x_final, axis=0).max() == 0.0 and one.status is fp.Status.COMPLETED
    for events, path in (([collapsed], "fused"), ([collapsed, lambda t, x: 1.0], "batched")):
        found = fp.solve(attention, x0, (0.0, 42.0), events=events)
        assert [status.value for status in found.status] == ["completed", "collapsed"]
        assert found.stats["path"] == path and np.isnan(found.t_events[0][0])
        assert "Collapsed(0.3) saw nothing in the end" in found.message


@pytest.mark.parametrize("method", ["euler", "rk4", "dopri5"])
def test_events_of_each_system_are_those_of_single_runs(method):
    """Sizes 1, 3 and 9 collapse, grow or stop at times of their own; the times are roots, to 1e-9 of each other."""
    x0 = tokens(9, 2) * np.array([1.0, 3.0, 9.0])[:, None, None]
    eye = np.eye(2)
    step = {} if method == "dopri5" else {"step": 0.05}
    events = [fp.Collapsed(0.05), fp.BlowUp(30.0), fp.SteadyState(1e-3), fp.BlowUp(4.0, terminal=False)]
    attention = fp.Softmax(eye, eye, np.array([1.0, -1.0, 1.0])[:, None, None] * eye, scale=0.05)
    together, singles = assert_alone(attention, x0, (0.0, 6.0), 1e-9, method=method, events=events, **step)
    for b, one in enumerate(singles):
        for e, times in enumerate(one.t_events):
            first = times[0] if len(times) else np.nan
            np.testing.assert_allclose(together.t_events[e][b], first, rtol=1e-9)
        np.testing.assert_allclose(together.t_final[b], one.t_final, rtol=1e-9)
    assert len(set(together.status)) > 1 and together.success


def test_an_event_at_the_start_and_first_times():
    x0 = tokens(5, 2)
    x0[1] = 0.5
    attention = fp.Softmax(np.eye(2), np.eye(2), -np.eye(2), scale=5.0)
    solution = fp.solve(attention, x0, (0.0, 50.0), events=[fp.Collapsed(0.3)], t_eval=[0.0, 50.0])
    assert solution.status[1] is fp.Status.COLLAPSED and solution.t_final[1] == 0.0
    assert solution.t_events[0][1] == 0.0 and np.isfinite(solution.x[0, 1]).all() and np.isnan(solution.x[1, 1]).all()
    assert solution.status[0] is fp.Status.COLLAPSED and 0.0 < solution.t_final[0] < 50.0


@pytest.mark.parametrize("method", ["rk4", "dopri5"])
def test_a_system_that_stops_being_finite_ends_alone(method):
    """Exponential attention blows up in finite time where V > 0 and tokens are large; its neighbours do not see it."""
    x0 = tokens(9, 2)
    x0[1] *= 5
    eye = np.eye(2)
    attention = fp.Exponential(eye, eye, np.array([-1.0, 1.0, -1.0])[:, None, None] * eye)
    step = {} if method == "dopri5" else {"step": 0.05}
    together = fp.solve(attention, x0, (0.0, 1.0), method=method, **step)
    # The last steps before a singularity magnify rounding: of the system that fails only how it ends is compared.
    singles = [alone(attention, x0, b, (0.0, 1.0), method=method, **step) for b in range(SYSTEMS)]
    for b in (0, 2):
        np.testing.assert_allclose(together.x_final[b], singles[b].x_final, rtol=0, atol=1e-12)
    failed = (fp.Status.NOT_FINITE, fp.Status.STEP_TOO_SMALL)
    assert together.status[1] in failed and singles[1].status in failed
    assert [s is fp.Status.COMPLETED for s in together.status] == [True, False, True]
    assert not together.success and np.isfinite(together.x_final).all()
    assert "2 completed" in together.message and together.status[1].message in together.message


def test_the_bound_on_steps_is_each_systems_own():
    x0 = tokens(9, 2) * np.array([0.1, 1.0, 8.0])[:, None, None]
    both, _ = assert_alone(attention_of("L2", 2), x0, (0.0, 4.0), 1e-9, max_steps=22)
    assert set(both.status) == {fp.Status.COMPLETED, fp.Status.MAX_STEPS}


# ---- independence ----------------------------------------------------------------------------------------------------


@each_dtype
def test_a_system_does_not_depend_on_its_company(dtype):
    """Bits: alone in a batch, in another order, with others that fail."""
    x0 = tokens(17, 2, dtype=dtype)
    attention = attention_of("Softmax", 2)
    whole = fp.solve(attention, x0, (0.0, 1.0)).x
    for b in range(SYSTEMS):
        own = fp.solve(attention.system(b), x0[b : b + 1], (0.0, 1.0)).x
        np.testing.assert_array_equal(own[:, 0], whole[:, b])


def test_cuts_change_no_bit(monkeypatch):
    """A run in calls of one step and blocks of few systems is the run."""
    x0 = tokens(9, 2, systems=70)
    attention = fp.Softmax(*np.eye(2)[None].repeat(3, 0))
    options = {"events": [fp.Collapsed(0.1)], "t_eval": np.linspace(0, 4, 9)}
    whole = fp.solve(attention, x0, (0.0, 4.0), **options)
    monkeypatch.setattr(compiled_runs, "SECONDS", 0.0)
    monkeypatch.setattr(ensemble, "_PAIRS", 1.0)
    cut = fp.solve(attention, x0, (0.0, 4.0), **options)
    for one, other in ((whole.x, cut.x), (whole.x_final, cut.x_final), (whole.t_events[0], cut.t_events[0])):
        np.testing.assert_array_equal(one, other)


def bits():
    """Digests of runs on every law, dtype and mode."""
    found = {}
    for kind in REDUCED:
        for dtype in DTYPES:
            for size in (1, 40) if kind in ("Softmax", "L2") else (1,):
                x0 = tokens(19, 3, dtype=dtype) * np.asarray(size, dtype)
                solution = fp.solve(attention_of(kind, 3), x0, (0.0, 0.3), **RK4)
                found[f"{kind} {dtype} {size}"] = digest(solution.x)
    return found


def test_threads_change_no_bit():
    code = "import json; from tests.test_ensemble import bits; print(json.dumps(bits()))"
    one, two = (run(code, NUMBA_NUM_THREADS=threads)[0] for threads in (1, 2))
    assert one == two and len(set(one.values())) == len(one)


def test_the_comparison_can_fail():
    """One unit in the twelfth place of a parameter of one system, another end, another step: each is seen."""
    x0, Q = tokens(), np.stack([np.eye(3)] * SYSTEMS)
    nudged = Q.copy()
    nudged[1] *= 1 + 1e-12
    together, singles = run_both(fp.Softmax(Q, Q, Q), x0, (0.0, 1.0), **RK4)
    assert_same(together, singles, 1e-13)
    for other in (
        {"attention": fp.Softmax(Q, Q, nudged)},
        {"events": [fp.BlowUp(1e-3)]},
        {"step": 0.11},
        {"method": "euler"},
    ):
        run = {"attention": fp.Softmax(Q, Q, Q), **RK4, **other}
        _, others = run_both(run.pop("attention"), x0, (0.0, 1.0), **run)
        with pytest.raises(AssertionError):
            assert_same(together, others, 1e-13)
    with pytest.raises(AssertionError):
        assert_alone(fp.Softmax(Q, Q, 0 * Q), x0, (0.0, 1.0), 1e-13, **RK4)  # they stand still
