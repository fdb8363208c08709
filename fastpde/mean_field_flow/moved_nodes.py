"""The law by sets of nodes that are moved as tokens."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .._types import Array
from ..errors import FieldError
from ..integrate import Integrator, Problem
from ..integrate.options import Options
from ..integrate.reporting import Report, reporting
from ..integrate.solve import run
from .carrier import Carrier, FlowPath, stops_between
from .node_field import NodeField
from .node_sets import NodeSets
from .setting import Setting

_MOST_STEPS = 20_000


@dataclass(frozen=True)
class Steps:
    """How nodes are moved.

    Attributes:
        rtol: relative tolerance of the steps.
        to_frames: whether steps end at the times at which states are kept, which are interpolated else.
        backend: how sums over nodes are made.
    """

    rtol: float
    to_frames: bool = True
    backend: str = "direct"


class MovedNodes(Carrier):
    """The law by sets of nodes; what is asked for is the mean over the sets.

    They are moved as far as `reach` asks for; the law is known when that is to the end.

    Attributes:
        sol: the run of the nodes and, behind them, the probes of the setting, as far as it has come.
        frames: at how many of the times of the setting it has been.
    """

    def __init__(self, setting: Setting, nodes: NodeSets, steps: Steps) -> None:
        """Place the nodes and the probes."""
        self.setting, self.nodes, self.steps = setting, nodes, steps
        points, places = setting.probes
        self._run = Integrator(self._problem(self._behind(nodes.x, points), places, setting.t))
        self.sol, self.frames = self._run.solution(), 0
        self.weights = _pooled(nodes.weights, len(nodes.x))
        self.how = "quadrature" if len(nodes.x) == 1 else "sobol"

    @property
    def ended(self) -> bool:
        """Whether the run is over."""
        return self._run.status is not None

    def reach(self, frame: int, report: Report | None = None) -> bool:
        """Move the nodes up to a time of the setting, unless they are there; return whether they came there.

        report: report(t, stats) is called after every step.
        """
        run, t = self._run, self.setting.t
        if self.frames > frame or self.ended:
            return self.frames > frame
        while not self.ended and (run.state.step == 0 or run.state.t < t[frame]):
            run.step()
            if report is not None:
                report(run.state.t, run.stats())
        self.sol = run.solution()
        self.frames = len(self.sol.x)
        return self.frames > frame

    @contextmanager
    def reporting(self) -> Iterator[Report | None]:
        """Yield the function for `reach` that shows the progress of this run as the setting asks for."""
        with reporting(self.setting.progress, self._run.problem.span) as report:
            yield report

    @cached_property
    def _path(self) -> FlowPath:
        kept = np.ascontiguousarray(self.sol.x[:, :, : self.nodes.count])
        return FlowPath(self.setting.t, kept, lambda x, start, end: self._follow(x, None, start, end))

    @property
    def probes(self) -> Array:
        """Where the probes are, (k, S, p, d), at the times that were reached."""
        return np.asarray(self.sol.x[:, :, self.nodes.count :])

    def moments_at(self, frame: int, one: int | None = None) -> tuple[Array, Array]:
        """Return means (k, d) and covariances (k, d, d) at the places of the setting, at one of its times.

        one: of one of the sets; None: of all together.
        """
        x = self.sol.x[frame, :, : self.nodes.count]
        return self.nodes.moments(x if one is None else x[one : one + 1], self.setting.places)

    def points(self, t: float, s: float | None) -> tuple[Array, Array]:
        if s is None or self.setting.stays_one_law:
            x = self._path(t)
            return x.reshape(-1, x.shape[2]), self.weights.copy()
        x, w = self.nodes.of_law(self.setting.law_at(s), 0)
        points = x.reshape(-1, x.shape[2])
        return self.push(t, points, np.full(len(points), s)), _pooled(w, len(x))

    def velocity(self, t: float, x: Array, s: Array | None) -> Array:
        nodes = self._path(t)
        at = np.broadcast_to(x, (len(nodes), *x.shape))
        return np.asarray(self._field(s).velocity(t, nodes, at, s).mean(axis=0))

    def push(self, t: float, x0: Array, s: Array | None) -> Array:
        start = float(self.setting.t[0])
        both = self._follow(self._behind(self._path(start), x0), s, start, t)
        return np.asarray(both[:, self.nodes.count :].mean(axis=0))

    def log_density(self, t: float, x: Array, s: Array | None) -> Array:
        law_at = self.setting.law_at
        places = np.full(len(x), 0.5) if s is None else s
        groups = [(law_at(float(place)), places == place) for place in np.unique(places)]
        for law, rows in groups:
            law.log_density(x[rows][:1])  # refused before any work
        both = np.pad(self._behind(self._path(t), x), ((0, 0), (0, 0), (0, 1)))
        found = self._follow(both, s, t, float(self.setting.t[0]))[:, self.nodes.count :]
        logs = found[:, :, -1].copy()
        for law, rows in groups:
            logs[:, rows] += law.log_density(found[:, rows, :-1])
        return np.asarray(logs.mean(axis=0))

    def moments(self, t: float, s: float | None) -> tuple[Array, Array]:
        means, covs = self.nodes.moments(self._path(t), np.array([0.5 if s is None else s]))
        return means[0], covs[0]

    def _behind(self, nodes: Array, points: Array) -> Array:
        """Return nodes (S, q, d), and behind those of each set the points (p, d)."""
        return np.concatenate([nodes, np.broadcast_to(points, (len(nodes), *points.shape))], axis=1)

    def _field(self, places: Array | None, stops: Any = ()) -> NodeField:
        return NodeField(self.setting.attention, self.nodes, places, stops, self.steps.backend)

    def _follow(self, both: Array, places: Array | None, start: float, end: float) -> Array:
        """Return nodes and points (S, q + p, ...) at time `end`, moved from `start`. Raises FieldError."""
        if start == end:
            return both
        times = np.array([start, *stops_between(self.setting.t, start, end), end])
        sol = run(self._problem(both, places, times))
        if not sol.success:
            raise sol.cause or FieldError(sol.message)
        return np.asarray(sol.x[-1])

    def _problem(self, both: Array, places: Array | None, t: Array) -> Problem:
        """Return the problem of moving nodes, and the points behind them, from t[0] to t[-1], kept at times t."""
        if self.nodes.rule is None:
            places = None
        elif places is None:
            places = np.empty(0)
        field = self._field(places, t[1:-1].tolist() if self.steps.to_frames else ())
        rtol = self.steps.rtol
        options = Options(rtol=rtol, atol=rtol * self.setting.scale, max_steps=_MOST_STEPS, t_eval=t)
        return Problem.checked(field, both, (float(t[0]), float(t[-1])), options)


def _pooled(w: Array, sets: int) -> Array:
    """Return the weights of the nodes of all sets together, whose weights are w (q,) in each."""
    return np.tile(w / sets, sets)
