"""A search for clouds on which Sinkhorn attention is silently wrong, or gives up where plain iterations arrive.

Every answer is certified in extended precision from the potential g that it was made with: whatever the way to g, kappa
= e^{f + g + s}, f the row step of g, is the kernel of the tokens, so the velocity must be its average, to rounding, and
its columns must have the marginal error asked for. Where plain iterations converge within a bound as well, the answer
is compared with theirs: two kernels with the same rows whose columns differ by eta, sum |eta_j| <= e, have velocities
that differ by S_i e at token i to first order, S_i the condition of the problem as in `condition`.
"""

from __future__ import annotations

from dataclasses import dataclass, field, replace

import numpy as np
import pytest

import fastpde as fp
from fastpde.attention import sinkhorn
from fastpde.meanfield import bind

from .. import naive
from ..ensembles import one_thread  # noqa: F401
from ..naive import wide

# A score of d products, its exponential and a sum over the tokens, in units of the rounding of its largest part.
_ROUNDINGS = 64 * 2.0**-53


@dataclass
class Case:
    """One call; `options` are those of `fp.Sinkhorn`."""

    x: np.ndarray
    Q: np.ndarray
    K: np.ndarray
    V: np.ndarray
    weights: np.ndarray | None = None
    at: np.ndarray | None = None
    options: dict = field(default_factory=dict)
    name: str = ""

    @property
    def attention(self):
        return fp.Sinkhorn(self.Q, self.K, self.V, **self.options)

    @property
    def w(self):
        return np.full(len(self.x), 1 / wide(len(self.x))) if self.weights is None else wide(self.weights)

    @property
    def decades(self):
        """The largest |log w|: sums add log w to the scores, about the middle of the largest and the smallest."""
        return float(-np.log(self.w.min()))

    @property
    def factor(self):
        return wide(self.options.get("scale", 1.0)) / wide(self.options.get("eps", 1.0))

    def scores(self, at, centre):
        """s(x, y) / eps about the centre, with n_half y only, and the size of the numbers that they are made of."""
        x, y = wide(at) - (0 if "n_half" in self.options else centre), wide(self.x) - centre
        qx, ky = x @ wide(self.Q).T, y @ wide(self.K).T
        parts = np.abs(x) @ (np.abs(wide(self.Q)).T @ np.abs(wide(self.K))) @ np.abs(y).T
        return self.factor * (qx @ ky.T), float(abs(self.factor) * parts.max())


# ---- nasty cases -----------------------------------------------------------------------------------------------------


def thin(rng, n, d):
    x = rng.normal(size=(n, d))
    x[:, rng.integers(d)] *= 10.0 ** rng.uniform(-14, -2)
    return x


CLOUDS = {
    "normal": lambda rng, n, d: rng.normal(size=(n, d)),
    "cauchy": lambda rng, n, d: rng.standard_cauchy((n, d)),
    "lattice": lambda rng, n, d: rng.integers(-3, 4, (n, d)).astype(float),
    "one-hot": lambda rng, n, d: np.eye(d)[rng.integers(0, d, n)],
    "duplicates": lambda rng, n, d: rng.normal(size=(n, d))[rng.integers(0, 1 + n // 3, n)],
    "all equal": lambda rng, n, d: np.tile(rng.normal(size=d), (n, 1)),
    "thin": thin,
    "line": lambda rng, n, d: rng.normal(size=(n, 1)) * rng.normal(size=d) + 1e-9 * rng.normal(size=(n, d)),
    "two scales": lambda rng, n, d: rng.normal(size=(n, d)) * rng.choice([1e-4, 1.0], (n, 1)),
    "clusters": lambda rng, n, d: 0.01 * rng.normal(size=(n, d)) + 3 * rng.normal(size=(3, d))[rng.integers(0, 3, n)],
    "outlier": lambda rng, n, d: rng.normal(size=(n, d)) * np.where(np.arange(n) == 0, 100.0, 1.0)[:, None],
    "far": lambda rng, n, d: rng.normal(size=(n, d)) + 10.0 ** rng.uniform(1, 6),
}


def spiked(rng, n, count):
    w = np.full(n, 10.0 ** rng.uniform(-300, -1))
    w[rng.integers(0, n, count)] = rng.uniform(0.1, 1, count)
    return w


WEIGHTS = {
    "equal": lambda rng, n: None,
    "unequal": lambda rng, n: rng.uniform(0.01, 1, n),
    "wide": lambda rng, n: 10.0 ** rng.uniform(-8, 0, n),
    "tiny": lambda rng, n: 10.0 ** rng.uniform(-300, 0, n),
    "spike": lambda rng, n: spiked(rng, n, 1),
    "spikes": lambda rng, n: spiked(rng, n, 3),
}


def turned(rng, Q):
    return Q @ np.linalg.qr(rng.normal(size=(Q.shape[1], Q.shape[1])))[0]


MATRICES = {
    "other": lambda rng, Q: rng.normal(size=Q.shape),
    "K = Q": lambda rng, Q: Q.copy(),
    "K = -Q": lambda rng, Q: -Q,
    "turned": turned,
    "singular": lambda rng, Q: np.tile(rng.normal(size=(1, Q.shape[1])), (len(Q), 1)),
}


def pick(rng, kinds):
    name = list(kinds)[rng.integers(len(kinds))]
    return name, kinds[name]


def nasty(seed, max_iter=1000):
    """The case of a seed: n = 1 .. 40, d = 1 .. 4, scores to 1e4, eps = 1e-3 .. 1e3; half of them small."""
    rng = np.random.default_rng([17, seed])
    n, d = int(rng.choice([1, 2, 2, 3, 3, 4, 4, 5, 7, 10, 16, 25, 40])), int(rng.integers(1, 5))
    (cloud, make), (weighted, weigh), (form, other) = (pick(rng, kinds) for kinds in (CLOUDS, WEIGHTS, MATRICES))
    k = d if rng.random() < 0.7 else int(rng.integers(1, 6))
    x, Q, w = make(rng, n, d), rng.normal(size=(k, d)), weigh(rng, n)
    K, V = other(rng, Q), rng.normal(size=(d, d))
    dtype = np.float32 if rng.random() < 0.2 else np.float64
    x = x.astype(dtype).astype(float)
    eps = 10.0 ** rng.uniform(-3, 3)
    about = x - x.mean(axis=0)
    size = np.abs((about @ Q.T) @ (about @ K.T).T).max()
    logits = 10.0 ** (rng.uniform(-3, 4) if rng.random() < 0.5 else rng.uniform(-0.5, 2.0))
    # Equal tokens differ from their mean by rounding.
    scale = eps * logits / (size if size > 1e-20 else 1.0)
    options = {"eps": eps, "scale": float(scale), "max_iter": max_iter}
    if rng.random() < 0.2:
        options["n_half"] = int(rng.choice([1, 3, 5, 21]))
    elif rng.random() < 0.5:
        options["tol"] = 10.0 ** rng.uniform(-12, -2)
    at = None if rng.random() < 0.7 else x[rng.integers(0, n, 3)] + rng.choice([0.0, 1.0]) * rng.normal(size=(3, d))
    name = f"{seed}: {cloud}, weights {weighted}, {form}, n = {n}, d = {d}, k = {k}, logits {logits:.2g}, {options}"
    at = None if at is None else at.astype(dtype)
    return Case(x.astype(dtype), Q, K, V, None if w is None else w / w.sum(), at, options, name)


# ---- what is asked for -----------------------------------------------------------------------------------------------


@dataclass
class Answer:
    """A velocity with the potential it was made with, or the error that was raised."""

    velocity: np.ndarray | None
    error: fp.ConvergenceError | None
    scalings: list

    @property
    def half_iterations(self):
        return self.scalings[-1][0].half_iterations


@pytest.fixture
def ask(monkeypatch):
    """Calls `Case.attention.velocity` and keeps the scalings behind it, with the centres that they are about."""
    scalings = []

    def keeping(original):
        def kept(softmin, *arguments):
            found = original(softmin, *arguments)
            scalings.append((found, softmin.centre.copy()))
            return found

        return kept

    for name in ("scale", "iterate"):
        monkeypatch.setattr(sinkhorn, name, keeping(getattr(sinkhorn, name)))

    def asked(case):
        scalings.clear()
        try:
            velocity, error = case.attention.velocity(case.x, at=case.at, weights=case.weights), None
        except fp.ConvergenceError as raised:
            velocity, error = None, raised
        return Answer(velocity, error, list(scalings))

    asked.scalings = scalings
    return asked


def plain(s, w, aim, bound):
    """(f, g, half-iterations) of plain iterations whose columns have the error `aim`; None if `bound` do not do."""
    g = np.zeros(len(s), naive.WIDE)
    for half in range(2, bound + 1, 2):
        f = naive.softmin(s, g, w)
        c = naive.softmin(s.T, f, w)
        if naive.marginal_error(g - c, w) <= aim:
            return f, g, half
        g = c
    return None


def average(case, s, g):
    """The velocities of the kernel with exact rows and the potential g, and the weights P (m, n) of the averages."""
    P = np.exp(naive.softmin(s, g, case.w)[:, None] + s + g) * case.w
    return P @ (wide(case.x) @ wide(case.V).T) / wide(case.options.get("eps", 1.0)), P


def rounding(case, P, g, size, centre):
    """(m,): what rounding makes of velocities: that of the exponents, g by its mean in a row; that of the result."""
    eps = float(case.options.get("eps", 1.0))
    exponent = 1.0 + size + case.decades + P @ np.abs(g)
    values = np.abs(case.V).sum(axis=1).max() / eps
    spread = float(np.abs(wide(case.x) - centre).max()) * values
    far = float(np.abs(centre).max()) * values
    unit = np.finfo(case.x.dtype).eps if case.x.dtype == np.float32 else 0.0
    return (_ROUNDINGS * (exponent * spread + far) + unit * (spread + far)).astype(float)


def condition(case, P, f, g, s):
    """(S, R): how far velocities move when columns do, (m,), and potentials.

    Columns off by eta, sum eta = 0, with rows exact: h_j = w_j dg_j solves h - B h = eta, B_jl = sum_i P_ij P'_il with
    P'_il = w_i kappa_il, and dv_i = V sum_j kappa_ij h_j (y_j - mean_i) / eps. S_i is the largest |dv_i| and R the
    largest |dg_j| of sum |eta| = 1: first order holds while R sum |eta| is small.
    """
    w = case.w.astype(float)
    log_kappa = f[:, None] + g + s
    own = np.exp(log_kappa + np.log(case.w)).astype(float)
    back = np.exp(log_kappa + np.log(case.w)[:, None]).astype(float)
    try:
        h = np.linalg.solve(np.eye(len(w)) - own.T @ back + w[:, None], np.eye(len(w)) - w[:, None])
    except np.linalg.LinAlgError:  # tokens that do not see each other: nothing bounds the error between them
        return np.full(len(P), np.inf), np.inf
    values = (wide(case.x) @ wide(case.V).T).astype(float) / float(case.options.get("eps", 1.0))
    with np.errstate(over="ignore"):
        R = float((np.abs(h) / w[:, None]).max())
    if not R < 1e12:
        return np.full(len(P), np.inf), np.inf
    kappa, mean = (P / case.w).astype(float), P.astype(float) @ values
    S = np.einsum("ij,jl,jc->ilc", kappa, h, values) - np.einsum("ij,jl,ic->ilc", kappa, h, mean)
    return np.abs(S).max(axis=(1, 2)), R


def check(case, answer, bound):
    """(largest error over its bound, half-iterations over plain ones or None) of one answer; asserts what is right."""
    at = case.x if case.at is None else case.at
    if answer.error is not None:
        return check_refusal(case, answer, bound)
    found, centre = answer.scalings[-1]
    g, tol = wide(found.g[0]), case.options.get("tol", 1e-9)
    s, size = case.scores(case.x, centre[0])
    seen, seen_size = case.scores(at, centre[0])
    velocity, P = average(case, seen, g)
    slack = rounding(case, P, g, max(size, seen_size), centre[0])
    error = np.abs(wide(answer.velocity) - velocity).max(axis=1).astype(float)
    worst, more = largest_ratio(error, slack), None
    assert worst <= 1, f"{case.name}: not the average of its kernel, {worst:.3g}"
    if "n_half" in case.options:
        return max(worst, check_half_steps(case, answer, found, at)), None
    f = naive.softmin(s, g, case.w)
    columns = naive.marginal_error(g - naive.softmin(s.T, f, case.w), case.w)
    unsure = float(_ROUNDINGS * (1 + size + case.decades + (case.w * (np.abs(f) + np.abs(g))).sum()))
    assert columns <= min(tol, found.error[0]) + unsure, f"{case.name}: columns off by {columns:.3g}"
    worst = max(worst, columns / (tol + unsure))
    reference = plain(s, case.w, max(tol / 8, 1e-18), bound)
    if reference is not None:
        f, g, half = reference
        velocity, P = average(case, seen, g)
        S, R = condition(case, P, f, g, s)
        apart = 1.125 * tol + unsure
        allowed = (2 * S * apart if R * apart < 0.1 else np.inf) + slack
        error = np.abs(wide(answer.velocity) - velocity).max(axis=1).astype(float)
        off = largest_ratio(error, allowed)
        assert off <= 1, f"{case.name}: off by {off:.3g}"
        worst, more = max(worst, off), found.half_iterations / half
    return worst, more


def check_half_steps(case, answer, found, at):
    """The largest error over its bound against as many plain half-iterations; their roundings add up in the potentials.

    A half-iteration does not enlarge a difference of potentials, by maximum.
    """
    n_half = case.options["n_half"]
    assert found.half_iterations == n_half and len(answer.scalings) == 1
    s, size = case.scores(case.x, 0)
    _, g = naive.potentials(s, case.w, n_half=n_half)
    seen, seen_size = case.scores(at, 0)
    velocity, P = average(case, seen, g)
    exponents = n_half * (1 + max(size, seen_size) + case.decades + float(np.abs(g).max()))
    slack = rounding(case, P, g, exponents, 0)
    ratio = largest_ratio(np.abs(wide(answer.velocity) - velocity).max(axis=1).astype(float), slack)
    assert ratio <= 1, f"{case.name}: not {n_half} plain half-iterations, {ratio:.3g}"
    return ratio


def largest_ratio(error, bound):
    """The largest error / bound; an error of zero is within any."""
    with np.errstate(divide="ignore", invalid="ignore"):
        return float(np.where(error == 0, 0.0, error / bound).max())


def check_refusal(case, answer, bound):
    """A refusal is right where plain iterations do not arrive within the bound, or rounding is above the tolerance."""
    found, centre = answer.scalings[-1]
    s, size = case.scores(case.x, centre[0])
    g = wide(found.g[0])
    unsure = _ROUNDINGS * float(1 + size + case.decades + (case.w * np.abs(g)).sum())
    tol = case.options.get("tol", 1e-9)
    assert answer.error.error > tol
    if answer.error.rounding:
        assert answer.error.error <= unsure, f"{case.name}: an error of {answer.error.error:.3g} is not rounding"
    else:
        assert found.half_iterations >= case.options["max_iter"] - 2, f"{case.name}: gave up"
        assert plain(s, case.w, tol / 8, bound) is None, f"{case.name}: plain iterations converge"
    return 0.0, None


# ---- the search ------------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("block", range(5))
def test_nasty_cases(block, ask):
    for seed in range(60 * block, 60 * (block + 1)):
        check(case := nasty(seed), ask(case), 200)


@pytest.mark.soak
@pytest.mark.parametrize("block", range(20))
def test_five_thousand_nasty_cases(block, ask):
    for seed in range(250 * block, 250 * (block + 1)):
        check(case := nasty(seed, 10_000), ask(case), 1000)


@pytest.mark.parametrize("seed", range(40))
def test_nasty_runs(seed, ask):
    """From one evaluation to the next, with what is remembered: clouds that drift, then jump, then are back."""
    case = nasty(10_000 + seed, 200)
    case.at = None
    rng, dtype = np.random.default_rng(seed), case.x.dtype
    size = np.abs(case.x - case.x.mean(axis=0)).max()
    drift = (0.1 * size * rng.normal(size=case.x.shape)).astype(dtype)
    clouds = [case.x + dtype.type(t) * drift for t in (0, 0.1, 0.2, 0.3, 0.3, 20, 0.2)]
    run = bind(case.attention, case.x, weights=case.weights)
    for x in clouds:
        ask.scalings.clear()
        out = np.empty_like(x)
        run(0.0, x[None], out[None])
        failure = run.failure()
        check(replace(case, x=x), Answer(out, failure, list(ask.scalings)), 100)


@pytest.mark.parametrize("seed", range(40))
def test_units_do_not_matter(seed, ask):
    """Tokens in other units, powers of two along the axes, and matrices that go with them: the velocities in these
    units bit for bit, as powers of two round nothing, where squares of tokens are no numbers."""
    case, rng = nasty(20_000 + seed, 200), np.random.default_rng(seed)
    d, one = case.x.shape[1], bool(seed % 3)
    exponents = rng.choice([-650, -550, 0, 550, 650], 1 if one else d)
    if case.x.dtype == np.float32:
        exponents = exponents // 10
    units = np.broadcast_to(np.ldexp(1.0, exponents), d)
    if not one:
        case.V = np.diag(np.diag(case.V))
    at = None if case.at is None else (case.at * units).astype(case.x.dtype)
    other = replace(case, x=(case.x * units).astype(case.x.dtype), Q=case.Q / units, K=case.K / units, at=at)
    answers = [ask(c) for c in (case, other)]
    assert (answers[0].error is None) == (answers[1].error is None)
    if answers[0].error is None:
        np.testing.assert_array_equal(answers[1].velocity, answers[0].velocity * units, err_msg=case.name)


@pytest.mark.parametrize("seed", range(20))
def test_nasty_batches(seed, ask):
    """Systems with an eps of their own, some of which may take long; each is certified as if it were alone."""
    case = nasty(30_000 + seed, 200)
    case.at = None
    factors, eps = (1.0, 4.0, 30.0), case.options["eps"]
    options = case.options | {"eps": eps * np.array(factors)}
    try:
        out = fp.Sinkhorn(case.Q, case.K, case.V, **options).velocity(np.stack([case.x] * 3), weights=case.weights)
    except fp.ConvergenceError:
        assert any(ask(replace(case, options=case.options | {"eps": eps * factor})).error for factor in factors)
        return
    found, centre = ask.scalings[-1]
    for b, factor in enumerate(factors):
        one = replace(found, f=found.f[b : b + 1], g=found.g[b : b + 1], error=found.error[b : b + 1])
        alone = replace(case, options=case.options | {"eps": eps * factor})
        check(alone, Answer(out[b], None, [(one, centre[b : b + 1])]), 100)


# ---- what it has found -----------------------------------------------------------------------------------------------


def test_two_tokens_whose_anderson_step_is_thrown_far(ask):
    """The residual is the same in two steps, so Anderson acceleration goes to 1e15: no error of
    potentials of that size is rounding. Plain iterations need 12."""
    case = Case(
        np.array([[0.03136267120716403, -0.18970311706869533], [0.5449091290996028, 0.5523183033587828]]),
        np.array([[1.6822260847461752, 0.06855483433972047], [-0.5181284836262074, -2.6721870089208313]]),
        np.array([[0.9306076639662875, -0.8247945193783474], [0.5902824740038579, 1.053135066280086]]),
        np.eye(2),
        np.array([2.1560152314337873e-05, 0.9999784398476858]),
        options={"eps": 0.017323767077914484},
    )
    answer = ask(case)
    assert answer.error is None
    worst, more = check(case, answer, 100)
    assert worst <= 1 and more <= 2


@pytest.mark.parametrize("size", [2.0**-600, 2.0**600, 1e-200, 1e200])
def test_tokens_whose_squares_are_no_numbers(size):
    """Q^T K of 1e-400 is not symmetric for that; nor is there a single token without extent. Bits, or a few roundings
    of scores of some units."""
    x, Q, K = np.random.default_rng(0).normal(size=(3, 20, 2))
    Q, K = Q[:2], K[:2]
    for tokens in (x, x[:1], x * [1.0, 0.0]):
        want = fp.Sinkhorn(Q, K, np.eye(2)).velocity(tokens)
        got = fp.Sinkhorn(Q / size, K / size, np.eye(2)).velocity(tokens * size)
        np.testing.assert_allclose(got / size, want, rtol=0, atol=0 if np.frexp(size)[0] == 0.5 else 1e-9)


def test_a_run_of_tokens_whose_squares_are_no_numbers(ask):
    """Starts are foreseen all the same, as many half-iterations as in other units."""
    x = np.random.default_rng(0).normal(size=(30, 2))
    halves = []
    for size in (1.0, 2.0**-600, 2.0**600):
        attention = fp.Sinkhorn(np.eye(2) / size, np.array([[1.0, 0.4], [-0.6, 0.8]]) / size, np.eye(2))
        solution = fp.solve(attention, size * x, (0.0, 0.2), method="rk4", step=0.05)
        halves.append((solution.stats["half_iterations"], *(solution.x[-1] / size).ravel()))
    assert halves[0] == halves[1] == halves[2]


def test_energies_of_tokens_whose_squares_are_no_numbers():
    """The energy and its rate of change have no unit of length."""
    x, Q = 3 + np.random.default_rng(0).normal(size=(30, 2)), np.array([[1.0, 0.3], [0.0, 0.8]])
    found = []
    for size in (1.0, 2.0**-600, 2.0**600):
        attention = fp.Sinkhorn(Q / size, Q / size, np.eye(2))
        found.append((fp.sinkhorn_energy(attention, size * x), fp.dissipation(attention, size * x)))
    np.testing.assert_allclose(found[1:], [found[0]] * 2, rtol=1e-14)


def test_one_system_with_a_large_matrix_does_not_make_another_one_symmetric():
    x = np.random.default_rng(0).normal(size=(2, 20, 2))
    x[0] *= 1e-9
    Q, K = np.stack([1e9 * np.eye(2), np.eye(2)]), np.stack([1e9 * np.eye(2), [[1.0, 0.4], [-0.6, 0.8]]])
    got = fp.Sinkhorn(Q, K, np.eye(2)).velocity(x)
    for b in range(2):
        # 1e-8: both are right to the default tol of 1e-9.
        alone = fp.Sinkhorn(Q[b], K[b], np.eye(2)).velocity(x[b])
        assert naive.relative_error(got[b], alone, np.abs(x[b]).max()) < 1e-8


def test_tokens_whose_sum_is_no_number_are_refused():
    with pytest.raises(fp.ConvergenceError, match="overflow"), np.errstate(invalid="ignore", over="ignore"):
        fp.Sinkhorn([[1e-300]], [[1e-300]], [[1.0]]).velocity([[1e308], [1.5e308]])
