"""Velocities and runs as functions of JAX's arrays, with gradients and under `jit`: `import fastpde.jax`."""

from __future__ import annotations

from typing import Any

import numpy as np

from .bridge import PARAMETER, Call, Factory, RunCall, VelocityCall, check_dtype, of_run

try:
    import jax
except ImportError as error:
    raise ImportError("fastpde.jax needs JAX, which is not installed: pip install jax") from error


def velocity(
    make: Any,
    x: Any,
    *,
    at: Any = None,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    at_positions: Any = None,
    backend: Any = "auto",
    **parameters: Any,
) -> jax.Array:
    """Return the velocities of tokens under the attention make(**parameters), a differentiable function of arrays.

        v = fastpde.jax.velocity(fp.Softmax, x, Q=Q, K=K, V=V)

    It works under `jit`, `grad` and `vmap` (one system after the other; a batch (B, n, d) is faster). Gradients are
    those of `attention.vjp`, in x, `at`, weights and all parameters that are arrays of JAX, in O(n) memory, by direct
    sums or in O(n). They have no gradients themselves, and there is no forward mode: `attention.jvp` has it.

    Args:
        make: a class, as fp.Softmax, or a function that returns an attention. It may pick, repeat and reshape the
            numbers of its arguments, which are NumPy arrays there, and put them into `fp.Layers`: no arithmetic.
        x: tokens (n, d) or (B, n, d), on the CPU. They are float32 unless JAX is told `jax_enable_x64`.
        at, t, weights, positions, at_positions, backend: as of `Attention.velocity`; the first and the weights may be
            arrays of JAX. The others are constants.
        parameters: of `make`, arrays of JAX or anything else.

    Returns:
        (m, d) or (B, m, d), in the dtype of x.

    Raises:
        InputError, InputTypeError: naming the argument; what is only seen when the values are known, as an error of
        JAX with the same text. In gradients also for an array that is not seen in the attention.
    """
    options = {"t": t, "positions": positions, "at_positions": at_positions, "backend": backend}
    return _bridged(VelocityCall, options, {"x": x, "at": at, "weights": weights}, make, parameters)


def solve(
    make: Any,
    x0: Any,
    t_span: tuple[float, float],
    *,
    t_eval: Any = None,
    weights: Any = None,
    positions: Any = None,
    **given: Any,
) -> jax.Array:
    """Return the tokens at the end of a run, or at the times t_eval, a differentiable function of arrays.

        x = fastpde.jax.solve(fp.Softmax, x0, (0.0, 1.0), method="rk4", step=0.1, Q=Q, K=K, V=V)

    Gradients are those of `fp.gradient`, in x0, weights and all parameters that are arrays of JAX: exact for the steps
    that the run takes, which is made again for them, in a stated memory. Runs are in float64, whatever the dtype.

    Args:
        make, weights, positions: as of `velocity`.
        x0: tokens (n, d) or (B, n, d).
        t_span, t_eval: as of `fp.solve`, constants.
        given: method, step, rtol, atol, max_steps, manifold, noise, seed and backend of `fp.solve`, memory of
            `fp.gradient`; and parameters of `make`, as of `velocity`.

    Returns:
        an array of the shape of x0, or (m, *shape) at times t_eval (m,), in its dtype.

    Raises:
        as `velocity`; for a run that does not reach its end, with its message.
    """
    own, parameters = of_run(given)
    asked = {"t_span": t_span, "t_eval": t_eval, "positions": positions} | own
    return _bridged(RunCall, asked, {"x": x0, "weights": weights}, make, parameters)


def _bridged(
    kind: Any, options: dict[str, Any], tokens: dict[str, Any], make: Any, parameters: dict[str, Any]
) -> jax.Array:
    tokens = tokens | {"x": jax.numpy.asarray(tokens["x"])}
    arrays = {name: value for name, value in tokens.items() if isinstance(value, jax.Array)}
    options |= {name: value for name, value in tokens.items() if name not in arrays and value is not None}
    own = {name: value for name, value in parameters.items() if isinstance(value, jax.Array)}
    fixed = {name: value for name, value in parameters.items() if name not in own}
    arrays |= {f"{PARAMETER}{name}": value for name, value in own.items()}
    for name, value in arrays.items():
        check_dtype(name, str(value.dtype))
    call = kind(Factory(make, {name: value.shape for name, value in own.items()}, fixed), options)
    return _differentiable(call)(arrays)


def _differentiable(call: Call) -> Any:
    """Return a call as a function of a dictionary of arrays, with its gradient."""

    @jax.custom_vjp
    def value(arrays: dict[str, jax.Array]) -> jax.Array:
        result = jax.ShapeDtypeStruct(call.shape(arrays), arrays["x"].dtype)
        return jax.pure_callback(lambda given: call.value(_plain(given)), result, arrays, vmap_method="sequential")

    def forward(arrays: dict[str, jax.Array]) -> tuple[jax.Array, dict[str, jax.Array]]:
        return value(arrays), arrays

    def backward(arrays: dict[str, jax.Array], cotangent: jax.Array) -> tuple[dict[str, jax.Array]]:
        call.refuse_lost(list(arrays))
        results = {name: jax.ShapeDtypeStruct(array.shape, array.dtype) for name, array in arrays.items()}

        def pull(given: dict[str, jax.Array], c: jax.Array) -> dict[str, Any]:
            return call.pull(_plain(given), np.asarray(c))

        return (jax.pure_callback(pull, results, arrays, cotangent, vmap_method="sequential"),)

    value.defvjp(forward, backward)
    return value


def _plain(arrays: dict[str, jax.Array]) -> dict[str, Any]:
    """Return arrays of NumPy, of the same memory where that is on the CPU."""
    return {name: np.asarray(array) for name, array in arrays.items()}
