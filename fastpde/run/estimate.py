"""The cost estimate of a run: time, memory and disk, before anything runs.

A small run, or an ensemble, is begun as it is, for some seconds (`trial`). Of a large one the number of steps is not
guessed: a sample of the tokens is run over the whole time with the run's own method and tolerances, while a probe adds
up the cost estimates of its sums with all tokens (`sums.costs`). Tokens far out, of which a sample has few, make grids
larger. So the cost of the first sum is estimated with many tokens, and that of later sums in proportion.
"""

from __future__ import annotations

import math
import time
from dataclasses import dataclass, replace
from typing import Any

import numpy as np

from fastpde.attention.variants import named
from fastpde.config import Problem, memory_estimate
from fastpde.config.schema import FIXED
from fastpde.parallel.spread import Tokens
from fastpde.plot.view import MAX_FRAMES
from fastpde.run import machine, runner
from fastpde.run.observables import chosen
from fastpde.run.trial import trial
from fastpde.sums.costs import TYPICAL, Costs

SAMPLE = 2000  # tokens of the sample
_FIRST = 1_000_000  # tokens with which the cost of the first sum is estimated
_PATIENCE = 10.0  # seconds that the sample, or the trial, may run
_SOME = 100_000  # tokens for which observables are computed to see how long that takes
# Seconds on one thread per number of all tokens, measured: a stage of a step with its projections; a stored frame.
_STAGE, _FRAME = 3e-8, 2.5e-8
_WRITTEN = 1.5e-3  # seconds to write a frame, however small
START, _DRAWN, _MOVED = 1.0, 1.6, 0.04  # seconds to start, to draw pictures, and for each frame of the movie
_FRESH = 1.5e-9  # seconds per byte of memory: the system provides it, and sums are checked, for the first time
PICTURES = 1e6  # bytes
_ROW = 25  # bytes of a number in observables.csv


@dataclass(frozen=True)
class Estimate:
    """The cost estimate of a run: seconds, bytes, and what they are based on.

    Attributes:
        direct, fast, configured: the seconds with direct sums, with sums in O(n), and as configured.
        refused: the fraction of the sums that no way in O(n) helps, which `Fast` makes directly.
        evaluations: the number of velocities.
        share: the fraction of the time that the sample has run, below 1 where it was too slow to come to the end.
        memory, limit, disk: the bytes of memory that are needed and available, and those of the run directory.
        threads: the number of threads.
        token: what of the memory a token costs, and the method by which it moves.
        timed: what was run instead of a sample of the tokens, in words; empty if nothing was.
    """

    direct: float
    fast: float
    configured: float
    evaluations: float
    share: float
    memory: int
    limit: int
    disk: float
    threads: int
    token: tuple[memory_estimate.PerToken, str]
    refused: float = 0.0
    timed: str = ""

    def lines(self) -> list[str]:
        """Return the lines of a short table for people."""
        many = f"{self.threads} thread" + ("s" if self.threads > 1 else "")
        return [
            f"time        {duration(self.configured)} on {many}, compiled code in the cache",
            *self._ways(),
            f"memory      {size(self.memory)} of {size(self.limit)}; a run may need {memory_estimate.SHARE:.0%}",
            self._each(),
            f"disk        {size(self.disk)}",
            f"based on    {self._basis()}",
        ]

    def _each(self) -> str:
        (states, sums), method = self.token
        return (
            f"  a token   {states + sums:.0f} bytes: {states:.0f} of states and stages ({method}), {sums:.0f} of sums"
        )

    def _ways(self) -> list[str]:
        if self.timed:
            return []
        each = max(self.evaluations, 1.0)
        refused = f"; {self.refused:.0%} of its sums are direct: no way in O(n) helps" if self.refused else ""
        ways = (("direct", self.direct, ""), ("fast", self.fast, refused))
        return [
            f"  {name:<10}{duration(total)}, {duration(total / each)} a velocity{note}" for name, total, note in ways
        ]

    def _basis(self) -> str:
        if self.timed:
            return self.timed
        text = f"{self.evaluations:.0f} velocities, counted in a run of a sample of {SAMPLE} tokens at most"
        return text if self.share >= 1.0 else f"{text}, which came through {self.share:.0%} of the time"


class _Enough(Exception):
    """The end of a sample that has run for long enough."""


def estimate(problem: Problem) -> Estimate:
    """Return the cost estimate of a run of the problem.

    Raises InputError for files with unusable numbers; a problem that was resolved fits into memory.
    """
    from fastpde import sums

    threads = sums.threads()
    needs = memory_estimate.at_work(problem.config, problem.systems, problem.n, problem.d)
    token = memory_estimate.of_token(problem.config, problem.n, problem.d), problem.config.time.method
    rest: Any = {"memory": needs, "limit": machine.memory(), "threads": threads, "token": token}
    start = overhead(problem) + _FRESH * (needs - memory_estimate.BASE)
    if (problem.systems > 1 or problem.n <= SAMPLE) and (tried := trial(problem, _PATIENCE)) is not None:
        seconds, many = start + tried.seconds, f"{tried.systems} systems" if tried.systems else "the run itself"
        told = f"{many}, run" + ("" if tried.share >= 1.0 else f" through {tried.share:.0%}")
        room = tried.bytes + PICTURES
        return Estimate(seconds, seconds, seconds, tried.evaluations, tried.share, disk=room, timed=told, **rest)
    problem = problem.calibrated()
    first, sample, share = _sums(problem)
    steps = problem.systems * sample.evaluations * problem.n * problem.d * _STAGE
    start += steps / Costs(threads=threads).speed + problem.systems * len(problem.times()) * _frame(problem)
    direct, fast = (start + problem.systems * each for each in (sample.direct / share, first * sample.fast / share))
    configured = {"direct": direct, "fast": fast, "auto": min(direct, fast)}[problem.config.backend.kind]
    written = disk(problem, configured)
    return Estimate(
        direct, fast, configured, sample.evaluations, share, disk=written, refused=sample.refused, **rest
    )  # fmt: skip


def overhead(problem: Problem) -> float:
    """Return the seconds to start a run, and to draw its pictures."""
    frames = min(len(problem.times()), MAX_FRAMES) if problem.systems == 1 and problem.d > 1 else 0
    return START + _DRAWN + _MOVED * frames


def _frame(problem: Problem) -> float:
    """Return the seconds that a frame takes: to be stored, and for observables whose sums are not priced."""
    some = _some(problem, _SOME)
    tokens, seconds = Tokens.alone(some.tokens()), 0.0
    for one in chosen(some, problem.attention(), problem.backend(), some.positions()):
        if not one.shared or one.name == "moments":
            began = time.monotonic()
            one.of_one(problem.config.time.t_start, tokens)
            seconds += time.monotonic() - began
    return _WRITTEN + problem.n * problem.d * _FRAME + seconds * problem.n / some.n


@dataclass(frozen=True)
class _Sample:
    """The cost of the sums with all tokens, in seconds over the part of the time that the sample has run, the fraction
    of them that no way in O(n) helps, and the number of velocities in the whole time.
    """

    direct: float
    fast: float
    refused: float
    evaluations: float


def _sums(problem: Problem) -> tuple[float, _Sample, float]:
    """Run the sample; return the ratio of `_dearer`, the costs of its sums, and the fraction of the time it has run."""
    time_, some = problem.config.time, _some(problem, SAMPLE)
    probe = _probe(problem, some.n)
    reached, evaluations = time_.t_start, 0.0
    began = time.monotonic()

    def step(t: float, stats: dict[str, Any]) -> None:
        nonlocal reached, evaluations
        reached, evaluations = t, float(stats.get("evaluations", 0))
        if time.monotonic() - began > _PATIENCE:
            raise _Enough

    _solve(some, probe, step)
    share = min(1.0, max((reached - time_.t_start) / (time_.t_end - time_.t_start), 1e-6))
    found = _Sample(probe.direct, probe.fast, probe.direct_sums / max(probe.sums, 1), evaluations / share)
    return _dearer(problem, some), found, share


def _solve(problem: Problem, backend: Any, step: Any) -> None:
    """Run a problem of one system with this backend, with the observables of the run, until `step` raises `_Enough`."""
    import fastpde as fp

    attention = problem.attention()
    observables = chosen(problem, attention, backend, positions := problem.positions())

    def observe(t: float, x: Any) -> None:
        for one in observables:
            if one.shared:  # the others make no sums
                one.of_one(t, Tokens.alone(x))

    observers = [fp.Observer(observe, **runner.cadence(problem))]
    arguments = runner.arguments(problem) | {"backend": backend, "events": (), "positions": positions}
    try:
        fp.solve(attention, problem.tokens(), **arguments, observers=observers, progress=step)
    except _Enough:
        return


def _dearer(problem: Problem, some: Problem) -> float:
    """Return by what factor the first velocity of many tokens costs more than that of the sample; 1 for Sinkhorn heads,
    whose sums are part of an iteration.
    """
    if problem.n <= some.n or any(named(head.kind).scales for head in problem.config.attention.heads):
        return 1.0
    prices = []
    for cloud in (_some(problem, _FIRST), some):
        probe = _probe(problem, cloud.n)
        probe.make = False
        asked: dict[str, Any] = {"t": problem.config.time.t_start, "positions": cloud.positions()}
        cloud.attention().velocity(cloud.tokens(), **asked, backend=probe)
        prices.append(probe.fast)
    return prices[0] / prices[1] if prices[1] > 0 else 1.0


def _some(problem: Problem, n: int) -> Problem:
    """Return the problem with one system of at most n tokens."""
    return replace(problem, n=min(n, problem.n), systems=1)


def _probe(problem: Problem, n: int) -> Any:
    from fastpde import sums
    from fastpde.sums.prediction import Probe

    asked = problem.config.backend
    return Probe(asked.tol, replace(asked.costs or TYPICAL, threads=float(sums.threads())), problem.n / n)


def disk(problem: Problem, seconds: float) -> float:
    """Return the predicted bytes of the directory of a run of `seconds`: frames, observables, checkpoints, pictures."""
    config, frames = problem.config, len(problem.times())
    itemsize = np.dtype(config.backend.dtype).itemsize
    stored = min(problem.n, config.output.max_tokens)
    states = frames + (1 if problem.systems > 1 else 0)
    trajectory = states * problem.systems * stored * problem.d * itemsize
    rows = (frames + (problem.systems if problem.systems > 1 else 0)) * (8 + 2 * problem.d) * _ROW
    arrays = 1 if config.time.method in FIXED else 2  # tokens, and the velocity that a step hands to the next
    # Two generations of checkpoints; the very first one has nothing remembered in it yet.
    full = 2 if seconds > config.output.checkpoint else 1
    state = problem.n * (2 * arrays * problem.d * itemsize + full * 8 * memory_estimate.remembered(config))
    return trajectory + rows + (state if problem.systems == 1 else 0) + PICTURES


def duration(seconds: float) -> str:
    """Return a time with two digits, in a suitable unit."""
    for unit, size, limit in (("ms", 1e-3, 1.0), ("s", 1.0, 120.0), ("min", 60.0, 7200.0), ("h", 3600.0, 172_800.0)):
        if seconds < limit:
            return f"{seconds / size:.2g} {unit}" if seconds / size < 100 else f"{seconds / size:.0f} {unit}"
    return f"{seconds / 86400:.3g} days"


def size(count: float) -> str:
    """Return a number of bytes with its unit."""
    power = min(3, max(1, int(math.log2(max(count, 1.0)) // 10)))
    return f"{count / 2 ** (10 * power):.3g} {('KiB', 'MiB', 'GiB')[power - 1]}"
