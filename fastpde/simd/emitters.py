"""Emitters of weights: the code that turns a vector of scores in registers into weights, written once per weight.

Scores come in units of log 2 (t = score / log 2, bias included): 2^t is what a register makes fastest. `weights` has
the same formulas in readable form.

To add one: an entry of _EMITTERS, keyed by its type.
"""

from __future__ import annotations

from typing import Any

from .. import weights
from .vectors import Lanes, fma

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

# Scores relative to a running maximum are clamped here before exp2: far inside the exponent range, because sums of
# 2^-125 with small values are subnormal, and subnormal arithmetic is 50 to 200 times slower. The terms lost weigh less
# than 2^-100 of the largest.
CLAMP = {32: 100.0, 64: 1000.0}
NORMAL = {32: 126.0, 64: 1022.0}  # 2^-NORMAL is the smallest normal number


def emit_exp2(builder, lanes: Lanes, t, sign: float = 1.0):
    """Emit 2^(sign t) for |t| below the exponent range.

    Adding 1.5 * 2^mantissa splits sign t = n + r; then 2^r is a polynomial, and n goes into the exponent bits. Outside
    the range the field wraps silently, so the caller bounds or clamps t.
    """
    mantissa = _MANTISSA[lanes.bits]
    magic = lanes.constant(1.5 * 2.0**mantissa)
    shifted = builder.fadd(magic, t) if sign > 0 else builder.fsub(magic, t)
    whole = builder.fsub(shifted, magic)
    r = builder.fsub(t, whole) if sign > 0 else builder.fadd(t, whole)  # sign times the remainder
    coefficients = [c * sign**power for power, c in enumerate(_EXP2[lanes.bits])]
    p = lanes.constant(coefficients[-1])
    for c in coefficients[-2::-1]:
        p = fma(builder, lanes, p, r, lanes.constant(c))
    exponent = builder.shl(builder.bitcast(shifted, lanes.integer), lanes.int_constant(mantissa))
    return builder.bitcast(builder.add(builder.bitcast(p, lanes.integer), exponent), lanes.type)


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
