"""The registry of attention variants: what configurations, studies, warm-up, benchmarks and tests know them by."""

from __future__ import annotations

import inspect
from dataclasses import dataclass
from typing import Any

from .. import weights
from .exponential import Exponential
from .l2 import L2
from .linear import Linear
from .sigmoid import Sigmoid
from .single_head import SingleHead
from .sinkhorn import Sinkhorn
from .softmax import Softmax

_SHARED = ("self", "Q", "K", "V", "scale", "weight")  # parameters that every variant has


@dataclass(frozen=True)
class Variant:
    """An attention by its name in configurations.

    Attributes:
        name: of the variant.
        kind: the class.
    """

    name: str
    kind: type[SingleHead]

    @property
    def own_keys(self) -> dict[str, Any]:
        """The parameters that it has beside Q, K, V and scale, with their defaults."""
        parameters = inspect.signature(self.kind.__init__).parameters
        return {name: p.default for name, p in parameters.items() if name not in _SHARED}

    @property
    def is_exponential(self) -> bool:
        """Whether its sums are of w = exp: the moments of a grid are all that ranks need of each other."""
        return weights.is_exponential(self.kind.weight)

    @property
    def sums_in_linear_time(self) -> bool:
        """Whether an evaluation is one sum of w = exp, in O(n) where there are few coordinates."""
        return self.is_exponential and not self.scales

    @property
    def keeps_gaussians(self) -> bool:
        """Whether a Gaussian law stays Gaussian."""
        return (self.kind.normalised and self.is_exponential) or isinstance(self.kind.weight, weights.Linear)

    @property
    def is_bounded(self) -> bool:
        """Whether a velocity is at most |V| times a constant times the largest token: no flow blows up."""
        return self.kind.normalised or weights.is_bounded(self.kind.weight)

    @property
    def scales(self) -> bool:
        """Whether an evaluation is an iteration of sums, a Sinkhorn scaling."""
        return issubclass(self.kind, Sinkhorn)


_KINDS: dict[str, type[SingleHead]] = {
    "softmax": Softmax,
    "l2": L2,
    "sigmoid": Sigmoid,
    "sinkhorn": Sinkhorn,
    "linear": Linear,
    "exponential": Exponential,
}
VARIANTS = {name: Variant(name, kind) for name, kind in _KINDS.items()}
