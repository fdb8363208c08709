"""The mean-field limit as users see it."""

from __future__ import annotations

from collections.abc import Callable
from functools import lru_cache
from typing import Any, cast

import numpy as np

from .._numbers import real, show, whole, within
from .._types import Array, as_numbers, as_tokens
from ..attention import Attention
from ..attention.base import as_attention
from ..attention.composite import Term, terms_of
from ..errors import ExplainedMethods, InputError
from ..integrate.options import function, time_span
from ..laws import Empirical, Law
from ..laws.law import law_of
from ..weights import Linear, is_bounded
from .affine_flow import by_closure
from .agreement import by_agreement, has_rule
from .carrier import Carrier
from .scrambles import by_scrambles
from .setting import Setting

_FRAMES = 32  # intervals between times at which states are kept
_TOL_OF_RULES, _TOL_OF_SOBOL = 1e-8, 1e-3
_MOST_AXES = 3  # of a tensor product of rules


class MeanField(ExplainedMethods):
    """The law of infinitely many tokens that start with a given law: the solution of d_t mu + div(mu Gamma_mu) = 0.

    In d <= 3 the nodes of a quadrature rule of the law are moved as tokens with their weights. A rule of m points per
    axis is accepted if it agrees with one of 2m / 3 points, which takes larger steps: at 33 times both carry the same
    128 points of the law to the same places, up to tol times the largest distance from the origin, and have the same
    mean and covariance.

    In more dimensions, and for laws without a rule, 8 scrambled Sobol sequences are moved, each by itself; results are
    means over the 8. The standard error of that, of where the same points are and of mean and covariance, has to be at
    most tol. It is an estimate and no certificate.

    A Gaussian law under an attention that keeps it Gaussian needs no nodes, in any dimension: its mean, covariance and
    flow map are integrated, twice, with steps of two sizes.

    If the attention is masked, or sees positions in another way, the law is one of positions and tokens:
    the position s is uniform on [0, 1], and law(s) is the law of the tokens there. Another law of positions is a
    change of variables: s is the part of all tokens that come before. All methods then take s; velocities and flows at
    position s depend on the tokens at positions up to s. There is a rule of law(s) at each node of a Gauss-Legendre
    rule of positions, and both have m points per axis; integrals over [0, s] are those of the polynomial through the
    nodes, so that errors fall as fast in position as in space if law(s) depends smoothly on s.

    Attributes:
        law: the law at t0, or the function of the position.
        attention: the attention that moves it.
        t: (33,) times from t0 to t1.
        weights: (q,) weights of the nodes.
        how: how the law is known: "closure" of a Gaussian law, "quadrature", or "sobol".
        error: (33,) largest relative error up to each time: the difference of two runs of a closure, or of two rules,
            or the standard error of 8 scrambles.
        tol: what was asked of it.
    """

    def __init__(
        self,
        field: Attention,
        law: Law | Callable[[float], Law],
        t_span: tuple[float, float],
        *,
        tol: float | None = None,
        most_nodes: int = 6000,
        progress: Any = False,
    ) -> None:
        """Follow the law from t_span[0] to t_span[1], with more and more nodes until they are enough.

        Args:
            field: an attention that maps R^d to R^d.
            law: a law, as `fp.laws.Ball(2)`; or points with weights, `fp.laws.Empirical(x)`, which are moved as they
                are. Where positions matter, also a function law(s) of s in [0, 1] that returns a law.
            t_span: (t0, t1), t0 < t1.
            tol: the largest relative error, between 1e-12 and 0.1; None: 1e-8, and 1e-3 with Sobol points.
            most_nodes: number of nodes, at most, of a rule or a Sobol sequence, in all positions; an evaluation costs
                its square.
            progress: True for a bar for each set of nodes, or a function progress(t, stats).

        Raises:
            InputError, InputTypeError: naming the argument. If no two rules agree up to t1, the error of t_span says up
                to which time they do: where clusters form, or the law blows up, nodes hold for a while only. If Sobol
                points do not reach tol, the error of tol says what they reach.

        Source: Theory 13.1, 13.3.
        """
        as_attention(field, "field")
        tol = None if tol is None else within("tol", tol, 1e-12, 0.1)
        span = time_span("t_span", t_span)
        if not span[0] < span[1]:
            raise InputError("t_span", show(t_span), "an end after its start")
        most = whole("most_nodes", most_nodes)
        self.attention, self.law = field, law
        one = isinstance(law, Law | type) or not callable(law) or not field.positional
        law_at = _always(law_of("law", law)) if one else _checked(function("law", law, "(s)"))
        setting = Setting(field, law_at, one, np.linspace(*span, _FRAMES + 1), most, progress)
        for s in setting.places:
            _check(field, law_at(float(s)), span[0])
        self.t, self._setting = setting.t, setting
        self._carrier, self.tol = _carried(setting, tol)
        self.weights, self.error, self.how = self._carrier.weights, self._carrier.error, self._carrier.how

    def __repr__(self) -> str:
        law = self.law if isinstance(self.law, Law) else f"{getattr(self.law, '__name__', 'law')}(s)"
        return f"MeanField({law!s}, {len(self.weights)} nodes, error {self.error[-1]:.1g} up to t = {self.t[-1]:g})"

    def points(self, t: float, s: float | None = None) -> tuple[Array, Array]:
        """Return nodes x (q, d) at time t and their weights (q,), whose weighted sums are integrals over the law.

        s: the position whose law it is. For a law that stays Gaussian in d > 3 they are 1024 Sobol points.

        Raises:
            InputError, InputTypeError: naming t or s.
            FieldError: with the reason, if the nodes of position s cannot be followed.
        """
        x, w = self._carrier.points(self._inside(t), self._place(s))
        return x.copy(), w

    def velocity(self, t: float, x: Any, s: Any = None) -> Array:
        """Return the velocity Gamma (m, d) of the law at time t at points x (m, d).

        s: the position of the points, a number or (m,).

        Raises InputError, InputTypeError naming t, x or s.
        """
        time, points = self._inside(t), self._points("x", x)
        return self._carrier.velocity(time, points, self._places(s, len(points)))

    def push(self, t: float, x0: Any, s: Any = None) -> Array:
        """Return where the flow carries points x0 (m, d) at positions s from t0 to t: (m, d), float64.

        Raises:
            InputError, InputTypeError: naming t, x0 or s.
            FieldError: with the reason, if the points cannot be followed.
        """
        time, points = self._inside(t), self._points("x0", x0)
        return self._carrier.push(time, points, self._places(s, len(points)))

    def log_density(self, t: float, x: Any, s: Any = None) -> Array:
        """Return the logarithm (m,) of the density of the law at time t and positions s at points x (m, d).

        It is that of the law at t0 where the points come from, less the integral of the divergence along their way:
        the points are carried back, and errors grow as the flow draws them apart on that way.

        Raises:
            InputError, InputTypeError: naming t, x or s, or the law if it has no density.
            FieldError: with the reason, if the points cannot be followed back.

        Source: Theory 13.2.
        """
        time, points = self._inside(t), self._points("x", x)
        return self._carrier.log_density(time, points, self._places(s, len(points)))

    def density(self, t: float, x: Any, s: Any = None) -> Array:
        """Return the density (m,) of the law at time t at points x (m, d). Raises as `log_density`."""
        return np.exp(self.log_density(t, x, s))

    def mean(self, t: float, s: float | None = None) -> Array:
        """Return the mean (d,) of the law at time t and position s.

        Raises InputError, InputTypeError naming t or s.
        """
        return self._carrier.moments(self._inside(t), self._place(s))[0]

    def cov(self, t: float, s: float | None = None) -> Array:
        """Return the covariance (d, d) of the law at time t and position s.

        Raises InputError, InputTypeError naming t or s.
        """
        return self._carrier.moments(self._inside(t), self._place(s))[1]

    def radius(self, t: float, m: int = 32, s: float | None = None) -> float:
        """Return the largest |x| in the support of the law at time t and position s, from points of its outer boundary.

        The flow carries the boundary of the support to the boundary. `law.edge(m)` has m points per axis, so that the
        result is low by about the square of the distance between them.

        Raises InputError, InputTypeError: naming t, m or s, or the law if its support has no known boundary.
        """
        time, place = self._inside(t), self._place(s)
        edge = self._setting.law_at(0.5 if place is None else place).edge(m)
        return float(np.linalg.norm(self.push(time, edge, place), axis=1).max())

    def _inside(self, t: Any) -> float:
        """Return a time of the span, or raise InputError or InputTypeError."""
        time = real("t", t)
        if not self.t[0] <= time <= self.t[-1]:
            raise InputError("t", show(t), f"a time from {self.t[0]:g} to {self.t[-1]:g}")
        return time

    def _points(self, name: str, x: Any) -> Array:
        """Return points (m, d) in float64, or raise InputError or InputTypeError."""
        points, d = as_tokens(name, x), self._setting.dimension
        if points.ndim != 2 or points.shape[1] != d:
            raise InputError(name, f"shape {points.shape}", f"shape (m, {d})")
        return points.astype(np.float64)

    def _place(self, s: Any) -> float | None:
        """Return a position, None where they do not matter, or raise InputError or InputTypeError."""
        places = self._places(s, 1)
        if places is not None and np.ndim(s):
            raise InputError("s", f"shape {np.shape(s)}", "one position")
        return None if places is None else float(places[0])

    def _places(self, s: Any, m: int) -> Array | None:
        """Return positions (m,), None where they do not matter, or raise InputError or InputTypeError."""
        if not self._setting.positional:
            if s is not None:
                raise InputError("s", show(s), "none: this attention does not see positions", "Wrap it in fp.Masked.")
            return None
        if s is None:
            raise InputError("s", "none", "a position from 0 to 1, or one for each point", "The law depends on it.")
        places = as_numbers("s", s).astype(np.float64)
        if places.shape not in ((), (m,)):
            raise InputError("s", f"shape {places.shape}", f"a number or shape ({m},), a position for each point")
        if places.size and not (places.min() >= 0.0 and places.max() <= 1.0):
            far = places.min() if places.min() < 0.0 else places.max()
            raise InputError("s", f"{far:g}", "positions from 0 to 1, the part of all tokens that come before")
        return np.broadcast_to(places, (m,)).copy()


def _carried(setting: Setting, tol: float | None) -> tuple[Carrier, float]:
    """Return the carrier of the law at all times, and the tolerance it keeps (its default if `tol` is None).

    Raises InputError.
    """
    exact = _TOL_OF_RULES if tol is None else tol
    if (flow := by_closure(setting, exact)) is not None:
        return flow, exact
    points = isinstance(setting.law_at(0.5), Empirical)
    if points or (setting.dimension <= _MOST_AXES and has_rule(setting)):
        return by_agreement(setting, exact), exact
    tol = _TOL_OF_SOBOL if tol is None else tol
    return by_scrambles(setting, tol), tol


def _always(law: Law) -> Callable[[float], Law]:
    return lambda s: law


def _checked(law: Callable[[float], Law]) -> Callable[[float], Law]:
    """Return the function of positions, whose values are checked. Raises InputError at a position without a law."""
    d = law_of("law(0.5)", law(0.5)).dimension

    @lru_cache(maxsize=256)  # some laws take their time
    def law_at(s: float) -> Law:
        found = law_of(f"law({s:g})", law(s))
        if found.dimension != d:
            raise InputError(f"law({s:g})", repr(found), f"a law in R^{d}, as law(0.5)")
        return found

    return law_at


def _check(field: Attention, law: Law, t: float) -> None:
    """Raise InputError unless the attention maps the law's R^d to itself, and its field is known to exist at first."""
    if not np.isfinite(law.support_radius) and not all(map(_spares_tails, terms_of(field))):
        remedy = "Under sums of weights that grow there may be no solution at any time if tails are unbounded."
        raise InputError("law", repr(law), "a law of bounded support, as fp.laws.Ball(2)", remedy)
    field._check(law.mean[None, None], t, "law", square="field")


def _spares_tails(term: Term) -> bool:
    """Return whether the field of a head is defined by the second moments of a law: averages, bounded and linear w."""
    head = cast(Any, term.head)
    return head.normalised or is_bounded(head.weight) or isinstance(head.weight, Linear)
