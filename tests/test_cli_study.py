"""`fastpde study`: strict configurations, directories that are not touched, pictures that are drawn again."""

from __future__ import annotations

import signal
from pathlib import Path

import numpy as np
import pytest

from fastpde import config, studies
from fastpde.config.studies import dumps
from fastpde.run import attempt
from fastpde.run.signals import Stopped, StopSignals

from .test_cli import call, files, fresh

RANKS = "dimensions = [2]\ndraws = 2\n"
PATHS = """
[attention]
kind = "softmax"
K = { scale = -1.0 }
[starts]
grid = 2
limit = 0.5
[time]
t_end = 10.0
frames = 5
"""

WRONG = {  # study: text, what the message must name
    "unknown key": ("rank-collapse", "drws = 3", "drws"),
    "unknown section": ("phase-diagram", "[tokens]\nn = 3", "tokens"),
    "text for a number": ("rank-collapse", "draws = '3'", "draws"),
    "fraction": ("phase-diagram", "draws = 2.5", "draws"),
    "no draws": ("phase-diagram", "draws = 0", "draws"),
    "dimension in a list": ("rank-collapse", "dimensions = [3, 'x']", "dimensions[1]"),
    "no list": ("rank-collapse", "dimensions = 3", "dimensions"),
    "twice": ("rank-collapse", "dimensions = [3, 3]", "dimensions"),
    "huge dimension": ("phase-diagram", "dimension = 1000000", "dimension"),
    "rank too large": ("rank-collapse", "dimensions = [2, 3]\nrank = 3", "rank"),
    "unknown variant": ("phase-diagram", "variant = 'linear'", "variant"),
    "no pair": ("stationary-points", "cases = [[3, 3], [3]]", "cases[1]"),
    "small dimension": ("stationary-points", "cases = [[1, 1]]", "cases[0][0]"),
    "three eigenvalues": ("blow-up", "spectra = [[1.0, 2.0, 3.0]]", "spectra[0]"),
    "zero spectrum": ("blow-up", "spectra = [[0.0]]", "spectra[0]"),
    "radii that fall": ("blow-up", "radii = [4.0, 2.0]", "radii"),
    "no class of laws": ("energy-convexity", "dimensions = [1]\nspectra = ['indefinite']", "spectra"),
    "no TOML": ("phase-diagram", "draws =", "config"),
    "no closure": ("covariance-paths", "[attention]\nkind = 'sigmoid'", "attention.kind"),
    "no closure of a head": (
        "covariance-paths",
        "[attention]\nkind = 'multihead'\n[[attention.heads]]\nkind = 'exponential'",
        "attention.heads[0].kind",
    ),
    "masked": ("covariance-paths", "[attention]\nkind = 'softmax'\nmasked = true", "attention.masked"),
    "three columns": ("covariance-paths", "[attention]\nkind = 'softmax'\nQ = [[1, 2, 3]]", "attention.Q"),
    "missing file": ("covariance-paths", "[attention]\nkind = 'l2'\nV = 'gone.npy'", "attention.V"),
    "layers": ("covariance-paths", "[attention]\nkind = 'l2'\nV = 'layers.npy[layer]'", "attention"),
    "outside the disc": ("covariance-paths", "[starts]\nlimit = 1.5", "starts.limit"),
    "corners only": ("covariance-paths", "[starts]\ngrid = 2", "starts.limit"),
    "no time": ("covariance-paths", "[time]\nt_end = 0", "time.t_end"),
}


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    np.save("layers.npy", np.ones((3, 2, 2)))
    return tmp_path


@pytest.mark.parametrize("case", WRONG)
def test_wrong_configurations_are_exit_2_in_one_line_and_leave_nothing(folder, capsys, case):
    name, text, key = WRONG[case]
    (folder / "a.toml").write_text(text)
    before = files(folder)
    code, out, errors = call(capsys, "study", name, "a.toml")
    assert (code, out) == (2, "")
    assert errors.startswith(f"fastpde: error: {key}: got ") and errors.count("\n") == 1
    assert files(folder) == before


@pytest.mark.parametrize(
    ("arguments", "word"),
    [
        (("rank-colapse",), 'Did you mean "rank-collapse"?'),
        ((), "NAME"),
        (("phase-diagram", "gone.toml"), "gone.toml"),
        (("phase-diagram", "--threads", "0"), "--threads"),
        (("phase-diagram", "--out", "."), "--out"),
        (("phase-diagram", "--out", "layers.npy"), "--out"),
    ],
)
def test_wrong_arguments_are_exit_2_in_one_line(folder, capsys, arguments, word):
    before = files(folder)
    code, out, errors = call(capsys, "study", *arguments)
    assert (code, out) == (2, "") and word in errors and errors.count("\n") == 1
    assert files(folder) == before


def test_a_study_ends_with_a_picture_and_again_does_nothing(folder, capsys):
    (folder / "a.toml").write_text(RANKS)
    code, out, errors = call(capsys, "study", "rank-collapse", "a.toml", "--quiet", "--threads", "1")
    assert (code, errors) == (0, "")
    assert out.splitlines()[0].startswith("rank d - rank Q in 2 of 2 draws")
    picture = Path(out.splitlines()[-1])
    assert picture == Path("a.study/rank-collapse.png") and picture.stat().st_size > 1000
    kept = {path.name: path.read_bytes() for path in Path("a.study").iterdir()}
    assert sorted(kept) == ["config.toml", "rank-collapse.png", "rows.csv", "study.json"]
    code, out, _ = call(capsys, "study", "rank-collapse", "a.toml")
    assert code == 0 and out.splitlines() == ["already finished: a.study", str(picture)]
    for name, text in (("phase-diagram", "draws = 2"), ("rank-collapse", "draws = 3")):
        (folder / "a.toml").write_text(text)
        code, _, errors = call(capsys, "study", name, "a.toml")
        assert code == 2 and "--out" in errors
    picture.unlink()
    assert call(capsys, "plot", "a.study")[:2] == (0, f"{picture}\n")
    assert kept == {path.name: path.read_bytes() for path in Path("a.study").iterdir()}
    assert list(studies.load("a.study")["expected"]) == [1, 1]


STOPPED = {  # study: configuration, exit code, words
    "mean-field": (
        "laws = ['ball']\nvariants = ['l2']\nsizes = [4, 8]\ndraws = 2\nclt_draws = 2\n"
        "dimension = 1\ntimes = 2\nsteps = 3",
        75,
        "run the same command again",
    ),
    "stability": ("variants = ['linear']\ndraws = 3\nn = 4\ntimes = 2", 75, "run the same command again"),
    "stationary-points": ("cases = [[2, 2]]\ndraws = 3\ntau = 1e4", 75, "run the same command again"),
    "blow-up": ("spectra = [[1.0]]\nradii = [2.0, 3.0, 4.0]\nvariants = ['linear']", 75, "run the same command again"),
    "energy-convexity": ("gaussians = 20\ndimensions = [1]", 75, "run the same command again"),
    "phase-diagram": ("draws = 3", 143, "nothing was written"),
}


@pytest.mark.parametrize("name", STOPPED)
def test_a_signal_in_the_middle(folder, capsys, monkeypatch, name):
    """Studies of cells keep what is done and end with 75: the same command goes on, to the same table."""
    text, want, words = STOPPED[name]
    (folder / "a.toml").write_text(text)
    assert call(capsys, "study", name, "a.toml", "--quiet", "--out", "whole")[0] == 0
    checks, note = [], folder / "note"
    with monkeypatch.context() as patched:

        def check(signals):
            checks.append(signals)
            assert not list(folder.glob(".*"))  # what a kill would leave
            if Path("part.cells").exists() and len(Path("part.cells").read_text().splitlines()) == 3:
                raise Stopped(signal.SIGTERM)  # two cells and a first line
            if name == "phase-diagram":
                raise Stopped(signal.SIGTERM)

        patched.setattr(StopSignals, "check", check)
        patched.setenv(attempt.VARIABLE, str(note))
        for further in (False, True):  # the second time it stops where it goes on
            note.write_text("")
            code, out, errors = call(capsys, "study", name, "a.toml", "--quiet", "--out", "part")
            assert ("further" in note.read_text()) == (want == 75 and not further)
    assert (code, out) == (want, "") and words in errors and "SIGTERM" in errors and errors.count("\n") == 1
    assert checks and not Path("part").exists()
    assert Path("part.cells").exists() == (want == 75)
    assert call(capsys, "study", name, "a.toml", "--quiet", "--out", "part")[0] == 0
    assert Path("part/rows.csv").read_bytes() == Path("whole/rows.csv").read_bytes()
    assert not Path("part.cells").exists()


def test_paths_take_an_attention_of_the_configuration(folder, capsys):
    (folder / "a.toml").write_text(PATHS)
    code, _, errors = call(capsys, "study", "covariance-paths", "a.toml", "--out", "deep/er")
    assert code == 0, errors
    found = studies.load(folder / "deep" / "er")
    assert len(found) == 4 and set(found["outcome"]) == {"converges"} and found.cov.shape == (6, 4, 2, 2)
    assert not [path for path in (folder / "deep").iterdir() if path.name.startswith(".")]


@pytest.mark.parametrize("name", config.STUDIES)
def test_configurations_read_back(folder, name):
    plan = config.load_study(name, None)
    assert config.same_study(dumps(plan), plan) and plan.code == {} and plan.rows > 0
    if name == "covariance-paths":
        (folder / "a.toml").write_text(PATHS.replace('"softmax"', '"multihead"\n[[attention.heads]]'))
        heads = config.load_study(name, folder / "a.toml")
        assert config.same_study(dumps(heads), heads) and not config.same_study(dumps(plan), heads)


def test_help_and_errors_import_nothing_heavy(folder):
    (folder / "b.toml").write_text("draws = 2.5")
    for arguments, code in ((("study", "--help"), 0), (("study", "phase-diagram", "b.toml"), 2)):
        found, loaded, errors = fresh(folder, *arguments)
        assert (found, loaded) == (code, "LOADED []"), errors
