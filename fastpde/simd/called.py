"""A user's function of a score, compiled: kernels call it by its address, for a block of scores at a time."""

from __future__ import annotations

import builtins
import dis
import math
import re
import types as python
from collections.abc import Callable
from typing import Any
from weakref import WeakKeyDictionary

import numba
import numpy as np
from numba import carray, cfunc, types

from .. import weights
from .._jit import intrinsic
from ..errors import InputError
from .emitters import NORMAL, emit_clamp, emit_exp2
from .vectors import Lanes

_LOG2 = math.log(2.0)
DONE = 1
_NEED = "a function of a number that Numba compiles"
_COLOURS = re.compile(r"\x1b\[[0-9;]*m")
_UNTYPED = re.compile(r"Untyped global name '(\w+)':\s*([^\n]+)")


@intrinsic
def _exp(typingctx, s):
    """Return e^s of a number. LLVM can vectorise a loop over it, which it cannot do with a library call."""
    if not isinstance(s, types.Float):
        return None
    lanes = Lanes(s.bitwidth, 0)

    def codegen(context, builder, signature, args):
        t = builder.fmul(args[0], lanes.constant(1.0 / _LOG2))
        low, high = lanes.constant(-NORMAL[lanes.bits]), lanes.constant(NORMAL[lanes.bits] + 1.0)
        found = emit_exp2(builder, lanes, emit_clamp(builder, lanes, t, NORMAL[lanes.bits] + 1.0))
        found = builder.select(builder.fcmp_ordered("<", t, low), lanes.constant(0.0), found)
        return builder.select(builder.fcmp_ordered(">", t, high), lanes.constant(math.inf), found)

    return s(s), codegen


@numba.njit(inline="always")
def exp(s):
    """Return e^s, in the precision of s."""
    return _exp(s)  # type: ignore[call-arg]


class _Functions(python.ModuleType):
    """A copy of a module of functions with `exp` of this file in place of its own."""

    def __init__(self, module: python.ModuleType) -> None:
        super().__init__(module.__name__)
        vars(self).update(vars(module) | {"exp": exp})


_OURS = {math: _Functions(math), np: _Functions(np)}


def _with_our_exp(f: Any) -> Any:
    """Return a Python function with the `exp` of NumPy and of `math` replaced by that of this module."""
    plain = getattr(f, "py_func", f)
    if not isinstance(plain, python.FunctionType):  # as abs, or np.tanh
        known = exp if plain is math.exp or plain is np.exp else plain
        return lambda s: known(s)
    theirs = plain.__globals__
    changed = {name: _OURS[value] for name, value in theirs.items() if value is math or value is np}
    own = {name: exp for name, value in theirs.items() if value is math.exp or value is np.exp}
    ours = python.FunctionType(
        plain.__code__, theirs | changed | own, plain.__name__, plain.__defaults__, plain.__closure__
    )
    ours.__module__ = plain.__module__
    return ours


_kernels: WeakKeyDictionary[weights.Weight, _Compiled] = WeakKeyDictionary()


def kernel_of(weight: Any) -> Any:
    """Return the NamedTuple by which kernels know a weight. Raises InputError if Numba cannot compile its function."""
    if not isinstance(weight, weights.Weight):
        return weight
    if weight not in _kernels:
        _kernels[weight] = _Compiled(weight.f)
    return _kernels[weight].called


def _refuse_unknown_names(f: Any) -> None:
    """Raise InputError if a function uses a name that is defined nowhere."""
    plain = getattr(f, "py_func", f)
    if isinstance(plain, python.FunctionType):
        known = plain.__globals__.keys() | vars(builtins).keys()
        used = {step.argval for step in dis.get_instructions(plain) if step.opname == "LOAD_GLOBAL"}
        for name in sorted(used - known):
            came = f"{plain.__name__}, which uses {name}, a name that is not defined"
            raise InputError("f", came, _NEED, f"Define or import {name} in the module of {plain.__name__}.")


def _why(error: Exception) -> tuple[str, str]:
    """Return in words why Numba cannot compile a function, and a remedy."""
    text = _COLOURS.sub("", str(error))
    if found := _UNTYPED.search(text):
        remedy = "A function that f calls has to be compiled too: decorate it by numba.njit, or write it into f."
        return f"which uses {found[1]}, {found[2]}", remedy if "function" in found[2] else ""
    return text.strip().splitlines()[-1], ""


class _Compiled:
    """A function of a number, compiled for blocks of scores in units of log 2."""

    def __init__(self, f: Any) -> None:
        _refuse_unknown_names(f)
        inner = numba.njit(_with_our_exp(f), error_model="numpy")
        try:
            self._blocks = {bits: _block(inner, kind) for bits, kind in ((64, types.float64), (32, types.float32))}
        except numba.core.errors.NumbaError as error:
            why, remedy = _why(error)
            raise InputError("f", f"{getattr(f, '__name__', 'a function')}: {why}", _NEED, remedy) from error
        self.called = weights.Called(self._blocks[64].address, self._blocks[32].address)


def _block(inner: Callable[[float], float], kind: Any) -> Any:
    # error_model: a loop with divisions that may raise an error is not vectorised.
    @cfunc(types.int64(types.CPointer(kind), types.int64), error_model="numpy")  # type: ignore[call-arg]
    def block(scores, count):
        values = carray(scores, count)
        for i in range(count):
            values[i] = inner(values[i] * kind(_LOG2))
        return DONE  # Numba returns 0 for a function that has raised an error

    return block
