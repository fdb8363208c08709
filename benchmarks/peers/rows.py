"""What was measured of one piece of work and one peer."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any

from .work import TOO_LARGE, Work


@dataclass(frozen=True)
class Row:
    """Times and errors of fastpde and a peer, or why there are none.

    Attributes:
        work, n, d, dtype: what was done.
        asked: the relative error asked for.
        pairs: the share of all pairs that count in the sum of fastpde.
        peer: who did it.
        setting: a setting of the peer that was chosen for the error.
        ours, theirs: median seconds.
        ratio: median of theirs / ours over repetitions that followed each other.
        our_error, their_error: relative errors.
        repeats: how many repetitions there were.
        problem: why there are no numbers; "" if there are.
    """

    work: str
    n: int
    d: int
    dtype: str
    asked: float
    peer: str
    pairs: float = 1.0
    setting: str = ""
    ours: float | None = None
    theirs: float | None = None
    ratio: float | None = None
    our_error: float | None = None
    their_error: float | None = None
    repeats: int = 0
    problem: str = ""

    @classmethod
    def of(cls, work: Work, peer: str, **known: Any) -> Row:
        """Return the row of a piece of work."""
        share = getattr(work, "pairs", 1.0)
        return cls(work.label, work.n, work.d, work.dtype, work.asked, peer, pairs=share, **known)

    @property
    def inaccurate(self) -> bool:
        """Whether the peer's error is more than ten times what was asked for."""
        return self.their_error is not None and not self.their_error <= TOO_LARGE * self.asked

    @property
    def missed(self) -> bool:
        """Whether that of fastpde is."""
        return self.our_error is not None and not self.our_error <= TOO_LARGE * self.asked
