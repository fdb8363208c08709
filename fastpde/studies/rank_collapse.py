"""Ranks of the limits of Gaussian laws for V = V^T > 0 and K = -Q: d - rank Q, by the theorem of Theory 4.2."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from operator import attrgetter
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from fastpde._numbers import one_of, whole
from fastpde.attention.variants import chosen, named
from fastpde.errors import explained
from fastpde.integrate.reporting import counting

from . import random_laws
from .study_arguments import code_of, several
from .table import Array, Column, Study

if TYPE_CHECKING:
    from fastpde.plot.canvas import Figure

VALUES = {"identity": "V = I", "gram": "V = G^T G"}


@dataclass(frozen=True, eq=False, repr=False)
class RankCollapse(Study):
    """The table of `rank_collapse`."""

    name: ClassVar[str] = "rank-collapse"

    @classmethod
    def layout(cls, parameters: Mapping[str, Any]) -> dict[str, Column]:
        return {
            "d": Column("whole", "", "dimension"),
            "draw": Column("whole", "", "number of the draw in its dimension"),
            "expected": Column("whole", "", "d - rank Q"),
            "rank": Column("whole", "", "of the limit; -1 if none was found"),
            "outcome": Column("text", "", "how the law ends"),
            "error": Column("number", "", "|S - S_inf| / |S_inf|, S_inf = N (N^T S0^-1 N)^-1 N^T; nan unless V = I"),
            **{
                name: Column("number", "length^2", f"eigenvalue {i + 1} of the limit, descending; nan beyond d")
                for i, name in enumerate(_spectrum(max(parameters["dimensions"])))
            },
        }

    def summary(self) -> str:
        """Return in how many draws the rank is the expected one, and the largest error."""
        right, error = int(np.sum(self["rank"] == self["expected"])), self["error"]
        known = error[np.isfinite(error)]
        text = f"rank d - rank Q in {right} of {len(self)} draws"
        return text + (f", largest relative error of the limit {known.max():.1e}" if len(known) else "")

    def figure(self) -> Figure:
        """Draw one histogram of ranks per dimension, with the expected rank marked."""
        from fastpde.plot import covariances

        d, told = self["d"], self.parameters
        panels = {told["variant"]: {int(k): self["rank"][d == k] for k in np.unique(d)}}
        expected = {int(k): int(self["expected"][d == k][0]) for k in np.unique(d)}
        caption = f"{told['variant']}, K = -Q, {VALUES[told['values']]}, S0 = G G^T: {self.summary()}."
        return covariances.ranks(panels, expected, caption=caption)


@explained
def rank_collapse(
    dimensions: Sequence[int] = (3, 4, 5),
    draws: int = 100,
    *,
    variant: Any = "softmax",
    values: str = "identity",
    rank: int | None = None,
    seed: int = 0,
    progress: Any = False,
) -> RankCollapse:
    """Find the rank of the limit of N(0, S0), S0 = G G^T, under attention with K = -Q, for many draws of Q, V and S0.

    The ranks come from integrating the flow, not from the theorem that they test; no draw is left out.

    Args:
        dimensions: the dimensions d of the tokens, each once.
        draws: number of draws per dimension; draw b of dimension d comes from `np.random.default_rng([seed, d, b])`.
        variant: "softmax", "l2", "sinkhorn" (eps = 1), or the class of a variant of your own that averages by e^s.
        values: "identity" for V = I, where the limit itself is known too, or "gram" for V = G^T G.
        rank: the rank of Q, a matrix (rank, d) of N(0, 1) entries; default d // 2, at least 1.
        seed: the seed of all random numbers.
        progress: True for a bar, or a function of (number of draws that are done, {"systems": number of draws}).

    Raises:
        InputError, InputTypeError: naming the argument.

    Source: Theory 4.2, 10 (experiments 6 and 7), 11.2.
    """
    sizes = [whole("dimensions", d, 1) for d in several("dimensions", dimensions)]
    count, seed = whole("draws", draws, 1), whole("seed", seed, 0)
    variant = chosen("variant", variant, attrgetter("is_closed")).name
    one_of("values", values, VALUES)
    rows = None if rank is None else whole("rank", rank, 1, min(sizes))
    parameters = {"dimensions": sizes, "draws": count, "variant": variant, "values": values, "rank": rows, "seed": seed}
    parameters |= code_of([variant])
    parts = []
    with counting(progress, count * len(sizes)) as report:
        for i, d in enumerate(sizes):
            k = rows or max(1, d // 2)
            parts.append(_one(d, k, count, parameters, lambda done, i=i: report(i * count + done)))  # type: ignore[misc]
    return RankCollapse(parameters, {name: np.concatenate([part[name] for part in parts]) for name in parts[0]})


def _one(d: int, k: int, count: int, parameters: Any, report: Any) -> dict[str, Array]:
    """Return the columns of one dimension."""
    Q, G, H = random_laws.draw(parameters["seed"], d, count, (k, d), (d, d), (d, d))
    identity = parameters["values"] == "identity"
    V = np.broadcast_to(np.eye(d), H.shape) if identity else random_laws.square(np.swapaxes(H, 1, 2))
    kind, starts = named(parameters["variant"]).kind, random_laws.square(G)
    found = random_laws.fit(lambda rows: kind(Q[rows], -Q[rows], V[rows]), starts, report)
    error = np.full(count, np.nan)
    if identity and k < d:
        want = projected(Q, starts)
        error = np.linalg.norm(found["cov"] - want, axis=(1, 2)) / np.linalg.norm(want, axis=(1, 2))
    wide = np.full((count, max(parameters["dimensions"])), np.nan)
    wide[:, :d] = found["spectrum"]
    columns = {"d": np.full(count, d), "draw": np.arange(count), "expected": np.full(count, d - k), "error": error}
    columns |= {name: found[name] for name in ("rank", "outcome")}
    return columns | dict(zip(_spectrum(wide.shape[1]), wide.T, strict=True))


def _spectrum(d: int) -> list[str]:
    return [f"lambda_{i + 1}" for i in range(d)]


def projected(Q: Array, starts: Array) -> Array:
    """Return S_inf = N (N^T S0^{-1} N)^{-1} N^T (B, d, d), N a basis of ker Q, for Q (B, k, d) of rank k < d.

    Source: Theory 4.2.
    """
    N = np.swapaxes(np.linalg.svd(Q)[2][:, Q.shape[1] :], 1, 2)
    T = np.swapaxes(N, 1, 2)
    return np.asarray(N @ np.linalg.inv(T @ np.linalg.solve(starts, N)) @ T)
