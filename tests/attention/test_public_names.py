"""What `help` shows of an attention: what a user calls or overrides, and nothing that only the package needs."""

from __future__ import annotations

import pydoc

import numpy as np
import pytest

import fastpde as fp

CALLED = {
    "affine", "divergence", "gaussian_jvp", "gaussian_velocity", "gaussian_vjp", "jacobian", "jvp", "parameters",
    "stability_rate", "system", "velocity", "vjp",
}  # fmt: skip
TOLD = {"averages", "breaks", "masked", "mean_free", "never_blows_up", "positional", "unmaskable"}
OF_ONE_SCORE = {"constant", "normalised", "pull_score", "score", "weight"}  # of a user's own variant
HEAD = CALLED | TOLD | OF_ONE_SCORE
I2 = np.eye(2)


@pytest.mark.parametrize(
    ("attention", "names"),
    [
        (fp.Softmax(I2, I2, I2), HEAD | {"Q", "K", "V", "scale"}),
        (fp.L2(I2, I2, I2), HEAD | {"Q", "K", "V", "scale"}),
        (fp.Sigmoid(I2, I2, I2), HEAD | {"Q", "K", "V", "scale", "bias"}),
        (fp.Exponential(I2, I2, I2), HEAD | {"Q", "K", "V", "scale"}),
        (fp.Linear(I2, I2, I2), HEAD | {"Q", "K", "V", "scale"}),
        (fp.Sinkhorn(I2, I2, I2), HEAD | {"Q", "K", "V", "scale", "eps", "tol", "max_iter", "n_half"}),
        (fp.MultiHead([fp.L2(I2, I2, I2)]), CALLED | TOLD | {"heads"}),
        (fp.Masked(fp.L2(I2, I2, I2)), CALLED | TOLD | {"attention"}),
    ],
    ids=lambda value: type(value).__name__ if isinstance(value, fp.Attention) else "",
)
def test_public_names(attention, names):
    assert {name for name in dir(attention) if not name.startswith("_")} == names


def test_help_names_each_method_and_no_other():
    shown = pydoc.render_doc(fp.Softmax, renderer=pydoc.plaintext)
    assert all(f" {name}(" in shown for name in CALLED | {"score"})
    assert not any(f" {name}(" in shown for name in ("closure", "evaluate", "linearised", "reduced_form", "one_call"))
