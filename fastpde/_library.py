"""How kernels are compiled: what only other kernels call is optimised once, as a part of its callers.

Numba optimises every function, makes machine code of it, and does both again in each function that it is linked to.
Parts are only linked. These classes rest on private ones of Numba; without them `jit` compiles as Numba does.
"""

from __future__ import annotations

import gc
from collections.abc import Iterator
from contextlib import contextmanager

from numba.core.codegen import JITCodeLibrary
from numba.core.compiler import Compiler


@contextmanager
def _without_collection() -> Iterator[None]:
    """Return a context without searches for cyclic garbage: compilation makes millions of objects, and keeps most."""
    enabled = gc.isenabled()
    gc.disable()
    try:
        yield
    finally:
        if enabled:
            gc.enable()


class _Part(JITCodeLibrary):
    """Code that is linked to other code, and optimised there."""

    def _optimize_final_module(self) -> None:
        pass

    def _finalize_final_module(self) -> None:
        self._finalize_dynamic_globals()
        self._finalized = True


class KernelCompiler(Compiler):
    """The compiler of functions that Python calls."""

    def compile_extra(self, func):
        with _without_collection():
            return super().compile_extra(func)


class PartCompiler(Compiler):
    """The compiler of functions that only compiled code calls: they have no machine code of their own."""

    def __init__(self, typingctx, targetctx, library, args, return_type, flags, locals) -> None:
        flags.no_compile = flags.no_cpython_wrapper = flags.no_cfunc_wrapper = True
        library = _Part(targetctx.codegen(), "part")
        super().__init__(typingctx, targetctx, library, args, return_type, flags, locals)

    def compile_extra(self, func):
        # Numba finds the code of a function by its entry point, which must be a built-in method, and calls that for
        # Python: a method of its own for each function, which raises KeyError with this text.
        why = f"{{{func.__name__} is compiled as a part of kernels and cannot be called from Python}}"
        found = super().compile_extra(func)._replace(entry_point=why.format)
        self.state.targetctx.insert_user_function(found.entry_point, found.fndesc, [found.library])
        return found
