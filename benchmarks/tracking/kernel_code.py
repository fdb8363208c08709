"""The machine code of the kernels that cases run, for three processors, whichever the machine has.

Nothing is executed but the cases themselves, once, to see which kernels they call with arguments of which types. Each
step is a process of its own, since Numba takes its target at import:

    python -m tracking.kernel_code record CASES.json SIGNATURES
    python -m tracking.kernel_code compile SIGNATURES TARGET CODE.json
"""

from __future__ import annotations

import importlib
import json
import os
import pickle
import platform
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

# Processor as LLVM calls it, its features that choose the kernels' vectors, bits of its vectors.
_FEATURES = "+sse3,+ssse3,+sse4.1,+sse4.2,+popcnt,+avx,+avx2,+bmi,+bmi2,+f16c,+fma,+lzcnt,+movbe"
_WIDE = ",+avx512f,+avx512bw,+avx512cd,+avx512dq,+avx512vl"
_NEOVERSE = "neoverse-n1"
TARGETS = {
    "x86-64-v3": ("x86-64-v3", _FEATURES, 256),
    "x86-64-v4": ("x86-64-v4", _FEATURES + _WIDE, 512),
    "neoverse": (_NEOVERSE, "+neon", 128),
}
_ARM_TRIPLE = "aarch64-unknown-linux-gnu"
# What compiled code depends on, beside the types of arguments.
SOURCES = ("_jit.py", "_library.py", "weights.py", "step_rules.py", "simd/*.py", "kernels/*.py")
Name = tuple[str, str]  # module, function


def possible() -> list[str]:
    """Return the targets that this machine can compile for: Arm's from anywhere, x86-64 on such a machine."""
    x86 = platform.machine().lower() in ("x86_64", "amd64")
    return [name for name in TARGETS if x86 or name == "neoverse"]


def environment(target: str) -> dict[str, str]:
    """Return the variables under which Numba compiles for a target."""
    name, features, bits = TARGETS[target]
    found = {"FASTPDE_VECTOR_BITS": str(bits)}
    return found if name == _NEOVERSE else {**found, "NUMBA_CPU_NAME": name, "NUMBA_CPU_FEATURES": features}


def _kernels() -> Iterator[tuple[Name, Any]]:
    """Yield the functions of the package that Python calls compiled, by name."""
    from numba.core.dispatcher import Dispatcher

    seen = set()
    for module in [module for name, module in sorted(sys.modules.items()) if name.startswith("fastpde")]:
        for found in vars(module).values():
            if isinstance(found, Dispatcher) and id(found) not in seen:
                seen.add(id(found))
                compiler = getattr(found._compiler, "pipeline_class", None)
                if getattr(compiler, "__name__", "") != "PartCompiler":
                    yield (found.py_func.__module__, found.py_func.__name__), found


def record(cases: list[str], path: Path) -> None:
    """Write which kernels each case calls, as (module, function, signature), each case in a process of its own.

    Their names and types are written beside it, as JSON.
    """
    import fastpde  # noqa: F401 - children find it imported

    from .cases import BY_NAME

    found = {}
    for case in cases:
        reading, writing = os.pipe()
        child = os.fork()
        if not child:
            try:
                os.close(reading)
                BY_NAME[case].build()[0]()
                used = [(*name, kernel.signatures) for name, kernel in _kernels() if kernel.signatures]
                with os.fdopen(writing, "wb") as file:
                    pickle.dump(used, file)
                os._exit(0)
            finally:
                os._exit(1)
        os.close(writing)
        with os.fdopen(reading, "rb") as file:
            data = file.read()
        if os.waitpid(child, 0)[1]:
            raise RuntimeError(f"case {case!r} failed")
        found[case] = [(module, name, one) for module, name, some in pickle.loads(data) for one in some]
    path.write_bytes(pickle.dumps(found))
    path.with_suffix(".json").write_text(json.dumps({case: sorted(map(_key, used)) for case, used in found.items()}))


def _key(kernel: tuple[str, str, Any]) -> str:
    module, name, signature = kernel
    return f"{module}.{name}{signature}"


def compile_all(signatures: Path, target: str, path: Path) -> None:
    """Write {case: {kernel: digest}} and {kernel: assembly}, for one target."""
    asked = pickle.loads(signatures.read_bytes())
    from . import assembly

    texts: dict[str, str] = {}
    cases: dict[str, dict[str, str]] = {}
    arm = _Arm() if TARGETS[target][0] == _NEOVERSE else None
    for case, used in asked.items():
        cases[case] = {}
        for module, name, signature in used:
            key = _key((module, name, signature))
            if key not in texts:
                kernel = getattr(importlib.import_module(module), name)
                kernel.compile(signature)
                texts[key] = arm.text() if arm else kernel.inspect_asm(signature)
            cases[case][key] = assembly.digest(texts[key])
    path.write_text(json.dumps({"cases": cases, "texts": texts}))


class _Arm:
    """Optimises and translates for AArch64 what Numba is about to compile for this machine."""

    def __init__(self) -> None:
        import llvmlite.binding as llvm
        from numba.core import codegen

        llvm.initialize_all_targets()
        llvm.initialize_all_asmprinters()
        target = llvm.Target.from_triple(_ARM_TRIPLE)
        machine = target.create_target_machine(cpu=_NEOVERSE, opt=3)
        self._texts: list[str] = []
        ordinary, texts = codegen.JITCodeLibrary._optimize_final_module, self._texts

        def optimise(library: Any) -> None:
            here, own = library._final_module, library._codegen._tm
            layout, triple = f'target datalayout = "{machine.target_data}"', f'target triple = "{_ARM_TRIPLE}"'
            lines = [
                line for line in str(here).splitlines() if not line.startswith(("target datalayout", "target triple"))
            ]
            library._final_module = llvm.parse_assembly("\n".join([layout, triple, *lines]))
            library._codegen._tm = machine
            try:
                ordinary(library)
                texts.append(machine.emit_assembly(library._final_module))
            finally:
                library._final_module, library._codegen._tm = here, own

        codegen.JITCodeLibrary._optimize_final_module = optimise

    def text(self) -> str:
        """Return the code of what was compiled last, the outermost function: it is finished after those it calls."""
        return self._texts[-1]


def main(arguments: list[str]) -> None:
    """Do one of the two steps."""
    step, first, *rest = arguments
    if step == "record":
        record(json.loads(Path(first).read_text()), Path(rest[0]))
    else:
        compile_all(Path(first), rest[0], Path(rest[1]))


if __name__ == "__main__":
    main(sys.argv[1:])
