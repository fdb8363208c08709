"""fastpde: tokens of deep Transformers as interacting particles, from a few to millions."""

from importlib import import_module
from typing import TYPE_CHECKING, Any

from .attention import L2, Attention, Exponential, Layers, Linear, Masked, MultiHead, Sigmoid, Sinkhorn, Softmax
from .energy import interaction_energy, sinkhorn_energy
from .ensemble import EnsembleSolution
from .errors import ConvergenceError, InputError, InputTypeError, NoGaussianClosure
from .gaussian import Gaussian, GaussianLimit, GaussianSolution, Outcome, limit
from .integrate import BlowUp, Collapsed, Event, Observer, Solution, Status, SteadyState
from .manifold import Euclidean, Sphere
from .meanfield import solve

if TYPE_CHECKING:
    from . import studies
    from .backends.direct import Direct
    from .backends.fast import Auto, Fast

__version__ = "0.1.0"

__all__ = [
    "L2",
    "Attention",
    "Auto",
    "BlowUp",
    "Collapsed",
    "ConvergenceError",
    "Direct",
    "EnsembleSolution",
    "Euclidean",
    "Event",
    "Exponential",
    "Fast",
    "Gaussian",
    "GaussianLimit",
    "GaussianSolution",
    "InputError",
    "InputTypeError",
    "Layers",
    "Linear",
    "Masked",
    "MultiHead",
    "NoGaussianClosure",
    "Observer",
    "Outcome",
    "Sigmoid",
    "Sinkhorn",
    "Softmax",
    "Solution",
    "Sphere",
    "Status",
    "SteadyState",
    "interaction_energy",
    "limit",
    "sinkhorn_energy",
    "solve",
    "studies",
]

# Imported on first use. Backends bring Numba, half a second; `studies` build on the names above.
_LATE = {"Auto": "fastpde.backends.fast", "Direct": "fastpde.backends.direct", "Fast": "fastpde.backends.fast"}


def __getattr__(name: str) -> Any:
    if name == "studies":
        return import_module("fastpde.studies")
    if name in _LATE:
        return getattr(import_module(_LATE[name]), name)
    raise AttributeError(f"module 'fastpde' has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted(__all__)
