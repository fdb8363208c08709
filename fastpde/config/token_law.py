"""The laws of the tokens that a configuration describes."""

from __future__ import annotations

from functools import lru_cache
from typing import Any

import numpy as np

from fastpde import laws


@lru_cache(maxsize=8)  # one law for all systems of an ensemble
def token_law(tokens: Any, d: int) -> laws.Law:
    """Return the law of the tokens of a configuration that come from no file."""
    if tokens.kind == "gaussian":
        cov = tokens.std**2 * np.eye(d) if tokens.cov is None else np.array(tokens.cov)
        return laws.Gaussian(0.0 if tokens.mean is None else tokens.mean, cov)
    if tokens.kind == "mixture":
        cov = tokens.std**2 * np.eye(d)
        return laws.Mixture([laws.Gaussian(mean, cov) for mean in tokens.means], tokens.weights)
    return laws.Ball(d, tokens.radius) if tokens.kind == "ball" else laws.Sphere(d, tokens.radius)
