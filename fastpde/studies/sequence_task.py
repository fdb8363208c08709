"""Does attention with smoother dynamics train better? Small residual Transformers on three tasks, by variant.

The first notes on the paper ask whether the L2 variant, whose field is globally Lipschitz, generalises better or trains
more stably than softmax. Everything is made by this package: layers, gradients, batches of models.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastpde._numbers import one_of, positive, whole
from fastpde.errors import explained
from fastpde.integrate.reporting import counting

from . import training
from .study_arguments import several
from .study_cells import Cells, Rows
from .table import Array, Column, Study

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

POINTS = 20  # of a curve of losses: each is the mean over a twentieth of the training
LENGTHS = (1, 2, 4)  # times the length of training, of the tests
_TESTED = 256  # sequences of a test
_DIVERGED = 2.0  # a test loss above this is that of a training that has diverged; 1 is that of a constant answer
_SURE, _RESAMPLED = 0.95, 2000  # of bootstrap intervals
_STREAM_TRAIN, _STREAM_TEST = 2, 3  # after the seed; models have 1


@dataclass(frozen=True, eq=False, repr=False)
class SequenceTask(Study):
    """The table of `sequence_task`."""

    name: ClassVar[str] = "sequence-task"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        unit = "mean squared error / variance of the answers"
        tests = {1: "of the length of training", 2: "of twice that length", 4: "of four times that length"}
        return {
            "task": Column("text", "", ""),
            "variant": Column("text", "", "of attention"),
            "rate": Column("number", "", "learning rate"),
            "seed": Column("whole", "", "of the first parameters"),
            "diverged": Column("whole", "", f"1 if the test loss is above {_DIVERGED:g}, or not finite, else 0"),
            **{f"test_{k}": Column("number", "", f"{unit}, on sequences {tests[k]}") for k in LENGTHS},
            "gradient": Column("number", "", "median over the steps of the norm of the gradient"),
            "gradient_max": Column("number", "", "largest norm of the gradient"),
            **{
                f"train_{i + 1}": Column("number", "", f"{unit}, mean over steps {_part(i, parameters)}")
                for i in range(POINTS)
            },
        }

    def cell(self, task: str, variant: str, rate: float | None = None) -> dict[str, Array]:
        """Return the rows of a task and variant, at one learning rate or at all, as columns."""
        rows = (self["task"] == task) & (self["variant"] == variant)
        rows &= True if rate is None else self["rate"] == rate
        return {name: values[rows] for name, values in self.columns.items()}

    def best_rate(self, task: str, variant: str) -> float:
        """Return the learning rate with the lowest median test loss."""
        rates = self.parameters["rates"]
        return rates[int(np.argmin([np.median(self.cell(task, variant, rate)["test_1"]) for rate in rates]))]

    def ratio(self, task: str, variant: str, other: str, column: str = "test_1") -> tuple[float, float, float]:
        """Return the ratio of the losses of two variants, each at its best rate, with an interval of 95 %.

        It is the median over the seeds, which both variants share, of the ratio; the interval is a bootstrap over them.
        """
        mine, its = (self.cell(task, name, self.best_rate(task, name)) for name in (variant, other))
        logs = np.log(np.minimum(mine[column], 1e300)) - np.log(np.minimum(its[column], 1e300))
        picks = np.random.default_rng(0).integers(len(logs), size=(_RESAMPLED, len(logs)))
        low, high = np.quantile(np.median(logs[picks], axis=1), [(1 - _SURE) / 2, (1 + _SURE) / 2])
        return math.exp(np.median(logs)), math.exp(low), math.exp(high)

    def diverged(self, variant: str) -> tuple[int, int]:
        """Return how many trainings of a variant have diverged, and how many there were, of all tasks and rates."""
        own = self["diverged"][self["variant"] == variant]
        return int(own.sum()), len(own)

    def answer(self) -> str:
        """Return the answer to the question of the notes in a few sentences: is L2 better, or more stable?"""
        names, told = self.parameters["variants"], []
        if {"l2", "softmax"} <= set(names):
            for task in self.parameters["tasks"]:
                parts = []
                for column, what in (("test_1", "test loss"), ("test_4", "loss at four times the length")):
                    middle, low, high = self.ratio(task, "l2", "softmax", column)
                    verdict = "lower" if high < 1.0 else "higher" if low > 1.0 else "not clearly different"
                    parts.append(f"{what} {verdict} ({middle:.2f} times, 95 % from {low:.2f} to {high:.2f})")
                told.append(f"{task}, L2 against softmax: {', '.join(parts)}")
        shares = [f"{name} {bad} of {count}" for name, (bad, count) in ((name, self.diverged(name)) for name in names)]
        return ". ".join([*told, f"trainings that diverged: {', '.join(shares)}"])

    def summary(self) -> str:
        """Return the best variant of each task, and the answer about L2 and softmax."""
        best = []
        for task in self.parameters["tasks"]:
            medians = {
                name: float(np.median(self.cell(task, name, self.best_rate(task, name))["test_1"]))
                for name in self.parameters["variants"]
            }
            first = min(medians, key=lambda name: medians[name])
            best.append(f"{task} {first} ({medians[first]:.2g})")
        return f"lowest median test loss: {', '.join(best)}. {self.answer()}"

    def figure(self) -> Figure:
        """Draw losses by learning rate, over the training and by length, with a row of panels per task."""
        from fastpde.plot import training_curves

        return training_curves.figure(self)


@explained
def sequence_task(
    tasks: Sequence[str] = tuple(training.TASKS),
    variants: Sequence[str] = tuple(training.VARIANTS),
    rates: Sequence[float] = (0.003, 0.01, 0.03, 0.1, 0.3),
    *,
    seeds: int = 10,
    steps: int = 300,
    batch: int = 16,
    length: int = 12,
    layers: int = 2,
    heads: int = 1,
    rank: int = 4,
    seed: int = 0,
    cells: str | Path | None = None,
    progress: Any = False,
) -> SequenceTask:
    """Train residual attention layers on sequences by Adam, and compare variants at equal parameters.

    A model has `layers` Euler steps of size one with Q, K (rank, 8) and V (8, 8) of each head, and answers in the last
    coordinate of a token. All variants have the same first parameters, sequences and tests, so seeds are pairs.
    Losses are mean squared errors divided by the variance of the answers: a constant answer has 1.

    Args:
        tasks: some of "recall" (n keys, each with a value of +-1; the value of a key that is shown again), "regression"
            (n points of a linear function; its value at one more) and "sorting" (n numbers; the rank of each).
        variants: some of "softmax", "l2", "sigmoid", "sinkhorn" (three half-iterations).
        rates: learning rates.
        seeds: number of first parameters; those of number b come from `np.random.default_rng([seed * 10^6 + b, 1])`.
        steps: number of steps of the training.
        batch: number of new sequences in each step.
        length: n of the sequences of training.
        layers: number of layers of the models.
        heads: number of heads of each layer.
        rank: number of rows of Q and K.
        seed: the seed of all random numbers.
        cells: a file that keeps finished pairs of task and variant, from which an interrupted study goes on.
        progress: True for a bar, or a function of (number of steps that are done, {"systems": number of steps}).

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: notes on Castin et al. 2025; for the tasks Garg et al. 2022 (regression), Olsson et al. 2022 (recall).
    """
    parameters: dict[str, Any] = {
        "tasks": [one_of("tasks", name, training.TASKS) for name in several("tasks", tasks)],
        "variants": [one_of("variants", name, training.VARIANTS) for name in several("variants", variants)],
        "rates": [positive("rates", rate) for rate in several("rates", rates)],
        "seeds": whole("seeds", seeds, 1, 10**6),
        "steps": whole("steps", steps, POINTS),
        "batch": whole("batch", batch, 1),
        "length": whole("length", length, 2),
        "layers": whole("layers", layers, 1),
        "heads": whole("heads", heads, 1),
        "rank": whole("rank", rank, 1),
        "seed": whole("seed", seed, 0),
    }
    kept, rows, done = Cells(cells, parameters), [], 0
    with counting(progress, len(parameters["tasks"]) * len(parameters["variants"]) * steps) as report:
        for task in parameters["tasks"]:
            for variant in parameters["variants"]:
                rows += kept.rows(
                    f"{task} {variant}", _cell, task, variant, parameters, lambda step, done=done: report(done + step)
                )
                done += steps
                report(done)
    return SequenceTask.of_rows(parameters, rows)


def _cell(task: str, variant: str, parameters: Mapping[str, Any], report: Any) -> Rows:
    """Train all models of a task and variant, and return a row for each."""
    rates, count, steps = parameters["rates"], parameters["seeds"], parameters["steps"]
    make, seed, number = training.TASKS[task], parameters["seed"], list(training.TASKS).index(task)
    seeds = [seed * 10**6 + b for b in range(count)]
    models = training.Models.drawn(
        variant, seeds * len(rates), parameters["layers"], parameters["heads"], parameters["rank"]
    )

    def draw(step: int) -> training.Sequences:
        stream = np.random.default_rng([seed, _STREAM_TRAIN, number, step])
        return make(stream, parameters["batch"], parameters["length"])

    found = None
    for found in training.train(models, np.repeat(rates, count), draw, steps):
        if isinstance(found, int):
            report(found)
    assert isinstance(found, training.Trained), "it comes last"
    tests = {}
    for k in LENGTHS:
        data = make(np.random.default_rng([seed, _STREAM_TEST, number, k]), _TESTED, k * parameters["length"])
        tests[k] = np.where(found.lost, np.inf, found.models.losses(data)) / data.answers[data.asked].var()
    unit = float(np.mean([data.answers[data.asked].var() for data in map(draw, range(steps))]))
    curves = [part.mean(axis=0) / unit for part in np.array_split(found.losses, POINTS)]
    return [
        {
            "task": task, "variant": variant, "rate": rates[i // count], "seed": i % count,
            "diverged": int(not tests[1][i] <= _DIVERGED),
            **{f"test_{k}": float(tests[k][i]) for k in LENGTHS},
            "gradient": float(np.median(found.norms[:, i])), "gradient_max": float(found.norms[:, i].max()),
            **{f"train_{j + 1}": float(curve[i]) for j, curve in enumerate(curves)},
        }
        for i in range(models.count)
    ]  # fmt: skip


def _part(i: int, parameters: Mapping[str, Any]) -> str:
    """Return the numbers of the first and last step of a part of the training, as `numpy.array_split` makes them."""
    steps = np.array_split(np.arange(parameters["steps"]), POINTS)[i]
    return f"{steps[0] + 1} to {steps[-1] + 1}"
