"""A variant from outside: a subclass in a file of its own goes through everything; no file of the package knows it."""

from __future__ import annotations

import copy
import json
import os
import pickle
import shutil
import subprocess
import sys
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest

import fastpde as fp
from fastpde import cli, weights
from fastpde.attention import variants
from fastpde.attention.parameters import scalar
from fastpde.studies.central_limit import predicted_covariance

from ..problems import ROOT
from .cauchy import Bump, Cauchy, bump, cauchy

HERE = Path(__file__).parent
TOLERANCE = {np.float64: 1e-13, np.float32: 5e-6}  # the contract of direct sums


def drawn(d=2, k=2, dv=None, seed=0):
    """Q, K, V with scores of size one: larger ones have no more digits."""
    rng, size = np.random.default_rng([d, k, seed]), (d * np.sqrt(k)) ** -0.5
    return *(size * rng.standard_normal((2, k, d))), rng.standard_normal((dv or d, d))


def tokens(*shape, dtype=np.float64):
    return (np.random.default_rng(shape).standard_normal(shape) + 0.3).astype(dtype)


def naive(f, normalised, x, Q, K, V, *, at=None, weights=None, scale=1.0, seen=None):
    """Pair by pair, in extended precision."""
    y, at, Q, K, V = (np.asarray(a).astype(np.longdouble) for a in (x, x if at is None else at, Q, K, V))
    w = f(scale * (at @ Q.T) @ (y @ K.T).T) * (
        np.full(len(y), 1 / np.longdouble(len(y))) if weights is None else weights
    )
    w = w if seen is None else w * seen
    total = w.sum(axis=1, keepdims=True) if normalised else 1.0
    return (w @ y / total) @ V.T


def test_it_is_short():
    text = (HERE / "cauchy.py").read_text()
    assert len(text.splitlines()) <= 60
    assert not [path for path in (ROOT / "fastpde").rglob("*.py") if "Cauchy" in path.read_text()]


@pytest.mark.parametrize("dtype", [np.float64, np.float32])
@pytest.mark.parametrize(("kind", "f"), [(Cauchy, cauchy), (Bump, bump)])
@pytest.mark.parametrize(("d", "k"), [(2, 2), (3, 1), (9, 9)])
def test_velocities(kind, f, d, k, dtype):
    Q, K, V = drawn(d, k)
    x, at, own = tokens(70, d, dtype=dtype), tokens(11, d, dtype=dtype), kind(Q, K, V)
    weights = np.random.default_rng(0).uniform(0.2, 2.0, 70)
    weights /= weights.sum()
    mask = np.tri(70)
    wanted = {
        "plain": (own.velocity(x), naive(f, own.normalised, x, Q, K, V)),
        "at": (own.velocity(x, at=at), naive(f, own.normalised, x, Q, K, V, at=at)),
        "weights": (own.velocity(x, weights=weights), naive(f, own.normalised, x, Q, K, V, weights=weights)),
        "masked": (fp.Masked(own).velocity(x), naive(f, own.normalised, x, Q, K, V, seen=mask)),
    }
    for name, (got, want) in wanted.items():
        assert np.abs(got - want).max() <= TOLERANCE[dtype] * np.abs(want).max(), name


def test_heads_batches_and_ensembles():
    """Its heads beside others; systems with parameters of their own; fused, and as single runs are."""
    (Q, K, V), W = drawn(2, 2), np.stack([np.eye(2), 0.5 * np.eye(2)])
    x = tokens(3, 25, 2)
    heads = fp.MultiHead([Cauchy(Q, K, V), fp.Softmax(Q, K, V)], W)
    parts = Cauchy(Q, K, V).velocity(x) + 0.5 * fp.Softmax(Q, K, V).velocity(x)
    np.testing.assert_allclose(heads.velocity(x), parts, rtol=1e-13)
    mixed = fp.MultiHead([Cauchy(Q, K, V), fp.Exponential(Q, K, V, weight=fp.Weight(bump))], W)
    apart = [fp.solve(mixed, x[b], (0.0, 0.3), rtol=1e-9, atol=1e-12).x[-1] for b in range(3)]
    np.testing.assert_allclose(fp.solve(mixed, x, (0.0, 0.3), rtol=1e-9, atol=1e-12).x[-1], apart, rtol=0, atol=1e-8)
    several = Cauchy(np.stack([Q, 2 * Q, -Q]), K, V)
    for b, factor in enumerate((1, 2, -1)):
        np.testing.assert_allclose(several.velocity(x)[b], Cauchy(factor * Q, K, V).velocity(x[b]), rtol=1e-13)
    for attention in (several, fp.Masked(Cauchy(Q, K, V))):
        together = fp.solve(attention, x, (0.0, 0.5), rtol=1e-9, atol=1e-12)
        assert together.stats["path"] == "fused"
        alone = fp.solve(attention.system(1), x[1], (0.0, 0.5), rtol=1e-9, atol=1e-12)
        np.testing.assert_allclose(together.x[-1, 1], alone.x[-1], rtol=0, atol=1e-8)


class Warmed(fp.SingleHead):
    """Averages by e^{power Q_xy / 10}, with Q three times the parameter; parameters that the score does not have."""

    def __init__(self, Q, K, V, power, *, told=True):
        self.power, self.told = scalar("power", power), told
        super().__init__(Q, K, V)

    def parameters(self):
        yield from super().parameters()
        yield self.power

    def score(self, t):
        plain = super().score(t)
        return replace(plain, Q=3.0 * plain.Q, scale=0.1 * self.power(t))

    def pull_score(self, found, t):
        own = {"Q": 3.0 * found["Q"], "power": 0.1 * found["scale"]} if self.told else {}
        return super().pull_score(found, t) | own


def test_parameters_that_the_score_does_not_have():
    """Gradients of those that it has; of the others by the chain rule if the class says it, and else none."""
    (Q, K, V), x, c = drawn(), tokens(7, 2), tokens(2, 7, 2)[0]
    own, twin = Warmed(Q, K, V, 2.0), fp.Softmax(3.0 * Q, K, V, 0.2)
    for head, like, prefix in ((own, twin, ""), (fp.MultiHead([own]), fp.MultiHead([twin]), "heads[0].")):
        found, want = head.vjp(x, c).parameters, like.vjp(x, c).parameters
        assert set(found) == {*(f"{prefix}{name}" for name in ("Q", "K", "V", "power")), "weights"}
        np.testing.assert_allclose(found[f"{prefix}Q"], 3.0 * want[f"{prefix}Q"], rtol=1e-13)
        np.testing.assert_allclose(found[f"{prefix}power"], 0.1 * want[f"{prefix}scale"], rtol=1e-13)
        np.testing.assert_allclose(found[f"{prefix}K"], want[f"{prefix}K"], rtol=1e-13)
    silent, law = Warmed(Q, K, V, 2.0, told=False), (np.zeros(2), np.eye(2))
    assert set(silent.vjp(x, c).parameters) == {"K", "V", "weights"}
    assert set(silent.gaussian_vjp(*law, np.eye(2), np.ones(2)).parameters) == {"K", "V"}
    loss = lambda y: (float((c * y).sum()), c)  # noqa: E731
    run = fp.gradient(loss, silent, x, (0.0, 1.0), method="rk4", step=0.5)
    assert set(run.parameters) == {"K", "V", "weights"}
    whole = fp.gradient(loss, own, x, (0.0, 1.0), method="rk4", step=0.5)
    np.testing.assert_allclose(run.x0, whole.x0, rtol=1e-13)
    assert set(whole.parameters) == {"Q", "K", "V", "power", "weights"}
    with pytest.raises(fp.InputError, match="parameters: got 'power'; need changes of K, V"):
        silent.gaussian_jvp(*law, np.zeros(2), np.zeros((2, 2)), parameters={"power": 1.0})


class Shares(fp.SingleHead):
    """An average by sigmoid weights."""

    weight = weights.Sigmoid()
    normalised = True


def test_masses_under_an_average_of_another_weight():
    """Central differences of fourth order."""
    (Q, K, V), x, c = drawn(), tokens(6, 2), tokens(2, 6, 2)[0]
    w, h = np.random.default_rng(1).uniform(0.5, 1.5, 6), 1e-3
    w, step = w / w.sum(), np.array([1.0, -2.0, 0.5, 0.5, 0.7, -0.7])
    found = Shares(Q, K, V).vjp(x, c, weights=w).parameters["weights"]
    values = [(c * Shares(Q, K, V).velocity(x, weights=w + k * h * step)).sum() for k in (-2, -1, 1, 2)]
    assert found @ step == pytest.approx(np.dot([1, -8, 8, -1], values) / (12 * h), rel=1e-9)


def test_gaussian_laws_bounds_and_copies():
    """Its velocity under a Gaussian law by weighted Gauss-Hermite nodes; what theory says of bounded weights."""
    Q, K, V = drawn(2, 2)
    z, w = np.polynomial.hermite_e.hermegauss(60)
    L, mean, at = np.array([[0.5, 0.0], [0.2, 0.4]]), np.array([0.3, -0.2]), tokens(4, 2)
    nodes = np.stack(np.meshgrid(z, z, indexing="ij"), axis=-1).reshape(-1, 2) @ L.T + mean
    weights = np.outer(w, w).ravel() / w.sum() ** 2
    inside = weights > 1e-300
    for own in (Cauchy(Q, K, V), Bump(Q, K, V)):
        want = own.velocity(nodes[inside], at=at, weights=weights[inside] / weights[inside].sum())
        np.testing.assert_allclose(own.gaussian_velocity(at, mean, L @ L.T), want, rtol=1e-6)
        with pytest.raises(fp.NoGaussianClosure):
            own.affine(mean, L @ L.T)
        for twin in (copy.deepcopy(own), pickle.loads(pickle.dumps(own))):
            np.testing.assert_array_equal(twin.velocity(at), own.velocity(at))
    a, v = np.linalg.norm(K.T @ Q, 2), np.linalg.norm(V, 2)
    assert Cauchy(Q, K, V).stability_rate(2.0) == pytest.approx(v * (1.0 + 2 * a * 0.65 * 4))
    with pytest.raises(fp.InputError, match="stability"):
        Bump(Q, K, V).stability_rate(2.0)


CONFIG = """
[tokens]
kind = "gaussian"
n = 60
d = 2
[attention]
kind = "cauchy:Cauchy"
own = { power = 2.0 }
[time]
t_end = 0.2
[output]
every = 0.1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(variants, "_loaded", {})
    (tmp_path / "a.toml").write_text(CONFIG)
    shutil.copy(HERE / "cauchy.py", tmp_path)
    return tmp_path


def test_in_a_configuration(folder, capsys):
    """Refused without the flag, before anything is made; with it a run like others, whose log says so."""
    assert cli.main(["run", "a.toml", "--quiet"]) == 2
    assert "--allow-code" in capsys.readouterr().err and not (folder / "a.run").exists()
    assert cli.main(["estimate", "a.toml", "--allow-code"]) == 0
    assert cli.main(["run", "a.toml", "--quiet", "--allow-code"]) == 0
    assert "cauchy:Cauchy" in (folder / "a.run" / "log.txt").read_text()
    assert '"own_code"' in (folder / "a.run" / "status.json").read_text()
    assert cli.main(["status", "a.run"]) == 0 and cli.main(["verify", "a.run"]) == 0
    assert cli.main(["plot", "a.run"]) == 0 and cli.main(["report", "a.run"]) == 0
    assert "only with --allow-code the page says" in capsys.readouterr().err
    capsys.readouterr()
    assert cli.main(["run", "a.toml", "--allow-code"]) == 0 and "already finished" in capsys.readouterr().out
    support = "Tokens stay in the ball of radius R(t)"
    assert support not in (folder / "a.run" / "report.html").read_text()
    assert cli.main(["report", "a.run", "--allow-code"]) == 0
    assert support in (folder / "a.run" / "report.html").read_text()


def test_a_run_that_fails_is_not_run_again(folder, capsys):
    """Its exit code stands in the status beside the names of the code of one's own."""
    (folder / "f.toml").write_text(CONFIG.replace("t_end = 0.2", "t_end = 0.2\nmax_steps = 1"))
    first = cli.main(["run", "f.toml", "--quiet", "--allow-code"])
    status = json.loads((folder / "f.run" / "status.json").read_text())
    assert first == status["code"] == 2 and status["own_code"] == ["cauchy:Cauchy"]
    capsys.readouterr()
    assert cli.main(["run", "f.toml", "--quiet", "--allow-code"]) == 2
    assert "ended so before" in capsys.readouterr().err


def test_in_a_sweep(folder, capsys):
    """The processes of a sweep, its check, and the script for SLURM know the flag."""
    (folder / "plan.toml").write_text('config = "a.toml"\n[vary]\nattention.own.power = [1.0, 2.0]\n')
    assert cli.main(["sweep", "plan.toml", "--quiet"]) == 2 and "--allow-code" in capsys.readouterr().err
    assert cli.main(["sweep", "plan.toml", "--quiet", "--local", "1", "--allow-code"]) == 0
    assert (folder / "plan.sweep" / "cells.csv").read_text().count("finished") == 2
    assert cli.main(["verify", "plan.sweep"]) == 2 and "--allow-code" in capsys.readouterr().err
    assert cli.main(["verify", "plan.sweep", "--allow-code"]) == 0
    assert cli.main(["status", "plan.sweep"]) == 0
    assert cli.main(["sweep", "plan.sweep", "--quiet", "--allow-code", "--slurm"]) == 0
    assert "--quiet --allow-code" in (folder / "plan.sweep" / "sweep.sbatch").read_text()


STUDY = {
    "stability": 'variants = ["cauchy:Cauchy", "masked"]\ndraws = 1\nn = 20\ntimes = 3\n',
    "mean-field": (
        'variants = ["cauchy:Cauchy"]\nlaws = ["ball"]\nsizes = [50, 100]\ndraws = 2\npoints = 4\n'
        "clt_draws = 50\ndistances = false\n"
    ),
}


@pytest.mark.parametrize("name", STUDY)
def test_in_a_study(folder, capsys, name):
    (folder / "s.toml").write_text(STUDY[name])
    assert cli.main(["study", name, "s.toml", "--quiet"]) == 2 and "--allow-code" in capsys.readouterr().err
    assert cli.main(["study", name, "s.toml", "--quiet", "--allow-code"]) == 0
    assert "cauchy:Cauchy" in (folder / "s.study" / "rows.csv").read_text()
    assert cli.main(["plot", "s.study"]) == 0 and cli.main(["report", "s.study"]) == 0


def test_in_studies_of_python():
    found = fp.studies.stability([Cauchy, fp.Softmax], draws=1, n=20, times=3)
    assert found.parameters["variants"] == [f"{Cauchy.__module__}:Cauchy", "softmax"]
    assert all(found.verdicts.values())
    with pytest.raises(fp.InputError, match=r"stability is known"):
        fp.studies.stability([Bump], draws=1, n=20)
    for study in (fp.studies.rank_collapse, fp.studies.phase_diagram):
        with pytest.raises(fp.InputError, match=r"^variant: .*'l2'"):
            study(variant=Cauchy)


@pytest.mark.parametrize(("name", "text", "said"), [
    ("phase-diagram", 'variant = "cauchy:Cauchy"', "variant"),
    ("covariance-paths", '[attention]\nkind = "cauchy:Cauchy"', "attention.kind"),
    ("stability", 'variants = ["cauchy:Nobody"]', "Nobody"),
])  # fmt: skip
def test_studies_that_cannot_have_it(folder, capsys, name, text, said):
    (folder / "s.toml").write_text(text + "\n")
    assert cli.main(["study", name, "s.toml", "--quiet", "--allow-code"]) == 2
    assert said in capsys.readouterr().err and not (folder / "s.study").exists()


class Renamed(fp.Softmax):
    """Softmax attention by another name."""


class Apart(fp.SingleHead):
    """L2 attention, by its score."""

    def score(self, t):
        return replace(super().score(t), distance=True)


@pytest.mark.parametrize(("own", "like"), [(Renamed, "softmax"), (Apart, "l2")])
def test_studies_of_gaussian_laws(own, like):
    """A variant of one's own that is a built-in one ends as that does."""
    for study, more in ((fp.studies.phase_diagram, {}), (fp.studies.rank_collapse, {"dimensions": (3,)})):
        found, want = (study(draws=6, variant=kind, **more) for kind in (own, like))
        for name, column in want.columns.items():
            np.testing.assert_array_equal(found[name], column)
    Q = drawn(2)[0]
    law = fp.Gaussian(np.zeros(2), np.eye(2))
    kind = {"softmax": fp.Softmax, "l2": fp.L2}[like]
    assert str(fp.limit(own(Q, -Q, np.eye(2)), law)) == str(fp.limit(kind(Q, -Q, np.eye(2)), law))


class Undeclared(fp.Softmax):
    """A class that says less than its score."""

    def score(self, t):
        return replace(super().score(t), normalised=False)


class RotarySinkhorn(fp.Sinkhorn):
    """A score that Sinkhorn attention does not have."""

    positional = True

    def score(self, t):
        return replace(super().score(t), turn=lambda places: np.tile(np.eye(2), (len(places), 1, 1)))


def test_a_class_says_what_its_score_is():
    """Other code asks the class: a score that is another is refused, by every path."""
    Q, K, V = drawn(2)
    own = Undeclared(Q, K, V)
    for call in (
        lambda: own.velocity(tokens(5, 2)), lambda: fp.solve(own, tokens(3, 5, 2), (0.0, 0.1)),
        lambda: fp.interaction_energy(own, tokens(5, 2)), lambda: own.affine(np.zeros(2), np.eye(2)),
    ):  # fmt: skip
        with pytest.raises(fp.InputError, match="normalised = False"):
            call()
    with pytest.raises(fp.InputError, match="Sinkhorn attention has no other"):
        RotarySinkhorn(Q, K, V).velocity(tokens(5, 2))


def test_code_that_was_edited_makes_another_study(folder, capsys):
    """Neither kept cells nor a finished study of another file are taken for those of this one."""
    (folder / "s.toml").write_text(STUDY["stability"])
    assert cli.main(["study", "stability", "s.toml", "--quiet", "--allow-code"]) == 0
    capsys.readouterr()
    assert cli.main(["study", "stability", "s.toml", "--quiet", "--allow-code"]) == 0
    assert "already finished" in capsys.readouterr().out
    text = (folder / "cauchy.py").read_text()
    (folder / "cauchy.py").write_text(text.replace("(s - 1.0) ** 2)", "(s - 1.5) ** 2)"))
    assert cli.main(["study", "stability", "s.toml", "--quiet", "--allow-code"]) == 2
    assert "another study" in capsys.readouterr().err
    cells = folder / "kept.cells"
    kind = variants.load("cauchy:Cauchy", folder).kind
    fp.studies.stability([kind], draws=1, n=20, times=3, cells=cells)
    (folder / "cauchy.py").write_text(text)
    with pytest.raises(fp.InputError, match="cells"):
        fp.studies.stability([kind], draws=1, n=20, times=3, cells=cells)


def test_two_modules_of_one_name(folder, tmp_path_factory):
    """The second is refused: names of variants are those of the process."""
    other = tmp_path_factory.mktemp("other")
    shutil.copy(HERE / "cauchy.py", other)
    variants.load("cauchy:Cauchy", folder)
    variants.load("cauchy:Cauchy", folder)
    with pytest.raises(fp.InputError, match="another name"):
        variants.load("cauchy:Cauchy", other)


NEEDY = """
import fastpde as fp
class Needy(fp.Softmax):
    def __init__(self, Q, K, V, scale=1.0, *, size):
        if size < 0:
            raise ValueError("size")
        super().__init__(Q, K, V, scale)
"""


def test_constructors_of_ones_own(folder, capsys):
    (folder / "needy.py").write_text(NEEDY)
    text = CONFIG.replace("cauchy:Cauchy", "needy:Needy")
    words = (
        "got a table with no keys; need",
        "ValueError: size",
        "got a table with size, more; need what needy:Needy(Q, ",
    )
    for number, own in enumerate(("", "own = { size = -1 }", "own = { size = 1, more = 2 }")):
        (folder / f"{number}.toml").write_text(text.replace("own = { power = 2.0 }", own))
        assert cli.main(["run", f"{number}.toml", "--quiet", "--allow-code"]) == 2
        errors = capsys.readouterr().err
        assert "attention.own: " in errors and words[number] in errors and "got got" not in errors
    kind = variants.load("needy:Needy", folder).kind
    with pytest.raises(fp.InputError, match="have defaults"):
        fp.studies.stability([kind], draws=1, n=20)
    with pytest.raises(fp.InputError, match="each once"):
        fp.studies.stability(["softmax", fp.Softmax], draws=1, n=20)
    (folder / "s.toml").write_text(text.replace("needy:Needy", "sys:Needy").replace("own = { power = 2.0 }", ""))
    assert cli.main(["run", "s.toml", "--quiet", "--allow-code"]) == 2


def test_predicted_covariance_of_a_weight_of_ones_own():
    """n Cov of the field of n tokens, from many clouds."""
    Q, K, V = drawn(2)
    x, stream, n = tokens(3, 2), np.random.default_rng(5), 400

    class Sloped(Bump):
        weight = fp.Weight(bump, lambda s: -s * np.exp(-0.5 * s * s))

    for own in (Cauchy(Q, K, V), Sloped(Q, K, V)):
        clouds = stream.standard_normal((4000, n, 2))
        seen = own.velocity(clouds, at=np.broadcast_to(x, (4000, 3, 2)).copy())
        want = np.trace(predicted_covariance(own, fp.Gaussian(0.0, np.eye(2)), x), axis1=1, axis2=2)
        np.testing.assert_allclose(n * seen.var(axis=0, ddof=1).sum(axis=1), want, rtol=0.12)


BUILT_IN = """
from fastpde.attention import variants
from fastpde.attention.parameters import scalar
from tests.outside.cauchy import Cauchy
variants.VARIANTS["cauchy"] = variants.Variant("cauchy", Cauchy)
from fastpde import cli, weights
raise SystemExit(cli.main(["run", "c.toml", "--quiet"]))
"""


def test_as_a_line_of_the_registry(folder):
    """What one line in the registry does: a kind of configurations, whose arguments stand in `own`."""
    (folder / "c.toml").write_text(CONFIG.replace("cauchy:Cauchy", "cauchy"))
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run([sys.executable, "-c", BUILT_IN], env=os.environ | {"PYTHONPATH": path}, cwd=folder)
    assert done.returncode == 0
    assert cli.main(["run", "a.toml", "--quiet", "--allow-code"]) == 0
    assert (folder / "c.run" / "observables.csv").read_text() == (folder / "a.run" / "observables.csv").read_text()


WRONG = {
    '"cauchy:Nobody"': "Nobody",
    '"nowhere:Cauchy"': "nowhere",
    '"cauchy:cauchy"': "a subclass of fp.SingleHead",
    '"os.path:join"': "one of",
    '"cauchy:Cauchy"\nbias = 1.0': "no bias",
    '"softmax"\nown = { power = 1.0 }': "no own",
    '"cauchy:Cauchy"\nown = { strength = 1.0 }': "strength",
    '"cauchy:Cauchy"\nown = { power = [1.0] }': "own.power",
}


@pytest.mark.parametrize("kind", WRONG)
def test_what_is_wrong_is_said(folder, capsys, kind):
    text = CONFIG.replace("own = { power = 2.0 }\n", "").replace('"cauchy:Cauchy"', kind)
    (folder / "b.toml").write_text(text)
    assert cli.main(["run", "b.toml", "--quiet", "--allow-code"]) == 2
    error = capsys.readouterr().err
    assert WRONG[kind] in error and error.count("\n") == 1 and not (folder / "b.run").exists()


def test_weights_that_are_none():
    with pytest.raises(fp.InputTypeError, match="f: got"):
        fp.Weight(3.0)
    with pytest.raises(fp.InputError, match="bounded_by"):
        fp.Weight(cauchy, bounded_by=(1.0, -1.0))
    with pytest.raises(
        fp.InputTypeError, match=r"weight: got cauchy; need fp.Weight\(f\).* Write it as fp.Weight\(cauchy\)"
    ):
        fp.Softmax(*drawn(), weight=cauchy)
    with pytest.raises(fp.InputError, match="that Numba compiles"):
        fp.Softmax(*drawn(), weight=fp.Weight(lambda s: input(str(s)))).velocity(tokens(5, 2))

    class Plain(fp.SingleHead):
        weight = cauchy

    with pytest.raises(fp.InputTypeError, match=r"weight: got cauchy; .*fp.Weight\(cauchy\)"):
        Plain(*drawn())

    def unknown(s):
        return s * sloope  # noqa: F821

    def plain(s):
        return 2.0 * bump(s)

    for f, text in (
        (unknown, "f: got unknown, which uses sloope, a name that is not defined"),
        (plain, "f: got plain: which uses bump, .*numba.njit"),
    ):
        with pytest.raises(fp.InputError, match=text):
            fp.Softmax(*drawn(), weight=fp.Weight(f)).velocity(tokens(5, 2))
    with pytest.raises(fp.InputError, match="derivative"):
        fp.Weight(bump).derivative(np.zeros(2))


def raising(s):
    """Of scores from two on it knows nothing."""
    if s >= 2.0:
        raise ValueError("too large")
    return 1.0


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
def test_a_function_that_raises_makes_no_number():
    x = np.array([[1.0], [2.0], [3.0]])
    one = fp.Softmax([[1.0]], [[1.0]], [[1.0]], weight=fp.Weight(raising))
    assert np.isnan(one.velocity(x)).all()
    np.testing.assert_allclose(one.velocity(0.1 * x), 0.2, rtol=1e-14)


def test_bounds_of_bounded_weights_hold():
    """|f| <= 5: |x'| <= 5 R; a law whose weight is 5 everywhere moves at that rate."""
    five = fp.Exponential([[1.0]], [[1.0]], [[1.0]], weight=fp.Weight(lambda s: 5.0 + 0.0 * s, bounded_by=(5.0, 0.0)))
    reached = fp.solve(five, [[1.0], [1.0]], (0.0, 0.5), rtol=1e-9).x[-1].max()
    assert reached == pytest.approx(np.exp(2.5), rel=1e-7)
    assert fp.support_bound(five, 0.5, 1.0) >= reached * (1 - 1e-9)
    assert five.stability_rate(1.0) == pytest.approx(5.0)


def test_what_no_sum_is_made_for_is_refused():
    class Normalised(fp.Linear):
        normalised = True

    with pytest.raises(fp.InputError, match="made of moments"):
        Normalised(*drawn()).velocity(tokens(5, 2))
    steep = fp.Softmax([[1.0]], [[1.0]], [[1.0]], weight=fp.Weight(np.exp))
    np.testing.assert_allclose(steep.gaussian_velocity([[1.0]], [0.0], [[1.0]]), 1.0, rtol=1e-12)
    with pytest.raises(fp.InputError, match="grows less"):
        steep.gaussian_velocity([[8.0]], [0.0], [[1.0]])
    with pytest.raises(AttributeError):
        steep.weight.f = cauchy


def test_equal_attentions_keep_their_own_scores():
    class Equal(Cauchy):
        def __eq__(self, other):
            return True

        def __hash__(self):
            return 0

    Q, K, V = drawn()
    one, two, x = Equal(Q, K, V), Equal(Q, K, 2.0 * V), tokens(9, 2)
    np.testing.assert_allclose(two.velocity(x), 2.0 * one.velocity(x), rtol=1e-13)


def test_no_code_from_outside_of_the_folder(folder, capsys):
    (folder.parent / "elsewhere.py").write_text("raise SystemExit(3)")
    (folder / "link.py").symlink_to(folder.parent / "elsewhere.py")
    (folder / "broken.py").write_text("raise SystemExit(3)")
    for name, said in (("link", "a link to"), ("broken", "SystemExit: 3")):
        (folder / "b.toml").write_text(CONFIG.replace("cauchy:Cauchy", f"{name}:Cauchy"))
        assert cli.main(["run", "b.toml", "--quiet", "--allow-code"]) == 2
        assert said in capsys.readouterr().err
