"""The tableaux check themselves; here the check is checked, and the orders are measured."""

from dataclasses import replace

import numpy as np
import pytest

from fastpde.integrate.methods import METHODS, TABLEAUX
from fastpde.integrate.tableau import Tableau, density, elementary_weights, trees
from tests.problems_ode import Twist, fitted_slope

# Relative size of the mutations: far above the self-check's 1e-13 times the sum of the terms (at most 1e2),
# far below any typo.
NUDGE = 1e-8


def nudged(rows, index):
    """Return `rows` (a tuple or a tuple of tuples) with the entry at `index` made larger by NUDGE."""
    array = np.array(rows, dtype=float)
    array[index] *= 1.0 + NUDGE
    return array.tolist()


def mutations():
    """Yield (method, key, index) for every nonzero coefficient of every method."""
    for name, tableau in TABLEAUX.items():
        for key in ("a", "b", "c", "dense", "b_error"):
            if getattr(tableau, key) is not None:
                for index in zip(*np.nonzero(np.array(getattr(tableau, key))), strict=True):
                    yield name, key, tuple(map(int, index))


@pytest.mark.parametrize(("name", "key", "index"), list(mutations()))
def test_every_wrong_coefficient_is_caught(name, key, index):
    tableau = TABLEAUX[name]
    with pytest.raises(ValueError, match=rf"{name}.*condition"):
        replace(tableau, **{key: nudged(getattr(tableau, key), index)})


def test_mutations_cover_all_methods():
    # A generator that yields nothing would make the test above pass; dopri5 alone has more than 50
    # coefficients.
    assert {name for name, _, _ in mutations()} == set(METHODS)
    assert len(list(mutations())) > 150


@pytest.mark.parametrize("name", ["rk4", "dopri5", "tsit5"])
def test_order_conditions_catch_what_row_sums_cannot(name):
    # Moving weight within a row keeps the row sum, so only the conditions of order >= 3 can see it. 1e-6 as
    # above.
    tableau = TABLEAUX[name]
    a = np.array(tableau.a)
    a[2, 0] += 1e-6
    a[2, 1] -= 1e-6
    with pytest.raises(ValueError, match=r"order [3-5] condition of tree \["):
        replace(tableau, a=a.tolist())


@pytest.mark.parametrize("name", ["bosh3", "dopri5", "tsit5"])
def test_order_conditions_of_the_embedded_method(name):
    # The sum of b_error stays zero: only a condition of order >= 2 for b_hat can see it.
    tableau = TABLEAUX[name]
    b_error = np.array(tableau.b_error)
    b_error[[0, -1]] += 1e-6, -1e-6
    with pytest.raises(ValueError, match=r"order 2 condition of tree .* for b - b_error"):
        replace(tableau, b_error=b_error.tolist())


@pytest.mark.parametrize("name", ["dopri5", "tsit5"])
def test_order_conditions_of_the_dense_output(name):
    # The sum over the powers stays, so theta = 1 is right and only interior points can see it.
    tableau = TABLEAUX[name]
    dense = np.array(tableau.dense)
    dense[3, 1:3] += 1e-6, -1e-6
    with pytest.raises(ValueError, match="for dense at theta = 0"):
        replace(tableau, dense=dense.tolist())


@pytest.mark.parametrize(
    ("change", "condition"),
    [
        ({"b": (1.0,)}, "agree in the number of stages"),
        ({"b_error": (1.0, -1.0)}, "comes with an embedded order"),
        ({"a": ((0.0, 1.0), (1.0, 0.0))}, "strictly lower triangular"),
        ({"a": ((0.0, 0.0), (np.nan, 0.0))}, "finite"),
        ({"b": (0.5, 0.5)}, "the last row of a is b"),
        ({"dense": ((0.5,), (0.0,))}, "the dense output ends in b"),
        ({"order": 2}, "order 2 condition of tree"),
    ],
)
def test_the_condition_is_named(change, condition):
    with pytest.raises(ValueError, match=condition):
        replace(TABLEAUX["euler"], **change)


def test_rooted_trees():
    # Counts: Hairer, Norsett, Wanner (1993) II.2, table 2.1. Densities of the order-4 trees: 24, 12, 8, 4.
    assert [len(list(trees(order))) for order in range(1, 7)] == [1, 1, 2, 4, 9, 20]
    assert sorted(map(density, trees(4))) == [4, 8, 12, 24]
    # For exact integration (a_ij = 1 / 2 as the midpoint) phi of the tall tree of order 3 is a a 1 = 1 / 4;
    # exact in binary.
    assert elementary_weights(np.array([[0.5]]), (((),),))[0] == 0.25


def one_run(tableau: Tableau, steps: int) -> tuple[float, float]:
    """Return the root mean square error at the ends of steps over [0, 3] and the largest one inside the
    steps.

    A loop of its own, straight from the formulas: it shares nothing with the stepper.
    """
    problem = Twist()
    h, y, errors, inside = 3.0 / steps, problem.y0, [], []
    for i in range(steps):
        k = np.zeros((tableau.stages, *y.shape))
        for s in range(tableau.stages):
            problem.field((i + tableau.c[s]) * h, y + h * np.tensordot(tableau.a[s], k, 1), k[s])
        for theta in (0.3, 0.5, 0.8):
            middle = y + h * np.tensordot(tableau.weights_at(theta), k, 1)
            inside.append(np.abs(middle - problem.exact((i + theta) * h)).max())
        y = y + h * np.tensordot(tableau.b, k, 1)
        errors.append(y - problem.exact((i + 1) * h))
    return float(np.sqrt(np.mean(np.square(errors)))), max(inside)


@pytest.mark.parametrize("name", METHODS)
def test_fitted_orders(name):
    # 0.15 is the project's rule for fitted orders. The steps are small enough for the asymptotic regime (the
    # pairs of order five reach it late) and the errors, 1e-3 to 1e-11, well above rounding.
    tableau = TABLEAUX[name]
    counts = (1000, 2000, 4000) if name == "euler" else (80, 160, 320)
    errors, dense_errors = zip(*(one_run(tableau, count) for count in counts), strict=True)
    steps = [3.0 / count for count in counts]
    assert abs(fitted_slope(steps, errors) - tableau.order) < 0.15
    # A local error of h^(q + 1) inside one step: an extension of order q shows q + 1 unless the steps' own
    # order is lower.
    need = min(tableau.order, tableau.dense_order + 1)
    assert need >= {"euler": 1, "heun": 2, "rk4": 4, "bosh3": 3, "dopri5": 5, "tsit5": 5}[name]
    assert fitted_slope(steps, dense_errors) > need - 0.15


def test_the_fit_can_fail():
    assert fitted_slope([0.1, 0.2], [0.01, 0.04]) == pytest.approx(
        2.0, abs=1e-12
    )  # exact up to rounding of two logarithms
    with pytest.raises(ValueError, match="no slope"):
        fitted_slope([0.1, 0.2], [0.0, 0.1])


def test_fsal_form_and_names():
    assert METHODS == ("euler", "heun", "rk4", "bosh3", "dopri5", "tsit5")
    for tableau in TABLEAUX.values():
        assert tableau.a[-1] == tableau.b
        assert tableau.c[-1] == 1.0
        assert tableau.b[-1] == 0.0
    assert {name: t.dense_order for name, t in TABLEAUX.items() if t.adaptive} == {
        "bosh3": 3,
        "dopri5": 4,
        "tsit5": 4,
    }
