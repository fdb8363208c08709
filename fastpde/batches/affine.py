"""The contract between attention and the flow of Gaussian laws: every variant that keeps them, as the same matrices."""

from __future__ import annotations

from dataclasses import dataclass, replace

from .._types import Array

# The forms of a head that maps N(mean, S) to an affine field, S = L L^T, P = (S^{-1} + 2 D)^{-1} (Theory 2, 2.1).
TILT = "tilt"  # V (P A x + (I - 2 P D) mean); without D, P = S
LINEAR = "linear"  # V (S + mean mean^T) A x
PLAN = "plan"  # V (mean + N (x - mean)), N = L phi(B B^T) L^T A, B = L^T A L
STEPS = "steps"  # V (M x + b) after `count` half-iterations


@dataclass(frozen=True)
class AffineHeads:
    """The heads of an attention whose field of a Gaussian law is affine, with parameters constant in time.

    Arrays have one value for all systems or one for each, (1 or B, heads, d, d) float64. A factor of a head's whole
    field is part of its V, a divisor of its score part of its A.
    """

    kinds: tuple[str, ...]  # TILT, LINEAR, PLAN or STEPS, for each head
    counts: tuple[int, ...]  # of half-iterations; 0 for the other forms
    A: Array
    V: Array
    D: Array | None = None  # None: zero in all heads

    def of(self, b: int) -> AffineHeads:
        """Return the heads of system b alone, with matrices (1, heads, d, d)."""

        def own(matrices: Array) -> Array:
            return matrices[b % len(matrices)][None]

        return replace(self, A=own(self.A), V=own(self.V), D=None if self.D is None else own(self.D))
