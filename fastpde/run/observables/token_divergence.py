"""The mean divergence of the field at the tokens: the rate at which the entropy of their law grows (Theory 12.3)."""

from __future__ import annotations

from typing import Any

import numpy as np

from fastpde.attention.cloud import make_cloud
from fastpde.attention.derivatives import widened
from fastpde.config import Problem
from fastpde.errors import ConvergenceError, InputError
from fastpde.observable import Observable
from fastpde.tangents import divergence

Array = np.ndarray[Any, Any]


def observable(problem: Problem, attention: Any, backend: Any, positions: Any) -> Observable | None:
    """Return the mean divergence, on the run's manifold; None if it is not recorded.

    What noise adds to the rate of the entropy is not included. It is nan where a scaling does not converge. Raises
    InputError for tokens on several processes.
    """
    from fastpde.sums import resolve

    if not problem.config.output.divergence:
        return None
    summing, manifold = resolve(backend), problem.manifold()
    if summing.processes > 1:
        came = f"true, for tokens on {summing.processes} processes"
        raise InputError("output.divergence", came, "false", "Derivatives need one process.")

    def mean(t: float, x: Array) -> float:
        cloud = widened(make_cloud(attention, x, summing, None, positions))
        try:
            with summing.evaluation():
                linear = attention._linearised(cloud, t, summing)
                return float(divergence(manifold, cloud.x, linear).mean())
        except ConvergenceError:
            return np.nan

    return Observable("divergence", ["divergence"], mean)
