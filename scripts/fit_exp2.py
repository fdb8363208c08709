"""The polynomials of the kernels' exp2 (simd/emitters.py): relative minimax on [-1/2, 1/2] by Remez exchange.

Prints, for each degree, the coefficients (constant term first) and the largest relative error.
Source: Remez 1934; the error is equioscillating at degree + 2 points.
"""

import sys

import mpmath as mp

mp.mp.dps = 40


def remez(degree: int, rounds: int = 12) -> tuple[list, object]:
    """Return coefficients c for which max |sum c_k r^k / 2^r - 1| is minimal on [-1/2, 1/2], and that maximum."""
    count = degree + 2
    points = [mp.cos(mp.pi * i / (count - 1)) / 2 for i in range(count)]
    for _ in range(rounds):
        rows = [[p**k / mp.mpf(2) ** p for k in range(degree + 1)] + [(-1) ** i] for i, p in enumerate(points)]
        solution = mp.lu_solve(mp.matrix(rows), mp.matrix([1] * count))
        coefficients = list(solution)[:-1]

        def error(r, c=coefficients):
            return mp.polyval(c[::-1], r) / mp.mpf(2) ** r - 1

        grid = [mp.mpf(i) / 2000 - mp.mpf(1) / 2 for i in range(2001)]
        values = [error(r) for r in grid]
        extrema = [0] + [i for i in range(1, 2000) if (values[i] - values[i - 1]) * (values[i + 1] - values[i]) <= 0]
        points = [grid[i] for i in [*extrema, 2000]][:count]
    return coefficients, max(abs(v) for v in values)


if __name__ == "__main__":
    for degree in [int(a) for a in sys.argv[1:]] or [6, 10, 11]:
        coefficients, worst = remez(degree)
        print(f"degree {degree}: relative error {mp.nstr(worst, 3)}")
        for c in coefficients:
            print("   ", mp.nstr(c, 20))
