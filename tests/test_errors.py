"""Errors come back whole from pickle and deepcopy, as process pools need it."""

from __future__ import annotations

import ast
import copy
import pickle
from pathlib import Path

import pytest

import fastpde
from fastpde.config.sweep_plan import CellError
from fastpde.errors import ConvergenceError, FieldError, InputError, InputTypeError
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
