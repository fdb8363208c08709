"""What a limit is asked for: an attention, the law at the start, in each position if these matter, and times."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

from .._types import Array
from ..attention import Attention
from ..attention.composite import terms_of
from ..laws import Law

_PROBES = 128  # Sobol points by which sets of nodes are compared
_PLACES = 16  # positions at which they are


@dataclass(frozen=True)
class Setting:
    """A law and the attention that moves it.

    Attributes:
        attention: the attention.
        law_at: law_at(s), the law of the tokens at position s in [0, 1] at t[0]; the same at all s if positions do not
            matter.
        one_law: whether law_at is the same for all s.
        t: (k,) times from the start to the end, at which states are kept.
        most: the largest number of nodes.
        progress: as of `integrate`.
    """

    attention: Attention
    law_at: Callable[[float], Law]
    one_law: bool
    t: Array
    most: int
    progress: Any

    @property
    def dimension(self) -> int:
        """The dimension d."""
        return self.law_at(0.5).dimension

    @property
    def positional(self) -> bool:
        """Whether the field depends on positions."""
        return self.attention.positional

    @cached_property
    def stays_one_law(self) -> bool:
        """Whether all positions have the same law at all times.

        They have if they begin so and every field is the same at all positions then, as of averages under a mask: the
        average over [0, s] of what does not depend on the position does not depend on s (Theory 2.2).
        """
        return self.one_law and not any(
            term.head.positional or (term.masked and not term.head.averages) for term in terms_of(self.attention)
        )

    @cached_property
    def places(self) -> Array:
        """The positions (k,) at which nodes are compared, both ends with them; only one where all are alike."""
        return np.linspace(0.0, 1.0, _PLACES) if self.positional and not self.stays_one_law else np.array([0.5])

    @cached_property
    def probes(self) -> tuple[Array, Array]:
        """Points of the law (p, d) that sets of nodes are compared by, and their positions (p,)."""
        each = _PROBES // len(self.places)
        points = [self.law_at(float(s)).sobol(each, 100 * i) for i, s in enumerate(self.places)]
        return np.concatenate(points), np.repeat(self.places, each)

    @cached_property
    def scale(self) -> float:
        """The root of the largest E |x|^2 among positions, 1 if it is zero: what lengths are compared with."""
        laws = [self.law_at(float(s)) for s in self.places]
        return float(np.sqrt(max(np.trace(law.cov) + law.mean @ law.mean for law in laws))) or 1.0
