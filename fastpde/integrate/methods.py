"""The Runge-Kutta methods, as data: euler, heun and rk4 (fixed step), bosh3, dopri5 and tsit5 (adaptive)."""

from __future__ import annotations

from fractions import Fraction as Q

from fastpde.integrate.tableau import Tableau, hermite


def _square(*rows: tuple) -> list[list]:
    """Pad the rows of a lower triangular matrix with zeros; row s is given by its first s entries."""
    size = len(rows)
    return [[*row, *[0] * (size - len(row))] for row in rows]


def _euler() -> Tableau:
    """Return Euler's method; its continuous extension is the straight line y + theta h f(t, y).

    With step 1 and parameters constant on [i, i + 1) this is a residual network, and the line needs no evaluation at
    t + h, where the parameters are already those of the next layer.
    """
    return Tableau("euler", 1, _square((), (1,)), (1, 0), (0, 1), dense=((1,), (0,)), dense_order=1)


def _heun() -> Tableau:
    """Return Heun's method, the explicit trapezoidal rule; its continuous extension is the parabola of order two.

    y1 = y + h/2 (k1 + k2) with k2 = f(t + h, y + h k1). Like Euler's line, the parabola needs no evaluation beyond the
    step's own. With noise it is the stochastic Heun method, of strong order one if the noise is additive.
    Source: Heun (1900), Z. Math. Phys. 45, 23-38; Rümelin (1982), SIAM J. Numer. Anal. 19, 604-613.
    """
    half = Q(1, 2)
    a = _square((), (1,), (half, half))
    return Tableau("heun", 2, a, (half, half, 0), (0, 1, 1), dense=((1, -half), (0, half), (0, 0)), dense_order=2)


def _rk4() -> Tableau:
    """Return the classical method, with the FSAL stage appended for a cubic Hermite continuous extension.

    Source: Kutta (1901); Hairer, Norsett, Wanner (1993) II.1, II.6.
    """
    b = (Q(1, 6), Q(1, 3), Q(1, 3), Q(1, 6))
    a = _square((), (Q(1, 2),), (0, Q(1, 2)), (0, 0, 1), b)
    c = (0, Q(1, 2), Q(1, 2), 1, 1)
    return Tableau("rk4", 4, a, (*b, 0), c, dense=hermite((*b, 0)), dense_order=3)


def _bosh3() -> Tableau:
    """Return the 3(2) pair of Bogacki and Shampine; its continuous extension is the cubic Hermite interpolant.

    Source: Bogacki, Shampine (1989), Appl. Math. Lett. 2, 321-325.
    """
    b = (Q(2, 9), Q(1, 3), Q(4, 9))
    return Tableau(
        "bosh3",
        order=3,
        a=_square((), (Q(1, 2),), (0, Q(3, 4)), b),
        b=(*b, 0),
        c=(0, Q(1, 2), Q(3, 4), 1),
        dense=hermite((*b, 0)),
        dense_order=3,
        b_error=(Q(2, 9) - Q(7, 24), Q(1, 3) - Q(1, 4), Q(4, 9) - Q(1, 3), -Q(1, 8)),
        embedded_order=2,
    )


def _dopri5() -> Tableau:
    """Return the 5(4) pair of Dormand and Prince with the free continuous extension of order four.

    Source: Dormand, Prince (1980), J. Comput. Appl. Math. 6, 19-26; extension: Shampine (1986), Math. Comp. 46,
    135-150, in the form of Hairer, Norsett, Wanner (1993) II.6.
    """
    b = (Q(35, 384), 0, Q(500, 1113), Q(125, 192), -Q(2187, 6784), Q(11, 84))
    a = _square(
        (),
        (Q(1, 5),),
        (Q(3, 40), Q(9, 40)),
        (Q(44, 45), -Q(56, 15), Q(32, 9)),
        (Q(19372, 6561), -Q(25360, 2187), Q(64448, 6561), -Q(212, 729)),
        (Q(9017, 3168), -Q(355, 33), Q(46732, 5247), Q(49, 176), -Q(5103, 18656)),
        b,
    )
    bump = (
        -Q(12715105075, 11282082432),
        0,
        Q(87487479700, 32700410799),
        -Q(10690763975, 1880347072),
        Q(701980252875, 199316789632),
        -Q(1453857185, 822651844),
        Q(69997945, 29380423),
    )
    return Tableau(
        "dopri5",
        order=5,
        a=a,
        b=(*b, 0),
        c=(0, Q(1, 5), Q(3, 10), Q(4, 5), Q(8, 9), 1, 1),
        dense=hermite((*b, 0), bump),
        dense_order=4,
        b_error=(Q(71, 57600), 0, -Q(71, 16695), Q(71, 1920), -Q(17253, 339200), Q(22, 525), -Q(1, 40)),
        embedded_order=4,
    )


# Tsitouras gives decimals: sixteen digits, which satisfy the order conditions to rounding.
_TSIT5_B = (
    0.09646076681806523,
    0.01,
    0.4798896504144996,
    1.379008574103742,
    -3.290069515436081,
    2.324710524099774,
)
_TSIT5_A = _square(
    (),
    (0.161,),
    (-0.008480655492356989, 0.335480655492357),
    (2.8971530571054935, -6.359448489975075, 4.3622954328695815),
    (5.325864828439257, -11.748883564062828, 7.4955393428898365, -0.09249506636175525),
    (5.86145544294642, -12.92096931784711, 8.159367898576159, -0.071584973281401, -0.028269050394068383),
    _TSIT5_B,
)
_TSIT5_BUMP = (
    -1.0530884977290216,
    0.1017,
    2.490627285651253,
    -16.548102889244902,
    47.37952196281928,
    -34.87065786149661,
    2.5,
)
_TSIT5_ERROR = (
    -0.00178001105222577714,
    -0.0008164344596567469,
    0.007880878010261995,
    -0.1447110071732629,
    0.5823571654525552,
    -0.45808210592918697,
    Q(1, 66),
)


def _tsit5() -> Tableau:
    """Return the 5(4) pair of Tsitouras with its free continuous extension of order four.

    Source: Tsitouras (2011), Comput. Math. Appl. 62, 770-775.
    """
    return Tableau(
        "tsit5",
        order=5,
        a=_TSIT5_A,
        b=(*_TSIT5_B, 0),
        c=(0, 0.161, 0.327, 0.9, 0.9800255409045097, 1, 1),
        dense=hermite((*_TSIT5_B, 0), _TSIT5_BUMP),
        dense_order=4,
        b_error=_TSIT5_ERROR,
        embedded_order=4,
    )


TABLEAUX: dict[str, Tableau] = {t.name: t for t in (_euler(), _heun(), _rk4(), _bosh3(), _dopri5(), _tsit5())}

METHODS: tuple[str, ...] = tuple(TABLEAUX)

# The methods whose limit is known if each step has a random increment.
NOISY: tuple[str, ...] = ("euler", "heun")
