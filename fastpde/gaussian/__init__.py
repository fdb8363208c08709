"""Gaussian laws under attention: N(mean, cov) stays Gaussian, and mean and covariance obey ODEs (MATH 2-4)."""

from .flow import GaussianSolution, solve_gaussian
from .measure import Gaussian

__all__ = ["Gaussian", "GaussianSolution", "solve_gaussian"]
