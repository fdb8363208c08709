"""Types: a strict program of a user's is accepted, main results are not Any, and mistakes are found."""

from __future__ import annotations

import inspect
import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

import fastpde as fp

from .outside import typed
from .problems import ROOT

USER = ROOT / "tests" / "outside" / "typed.py"
# What a type checker says of expressions, and of two mistakes; `x` is an array and `a` an attention.
REVEALED = {
    "a.velocity(x)": "ndarray",
    "a.jvp(x, x)": "tuple[.*ndarray.*ndarray.*]",
    "a.vjp(x, x)": "Pullback",
    "a.affine(x[0], x)": "tuple[.*ndarray.*ndarray.*]",
    "fp.solve(a, x, (0.0, 1.0))": r"Solution \| .*EnsembleSolution",
    "fp.solve(a, x, (0.0, 1.0)).x": "ndarray",
    "fp.solve(a, fp.Gaussian(x[0], x), (0.0, 1.0))": "GaussianSolution",
    "fp.wasserstein(x, x)": "float",
    "fp.wasserstein(x, x, return_error=True)": "tuple[.*float.*float.*]",
    "fp.stability_bound(a, 1.0, 2.0)": "float",
    "fp.stability_bound(a, np.ones(2), 2.0)": "ndarray",
    "fp.interaction_energy(a, x)": r"float \| .*ndarray",
    "fp.gradient(lambda y: (0.0, y), a, x, (0.0, 1.0))": r"Gradient \| .*GaussianGradient",
    "fp.lyapunov(a, x, (0.0, 1.0)).exponents": "ndarray",
    "fp.stationary(a, x)": "Stationary",
    "fp.limit(a, fp.Gaussian(x[0], x))": "GaussianLimit",
    "fp.clusters(x, 0.1)": "Clusters",
    "fp.laws.Ball(2).sample(3, 0)": "ndarray",
    "fp.MeanField(a, fp.laws.Ball(2), (0.0, 1.0)).velocity(0.0, x)": "ndarray",
    'fp.open_run("a.run").t': "ndarray",
    "fp.studies.phase_diagram(dimension=2)": "PhaseDiagram",
    'fp.studies.phase_diagram(dimension=2)["draw"]': "ndarray",
    "fp.cite(a)": "str",
}
MISTAKES = {
    "fp.solve(a, x, (0.0, 1.0), rtl=1e-3)": "rtl",
    "fp.Softmax(x, x)": "V",
    "fp.Sinkhorn(x, x, x, epsilon=1.0)": "epsilon",
    "fp.MultiHead([a], w=x)": "w",
    "fp.Masked(a, x)": "Masked",
    "fp.clusters(x, lenght=1.0)": "lenght",
}
_START = "import numpy as np\nimport fastpde as fp\nx = np.eye(2)\na: fp.Attention = fp.Softmax(x, x, x)\n"


@pytest.fixture(scope="module")
def said(tmp_path_factory) -> dict[str, str]:
    """What mypy says: by an expression, and under "" of the user's program; one run for all."""
    folder = tmp_path_factory.mktemp("typing")
    asked = [*(f"reveal_type({code})" for code in REVEALED), *MISTAKES]
    (folder / "asked.py").write_text(_START + "".join(f"{line}\n" for line in asked))
    (folder / "program.py").write_text(USER.read_text(encoding="utf-8"))
    command = [
        sys.executable,
        "-m",
        "mypy",
        "--strict",
        "--follow-imports=silent",
        "--config-file=",
        "--cache-dir=kept",
    ]
    done = subprocess.run(
        [*command, "program.py", "asked.py"], cwd=folder, env=os.environ | {"MYPYPATH": str(ROOT)},
        capture_output=True, text=True,
    )  # fmt: skip
    assert done.stderr == ""
    first, lines = 1 + _START.count("\n"), done.stdout.splitlines()
    found = {"": "\n".join(line for line in lines if Path(line.split(":")[0]).name == "program.py")}
    for i, code in enumerate([*REVEALED, *MISTAKES]):
        found[code] = "\n".join(line for line in lines if line.startswith(f"asked.py:{first + i}:"))
    return found


def test_a_strict_program_is_accepted(said):
    assert said[""] == ""


@pytest.mark.parametrize("code", REVEALED)
def test_results_have_types(said, code):
    (found,) = re.findall(r'Revealed type is "(.*)"', said[code])
    assert re.search(REVEALED[code].replace("[", r"\["), found), found
    assert found != "Any" and "error" not in said[code]


@pytest.mark.parametrize("code", MISTAKES)
def test_mistakes_are_found(said, code):
    assert re.search(rf'error: .*"{MISTAKES[code]}"', said[code]), said[code]


@pytest.mark.parametrize(
    ("call", "names"),
    [
        (fp.SingleHead, "Q K V scale weight"), (fp.Softmax, "Q K V scale weight"), (fp.L2, "Q K V scale weight"),
        (fp.Linear, "Q K V scale weight"), (fp.Exponential, "Q K V scale weight"),
        (fp.Sigmoid, "Q K V scale bias weight"), (fp.Sinkhorn, "Q K V eps scale tol max_iter n_half"),
        (fp.MultiHead, "heads W"), (fp.Masked, "attention"), (typed.Falling, "Q K V scale weight"),
        (fp.wasserstein, "x y p x_weights y_weights method projections seed eps backend return_error"),
    ],
)  # fmt: skip
def test_signatures_are_those_of_calls(call, names):
    assert " ".join(inspect.signature(call).parameters) == names


def test_the_program_runs(tmp_path):
    found = typed.main(tmp_path)
    assert all(np.isfinite(v).all() for v in found["velocities"]) and len(found["velocities"]) == 10
    assert found["numbers"]["W2"] > 0.0
    assert (tmp_path / "sol.png").exists() and "completed" in found["text"]


def test_the_package_says_that_it_is_typed():
    assert (ROOT / "fastpde" / "py.typed").exists()
