"""Numerical studies: functions that return a table with `.plot()` and `.save()`, built on the public names of fastpde.

`rank_collapse` finds ranks of limits (Theory 4.2), `phase_diagram` how random Gaussian laws end, `covariance_paths`
paths of laws in the cone of 2 x 2 covariances. `mean_field` compares n tokens with the limit of their law (Theory 8.3,
13.4), `stability` pairs of clouds with the bounds of Theory 8.1; `stationary_points` finds where laws go if nothing
commutes (12.4). `blow_up` follows laws with large supports to the end of their existence (13.5), and `energy_convexity`
asks where the softmax energy bends down (7). `sequence_task` trains small Transformers on sequences. `load` reads what
`save` wrote.
"""

from .blow_up import BlowUp, blow_up
from .covariance_paths import CovariancePaths, covariance_paths, grid
from .energy_convexity import EnergyConvexity, energy_convexity
from .limit_table import MeanField
from .mean_field import mean_field
from .phase_diagram import PhaseDiagram, phase_diagram
from .rank_collapse import RankCollapse, rank_collapse
from .saved import is_study, load
from .sequence_task import SequenceTask, sequence_task
from .stability import Stability, stability
from .stationary_points import StationaryPoints, stationary_points
from .table import Column, Study

__all__ = [
    "BlowUp",
    "Column",
    "CovariancePaths",
    "EnergyConvexity",
    "MeanField",
    "PhaseDiagram",
    "RankCollapse",
    "SequenceTask",
    "Stability",
    "StationaryPoints",
    "Study",
    "blow_up",
    "covariance_paths",
    "energy_convexity",
    "grid",
    "is_study",
    "load",
    "mean_field",
    "phase_diagram",
    "rank_collapse",
    "sequence_task",
    "stability",
    "stationary_points",
]
