"""JAX: softmax of a row of scores, mapped over chunks of targets so that memory stays bounded, and compiled."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np

from ..larger import ManySystems, SystemsRun
from ..tuning import chunk
from ..work import Call, Work

jax.config.update("jax_enable_x64", True)  # otherwise float64 tokens would be rounded to float32

Field = Callable[[Any], Any]


def velocity(scale: float) -> Field:
    """Return the softmax velocity as a function of tokens (n, d)."""

    def field(x: Any) -> Any:
        return jax.lax.map(lambda q: jax.nn.softmax(x @ (scale * q)) @ x, x, batch_size=chunk(len(x)))

    return field


def batched(x: Any, matrices: Any) -> Any:
    """Compute the velocities of tokens (systems, n, d) with Q, K, V of their own."""
    q, k, v = (jnp.einsum("bij,bkj->bik", x, m) for m in matrices)
    return jax.nn.softmax(q @ k.swapaxes(1, 2), axis=-1) @ v


def rk4(field: Field, x: Any, step: float, steps: int) -> Any:
    """Return x after some steps of the classical Runge-Kutta method."""

    def one(_: int, y: Any) -> Any:
        k1 = field(y)
        k2 = field(y + step / 2 * k1)
        k3 = field(y + step / 2 * k2)
        return y + step / 6 * (k1 + 2 * k2 + 2 * k3 + field(y + step * k3))

    return jax.lax.fori_loop(0, steps, one, x)


def call(work: Work) -> Call:
    """Prepare a piece of work."""
    x = jnp.asarray(work.tokens)
    if not isinstance(work, ManySystems):
        field = jax.jit(velocity(work.scale))
        return lambda: np.asarray(field(x))
    matrices = jnp.asarray(work.matrices)
    if isinstance(work, SystemsRun):
        moved = jax.jit(lambda y, m: rk4(lambda z: batched(z, m), y, work.step, work.steps))
    else:
        moved = jax.jit(batched)
    return lambda: np.asarray(moved(x, matrices))
