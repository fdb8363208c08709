"""A trial of the gate slows down what it says: direct sums, by the share it was asked for."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np
import pytest

from fastpde.kernels import attend
from fastpde.sums.pair_sum import PairSum
from fastpde.weights import Exp

from .loading import load

trials = load("gate_trials")


@pytest.mark.parametrize("share", [0.0, 0.1])
def test_that_share_of_the_targets_is_summed_twice(share, tmp_path):
    text = (trials.slowed(tmp_path / "copy", share) / "fastpde" / "sums" / "direct.py").read_text()
    module = {"__name__": "fastpde.sums.slowed", "__package__": "fastpde.sums"}
    exec(compile(text.replace("@final\n", ""), "slowed", "exec"), module)
    counts = []

    def count(*arguments):
        counts.append(arguments[6].shape[1])
        attend.attend(*arguments)

    module["attend"] = SimpleNamespace(**{**vars(attend), "attend": count})
    x = np.random.default_rng(0).normal(size=(1, 200, 2))
    out = np.empty_like(x)
    module["Direct"]().attend(PairSum(Exp(), True, x, x), out)
    assert sum(counts) == round((1 + share) * 200)
    weights = np.exp(x[0] @ x[0].T)
    assert np.allclose(out[0], weights / weights.sum(axis=1, keepdims=True) @ x[0])
