"""The polynomials of the kernels' exp2 (simd/emitters.py): relative minimax on [-half, half] by Remez exchange.

Prints, for each degree and size of table, the coefficients (constant term first) and the largest relative error.
Without a table half = 1/2. What a table of 2^(i / size) leaves has half = 1 / (2 size), and a polynomial with the
constant 1, of even degree: those of odd degree have no alternating error, for it vanishes at 0.
Source: Remez 1934; the error is equioscillating at one point more than there are coefficients.
"""

import argparse

import mpmath as mp

mp.mp.dps = 40


def remez(degree: int, half, fixed: int, rounds: int = 12) -> tuple[list, object]:
    """Return coefficients c for which max |sum c_k r^k / 2^r - 1| is minimal on [-half, half], and that maximum.

    fixed: how many leading coefficients are those of 1: 1 for a constant term of 1, else 0.
    """
    powers = range(fixed, degree + 1)
    count = len(powers) + 1
    # Chebyshev points of an even number, so that none is 0, where the error vanishes if the constant is fixed.
    even = count + count % 2
    points = [half * mp.cos(mp.pi * (i + mp.mpf(1) / 2) / even) for i in range(count)]
    for _ in range(rounds):
        rows = [[p**k / mp.mpf(2) ** p for k in powers] + [(-1) ** i] for i, p in enumerate(points)]
        right = [1 - fixed / mp.mpf(2) ** p for p in points]
        *found, _ = mp.lu_solve(mp.matrix(rows), mp.matrix(right))
        coefficients = [mp.mpf(1)] * fixed + found

        def error(r, c=coefficients):
            return mp.polyval(c[::-1], r) / mp.mpf(2) ** r - 1

        grid = [half * (mp.mpf(i) / 1000 - 1) for i in range(2001)]
        values = [error(r) for r in grid]
        extrema = [0] + [i for i in range(1, 2000) if (values[i] - values[i - 1]) * (values[i + 1] - values[i]) <= 0]
        points = [grid[i] for i in [*extrema, 2000][:count]]
    return coefficients, max(abs(v) for v in values)


def main() -> None:
    """Print the polynomials of some degrees and sizes of tables, by default those that the package has."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("wanted", nargs="*", default=["5", "10", "2:32", "6:16"], help="DEGREE or DEGREE:SIZE")
    for wanted in parser.parse_args().wanted:
        degree, _, size = wanted.partition(":")
        if size and int(degree) % 2:
            parser.error(f"{wanted}: need an even degree with a table")
        table = f" with a table of {size}" if size else ""
        coefficients, worst = remez(int(degree), mp.mpf(1) / (2 * int(size or 1)), bool(size))
        print(f"degree {degree}{table}: relative error {mp.nstr(worst, 3)}")
        for c in coefficients:
            print("   ", mp.nstr(c, 20))


if __name__ == "__main__":
    main()
