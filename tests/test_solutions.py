"""Solutions are saved whole, drawn, and told in a few lines."""

from __future__ import annotations

import re
from dataclasses import dataclass

import numpy as np
import pytest
from PIL import Image

import fastpde as fp
from fastpde import integrate, solutions

I = np.eye(2)  # noqa: E741
X = np.random.default_rng(0).standard_normal((40, 2))
SOFT = fp.Softmax(I, I, -I)


@pytest.fixture(scope="module")
def one():
    return fp.solve(SOFT, X, (0.0, 1.0), t_eval=[0.0, 0.5, 1.0], events=[fp.BlowUp(100.0)], rtol=1e-5)


@pytest.fixture(scope="module")
def many():
    x0 = np.random.default_rng(0).standard_normal((8, 10, 2))
    return fp.solve(SOFT, x0, (0.0, 5.0), t_eval=[3.0, 5.0], events=[fp.Collapsed(1.0)])


def test_one_system_comes_back_to_the_bit(tmp_path, one):
    path = one.save(tmp_path / "a")
    assert path == tmp_path / "a.npz" and [file.name for file in tmp_path.iterdir()] == ["a.npz"]
    with np.load(path) as found:
        for name in ("t", "x", "x_final", "t_final"):
            assert found[name].tobytes() == np.asarray(getattr(one, name)).tobytes()
        assert str(found["status"]) == "completed" and str(found["message"]) == one.message
        assert found["t_events/0"].shape == (0,) and found["x_events/0"].shape == one.x_events[0].shape
        assert found["stats/steps"] == one.stats["steps"] and found["settings/rtol"] == 1e-5
        assert str(found["settings/method"]) == "dopri5"


def test_many_systems_come_back_to_the_bit(tmp_path, many):
    with np.load(many.save(str(tmp_path / "a.npz"))) as found:
        assert found["x"].tobytes() == many.x.tobytes() and found["x_final"].tobytes() == many.x_final.tobytes()
        assert found["status"].tolist() == [status.value for status in many.status]
        assert found["t_events/0"].shape == (8,) and found["stats/steps_each"].sum() == many.stats["steps"]


def test_laws_come_back_to_the_bit(tmp_path):
    for law in (fp.Gaussian(0.0, I), fp.Gaussian(0.0, np.stack([I, 2 * I]))):
        sol = fp.solve(fp.Softmax(I, I, I), law, (0.0, 0.4), method="rk4", step=0.01)
        with np.load(sol.save(tmp_path / "a.npz")) as found:  # replaces the first one
            for name in ("t", "mean", "cov", "factor", "blowup_time", "t_final"):
                assert found[name].tobytes() == np.asarray(getattr(sol, name)).tobytes()
            assert found["status"].shape == np.shape(sol.t_final) and found["settings/step"] == 0.01


def test_a_failed_save_leaves_the_file_that_was_there(tmp_path, one, monkeypatch):
    path = one.save(tmp_path / "a.npz")
    before = path.read_bytes()

    def full(stream, **arrays):
        stream.write(b"half")
        raise OSError("No space left on device")

    monkeypatch.setattr(solutions.np, "savez", full)
    with pytest.raises(OSError, match="No space"):
        one.save(path)
    assert path.read_bytes() == before and len(list(tmp_path.iterdir())) == 1
    with pytest.raises(fp.InputTypeError, match="path: got int"):
        one.save(3)


@pytest.mark.parametrize(
    ("name", "word"),
    [
        ("no/folder/a.npz", "is no folder; need the name of a .npz file. Make the folder first"),
        ("a.h5", "with the suffix .h5; need the name of a .npz file"),
        ("", "which is a folder; need"),
    ],
)
def test_names_that_are_refused(tmp_path, one, name, word):
    with pytest.raises(fp.InputError, match=re.escape(word)):
        one.save(tmp_path / name)
    with pytest.raises(fp.InputError, match=re.escape(word.replace(".npz", ".png"))):
        one.plot(tmp_path / name.replace(".npz", ".png"))
    assert not list(tmp_path.iterdir())


def test_a_name_may_end_in_a_number(tmp_path, one):
    assert one.save(tmp_path / "t=0.5").name == "t=0.5.npz"


def coloured(path) -> int:
    with Image.open(path) as image:
        return int((np.ptp(np.asarray(image.convert("RGB"), dtype=int), axis=2) > 40).sum())


def test_pictures(tmp_path, one, many):
    assert len(one.plot(tmp_path / "a.png").axes) == 3 and coloured(tmp_path / "a.png") > 50
    drawn = many.plot(str(tmp_path / "b.png"))
    assert len(drawn.axes) == 12 and coloured(tmp_path / "b.png") > 50
    ended = np.flatnonzero(many.t_final < 3.0)
    assert len(ended) and f"t = {many.t_final[ended[0]]:.4g}" in drawn.axes[2 * ended[0]].get_title()
    line = fp.solve(fp.Softmax([[1.0]], [[1.0]], [[-1.0]]), X[:, :1], (0.0, 1.0), t_eval=np.linspace(0, 1, 9))
    assert len(line.plot().axes) == 1
    wide = fp.solve(fp.Softmax(np.eye(5), np.eye(5), -np.eye(5)), X.reshape(16, 5), (0.0, 1.0))
    assert "two principal components" in wide.plot().get_supxlabel()
    other = integrate.integrate(lambda t, y, out: np.copyto(out, -y), X[0], (0.0, 1.0))
    with pytest.raises(fp.InputError, match=r"plot\(\): got states of shape \(2,\)"):
        other.plot()


@pytest.mark.parametrize("d", [1, 2])
def test_pictures_show_the_end_at_an_event(d):
    """The end is drawn though it is none of the times that were asked for, and named; tokens that are left out, too."""
    x = np.random.default_rng(0).standard_normal((5000, d))
    attention = fp.Linear(np.eye(d), np.eye(d), -np.eye(d))
    sol = fp.solve(attention, x, (0.0, 10.0), t_eval=[0.0, 0.1, 10.0], events=[fp.Collapsed(1.5)])
    assert sol.t_final > sol.t[-1] == 0.1
    drawn = sol.plot()
    end = f"t = {sol.t_final:.4g}"
    if d == 1:
        title = drawn.axes[0].get_title()
        assert f"(collapsed at {end})" in title and "200 of 5,000 tokens" in title
        assert all(line.get_xdata()[-1] == sol.t_final for line in drawn.axes[0].lines)
        assert {line.get_ydata()[-1] for line in drawn.axes[0].lines} <= set(sol.x_final[:, 0].tolist())
        return
    assert [axes.get_title() for axes in drawn.axes] == ["t = 0", "t = 0.1", f"{end}\n(collapsed)"]
    seen = drawn.axes[-1].collections[0].get_offsets()
    assert len(seen) == 4000 and {tuple(one) for one in seen.tolist()} <= {tuple(one) for one in sol.x_final.tolist()}
    assert "4000 of 5,000 tokens" in drawn.get_supxlabel()


def test_summaries(one, many):
    lines = one.summary().splitlines()
    assert lines[0] == f"completed: {one.message}"
    assert lines[1].startswith(
        f"steps: {one.stats['accepted']} accepted, 0 rejected; {one.stats['evaluations']} velocit"
    )
    assert lines[2] == "method: dopri5, rtol = 1e-05, atol = 1e-09 (of each step, not of the whole run)"
    lines = many.summary().splitlines()
    assert lines[0] == many.message and lines[1].endswith("path: fused") and "dopri5" in lines[3]
    fixed = fp.solve(SOFT, X, (0.0, 1.0), method="rk4", step=0.1)
    assert "method: rk4, step = 0.1" in fixed.summary().splitlines()
    law = fp.solve(fp.Softmax(I, I, I), fp.Gaussian(0.0, np.stack([I, 0.1 * I])), (0.0, 0.8))
    assert "blow-ups: 1 of 2 laws, the first at t = 0.5000" in law.summary()


def test_terminals_show_shapes_and_the_summary(one, many):
    assert repr(one) == "\n  ".join(["Solution: t (3,), x (3, 40, 2)", *one.summary().splitlines()])
    assert repr(many).startswith("EnsembleSolution: t (2,), x (2, 8, 10, 2), x_final (8, 10, 2)\n")
    law = fp.solve(SOFT, fp.Gaussian(0.0, I), (0.0, 1.0))
    assert repr(law).startswith("GaussianSolution: t (2,), mean (2, 2), cov (2, 2, 2)\n")


def test_pictures_of_laws(tmp_path):
    drawn = fp.solve(SOFT, fp.Gaussian(0.0, I), (0.0, 1.0), t_eval=[0.0, 0.5, 1.0]).plot(tmp_path / "a.png")
    ellipses, deviations = drawn.axes
    assert len(ellipses.lines) == 3 and len(deviations.lines) == 2
    with Image.open(tmp_path / "a.png") as image:
        assert np.asarray(image.convert("L")).std() > 10
    far = fp.solve(fp.Softmax(I, I, I), fp.Gaussian([3.0, 0.0], 0.01 * I), (0.0, 1.0)).plot()
    assert "about the mean" in far.get_supxlabel()
    np.testing.assert_allclose(far.axes[0].lines[0].get_xdata().mean(), 0.0, atol=0.01)
    t = np.linspace(0.0, 0.8, 9)
    some = fp.Gaussian(0.0, np.einsum("b,ij->bij", [1.0, *[0.1] * 7], np.eye(3)))
    drawn = fp.solve(fp.Softmax(*[np.eye(3)] * 3), some, (0.0, 0.8), t_eval=t).plot()
    assert len(drawn.axes) == 6 and "6 of 8 laws" in drawn.get_supxlabel()
    assert "blow up at t = 0.5" in drawn.axes[0].get_title() and drawn.axes[1].get_title() == "law 1"
    np.testing.assert_allclose(drawn.axes[1].lines[0].get_ydata()[0], np.sqrt(0.1))


def test_summaries_say_what_the_sums_did():
    x = np.random.default_rng(0).standard_normal((3000, 2))
    sol = fp.solve(SOFT, x, (0.0, 0.1), method="euler", step=0.05, backend=fp.Fast(1e-6))
    assert (
        "sums: 0 direct, 2 in O(n); largest relative error sampled" in sol.summary() and "of which 0 f" in sol.summary()
    )
    sol = fp.solve(fp.Sinkhorn(I, I, -I), X, (0.0, 0.1), method="euler", step=0.05)
    assert f"{sol.stats['half_iterations']:.0f} Sinkhorn half-iterations, marginal error" in sol.summary()


@pytest.mark.parametrize("count", [1, 2, 7])
def test_pictures_of_few_and_many_times(count):
    t = np.linspace(0.0, 1.0, count)
    sol = fp.solve(SOFT, X, (0.0, 1.0), t_eval=t)
    assert len(sol.plot().axes) == min(max(count, 2), 6)  # with the end


def test_derivatives_are_shown_by_their_shapes():
    x = np.random.default_rng(0).standard_normal((40, 2))
    attention = fp.Softmax(np.eye(2), np.eye(2), -np.eye(2))
    for shown, words in (
        (repr(attention.vjp(x, x)), "weights shape (40,)"),
        (repr(fp.gradient(lambda y: (2.5, y), attention, x, (0.0, 0.1))), "value: 2.5\n  x0: shape (40, 2)"),
        (repr(fp.lyapunov(attention, x, (0.0, 1.0), k=2)), "solution: Solution: t (2,), x (2, 40, 2)"),
    ):
        assert words in shown and len(shown) < 700 and shown.count("\n") < 9, shown


def test_zeros_are_shown_without_a_sign():
    @dataclass(frozen=True)
    class Found:
        rate: float
        values: np.ndarray
        counts: np.ndarray

    shown = solutions.brief(Found(-0.0, np.array([-0.0, 1.5, -2.0]), np.array([0, 3])))
    assert shown == "Found:\n  rate: 0\n  values: [ 0.   1.5 -2. ]\n  counts: [0 3]"
