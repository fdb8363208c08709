"""Explicit SIMD vectors for the kernels: their shape on this machine, and the few LLVM instructions they need.

Lanes are targets. A target tile has `VECTORS` vectors; a score panel treats `group_size(bits)` sources at a time, so
that VECTORS * group_size accumulators, the operands and a temporary fit the register file. Everything is generic LLVM,
which becomes AVX-512, AVX2, SSE or NEON code, but for `look_up`, an instruction of AVX-512.
"""

from __future__ import annotations

import os
from dataclasses import dataclass

from llvmlite import ir

I32 = ir.IntType(32)
I64 = ir.IntType(64)

VECTORS = 2  # vectors of targets in a tile
CHUNK = 192  # sources whose partial sum is kept in the working precision; a multiple of every group size
TILES = 8  # target tiles that share one source chunk while it is in the L2 cache


def vector_bits() -> int:
    """Return the width of the SIMD registers in bits: 512, 256 or 128.

    `FASTPDE_VECTOR_BITS` overrides it, for tests.
    """
    forced = os.environ.get("FASTPDE_VECTOR_BITS")
    if forced:
        return int(forced)
    on = target_features()
    if "avx512f" in on and "avx512dq" in on:
        return 512
    return 256 if "avx2" in on else 128


def target_features() -> set[str]:
    """Return the features of the processor that Numba compiles for, by LLVM's names."""
    import llvmlite.binding as llvm

    features = os.environ.get("NUMBA_CPU_FEATURES")
    if features is not None or os.environ.get("NUMBA_CPU_NAME"):
        return {name[1:] for name in (features or "").split(",") if name.startswith("+")}
    return {name for name, has in llvm.get_host_cpu_features().items() if has}


BITS = vector_bits()
HAS_TABLES = BITS == 512 and "avx512f" in target_features()  # whether there is an instruction for `look_up`


@dataclass(frozen=True)
class Lanes:
    """A vector type of `count` floats of `bits` bits, and the integer type of its shape; count 0: a single number."""

    bits: int
    count: int

    @property
    def scalar(self) -> ir.Type:
        return ir.DoubleType() if self.bits == 64 else ir.FloatType()

    @property
    def type(self) -> ir.Type:
        return ir.VectorType(self.scalar, self.count) if self.count else self.scalar

    @property
    def integer(self) -> ir.Type:
        return ir.VectorType(ir.IntType(self.bits), self.count) if self.count else ir.IntType(self.bits)

    def constant(self, value: float) -> ir.Constant:
        one = ir.Constant(self.scalar, value)
        return ir.Constant(self.type, [one] * self.count) if self.count else one

    def int_constant(self, value: int) -> ir.Constant:
        one = ir.Constant(ir.IntType(self.bits), value)
        return ir.Constant(self.integer, [one] * self.count) if self.count else one

    @property
    def wide(self) -> Lanes:
        """The same number of lanes in float64."""
        return Lanes(64, self.count)


def lanes_of(bits: int) -> Lanes:
    """Return the vector type of this machine for floats of `bits` bits."""
    return Lanes(bits, BITS // bits)


def group_size(bits: int) -> int:
    """Return the number of sources per score panel.

    It divides CHUNK and leaves no accumulator in memory (measured; see benchmarks).
    """
    if BITS == 512:
        return 12 if bits == 32 else 8
    return 6


def most_columns() -> int:
    """Return the most value columns of a panel: the register file holds VECTORS * columns accumulators."""
    return 13 if BITS == 512 else 6


def fma(builder, lanes: Lanes, a, b, c):
    """Emit a * b + c, fused where the hardware can (llvm.fma would call a library where it cannot)."""
    name = f"llvm.fmuladd.v{lanes.count}f{lanes.bits}" if lanes.count else f"llvm.fmuladd.f{lanes.bits}"
    module = builder.module
    function = module.globals.get(name)
    if function is None:
        function = ir.Function(module, ir.FunctionType(lanes.type, [lanes.type] * 3), name)
    return builder.call(function, [a, b, c])


def splat(builder, lanes: Lanes, value):
    """Emit a vector with `value` in every lane (`value` may be an integer of the same width)."""
    kind = lanes.integer if isinstance(value.type, ir.IntType) else lanes.type
    one = builder.insert_element(ir.Constant(kind, ir.Undefined), value, I32(0))
    return builder.shuffle_vector(
        one, ir.Constant(kind, ir.Undefined), ir.Constant(ir.VectorType(I32, lanes.count), None)
    )


def load(builder, kind, pointer, index):
    """Emit the load of the vector of type `kind` whose first element is pointer[index] (no alignment assumed)."""
    at = builder.bitcast(builder.gep(pointer, [index]), kind.as_pointer())
    return builder.load(at, align=4)


def store(builder, vector, pointer, index) -> None:
    """Emit the store of a vector to pointer[index:] (no alignment assumed)."""
    at = builder.bitcast(builder.gep(pointer, [index]), vector.type.as_pointer())
    builder.store(vector, at, align=4)


def maximum(builder, a, b):
    """Emit the lane-wise maximum; it keeps b where a is not a number."""
    return builder.select(builder.fcmp_ordered(">", a, b), a, b)


def look_up(builder, lanes: Lanes, entries: list[int], index):
    """Emit entries[index % len(entries)] in each lane, of integers that fill two registers; see HAS_TABLES."""
    low, high = (
        builder.bitcast(ir.Constant(lanes.integer, half), lanes.type)
        for half in (entries[: lanes.count], entries[lanes.count :])
    )
    name = f"llvm.x86.avx512.vpermi2var.p{'d' if lanes.bits == 64 else 's'}.512"
    kind = ir.FunctionType(lanes.type, [lanes.type, lanes.integer, lanes.type])
    function = builder.module.globals.get(name) or ir.Function(builder.module, kind, name)
    return builder.bitcast(builder.call(function, [low, index, high]), lanes.integer)
