"""fastpde: tokens of deep Transformers as interacting particles, from a few to millions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from . import laws
from .attention import (
    L2,
    Attention,
    Exponential,
    GaussianPullback,
    Layers,
    Linear,
    Masked,
    MultiHead,
    Pullback,
    Sigmoid,
    SingleHead,
    Sinkhorn,
    Softmax,
)
from .ensemble import EnsembleSolution
from .errors import ConvergenceError, InputError, InputTypeError, NoGaussianClosure, TransportError
from .gaussian import (
    Gaussian,
    GaussianLimit,
    GaussianSolution,
    Outcome,
    bures_dissipation,
    bures_energy,
    growth_rates,
    limit,
)
from .integrate import BlowUp, Collapsed, Event, Observer, Solution, Status, SteadyState
from .manifold import Euclidean, Sphere
from .mean_field_flow import MeanField
from .meanfield import solve
from .observable import Observable
from .sensitivity.adjoint import Gradient, gradient
from .sensitivity.law_adjoint import GaussianGradient
from .sensitivity.lipschitz import Lipschitz, lipschitz
from .sensitivity.lyapunov import Lyapunov, lyapunov
from .sensitivity.stationary import Stationary, stationary
from .theory.bounds import measured_stability_bound, stability_bound, support_bound
from .theory.clusters import Clusters, Plateau, clusters, plateaus
from .theory.dissipation import EnergyRecord, dissipation
from .theory.energies import energy_gradient, energy_hvp, interaction_energy, sinkhorn_energy
from .transport.bures import bures_wasserstein
from .transport.conditional import conditional_wasserstein
from .transport.wasserstein import wasserstein
from .weights import Weight

if TYPE_CHECKING:
    from . import studies
    from .citations import cite
    from .run.opened import open_run
    from .sums.auto import Auto
    from .sums.direct import Direct
    from .sums.distributed import Mpi
    from .sums.fast import Fast

__version__ = "0.1.0"

__all__ = [
    "L2",
    "Attention",
    "Auto",
    "BlowUp",
    "Clusters",
    "Collapsed",
    "ConvergenceError",
    "Direct",
    "EnergyRecord",
    "EnsembleSolution",
    "Euclidean",
    "Event",
    "Exponential",
    "Fast",
    "Gaussian",
    "GaussianGradient",
    "GaussianLimit",
    "GaussianPullback",
    "GaussianSolution",
    "Gradient",
    "InputError",
    "InputTypeError",
    "Layers",
    "Linear",
    "Lipschitz",
    "Lyapunov",
    "Masked",
    "MeanField",
    "Mpi",
    "MultiHead",
    "NoGaussianClosure",
    "Observable",
    "Observer",
    "Outcome",
    "Plateau",
    "Pullback",
    "Sigmoid",
    "SingleHead",
    "Sinkhorn",
    "Softmax",
    "Solution",
    "Sphere",
    "Stationary",
    "Status",
    "SteadyState",
    "TransportError",
    "Weight",
    "bures_dissipation",
    "bures_energy",
    "bures_wasserstein",
    "cite",
    "clusters",
    "conditional_wasserstein",
    "dissipation",
    "energy_gradient",
    "energy_hvp",
    "gradient",
    "growth_rates",
    "interaction_energy",
    "laws",
    "limit",
    "lipschitz",
    "lyapunov",
    "measured_stability_bound",
    "open_run",
    "plateaus",
    "sinkhorn_energy",
    "solve",
    "stability_bound",
    "stationary",
    "studies",
    "support_bound",
    "wasserstein",
]

# Imported on first use. Backends bring Numba, half a second, runs HDF5; `studies` build on the names above.
_LATE = {"Auto": "sums.auto", "Direct": "sums.direct", "Fast": "sums.fast", "Mpi": "sums.distributed"}
_LATE |= {"cite": "citations", "open_run": "run.opened"}


def __getattr__(name: str) -> Any:
    if name == "studies":
        return import_module("fastpde.studies")
    if name in _LATE:
        return getattr(import_module(f"fastpde.{_LATE[name]}"), name)
    raise AttributeError(f"module 'fastpde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
