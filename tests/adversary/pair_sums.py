"""Nasty pair sums, one per seed, each summed by `Fast` and compared with extended precision for every target.

    python -m tests.adversary.pair_sums FIRST COUNT
    python -m tests.adversary.pair_sums SEED

The first prints what is wrong among the seeds FIRST, ..., FIRST + COUNT - 1, and how many were summed in O(n); the
second what one seed came to, and its worst target, beside what a direct sum makes of it.
"""

from __future__ import annotations

import os
import sys
import warnings
from collections import Counter
from dataclasses import dataclass, replace

os.environ.setdefault("OMP_WAIT_POLICY", "passive")

import numpy as np

import fastpde as fp
from fastpde.sums import tree_pair
from fastpde.sums.pair_sum import PairSum
from fastpde.weights import Exp, Sigmoid

from . import oracle
from .clouds import CLOUDS, log_uniform, rotation
from .prices import prices

_MOST_SCORE = {np.float64: 1e7, np.float32: 300.0}  # beyond them rounding leaves nothing to compare


@dataclass(frozen=True)
class Case:
    """A pair sum of one system, and how it is summed: what `Fast` is given, at which prices, checked or not."""

    seed: int
    pair: PairSum
    logs: bool
    tol: float
    regime: str
    checked: bool
    words: str
    before: PairSum | None  # what the same backend has summed before
    beside: PairSum | None  # the first system of a batch of which `pair` is the second

    def __str__(self) -> str:
        pair, check = self.pair, "checked" if self.checked else "unchecked"
        shape = f"m={pair.targets.shape[1]} n={pair.keys.shape[1]} d={pair.keys.shape[2]} c={pair.carried.shape[2]}"
        return f"seed {self.seed}: {self.words}; {shape} {pair.keys.dtype} tol={self.tol:.1e} {self.regime} {check}"


@dataclass(frozen=True)
class Verdict:
    """How a case went.

    Attributes:
        how: "direct", or how it was summed in O(n).
        ratio: largest error over tol and rounding.
        excess: largest error over the reported bound and rounding, where it was not checked; 0 otherwise.
        tol, bound: that tolerance and that bound.
        raised: an error it ended with, or a warning.
    """

    how: str
    ratio: float
    excess: float
    tol: float
    bound: float
    raised: str = ""

    @property
    def good(self) -> bool:
        return self.ratio <= 1.0 and self.excess <= 1.0 and not self.raised


# -- how it is summed -------------------------------------------------------------------------------------------------


class Watched(fp.Fast):
    """`Fast` that tells whether it went direct, and can be told not to check."""

    def __init__(self, tol, checked):
        super().__init__(tol)
        self.direct = False
        if not checked:
            self._checked._passes = lambda task, estimate: True

    def _directly(self, pair, out, log_total):
        self.direct = True
        super()._directly(pair, out, log_total)


def summed(case: Case):
    """(out (m, c), logs (m,) or None, how, bound)."""
    pair, used = case.pair, []
    (m, n), c = (pair.targets.shape[1], pair.keys.shape[1]), pair.carried.shape[2]
    out, logs = np.full((1, m, c), np.nan, pair.keys.dtype), np.full((1, m), np.nan) if case.logs else None
    backend, leaves = Watched(case.tol, case.checked), tree_pair.TreePair.attend

    def noted(*arguments):
        used.append("tree")
        return leaves(*arguments)

    tree_pair.TreePair.attend = noted
    try:
        with prices(case.regime, m * n):
            if case.before is not None:
                backend.attend(case.before, np.empty((1, case.before.targets.shape[1], case.before.carried.shape[2])))
                used.clear()
                backend.direct, backend.report = False, {}
            if case.beside is None:
                backend.attend(pair, out, logs)
            else:
                out, logs = np.concatenate([out, out]), None if logs is None else np.concatenate([logs, logs])
                backend.attend(_batch(case.beside, pair), out, logs)
    finally:
        tree_pair.TreePair.attend = leaves
    report = backend.report
    how = "tree" if used else "grids" if report.get("grids", 0) > 1 else "grid" if report.get("grids", 0) else "flat"
    if isinstance(pair.weight, Sigmoid):
        how = "nodes" if report.get("pairs", m * n) < m * n else "direct"
    if backend.direct or (how == "flat" and report.get("direct_targets", m) > 0):
        how = "direct"
    if pair.limits is not None and how not in ("direct", "flat"):
        how = f"masked {how}"
    return out[-1], None if logs is None else logs[-1], how, report.get("error_bound", np.nan)


def verdict(case: Case) -> Verdict:
    """Sums a case and judges every target."""
    raised = ""
    with warnings.catch_warnings(record=True) as warned:
        warnings.simplefilter("always")
        try:
            out, logs, how, bound = summed(case)
        except Exception as error:
            return Verdict("raised", np.inf, 0.0, case.tol, np.nan, f"{type(error).__name__}: {error}")
    if warned:  # the suite makes errors of them
        raised = f"{warned[0].category.__name__}: {warned[0].message}"
    truth = oracle.exact(case.pair)
    ratio, excess = oracle.ratio(truth, out, logs, case.tol), 0.0
    if not case.checked and how != "direct":
        excess = oracle.ratio(truth, out, logs, bound)
    return Verdict(how, ratio, excess, case.tol, bound, raised)


def direct_ratio(case: Case) -> float:
    """The same of a direct sum, tolerance zero: below one if the allowance for rounding is fair."""
    return oracle.ratio(oracle.exact(case.pair), *directly(case), 0.0)


def directly(case: Case):
    """(out (m, c), logs (m,) or None) of a direct sum."""
    pair = case.pair
    out = np.empty((1, pair.targets.shape[1], pair.carried.shape[2]), pair.keys.dtype)
    logs = np.empty(out.shape[:2]) if case.logs else None
    fp.Direct().attend(pair, out, logs)
    return out[0], None if logs is None else logs[0]


# -- what is summed ---------------------------------------------------------------------------------------------------


def case(seed: int) -> Case:
    """The case of a seed."""
    rng, words, extra = np.random.default_rng([17, seed]), [], np.random.default_rng([18, seed])
    twist = str(extra.choice(list(_TWISTS), p=list(_TWISTS.values())))
    law = Sigmoid() if rng.random() < 0.15 else Exp()
    d = int(rng.choice([1, 2, 3, 4, 5, 6], p=[0.28, 0.36, 0.2, 0.1, 0.03, 0.03]))
    dtype = np.float32 if rng.random() < 0.1 else np.float64
    n, m = _size(rng), _size(rng)
    if twist in ("tall", "wide"):
        long, few = int(log_uniform(extra, 8000, 30000)), int(extra.integers(20, 60))
        n, m = (long, few) if twist == "tall" else (few, long)
    masked = isinstance(law, Exp) and rng.random() < 0.25
    keys, targets = _points(rng, n, m, d, masked, words)
    targets = targets[:: max(1, len(targets) // m)] if twist == "tall" else targets
    limits = _limits(rng, n, len(targets), words) if masked else None
    keys, targets = _scaled(rng, keys, targets, dtype, words)
    values = _values(rng, keys, dtype, words)
    keys, targets, values = _in_units(rng, keys, targets, values, dtype, words)
    bias, weights = _bias(rng, n, law, words), _weights(rng, n, words)
    normalised = isinstance(law, Exp) and rng.random() < 0.65
    logs = isinstance(law, Exp) and ((values is not None and values.shape[1] == 0) or rng.random() < 0.4)
    keys = np.ascontiguousarray(keys, dtype)[None]
    pair = PairSum(
        law, normalised, np.ascontiguousarray(targets, dtype)[None], keys,
        None if values is None else np.ascontiguousarray(values, dtype)[None],
        None if bias is None else bias.astype(dtype)[None], None if weights is None else weights[None], limits,
    )  # fmt: skip
    words.insert(0, type(law).__name__ + (" normalised" if normalised else "") + (" logs" if logs else ""))
    tol, regime, checked = log_uniform(rng, 1e-13, 1e-2), _regime(rng, masked), bool(rng.random() < 0.5)
    pair = _twisted(extra, twist, pair, tol, words)
    before = _other(extra, pair) if twist == "reused" else None
    beside = _another(extra, pair) if twist == "batch" else None
    return Case(seed, pair, logs, min(tol, pair.tol), regime, checked, ", ".join(words), before, beside)


# What is changed a little, in how many of the cases.
_TWISTS = {
    "none": 0.45, "axes": 0.06, "l2": 0.1, "sinkhorn": 0.05, "reused": 0.07, "tolerance": 0.04, "repeated": 0.05,
    "near": 0.05, "batch": 0.05, "tall": 0.05, "wide": 0.03,
}  # fmt: skip


def _size(rng):
    kind = rng.random()
    if kind < 0.06:
        return int(rng.integers(1, 20))
    return int(log_uniform(rng, 150, 1500)) if kind < 0.97 else int(log_uniform(rng, 1500, 4000))


def _regime(rng, masked):
    names = ["grid", "halves", "halves_of_trees", "natural"] if masked else [
        "grid", "trees", "grids_of_trees", "leaves_of_trees", "natural"
    ]  # fmt: skip
    share = [0.4, 0.25, 0.3, 0.05] if masked else [0.42, 0.2, 0.18, 0.15, 0.05]
    return str(rng.choice(names, p=share))


def _points(rng, n, m, d, masked, words):
    """Keys (n, d) and targets (m or n, d), not yet scaled."""
    name = str(rng.choice(list(CLOUDS)))
    keys, relation = CLOUDS[name](rng, n, d), rng.random()
    matrix = _matrix(rng, keys, words)
    if relation < 0.5:
        targets = keys @ matrix.T
        words.insert(0, f"{name} to itself")
    elif relation < 0.7:
        targets = CLOUDS[name](rng, m, d) @ matrix.T
        words.insert(0, f"{name} to its like")
    else:
        other = str(rng.choice(list(CLOUDS)))
        targets = CLOUDS[other](rng, m, d) @ matrix.T
        words.insert(0, f"{name} to {other}")
    if rng.random() < 0.1:
        few = rng.integers(0, len(targets), int(rng.integers(1, 4)))
        targets[few] *= log_uniform(rng, 10.0, 1e6)
        words.append("targets far out")
    if rng.random() < 0.1:
        targets = targets + rng.standard_normal(d) * np.abs(targets).max() * log_uniform(rng, 1.0, 1e6)
        words.append("targets offset")
    return keys, targets


def _matrix(rng, keys, words):
    """A (d, d) that makes targets of tokens; some find the thin axes of the keys and amplify them."""
    d, kind = keys.shape[1], str(rng.choice(["identity", "random", "one row", "amplify", "thin only", "negative"]))
    words.append(kind)
    if kind in ("identity", "negative"):
        return np.eye(d) * (1.0 if kind == "identity" else -1.0)
    if kind == "random":
        return rng.standard_normal((d, d)) * np.geomspace(1.0, log_uniform(rng, 1e-7, 1.0), d)
    if kind == "one row":
        return np.outer(rng.standard_normal(d), rotation(rng, d)[0])
    U, s, _ = np.linalg.svd((keys - keys.mean(axis=0)).T, full_matrices=False)
    s = np.where(s > 1e-13 * s.max(initial=0.0), s, np.inf) / max(s.max(initial=0.0), 1e-300)
    gain = 1.0 / s
    if kind == "thin only":
        gain *= gain == gain.max()
    return (U * gain**2) @ U.T if rng.random() < 0.5 else (U * gain) @ U.T


def _limits(rng, n, m, words):
    kind = str(rng.choice(["causal", "random", "few", "first", "one", "all", "late"]))
    words.append(f"mask {kind}")
    if kind == "causal":
        return np.minimum(1 + np.arange(m) * n // m, n)
    if kind == "random":
        return np.sort(rng.integers(1, n + 1, m))
    if kind == "few":
        return np.sort(rng.choice(rng.integers(1, n + 1, 4), m))
    if kind == "first":
        return np.where(np.arange(m) < m // 2, 1, n)
    if kind == "late":
        return np.where(np.arange(m) < m - 1, max(1, n // 3), n)
    return np.full(m, 1 if kind == "one" else n)


def _scaled(rng, keys, targets, dtype, words):
    """Targets with small to large logits, by the largest or by a typical one; keys perhaps offset."""
    some = np.abs(targets[:: max(1, len(targets) // 400)] @ (keys - keys.mean(axis=0)).T)
    by = some.max() if rng.random() < 0.5 else np.sqrt(np.square(some).mean())
    size = log_uniform(rng, 1e-3, 1.0) if rng.random() < 0.2 else log_uniform(rng, 1.0, 1500.0)
    if by > 0:
        targets = targets * (size / by)
    words.append(f"logits {size:.2g}")
    if rng.random() < 0.12:
        far = rng.standard_normal(keys.shape[1]) * np.abs(keys).max() * log_uniform(rng, 1.0, 1e8)
        if rng.random() < 0.5:
            far *= np.arange(len(far)) == rng.integers(0, len(far))
        keys = keys + far
        words.append("keys offset")
    largest = (np.abs(targets) @ np.abs(keys).max(axis=0)).max()
    return keys, targets * min(1.0, _MOST_SCORE[dtype] / max(largest, 1e-300))


def _values(rng, keys, dtype, words):
    """(n, c), or None for the keys themselves."""
    n, kind = len(keys), str(rng.choice(["keys", "linear", "independent", "constant", "one", "none", "heavy", "offset"],
                                        p=[0.3, 0.27, 0.14, 0.04, 0.05, 0.05, 0.08, 0.07]))  # fmt: skip
    c = int(rng.integers(1, 5))
    words.append(f"values {kind}")
    if kind == "keys":
        return None
    if kind == "none":
        return np.empty((n, 0))
    g = rng.standard_normal((n, c))
    if kind == "linear":
        v = keys @ rng.standard_normal((keys.shape[1], c))
        thin = np.abs(v).max() * log_uniform(rng, 1e-15, 0.1)
        users = rng.random((n, 1)) < rng.choice([1.0, 0.01, 2.0 / n])
        v = v + thin * g * users * (rng.random() < 0.8)
    elif kind == "constant":
        v = np.ones((n, c)) * rng.standard_normal(c)
    elif kind == "one":
        v = np.zeros((n, c))
        v[int(rng.integers(0, n))] = g[0]
    elif kind == "heavy":
        v = np.clip(rng.standard_t(0.7, (n, c)), -1e8, 1e8)
    else:
        v = g + (log_uniform(rng, 1.0, 1e8) if kind == "offset" else 0.0)
    if rng.random() < 0.15:
        unit = 10.0 ** rng.uniform(-200, 200) if dtype is np.float64 else 10.0 ** rng.uniform(-25, 20)
        v = v * unit
        words.append(f"times {unit:.1g}")
    return v


def _in_units(rng, keys, targets, values, dtype, words):
    """The same sum in other units."""
    if rng.random() > 0.15:
        return keys, targets, values
    size = np.abs(keys).max() or 1.0
    unit = (10.0 ** rng.uniform(-200, 200) if dtype is np.float64 else 10.0 ** rng.uniform(-15, 15)) / size
    words.append(f"unit {unit:.1g}")
    return keys * unit, targets / unit, values


def _bias(rng, n, law, words):
    kind = str(rng.choice(["none", "one", "random", "shift", "wide", "ramp", "peak"],
                          p=[0.5, 0.12, 0.14, 0.08, 0.06, 0.05, 0.05]))  # fmt: skip
    if kind == "none":
        return None
    words.append(f"bias {kind}")
    if kind == "one":
        return np.full(n, log_uniform(rng, 0.1, 30.0) * rng.choice([-1.0, 1.0]))
    if kind == "random":
        return rng.standard_normal(n)
    if kind == "shift":
        return np.full(n, 700.0 * rng.choice([-1.0, 1.0])) + (rng.standard_normal(n) * rng.choice([0.0, 1.0]))
    if kind == "wide":
        return rng.uniform(-1, 1, n) * log_uniform(rng, 50.0, 2000.0)
    if kind == "ramp":
        return np.linspace(-1, 1, n) * log_uniform(rng, 50.0, 2000.0) * rng.choice([-1.0, 1.0])
    return np.where(np.arange(n) == rng.integers(0, n), log_uniform(rng, 1.0, 800.0), 0.0)


def _weights(rng, n, words):
    kind = str(rng.choice(["none", "random", "spikes", "tiny", "wide"], p=[0.65, 0.12, 0.08, 0.08, 0.07]))
    if kind == "none":
        return None
    words.append(f"weights {kind}")
    w = rng.uniform(0.1, 2.0, n)
    if kind == "spikes":
        w[rng.integers(0, n, 3)] *= log_uniform(rng, 10.0, 1e12)
    elif kind == "tiny":
        w[rng.random(n) < rng.choice([0.1, 0.9])] = 1e-300
        w[int(rng.integers(0, n))] = 1.0
    elif kind == "wide":
        w = np.exp(rng.uniform(-1, 0, n) * log_uniform(rng, 10.0, 600.0))
    return w / w.sum()


def _twisted(rng, kind, pair, tol, words):
    """The pair, perhaps changed a little more."""
    if kind != "none":
        words.append(f"twist {kind}")
    z, y, dtype = pair.targets[0].astype(float), pair.keys[0].astype(float), pair.keys.dtype
    if kind == "tolerance":  # the pair asks for more than the backend
        return replace(pair, tol=max(1e-13, tol * log_uniform(rng, 1e-4, 1.0)))
    if kind == "near":  # targets that are the sources, nearly, or moved, or in another order
        unit = y / max(np.abs(y).max(), 1e-300)
        near = np.abs(z).max() * (unit + log_uniform(rng, 1e-17, 1e-2) * rng.standard_normal(y.shape))[: len(z)]
        near += (rng.random() < 0.3) * rng.standard_normal(y.shape[1]) * np.abs(z).max()
        near = rng.permutation(near) if rng.random() < 0.2 else near
        return pair if len(near) < len(z) else replace(pair, targets=near.astype(dtype)[None])
    if kind == "repeated":  # most targets are one
        z = np.where(np.arange(len(z))[:, None] % 10 == rng.integers(0, 10), z, z[rng.integers(0, len(z))])
        return replace(pair, targets=z.astype(dtype)[None])
    if kind == "axes":  # each coordinate has a unit of its own
        most = 300 if dtype == np.float64 else 20
        units = 2.0 ** rng.integers(-most, most, y.shape[1])
        largest = max((np.abs(y).max(axis=0) * units).max(), (np.abs(z).max(axis=0) / units).max())
        if largest > (1e150 if dtype == np.float64 else 1e30) or float(np.abs(pair.carried).max(initial=0.0)) > 1e150:
            return pair
        keys = (y * units).astype(dtype)[None]
        return replace(pair, targets=(z / units).astype(dtype)[None], keys=keys)
    if kind not in ("l2", "sinkhorn") or isinstance(pair.weight, Sigmoid):
        return pair
    scores = z[rng.integers(0, len(z), 40)] @ y.T
    if kind == "l2":  # the bias is a square of the keys, as large as the scores
        square = np.square(y / max(np.abs(y).max(), 1e-300)).sum(axis=1)
        bias = -square * np.abs(scores).max() * log_uniform(rng, 0.1, 3.0)
    else:  # it makes all sources matter to someone
        top = scores.max(axis=0)
        bias = -top - np.log(np.exp(scores - top).sum(axis=0))
    return replace(pair, bias=bias.astype(dtype)[None])


def _another(rng, pair):
    """Another system of the same shape."""
    keys, targets = (rng.standard_normal(points.shape).astype(points.dtype) for points in (pair.keys, pair.targets))
    values = None if pair.values is None else rng.standard_normal(pair.values.shape).astype(keys.dtype)
    return replace(pair, keys=keys, targets=targets, values=values)


def _batch(first, second):
    """Two systems as one pair sum."""
    keys, targets = (np.concatenate([getattr(pair, name) for pair in (first, second)]) for name in ("keys", "targets"))
    values = None if second.values is None else np.concatenate([first.values, second.values])
    bias = None if second.bias is None else np.concatenate([first.bias, second.bias])
    return replace(second, keys=keys, targets=targets, values=values, bias=bias)


def _other(rng, pair):
    """A sum of another shape."""
    n, m, k, c = (int(rng.integers(1, most)) for most in (600, 600, 5, 4))
    keys, targets = rng.standard_normal((1, n, k)), rng.standard_normal((1, m, k))
    limits = None if pair.limits is None else np.sort(rng.integers(1, n + 1, m))
    values = None if rng.random() < 0.5 else rng.standard_normal((1, n, c))
    return PairSum(pair.weight, pair.normalised, targets, keys, values, limits=limits)


# -- many of them -----------------------------------------------------------------------------------------------------


@dataclass(frozen=True)
class Tally:
    """What a range of seeds came to.

    Attributes:
        how: how many were summed in which way.
        worst: the largest error over tol and rounding; excess: over the bound and rounding.
        wrong: the cases that were not good, in words.
    """

    how: Counter
    worst: float
    excess: float
    wrong: list[str]

    @property
    def fast(self) -> int:
        """How many were summed in O(n)."""
        return sum(count for how, count in self.how.items() if how not in ("direct", "raised"))


def tally(seeds, show=None) -> Tally:
    """Judges the cases of some seeds; `show` is handed every violation in words as it is found."""
    how, worst, excess, wrong = Counter(), 0.0, 0.0, []
    for seed in seeds:
        one = case(seed)
        found = verdict(one)
        how[found.how] += 1
        worst, excess = max(worst, found.ratio), max(excess, found.excess)
        if not found.good:
            says = f"error {found.ratio:.2g} (tol), {found.excess:.2g} (bound {found.bound:.1e}) {found.raised}"
            wrong.append(f"{one}: {found.how}: {says}")
            if show is not None:
                show(wrong[-1])
    return Tally(how, worst, excess, wrong)


def main(first: int, count: int) -> int:
    found = tally(range(first, first + count), lambda line: print(line, flush=True))
    print(f"{count} cases: {len(found.wrong)} wrong, worst error / (tol + rounding) {found.worst:.3g}, "
          f"/ (bound + rounding) {found.excess:.3g}")  # fmt: skip
    print(f"in O(n): {found.fast} ({dict(found.how)})")
    return int(bool(found.wrong))


def explain(seed: int) -> int:
    """Prints how one case goes, and its worst sum and log."""
    one = case(seed)
    found, pair = verdict(one), one.pair
    print(f"{one}\n{found}")
    truth = oracle.exact(pair)
    fast = summed(one)[:2] if found.how != "raised" else (None, None)
    for name, (out, logs) in {"fast": fast, "direct": directly(one)}.items():
        if out is None:
            continue
        print(f"{name}: {oracle.ratio(truth, out, logs, one.tol):.3g} over tol and rounding")
        if out.size:
            ratios = oracle.of_sums(truth, out, one.tol)
            i, c = np.unravel_index(np.argmax(ratios), ratios.shape)
            print(f"  sum [{i}, {c}]: {out[i, c]!r}, truth {truth.sums[i, c]!r}, log of the total {truth.logs[i]!r}, "
                  f"unit {truth.unit[i, 0]:.3g}, rounding {truth.rounding[i, 0]:.3g}")  # fmt: skip
        if logs is not None:
            i = int(np.argmax(oracle.of_logs(truth, logs, one.tol)))
            print(f"  log [{i}]: {logs[i]!r}, truth {truth.logs[i]!r}, rounding {truth.log_rounding[i]:.3g}")
    return int(not found.good)


if __name__ == "__main__":
    sys.exit((explain if len(sys.argv) == 2 else main)(*map(int, sys.argv[1:])))
