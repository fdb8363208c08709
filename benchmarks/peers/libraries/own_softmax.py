"""fastpde's own softmax sum, beside which its other kinds of sums are seen."""

from __future__ import annotations

from ..work import Call, Softmax, Work


def call(work: Work) -> Call:
    """Prepare the softmax velocity of the same tokens."""
    return Softmax(work.n, work.d, work.dtype).ours()
