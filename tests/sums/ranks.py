"""Run on every rank of `mpiexec`: what the processes find together against one process, printed by the first as JSON.

mpiexec -n P python -m mpi4py tests/sums/ranks.py direct | fast | error
"""

from __future__ import annotations

import json
import sys
from types import SimpleNamespace

import numpy as np

import fastpde as fp

Q, K = np.array([[0.7, -0.3], [0.2, 0.9]]), np.array([[0.5, 0.4], [-0.6, 0.8]])
V, W = np.array([[-0.6, 0.2], [0.1, -0.5]]), np.array([[0.3, 0.1], [0.0, 0.4]])
ONE = np.eye(2)
ATTENTIONS = {
    "softmax": fp.Softmax(Q, K, V),
    "l2": fp.L2(Q, K, V),
    "exponential": fp.Exponential(0.4 * Q, K, V),
    "sigmoid": fp.Sigmoid(Q, K, V, bias=0.2),
    "linear": fp.Linear(Q, K, V),
    "sinkhorn": fp.Sinkhorn(Q, K, V, tol=1e-4),
    "symmetric sinkhorn": fp.Sinkhorn(ONE, ONE, V, tol=1e-4),
    "masked": fp.Masked(fp.Softmax(Q, K, V)),
    "masked linear": fp.Masked(fp.Linear(Q, K, V)),
    "multihead": fp.MultiHead([fp.Softmax(Q, K, V), fp.L2(K, Q, W)], [ONE, W]),
}
# Less than two blocks of 16384 numbers for norms, and not a whole number of units of 32 tokens.
TOKENS = 301
# 1.5 of those blocks and more: some belong to two ranks, or three.
MANY = 12_301


class Wrong(fp.Fast):
    """Sums that are off by one on the last rank."""

    last = False

    def _choose_together(self, task):
        way, estimate = super()._choose_together(task)

        def attend(task, plan):
            way.attend(task, plan)
            task.out[:] += 1.0

        return SimpleNamespace(attend=attend) if self.last else way, estimate


class Comparison:
    """What the ranks find, beside what one process finds."""

    def __init__(self, inner: object) -> None:
        self.backend, self.inner = fp.Mpi(inner), inner
        self.found: dict[str, list[float]] = {}

    def compare(self, name, run, unit=None):
        """run(rows, backend) -> arrays of tokens and other arrays, on the ranks and here alone; keeps whether all bits
        are the same, and the largest difference (in units of unit of what is alone)."""
        rows, all_rows = self.backend.rows, lambda n: slice(0, n)
        (mine, others), (ref, ref_others) = run(rows, self.backend), run(all_rows, self.inner)
        ref = [array[..., rows(array.shape[-2]), :] for array in ref]
        pairs = [*zip(mine, ref, strict=True), *zip(others, ref_others, strict=True)]
        same = all(np.array_equal(a, b, equal_nan=True) for a, b in pairs)
        size = 1.0 if unit is None else float(np.abs(ref_others[0] if unit == "other" else ref[0]).max())
        error = max([0.0, *(float(np.abs(a - b).max(initial=0.0)) for a, b in zip(mine, ref, strict=True))]) / size
        every = self.backend._communicator.largest(np.array([0.0 if same else 1.0, error]))
        self.found[name] = [1.0 - every[0], every[1]]

    def tell(self, **more):
        if self.backend.rank == 0:
            print(json.dumps({"found": self.found, **more}), flush=True)


def cloud(n, dtype=np.float64):
    return (np.random.default_rng(n).standard_normal((n, 2)) + 0.5).astype(dtype)


def velocity(attention, x, **own):
    """A task for `Comparison.compare`: velocities, own arguments by rows too."""

    def run(rows, backend):
        mine = {name: value[rows(len(value))] for name, value in own.items()}
        return [attention.velocity(x[..., rows(x.shape[-2]), :], backend=backend, **mine)], []

    return run


def derivatives(attention, x, **own):
    """The same for tangents, divergences and cotangents, and for what is summed over all tokens."""
    dx, c = np.random.default_rng(2).standard_normal((2, *x.shape))

    def run(rows, backend):
        mine = {name: value[rows(len(value))] for name, value in own.items()} | {"backend": backend}
        here = x[rows(len(x))]
        tangent = attention.jvp(here, dx[rows(len(x))], **mine)[1]
        found = attention.vjp(here, c[rows(len(x))], **mine)
        others = [value for name, value in sorted(found.parameters.items()) if name != "weights"]
        return [tangent, found.x, attention.divergence(here, **mine)[:, None]], others

    return run


def solution(attention, x, t_end=0.4, positions=None, **asked):
    """The same for a run: states, and what all ranks must agree on."""

    def run(rows, backend):
        mine = {} if positions is None else {"positions": positions[rows(len(x))]}
        sol = fp.solve(attention, x[rows(len(x))], (0.0, t_end), backend=backend, **asked, **mine)
        told = [sol.t, np.array([float(sol.status is status) for status in fp.Status]), *sol.t_events]
        counts = [sol.stats.get(name, 0.0) for name in ("steps", "rejected", "evaluations", "half_iterations")]
        return [sol.x, *sol.x_events], [*told, np.array(counts)]

    return run


def ensemble(attention, x, **asked):
    """Systems (B, n, d), each with its own steps."""

    def run(rows, backend):
        sol = fp.solve(attention, x[:, rows(x.shape[1])], (0.0, 0.4), backend=backend, **asked)
        return [sol.x], [sol.stats["steps_each"]]

    return run


def square(n):
    """Tokens whose box does not grow with their number."""
    return np.random.default_rng(n).uniform(-2.0, 2.0, (n, 2))


def crossing(t, x):
    """An event that is a function gets all tokens."""
    return x.mean(axis=0)[0] - 0.45


def refused(backend):
    """What needs all tokens in one process says so: the errors' arguments."""
    x, found = cloud(128), []
    for wrong in (
        lambda: fp.wasserstein(x, x, 2, method="sinkhorn", backend=backend),
        lambda: fp.studies.mean_field(["softmax"], [64], 2, clt_draws=0, backend=backend),
        lambda: fp.Mpi(backend),
        lambda: fp.solve(ATTENTIONS["softmax"], x[: 32 * (backend.size - backend.rank)], (0.0, 1.0), backend=backend),
    ):
        try:
            wrong()
        except fp.InputError as error:
            found.append(error.name)
    return found


def direct(comparison):
    """Every kind of sum and step; the names say what."""
    x, rng = cloud(TOKENS), np.random.default_rng(1)
    weights, positions = rng.uniform(0.5, 1.5, TOKENS), rng.integers(0, 60, TOKENS)
    weights /= weights.sum()
    for name, attention in ATTENTIONS.items():
        own = {"weights": weights} | ({"positions": positions} if attention.masked else {})
        comparison.compare(f"{name}, velocity", velocity(attention, x, **own))
        comparison.compare(f"{name}, derivatives", derivatives(attention, x, **own))
        comparison.compare(f"{name}, rk4", solution(attention, x, method="rk4", step=0.2))
    narrow = ATTENTIONS["softmax"]
    events = [fp.BlowUp(2.0, terminal=False), fp.Collapsed(1.0, terminal=False), crossing, fp.SteadyState(1e-9)]
    loose = {"rtol": 1e-3, "atol": 1e-6}
    comparison.compare("dopri5, events", solution(narrow, 1.5 * x, 4.0, events=events, **loose))
    comparison.compare("masked, dopri5", solution(ATTENTIONS["masked"], x, positions=positions, **loose))
    comparison.compare("sinkhorn, dopri5", solution(ATTENTIONS["sinkhorn"], x, **loose))
    comparison.compare("float32", solution(narrow, x.astype(np.float32), **loose))
    comparison.compare("batch", ensemble(narrow, np.stack([x, 2.0 * x]), method="rk4", step=0.2))
    comparison.compare("batch, dopri5", ensemble(ATTENTIONS["linear"], np.stack([x, 0.5 * x]), **loose))
    ball = x / np.linalg.norm(x, axis=1, keepdims=True)
    comparison.compare(
        "noise, sphere", solution(narrow, ball, method="heun", step=0.1, noise=0.3, manifold=fp.Sphere())
    )
    # Scores on both sides of where tiles need a shift: a tile of targets must not be torn apart.
    comparison.compare("large scores", velocity(fp.Softmax(18.0 * ONE, 18.0 * ONE, V), x))
    comparison.compare("many", solution(fp.Linear(Q, K, V), cloud(MANY), **loose))
    comparison.compare("many, noise", solution(fp.Linear(Q, K, V), cloud(MANY), method="euler", step=0.2, noise=0.3))

    def energies(rows, backend):
        mine = x[rows(TOKENS)]
        found = [fp.interaction_energy(narrow, mine, backend=backend, log=log) for log in (False, True)]
        known = (ATTENTIONS["symmetric sinkhorn"], fp.Softmax(ONE, ONE, V), fp.Exponential(0.2 * ONE, ONE, V))
        found += [fp.dissipation(attention, mine, backend=backend) for attention in known]
        return [], [np.array(found)]

    comparison.compare("energies", energies)
    comparison.tell(refused=refused(comparison.backend))


def fast(comparison):
    """Errors of sums in O(n), in units of the largest velocity, and the bytes of one evaluation for several n."""
    tol, sent, fallen = 1e-7, {}, {}
    for n in (6000, 24_000):
        for name in ("softmax", "l2", "exponential", "linear", "sinkhorn", "masked", "sigmoid"):
            attention, x = ATTENTIONS[name], square(n)
            if name == "l2":  # a batch: each system has a grid
                x = np.stack([x, 0.5 * x])
            if name in ("masked", "sigmoid", "sinkhorn") and n > 6000:
                continue
            backend = fp.Mpi(fp.Fast(tol))
            comparison.backend, comparison.inner = backend, fp.Fast(tol) if n > 6000 else "direct"
            comparison.compare(f"{name}, {n}", velocity(attention, x), unit="own")
            sent[f"{name}, {n}"], fallen[f"{name}, {n}"] = (
                backend.stats()["bytes_sent"],
                backend.stats()["gathered_sums"],
            )
    weights = 10.0 ** np.random.default_rng(0).uniform(-12.0, 0.0, 6000)  # the ranks hold very different shares
    for name in ("masked", "softmax"):
        comparison.backend, comparison.inner = fp.Mpi(fp.Fast(tol)), "direct"
        comparison.compare(
            f"{name}, uneven", velocity(ATTENTIONS[name], square(6000), weights=weights / weights.sum()), "own"
        )
        fallen[f"{name}, uneven"] = comparison.backend.stats()["gathered_sums"]
    inner = Wrong(tol)
    comparison.backend, comparison.inner = fp.Mpi(inner), "direct"
    inner.last = comparison.backend.rank == comparison.backend.size - 1
    comparison.compare("a check fails", velocity(ATTENTIONS["softmax"], square(6000)), unit="own")
    failed = comparison.backend._communicator.largest(
        np.array([sign * inner.stats()["fast_failed"] for sign in (1.0, -1.0)])
    )
    comparison.tell(sent=sent, gathered=fallen, failed=failed.tolist())


def error(comparison):
    """One rank raises, the others wait for it."""
    x = cloud(TOKENS)[comparison.backend.rows(TOKENS)]
    if comparison.backend.rank == comparison.backend.size - 1:
        raise RuntimeError("this rank has failed")
    fp.solve(ATTENTIONS["softmax"], x, (0.0, 1.0), backend=comparison.backend)
    comparison.tell()


if __name__ == "__main__":
    {"direct": direct, "fast": fast, "error": error}[sys.argv[1]](Comparison("direct"))
