"""Gaussian laws under attention: N(mean, cov) stays Gaussian, and mean and covariance obey ODEs (Theory 2-4)."""

from ..laws.gaussian import Gaussian
from .asymptotics import GaussianLimit, limit
from .bures_flow import bures_dissipation, bures_energy
from .classification import Outcome
from .disturbances import growth_rates
from .explicit import invariant, kernel
from .moments_flow import GaussianSolution, solve_gaussian

__all__ = [
    "Gaussian",
    "GaussianLimit",
    "GaussianSolution",
    "Outcome",
    "bures_dissipation",
    "bures_energy",
    "growth_rates",
    "invariant",
    "kernel",
    "limit",
    "solve_gaussian",
]
