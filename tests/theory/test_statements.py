"""Statements lead to sections that exist, are shown where they hold and nowhere else, and are measured."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.config import STUDIES
from fastpde.report import theory_checks
from fastpde.theory import statements
from fastpde.theory.statements import RUNS, Setting, of_run

from ..problems import ROOT

EVERY = [*RUNS.values(), *(said for several in statements.STUDIES.values() for said in several)]
I = np.eye(2)  # noqa: E741
GAUSSIAN, BALL = fp.Gaussian([0.0, 0.0], I), fp.laws.Ball(2)
SETTINGS = {
    "softmax, V = I": (
        fp.Softmax(I, I, I), GAUSSIAN, {"support", "stability", "hull", "energy", "balance", "gaussian"},
    ),
    "softmax from a ball": (fp.Softmax(I, I, -I), BALL, {"support", "stability", "mean-field", "energy", "balance"}),
    "opposite keys": (
        fp.L2([[1.0, 0.0]], [[-1.0, 0.0]], [[2.0, 1.0], [1.0, 2.0]]),
        GAUSSIAN,
        {"support", "stability", "gaussian", "rank"},
    ),
    "sinkhorn from a file": (fp.Sinkhorn(I, I, I), None, {"support", "stability", "mean", "energy", "balance"}),
    "masked": (
        fp.Masked(fp.Softmax(I, I, 0.5 * I)), BALL, {"support", "stability-masked", "moved", "hull"},
    ),
    "exponential, Gaussian": (
        fp.Exponential(I, [[1.0, 0.0], [0.0, -1.0]], I), GAUSSIAN, {"existence-exponential", "no-limit", "balance"},
    ),
    "exponential, VA < 0": (
        fp.Exponential(I, -I, I), GAUSSIAN, {"existence-exponential", "energy", "balance"},
    ),
    "linear": (fp.Linear(I, I, I), BALL, {"existence-linear", "balance"}),
    "two heads": (
        fp.MultiHead([fp.Softmax(I, I, I), fp.Sigmoid(I, I, I)]), GAUSSIAN, {"support", "stability", "balance"},
    ),
}  # fmt: skip


@pytest.mark.parametrize("said", EVERY, ids=lambda said: said.claim[:40])
def test_every_section_exists(said):
    page, anchor = said.where.split(", ")[1].split("#")
    assert f"({anchor})=" in (ROOT / page).read_text(encoding="utf-8")
    assert said.claim and said.formula and said.source and not said.claim.endswith(".")


def test_every_study_and_every_statement_has_its_counterpart():
    assert set(statements.STUDIES) >= set(STUDIES) - {"sequence-task"}  # of which theory says nothing
    assert set(theory_checks._MEASURES) == set(RUNS)
    assert all(said.holds_for is not None for said in RUNS.values())


@pytest.mark.parametrize("name", SETTINGS)
def test_what_applies_to_a_setting(name):
    attention, law, want = SETTINGS[name]
    assert set(of_run(Setting(attention, law, 100))) == want


def test_conditions_are_sharp():
    """One change that breaks the condition of a statement removes it."""
    wide = fp.Gaussian([0.0, 0.0], np.diag([1.0, 2.0]))
    plain = fp.Exponential(I, I, I)
    assert "no-limit" in of_run(Setting(plain, GAUSSIAN, 5))
    for attention, law in (
        (plain, BALL),
        (plain, wide),
        (plain, fp.Gaussian([0.1, 0.0], I)),
        (fp.Exponential(I, [[1.0, 1.0], [0.0, 1.0]], I), GAUSSIAN),
        (fp.Exponential(I, I, np.diag([1.0, 2.0])), GAUSSIAN),
        (fp.Masked(plain), GAUSSIAN),
    ):
        assert "no-limit" not in of_run(Setting(attention, law, 5))
    assert "hull" not in of_run(Setting(fp.Softmax(I, I, np.diag([1.0, 2.0])), BALL, 5))
    assert "hull" not in of_run(Setting(fp.Softmax(I, I, lambda t: I), BALL, 5))
    assert "hull" not in of_run(Setting(fp.Sinkhorn(I, I, I), BALL, 5))
    assert "rank" not in of_run(Setting(fp.Softmax(I, -I, np.diag([1.0, -1.0])), GAUSSIAN, 5))
    assert "mean" not in of_run(Setting(fp.Sinkhorn(I, I, I, n_half=3), BALL, 5))
