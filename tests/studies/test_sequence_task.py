"""The study of trained layers: its tasks, its gradients, its table, and the same bits for any number of threads."""

from __future__ import annotations

import numpy as np
import pytest

import fastpde as fp
from fastpde.simd import pool
from fastpde.studies import training
from fastpde.studies.training import ANSWER, FEATURES, Models

SMALL = {"seeds": 2, "steps": 20, "batch": 3, "length": 4}


def test_what_the_tasks_ask_for():
    data = training.recall(np.random.default_rng(0), 5, 6)
    for x, answer in zip(data.x, data.answers[:, -1], strict=True):
        match = np.flatnonzero((x[:-1, :FEATURES] == x[-1, :FEATURES]).all(axis=1))
        assert len(match) == 1 and x[match[0], ANSWER] == answer and x[-1, ANSWER] == 0.0
    data = training.regression(np.random.default_rng(0), 5, 9)
    for x, answer in zip(data.x, data.answers[:, -1], strict=True):
        w = np.linalg.lstsq(x[:-1, :FEATURES], x[:-1, ANSWER], rcond=None)[0]
        assert abs(x[-1, :FEATURES] @ w - answer) < 1e-12 and x[-1, ANSWER] == 0.0
    data = training.sorting(np.random.default_rng(0), 5, 7)
    order = np.argsort(data.x[:, :, 0], axis=1)
    np.testing.assert_allclose(np.take_along_axis(data.answers, order, axis=1), np.tile(np.linspace(-1, 1, 7), (5, 1)))
    assert data.asked.all()


def naive(variant, Q, K, V, x):
    """One layer on one sequence, pair by pair."""
    q, k, v = x @ Q.T, x @ K.T, x @ V.T
    if variant == "sigmoid":
        return (1.0 / (1.0 + np.exp(-q @ k.T))) @ v / len(x)
    scores = -((q[:, None] - k[None]) ** 2).sum(axis=2) if variant == "l2" else q @ k.T
    kernel = np.exp(scores)
    if variant == "sinkhorn":  # rows, columns, rows
        for axis in (1, 0):
            kernel = kernel / kernel.mean(axis=axis, keepdims=True)
    return kernel @ v / kernel.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("variant", ["softmax", "l2", "sigmoid", "sinkhorn"])
@pytest.mark.parametrize("heads", [1, 2])
def test_losses_and_gradients(variant, heads):
    """Losses against sums pair by pair; gradients against differences of fourth order, model by model."""
    models = Models.drawn(variant, [3, 4], 2, heads, 2)
    data = training.recall(np.random.default_rng(5), 4, 3)
    losses, gradients = models.gradients(data)
    np.testing.assert_allclose(losses, models.losses(data), rtol=1e-12)
    for r in range(2):
        errors = []
        for tokens, answer in zip(data.x, data.answers[:, -1], strict=True):
            x = tokens
            for layer in range(2):
                own = [[models.parameters[name][layer, h, r] for name in "QKV"] for h in range(heads)]
                x = x + sum(naive(variant, *matrices, x) for matrices in own)
            errors.append(x[-1, ANSWER] - answer)
        np.testing.assert_allclose(losses[r], np.mean(np.square(errors)), rtol=1e-12)
    rng = np.random.default_rng(6)
    for name, value in models.parameters.items():
        direction, h = rng.standard_normal(value.shape), 1e-3

        def moved(t, name=name, value=value, direction=direction):
            return Models(variant, models.parameters | {name: value + t * direction}).losses(data)

        want = (8 * (moved(h) - moved(-h)) - (moved(2 * h) - moved(-2 * h))) / (12 * h)
        got = (gradients[name] * direction).sum(axis=(0, 1, 3, 4))
        np.testing.assert_allclose(got, want, rtol=1e-7, atol=1e-9, err_msg=name)


def test_a_step_of_adam():
    models = Models.drawn("softmax", [0, 1], 1, 1, 2)
    data = training.recall(np.random.default_rng(5), 4, 3)
    (_, trained) = training.train(models, np.array([0.1, 0.2]), lambda step: data, 1)
    gradients = models.gradients(data)[1]
    for name, g in gradients.items():  # the first step of Adam is the rate times the sign of the gradient
        want = models.parameters[name] - np.array([0.1, 0.2])[:, None, None] * g / (np.abs(g) + 1e-8)
        np.testing.assert_allclose(trained.models.parameters[name], want, rtol=1e-9, atol=1e-12)


def test_training_learns_and_a_lost_one_harms_no_other():
    models = Models.drawn("softmax", [0, 0], 1, 1, 4)
    draw = lambda step: training.recall(np.random.default_rng(step), 16, 4)  # noqa: E731
    *_, both = training.train(models, np.array([0.1, 1e7]), draw, 150)
    *_, alone = training.train(Models.drawn("softmax", [0], 1, 1, 4), np.array([0.1]), draw, 150)
    assert both.lost.tolist() == [False, True] and alone.losses[-20:].mean() < 0.3 * alone.losses[:5].mean()
    for name, value in alone.models.parameters.items():
        assert both.models.parameters[name][:, :, 0].tobytes() == value[:, :, 0].tobytes()
        assert not both.models.parameters[name][:, :, 1].any()


@pytest.fixture(scope="module")
def study():
    return fp.studies.sequence_task(("recall",), ("softmax", "l2"), (0.01, 1e7), **SMALL)


def test_the_table(study, tmp_path):
    assert len(study) == 2 * 2 * 2 and study["diverged"].tolist() == [0, 0, 1, 1] * 2
    assert study.best_rate("recall", "l2") == 0.01 and study.diverged("l2") == (2, 4)
    assert np.isinf(study["test_1"][study["diverged"] == 1]).all()
    middle, low, high = study.ratio("recall", "l2", "softmax")
    each = study.cell("recall", "l2", 0.01)["test_1"] / study.cell("recall", "softmax", 0.01)["test_1"]
    assert low <= middle <= high and np.isclose(middle, np.exp(np.log(each).mean()))
    assert "L2 against softmax" in study.answer() and "l2 2 of 4" in study.summary()
    study.save(tmp_path / "a")
    again = fp.studies.load(tmp_path / "a")
    assert again.parameters == study.parameters
    for name, values in study.columns.items():
        np.testing.assert_array_equal(again[name], values)
    assert (tmp_path / "a" / "sequence-task.png").stat().st_size > 10_000


def test_bits_and_cells(study, tmp_path):
    before = pool.threads()
    pool.set_threads(1 if before > 1 else min(2, pool.most()))
    done = []
    try:
        again = fp.studies.sequence_task(
            ("recall",), ("softmax", "l2"), (0.01, 1e7), cells=tmp_path / "cells",
            progress=lambda steps, stats: done.append((steps, stats["systems"])), **SMALL,
        )  # fmt: skip
    finally:
        pool.set_threads(before)
    assert done[-1] == (40, 40) and [steps for steps, _ in done] == sorted(steps for steps, _ in done)
    for name, values in study.columns.items():
        assert again[name].tobytes() == values.tobytes(), name
    kept = (tmp_path / "cells").read_text()
    third = fp.studies.sequence_task(("recall",), ("softmax", "l2"), (0.01, 1e7), cells=tmp_path / "cells", **SMALL)
    assert (tmp_path / "cells").read_text() == kept
    assert third["test_4"].tobytes() == study["test_4"].tobytes()


@pytest.mark.parametrize(
    ("given", "message"),
    [
        ({"tasks": ["copy"]}, "tasks: got 'copy'"),
        ({"variants": ["linear"]}, "variants: got 'linear'"),
        ({"rates": [0.0]}, "rates: got 0.0"),
        ({"steps": 5}, "steps: got 5"),
        ({"length": 1}, "length: got 1"),
    ],
)
def test_what_is_refused(given, message):
    with pytest.raises(fp.InputError, match=message):
        fp.studies.sequence_task(**given)
