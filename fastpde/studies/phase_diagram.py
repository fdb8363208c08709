"""Outcomes of random Gaussian laws, against the spectrum of V A + A^T V^T.

The spectrum decides the outcome where V commutes with S0 and with V A + A^T V^T.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastpde._numbers import whole
from fastpde.attention.variants import chosen
from fastpde.errors import explained
from fastpde.integrate.reporting import counting

from . import random_laws
from .study_arguments import code_of
from .table import Column, Study

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

_LABEL = r"$\lambda_{\max}(VA + A^{\mathsf{T}}V^{\mathsf{T}}) \,/\, (2\,|V|\,|A|)$"


@dataclass(frozen=True, eq=False, repr=False)
class PhaseDiagram(Study):
    """The table of `phase_diagram`."""

    name: ClassVar[str] = "phase-diagram"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        return {
            "draw": Column("whole", "", "number of the draw"),
            "lambda_max": Column("number", "1/(length^2 time)", "largest eigenvalue of V A + A^T V^T, A = K^T Q"),
            "scaled": Column("number", "", "lambda_max / (2 |V| |A|), operator norms: between -1 and 1"),
            "outcome": Column("text", "", "how the law ends"),
            "rank": Column("whole", "", "of the limit; -1 if there is none"),
            "blowup_time": Column("number", "time", "nan unless the law blows up"),
            "rate": Column("number", "1/time", "of exponential growth or approach, or of going round; else nan"),
            "reason": Column("text", "", "how the outcome was decided"),
        }

    def summary(self) -> str:
        """Return how many laws have each outcome."""
        from fastpde.plot import covariances

        bad = int(np.sum(self["outcome"] == "undecided"))
        return f"{len(self)} laws: {covariances.tally(self['outcome'].tolist())}" + ("" if bad else ", none undecided")

    def figure(self) -> Figure:
        """Draw stacked fractions of outcomes against the scaled eigenvalue."""
        from fastpde.plot import covariances

        told = self.parameters
        caption = (
            f"{told['variant']}, d = {told['dimension']}: Q, K, V and G with N(0, 1) entries, S0 = G G^T. "
            f"{self.summary()}. Bins have equal counts."
        )
        if told["variant"] == "softmax":
            caption += " If V commuted with S0 and V A + A^T V^T, laws would blow up right of zero and nowhere else."
        bins = int(np.clip(len(self) // 20, 1, 25))
        return covariances.fractions(self["scaled"], self["outcome"].tolist(), label=_LABEL, bins=bins, caption=caption)


@explained
def phase_diagram(
    dimension: int = 2, draws: int = 500, *, variant: Any = "softmax", seed: int = 0, progress: Any = False
) -> PhaseDiagram:
    """Find the outcome of N(0, S0) for random Q, K, V and S0 = G G^T, against the spectrum of V A + A^T V^T.

    The matrices do not commute, so that no closed form decides.

    Args:
        dimension: the dimension d; Q, K, V and G are (d, d) with N(0, 1) entries.
        draws: number of laws; draw b comes from `np.random.default_rng([seed, d, b])`.
        variant: "softmax", "l2", "sinkhorn" (eps = 1), or the class of a variant of your own that averages by e^s.
        seed: the seed of all random numbers.
        progress: True for a bar, or a function of (number of laws that are done, {"systems": number of laws}).

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Theory 3, 4.4, 11.4.
    """
    d, count = whole("dimension", dimension, 1), whole("draws", draws, 1)
    own, seed = chosen("variant", variant, attrgetter("is_closed")), whole("seed", seed, 0)
    parameters = {"dimension": d, "draws": count, "variant": own.name, "seed": seed, **code_of([own.name])}
    Q, K, V, G = random_laws.draw(seed, d, count, *[(d, d)] * 4)
    with counting(progress, count) as report:
        found = random_laws.fit(lambda rows: own.kind(Q[rows], K[rows], V[rows]), random_laws.square(G), report)
    A = np.swapaxes(K, 1, 2) @ Q
    B = V @ A
    largest = np.linalg.eigvalsh(B + np.swapaxes(B, 1, 2))[:, -1]
    norms = [np.linalg.norm(matrices, 2, axis=(1, 2)) for matrices in (V, A)]
    columns = {"draw": np.arange(count), "lambda_max": largest, "scaled": largest / (2 * norms[0] * norms[1])}
    columns |= {name: found[name] for name in ("outcome", "rank", "blowup_time", "rate", "reason")}
    return PhaseDiagram(parameters, columns)
