"""Nasty clouds through the public API: velocities of every variant, each target against extended precision.

    python -m tests.adversary.velocities FIRST COUNT

prints what is wrong among the seeds FIRST, ..., FIRST + COUNT - 1, and how many sums were made in O(n).
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from contextlib import contextmanager
from dataclasses import dataclass

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

import fastpde as fp
from fastpde.sums import costs
from fastpde.sums.choosing import Choosing

from .. import naive
from . import oracle
from .clouds import CLOUDS, log_uniform
from .prices import prices

KINDS = ("Softmax", "L2", "Exponential", "Linear", "Sigmoid", "Sinkhorn")
BACKENDS = ("direct", "fast", "auto")
_MOST_SCORE = {"float64": 1e7, "float32": 300.0}  # beyond them rounding leaves nothing to compare


@dataclass(frozen=True)
class Head:
    """One attention: its kind, matrices, and other parameters."""

    kind: str
    Q: np.ndarray
    K: np.ndarray
    V: np.ndarray
    options: dict

    @property
    def attention(self):
        return getattr(fp, self.kind)(self.Q, self.K, self.V, **self.options)


@dataclass(frozen=True)
class Case:
    """A velocity: heads, of which the sum is taken with W (H, d, d) or plainly, and systems x (B, n, d)."""

    seed: int
    heads: list[Head]
    W: np.ndarray | None
    masked: bool
    x: np.ndarray
    data: dict  # of each system: at (B, m, d), weights (B, n); of all: positions, at_positions
    tol: float
    regime: str
    words: str

    def __str__(self) -> str:
        kinds = " + ".join(head.kind for head in self.heads)
        data = f"{' masked' * self.masked} {' '.join(self.data)} x={self.x.shape} {self.x.dtype}"
        return f"seed {self.seed}: {kinds}{data}: {self.words}; tol={self.tol:.1e} {self.regime}"

    @property
    def attention(self):
        """As the API knows it."""
        one = len(self.heads) == 1 and self.W is None
        plain = self.heads[0].attention if one else fp.MultiHead([head.attention for head in self.heads], W=self.W)
        return fp.Masked(plain) if self.masked else plain

    def of(self, b):
        """The data of one system."""
        return {key: value if key.endswith("positions") else value[b] for key, value in self.data.items()}


# -- the truth --------------------------------------------------------------------------------------------------------


def truths(case: Case) -> list[oracle.Exact]:
    """The truth of each system."""
    return [_sum([_truth(head, case.x[b], **case.of(b)) for head in case.heads], case.W) for b in range(len(case.x))]


def _sum(found, W):
    """The truth of a sum of heads."""
    parts = list(found) if W is None else [_times(one, w) for one, w in zip(found, W, strict=True)]
    sums, unit, rounding = (sum(getattr(one, name) for one in parts) for name in ("sums", "unit", "rounding"))
    return oracle.Exact(sums, np.zeros(len(sums)), unit, rounding, np.zeros(len(sums)))


def _times(one, w):
    size = np.linalg.norm(w, 2)
    return oracle.Exact(one.sums @ naive.wide(w).T, one.logs, size * one.unit, size * one.rounding, one.log_rounding)


def _truth(head, x, at=None, weights=None, positions=None, at_positions=None):
    """The truth of one head, and what it may be off by: per target, in units of tol, and for rounding."""
    z, (n, d) = x if at is None else at, x.shape
    w = np.full(n, 1 / naive.WIDE(n)) if weights is None else naive.wide(weights)
    options = dict(head.options)
    times = options.pop("n_half", 0) * 2 + 1
    eps = naive.WIDE(options.pop("eps", 1.0))
    V, size = naive.WIDE(np.linalg.norm(head.V, 2)), np.abs(naive.wide(x)).max() * naive.WIDE(d) ** 0.5
    scores = _size(head, z, x) + (_size(head, x, x).max() if head.kind == "Sinkhorn" else 0.0)  # its potentials' too
    digits = np.finfo(x.dtype).eps * (oracle.added(n) + oracle.ROUNDINGS * scores / eps)[:, None]
    if head.kind == "Sinkhorn":
        sums = _sinkhorn(head, z, x, w, eps)
    else:
        data = {"at": at, "weights": weights, "positions": positions, "at_positions": at_positions}
        sums = naive.velocity(head.kind, x, head.Q, head.K, head.V, **options, **data)
    if head.kind in ("Softmax", "L2", "Sinkhorn"):
        # A potential of a half-iteration carries the errors of those before.
        spread = V * np.abs(x - naive.wide(x).mean(axis=0)).max() * naive.WIDE(d) ** 0.5 * times / eps
        last = np.finfo(x.dtype).eps * oracle.added(n) * V * size / eps
        return _exact(sums, np.full((len(z), 1), spread), digits * spread + last)
    if head.kind == "Linear":
        mass = (_size(head, z, x) * V * size)[:, None]
        return _exact(sums, np.zeros((len(z), 1)), np.finfo(x.dtype).eps * (oracle.added(n) + oracle.ROUNDINGS) * mass)
    p, top = naive.kernel(head.kind, naive.scores(head.kind, z, x, head.Q, head.K, **options))
    if positions is not None:
        places = positions if at is None else at_positions
        p = np.where(positions[None, :] <= places[:, None], p, 0)
    mass = V * size * (p @ w)[:, None] * np.exp(np.clip(top, -9000, 9000))
    if head.kind == "Exponential":
        return _exact(sums, mass, mass * digits)
    flushed = V * size * np.finfo(x.dtype).tiny  # weights below the normal range may count as zero
    return _exact(sums, np.full((len(z), 1), mass.mean()), mass * digits + flushed)


def _sinkhorn(head, z, x, w, eps):
    """`naive.sinkhorn` as an average, which has the digits of the tokens where large scores have lost those of 1."""
    scale = head.options.get("scale", 1.0)
    own, other = (naive.scores("Softmax", points, x, head.Q, head.K, scale) / eps for points in (x, z))
    _, g = naive.potentials(own, w, n_half=head.options["n_half"])
    p, _ = naive.kernel("Softmax", other + g + np.log(w))
    return (p / p.sum(axis=1, keepdims=True)) @ (naive.wide(x) @ naive.wide(head.V).T) / eps


def _exact(sums, unit, rounding):
    return oracle.Exact(sums, np.zeros(len(sums)), unit, rounding, np.zeros(len(sums)))


def _size(head, z, x):
    """(m,) the size of the numbers a target's scores are made of, also where K^T Q is made first."""
    q = np.abs(naive.wide(z)) @ np.abs(naive.wide(head.Q)).T
    k = (np.abs(naive.wide(x)) @ np.abs(naive.wide(head.K)).T).max(axis=0)
    parts = (q + k) ** 2 if head.kind == "L2" else q * k
    return abs(head.options.get("scale", 1.0)) * parts.sum(axis=1) + abs(head.options.get("bias", 0.0))


# -- how it is computed -----------------------------------------------------------------------------------------------


def backend(name, tol):
    """A backend by name; "auto" with costs that make it choose O(n) wherever it can."""
    if name == "auto":
        return fp.Auto(tol, costs={"direct": 1e6, "fast": 1e-6, "threads": 2.0})
    return fp.Fast(tol) if name == "fast" else fp.Direct()


@contextmanager
def _looking(how):
    """`Auto` looks at small sums too; sums in O(n) are counted."""
    look, keep = costs._LOOK, Choosing._made

    def noted(*arguments):
        done = keep(*arguments)
        how["O(n)" if done else "direct"] += 1
        return done

    costs._LOOK, Choosing._made = 0.0, noted
    try:
        yield
    finally:
        costs._LOOK, Choosing._made = look, keep


def ratio(case: Case, name: str, want: list[oracle.Exact], how: Counter) -> tuple[float, str]:
    """The largest error over tol and rounding with one backend, and what was raised."""
    single = len(case.x) == 1 and case.seed % 2 == 0  # a batch of one, and a system
    x, data = (case.x[0], case.of(0)) if single else (case.x, case.data)
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            with prices(case.regime, case.x.shape[1] ** 2), _looking(how):
                got = case.attention.velocity(x, **data, backend=backend(name, case.tol))
        except Exception as error:
            return np.inf, f"{type(error).__name__}: {error}"
    tol = 0.0 if name == "direct" else case.tol
    rows = got[None] if single else got
    worst = max(oracle.ratio(truth, rows[b], None, tol) for b, truth in enumerate(want))
    return worst, f"{warned[0].category.__name__}: {warned[0].message}" if warned else ""


# -- what is computed -------------------------------------------------------------------------------------------------


def case(seed: int) -> Case:
    """The case of a seed."""
    rng = np.random.default_rng([19, seed])
    dtype = "float32" if rng.random() < 0.1 else "float64"
    d = int(rng.choice([1, 2, 3, 4], p=[0.25, 0.4, 0.25, 0.1]))
    systems, number = (2 if rng.random() < 0.15 else 1), int(rng.choice([1, 2, 3], p=[0.75, 0.2, 0.05]))
    kinds = [str(rng.choice(KINDS, p=[0.26, 0.2, 0.16, 0.08, 0.16, 0.14])) for _ in range(number)]
    masked = rng.random() < 0.3 and "Sinkhorn" not in kinds
    n = int(log_uniform(rng, 2, 40) if rng.random() < 0.08 else log_uniform(rng, 150, 700))
    name = str(rng.choice(list(CLOUDS)))
    x, words = np.stack([CLOUDS[name](rng, n, d) for _ in range(systems)]), [name]
    if rng.random() < 0.15:
        x = x + rng.standard_normal(d) * np.abs(x).max() * log_uniform(rng, 1.0, 1e6)
        words.append("offset")
    data = {}
    if rng.random() < 0.3:
        other = str(rng.choice(list(CLOUDS)))
        m = int(log_uniform(rng, 1, 700))
        at = np.stack([CLOUDS[other](rng, m, d) for _ in range(systems)])
        data["at"] = (at if rng.random() < 0.8 else at * log_uniform(rng, 10.0, 1e4)).astype(dtype)
        words.append(f"at {other}")
    if rng.random() < 0.3:
        w = rng.uniform(0.1, 2.0, (systems, n))
        if rng.random() < 0.4:
            w[:, rng.integers(0, n, 3)] *= log_uniform(rng, 10.0, 1e12)
        data["weights"] = w / w.sum(axis=1, keepdims=True)
    if masked:
        data |= _positions(rng, n, data.get("at"))
    heads = [_head(rng, kind, x, data.get("at", x), words) for kind in kinds]
    W = rng.standard_normal((number, d, d)) if number > 1 and rng.random() < 0.5 else None
    x, data, heads = _in_units(rng, x, data, heads, dtype, words)
    heads = [_within(head, x.astype(dtype), data.get("at", x.astype(dtype)), number > 1) for head in heads]
    regimes = ["natural", "grid", "trees", "leaves_of_trees", *(["halves"] if masked else ["grids_of_trees"])]
    return Case(
        seed, heads, W, masked, x.astype(dtype), data, log_uniform(rng, 1e-12, 1e-3),
        str(rng.choice(regimes, p=[0.1, 0.45, 0.15, 0.1, 0.2])), ", ".join(words),
    )  # fmt: skip


def _positions(rng, n, at):
    kind = int(rng.integers(0, 4))
    positions = [np.arange(float(n)), rng.permutation(n).astype(float), np.zeros(n),
                 rng.integers(-3, 4, n).astype(float)][kind]  # fmt: skip
    found = {"positions": positions}
    if at is not None:
        found["at_positions"] = positions.min() + np.abs(rng.standard_normal(at.shape[1])) * (1 + np.ptp(positions))
    return found


def _head(rng, kind, x, at, words):
    """Matrices of random shapes and ranks, some of which find the thin axes of the tokens; logits of a chosen size."""
    d = x.shape[2]
    k = int(rng.choice([1, d, d + 1]))
    Q, K, V = rng.standard_normal((k, d)), rng.standard_normal((k, d)), rng.standard_normal((d, d))
    form = str(rng.choice(["random", "identity", "thin", "one row"]))
    if form == "identity":
        Q, K = np.eye(d), np.eye(d) * rng.choice([1.0, -1.0])
    elif form == "thin":
        flat = x.reshape(-1, d)
        U, s, _ = np.linalg.svd((flat - flat.mean(axis=0)).T, full_matrices=False)
        gain = np.where(s > 1e-12 * s.max(initial=0.0), s.max(initial=0.0) / np.where(s > 0, s, 1.0), 0.0)
        Q, K = (U * gain) @ U.T, (U * gain) @ U.T
    elif form == "one row":
        Q, K = Q * (np.arange(k) == 0)[:, None], K * (np.arange(d) == rng.integers(0, d))
    size = log_uniform(rng, 1e-2, 1.0) if rng.random() < 0.2 else log_uniform(rng, 1.0, 300.0)
    some = np.abs((at[0][:: max(1, len(at[0]) // 200)] @ Q.T) @ ((x[0] - x[0].mean(axis=0)) @ K.T).T)
    by = some.max() if rng.random() < 0.5 else np.sqrt(np.square(some).mean())
    options = {"scale": float(size / by)} if by > 0 and rng.random() < 0.5 else {}
    if by > 0 and not options:
        Q = Q * (size / by)
    if kind == "Sigmoid" and rng.random() < 0.7:
        options["bias"] = float(rng.choice([-1.0, 1.0]) * log_uniform(rng, 0.1, 50.0))
    if kind == "Sinkhorn":
        options |= {"eps": log_uniform(rng, 0.2, 5.0), "n_half": int(rng.choice([1, 3, 5]))}
    words.append(f"{form} {k}x{d} logits {size:.2g}")
    return Head(kind, Q, K, V, options)


def _in_units(rng, x, data, heads, dtype, words):
    """The same tokens in other units, Q and K in units of one over those."""
    if rng.random() > 0.3:
        return x, data, heads
    limit = 200.0 if dtype == "float64" else 12.0
    c = 10.0 ** rng.uniform(-limit, limit) / max(1.0, np.abs(x).max())
    words.append(f"unit {c:.1g}")
    data = data | ({"at": (data["at"].astype(float) * c).astype(dtype)} if "at" in data else {})
    return x * c, data, [Head(head.kind, head.Q / c, head.K / c, head.V, head.options) for head in heads]


def _within(head, x, at, several):
    """The head with scores that rounding does not spoil; of several, none leaves the range of numbers."""
    largest = float(max(_size(head, at[b], x[b]).max() for b in range(len(x))))
    most = _MOST_SCORE[x.dtype.name] * head.options.get("eps", 1.0)
    if head.kind == "Exponential":
        most = 30.0 if several else min(most, 5000.0)
    if largest <= most:
        return head
    root = np.sqrt(most / largest)
    return Head(head.kind, head.Q * root, head.K * root, head.V, head.options)


# -- many of them -----------------------------------------------------------------------------------------------------


def tally(seeds, show=None):
    """(how sums were made, the largest error over tol and rounding, the violations in words)."""
    how, worst, wrong = Counter(), 0.0, []
    for seed in seeds:
        one = case(seed)
        want = truths(one)
        for name in BACKENDS:
            found, raised = ratio(one, name, want, how)
            worst = max(worst, found)
            if not found <= 1.0 or raised:
                wrong.append(f"{one}: {name}: error {found:.2g} {raised}")
                if show is not None:
                    show(wrong[-1])
    return how, worst, wrong


def main(first: int, count: int) -> int:
    how, worst, wrong = tally(range(first, first + count), lambda line: print(line, flush=True))
    print(f"{count} cases, {len(BACKENDS)} backends: {len(wrong)} wrong, worst error / (tol + rounding) {worst:.3g}")
    print(dict(how))
    return int(bool(wrong))


if __name__ == "__main__":
    sys.exit(main(int(sys.argv[1]), int(sys.argv[2])))
