"""Pictures and reports of sweeps: what goes on which axis, marks of cells without a value, and pages that are true."""

from __future__ import annotations

import dataclasses
import io
import itertools
import os
from pathlib import Path

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import SymLogNorm

import fastpde
from fastpde import cli, plot, report
from fastpde.errors import InputError
from fastpde.plot import canvas, sweep_axes, sweep_figures, sweep_panels, sweep_pictures
from fastpde.report import rendering, sweep_page
from fastpde.run import progress, sweep_folder, sweep_table

N, SCALE, KIND = [10, 100, 1000], [0.1, 0.2, 0.4, 0.8], ["softmax", "l2"]


def grid(**keys):
    """Return the values of all combinations by key."""
    table = list(itertools.product(*keys.values()))
    return {name: [row[i] for row in table] for i, name in enumerate(keys)}


def random(count, columns):
    stream = np.random.default_rng(0)
    return {name: stream.uniform(0.5, 3.0, count).tolist() for name in "abcd"[:columns]}


LAYOUTS = {
    "one": (grid(n=N), ("curves", "n", None, [])),
    "one and seeds": (grid(n=N, seed=[1, 2]), ("curves", "n", None, [])),
    "seeds": (grid(seed=[1, 2, 3]), ("each", "seed", None, [])),
    "nothing": ({}, ("each", "cell", None, [])),
    "words": (grid(kind=KIND), ("curves", "kind", None, [])),
    "two": (grid(n=N, scale=SCALE), ("map", "scale", "n", [])),
    "number and words": (grid(kind=KIND, n=N), ("curves", "n", "kind", [])),
    "two values": (grid(n=N, scale=[1.0, 2.0]), ("curves", "n", "scale", [])),
    "two of words": (grid(kind=["a", "b", "c"], tokens=["d", "e", "f"]), ("map", "kind", "tokens", [])),
    "three": (grid(n=N, scale=SCALE, kind=KIND), ("map", "scale", "n", ["kind"])),
    "four": (grid(n=N, d=[2, 3], scale=SCALE, kind=KIND), ("map", "scale", "n", ["d", "kind"])),
    "random": (random(30, 2), ("scatter", "a", "b", [])),
    "random in three": (random(30, 3), ("each", "a", "b", ["c"])),
    "together": ({"n": N, "step": [0.1, 0.01, 0.001]}, ("curves", "n", None, [])),
    "cases": ({"method": ["euler", "euler", "rk4"], "step": [0.1, 0.2, 0.1]}, ("curves", "method, step", None, [])),
    "different cases": (grid(case=["method = euler\nstep = 0.1", "V.scale = -1.0"], n=N), ("curves", "n", "case", [])),
    "cases of words": (grid(case=[f"method = {i}\nstep = 0.{i}" for i in range(9)]), ("curves", "case", None, [])),
    "one value": ({"n": [20]}, ("each", "n", None, [])),
    "one word": ({"seed": [1], "kind": ["softmax"]}, ("each", "kind", None, [])),
}


def found(varied):
    return sweep_axes.layout(varied, len(next(iter(varied.values()), "cell")))


@pytest.mark.parametrize("case", LAYOUTS)
def test_what_goes_on_which_axis(case):
    varied, want = LAYOUTS[case]
    made = found(varied)
    assert (made.kind, made.x.name, made.y and made.y.name, [one.name for one in made.rest]) == want


def test_scales_and_categories():
    assert found(grid(n=N)).x.logarithmic and not found(grid(n=[1, 2, 3])).x.logarithmic
    assert not found(grid(n=[-1.0, 1.0, 100.0])).x.logarithmic
    assert found(grid(on=[True, False])).x.labels == ("true", "false")
    assert found({"a": [1.0, "x"]}).x.labels == ("1.0", "x")
    long = found(grid(Q=["a" * 90 + "b", "a" * 90 + "c"])).x.labels
    assert len(set(long)) == 2 and max(map(len, long)) < 40
    assert "step goes with n" in found({"n": N, "step": [0.1, 0.01, 0.001]}).notes
    columns = found(grid(n=N, scale=SCALE, d=[2, 3, 4], seed=[1, 2], kind=KIND)).columns()
    assert "4 of 6 values of d and kind" in columns


def test_no_word_is_taken_for_a_formula():
    for figure in drawn(cells(grid(Q=[r"$\frac$", "a$b$.npy"], n=N))):
        check_labels(figure)


def test_medians_leave_out_what_is_not_finite():
    at, middle = sweep_panels.medians(np.array([2.0, 1.0, 2.0, 2.0, 3.0]), np.array([5.0, 1.0, 7.0, np.nan, np.nan]))
    assert at.tolist() == [1.0, 2.0, 3.0] and middle[:2].tolist() == [1.0, 6.0] and np.isnan(middle[2])


def cells(varied, states=None, **finals):
    """Return made-up cells; by default with two observables, one of which spans decades."""
    count = len(next(iter(varied.values()), "c"))
    states = np.array(["finished"] * count if states is None else states)
    known = np.where(states == "finished", 1.0, np.nan)
    index = np.arange(count)
    finals = finals or {"effective_rank": 1.0 + index, "energy": 10.0 ** (index / count * 8), "mean_0": index}
    finals = {name: values * known for name, values in finals.items()}
    return sweep_axes.CellColumns(
        varied, states, list(states), np.where(states == "waiting", np.nan, 0.1 + index), finals
    )


def drawn(some):
    """Return both pictures of cells."""
    layout = sweep_axes.layout(some.varied, len(some))
    names, left = sweep_figures.main_columns(some)
    return sweep_figures.results(some, layout, names, left, "a sweep"), sweep_figures.ends(some, layout, "a sweep")


def check_labels(figure):
    """No two labels of ticks on one axis touch; turned ones stand beside each other."""
    renderer = figure.canvas.get_renderer()
    figure.draw(renderer)
    for axes in (axes for axes in figure.axes if axes.get_visible()):
        for axis in (axes.xaxis, axes.yaxis):
            labels = [one for one in axis.get_ticklabels() if one.get_text() and not one.get_rotation()]
            places = [one.get_window_extent(renderer) for one in labels]
            touching = any(a.overlaps(b) for a, b in itertools.combinations(places, 2))
            assert not touching, [one.get_text() for one in labels]


def test_labels_that_touch_are_found():
    figure = canvas.figure(3.0, 2.0)
    axes = figure.add_subplot()
    axes.set_xticks([0.0, 0.01, 1.0])
    with pytest.raises(AssertionError):
        check_labels(figure)


@pytest.mark.parametrize("case", LAYOUTS)
def test_every_picture_is_legible(case):
    varied, _ = LAYOUTS[case]
    count = len(next(iter(varied.values()), "c"))
    states = list(itertools.islice(itertools.cycle(["finished", "failed", "finished", "waiting"]), count))
    for figure in drawn(cells(varied, states)):
        check_labels(figure)
        pixels = np.asarray(figure.canvas.buffer_rgba())[..., :3].astype(float)
        assert pixels.std() > 5
        assert min(edge.min() for edge in (pixels[0], pixels[-1], pixels[:, 0], pixels[:, -1])) > 240
        texts = [one.get_text() for one in figure.findobj(mpl.text.Text)]
        assert "a sweep" in texts and ("failed" in texts or count == 1)
        assert "unfinished" in texts or "waiting" in texts or count < 4


def test_curves_maps_and_points():
    curve, _ = drawn(cells(grid(n=N)))
    first = curve.axes[0]
    assert first.get_xscale() == "log" and (first.get_xlabel(), first.get_ylabel()) == ("n", "effective rank")
    assert [one.get_ylabel() for one in curve.axes] == ["effective rank", "energy"]  # means are asked for only
    assert curve.axes[1].get_yscale() == "log"
    shown, _ = drawn(cells(grid(n=N, scale=SCALE), ["failed", "waiting", *["finished"] * 10]))
    mesh = next(one for one in shown.axes[0].collections if hasattr(one, "get_coordinates"))
    assert mesh.get_array().shape == (3, 4) and mesh.get_array().mask.sum() == 2
    assert len(shown.axes) == 4  # two maps and their colour bars
    points, _ = drawn(cells(random(30, 3)))
    assert len(points.axes) == 6 and points.axes[-1].get_xlabel() == "c"
    panels, _ = drawn(cells(grid(n=N, scale=SCALE, kind=KIND)))
    assert [one.get_title() for one in panels.axes[:2]] == ["kind = softmax", "kind = l2"]


def test_no_colour_is_of_an_outcome_and_of_a_parameter():
    """Of each figure: colours of bars, of marks for failures, and of curves; shapes of marks differ as well."""
    everything = ["finished", "failed", "running", "stopped", "waiting", "finished"]
    some = cells(grid(n=N, kind=["a", "b"]), everything)
    some = dataclasses.replace(some, outcomes=[*everything[:-1], "finished: collapsed"])
    outcomes = {look[0] for look in sweep_figures._looks(some).values()}
    assert len(outcomes) == 6 and not outcomes & set(sweep_panels.CURVES)
    for figure in drawn(some):
        curves = {one.get_color() for one in figure.legends[0].get_lines() if "kind" in one.get_label()}
        marks = {one.get_color() for one in figure.legends[0].get_lines() if one.get_label() == "failed"}
        assert len(curves) == 2 and len(marks) == 1 and not marks & curves and not curves & outcomes


def test_times_of_cells_that_have_failed_are_joined_to_no_other():
    """The wall time of a cell that failed early lies beside the curve, marked, not on it."""
    for varied in (grid(n=[10, 100, 1000, 10000]), grid(n=[10, 100, 1000, 10000], kind=["a", "b"])):
        count = len(varied["n"])
        states = ["finished"] * (count // 2) + ["failed", "waiting"] * (count // 4)
        _, figure = drawn(cells(varied, states))
        axes = next(one for one in figure.axes if one.get_title() == "wall time in s")
        joined = [one for one in axes.lines if one.get_linestyle() == "-"]
        assert len(joined) == len(set(varied.get("kind", "a")))
        known = [one.get_xdata()[np.isfinite(one.get_ydata())].tolist() for one in joined]
        assert known == [[10.0, 100.0]] * len(joined)
        marks = [one for one in axes.lines if one.get_marker() == "X" and len(one.get_xdata())]
        assert {1000.0} <= {x for one in marks for x in one.get_xdata().tolist()} and "failed" in [
            one.get_text() for one in figure.legends[0].get_texts()
        ]


def test_no_curve_leads_across_a_cell_that_has_failed():
    figure, _ = drawn(cells(grid(n=[10, 100, 1000, 10000]), ["finished", "failed", "finished", "finished"]))
    (curve,) = (one for one in figure.axes[0].lines if one.get_linestyle() == "-")
    assert np.isfinite(curve.get_ydata()).tolist() == [True, False, True, True]


def test_numbers_of_both_signs_over_decades():
    """As curves and as colours: no side is flat, and labels do not touch."""
    signed = np.concatenate([np.geomspace(1e5, 1e-5, 6), -np.geomspace(1e-5, 1e5, 6)])
    curve, _ = drawn(cells(grid(n=list(range(12))), signed=signed))
    shown, _ = drawn(cells(grid(n=N, scale=SCALE), signed=signed))
    assert curve.axes[0].get_yscale() == "symlog" and isinstance(shown.axes[0].collections[0].norm, SymLogNorm)
    for figure in (curve, shown):
        check_labels(figure)
    assert len(shown.axes[1].get_yticks()) >= 5


def test_a_plan_with_one_value_is_drawn_over_it():
    for varied, name, label in ((grid(n=[20]), "n", "20"), (grid(kind=["l2"]), "kind", "l2"), ({}, "cell", "0")):
        for figure in drawn(cells(varied)):
            axes = figure.axes[-1]
            assert axes.get_xlabel() == name and [one.get_text() for one in axes.get_xticklabels()] == [label]
    made = sweep_axes.layout(grid(n=N, d=[2], kind=["l2"]), 3)
    assert made.x.name == "n" and "all with d = 2, kind = l2" in made.notes


def test_what_is_counted_as_a_cluster_stands_on_the_picture():
    figure, _ = drawn(cells(grid(n=N), clusters=np.array([3.0, 2.0, 0.0]), clustered=np.ones(3)))
    (axes,) = figure.axes
    assert axes.get_ylabel() == "clusters\n(≥ 1 % of tokens, ≥ 2 tokens)" and axes.get_ylim()[0] < -0.1  # 0 can be seen


def test_a_tiny_constant_is_not_drawn_as_zero():
    figure, _ = drawn(cells(grid(n=N), energy=np.full(3, 6e-18)))
    assert 0.0 < figure.axes[0].get_ylim()[0] < 6e-18 < figure.axes[0].get_ylim()[1] < 1e-17


def test_huge_numbers_are_drawn_by_their_logarithms():
    figure, _ = drawn(cells(grid(n=N), energy=np.array([1.0, 1e200, 1e300]), odd=np.array([-1e308, 1e308, 1.0])))
    check_labels(figure)
    assert figure.axes[0].get_ylabel() == "log10 of energy"
    assert figure.axes[0].lines[0].get_ydata().tolist() == [0.0, 200.0]  # 1e300 and more fit no axis


def test_many_cells_are_drawn():
    varied = grid(n=list(range(1, 101)), scale=np.geomspace(0.01, 100.0, 60).tolist(), seed=[1, 2])
    for figure in drawn(cells(varied, (["finished"] * 11 + ["failed"]) * 1000)):
        check_labels(figure)


CASES = """config = "small.toml"
[[cases]]
time.max_steps = 3
[[cases]]
tokens.std = 0.5
[[cases]]
attention.Q = "q<&.npy"
"""


@pytest.fixture
def folder(small, monkeypatch):
    """Return the directory of a sweep with a cell that failed, one that finished and one that could not begin."""
    monkeypatch.chdir(small.parent)
    monkeypatch.setenv("PYTHONPATH", str(Path(fastpde.__file__).parents[1]))
    np.save("q<&.npy", np.full((2, 2), np.nan))
    Path("plan.toml").write_text(CASES)
    assert cli.main(["sweep", "plan.toml", "--quiet", "--local", "1"]) == 3
    return small.parent / "plan.sweep"


def test_pictures_and_report_of_a_sweep(folder, capsys):
    capsys.readouterr()
    assert cli.main(["plot", "plan.sweep"]) == 0
    assert capsys.readouterr().out.split() == ["plan.sweep/results.png", "plan.sweep/cells.png"]
    stamps = [(folder / name).stat().st_mtime_ns for name in ("results.png", "cells.png")]
    assert cli.main(["report", "plan.sweep"]) == 0
    text = (folder / "report.html").read_text()
    assert stamps == [(folder / name).stat().st_mtime_ns for name in ("results.png", "cells.png")]
    assert text.count("data:image/png;base64,") == 2 and "3 cells: 1 finished, 1 failed, 1 waiting" in text
    assert "max_steps attempted steps were used up" in text and "1 of 3 cells are not finished" in text
    assert f"fastpde sweep {folder.resolve()}" in text and "q&lt;&amp;.npy" in text and "q<&" not in text
    row = sweep_table.Table(sweep_folder.load(folder)).cells[1].last
    assert f"{float(row['trace']):.6g}" in text

    np.save("q<&.npy", np.eye(2))  # more is finished: the pictures are out of date
    before = canvas.made_of(folder / "cells.png")
    assert cli.main(["sweep", "plan.toml", "--quiet"]) == 3
    assert "2 finished, 1 failed" in report.write(folder).read_text()
    assert canvas.made_of(folder / "cells.png") != before
    assert "To go on" not in (folder / "report.html").read_text()


def test_cases_have_labels_of_their_own(folder):
    """Cases with different keys are one category: what each changes, and never a value that it only lacks."""
    table = sweep_table.read(sweep_folder.load(folder))
    varied = sweep_pictures._cells(table).varied
    assert sweep_table.Table(table.folder, [0]).summary() == "1 cell: 1 failed"
    assert varied == {"case": ["max_steps = 3", "std = 0.5", "Q = q<&.npy"]}
    figure = sweep_figures.ends(sweep_pictures._cells(table), sweep_axes.layout(varied, 3), "")
    axes = next(one for one in figure.axes if one.get_title() == "where")
    assert axes.get_xlabel() == "case" and axes.get_xticklabels()[1].get_text() == "std = 0.5"


def test_labels_of_cases():
    keys = ["time.method", "time.step", "attention.V.scale", "attention.kind", "tokens.kind", "output.clusters", "seed"]
    assert sweep_pictures._case({"time.method": "euler", "time.step": 0.1}, keys) == "method = euler\nstep = 0.1"
    case = {"attention.V.scale": -1.0, "tokens.kind": "sphere", "output.clusters": False, "seed": 2}
    assert sweep_pictures._case(case, keys) == "V.scale = -1.0\ntokens.kind = sphere\nand 2 more"
    assert sweep_pictures._case({"output.clusters": False}, keys) == "clusters = false"
    assert sweep_pictures._case({}, keys) == "as configured"
    layout = found(grid(case=["method = euler\nstep = 0.1", "V.scale = -1.0"], n=N))
    assert layout.y.words(0.0) == "method = euler\nstep = 0.1"


def test_values_of_a_plan_are_those_of_toml():
    assert sweep_page._values([False, 0.5, "a b"]) == (3, "false, 0.5, a b")


def test_columns_that_are_asked_for(folder, capsys):
    assert cli.main(["plot", "plan.sweep", "--columns", "mean_norm", "t"]) == 0
    capsys.readouterr()
    assert cli.main(["plot", "plan.sweep", "--columns", "width"]) == 2
    error = capsys.readouterr().err
    assert "--columns" in error and "effective_rank" in error and error.count("\n") == 1
    cell = next((folder / "cells").iterdir())
    assert cli.main(["plot", str(cell), "--columns", "trace"]) == 2


def test_a_sweep_of_which_nothing_has_finished(folder):
    for path in sorted(folder.glob("cells/*")):
        os.rename(path, folder.parent / path.name)
    plot.plot_sweep(folder)
    assert not (folder / "results.png").exists() and (folder / "cells.png").is_file()
    assert "3 cells: 3 waiting" in report.write(folder).read_text()
    with pytest.raises(InputError, match="none"):
        plot.plot_sweep(folder, ["trace"])


def test_long_reading_shows_progress(folder, monkeypatch):
    seen = []
    monkeypatch.setattr(sweep_table, "_MANY", 2)

    class Shown(progress.Quiet):
        def update(self, t, steps):
            seen.append(t)

    monkeypatch.setattr(progress, "choose", lambda *_, quiet, name: progress.Quiet() if quiet else Shown())
    made = sweep_pictures.current(sweep_table.read(sweep_folder.load(folder), None))
    assert made and not seen
    report.write(folder, stream=io.StringIO())
    assert seen == [1, 2, 3]


@pytest.mark.parametrize(
    ("values", "words"),
    [
        ([0.1, 0.316228, 1.0], ["0.1", "0.316", "1"]),
        ([1000.0, 100000.0, 1e7], ["1000", "100000", "1e+07"]),
        ([1234.56, 1234.61], ["1234.56", "1234.61"]),
        ([0.1 + 1e-12, 0.1, np.nan], ["0.100000000001", "0.1", "nan"]),
    ],
)
def test_values_have_as_few_digits_as_tell_them_apart(values, words):
    assert sweep_axes.distinct_words(values) == words


def test_a_long_table_is_cut_and_says_so():
    found = rendering.excerpt({"index": list(range(1000)), "b": ["x"] * 1000}, 300)
    assert len(found.rows) == 300 and found.rows[-1] == ["999", "x"] and found.more == "700 more rows"
