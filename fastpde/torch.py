"""Velocities and runs as functions of PyTorch's tensors, with gradients: `import fastpde.torch`."""

from __future__ import annotations

from typing import Any

import numpy as np

from ._types import Array
from .bridge import PARAMETER, Call, Factory, RunCall, VelocityCall, check_dtype, of_run
from .errors import InputError, InputTypeError

try:
    import torch
except ImportError as error:
    raise ImportError("fastpde.torch needs PyTorch, which is not installed: pip install torch") from error


def velocity(
    make: Any,
    x: torch.Tensor,
    *,
    at: torch.Tensor | None = None,
    t: float = 0.0,
    weights: Any = None,
    positions: Any = None,
    at_positions: Any = None,
    backend: Any = "auto",
    **parameters: Any,
) -> torch.Tensor:
    """Return the velocities of tokens under the attention make(**parameters), a differentiable function of tensors.

        v = fastpde.torch.velocity(fp.Softmax, x, Q=Q, K=K, V=V)

    Gradients are those of `attention.vjp`, in x, `at`, weights and all parameters that are tensors, in O(n) memory, by
    direct sums or in O(n). They have no gradients themselves.

    Args:
        make: a class, as fp.Softmax, or a function that returns an attention. It may pick, repeat and reshape the
            numbers of its arguments, which are NumPy arrays there, and put them into `fp.Layers`: no arithmetic.
        x: tokens (n, d) or (B, n, d), float64 or float32, on the CPU. Memory is shared, not copied.
        at, t, weights, positions, at_positions, backend: as of `Attention.velocity`; the first and the weights may be
            tensors.
        parameters: of `make`, tensors or anything else.

    Returns:
        (m, d) or (B, m, d), in the dtype of x.

    Raises:
        InputError, InputTypeError: naming the argument; for a tensor that needs a gradient and is not seen in the
        attention.
    """
    options = {"t": t, "positions": _plain(positions), "at_positions": _plain(at_positions), "backend": backend}
    return _bridged(VelocityCall, options, {"x": x, "at": at, "weights": weights}, make, parameters)


def solve(
    make: Any,
    x0: torch.Tensor,
    t_span: tuple[float, float],
    *,
    t_eval: Any = None,
    weights: Any = None,
    positions: Any = None,
    **given: Any,
) -> torch.Tensor:
    """Return the tokens at the end of a run, or at the times t_eval, a differentiable function of tensors.

        x = fastpde.torch.solve(fp.Softmax, x0, (0.0, 1.0), method="rk4", step=0.1, Q=Q, K=K, V=V)

    Gradients are those of `fp.gradient`, in x0, weights and all parameters that are tensors: exact for the steps that
    the run takes, which is made again for them, in a stated memory. Runs are in float64, whatever the dtype.

    Args:
        make, weights, positions: as of `velocity`.
        x0: tokens (n, d) or (B, n, d).
        t_span, t_eval: as of `fp.solve`.
        given: method, step, rtol, atol, max_steps, manifold, noise, seed and backend of `fp.solve`, memory of
            `fp.gradient`; and parameters of `make`, as of `velocity`.

    Returns:
        a tensor of the shape of x0, or (m, *shape) at times t_eval (m,), in its dtype.

    Raises:
        as `velocity`; for a run that does not reach its end, with its message.
    """
    own, parameters = of_run(given)
    asked = {"t_span": t_span, "t_eval": _plain(t_eval), "positions": _plain(positions)} | own
    return _bridged(RunCall, asked, {"x": x0, "weights": weights}, make, parameters)


def _bridged(
    kind: Any, options: dict[str, Any], tokens: dict[str, Any], make: Any, parameters: dict[str, Any]
) -> torch.Tensor:
    if not isinstance(tokens["x"], torch.Tensor):
        raise InputTypeError("x", type(tokens["x"]).__name__, "a tensor")
    tensors = {name: value for name, value in tokens.items() if isinstance(value, torch.Tensor)}
    options |= {name: value for name, value in tokens.items() if name not in tensors and value is not None}
    own = {name: value for name, value in parameters.items() if isinstance(value, torch.Tensor)}
    fixed = {name: value for name, value in parameters.items() if name not in own}
    tensors |= {f"{PARAMETER}{name}": value for name, value in own.items()}
    for name, value in tensors.items():
        if value.device.type != "cpu":
            shown = name.removeprefix(PARAMETER)
            raise InputError(shown, f"a tensor on {value.device}", "one on the CPU", f"Give {shown}.cpu().")
        check_dtype(name, str(value.dtype).removeprefix("torch."))
    call = kind(Factory(make, {name: tuple(value.shape) for name, value in own.items()}, fixed), options)
    call.refuse_lost([name for name, value in tensors.items() if torch.is_grad_enabled() and value.requires_grad])
    return _Bridge.apply(call, tuple(tensors), *tensors.values())


class _Bridge(torch.autograd.Function):
    """A call of tensors with the names given."""

    @staticmethod
    def forward(ctx: Any, call: Call, names: tuple[str, ...], *tensors: torch.Tensor) -> torch.Tensor:
        ctx.call, ctx.names = call, names
        ctx.save_for_backward(*tensors)
        return torch.from_numpy(call.value(_arrays(names, tensors)))

    @staticmethod
    def backward(ctx: Any, cotangent: torch.Tensor) -> tuple[Any, ...]:
        needed = [name for name, need in zip(ctx.names, ctx.needs_input_grad[2:], strict=True) if need]
        found = dict(zip(needed, _Pull.apply(ctx.call, ctx.names, needed, cotangent, *ctx.saved_tensors), strict=True))
        return None, None, *(found.get(name) for name in ctx.names)


class _Pull(torch.autograd.Function):
    """The gradient of a call in the tensors that need one.

    It is a function of the tensors, so that whoever differentiates it meets an error: a gradient that were a constant
    would have the derivative zero in `torch.autograd.functional.hessian`.
    """

    @staticmethod
    def forward(
        ctx: Any, call: Call, names: tuple[str, ...], needed: list[str], cotangent: torch.Tensor, *tensors: torch.Tensor
    ) -> tuple[torch.Tensor, ...]:
        found = call.pull(_arrays(names, tensors), cotangent.detach().numpy())
        return tuple(torch.from_numpy(np.asarray(found[name])) for name in needed)

    @staticmethod
    def backward(ctx: Any, *cotangents: torch.Tensor) -> tuple[Any, ...]:
        raise RuntimeError(
            "gradients of fastpde.torch have no gradients themselves: take fp.energy_hvp, or differences"
        )


def _arrays(names: tuple[str, ...], tensors: tuple[torch.Tensor, ...]) -> dict[str, Array]:
    """Return the tensors as arrays of the same memory."""
    return {name: tensor.detach().numpy() for name, tensor in zip(names, tensors, strict=True)}


def _plain(value: Any) -> Any:
    return value.detach().numpy() if isinstance(value, torch.Tensor) else value
