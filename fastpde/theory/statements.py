"""What theory says of a run or of a study: statements with their formula, their source and their section.

A statement of a run has a condition on its setting: it is shown where the condition holds, and nowhere else.
`report.theory_checks` compares it with what the run has recorded, by the name that it has here.
"""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import numpy as np

from .. import weights
from .._types import Array
from ..attention import L2, Attention, Exponential, Masked, SingleHead, Sinkhorn, Softmax
from ..attention.composite import Term, terms_of
from ..errors import InputError, NoGaussianClosure
from ..laws import Gaussian, Law

PAPER = "Castin et al. 2025"
_RATES = "Fournier and Guillin 2015"
DERIVED = "derived"
_ARTICLES = {PAPER: "https://arxiv.org/abs/2501.18322", _RATES: "https://doi.org/10.1007/s00440-014-0583-7"}
_PAGES = {
    1: "01-model", 2: "02-gaussian-closures", 4: "04-limits-and-blow-up", 7: "07-energies", 8: "08-stability",
    9: "09-conditional-distance", 12: "12-linearisation", 13: "13-mean-field",
}  # fmt: skip


@dataclass(frozen=True)
class Setting:
    """What a statement may depend on: the attention, the law that tokens are drawn from (None: a file), and n."""

    attention: Attention
    law: Law | None
    n: int

    @property
    def terms(self) -> list[Term]:
        """The heads, with their masks."""
        return list(terms_of(self.attention))

    @property
    def head(self) -> SingleHead | None:
        """The only head of constant parameters, masked or not; None if there are several, or parameters in time."""
        inside = self.attention.attention if isinstance(self.attention, Masked) else self.attention
        return inside if isinstance(inside, SingleHead) and inside.constant else None

    @property
    def is_bounded(self) -> bool:
        """Whether velocities are at most a constant times the largest token."""
        return all(t.head.normalised or weights.is_bounded(t.head.weight) for t in self.terms)

    @property
    def has_rates(self) -> bool:
        """Whether bounds of W_2 are known of the attention."""
        return not any(term.head.positional for term in self.terms)

    @property
    def factor(self) -> float | None:
        """The number c > 0 with V = c I for the only head; None if there is none."""
        if self.head is None:
            return None
        V = np.asarray(self.head.V(0.0))
        return float(V[0, 0]) if V[0, 0] > 0.0 and np.array_equal(V, V[0, 0] * np.eye(len(V))) else None


@dataclass(frozen=True)
class Statement:
    """A claim in a sentence, its formula, who shows it, and its section in the documentation.

    Attributes:
        section: the number of the section, "8.1".
        holds_for: whether it is a statement about a setting; None: about studies alone.
    """

    claim: str
    formula: str
    source: str
    section: str
    holds_for: Callable[[Setting], bool] | None = None

    @property
    def links(self) -> list[tuple[str, str]]:
        """The articles of its source, and their addresses."""
        return [(name, address) for name, address in _ARTICLES.items() if name in self.source]

    @property
    def anchor(self) -> str:
        """The target of the section in the documentation, "theory-8-1"."""
        return "theory-" + self.section.replace(".", "-")

    @property
    def where(self) -> str:
        """The section, and where it stands in the repository: "Theory 8.1, docs/theory/08-stability.md#theory-8-1"."""
        return f"Theory {self.section}, docs/theory/{_PAGES[int(self.section.split('.')[0])]}.md#{self.anchor}"


def _grows(kind: type[Any]) -> Callable[[Setting], bool]:
    """Return the condition that some head is a sum of weights of a class, not divided by its total."""
    return lambda s: any(isinstance(t.head.weight, kind) and not t.head.normalised for t in s.terms)


def _is_stable(setting: Setting) -> bool:
    return setting.has_rates and setting.is_bounded and not setting.attention.masked


def _is_stable_behind_mask(setting: Setting) -> bool:
    return setting.has_rates and setting.is_bounded and setting.attention.masked


def _shrinks_hulls(setting: Setting) -> bool:
    """Return whether V = c I with c > 0 and the field averages tokens: Softmax, L2, masked or not."""
    return isinstance(setting.head, Softmax | L2) and setting.factor is not None


def _is_gaussian(setting: Setting) -> bool:
    """Return whether tokens are drawn from a Gaussian law that stays Gaussian."""
    law = setting.law
    if not isinstance(law, Gaussian) or law.mean.ndim > 1 or setting.attention.masked:
        return False
    try:
        setting.attention.affine(law.mean, law.cov)
    except (NoGaussianClosure, InputError):
        return False
    return True


def _collapses(setting: Setting) -> bool:
    """Return whether the theorem on the rank of the limit applies: V = V^T > 0, K = -Q, S0 > 0."""
    head, law = setting.head, setting.law
    if not _is_gaussian(setting) or law is None or not isinstance(head, Softmax | L2 | Sinkhorn):
        return False
    if isinstance(head, Sinkhorn) and head.n_half is not None:
        return False
    opposite = np.array_equal(head.K(0.0), -head.Q(0.0)) and bool(np.all(head.scale(0.0) > 0.0))
    return opposite and _is_positive(np.asarray(head.V(0.0))) and _is_positive(law.cov)


def _is_positive(matrix: Array) -> bool:
    return bool(np.array_equal(matrix, matrix.T) and np.linalg.eigvalsh(matrix)[0] > 0.0)


def _has_no_limit(setting: Setting) -> bool:
    """Return whether N(0, s I) has no solution: one exponential head, V = c I, c > 0, A symmetric, not <= 0."""
    head, law = setting.head, setting.law
    if not isinstance(head, Exponential) or setting.factor is None or setting.attention.masked:
        return False
    if not isinstance(law, Gaussian) or law.mean.any() or not law.cov[0, 0] > 0.0:
        return False
    A = head._score_matrix(0.0)
    round_law = np.array_equal(law.cov, law.cov[0, 0] * np.eye(len(A)))
    return bool(round_law and np.array_equal(A, A.T) and np.linalg.eigvalsh(A)[-1] > 0.0)


RUNS: dict[str, Statement] = {
    "support": Statement(
        "Tokens stay in the ball of radius R(t)",
        "R(t) = R₀ exp ∫ v dt, v = |V|, over ε under Sinkhorn attention, summed over heads",
        DERIVED, "8.2", lambda s: s.has_rates and s.is_bounded,
    ),
    "existence-exponential": Statement(
        "Tokens exist at least until a time that their radius R₀ determines",
        "t* ≥ E₁(a R₀²) / (2 v), a = |A|, v = |V|; the smallest time of all heads together",
        DERIVED, "8.2", lambda s: s.has_rates and _grows(weights.Exp)(s),
    ),
    "existence-linear": Statement(
        "Tokens exist at least until a time that their radius R₀ determines",
        "t* ≥ 1 / (2 v a R₀²), a = |A|, v = |V|; the smallest time of all heads together",
        DERIVED, "8.2", lambda s: s.has_rates and _grows(weights.Linear)(s) and not _grows(weights.Exp)(s),
    ),
    "no-limit": Statement(
        "Infinitely many tokens of this Gaussian law have no solution at all: t* falls to 0 as tokens lie farther out",
        "t* ≤ ∫_R^∞ dx / Γ₀(x) → 0 as R → ∞",
        DERIVED, "13.5", _has_no_limit,
    ),
    "stability": Statement(
        "The flow is well-posed: any other law in the same ball moves away by a factor C at most",
        "W₂(μ_t, ν_t) ≤ C(t, R₀) W₂(μ₀, ν₀), log C = ∫ L(R(s)) ds",
        f"{PAPER}, Theorem 3.1; the constant is derived", "8.1", _is_stable,
    ),
    "stability-masked": Statement(
        "The flow is well-posed in the conditional distance: any other law in the ball, at the same positions, moves "
        "away by a factor C at most",
        "d₂(μ_t, ν_t) ≤ C(t, R₀) d₂(μ₀, ν₀), d₂² = ∫ W₂²(μ^s, ν^s) dθ(s)",
        f"{PAPER}; the constant is derived", "8.1", _is_stable_behind_mask,
    ),
    "moved": Statement(
        "The law moves no farther in the conditional distance than a token can",
        "d₂(μ₀, μ_t) ≤ R(t) − R₀",
        DERIVED, "9", lambda s: s.has_rates and s.is_bounded and s.attention.masked,
    ),
    "mean-field": Statement(
        "n independent tokens of a law follow its mean-field limit",
        "E W₂²(μⁿ₀, μ₀) is at most of the order n^(−1/2) for d < 4, n^(−1/2) log n for d = 4, n^(−2/d) for d > 4; "
        "velocities are off by the order n^(−1/2)",
        f"{PAPER}, Theorem 3.1; {_RATES}", "8.3",
        lambda s: s.law is not None and np.isfinite(s.law.support_radius) and s.n > 1 and _is_stable(s),
    ),
    "hull": Statement(
        "Seen as exp(−c t) x_i tokens never spread: their convex hull shrinks under V = c I",
        "max_i |x_i(t)| exp(−c t) does not increase",
        DERIVED, "1.1", _shrinks_hulls,
    ),
    "mean": Statement(
        "The mean follows a linear equation, whatever the tokens",
        "m' = V m / ε",
        DERIVED, "1.1", lambda s: isinstance(s.head, Sinkhorn) and s.head.n_half is None,
    ),
    "energy": Statement(
        "The energy is monotone",
        "E = ½ ∬ w(s(x, y)) dμ dμ, or S_ε under Sinkhorn attention: dE/dt has the sign of AᵀV + VᵀA, or its opposite",
        f"{PAPER}; {DERIVED}", "7", lambda s: s.attention._energy_trend(0.0) != 0,
    ),
    "balance": Statement(
        "The energy changes by the integral of the dissipation",
        "E(t) − E(0) = ∫ ∫ ⟨∇ δE/δμ, Γ_μ⟩ dμ dt",
        DERIVED, "7", lambda s: not s.attention.masked and not any(isinstance(t.head, L2) for t in s.terms),
    ),
    "gaussian": Statement(
        "The law of infinitely many such tokens stays Gaussian, and its covariance follows an equation",
        "m' = c + M m, S' = M S + S Mᵀ",
        f"{PAPER}, Propositions 4.2 and 4.11", "2", _is_gaussian,
    ),
    "rank": Statement(
        "The covariance of the Gaussian law converges to one of lower rank",
        "rank S_∞ = d − rank Q, for V = Vᵀ > 0, K = −Q",
        DERIVED, "4.2", _collapses,
    ),
}  # fmt: skip


def of_run(setting: Setting) -> dict[str, Statement]:
    """Return the statements that apply to a run in R^d without noise, by name."""
    return {
        name: statement
        for name, statement in RUNS.items()
        if statement.holds_for is not None and statement.holds_for(setting)
    }


STUDIES: dict[str, tuple[Statement, ...]] = {
    "rank-collapse": (
        Statement("Covariances lose rank if keys oppose queries", "rank S_∞ = d − rank Q, for V = Vᵀ > 0, K = −Q",
                  DERIVED, "4.2"),
        Statement("Variances along ker Q are kept", "Nᵀ S⁻¹ N is constant, N a basis of ker Q", DERIVED, "4.1"),
    ),
    "phase-diagram": (
        Statement("If matrices commute, a spectrum decides between convergence and blow-up",
                  "blow-up iff λ_max(VA + AᵀVᵀ) > 0 on the range of S₀", f"{PAPER}, Proposition 4.4", "4.4"),
        Statement("Without commutation it does not decide", "an example has λ_max = −0.50 and blows up at t = 0.1478",
                  DERIVED, "4.4"),
    ),
    "covariance-paths": (
        Statement("A Gaussian law stays Gaussian", "S' = M S + S Mᵀ", f"{PAPER}, Propositions 4.2 and 4.11", "2"),
        Statement("Isotropic covariances are stationary", "Uᵀ A U = 0, S = U Uᵀ", DERIVED, "4.3"),
    ),
    "mean-field": (
        Statement("n tokens follow the mean-field limit", "W_p(μⁿ_t, μ_t) ≤ C(t, R₀) W_p(μⁿ₀, μ₀)",
                  f"{PAPER}, Theorem 3.1", "8.3"),
        Statement("Errors of velocities have a central limit",
                  "n Cov(Γ_n(x)) → V E[g² (y − m_x)(y − m_x)ᵀ] Vᵀ / Z²", DERIVED, "8.3"),
    ),
    "stability": (
        Statement("Two clouds in a ball move apart by a factor C at most",
                  "W₂(μ_t, ν_t) ≤ C(t, R₀) W₂(μ₀, ν₀), log C = ∫ L(R(s)) ds",
                  f"{PAPER}, Theorem 3.1; the constant is derived", "8.1"),
        Statement("Under a mask the distance is the conditional one", "d₂² = ∫ W₂²(μ^s, ν^s) dθ(s)", PAPER, "9"),
        Statement("Tokens stay in a ball", "R(t) = R₀ exp ∫|V| dt, or less simple without averages", DERIVED, "8.2"),
    ),
    "stationary-points": (
        Statement("Isotropic shapes attract if their linearised flow is stable",
                  "Uᵀ A U = 0; spectrum: β_i + β_j, β_i, and that of G → Gᵀ B₁ + B₂ G", DERIVED, "12.4"),
    ),
    "blow-up": (
        Statement("Exponential attention with VA > 0 has no solution for a law of unbounded support",
                  "t* ≤ ∫_R^∞ dx / Γ₀(x); for N(0, 1) log t* ~ −½ a² R² (a ≤ 1), −(a − ½) R² (a ≥ 1)", DERIVED, "13.5"),
        Statement("With VA < 0 the law comes down from infinity", "the edge at t > 0 has a limit as R → ∞", DERIVED,
                  "13.5"),
        Statement("Linear attention is closed in second moments", "t* = 1 / (2 v a m₀), for every law, d = 1", DERIVED,
                  "13.5"),
        Statement("Sigmoid attention exists for ever", "|Γ_μ(x)| ≤ v E|y|", DERIVED, "13.5"),
    ),
    "energy-convexity": (
        Statement("The energy is not geodesically convex in the twisted metric", "E = ½ ∬ e^⟨x, Ay⟩ dμ dμ",
                  f"{PAPER}, section 5.4", "7"),
        Statement("It is convex along Wasserstein geodesics of centred Gaussian laws if A is definite, and of all "
                  "Gaussian laws if A ≥ 0", "every term of (log E)'' is at least 0", DERIVED, "7"),
    ),
}  # fmt: skip
