"""Emitters of weights: the code that turns a vector of scores in registers into weights, written once per weight.

Scores come in units of log 2 (t = score / log 2, bias included): 2^t is what a register makes fastest. `weights` has
the same formulas in readable form.

To add one: an entry of _EMITTERS, keyed by its type.
"""

from __future__ import annotations

from typing import Any

import numpy as np

from .. import weights
from .vectors import HAS_TABLES, Lanes, fma, look_up

# Weights with w(t) = 2^m w(t - m): a kernel may subtract a running maximum.
SHIFTABLE = frozenset({weights.Exp})

# Relative minimax coefficients of 2^r on [-1/2, 1/2], constant first (scripts/fit_exp2.py): errors 7.5e-8 and 2.1e-16.
_EXP2 = {
    32: (
        1.0000000716547141446,
        0.69314696706503521429,
        0.24022119723710719626,
        0.055507132718556442019,
        0.0096755413431213273895,
        0.0013276472631950876055,
    ),
    64: (
        1.0,
        0.69314718055994977507,
        0.24022650695908767799,
        0.055504108664458833193,
        0.009618129108034588692,
        0.0013333558228561475528,
        0.00015403529961135955451,
        0.000015252658116561384328,
        1.321566283184610283e-6,
        1.0208537904552163897e-7,
        7.0372795305828035197e-9,
    ),
}
_MANTISSA = {32: 23, 64: 52}

# With AVX-512 two registers hold 2^(i / size), i < size, and the polynomial has |r| <= 1 / (2 size) only. Coefficients
# of q in 2^r = 1 + r q(r), constant first (scripts/fit_exp2.py): errors 5.3e-8 and 7.1e-18.
_TABLE = {32: 32, 64: 16}
_SHORT = {
    32: (0.69315739912314118763, 0.24023181891706815087),
    64: (
        0.69314718055994688866,
        0.24022650695910167031,
        0.055504108651954580178,
        0.0096181291020534451435,
        0.0013333820232909133894,
        0.0001540421172845514689,
    ),
}

# Scores relative to a running maximum are clamped here before exp2: far inside the exponent range, because sums of
# 2^-125 with small values are subnormal, and subnormal arithmetic is 50 to 200 times slower. The terms lost weigh less
# than 2^-100 of the largest.
CLAMP = {32: 100.0, 64: 1000.0}
NORMAL = {32: 126.0, 64: 1022.0}  # 2^-NORMAL is the smallest normal number


def emit_exp2(builder, lanes: Lanes, t, sign: float = 1.0):
    """Emit 2^(sign t) for |t| below the exponent range.

    sign t is split into n + r; then 2^r is a polynomial, and n goes into the exponent bits. Outside the range the field
    wraps silently, so the caller bounds or clamps t. With AVX-512 sign t is n + i / size + r, and 2^(i / size) is
    looked up.
    """
    if HAS_TABLES and lanes.count * lanes.bits == 512:
        return _emit_exp2_by_table(builder, lanes, t, sign)
    mantissa = _MANTISSA[lanes.bits]
    whole, r = _emit_split(builder, lanes, t, sign, mantissa)
    p = _emit_polynomial(builder, lanes, [c * sign**power for power, c in enumerate(_EXP2[lanes.bits])], r)
    exponent = builder.shl(whole, lanes.int_constant(mantissa))
    return builder.bitcast(builder.add(builder.bitcast(p, lanes.integer), exponent), lanes.type)


def _emit_exp2_by_table(builder, lanes: Lanes, t, sign: float):
    """Emit 2^(sign t) = 2^(n + i / size) (1 + r q(r)).

    Moved to the exponent, the last bits of n size + i leave i below it; the entries of the table take that off.
    """
    size, mantissa = _TABLE[lanes.bits], _MANTISSA[lanes.bits]
    place = mantissa - (size.bit_length() - 1)
    steps, r = _emit_split(builder, lanes, t, sign, place)
    powers = np.exp2(np.arange(size) / size).astype(f"f{lanes.bits // 8}").view(f"i{lanes.bits // 8}")
    entries = [int(bits) - (i << place) for i, bits in enumerate(powers)]
    moved = builder.shl(steps, lanes.int_constant(place))
    power = builder.bitcast(builder.add(look_up(builder, lanes, entries, steps), moved), lanes.type)
    q = _emit_polynomial(builder, lanes, [c * sign ** (k + 1) for k, c in enumerate(_SHORT[lanes.bits])], r)
    # Not (r power) q: a small r could make that subnormal.
    return fma(builder, lanes, builder.fmul(power, q), r, power)


def _emit_split(builder, lanes: Lanes, t, sign: float, place: int):
    """Emit (integer, rest): the last bits of the integer count units of 2^(place - mantissa) in sign t.

    The rest is what they leave of sign t, times sign.
    """
    magic = lanes.constant(1.5 * 2.0**place)
    shifted = builder.fadd(magic, t) if sign > 0 else builder.fsub(magic, t)
    rounded = builder.fsub(shifted, magic)
    rest = builder.fsub(t, rounded) if sign > 0 else builder.fadd(t, rounded)
    return builder.bitcast(shifted, lanes.integer), rest


def _emit_polynomial(builder, lanes: Lanes, coefficients, r):
    """Emit the polynomial with these coefficients, constant first, at r."""
    p = lanes.constant(coefficients[-1])
    for c in coefficients[-2::-1]:
        p = fma(builder, lanes, p, r, lanes.constant(c))
    return p


def _emit_sigmoid(builder, lanes: Lanes, t):
    one = lanes.constant(1.0)
    return builder.fdiv(one, builder.fadd(one, emit_exp2(builder, lanes, t, sign=-1.0)))


_EMITTERS: dict[type, Any] = {
    weights.Exp: emit_exp2,
    weights.Sigmoid: _emit_sigmoid,
    weights.Linear: lambda builder, lanes, t: t,
    weights.Called: lambda builder, lanes, t: t,  # scores are kept: the function is called for a block of them
}


def emit_weight(kind: type, builder, lanes: Lanes, t):
    """Emit the weights of type `kind` of a vector of scores t, for |t| inside the exponent range."""
    return _EMITTERS[kind](builder, lanes, t)


def emit_any_weight(kind: type, builder, lanes: Lanes, t):
    """Emit the weights of a vector of scores t of any size.

    A score relative to a running maximum is clamped; a sigmoid below the smallest normal number becomes zero.
    """
    if kind in SHIFTABLE:
        return emit_weight(kind, builder, lanes, emit_clamp(builder, lanes, t, CLAMP[lanes.bits]))
    edge = NORMAL[lanes.bits]
    weight = emit_weight(kind, builder, lanes, emit_clamp(builder, lanes, t, edge))
    gone = builder.fcmp_ordered("<", t, lanes.constant(-edge))
    return builder.select(gone, lanes.constant(0.0), weight)


def emit_clamp(builder, lanes: Lanes, t, edge: float):
    """Emit t clamped to [-edge, edge]; a NaN stays a NaN."""
    low, high = lanes.constant(-edge), lanes.constant(edge)
    t = builder.select(builder.fcmp_ordered("<", t, low), low, t)
    return builder.select(builder.fcmp_ordered(">", t, high), high, t)
