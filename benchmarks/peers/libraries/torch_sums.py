"""PyTorch: `scaled_dot_product_attention`, for one cloud and for batches of small ones."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import torch
from torch.nn.functional import scaled_dot_product_attention as attention

from ..larger import ManySystems, SystemsRun
from ..work import Array, Call, LinearSum, Masked, Work

Field = Callable[[Any], Any]


def field(work: Work) -> Field:
    """Return the velocity as a function of a tensor of tokens, (n, d) or (systems, n, d)."""
    if isinstance(work, ManySystems):
        matrices = [torch.from_numpy(m).transpose(1, 2).contiguous() for m in work.matrices]

        def batched(x: Any) -> Any:
            q, k, v = (torch.bmm(x, m)[:, None] for m in matrices)
            return attention(q, k, v, scale=1.0)[:, 0]

        return batched
    if isinstance(work, LinearSum):
        return lambda x: x @ (work.scale / work.n * (x.T @ x))
    causal = isinstance(work, Masked)

    def single(x: Any) -> Any:
        tokens = x[None, None]
        return attention(tokens, tokens, tokens, scale=work.scale, is_causal=causal)[0, 0]

    return single


def rk4(velocity: Field, x: Any, step: float, steps: int) -> Any:
    """Return x after some steps of the classical Runge-Kutta method."""
    for _ in range(steps):
        k = velocity(x)
        total = k
        for size, weight in ((0.5, 2.0), (0.5, 2.0), (1.0, 1.0)):
            k = velocity(torch.add(x, k, alpha=step * size))
            total = torch.add(total, k, alpha=weight)
        x = torch.add(x, total, alpha=step / 6)
    return x


def call(work: Work) -> Call:
    """Prepare a piece of work."""
    x, velocity = torch.from_numpy(work.tokens), field(work)

    def whole() -> Array:
        with torch.inference_mode():
            found = rk4(velocity, x, work.step, work.steps) if isinstance(work, SystemsRun) else velocity(x)
            result: Array = found.numpy()
            return result

    return whole
