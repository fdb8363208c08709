"""Residual Transformers of attention layers, many trained side by side on sequences, by the gradients of `fp.gradient`.

A model has the layers x <- x + sum_h Gamma_h(x), Euler steps of size one, with parameters Q, K (k, d) and V (d, d) for
each layer and head, and its answer stands in the last coordinate of the tokens. R models see the same sequences; they
are the systems of one batch. Source: Theory 12.2; Kingma, Ba, Adam (ICLR 2015).
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

import fastpde as fp

Array = np.ndarray[Any, Any]

FEATURES = 4  # coordinates of a token that the task uses
D = FEATURES + 4  # and a one, the mark of a question, a free one, and the answer
ONE, QUESTION, ANSWER = FEATURES, FEATURES + 1, FEATURES + 3
_FAST, _SLOW, _TINY = 0.9, 0.999, 1e-8  # Adam's
_LOST = 1e6  # a parameter or a loss beyond is that of a training that has diverged
VARIANTS: dict[str, Callable[..., fp.Attention]] = {
    "softmax": fp.Softmax,
    "l2": fp.L2,
    "sigmoid": fp.Sigmoid,
    "sinkhorn": lambda Q, K, V: fp.Sinkhorn(Q, K, V, n_half=3),
}


@dataclass(frozen=True)
class Sequences:
    """Sequences of tokens, and the answers that are asked for.

    Attributes:
        x: (B, n, D).
        answers: (B, n), of the tokens that are asked.
        asked: (B, n), whether they are.
    """

    x: Array
    answers: Array
    asked: Array


def _tokens(count: int, n: int) -> Array:
    x = np.zeros((count, n, D))
    x[:, :, ONE] = 1.0
    return x


def _asked_last(x: Array, answers: Array) -> Sequences:
    """Return sequences whose last token is a question."""
    x[:, -1, QUESTION] = 1.0
    wanted, asked = np.zeros(x.shape[:2]), np.zeros(x.shape[:2], bool)
    wanted[:, -1], asked[:, -1] = answers, True
    return Sequences(x, wanted, asked)


def recall(stream: np.random.Generator, count: int, n: int) -> Sequences:
    """Draw sequences of n keys, random unit vectors, each with a value of +-1; the last token repeats a key."""
    x = _tokens(count, n + 1)
    keys = stream.standard_normal((count, n, FEATURES))
    values, chosen = stream.choice([-1.0, 1.0], (count, n)), stream.integers(n, size=count)
    keys /= np.linalg.norm(keys, axis=2, keepdims=True)
    x[:, :-1, :FEATURES], x[:, :-1, ANSWER] = keys, values
    x[:, -1, :FEATURES] = keys[np.arange(count), chosen]
    return _asked_last(x, values[np.arange(count), chosen])


def regression(stream: np.random.Generator, count: int, n: int) -> Sequences:
    """Draw n points of a linear function each, <w, x> with normal w and x; asked is its value at one more."""
    x = _tokens(count, n + 1)
    points = stream.standard_normal((count, n + 1, FEATURES))
    values = np.einsum("bnf,bf->bn", points, stream.standard_normal((count, FEATURES)) / FEATURES**0.5)
    x[:, :, :FEATURES], x[:, :-1, ANSWER] = points, values[:, :-1]
    return _asked_last(x, values[:, -1])


def sorting(stream: np.random.Generator, count: int, n: int) -> Sequences:
    """Draw n numbers, uniform on [-1, 1]; each token is asked for its rank, from -1 to 1."""
    x = _tokens(count, n)
    numbers = stream.uniform(-1.0, 1.0, (count, n))
    x[:, :, 0], x[:, :, QUESTION] = numbers, 1.0
    ranks = np.argsort(np.argsort(numbers, axis=1), axis=1)
    return Sequences(x, 2.0 * ranks / (n - 1) - 1.0, np.ones((count, n), bool))


TASKS: dict[str, Callable[[np.random.Generator, int, int], Sequences]] = {
    "recall": recall,
    "regression": regression,
    "sorting": sorting,
}


@dataclass(frozen=True)
class Models:
    """R models of one variant: Q, K (L, H, R, k, D) and V (L, H, R, D, D)."""

    variant: str
    parameters: dict[str, Array]

    @staticmethod
    def drawn(variant: str, seeds: list[int], layers: int, heads: int, rank: int) -> Models:
        """Draw the models of some seeds, a seed the same numbers for every variant."""
        shapes = {"Q": (rank, D), "K": (rank, D), "V": (D, D)}
        found: dict[str, list[Array]] = {name: [] for name in shapes}
        for seed in seeds:
            stream = np.random.default_rng([seed, 1])
            for name, shape in shapes.items():
                found[name].append(stream.standard_normal((layers, heads, *shape)) / (D if name == "V" else D**0.5))
        return Models(variant, {name: np.stack(values, axis=2) for name, values in found.items()})

    @property
    def count(self) -> int:
        """The number of models, R."""
        return int(self.parameters["V"].shape[2])

    def attention(self, sequences: int) -> tuple[fp.Attention, float]:
        """Return the layers for a batch with so many sequences of each model, and the time at which they end."""
        layers, heads = self.parameters["V"].shape[:2]
        end = float(layers)
        each = []
        for h in range(heads):
            own = [np.repeat(self.parameters[name][:, h], sequences, axis=1) for name in "QKV"]
            each.append(VARIANTS[self.variant](*(fp.Layers(value, end) for value in own)))
        return (fp.MultiHead(each) if heads > 1 else each[0]), end

    def losses(self, data: Sequences) -> Array:
        """Return the mean squared error of each model, (R,); inf where a token is not finite."""
        attention, end = self.attention(len(data.x))
        x = np.tile(data.x, (self.count, 1, 1))
        found: Any = fp.solve(attention, x, (0.0, end), method="euler", step=1.0)
        errors = np.where(data.asked, self._answers(found.x_final) - data.answers, 0.0)
        squares = (errors**2).sum(axis=(1, 2)) / data.asked.sum()
        return np.where(np.isfinite(squares), squares, np.inf)

    def gradients(self, data: Sequences) -> tuple[Array, dict[str, Array]]:
        """Return the mean squared error of each model, (R,), and its gradients in the model's parameters."""
        attention, end = self.attention(len(data.x))
        x = np.tile(data.x, (self.count, 1, 1))
        losses = np.empty(self.count)

        def loss(final: Array) -> tuple[float, Array]:
            errors = np.where(data.asked, self._answers(final) - data.answers, 0.0)
            losses[:] = (errors**2).sum(axis=(1, 2)) / data.asked.sum()
            found = np.zeros_like(final)
            found[:, :, ANSWER] = (2.0 * errors / data.asked.sum()).reshape(found.shape[:2])
            return float(losses.sum()), found

        made = fp.gradient(loss, attention, x, (0.0, end), method="euler", step=1.0)
        layers, heads = self.parameters["V"].shape[:2]
        found = {}
        for name, value in self.parameters.items():
            each = [made.parameters[f"heads[{h}].{name}" if heads > 1 else name] for h in range(heads)]
            parts = [one.reshape(layers, self.count, len(data.x), *value.shape[3:]).sum(axis=2) for one in each]
            found[name] = np.stack(parts, axis=1)
        return losses, found

    def _answers(self, final: Array) -> Array:
        """Return the answers (R, B, n) of all tokens."""
        return final[:, :, ANSWER].reshape(self.count, -1, final.shape[1])


@dataclass(frozen=True)
class Trained:
    """What `train` returns: models, and of each step the losses (steps, R) and the norms of gradients (steps, R).

    lost: (R,) whether a training has left the range in which numbers make sense; its models are zero.
    """

    models: Models
    losses: Array
    norms: Array
    lost: Array


def train(models: Models, rates: Array, draw: Callable[[int], Sequences], steps: int) -> Iterator[int | Trained]:
    """Train all models by Adam with learning rates (R,); yield the number of steps done after each, then a `Trained`.

    draw(step) returns the sequences of a step, the same for all models.
    """
    values = {name: value.copy() for name, value in models.parameters.items()}
    means = {name: np.zeros_like(value) for name, value in values.items()}
    squares = {name: np.zeros_like(value) for name, value in values.items()}
    losses, norms, lost = np.empty((steps, models.count)), np.empty((steps, models.count)), np.zeros(models.count, bool)
    for step in range(steps):
        losses[step], gradients = Models(models.variant, values).gradients(draw(step))
        norms[step] = np.sqrt(sum((g**2).sum(axis=(0, 1, 3, 4)) for g in gradients.values()))
        for name, g in gradients.items():
            means[name] += (1.0 - _FAST) * (g - means[name])
            squares[name] += (1.0 - _SLOW) * (g**2 - squares[name])
            mean, square = means[name] / (1.0 - _FAST ** (step + 1)), squares[name] / (1.0 - _SLOW ** (step + 1))
            values[name] -= rates[:, None, None] * mean / (np.sqrt(square) + _TINY)
        largest = np.max([np.abs(value).max(axis=(0, 1, 3, 4)) for value in values.values()], axis=0)
        lost |= ~((largest < _LOST) & (losses[step] < _LOST))
        for rows in (*values.values(), *means.values(), *squares.values()):
            rows[:, :, lost] = 0.0
        yield step + 1
    yield Trained(Models(models.variant, values), losses, norms, lost)
