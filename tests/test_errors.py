"""Errors come back whole from pickle and deepcopy, as process pools need it."""

from __future__ import annotations

import ast
import copy
import inspect
import pickle
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

import fastpde
import fastpde as fp
from fastpde.config.sweep_plan import CellError
from fastpde.errors import ConvergenceError, FieldError, InputError, InputTypeError, explained
from fastpde.run.ranks import Refused
from fastpde.run.signals import Stopped
from fastpde.run.trajectory_file import Altered

_INPUT = InputError("x", "shape (3,)", "shape (n, d)", "Give x[None].")
ERRORS = [
    _INPUT,
    InputTypeError("x", "str", "an array"),
    FieldError("no velocity"),
    ConvergenceError(0.1, 1e-9, 7, 0.5, (1, 0)),
    CellError("cell 3", _INPUT),
    Refused("x: got nothing"),
    Altered(Path("a.run") / "trajectory.h5", "the tokens are others"),
    Stopped(15, at_once=True),
]


@pytest.mark.parametrize("error", ERRORS, ids=lambda e: type(e).__name__)
@pytest.mark.parametrize("way", [copy.copy, copy.deepcopy, lambda e: pickle.loads(pickle.dumps(e))])
def test_errors_come_back_whole(error, way):
    error.add_note("a note")
    back = way(error)
    assert type(back) is type(error) and back is not error
    assert (str(back), back.args, vars(back)) == (str(error), error.args, vars(error))


X = np.eye(3)
SOFTMAX = fp.Softmax(X, X, X)


@pytest.mark.parametrize(
    ("call", "text"),
    [
        (lambda: fp.solve(SOFTMAX, X, (0.0, 1.0), tol=1e-3), 'solve: got .* \'tol\'; .*Did you mean "rtol"'),
        (lambda: fp.solve(SOFTMAX, X), "solve: got missing a required argument: 't_span'; need .* attention, x0"),
        (lambda: fp.Softmax(X, X, X, weigth=1), 'Softmax: got .*\'weigth\'; need its arguments Q, K, .*mean "weight"'),
        (lambda: fp.Sinkhorn(X, X, X, maxiter=9), 'Sinkhorn: got .*Did you mean "max_iter"'),
        (lambda: fp.MultiHead([SOFTMAX], X, X), "MultiHead: got too many positional arguments; need .* heads, W=None"),
        (lambda: fp.laws.Ball(2, raduis=0.5), 'Ball: got .*Did you mean "radius"'),
        (lambda: fp.Collapsed(1e-3, terminl=False), 'Collapsed: got .*Did you mean "terminal"'),
        (lambda: SOFTMAX.velocity(X, weigths=None), 'Softmax.velocity: got .* need .* x, at=None, .*mean "weights"'),
        (lambda: SOFTMAX.jvp(X), "Softmax.jvp: got missing a required argument: 'dx'"),
        (lambda: fp.laws.Ball(2).sample(3, sead=0), 'Ball.sample: got .*Did you mean "seed"'),
        (lambda: fp.solve(SOFTMAX, X, (0.0, 0.0)).plot(pth="a.png"), 'Solution.plot: got .*Did you mean "path"'),
        (lambda: fp.studies.stability(drws=3), 'stability: got .*Did you mean "draws"'),
        (lambda: fp.gradient(lambda y: (0.0, y), SOFTMAX, X, (0, 1), stp=1.0), 'stp: got .*Did you mean "step"'),
        (lambda: fp.wasserstein(X, X, "exact", metod=2), 'wasserstein: .*Did you mean "method"'),
        (lambda: fp.wasserstein(X, SOFTMAX), "y: got dtype object; need float64"),
        (lambda: fp.wasserstein(X, X, method="slicd"), 'method: .*Did you mean "sliced"'),
        (lambda: fp.solve(SOFTMAX, X, (0.0, 1.0), method="dorpi5"), 'method: .*Did you mean "dopri5"'),
        (lambda: fp.laws.Ball(-1), "dimension: got -1; need a whole number of at least 1"),
        (lambda: fp.laws.Ball(0.5), r"dimension: got 0.5 \(float\); need a whole number of at least 1"),
        (lambda: fp.studies.mean_field(("softmx",)), "variants: .*'multihead' or 'masked', .*Did you mean \"softmax\""),
        (lambda: fp.studies.stability(("maskd",)), 'variants: .*Did you mean "masked"'),
        (lambda: fp.studies.mean_field(laws=("bal",)), 'laws: .*Did you mean "ball"'),
    ],
)  # fmt: skip
def test_what_is_misspelt_is_named(call, text):
    with pytest.raises((InputError, InputTypeError), match=text):
        call()


def test_errors_within_a_call_are_left_as_they_are():
    @explained
    def fails(x, *, length=1.0):
        return x + None

    with pytest.raises(TypeError, match="unsupported operand") as told:
        fails(1.0)
    assert not isinstance(told.value, InputTypeError) and str(inspect.signature(fails)) == "(x, *, length=1.0)"


def test_what_has_tokens_says_how_to_take_them():
    limit = fp.MeanField(fp.Linear(X, X, -X), fp.laws.Gaussian(0.0, X), (0.0, 0.1))
    sol = SimpleNamespace(x_final=X)  # as runs have it
    for value, remedy in (
        (limit, r"x, weights = limit.points\(t\)"),
        (sol, "sol.x_final"),
        (fp.laws.Ball(3), "law.sample"),
    ):
        with pytest.raises(InputTypeError, match=rf"y: got .*; need tokens. .*{remedy}"):
            fp.wasserstein(X, value)


def test_every_error_with_a_constructor_of_its_own_is_among_them():
    names = set()
    for path in Path(fastpde.__file__).parent.rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.ClassDef) and any(
                isinstance(part, ast.FunctionDef) and part.name == "__init__" for part in node.body
            ):
                bases = {ast.unparse(base) for base in node.bases}
                if any(base.endswith(("Error", "Exception", "Whole")) for base in bases):
                    names.add(node.name)
    assert names <= {type(error).__name__ for error in ERRORS} and len(names) >= 5
