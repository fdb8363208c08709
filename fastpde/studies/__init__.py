"""Numerical studies: functions that return a table with `.plot()` and `.save()`, built on the public names of fastpde.

`rank_collapse` (ranks of limits, MATH 4.2), `phase_diagram` (how random Gaussian laws end), `covariance_paths` (laws in
the cone of 2 x 2 covariances); `load` reads what `save` wrote.
"""

from .covariance_paths import CovariancePaths, covariance_paths, grid
from .phase_diagram import PhaseDiagram, phase_diagram
from .rank_collapse import RankCollapse, rank_collapse
from .saved import is_study, load
from .table import Column, Study

__all__ = [
    "Column",
    "CovariancePaths",
    "PhaseDiagram",
    "RankCollapse",
    "Study",
    "covariance_paths",
    "grid",
    "is_study",
    "load",
    "phase_diagram",
    "rank_collapse",
]
