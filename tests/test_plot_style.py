"""One style for all pictures: colours for all readers, text of a readable size, scales that are shared, named axes."""

from __future__ import annotations

import itertools
import re

import matplotlib as mpl
import numpy as np
import pytest
from matplotlib.colors import to_rgb, to_rgba
from matplotlib.text import Text

import fastpde as fp
from fastpde.plot import (
    canvas,
    convergence,
    covariances,
    law_panels,
    masses,
    palette,
    scales,
    series,
    sweep_panels,
    system_panels,
    token_panels,
    view,
)

from .test_plot_covariances import NAMES, laws

RNG = np.random.default_rng(20260101)

# Linear RGB as seen without one kind of cones: Machado, Oliveira, Fernandes, A physiologically-based model for
# simulation of color vision deficiency (2009), IEEE TVCG 15, severity 1.
EYES = {
    "all cones": np.eye(3),
    "protanopia": np.array(
        [[0.152286, 1.052583, -0.204868], [0.114503, 0.786281, 0.099216], [-0.003882, -0.048116, 1.051998]]
    ),
    "deuteranopia": np.array(
        [[0.367322, 0.860646, -0.227968], [0.280085, 0.672501, 0.047413], [-0.011820, 0.042940, 0.968881]]
    ),
    "tritanopia": np.array(
        [[1.255528, -0.076749, -0.178779], [-0.078411, 0.930809, 0.147602], [0.004733, 0.691367, 0.303900]]
    ),
}
TO_XYZ = np.array(
    [[0.4124564, 0.3575761, 0.1804375], [0.2126729, 0.7151522, 0.0721750], [0.0193339, 0.1191920, 0.9503041]]
)


def lab(colour, eye="all cones"):
    """CIELAB of a colour as an eye sees it, D65."""
    rgb = np.array(to_rgb(colour))
    linear = np.where(rgb <= 0.04045, rgb / 12.92, ((rgb + 0.055) / 1.055) ** 2.4)
    xyz = TO_XYZ @ np.clip(EYES[eye] @ linear, 0.0, 1.0) / TO_XYZ.sum(axis=1)
    f = np.where(xyz > 0.008856, np.cbrt(xyz), 7.787 * xyz + 16.0 / 116.0)
    return np.array([116.0 * f[1] - 16.0, 500.0 * (f[0] - f[1]), 200.0 * (f[1] - f[2])])


def test_lab_is_that_of_known_colours():
    """White, black, and sRGB red, L* a* b* = 53.24, 80.09, 67.20; red and a green that protanopes confuse."""
    assert np.allclose(lab("#ffffff"), [100.0, 0.0, 0.0], atol=0.02) and np.allclose(lab("#000000"), 0.0, atol=0.02)
    assert np.allclose(lab("#ff0000"), [53.24, 80.09, 67.20], atol=0.02)
    apart = [np.linalg.norm(np.subtract(*(lab(colour, eye) for colour in ("#a05000", "#5a6a00"))))
             for eye in ("all cones", "deuteranopia")]  # fmt: skip
    assert apart[0] > 2.0 * apart[1]


@pytest.mark.parametrize("eye", EYES)
@pytest.mark.parametrize("colours", [palette.COLOURS, sweep_panels.CURVES], ids=["COLOURS", "CURVES"])
def test_colours_can_be_told_apart(colours, eye):
    """A difference of 2.3 is just noticeable side by side; 20 is seen at once between thin lines."""
    for one, other in itertools.combinations(colours, 2):
        assert np.linalg.norm(lab(one, eye) - lab(other, eye)) > 20.0, (one, other)


@pytest.mark.parametrize("colours", [palette.COLOURS, sweep_panels.CURVES], ids=["COLOURS", "CURVES"])
def test_colours_survive_grey(colours):
    """Their lightness differs, and all are darker than white paper by a contrast of 2 or more."""
    lightness = sorted(lab(colour)[0] for colour in colours)
    assert np.diff(lightness).min() > 7.0 and lightness[-1] < 76.0


def test_words_on_colours_have_contrast():
    """WCAG: 3 for large words; L* of both gives their luminance."""
    for colour in (*palette.COLOURS, palette.FAINT):
        y = [((lab(one)[0] + 16.0) / 116.0) ** 3 for one in (colour, palette.text_on(colour))]
        assert (max(y) + 0.05) / (min(y) + 0.05) > 3.0, colour


def test_looks_differ_in_more_than_colour():
    looks = [palette.look(i) for i in range(len(palette.COLOURS))]
    for key in ("color", "marker", "linestyle"):
        assert len({str(look[key]) for look in looks}) == len(looks)


def cloud(n=40, d=2, count=9, rate=0.0):
    t = np.linspace(0.0, 4.0, count)
    return t, RNG.standard_normal((n, d)) * np.exp(rate * t)[:, None, None]


def ring(n=60, d=2, count=3):
    x = RNG.standard_normal((count, n, d))
    return np.arange(float(count)), x / np.linalg.norm(x, axis=2, keepdims=True)


def tokens(t, x):
    return token_panels.of_tokens(t, x, t[-1], x[-1])


def systems(d):
    t, x = cloud(n=30, d=d)
    x = np.stack([x, 2.0 * x, 0.5 * x], axis=1)
    return system_panels.of_systems(t, x, np.full(3, 4.0), x[-1], ["completed", "blow_up", "completed"])


def law_figure(d, count):
    t = np.linspace(0.0, 1.0, 9)
    cov = np.eye(d) * np.exp(np.multiply.outer(t, np.arange(count)))[..., None, None]
    return law_panels.of_laws(t, np.zeros((9, count, d)), cov, np.ones(count), ["completed"] * count)


def test_a_caption_of_laws_speaks_of_what_is_there():
    assert "rounding" not in law_figure(2, 1).get_supxlabel() and law_figure(3, 1).get_supxlabel() == ""
    flat = law_panels.of_laws(
        np.arange(2.0), np.zeros((2, 1, 2)), np.diag([1.0, 0.0]) + np.zeros((2, 1, 2, 2)), [1], [""]
    )
    assert "zero to rounding" in flat.get_supxlabel()


def test_sentences_of_captions_begin_with_capitals():
    drawn = canvas.figure(9.0, 2.0)
    canvas.caption(drawn, "|V| = 1. no pair of 4 is above a bound. x = 1, t = 2. 3 laws.")
    assert drawn.get_supxlabel() == "|V| = 1. No pair of 4 is above a bound. x = 1, t = 2. 3 laws."


FIGURES = {
    "line": lambda: tokens(*cloud(d=1)),
    "plane": lambda: tokens(*cloud(rate=-1.0)),
    "space": lambda: tokens(*cloud(d=3, rate=-1.0)),
    "many dimensions": lambda: tokens(*cloud(d=9)),
    "circle": lambda: tokens(*ring()),
    "globe": lambda: tokens(*ring(d=3)),
    "systems on a line": lambda: systems(1),
    "systems in the plane": lambda: systems(2),
    "systems in space": lambda: systems(3),
    "series": lambda: series.figure(np.linspace(0.0, 1.0, 20), {"energy": RNG.random(20), "own": RNG.random((20, 5))}),
    "laws of the plane": lambda: law_figure(2, 4),
    "a law": lambda: law_figure(3, 1),
    "cones": lambda: covariances.cones({"a": (laws(), NAMES), "b": (laws(), NAMES)}),
    "discs": lambda: covariances.discs({"a": (laws(), NAMES), "b": (laws(), NAMES)}),
    "ranks": lambda: covariances.ranks({"a": {d: np.arange(3) for d in (2, 3, 4)}}, {2: 1, 3: 1, 4: 2}),
    "bounds": lambda: fp.studies.stability(("linear", "softmax"), 2, n=5, times=2).figure(),
    "ends": lambda: fp.studies.stationary_points(((2, 1),), draws=2, tau=100.0).figure(),
}


@pytest.mark.parametrize("name", FIGURES)
def test_figures_can_be_read(name):
    """At 800 pixels no text is below 7 points of a screen, 9.3 pixels, and each axis with numbers has a name."""
    assert_readable(FIGURES[name]())


def test_what_cannot_be_read_is_found():
    for spoil in ({"xlabel": ""}, {"title": "a"}):
        drawn = FIGURES["series"]()
        drawn.axes[-1].set(**spoil)
        drawn.axes[-1].title.set_fontsize(5)
        with pytest.raises(AssertionError):
            assert_readable(drawn)


def assert_readable(drawn):
    drawn.canvas.draw()
    words = {text.get_text(): text.get_fontsize() for text in drawn.findobj(Text) if text.get_visible()}
    pixels = {word: size / 72.0 * 800.0 / drawn.get_figwidth() for word, size in words.items() if word}
    assert min(pixels.values()) > 9.3, min(pixels.items(), key=lambda item: item[1])
    shown = [axes for axes in drawn.axes if axes.get_visible() and axes.axison]
    for letter, across in (("x", 0), ("y", 1)):  # of panels below or beside each other one has the name for all
        axis_of = {axes: getattr(axes, f"{letter}axis") for axes in shown}
        place = {axes: round(axes.get_position().p0[across], 2) for axes in shown}
        named = {place[axes] for axes in shown if axis_of[axes].get_label().get_text()}
        for axes in shown:
            assert not has_numbers(axis_of[axes]) or place[axes] in named, (letter, axes)


def has_numbers(axis):
    """Whether an axis has ticks that are numbers, not words."""
    labels = [label.get_text() for label in axis.get_ticklabels() if label.get_visible()]
    return any(re.fullmatch(r"[\d.eE+\N{MINUS SIGN}-]+|.*mathdefault.*", label) for label in labels)


@pytest.mark.parametrize("scale", ["linear", "log"])
def test_a_legend_lies_below_all_curves(scale):
    @canvas.in_style
    def draw():
        axes = canvas.figure(3.1, 4.2).subplots()
        axes.set_yscale(scale)
        for rate in (0.0, 1.0, 2.0, 3.0):
            axes.plot([0.0, 0.5, 1.0], np.exp(rate * np.array([0.0, 0.5, 1.0])), label=f"rate {rate}")
        convergence._legend(axes)
        axes.figure.canvas.draw()
        return axes

    axes = draw()
    top = axes.get_legend().get_window_extent().y1
    assert min(axes.transData.transform(line.get_xydata())[:, 1].min() for line in axes.lines) > top


@pytest.mark.parametrize("name", ["plane", "series", "a law"])
def test_settings_of_the_user_change_nothing(name, tmp_path):
    made = []
    for settings in ({}, {"font.size": 30, "lines.linewidth": 9, "axes.grid": True, "font.family": "serif"}):
        RNG.bit_generator.state = np.random.default_rng(1).bit_generator.state
        with mpl.rc_context(settings):
            canvas.save(FIGURES[name](), tmp_path / "a.png")
        made.append((tmp_path / "a.png").read_bytes())
    assert made[0] == made[1]


def limits_of(drawn):
    return [(*axes.get_xlim(), *axes.get_ylim()) for axes in drawn.axes]


def test_panels_have_one_frame():
    """A contraction is seen as one, and small clouds are drawn again in insets."""
    few, many = tokens(*cloud(rate=-0.1)), tokens(*cloud(rate=-1.0))
    for drawn in (few, many):
        assert len(set(limits_of(drawn))) == 1
    insets = [axes.child_axes for axes in many.axes]
    # e^-4 in five equal steps: below an eighth of the frame, which the first cloud fills, from the fourth panel on.
    assert [len(found) for found in insets] == [0, 0, 0, 1, 1, 1] and not any(axes.child_axes for axes in few.axes)
    assert "insets" in many.get_supxlabel() and "insets" not in few.get_supxlabel()
    last = insets[-1][0]
    assert f"width {np.ptp(last.get_xlim()):.2g}" in [last.get_title(side) for side in ("left", "right")]


def test_systems_have_one_frame():
    assert len(set(limits_of(systems(2)))) == 1


def test_the_circle_is_drawn():
    drawn = tokens(*ring())
    assert all(len(axes.patches) == 1 for axes in drawn.axes) and set(limits_of(drawn)) == {(-1.2, 1.2, -1.2, 1.2)}
    assert not any(axes.patches for axes in tokens(*cloud()).axes)


def test_the_far_side_of_a_globe_is_faint():
    drawn = tokens(*ring(d=3, count=1))
    points = drawn.axes[0].collections[-1]
    assert set(np.round(points.get_facecolor()[:, 3], 2).tolist()) == {0.85, 0.21}


def test_masses_are_areas():
    """Three clusters of 60, 30 and 10 tokens are three discs, with areas in these proportions."""
    centres = np.array([[0.0, 1.0], [1.0, 0.0], [-1.0, 0.0]])
    points = np.repeat(centres, [60, 30, 10], axis=0) + 1e-5 * RNG.standard_normal((100, 2))
    found = masses.discs(points, np.tile(to_rgba("red"), (100, 1)), 2.3)
    order = np.argsort(-found.areas)
    assert found.several.all() and np.allclose(found.places[order], centres, atol=1e-4)
    assert np.allclose(found.areas[order] / found.areas.sum(), [0.6, 0.3, 0.1])
    drawn = tokens(np.arange(2.0), np.stack([points, points]))
    assert "areas by their number" in drawn.get_supxlabel()


def test_weights_are_areas():
    """Of tokens apart, and of discs of several: 2 and 1 tokens of weights 1/4, 1/4 and 1/2 in one place each."""
    points, weights = RNG.standard_normal((40, 2)), RNG.uniform(0.5, 2.0, 40)
    weights /= weights.sum()
    found = masses.discs(points, np.tile(to_rgba("red"), (40, 1)), 8.0, weights)
    assert np.allclose(found.areas / found.areas.sum(), weights) and not found.several.any()
    pair = np.array([[0.0, 0.0], [0.0, 1e-6], [1.0, 0.0]])
    found = masses.discs(pair, np.tile(to_rgba("red"), (3, 1)), 2.0, np.array([0.3, 0.2, 0.5]))
    assert found.several.tolist() == [False, True] and found.areas[1] == 0.5 * masses.WHOLE
    head, asked = fp.Softmax(*[np.eye(2)] * 3), {"method": "euler", "step": 0.1}
    both = np.stack([points] * 2), np.stack([weights, np.full(40, 1 / 40)])
    for x, own in ((points, weights), both):  # one system, and the first of two
        drawn = fp.solve(head, x, (0.0, 0.1), weights=own, **asked).plot()
        areas = drawn.axes[0].collections[-1].get_sizes()
        assert np.allclose(areas / areas.sum(), weights) and "areas: weights of tokens" in drawn.get_supxlabel()


def test_weights_on_a_line_are_widths():
    """Of paths of one system, and of several areas again."""
    x, weights = np.linspace(-1.0, 1.0, 9)[:, None], np.arange(1.0, 10.0) / 45.0
    head = fp.Softmax(*[np.eye(1)] * 3)
    drawn = fp.solve(head, x, (0.0, 0.1), weights=weights).plot()
    widths = np.array([line.get_linewidth() for line in drawn.axes[0].lines])
    assert np.allclose(widths / widths.sum(), weights) and "width: weight" in drawn.axes[0].get_title()
    sol = fp.solve(head, np.stack([x, x]), (0.0, 0.1), weights=weights)
    areas = sol.plot().axes[0].collections[-1].get_sizes()
    assert np.allclose(areas / areas.sum(), weights) and np.array_equal(sol.weights, [weights] * 2)


def test_a_disc_hides_no_cloud():
    """60 tokens within a point's width are one disc; groups in the middle of a cloud are none."""
    colours = np.tile(to_rgba("red"), (400, 1))
    for n, size, discs in ((60, 0.03, 1), (60, 0.12, 0), (400, 0.3, 0)):
        points = RNG.standard_normal((n, 2))
        found = masses.discs(size * points / np.ptp(points, axis=0).max(), colours[:n], 1.0)
        assert found.several.sum() == discs and len(found.places) == (n if discs == 0 else 1)


@pytest.mark.parametrize("n", [1, 2, 50, 4000])
def test_a_cloud_is_made_of_points(n):
    """Tokens of a dense cloud may lie within a pixel of each other and are drawn one by one, in equal size."""
    points = RNG.standard_normal((n, 2))
    found = masses.discs(points, np.tile(to_rgba("red"), (n, 1)), 8.0)
    assert len(found.places) == n and np.ptp(found.areas) == 0.0 and not found.several.any()


def test_times_in_equal_ratios_have_a_logarithmic_axis():
    for t, want in (
        (np.linspace(0.0, 1.0, 20), "linear"),
        (np.geomspace(1e-3, 1.0, 20), "log"),
        (np.append(0.0, np.geomspace(1e-3, 1.0, 20)), "symlog"),
        (-np.geomspace(1e-3, 1.0, 20), "linear"),
        (np.array([0.0, 1.0]), "linear"),
    ):
        axes = canvas.figure(4.0, 3.0).subplots()
        scales.times(axes, t)
        assert axes.get_xscale() == want and axes.get_xlabel() == "t"


def test_frames_are_chosen_where_tokens_move():
    even = [0, 20, 40, 60, 80, 100]
    t = np.linspace(0.0, 1.0, 101)
    for rate, want in ((0.0, even), (1.0, even), (-50.0, [0, 1, 3, 10, 32, 100])):
        x = np.array([[1.0, 2.0], [3.0, -1.0]]) * np.exp(rate * t)[:, None, None]
        assert token_panels.chosen(101, lambda some, x=x: x[some]).tolist() == want
    assert token_panels.chosen(3, None).tolist() == [0, 1, 2]


def test_views_of_spheres_are_about_their_centre():
    x = ring(n=50, d=6, count=1)[1][0]
    seen = view.of(x, sphere=True)
    assert not seen.centre.any() and np.linalg.norm(seen(x), axis=1).max() <= 1.0 and view.on_sphere(x)
    assert not view.on_sphere(1.001 * x) and not view.on_sphere(x[:1])
