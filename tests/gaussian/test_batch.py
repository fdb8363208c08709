"""Batches of Gaussian laws in the compiled loop: each law is as if it were alone."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.gaussian.batch import Flow
from fastpde.simd import pool

from ..problems import digest, run
from .cases import attentions, law, matrices
from .test_flow import TIGHT

# Both runs have local errors of 1e-11; over these spans errors grow by less than a factor of 100.
CLOSE = 1e-9


@pytest.fixture(autouse=True)
def one_thread():
    """What several threads do is tested by bits, in processes of their own."""
    before = pool.threads()
    pool.set_threads(1)
    yield
    pool.set_threads(before)


def laws(d, count=4, ranks=None):
    found = [law(d, seed=b, rank=None if ranks is None else ranks[b], size=0.4) for b in range(count)]
    return tuple(np.array(part) for part in zip(*found, strict=True))


def agree(sol, b, one, tol=CLOSE):
    assert sol.status[b] is one.status
    np.testing.assert_allclose(sol.mean[:, b], one.mean, atol=tol)
    np.testing.assert_allclose(sol.cov[:, b], one.cov, atol=tol)
    np.testing.assert_allclose(sol.factor[:, b], one.factor, atol=tol)


@pytest.mark.parametrize("ranks", [None, (1, 2, 0, 1)], ids=["full", "mixed ranks"])
@pytest.mark.parametrize("name", attentions(1))
def test_every_form(name, ranks):
    attention, (mean, cov) = attentions(3)[name], laws(3, ranks=ranks)
    times = [0.0, 0.1, 0.25]
    sol = fp.solve(attention, fp.Gaussian(mean, cov), (0.0, 0.3), t_eval=times, **TIGHT)
    assert sol.success and sol.mean.shape == (3, 4, 3) and sol.cov.shape == sol.factor.shape == (3, 4, 3, 3)
    assert np.abs(sol.cov[-1] - cov).max() > 1e-3  # they did move
    for b in range(4):
        agree(sol, b, fp.solve(attention, fp.Gaussian(mean[b], cov[b]), (0.0, 0.3), t_eval=times, **TIGHT))
    np.testing.assert_array_equal(sol.t_final, 0.3)


@pytest.mark.parametrize("kind", ["Softmax", "L2", "Linear", "Sinkhorn"])
def test_parameters_of_their_own(kind):
    """Q, V, scale and eps of each system; leading axes of the parameters alone make a batch too."""
    Q, K, V = (np.stack([m[part] for m in [matrices(2, seed=b) for b in range(3)]]) for part in range(3))
    options = {"eps": [0.7, 1.0, 1.5]} if kind == "Sinkhorn" else {}
    head = getattr(fp, kind)(Q, K[0], V, scale=[0.5, 0.7, 1.0], **options)
    W = np.random.default_rng(5).normal(size=(3, 2, 2, 2)) * 0.5
    for attention in (head, fp.MultiHead([head, fp.Softmax(Q[0], K, V[0])], W=W)):
        mean, cov = law(2)
        sol = fp.solve(attention, fp.Gaussian(mean, cov), (0.0, 0.5), **TIGHT)
        assert sol.mean.shape == (2, 3, 2)
        for b in range(3):
            agree(sol, b, fp.solve(attention.system(b), fp.Gaussian(mean, cov), (0.0, 0.5), **TIGHT))


def test_leading_axes_and_other_methods():
    attention, (mean, cov) = attentions(2)["heads"], laws(2, 6)
    for options in ({"method": "rk4", "step": 0.05}, {"method": "bosh3", "step": 1e-3}, {"method": "tsit5"}):
        start = fp.Gaussian(mean.reshape(2, 3, 2), cov.reshape(2, 3, 2, 2))
        sol = fp.solve(attention, start, (0.3, 0.0), **options)
        assert sol.mean.shape == (2, 2, 3, 2) and sol.t_final.shape == sol.stats["steps"].shape == (2, 3)
        one = fp.solve(attention, fp.Gaussian(mean[4], cov[4]), (0.3, 0.0), **options)
        # The same steps, but for rounding.
        assert one.stats["steps"] == sol.stats["steps"][1, 1]
        np.testing.assert_allclose(sol.cov[-1, 1, 1], one.cov[-1], atol=1e-12)
        np.testing.assert_allclose(sol.stats["last_step"][1, 1], one.stats["last_step"], rtol=1e-8)


def test_ends_of_their_own():
    """1 / (2 v a s0) is the blow-up time in 1-D (Theory 3); laws that do not blow up, or lack steps, go on."""
    attention = fp.Softmax([[0.6]], [[0.5]], np.array([0.7, -0.7, 0.7, 1e-3]).reshape(4, 1, 1))
    start = fp.Gaussian(0.0, np.array([0.5, 0.5, 2.0, 0.5]).reshape(4, 1, 1))
    sol = fp.solve(attention, start, (0.0, 100.0), t_eval=[1.0, 3.0, 50.0], **TIGHT)
    blows, ends = fp.Status.BLOW_UP, fp.Status.COMPLETED
    assert sol.status == (blows, ends, blows, ends) and sol.success
    np.testing.assert_allclose(sol.blowup_time, [1 / 0.21, np.nan, 1 / 0.84, np.nan], rtol=1e-9)
    np.testing.assert_allclose(sol.t_final, [1 / 0.21, 100.0, 1 / 0.84, 100.0], rtol=1e-9)
    np.testing.assert_array_equal(np.isnan(sol.cov[:, :, 0, 0]).sum(axis=0), [1, 0, 2, 0])
    np.testing.assert_allclose(sol.cov[2, 1, 0, 0], 0.5 / (1 + 0.21 * 50.0), rtol=1e-9)
    assert "2 blow_up" in sol.message
    few = fp.solve(attention, start, (0.0, 100.0), max_steps=30, **TIGHT)
    assert few.status == (fp.Status.MAX_STEPS,) * 3 + (ends,) and "max_steps" in few.message and not few.success
    assert np.isnan(few.blowup_time).all()


def test_blow_up_times_at_default_tolerances():
    """Of L2 attention with K that is not injective (Theory 4.5) and of Softmax: right to a few rtol = 1e-6."""
    b0, a = np.array([0.4, 0.2, -0.3]), np.array([0.5, 1.0, 0.4])
    cov = np.stack([np.stack([a, b0], -1), np.stack([b0, np.ones(3)], -1)], -2)
    sol = fp.solve(fp.L2([[0, 1.0]], [[1.0, 0]], [[0, 0], [0, 1.0]]), fp.Gaussian(0.0, cov), (0.0, 50.0))
    want = np.where(b0 > 0, (1 + 2 * a) / (2 * b0), np.nan)
    np.testing.assert_allclose(sol.blowup_time, want, rtol=3e-6)
    assert sol.status[2] is fp.Status.COMPLETED
    size = 10.0 ** np.array([-12, 0, 12])
    sol = fp.solve(fp.Softmax(*[[[1.0]]] * 3), fp.Gaussian(0.0, size[:, None, None]), (0.0, 1e14), atol=1e-15)
    np.testing.assert_allclose(sol.blowup_time, 1 / (2 * size), rtol=3e-6)


@pytest.mark.parametrize("late", [1e6, -0.5])
def test_blow_up_where_time_is_coarse_or_fine(late):
    """Spans that are short against t, and a blow-up at t = 0, where floating-point time has no smallest step."""
    sol = fp.solve(fp.Softmax(*[[[1.0]]] * 3), fp.Gaussian(0.0, [[[1.0]]]), (late, late + 3.0))
    assert sol.status == (fp.Status.BLOW_UP,) and abs(sol.blowup_time[0] - late - 0.5) < 1e-6


@pytest.mark.parametrize("kind", ["L2", "Sinkhorn"])
def test_growth_out_of_range_is_no_blow_up(kind):
    """e^{2t} and e^{2t}: no finite time, in the compiled loop and alone; the state kept is the last good one."""
    attention, start = getattr(fp, kind)(*[[[1.0]]] * 3), fp.Gaussian(0.0, [[1.0]])
    for one, sizes in (
        (fp.solve(attention, start, (0.0, 1e4)), 1),
        (fp.solve(attention, fp.Gaussian(0.0, [[[1.0]]] * 2), (0.0, 1e4)), 2),
    ):
        assert (one.status if sizes > 1 else (one.status,))[0] is fp.Status.NOT_FINITE
        assert np.isnan(one.blowup_time).all() and np.isfinite(one.factor[-1]).all() and np.all(one.t_final > 100)


def test_sinkhorn_never_blows_up():
    """tr S' <= 2 |V| tr S / eps (Theory 4.5): 1000 random systems, many of which blow up under Softmax."""
    rng = np.random.default_rng(0)
    for d, count in ((2, 400), (3, 300), (4, 300)):
        Q, K, V, root = rng.normal(size=(4, count, d, d))
        start, size = fp.Gaussian(0.0, root @ np.swapaxes(root, 1, 2)), np.linalg.norm(V, 2, axis=(1, 2))
        options = {"rtol": 1e-3, "atol": 1e-6, "method": "bosh3"}
        sol = fp.solve(fp.Sinkhorn(Q, K, V), start, (0.0, 5.0), **options)
        assert set(sol.status) == {fp.Status.COMPLETED}
        trace = np.trace(sol.cov, axis1=-2, axis2=-1)
        assert np.all(trace[1] <= 1.01 * trace[0] * np.exp(2 * size * 5.0))
        # The others may be stiff: they are not followed to their ends.
        blown = fp.solve(fp.Softmax(Q, K, V), start, (0.0, 5.0), **options, max_steps=400).status
        assert blown.count(fp.Status.BLOW_UP) > count / 4


def test_bits_of_a_law_are_its_own():
    """Alone, beside laws of other ranks, after a stop, in pieces: no bit of the others changes."""
    attention, (mean, cov) = attentions(3)["MultiHead"], laws(3, 4, ranks=(1, 3, 2, 1))
    together = fp.solve(attention, fp.Gaussian(mean, cov), (0.0, 0.3))
    for b in range(4):
        alone = fp.solve(attention, fp.Gaussian(mean[b : b + 1], cov[b : b + 1]), (0.0, 0.3))
        np.testing.assert_array_equal(alone.cov[:, 0], together.cov[:, b])
        np.testing.assert_array_equal(alone.stats["steps"][0], together.stats["steps"][b])


_THREADS = """
import json, numpy as np, fastpde as fp
from fastpde.simd import pool
from tests.problems import digest
from tests.gaussian.cases import attentions
from tests.gaussian.test_batch import laws
pool.set_threads({threads})
sol = fp.solve(attentions(2)["MultiHead"], fp.Gaussian(*laws(2, 37)), (0.0, 0.3), t_eval=[0.1, 0.3])
print(json.dumps(digest(np.concatenate([sol.cov.ravel(), sol.mean.ravel()]))))
"""


def test_bits_do_not_depend_on_threads():
    one, two = (run(_THREADS.format(threads=threads), threads=2)[0] for threads in (1, 2))
    assert one == two


def test_flow_from_outside():
    """Laws are looked at, and ended, between calls; the others end as in one piece."""
    attention, (mean, cov) = attentions(2)["Softmax"], laws(2, 3)
    start, span = fp.Gaussian(mean, cov), (0.0, 0.5)
    flow = Flow(attention, start.mean, start.factor, span, t_eval=[0.2])
    np.testing.assert_array_equal(flow.t, 0.0)
    np.testing.assert_allclose(flow.factor, start.factor)
    assert flow.advance(2) == 3 and flow.running.all() and (flow.stats["steps"] <= 2).all()
    t, factor = flow.t, flow.factor
    flow.stop(np.array([False, True, False]))
    while flow.advance(1):
        assert flow.t[1] == t[1]
    assert flow.status == (fp.Status.COMPLETED, fp.Status.INTERRUPTED, fp.Status.COMPLETED)
    np.testing.assert_array_equal(flow.factor[1], factor[1])
    sol = fp.solve(attention, start, span)
    np.testing.assert_array_equal(flow.factor[[0, 2]], sol.factor[-1][[0, 2]])
    np.testing.assert_array_equal(np.isnan(flow.recorded[0][0, :, 0]), [False, bool(t[1] < 0.2), False])


def test_progress(capsys):
    attention, (mean, cov) = attentions(2)["Softmax"], laws(2, 3)
    seen = []
    fp.solve(attention, fp.Gaussian(mean, cov), (0.0, 0.1), progress=lambda done, stats: seen.append((done, stats)))
    assert seen[-1] == (3, {"systems": 3}) and [done for done, _ in seen] == sorted(done for done, _ in seen)
    varying = fp.Softmax(lambda t: np.eye(2) * np.cos(t), *[np.eye(2)] * 2)
    fp.solve(varying, fp.Gaussian(mean, cov), (0.0, 0.1), progress=lambda done, stats: seen.append(done))
    assert seen[-3:] == [1, 2, 3]
    fp.solve(attention, fp.Gaussian(mean, cov), (0.0, 0.1), progress=True)
    assert "3/3" in capsys.readouterr().err
    with pytest.raises(fp.InputTypeError, match=r"^progress"):
        fp.solve(attention, fp.Gaussian(mean, cov), (0.0, 0.1), progress="yes")


def test_parameters_in_time_go_one_by_one():
    """The compiled loop has no time: those laws are run one after the other, to the same result."""
    Q, K, V = matrices(2)
    mean, cov = laws(2, 2)
    constant = fp.solve(fp.L2(Q, K, V), fp.Gaussian(mean, cov), (0.0, 0.3), **TIGHT)
    varying = fp.solve(fp.L2(lambda t: Q, K, V), fp.Gaussian(mean, cov), (0.0, 0.3), **TIGHT)
    np.testing.assert_allclose(varying.cov, constant.cov, atol=CLOSE)
    assert isinstance(varying.stats["wall_time"], float) and varying.stats["steps"].shape == (2,)
    with pytest.raises(ValueError, match="constant"):
        Flow(fp.L2(lambda t: Q, K, V), mean, cov, (0.0, 0.3))


def test_arguments_of_a_batch_are_checked():
    mean, cov = laws(2, 2)
    for name, value in {"rtol": -1.0, "max_steps": 0, "t_eval": [2.0], "method": "rk5"}.items():
        with pytest.raises(fp.InputError, match=f"^{name}"):
            fp.solve(attentions(2)["Softmax"], fp.Gaussian(mean, cov), (0.0, 0.3), **{name: value})
    assert digest(cov) == digest(laws(2, 2)[1])  # not modified
    still = fp.solve(attentions(2)["Softmax"], fp.Gaussian(mean, cov), (0.5, 0.5))
    assert still.mean.shape == (1, 2, 2) and set(still.status) == {fp.Status.COMPLETED}
