"""Ensembles that the compiled loop cannot run, refusals and reports."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde import ensemble

from .ensembles import RK4, SYSTEMS, assert_alone, attention_of, one_thread, tokens  # noqa: F401


def varying(t):
    return np.array([np.eye(2), np.eye(2) * (1 + t), -np.eye(2)])


GENERAL = {
    "a function of time": (fp.Softmax(np.eye(2), varying, -np.eye(2)), {}),
    "layers": (fp.Softmax(np.eye(2), fp.Layers(np.array([varying(0), varying(1)]), 0.5), -np.eye(2)), {}),
    "a function as event": (attention_of("Softmax", 2), {"events": [lambda t, x: x.std() - 0.4]}),
}


@pytest.mark.parametrize("method", ["euler", "bosh3"])
@pytest.mark.parametrize("name", GENERAL)
def test_what_the_compiled_loop_cannot_run(name, method):
    """Each system is that of a single run, to the bit."""
    attention, options = GENERAL[name]
    assert_alone(attention, tokens(11, 2), (0.0, 0.5), 0.0, path="batched", method=method, step=0.1, **options)


def test_one_failure_among_systems_of_the_same_steps():
    x0 = tokens(11, 2)
    x0[1] *= 1e200
    attention = fp.Linear(np.eye(2), varying, np.eye(2))
    sol = fp.solve(attention, x0, (0.0, 0.3), method="euler", step=0.1)
    assert sol.stats["path"] == "batched" and not sol.success
    assert [status is fp.Status.COMPLETED for status in sol.status] == [True, False, True]
    assert "1 not_finite" in sol.message


@pytest.mark.parametrize("limit", ["_MOST_TOKENS", "_LARGEST_DIMENSION"])
def test_large_systems_take_another_path(limit, monkeypatch):
    monkeypatch.setattr(ensemble, limit, 2)
    for options in (RK4, {}):
        assert fp.solve(attention_of("Softmax", 3), tokens(), (0.0, 0.1), **options).stats["path"] == "batched"


def test_refusals_name_the_argument():
    x0, attention = tokens(), attention_of("Softmax", 3)
    with pytest.raises(fp.InputError, match=r"observers: .*t_eval"):
        fp.solve(attention, x0, (0.0, 1.0), observers=[fp.Observer(print, steps=1)])
    with pytest.raises(fp.InputError, match="Q: got values for 3 systems; need one for all, or 2 as in x0"):
        fp.solve(attention, x0[:2], (0.0, 1.0))
    with pytest.raises(fp.InputError, match=r"weights: .*\(3, 21\)"):
        fp.solve(attention, x0, (0.0, 1.0), weights=np.full((2, 21), 1 / 21))
    with pytest.raises(fp.InputTypeError, match="progress"):
        fp.solve(attention, x0, (0.0, 1.0), progress="yes")
    with pytest.raises(fp.InputError, match="x0"):
        fp.solve(attention, x0, (0.0, 1.0), manifold=fp.Sphere())


@pytest.mark.parametrize("path", ["fused", "batched"])
def test_progress_counts_systems(path, capsys):
    backend = "auto" if path == "fused" else "direct"
    seen = []
    fp.solve(
        attention_of("Softmax", 3), tokens(), (0.0, 1.0), backend=backend,
        progress=lambda done, stats: seen.append((done, stats["systems"])),
    )  # fmt: skip
    assert seen == sorted(seen) and seen[-1] == (SYSTEMS, SYSTEMS)
    fp.solve(attention_of("Softmax", 3), tokens(), (0.0, 1.0), backend=backend, progress=True)
    assert f"{SYSTEMS}/{SYSTEMS}" in capsys.readouterr().err


def test_the_input_is_not_modified_and_statistics_add_up():
    x0 = tokens()
    before = x0.copy()
    x0.flags.writeable = False
    solution = fp.solve(attention_of("Softmax", 3), x0, (0.0, 1.0))
    np.testing.assert_array_equal(x0, before)
    for name in ("steps", "rejected", "evaluations"):
        assert solution.stats[name] == solution.stats[f"{name}_each"].sum()
    assert solution.stats["systems"] == SYSTEMS and solution.t.tolist() == [0.0, 1.0]
    np.testing.assert_array_equal(solution.x[1], solution.x_final)
