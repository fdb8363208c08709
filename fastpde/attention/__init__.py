"""Attention variants: what each is, in parameters, a law and a reduction to pair sums. No loops over tokens here."""

from .base import Attention
from .derivatives import Pullback
from .exponential import Exponential
from .l2 import L2
from .linear import Linear
from .linearised_law import GaussianPullback
from .masked import Masked
from .multi_head import MultiHead
from .parameters import Layers
from .sigmoid import Sigmoid
from .single_head import SingleHead
from .sinkhorn import Sinkhorn
from .softmax import Softmax
from .variants import VARIANTS, Variant

__all__ = [
    "L2",
    "VARIANTS",
    "Attention",
    "Exponential",
    "GaussianPullback",
    "Layers",
    "Linear",
    "Masked",
    "MultiHead",
    "Pullback",
    "Sigmoid",
    "SingleHead",
    "Sinkhorn",
    "Softmax",
    "Variant",
]
