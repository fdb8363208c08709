"""Gaussian laws under attention: N(mean, cov) stays Gaussian, and mean and covariance obey ODEs (MATH 2-4)."""

from .energy import bures_dissipation, bures_energy
from .explicit import invariant, kernel
from .flow import GaussianSolution, solve_gaussian
from .limits import GaussianLimit, limit
from .measure import Gaussian
from .verdict import Outcome

__all__ = [
    "Gaussian",
    "GaussianLimit",
    "GaussianSolution",
    "Outcome",
    "bures_dissipation",
    "bures_energy",
    "invariant",
    "kernel",
    "limit",
    "solve_gaussian",
]
