"""The reading of studies from their directories."""

from __future__ import annotations

import json
from pathlib import Path

import fastpde as fp

from .blow_up import BlowUp
from .covariance_paths import CovariancePaths
from .energy_convexity import EnergyConvexity
from .limit_table import MeanField
from .phase_diagram import PhaseDiagram
from .rank_collapse import RankCollapse
from .sequence_task import SequenceTask
from .stability import Stability
from .stationary_points import StationaryPoints
from .table import PARAMETERS, Study

_STUDIES = (
    RankCollapse, PhaseDiagram, CovariancePaths, MeanField, Stability, StationaryPoints, SequenceTask, BlowUp,
    EnergyConvexity,
)  # fmt: skip
KINDS: dict[str, type[Study]] = {kind.name: kind for kind in _STUDIES}


def is_study(directory: str | Path) -> bool:
    """Return whether a directory holds a study."""
    return (Path(directory) / PARAMETERS).is_file()


def load(directory: str | Path) -> Study:
    """Return the study that `Study.save` wrote into a directory.

    Raises:
        InputError: for a directory that holds none, or a damaged one.
    """
    folder = Path(directory)
    try:
        facts = json.loads((folder / PARAMETERS).read_text(encoding="utf-8"))
        return KINDS[facts["study"]].read(folder, facts["parameters"])
    except (OSError, ValueError, KeyError, TypeError, AttributeError) as error:
        came = f"{folder} ({type(error).__name__}: {error})"
        raise fp.InputError("directory", came, "one that a study was saved in") from None
