"""Random attention problems with their naive answers, exact solutions of Theory 3, and what runs in other processes."""

from __future__ import annotations

import hashlib
import json
import os
import subprocess
import sys
from contextlib import contextmanager
from dataclasses import dataclass, field, replace
from pathlib import Path

import numpy as np

import fastpde as fp
from fastpde.attention.single_head import SingleHead

from . import naive

ROOT = Path(fp.__file__).parents[1]
# One pair sum each. Sinkhorn is an iteration of them, with a tolerance of its own: tests/attention/test_sinkhorn.py.
VARIANTS = sorted(
    cls.__name__
    for cls in SingleHead.__subclasses__()
    if cls.__module__.startswith("fastpde.") and cls is not fp.Sinkhorn
)
DTYPES = ("float64", "float32")
EPS = {"float64": 2.0**-52, "float32": 2.0**-23}
# The promise for moderate logits, relative to the largest velocity.
CONTRACT = {"float64": 1e-13, "float32": 5e-6}


@dataclass(frozen=True)
class Case:
    """One evaluation of one variant on one system, for the package and for the oracle."""

    kind: str
    x: np.ndarray
    Q: np.ndarray
    K: np.ndarray
    V: np.ndarray
    options: dict = field(default_factory=dict)  # scale, bias
    data: dict = field(default_factory=dict)  # weights, positions, at, at_positions

    def with_(self, **changes):
        return replace(self, **changes)

    @property
    def attention(self):
        plain = getattr(fp, self.kind)(self.Q, self.K, self.V, **self.options)
        return fp.Masked(plain) if "positions" in self.data else plain

    def velocity(self, backend="auto"):
        return self.attention.velocity(self.x, **self.data, backend=backend)

    def naive(self):
        return naive.velocity(self.kind, self.x, self.Q, self.K, self.V, **self.options, **self.data)

    def scaled_error(self, got):
        """Largest error over `naive.size` of its row, in units of eps (1 + max logit) sqrt(d): RELIABILITY asks <= 16.

        Where the value leaves the dtype, inf of the right sign is asked for and counts as no error; nan is nan.
        """
        arguments = (self.kind, self.x, self.Q, self.K)
        d, dtype = self.x.shape[1], self.x.dtype
        unit = EPS[dtype.name] * (1 + naive.largest_score(*arguments, **self.options, **self.data)) * np.sqrt(d)
        size = naive.size(*arguments, self.V, **self.options, **self.data)
        want, info = self.naive(), np.finfo(dtype)
        with np.errstate(invalid="ignore", over="ignore", divide="ignore"):
            # A value within rounding of the edge of the range may fall on either side of it.
            infinite = got == np.sign(want) * np.inf
            may_overflow = np.abs(want) > info.max * (1 - 16 * unit)
            must_overflow = np.abs(want) > info.max * (1 + 16 * unit)
            if not (np.isfinite(got) & ~must_overflow | infinite & may_overflow).all():
                return np.nan
            error = np.abs(naive.wide(got) - want)
            # Below the normal range numbers have an absolute spacing; a few of them are allowed.
            error -= 8 * np.sqrt(d) * info.smallest_subnormal + naive.saturation(self.kind, self.x, self.V, self.data)
            ratio = np.where(infinite | (error <= 0), 0, error / (unit * size))
        return float(ratio.max())


def random_case(kind, *, n=70, d=3, k=3, rows=None, seed=0, dtype="float64", m=None, weights=False, masked=False):
    """Tokens of size one with logits of a few units; `m` points, positions with ties in random order if asked for."""
    rng = np.random.default_rng([seed, n, d, k])
    rows = d if rows is None else rows
    Q, K = rng.normal(size=(2, k, d)) / (k * d) ** 0.25
    V = rng.normal(size=(rows, d)) / d**0.5
    options = {"scale": 0.8, **({"bias": -0.4} if kind == "Sigmoid" else {})}
    data = {}
    if weights:
        w = rng.uniform(0.1, 3.0, n)
        data["weights"] = w / w.sum()
    if m is not None:
        data["at"] = rng.normal(size=(m, d)).astype(dtype)
    if masked:
        # Few distinct places, so that there are ties; negative ones too. Every point sees the first token at least.
        data["positions"] = rng.integers(-n // 3, n // 3 + 1, n).astype(float)
        if m is not None:
            data["at_positions"] = rng.uniform(data["positions"].min(), n / 2, m).round()
    return Case(kind, (rng.normal(size=(n, d)) + 0.5).astype(dtype), Q, K, V, options, data)


def gauss_hermite(order, floor=1e-20):
    """Nodes and weights (positive, sum 1) of a standard normal law in 1-D.

    Nodes of weight below `floor` are left out and the others made to sum to one: moments of low degree change by about
    the floor times a power of the largest node, far below the tolerances used here.
    """
    nodes, weights = np.polynomial.hermite_e.hermegauss(order)
    weights = weights / weights.sum()
    keep = weights > floor
    return nodes[keep], weights[keep] / weights[keep].sum()


def evaluations():
    """Velocities and energies that touch every kernel: every variant, dtype, mask and batch; name -> array."""
    found = {}
    for kind in VARIANTS:
        for dtype in DTYPES:
            for n, d, k in ((1000, 2, 2), (600, 5, 3)):
                case = random_case(kind, n=n, d=d, k=k, dtype=dtype, weights=True)
                found[f"{kind} {dtype} {d}"] = case.velocity()
                masked = random_case(kind, n=n, d=d, k=k, dtype=dtype, masked=True)
                found[f"{kind} {dtype} {d} masked"] = masked.velocity()
                # Logits of some thousands: the wide mode of the kernels.
                found[f"{kind} {dtype} {d} wide"] = case.with_(x=case.x * np.asarray(30, dtype)).velocity()
                found[f"{kind} {dtype} {d} energy"] = np.asarray(fp.interaction_energy(case.attention, case.x))
            batch = np.stack([random_case(kind, n=33, d=2, k=2, seed=s, dtype=dtype).x for s in range(40)])
            found[f"{kind} {dtype} batch"] = case_like(kind, 2).velocity(batch)
            found[f"{kind} {dtype} masked batch"] = fp.Masked(case_like(kind, 2)).velocity(batch)
    # An iteration: a bit that differed in one sum would show in its result. Easy ones, as each sum wakes all threads.
    case = random_case("Softmax", n=400, d=2, k=2, weights=True)
    for name, K in (("symmetric", case.Q), ("other", case.K)):
        found[f"Sinkhorn {name}"] = fp.Sinkhorn(case.Q, K, case.V, eps=4.0).velocity(case.x, **case.data)
    batch = np.stack([case.x[:40], case.x[40:80]])
    run = fp.solve(fp.Sinkhorn(case.Q, case.K, case.V, eps=4.0), batch, (0.0, 0.2), method="euler", step=0.1)
    found["Sinkhorn run"] = run.x
    # Large enough for a threaded BLAS to split its products.
    big = random_case("L2", n=700, d=130, k=130)
    found["L2 d=130"], found["L2 d=130 energy"] = (
        big.velocity(),
        np.asarray(fp.interaction_energy(big.attention, big.x)),
    )
    found["Softmax d=130"] = random_case("Softmax", n=300, d=130, k=130, dtype="float32").velocity()
    return found


def case_like(kind, d):
    """An attention of a kind on R^d."""
    return random_case(kind, d=d, k=d).attention


def digests():
    """`evaluations`, each as a digest of its bits."""
    return {name: digest(array) for name, array in evaluations().items()}


def digest(array):
    """A few characters that tell arrays of different bits apart."""
    return hashlib.sha256(np.ascontiguousarray(array).tobytes()).hexdigest()[:16]


def softmax_pair(dtype):
    """Softmax velocities, narrow and wide, masked, as lists: for comparison to rounding."""
    found = {}
    for n, d, k in ((1, 1, 1), (385, 2, 2), (200, 9, 40)):
        for masked in (False, True):
            case = random_case("Softmax", n=n, d=d, k=k, dtype=dtype, masked=masked)
            for factor in (1, 12):
                x = case.x * np.asarray(factor, dtype)
                found[f"{n} {d} {masked} {factor}"] = (case.with_(x=x).velocity() / factor).tolist()
    return found


@contextmanager
def compiling_nothing():
    """A context in which no function may be compiled."""
    from numba.core import event

    with event.install_recorder("numba:compile") as compiled:
        yield
    assert compiled.buffer == []


def launch(code, *, root=ROOT, **environment):
    """Start `code` in a new interpreter, with the package in `root` and these variables (None: unset)."""
    path = os.pathsep.join([str(root), *filter(None, [os.environ.get("PYTHONPATH")])])
    merged = {**os.environ, "PYTHONPATH": path, "PYTHONDONTWRITEBYTECODE": "1", **environment}
    merged = {name: str(value) for name, value in merged.items() if value is not None}
    command = [sys.executable, "-c", code]
    return subprocess.Popen(command, cwd=root, env=merged, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


def finish(process, timeout=300):
    """What a process of `launch` printed in its last line, as JSON, and its standard error; raises if it failed."""
    try:
        out, err = process.communicate(timeout=timeout)
    finally:
        process.kill()
    if process.returncode != 0:
        raise AssertionError(f"exit {process.returncode}\n{out}\n{err}")
    return json.loads(out.splitlines()[-1]), err


def run(code, **options):
    """`launch` and `finish`."""
    return finish(launch(code, **options))
