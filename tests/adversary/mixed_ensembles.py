"""Ensembles of mixed kinds: every system is what `fp.solve` makes of it alone.

    python -m tests.adversary.mixed_ensembles FIRST COUNT

prints what is wrong among the seeds FIRST, ..., FIRST + COUNT - 1, how many ensembles took which path, how many systems
ended in which way, and the largest difference, relative to the size of a system.
"""

from __future__ import annotations

import sys
import warnings
from collections import Counter
from dataclasses import dataclass, field
from typing import Any

import numpy as np

import fastpde as fp

KINDS = ("Softmax", "L2", "Sigmoid", "Exponential", "Linear", "Sinkhorn", "n_half")
METHODS = ("euler", "heun", "rk4", "bosh3", "dopri5", "tsit5")
TOL = 1e-10  # of scalings


@dataclass(frozen=True)
class Case:
    """The arguments of one ensemble."""

    attention: Any
    x0: np.ndarray
    t_span: tuple[float, float]
    options: dict
    weights: np.ndarray | None
    seeds: dict = field(default_factory=dict)  # noise

    @property
    def remembers(self) -> bool:
        return "Sinkhorn" in repr(self.attention)

    def whole(self):
        return fp.solve(self.attention, self.x0, self.t_span, weights=self.weights, **self.options, **self.seeds)

    def alone(self, b):
        own = self.weights if self.weights is None or self.weights.ndim == 1 else self.weights[b]
        seeds = {**self.seeds, "first_system": b} if self.seeds else {}
        return fp.solve(self.attention.system(b), self.x0[b], self.t_span, weights=own, **self.options, **seeds)


def spread(t, x):
    return float(np.abs(x).max()) - 0.9


def attention(rng, systems, d, span):
    """A head, or two, masked or not, with parameters of each system, of all, of layers, or of time."""

    def matrix(scale=1.0):
        shape = (systems, d, d) if rng.random() < 0.5 else (d, d)
        return scale * (rng.normal(size=shape) / (2 * d) + rng.choice([-0.6, 0.6]) * np.eye(d))

    def in_time(value):
        kind = rng.choice(["constant"] * 6 + ["layers", "time"])
        if kind == "constant":
            return value
        if kind == "layers":
            stack = np.stack([value * c for c in rng.uniform(0.5, 1.5, rng.integers(2, 5))])
            return fp.Layers(stack, span)
        return lambda t: value * (1.0 + 0.3 * t)

    def head():
        kind = rng.choice(KINDS)
        Q, K, V = matrix(), in_time(matrix()), matrix()
        if kind in ("Sinkhorn", "n_half"):
            form = {"n_half": 3} if kind == "n_half" else {"tol": TOL, "max_iter": 400}
            return fp.Sinkhorn(Q, K, V, eps=rng.uniform(0.8, 2.0), **form)
        scale = rng.uniform(0.3, 1.2, systems) if rng.random() < 0.3 else rng.uniform(0.3, 1.2)
        return getattr(fp, kind)(Q, K, V, scale=scale)

    found = head() if rng.random() < 0.7 else fp.MultiHead([head(), head()])
    return fp.Masked(found) if rng.random() < 0.2 and not found.unmaskable else found


def make(seed):
    """The ensemble of a seed."""
    rng = np.random.default_rng([seed, 20])
    systems, n, d = rng.integers(1, 7), rng.choice([1, 2, 5, 12, 33]), rng.integers(1, 5)
    span = float(rng.choice([0.4, 1.0]))
    a = attention(rng, systems, d, span)
    method = str(rng.choice(METHODS))
    x0 = rng.normal(size=(systems, n, d)) * rng.uniform(0.3, 1.5, (systems, 1, 1))
    x0 = x0.astype(rng.choice(["float64", "float64", "float32"]))
    options: dict[str, Any] = {"method": method}
    fixed = method in ("euler", "heun", "rk4")
    if fixed or rng.random() < 0.3:
        options["step"] = float(rng.choice([0.05, 0.07, 0.3]))
    if not fixed:
        options["rtol"] = float(rng.choice([1e-4, 1e-6] if x0.dtype == np.float32 else [1e-4, 1e-6, 1e-9]))
    if d > 1 and rng.random() < 0.25 and x0.dtype == np.float64:
        options["manifold"] = fp.Sphere()
        x0 /= np.linalg.norm(x0, axis=-1, keepdims=True)
    every = [fp.SteadyState(0.2), fp.BlowUp(1.6), fp.Collapsed(0.4), fp.Collapsed(0.7, terminal=False), spread]
    options["events"] = [every[i] for i in np.flatnonzero(rng.random(len(every)) < [0.3, 0.3, 0.3, 0.3, 0.12])]
    times = np.unique(rng.uniform(0.0, span, rng.integers(1, 6)))
    options["t_eval"] = times if rng.random() < 0.6 else [0.0, span]
    t_span = (0.0, span)
    if rng.random() < 0.15:
        t_span, options["t_eval"] = (span, 0.0), np.sort(options["t_eval"])[::-1]
    if rng.random() < 0.1:
        options["max_steps"] = int(rng.integers(2, 9))
    weights = None
    if rng.random() < 0.3:
        weights = rng.dirichlet(np.full(n, 5.0), None if rng.random() < 0.5 else systems)
    seeds = {}
    if method in ("euler", "heun") and t_span[0] == 0.0 and rng.random() < 0.3:
        seeds = {"noise": 0.2, "seed": int(seed)}
    if a.masked and rng.random() < 0.5:
        options["positions"] = rng.integers(0, 4, n).astype(float)
    return Case(a, x0, t_span, options, weights, seeds)


@dataclass
class Found:
    """What a comparison found: the path, the largest relative difference, what is wrong, and how systems ended."""

    path: str
    difference: float
    wrong: list[str]
    ends: Counter


def compare(case):
    """Run an ensemble and each of its systems alone."""
    with warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of rtol below float32
        whole, singles = case.whole(), [case.alone(b) for b in range(len(case.x0))]
    # In the compiled loop events are found by bisection, norms on the sphere are summed in another order, and states
    # between the steps of rk4 are made of all stages instead of their sum.
    inexact = "manifold" in case.options or case.options["events"] or case.options["method"] == "rk4"
    rounds = whole.stats["path"] == "fused" and inexact
    exact = not (case.remembers or rounds)
    wide = case.x0.dtype == np.float64
    slack = 0.0 if exact else (1e4 * TOL if case.remembers and "n_half" not in repr(case.attention) else 1e-11)
    slack = slack if wide or exact else max(slack, 1e-4)
    wrong, worst = [], 0.0
    for b, one in enumerate(singles):
        size = max(float(np.abs(one.x_final).max()), 1e-30)
        pairs = [(whole.x_final[b], one.x_final), (whole.x[: len(one.t), b], one.x)]
        gaps = [float(np.abs(got - want).max(initial=0.0)) / size for got, want in pairs]
        difference = max(*gaps, abs(whole.t_final[b] - one.t_final))
        worst = max(worst, difference)
        if not difference <= slack:
            wrong.append(f"system {b}: differs by {difference:.3g}")
        if whole.status[b] is not one.status:
            wrong.append(f"system {b}: {whole.status[b]} and {one.status}")
        if not np.isnan(whole.x[len(one.t) :, b]).all():
            wrong.append(f"system {b}: states after its end")
        for name in ("steps", "rejected", "evaluations"):
            if whole.stats[f"{name}_each"][b] != one.stats[name]:
                wrong.append(f"system {b}: {name} {whole.stats[f'{name}_each'][b]} and {one.stats[name]}")
        for e, times in enumerate(one.t_events):
            got, want = whole.t_events[e][b], times[0] if len(times) else np.nan
            if not (np.isnan(got) and np.isnan(want)) and not abs(got - want) <= max(10 * slack, 0.0):
                wrong.append(f"system {b}: event {e} at {got} and {want}")
    return Found(whole.stats["path"], worst, wrong, Counter(status.value for status in whole.status))


def main(first, count):
    paths, ends, failed = Counter(), Counter(), 0
    worst = {"fused": 0.0, "batched": 0.0}
    for seed in range(first, first + count):
        found = compare(make(seed))
        paths[found.path] += 1
        ends += found.ends
        worst[found.path] = max(worst[found.path], found.difference)
        if found.wrong:
            failed += 1
            print(seed, make(seed), *found.wrong, sep="\n    ")
    print(f"{failed} of {count} wrong; paths {dict(paths)}; ends {dict(ends)}; largest differences {worst}")
    return failed


if __name__ == "__main__":
    sys.exit(main(*map(int, sys.argv[1:])) > 0)
