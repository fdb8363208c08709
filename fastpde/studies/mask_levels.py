"""Where the tokens of the study `mean_field` are: at a few positions under a mask, with many tokens at each.

One random token at a position never comes near a law that is spread out (Theory 9), so that the number of tokens at a
position has to grow, too: n tokens have about n^{1/3} positions, with n^{2/3} tokens at each. Without a mask there is
one position. Source: Theory 13.4.
"""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property

import numpy as np

from .table import Array


@dataclass(frozen=True, eq=False)
class Levels:
    """The positions of n tokens, which are in the order of their positions.

    Attributes:
        counts: (m,) the number of tokens at each position.
    """

    counts: Array

    @staticmethod
    def of(n: int, masked: bool) -> Levels:
        """Share n tokens out to positions, as evenly as can be."""
        m = max(1, round(n ** (1.0 / 3.0))) if masked else 1
        return Levels(np.diff(np.arange(m + 1) * n // m))

    @cached_property
    def starts(self) -> Array:
        """The number of the first token of each position (m,)."""
        return np.cumsum(self.counts) - self.counts

    @cached_property
    def masses(self) -> Array:
        """The part of all tokens that is at each position (m,)."""
        return self.counts / self.counts.sum()

    @cached_property
    def seen(self) -> Array:
        """The part of all tokens that a token at each position sees (m,), those of its own position with it."""
        return np.cumsum(self.counts) / self.counts.sum()

    @cached_property
    def places(self) -> Array:
        """The positions (m,): the middles of m equal parts of [0, 1]."""
        return (np.arange(len(self.counts)) + 0.5) / len(self.counts)

    def of_tokens(self, tokens: Array) -> Array:
        """Return the number of the position (k,) of tokens with these numbers (k,)."""
        return np.searchsorted(np.cumsum(self.counts), tokens, side="right")

    def spread(self, count: int) -> Array:
        """Return the numbers (count,) of positions that are spread over all, as evenly as can be."""
        return np.arange(count) * len(self.counts) // count

    def means(self, x: Array) -> Array:
        """Return the mean token (m, d) of each position, of tokens x (n, d)."""
        return np.asarray(np.add.reduceat(x, self.starts, axis=0) / self.counts[:, None])

    def averaging(self) -> Array:
        """Return the matrix A (m, m) that makes of the values of positions their average over what each sees."""
        return np.tril(np.broadcast_to(self.masses, (len(self.masses), len(self.masses)))) / self.seen[:, None]

    def drift(self, t: float) -> Array:
        """Return the matrix e^{tA} - I (m, m): where errors of the means of positions have carried tokens by time t.

        If tokens move to the average token that they see, x' = A x, then an error e (m,) of the means of positions is
        one of e^{tA} e later. A token that is carried by this field, and has no error at first, is off by e^{tA} e - e.
        """
        from scipy.linalg import expm

        return np.asarray(expm(t * self.averaging())) - np.eye(len(self.counts))

    def size(self, errors: Array, levels: Array) -> float:
        """Return the root of the mean of s |error|^2, s the part of all tokens that is seen where the error is.

        An error of what is seen at s is of the order (n s)^{-1/2}, and s makes all positions count alike. errors (k, d)
        are those at the positions with the numbers levels (k,).
        """
        return float(np.sqrt(np.mean(self.seen[levels] * np.square(errors).sum(axis=1))))

    def of_means(self, errors: Array) -> float:
        """Return that size of errors (m, d), one at each position, which count with their masses."""
        return float(np.sqrt((self.masses * self.seen) @ np.square(errors).sum(axis=1)))

    def expected(self, t: float | None = None) -> float:
        """Return the mean square of that size, per variance of a token, of errors that random tokens make.

        Those of the mean of what is seen have 1 / n; with a time they are what `drift` makes of means of positions.
        """
        if t is None:
            return 1.0 / float(self.counts.sum())
        return float((self.masses * self.seen) @ np.square(self.drift(t)) @ (1.0 / self.counts))
