"""The paper's experiments: draws, the authors' scheme against fastpde's closure, limits that theory knows, pictures."""

from __future__ import annotations

import numpy as np
import pytest

from .loading import load

experiments, scheme, corrected = load("paper_experiments"), load("paper_euler"), load("paper_corrected")
figures = load("paper_figures")
PLANES = {plane.number: plane for plane in experiments.planes(coarse=True)}
CASES = [(plane, case) for plane in PLANES.values() for case in plane.cases]


def test_starts_are_covariances_of_trace_one():
    full = [len(plane.starts) for plane in experiments.planes()]
    # 40 x 40, 30 x 30, 20 x 20 points of the square that are inside the disc.
    assert full[:2] == [100, 100] and np.allclose(np.array(full[2:]) / [400, 1600, 900], np.pi / 4, atol=0.1)
    for plane in PLANES.values():
        assert np.trace(plane.starts, axis1=1, axis2=2) == pytest.approx(1.0)
        assert np.linalg.eigvalsh(plane.starts).min() > -1e-15


def test_draws_have_the_spectra_asked_for():
    for number, wanted in ((3, (-1, 1)), (5, (-1, 1)), (4, (1, 1))):
        A = PLANES[number].cases[0].heads[0].A
        assert np.sign(np.linalg.eigvalsh(A + A.T)).tolist() == list(wanted)


@pytest.mark.parametrize(("plane", "case"), CASES, ids=lambda v: getattr(v, "name", getattr(v, "number", "")))
def test_published_slope_is_that_of_the_closure(plane, case):
    """At invertible covariances the authors' formulas are right, those with inverses to the condition of S."""
    got = scheme.slope(case)(plane.starts)
    for S, rate in zip(plane.starts, got, strict=True):
        M, _ = case.attention.affine(np.zeros(2), S)
        assert rate == pytest.approx(M @ S + S @ M.T, abs=1e-11)


@pytest.mark.parametrize("number", [6, 7])
def test_published_slope_in_more_dimensions(number):
    for group in experiments.ranks(number).values():
        for experiment in group:
            S = experiment.starts(1)
            M, _ = experiment.case.attention.affine(np.zeros(experiment.d), S[0])
            want = M @ S[0] + S[0] @ M.T
            assert scheme.slope(experiment.case)(S)[0] == pytest.approx(want, abs=1e-12 * np.abs(want).max())


def test_projection_is_that_of_eigenvalues():
    S = np.random.default_rng(0).normal(size=(40, 4, 4))
    S = S + np.swapaxes(S, 1, 2) + 4 * np.eye(4)
    values, vectors = np.linalg.eigh(S)
    assert 5 < (values[:, 0] < 0).sum() < 35
    values[values < 0] = 1e-14
    want = (vectors * values[:, None]) @ np.swapaxes(vectors, 1, 2)
    assert scheme.project(S) == pytest.approx(want, abs=1e-13)


def test_published_runs_follow_their_rules():
    plane = PLANES[2]
    run = scheme.euler(plane.cases[0], plane.starts, plane.tol)
    assert run.converged.all() and np.array_equal(run.cov[0], plane.starts)
    slope = scheme.slope(plane.cases[0])(run.cov[-1])
    assert np.linalg.norm(slope, axis=(1, 2)).max() < plane.tol
    grown = scheme.euler(PLANES[4].cases[0], PLANES[4].starts[:4], 1e-4)
    assert grown.outcome == ["grows"] * 4 and np.trace(grown.cov[-1], axis1=1, axis2=2).min() > 1e3


def test_corrected_outcomes_are_those_of_theory():
    """V = I, A_s > 0: Softmax blows up, injective L2 does not (Theory 3, 4.5); K = -Q with V > 0 converges (4.2)."""
    four, one = PLANES[4], PLANES[1]
    assert corrected.ends(four.cases[0].attention, four.starts[:2], four.t_end)[1] == ["blows up"] * 2
    assert corrected.ends(four.cases[2].attention, four.starts[:2], four.t_end)[1] == ["grows"] * 2
    # Experiment 5, L2: transient growth by e^8, then rest, at three tolerances of a run to t = 300.
    five = PLANES[5].cases[1].attention
    rest = np.array([[[0.03448276, 0.15517241], [0.15517241, 0.96551724]]])
    cov, outcome = corrected.ends(five, rest, 1e3)
    assert outcome == ["converges"] and np.trace(cov[-1, 0]) > 1000
    assert corrected.paths(one.cases[0].attention, one.starts[:2], 1e4, 5)[1] == ["converges"] * 2


def test_multi_head_limits_are_on_a_plane():
    """Experiment 2: head 1 has all of q, so e1.S q = 0 in the limit."""
    case = PLANES[2].cases[2]
    cov, _ = corrected.ends(case.attention, PLANES[2].starts[:3], 300.0)
    q = np.linalg.svd(case.heads[0].A)[2][0]
    # The approach is exponential, with rates of order one tenth.
    assert np.abs(cov[-1][:, 0] @ q).max() < 1e-6 and np.linalg.matrix_rank(cov[-1], tol=1e-6).tolist() == [2, 2, 2]


def test_ranks_and_limits_are_those_of_theory():
    experiment = experiments.ranks(6)["V = I"][0]
    starts = experiment.starts(3)
    ranks, cov = corrected.limits(experiment.case.attention, starts)
    want = corrected.closed_form(experiment.Q, starts)
    assert ranks.tolist() == [2, 2, 2]
    # At t = 1e6 the next term of the extrapolation is 1 / t^2, and rtol is 1e-10.
    assert corrected.distance(cov, want) < 1e-7
    values, redrawn = figures.published_histogram(experiment, 4)
    assert len(values) <= 4 and values.max() <= 2 and redrawn == 0


def test_pictures_are_written(tmp_path):
    plane, case = PLANES[2], PLANES[2].cases[0]
    small = experiments.Plane(2, "cone", (case,), plane.starts[:3], plane.tol, 100.0)
    run = figures.published_plane(small, case)
    path = figures.draw_plane(small, case, run, tmp_path)
    group = experiments.ranks(6)["V = I"][:1]
    other = figures.draw_ranks(6, "V = I", group, [figures.published_histogram(e, 2) for e in group], 2, tmp_path)
    assert [path.name, other.name] == ["2_softmax.png", "6_identity.png"]
    assert all(found.read_bytes()[:4] == b"\x89PNG" for found in (path, other))


def test_bad_arguments_are_named(capsys):
    for arguments in (["--draws", "0"], ["--only", "8"], ["--out", "/no/such/folder/x"]):
        with pytest.raises(SystemExit):
            figures.main(arguments)
        assert arguments[0] in capsys.readouterr().err
