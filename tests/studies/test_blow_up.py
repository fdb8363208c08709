"""Existence times of truncated laws: exponents, bounds, exact linear times, and what a study must be able to say."""

from __future__ import annotations

import numpy as np
import pytest
from scipy.integrate import quad, solve_ivp

import fastpde as fp
from fastpde.studies.blow_up import BlowUp, truncated
from fastpde.studies.edge_flow import followed

LINE = ((0.5,), (1.0,), (1.5,), (-1.0,))


@pytest.fixture(scope="module")
def found():
    return fp.studies.blow_up(LINE, ("exponential",), radii=(6.0, 8.0, 10.0, 12.0), times=(0.05, 0.5))


@pytest.fixture(scope="module")
def mixed():
    return fp.studies.blow_up(((1.0,), (-1.0,)), ("linear", "sigmoid"), radii=(2.0, 4.0, 8.0), times=(0.5, 1.0))


@pytest.fixture(scope="module")
def plane():
    return fp.studies.blow_up(
        ((1.0, -1.0),), ("exponential", "linear"), plane_radii=(2.0, 3.0), turns=(0.0,), times=(1.0,)
    )


def test_exponents_are_those_of_theory(found):
    for a in (0.5, 1.0, 1.5):
        fitted, expected = found.exponent(a)
        assert fitted == pytest.approx(expected, rel=0.1), a
    assert np.isnan(found.exponent(-1.0)[0]) and (found["error"] < 1e-5).all()


def test_times_are_between_their_bounds(found):
    grows = found["lambda_1"] > 0.0
    assert np.isfinite(found["frozen"][grows]).all() and np.isnan(found["frozen"][~grows]).all()
    assert (found["at_least"] < found["t_star"]).all() and not found.outside.any()
    assert (found["t_star"][grows] < found["frozen"][grows]).all() and (found["t_star"] < found["tails"])[grows].all()
    assert "all bounds hold" in found.summary()
    columns = {name: values.copy() for name, values in found.columns.items()}
    columns["t_star"][0] *= 100.0
    other = BlowUp(found.parameters, columns)
    assert other.outside.sum() == 1 and "1 of 16 times are outside" in other.summary()


def test_the_bound_by_the_first_field_is_its_integral(found):
    """int_R^inf dx / Gamma_0, Gamma_0(x) = int y sinh(a x y) dmu, by adaptive quadrature twice."""
    a, R = 0.5, 6.0
    density = lambda y: np.exp(-0.5 * y * y)  # noqa: E731
    mass = 2.0 * quad(density, 0.0, R, epsabs=0.0, epsrel=1e-13)[0]

    def field(x):
        return 2.0 / mass * quad(lambda y: y * np.sinh(a * x * y) * density(y), 0.0, R, epsabs=0.0, epsrel=1e-12)[0]

    want = quad(lambda x: 1.0 / field(x), R, R + 40.0, epsabs=0.0, epsrel=1e-10)[0]
    own = found.rows("exponential", (a,)) & (found["radius"] == R)
    assert found["frozen"][own] == pytest.approx(want, rel=1e-7)


def test_attracted_laws_come_down_from_infinity(found):
    """Theory 13.5: a = v = 1, edges at t = 0.05 and 0.5 as another program found them."""
    own = found.rows("exponential", (-1.0,))
    assert found["edge_0"][own] == pytest.approx(2.160758, abs=1e-6)
    assert found["edge_1"][own] == pytest.approx(1.361947, abs=1e-6)
    assert found.settled < 1e-7 and np.isinf(found["t_star"][own]).all()


def test_the_clock_changes_nothing():
    """The same nodes and edge by an integration in t, of formulas written out."""
    law, a = truncated(1, 2.0), 0.7
    nodes, w = law.nodes(24)
    y = nodes[:, 0]

    def slope(_, x):
        return np.exp(a * np.multiply.outer(x, x[:-1])) @ (w * x[:-1])

    run = solve_ivp(slope, (0.0, 0.2), np.append(y, 2.0), method="DOP853", rtol=1e-12, atol=1e-12)
    flow = followed(fp.Exponential([[a]], [[1.0]], [[1.0]]), nodes, w, np.array([[2.0]]), (0.1, 0.2))
    assert not flow.blows_up and flow.edges[1, 0, 0] == pytest.approx(run.y[-1, -1], rel=1e-8)


def test_linear_attention_is_exact_and_sigmoid_global(mixed):
    linear = mixed.rows("linear", (1.0,))
    np.testing.assert_allclose(mixed["t_star"][linear], mixed["exact"][linear], rtol=1e-8)
    assert mixed["exact"][linear] == pytest.approx([0.6462, 0.5005, 0.5], abs=5e-5)
    assert np.isinf(mixed["t_star"][~linear]).all()
    # |x'| <= E|y|, E|y|' <= E|y|: the edge is within R + m (e^t - 1), m = E|y| <= sqrt(2 / pi).
    own = mixed.rows("sigmoid", (1.0,))
    most = mixed["radius"][own] + np.sqrt(2.0 / np.pi) * (np.exp(1.0) - 1.0)
    assert (mixed["edge_1"][own] <= most).all() and (mixed["edge_1"][own] > mixed["radius"][own]).all()


def test_mixed_signs_in_the_plane(plane):
    """One positive eigenvalue is enough: the token on its axis escapes, before the bound of the line."""
    own = plane.rows("exponential", (1.0, -1.0))
    assert np.isfinite(plane["t_star"][own]).all() and (plane["angle"][own] < 1.0).all()
    assert (plane["t_star"] <= plane["frozen"] * (1.0 + 1e-6))[own].all() and not plane.outside.any()
    assert np.diff(plane["t_star"][own])[0] < 0.0
    linear = (plane["variant"] == "linear") & np.isfinite(plane["t_star"])
    assert linear.any()
    np.testing.assert_allclose(plane["t_star"][linear], plane["exact"][linear], rtol=1e-6)


def test_it_is_saved_read_and_goes_on(mixed, plane, tmp_path):
    assert plane.save(tmp_path / "a").read_bytes()[:4] == b"\x89PNG"
    assert fp.studies.load(tmp_path / "a").summary() == plane.summary()
    kept, arguments = tmp_path / "kept", {"radii": (2.0, 4.0, 8.0), "times": (0.5, 1.0)}
    first = fp.studies.blow_up(((1.0,),), ("linear",), cells=kept, **arguments)
    kept.write_text("".join(kept.read_text().splitlines(keepends=True)[:2]))
    again = fp.studies.blow_up(((1.0,),), ("linear",), cells=kept, **arguments)
    np.testing.assert_array_equal(first["t_star"], again["t_star"])
    np.testing.assert_array_equal(first["t_star"], mixed["t_star"][mixed.rows("linear", (1.0,))])


@pytest.mark.parametrize(
    ("name", "arguments"),
    [
        ("spectra", {"spectra": ((1.0, 2.0, 3.0),)}),
        ("spectra", {"spectra": ((0.0, 0.0),)}),
        ("spectra", {"spectra": (1.0,)}),
        ("variants", {"variants": ("softmax",)}),
        ("radii", {"radii": (4.0, 2.0)}),
        ("radii", {"radii": ()}),
        ("plane_radii", {"plane_radii": (-1.0,)}),
        ("turns", {"turns": ("90",)}),
        ("times", {"times": (1.0, 0.5)}),
    ],
)
def test_wrong_arguments_are_named(name, arguments):
    with pytest.raises((fp.InputError, fp.InputTypeError)) as caught:
        fp.studies.blow_up(**arguments)
    assert caught.value.name == name
