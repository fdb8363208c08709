"""Pictures of runs: they exist, they show something, and the user's pyplot is left alone."""

from __future__ import annotations

import itertools
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

import fastpde
from fastpde import plot
from fastpde.errors import InputError
from fastpde.parallel.spread import Tokens
from fastpde.plot import canvas, cluster_paths, series, token_panels, view
from fastpde.run.observables.token_moments import columns, of_many, of_one
from fastpde.run.tables import TableWriter
from fastpde.run.trajectory import TrajectoryWriter
from fastpde.run.trajectory_ensemble import Block, EnsembleWriter


def run_directory(path: Path, *, n=60, d=2, count=9, dtype=np.float64, growth=1.0, cluster=False):
    """Make the files that `plot_run` reads: a cloud that grows like e^(growth t) and may gather on two
    points.
    """
    path.mkdir()
    x = np.random.default_rng(0).normal(size=(n, d)).astype(dtype)
    goal = np.sign(x[:, :1]) * np.ones(d)
    trajectory = TrajectoryWriter(path / "trajectory.h5", np.arange(n), x, frames=count, version="1")
    observables = TableWriter(path / "observables.csv", ["t", *columns(d)])
    for i in range(count):
        t = 4 * i / max(1, count - 1)
        y = (np.exp(growth * t) * (x + (goal - x) * (t / 4 if cluster else 0))).astype(dtype)
        trajectory.store(t, y)
        observables.append([t, *of_one(t, Tokens.alone(y))])
    trajectory.close()
    observables.close()
    return path


def shown(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"), dtype=float)


CASES = {
    "plane": {},
    "clusters": {"cluster": True, "n": 300},
    "space": {"d": 3},
    "many dimensions": {"d": 20, "dtype": np.float32},
    "line": {"d": 1},
    "one frame": {"count": 1},
    "one token": {"n": 1},
    "a point": {"growth": -200.0},
    "huge": {"growth": 40.0},
}


@pytest.mark.parametrize("case", CASES)
def test_pictures_are_made_and_not_blank(tmp_path, case):
    path = run_directory(tmp_path / "a", **CASES[case])
    paths = plot.plot_run(path)
    moving = CASES[case].get("d", 2) > 1 and CASES[case].get("count", 2) > 1
    names = ["tokens.png", "spectrum.png", "tokens.gif"][: 3 if moving else 2]
    assert [found.name for found in paths] == names
    for found in paths:
        pixels = shown(found)
        # A white page has deviation 0; axes and text alone are about 15.
        assert pixels.std() > 5, found
        # The frame of the page is white: nothing is cut off at its edges.
        assert min(edge.min() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])) > 240, found
    assert not [file for file in path.iterdir() if file.suffix == ".tmp"]


def test_tokens_are_seen(tmp_path):
    few, many = (run_directory(tmp_path / str(n), n=n, count=3) for n in (2, 1000))
    plot.plot_run(few)
    plot.plot_run(many)
    coloured = [np.ptp(shown(path / "tokens.png"), axis=2) > 40 for path in (few, many)]
    assert coloured[0].sum() > 50  # two tokens in three panels, at least a few pixels each
    assert coloured[1].sum() > 20 * coloured[0].sum()


@pytest.mark.parametrize("count", [2, 70])
def test_movie_has_at_most_sixty_frames(tmp_path, count):
    path = run_directory(tmp_path / "a", n=5, count=count)
    plot.plot_run(path)
    with Image.open(path / "tokens.gif") as image:
        assert image.n_frames == min(count, view.MAX_FRAMES)
        assert image.info["loop"] == 0


def test_view_of_many_dimensions_is_that_of_the_principal_components():
    rng = np.random.default_rng(0)
    axes = np.linalg.qr(rng.normal(size=(6, 6)))[0]
    x = rng.normal(size=(500, 6)) * [9, 5, 0.1, 0.1, 0.1, 0.1] @ axes.T
    seen = view.of(x)
    # The plane is found to the ratio of small to large deviations over the root of n: 0.1 / 5 / 22, about
    # 1e-3.
    assert np.abs(np.abs(axes[:, :2].T @ seen.axes) - np.eye(2)).max() < 0.2
    assert seen(x).var(axis=0).sum() > 0.99 * x.var(axis=0).sum()
    assert "100 %" in seen.caption


def ensemble_directory(path: Path, *, systems=30, done=None, n=20, d=2, count=9, events=("collapsed",)):
    """Make the ensemble.h5 that `plot_run` reads: every other system gathers and ends at a time of its own."""
    path.mkdir()
    rng, done = np.random.default_rng(0), systems if done is None else done
    x = rng.normal(size=(1, done, n, d)) * np.linspace(1, 2, count)[:, None, None, None]
    times, ends = np.linspace(0, 4, count), np.where(np.arange(done) % 2 == 1, rng.uniform(1, 4, done), 4.0)
    x[:, 1::2] *= np.exp(-times)[:, None, None, None]
    x[times[:, None] > ends] = np.nan
    last = np.stack([x[np.isfinite(x[:, b, 0, 0]), b][-1] for b in range(done)])
    words = ["collapsed" if b % 2 == 1 and events else "completed" for b in range(done)]
    names = ["t", *columns(d)]
    table = np.full((count, done, len(names)), np.nan)
    for j, t in enumerate(times):
        running = np.isfinite(x[j, :, 0, 0])
        table[j, running, 0], table[j, running, 1:] = t, of_many(t, x[j, running])
    hits = {name: np.where(ends < 4.0, ends, np.nan) for name in events}
    options = {"systems": systems, "like": last, "events": dict.fromkeys(events, 1.0), "columns": names}
    writer = EnsembleWriter(path / "ensemble.h5", np.arange(n), times, version="1", **options)
    counts = np.arange(done)
    writer.append(Block(x, last, ends, words, counts, counts, hits, table))
    writer.close()
    return path


ENSEMBLES = {
    "plane": {},
    "space": {"d": 3, "systems": 3},
    "many dimensions": {"d": 20},
    "line": {"d": 1},
    "one time": {"count": 1, "events": ()},
    "one token": {"n": 1},
    "one system that is done": {"done": 1, "events": ("collapsed", "blow_up")},
}


@pytest.mark.parametrize("case", ENSEMBLES)
def test_pictures_of_ensembles_are_made_and_not_blank(tmp_path, case):
    path = ensemble_directory(tmp_path / "a", **ENSEMBLES[case])
    names = [found.name for found in plot.plot_run(path)]
    middle = ["ends.png"] if ENSEMBLES[case].get("events", True) else []
    assert names == ["ensemble.png", *middle, "systems.png"]
    assert plot.first_picture(path) == path / "ensemble.png"
    for name in names:
        pixels = shown(path / name)
        assert pixels.std() > 5 and (np.ptp(pixels, axis=2) > 40).sum() > 50, name  # something in colour
        assert min(edge.min() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])) > 240, name


def test_own_observables_of_an_ensemble_are_drawn(tmp_path):
    """Columns of the user's own have panels, in order, after those of the package that no other picture shows."""
    t, stream = np.linspace(0.0, 4.0, 9), np.random.default_rng(0)
    own = {name: stream.uniform(1.0, 2.0, (9, 30)) for name in ("skew", "w0", "w1", "w2")}
    drawn = series.figure(t, {"t": np.tile(t[:, None], 30), "trace": own["w0"], "mean_0": own["w0"], **own})
    assert [axes.get_ylabel() for axes in drawn.axes] == list(own)
    assert all(len(axes.collections) == 1 and len(axes.lines) == 1 for axes in drawn.axes)  # quartiles and median


@pytest.mark.parametrize("make", [run_directory, ensemble_directory])
def test_drawing_that_was_cut_short_is_made_up_for(tmp_path, monkeypatch, make):
    """The picture that says that all are drawn is the last one: after a kill before it all are drawn again."""
    path = make(tmp_path / "a")
    first, save = plot.first_picture(path), canvas.save

    def killed(drawn, target, made_of=""):
        if target.name in ("systems.png", "spectrum.png"):
            raise KeyboardInterrupt
        save(drawn, target, made_of)

    monkeypatch.setattr(canvas, "save", killed)
    with pytest.raises(KeyboardInterrupt):
        plot.current_pictures(path)
    monkeypatch.undo()
    assert not plot.are_current(path)
    assert {"systems.png", "spectrum.png"} & {one.name for one in plot.current_pictures(path)}
    assert first.is_file() and plot.are_current(path)


SERIES = {
    "two": (np.linspace(1.0, 2.0, 20), "linear"),
    "decades": (np.geomspace(2e6, 1e-30, 20), "log"),
    "decades below zero": (-np.geomspace(2e6, 1e-30, 20), "symlog"),
    "huge": (np.geomspace(10.0, 1e200, 20), "linear"),  # their logarithms
    "huge below zero": (-np.geomspace(1.0, 1e200, 20), "linear"),
    "tiny": (np.geomspace(1.0, 1e-300, 20), "log"),
    "tiny below zero": (-np.geomspace(1.0, 1e-300, 20), "symlog"),
    "a wave": (np.sin(np.linspace(0.0, 20.0, 99)), "linear"),
    "both signs": (np.concatenate([np.geomspace(1e6, 1e-5, 10), -np.geomspace(1e-5, 1e3, 10)]), "symlog"),
    "down to zero": (np.append(np.geomspace(1e6, 1e-5, 10), 0.0), "symlog"),
    "a constant": (np.full(9, 3.0), "linear"),
    "zeros": (np.zeros(9), "linear"),
    "some": (np.array([1.0, np.nan, 1e4, np.inf]), "log"),
}


@pytest.mark.parametrize("case", SERIES)
def test_scales_of_observables(case):
    """Each value is seen apart from its neighbours where a linear axis would show a flat line."""
    values, want = SERIES[case]
    drawn = series.figure(np.arange(float(len(values))), {"energy": values})
    (axes,) = drawn.axes
    drawn.canvas.draw()
    assert axes.get_yscale() == want
    assert ("log10" in axes.get_ylabel()) == case.startswith("huge")
    y = axes.transData.transform(np.column_stack(axes.lines[0].get_data()))[:, 1]
    low, high = axes.get_window_extent().extents[[1, 3]]
    assert np.nanmin(y) >= low and np.nanmax(y) <= high
    if want != "linear" and len(y) > 9 and case != "tiny below zero":  # of which half are zeros to matplotlib
        assert np.abs(np.diff(y)).min() > 0.01 * (high - low)
    places = [one.get_window_extent() for one in axes.get_yticklabels() if one.get_text()]
    assert not any(a.overlaps(b) for a, b in itertools.combinations(places, 2))


def test_captions_say_how_many_tokens_are_left_out(tmp_path):
    assert token_panels.tokens(4000, 1_000_000) == "4000 of 1,000,000 tokens"
    assert token_panels.tokens(4000) == token_panels.tokens(4000, 4000) == "4000 tokens"
    assert token_panels.tokens(1) == "1 token"
    data = token_panels.Kept(np.zeros(1), np.random.default_rng(0).normal(size=(1, 8, 2)))
    assert "8 of 1,000,000 tokens" in token_panels.panels(data, 1_000_000).get_supxlabel()
    path, seen = run_directory(tmp_path / "a", count=2), []
    (path / "status.json").write_text('{"n": 5000}')  # of which the trajectory has 60
    save = canvas.save
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(canvas, "save", lambda drawn, *rest: (seen.append(drawn), save(drawn, *rest)))
        plot.plot_run(path)
    assert "60 of 5,000 tokens" in seen[-1].get_supxlabel()


def test_no_clusters_can_be_seen():
    """A number of 0 is drawn above the axis; the title says what is counted."""
    t = np.linspace(0.0, 1.0, 30)
    for most in (1.0, 5.0, 1000.0):
        table = {"t": t, "clusters": np.where(t < 0.5, 0.0, most), "effective_rank": np.ones(30)}
        top = cluster_paths.figure(table).axes[0]
        low, high = top.transData.transform([(0.0, 0.0), (0.0, most)])[:, 1]
        bottom, ceiling = top.transAxes.transform([(0.0, 0.0), (0.0, 1.0)])[:, 1]
        assert bottom + 0.03 * (ceiling - bottom) < low < high < ceiling
        assert "≥ 1 % of tokens, ≥ 2 tokens" in top.get_title()


def test_an_ensemble_without_systems_is_refused(tmp_path):
    options = {"systems": 4, "like": np.ones((1, 2, 2)), "events": {}, "columns": ["t"], "version": "1"}
    EnsembleWriter(tmp_path / "ensemble.h5", np.arange(2), np.arange(3.0), **options).close()
    with pytest.raises(InputError, match="no system"):
        plot.plot_run(tmp_path)


def test_what_is_no_run_is_refused(tmp_path):
    with pytest.raises(InputError, match="run directory"):
        plot.plot_run(tmp_path)


def test_pyplot_and_the_global_backend_are_not_touched(tmp_path):
    run_directory(tmp_path / "a", n=5, count=2)
    code = (
        "import sys, matplotlib, pathlib; from fastpde import plot; before = matplotlib.rcParams.copy();"
        "plot.plot_run(pathlib.Path('a')); assert 'matplotlib.pyplot' not in sys.modules;"
        "assert before == matplotlib.rcParams.copy()"
    )
    root = str(Path(fastpde.__file__).parents[1])
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env={"PYTHONPATH": root}, timeout=60)
    assert done.returncode == 0
