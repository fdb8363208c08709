"""Nasty Gaussian laws, and what becomes of them by closed forms or by an integrator that shares no code with fastpde.

A `Law` is made in units near one; `Law.scaled` changes units by powers of two, which rounds nothing. `judged` asks for
the outcome where it is known: a formula of Theory 3, or a way that `follow` has followed beyond where `fp.limit` stops.
Elsewhere, as after `most` steps, it is None, and the law does not count.
"""

from __future__ import annotations

import warnings
from collections import Counter
from collections.abc import Callable, Iterator
from dataclasses import dataclass, replace

import numpy as np
from scipy.integrate import LSODA

import fastpde as fp

CONVERGES, BLOWS_UP, GROWS, OSCILLATES, UNDECIDED = (
    fp.Outcome[name] for name in ("CONVERGES", "BLOWS_UP", "GROWS", "OSCILLATES", "UNDECIDED")
)
CERTAIN = 25.0  # e-folds of |L| after which an unbounded law is judged: 5e21 in S
FAR = 1e8  # natural units of the thinnest direction after which a law at rest is judged


@dataclass(frozen=True)
class Truth:
    """What is known of an end; nan, -1 and None: nothing is."""

    outcome: fp.Outcome
    time: float = np.nan
    rate: float = np.nan
    rank: int = -1
    cov: np.ndarray | None = None
    to: float = 1e-5  # relative accuracy of time, rate and cov


@dataclass(frozen=True)
class Head:
    """kind, A (score matrix), V; K of L2 with its Q = K^{-T} A."""

    kind: str
    A: np.ndarray
    V: np.ndarray
    K: np.ndarray | None = None


@dataclass(frozen=True)
class Law:
    name: str
    heads: list[Head]
    cov: np.ndarray
    mean: np.ndarray | None = None
    closed_forms: bool = True
    known: Truth | None = None  # by a formula
    length: float = 1.0
    time: float = 1.0

    def scaled(self, length: float, time: float) -> Law:
        """The same law in other units, powers of two."""
        return replace(self, length=length, time=time)

    def limit(self) -> fp.GaussianLimit:
        heads = [attention(head, self.length, self.time) for head in self.heads]
        mean = 0.0 if self.mean is None else self.mean * self.length
        law = fp.Gaussian(mean, self.cov * self.length * self.length)
        whole = heads[0] if len(heads) == 1 else fp.MultiHead(heads)
        return fp.limit(whole, law, closed_forms=self.closed_forms)


def attention(head: Head, length: float, time: float) -> fp.Attention:
    """The head for tokens `length` times as large, in times `time` as long; scores do not change."""
    eye = np.eye(len(head.A))
    if head.kind == "L2":
        return fp.L2(np.linalg.solve(head.K.T, head.A) / length, head.K / length, head.V / time)
    make = {"Softmax": fp.Softmax, "Sinkhorn": fp.Sinkhorn, "Linear": fp.Linear}[head.kind]
    return make(head.A / length, eye / length, head.V / time)


# ---- the oracle


def image(heads: list[Head], Y: np.ndarray) -> np.ndarray:
    """M Y for Y = [mean, L], Theory 2; the mean has a part for linear attention alone, and is zero elsewhere."""
    L, out = Y[:, 1:], np.zeros_like(Y)
    for head in heads:
        AY = head.A @ Y
        if head.kind == "Softmax":
            out += head.V @ (L @ (L.T @ AY))
        elif head.kind == "Linear":
            out += head.V @ (Y @ (Y.T @ AY))
        elif head.kind == "L2":
            KL = head.K @ L
            inner = np.eye(L.shape[1]) + 2.0 * KL.T @ KL
            out += 2.0 * head.V @ (L @ np.linalg.solve(inner, L.T @ AY))
        else:
            U, t, W = np.linalg.svd(L.T @ AY[:, 1:])
            out[:, 1:] += head.V @ (L @ ((U * (2.0 * t / (1.0 + np.sqrt(1.0 + 4.0 * t * t)))) @ W))
    return out


def root(cov: np.ndarray) -> np.ndarray:
    """L of full column rank with L L^T = cov, by correlations, so that thin axes keep their digits."""
    size = np.sqrt(np.diag(cov))
    unit = np.where(size > 0, size, 1.0)
    values, vectors = np.linalg.eigh(cov / np.outer(unit, unit))
    used = values > 1e-15 * len(cov)
    return size[:, None] * vectors[:, used] * np.sqrt(values[used])


def follow(law: Law, most: int = 8000) -> Truth | None:
    """The truth by LSODA, for Y / |Y|, log |Y| and log (1 + t), in a clock of both; None if the way does not tell.

    A law that has grown by e^CERTAIN blows up if meanwhile its time has stood still, and grows if its rate has. One
    that has come to FAR units of its thinnest part converges if it has not moved for a thousandth of that.
    """
    L = root(law.cov)
    mean = np.zeros((len(L), 1)) if law.mean is None or law.heads[0].kind != "Linear" else law.mean[:, None]
    Y = np.concatenate([mean, L], axis=1)
    shape, size = Y.shape, np.linalg.norm(Y)
    unit = 1.0 / max(np.linalg.norm(image(law.heads, Y)) / size, 1e-6)
    thin = min(1.0, float(np.min(np.linalg.svd(L, compute_uv=False)) ** 2 / size**2))

    def slope(tau: float, state: np.ndarray) -> np.ndarray:
        X = state[:-2].reshape(shape)
        X = X / np.linalg.norm(X)
        F = image(law.heads, X * np.exp(state[-2])) / np.exp(state[-2])
        growth, slow = float(np.sum(X * F)), np.exp(-state[-1]) / unit
        clock = np.linalg.norm(F) + slow
        return np.concatenate([((F - growth * X) / clock).ravel(), [growth / clock, slow / clock]])

    state = np.concatenate([(Y / size).ravel(), [np.log(size), 0.0]])
    run, steps, seen = LSODA(slope, 0.0, state, 1e6, rtol=1e-8, atol=1e-11, max_step=3.0), 0, [state]
    last = np.log(FAR / thin)
    with np.errstate(all="ignore"), warnings.catch_warnings():
        warnings.simplefilter("ignore")  # of LSODA, which fails then
        while run.status == "running" and steps < most:
            try:
                run.step()
            except np.linalg.LinAlgError:
                return None
            steps += 1
            seen.append(run.y.copy())
            if not np.isfinite(run.y).all():
                return None
            if run.y[-2] - np.min([y[-2] for y in seen[:: max(1, steps // 50)]]) > CERTAIN or run.y[-1] > last:
                break
        else:
            return None
    return read(np.array(seen), shape, unit, last)


def read(states: np.ndarray, shape: tuple[int, int], unit: float, last: float) -> Truth | None:
    """The truth of a way that has come to its end."""
    size, times = states[:, -2], unit * np.expm1(states[:, -1])
    if states[-1, -1] > last:
        S = []
        for when in (last, last - 7.0, last - 14.0):
            state = states[min(int(np.searchsorted(states[:, -1], when)), len(states) - 1)]
            L = state[:-2].reshape(shape)[:, 1:] / np.linalg.norm(state[:-2]) * np.exp(state[-2])
            S.append(L @ L.T)
        first = states[0, :-2].reshape(shape)[:, 1:] * np.exp(size[0])
        if np.linalg.norm(S[0]) < 1e-5 * np.linalg.norm(first @ first.T):
            fell = np.linalg.norm(S[0]) / np.linalg.norm(S[1]), np.linalg.norm(S[1]) / np.linalg.norm(S[2])
            return Truth(CONVERGES, rank=0, cov=0 * S[0]) if max(fell) < 0.01 else None
        if np.linalg.norm(S[0] - S[1]) < 1e-6 * np.linalg.norm(S[0]):
            return Truth(CONVERGES, cov=S[0], to=1e-4)
        return None
    half = int(np.argmax(size > size[-1] - CERTAIN / 2))
    if times[-1] - times[half] < 1e-6 * times[-1]:
        return Truth(BLOWS_UP, time=float(times[-1]))
    rates = [2.0 * (size[b] - size[a]) / (times[b] - times[a]) for a, b in ((half, len(size) - 1), (half // 2, half))]
    return Truth(GROWS, rate=rates[0], to=0.02) if abs(rates[0] / rates[1] - 1) < 0.05 else None


def judged(law: Law, most: int = 8000) -> tuple[str, str]:
    """("right" | "undecided" | "unknown" | "WRONG", what was found against what is true): what is undecided cannot be
    wrong, "unknown" is a verdict on which the oracle has none."""
    found = law.limit()
    if found.outcome is UNDECIDED and law.known is None:
        return "undecided", ""
    want = law.known if law.known is not None else follow(law, most)
    text = f"{law.name}: {found.outcome.name} {found.rank} {found.blowup_time} ({found.reason}); truth {want}"
    if found.outcome is UNDECIDED or want is None:
        return "undecided" if want is not None else "unknown", text
    area, right = law.length * law.length, found.outcome is want.outcome
    if right and np.isfinite(want.time):
        right = abs(found.blowup_time / (want.time * law.time) - 1) < want.to
    if right and np.isfinite(want.rate):
        right = abs(found.rate * law.time / want.rate - 1) < want.to
    if right and want.rank >= 0:
        right = found.rank == want.rank
    if right and want.cov is not None:
        room = want.to * np.linalg.norm(law.cov) + 1e-3 * np.linalg.norm(want.cov) * (want.to > 1e-5)
        right = bool(np.linalg.norm(found.cov / area - want.cov) < room + found.error / area)
    return ("right" if right else "WRONG"), text


# ---- laws


def turned(rng: np.random.Generator, d: int) -> np.ndarray:
    return np.linalg.qr(rng.normal(size=(d, d)))[0]


def small(rng: np.random.Generator, low: float = -6.0, high: float = -2.0) -> float:
    """A nearly marginal number of either sign."""
    return float(rng.choice([-1.0, 1.0]) * 10.0 ** rng.uniform(low, high))


def spectrum(rng: np.random.Generator, d: int) -> np.ndarray:
    """Variances, some of them thin."""
    return 10.0 ** np.where(rng.random(d) < 0.4, rng.uniform(-14, -5, d), rng.uniform(-1, 1, d))


def full(rng: np.random.Generator, d: int) -> np.ndarray:
    G = rng.normal(size=(d, d))
    return G @ G.T + 0.05 * np.eye(d)


def axes(rng: np.random.Generator) -> Law:
    """Axes that know nothing of each other: s' = 2 v a s^2 in each, v nearly zero or zero in some."""
    d = int(rng.integers(1, 5))
    v, a, s = rng.normal(size=d), rng.normal(size=d), spectrum(rng, d)
    for i in range(d):
        v[i] = rng.choice([v[i], small(rng), 0.0], p=[0.6, 0.3, 0.1])
    g = 2.0 * v * a * s
    if (g > 0).any():
        known = Truth(BLOWS_UP, time=float(1.0 / g.max()), rank=-1)
    else:
        stays = g == 0.0
        known = Truth(CONVERGES, rank=int(stays.sum()), cov=np.diag(np.where(stays, s, 0.0)))
    return Law("axes", [Head("Softmax", np.diag(a), np.diag(v))], np.diag(s), known=known)


def turned_axes(rng: np.random.Generator) -> Law:
    """The same in turned axes, where matrices commute to rounding only: nothing is exactly zero.

    The formula holds while rounding in S_ij, of rate (v_i + v_j) (a_i s_i + a_j s_j), stays far below (s_i s_j)^{1/2}.
    """
    d = int(rng.integers(2, 5))
    v, a = rng.normal(size=d), rng.normal(size=d)
    v[0] = rng.choice([v[0], small(rng)])
    s = 10.0 ** rng.uniform(-1, 1, d)
    s[rng.integers(d)] *= 10.0 ** -rng.uniform(0, 8)
    g, R = 2.0 * v * a * s, turned(rng, d)
    known: Truth | None = Truth(CONVERGES, rank=0)
    t = np.logspace(-6, 20, 2000)
    if g.max() > 0:
        known = Truth(BLOWS_UP, time=float(1.0 / g.max()), to=1e-4)
        t = (1.0 - np.logspace(0, -10, 2000)) / g.max()
    logs = np.log(1.0 - np.outer(g, t))  # s_i = s e^{-logs}, the integral of a_i s_i is -logs / 2 v_i
    seen = -logs / (2.0 * v[:, None])
    pairs = [(v[i] + v[j]) * (seen[i] + seen[j]) + 0.5 * (logs[i] + logs[j]) for i in range(d) for j in range(i)]
    if np.max(pairs) > 15.0:
        known = None
    return Law("turned axes", [Head("Softmax", R @ np.diag(a) @ R.T, R @ np.diag(v) @ R.T)], R @ np.diag(s) @ R.T,
               known=known)  # fmt: skip


def one(rng: np.random.Generator) -> Law:
    """d = 1, every variant, Theory 3."""
    v, a, s, k = small(rng, -6, 1), rng.normal(), float(10.0 ** rng.uniform(-8, 3)), float(10.0 ** rng.uniform(-3, 1))
    kind = str(rng.choice(["Softmax", "L2", "Sinkhorn", "Linear"]))
    mean = rng.normal(size=1) * 10.0 ** rng.uniform(-2, 2)
    second = s + float(mean[0] ** 2) * (kind == "Linear")
    known = Truth(CONVERGES, rank=0)
    if v * a > 0:
        known = Truth(BLOWS_UP, time=1.0 / (2.0 * v * a * second))
    if v * a > 0 and kind == "L2":
        known = Truth(GROWS, rate=2.0 * v * a / k**2, to=2e-2)
    if v * a > 0 and kind == "Sinkhorn":
        known = Truth(GROWS, rate=2.0 * abs(v), to=2e-2)
    head = Head(kind, np.array([[a]]), np.array([[v]]), np.array([[k]]))
    return Law(f"one {kind}", [head], np.array([[s]]), mean=mean, known=known)


def scalar_value(rng: np.random.Generator) -> Law:
    """V = v I: S^{-1} = S0^{-1} - t v (A + A^T), A any, and a law far from singular."""
    d = int(rng.integers(2, 5))
    A, v, S = rng.normal(size=(d, d)), small(rng, -3, 1), full(rng, d)
    if rng.random() < 0.5:
        G = rng.normal(size=(d, d))
        A = -G @ G.T + small(rng, -4, -1) * np.eye(d)
    most = float(np.linalg.eigvals(S @ (v * (A + A.T))).real.max())
    known = Truth(BLOWS_UP, time=1.0 / most) if most > 1e-8 else Truth(CONVERGES, rank=0) if most < -1e-8 else None
    return Law("scalar value", [Head("Softmax", A, v * np.eye(d))], S, known=known)


def rotation(rng: np.random.Generator) -> Law:
    """V = e + skew, A = a I: eigenvalues r' = 2 e a r^2, for e = 0 none moves and the law goes round (d = 2)."""
    d = int(rng.integers(2, 5))
    G = rng.normal(size=(d, d))
    e, a, S = float(rng.choice([small(rng), small(rng, -2, 0), 0.0], p=[0.5, 0.3, 0.2])), rng.normal(), full(rng, d)
    d = d if e else 2
    S, W = S[:d, :d], (G - G.T)[:d, :d]
    most = 2.0 * e * a * float(np.linalg.eigvalsh(S)[-1])
    known = (
        Truth(BLOWS_UP, time=1.0 / most) if most > 0 else Truth(CONVERGES, rank=0) if most < 0 else Truth(OSCILLATES)
    )
    return Law("rotation", [Head("Softmax", a * np.eye(d), e * np.eye(d) + W)], S, known=known)


def drift(rng: np.random.Generator) -> Law:
    """d = 2, nearly a rotation: V = J + e G, A = I; tr G decides to first order in e, and only averages show it."""
    e, G, S = abs(small(rng, -3, -1)), rng.normal(size=(2, 2)), full(rng, 2)
    return Law("drift", [Head("Softmax", np.eye(2), np.array([[0.0, 1.0], [-1.0, 0.0]]) + e * G)], S)


def random(rng: np.random.Generator) -> Law:
    """Normal A and V, a law with thin directions or of low rank, every variant."""
    d = int(rng.integers(2, 4))
    kind = str(rng.choice(["Softmax", "Softmax", "L2", "Sinkhorn", "Linear"]))
    S = full(rng, d)
    if rng.random() < 0.3:
        L = rng.normal(size=(d, int(rng.integers(1, d))))
        S = L @ L.T
    elif rng.random() < 0.5:
        R = turned(rng, d)
        S = R @ np.diag(np.r_[10.0 ** -rng.uniform(2, 9), np.ones(d - 1)]) @ R.T
    K = rng.normal(size=(d, d)) + 2 * np.eye(d)
    mean = rng.normal(size=d) * 0.5 if kind == "Linear" else rng.normal(size=d) * 1e6
    return Law(f"random {kind}", [Head(kind, rng.normal(size=(d, d)), rng.normal(size=(d, d)), K)], S, mean=mean)


def marginal(rng: np.random.Generator) -> Law:
    """V with an eigenvalue near zero or near the imaginary axis, random A."""
    d = int(rng.integers(2, 4))
    V = np.diag(rng.normal(size=d))
    V[-1, -1] = small(rng)
    if rng.random() < 0.5:
        V[:2, :2] = [[small(rng), 1.0], [-1.0, small(rng)]]
    T = rng.normal(size=(d, d)) + 2 * np.eye(d)
    return Law("marginal", [Head("Softmax", rng.normal(size=(d, d)), T @ V @ np.linalg.inv(T))], full(rng, d))


def late(rng: np.random.Generator) -> Law:
    """A line u = (1, thin) that V turns towards an axis where A has the other sign: it does not do what it seems to.

    S = u u^T, u = (x, y): x' = p v x, y' = p w y, p = a x^2 + b y^2 (Theory 3).
    """
    v, w, a, b = 1.0, float(1.0 + rng.uniform(0.5, 3.0)) * rng.choice([-1.0, 1.0]), rng.choice([-1.0, 1.0]), 0.0
    b = -a * rng.uniform(0.3, 3.0)
    u = np.array([1.0, 10.0 ** -rng.uniform(1, 7)])
    return Law("late", [Head("Softmax", np.diag([a, b]), np.diag([v, w]))], np.outer(u, u))


def heads(rng: np.random.Generator) -> Law:
    """Two heads, of one kind or two."""
    d = 2
    kinds = [("Softmax", "Softmax"), ("Softmax", "L2"), ("L2", "Sinkhorn"), ("Softmax", "Sinkhorn")][rng.integers(4)]
    K = rng.normal(size=(d, d)) + 2 * np.eye(d)
    found = [Head(kind, rng.normal(size=(d, d)), rng.normal(size=(d, d)), K) for kind in kinds]
    if rng.random() < 0.3:  # one that wins where S is small and one that wins where it is large
        K = 10.0 ** -rng.uniform(1, 6) * np.eye(d)
        found = [Head("L2", np.eye(d), 2 * np.eye(d), K), Head("Softmax", np.eye(d), -np.eye(d))]
    return Law(f"heads {kinds}", found, full(rng, d))


def opposite(rng: np.random.Generator) -> Law:
    """K = -Q, V = V^T nearly singular on either side: A = -Q^T Q of rank d - 1, or nearly."""
    d, kind = int(rng.integers(2, 4)), str(rng.choice(["Softmax", "L2"]))
    values = np.r_[rng.uniform(0.3, 2, d - 1), small(rng, -4, -1)]
    R = turned(rng, d)
    Q = rng.normal(size=(d, d)) + 2 * np.eye(d)
    V = R @ np.diag(values) @ R.T
    return Law(f"opposite {kind}", [Head(kind, -Q.T @ Q, (V + V.T) / 2, Q)], full(rng, d))


KINDS: list[Callable[[np.random.Generator], Law]] = [
    axes, turned_axes, one, scalar_value, rotation, drift, random, random, marginal, late, heads, opposite,
]  # fmt: skip


def laws(seed: int, count: int) -> Iterator[Law]:
    """`count` laws, kinds in turn, units and `closed_forms` at random."""
    for index in range(count):
        rng = np.random.default_rng([seed, index])
        law = replace(KINDS[index % len(KINDS)](rng), closed_forms=bool(rng.random() < 0.5))
        if rng.random() < 0.5:
            power, slow = rng.integers(-330, 330), rng.integers(-200, 200)  # cov and V from 1e-200 to 1e200
            law = law.scaled(float(2.0**power), float(2.0**slow))
        yield replace(law, name=f"[{seed}, {index}] {law.name}, closed_forms={law.closed_forms}")


def tried(seed: int, count: int, most: int = 8000) -> tuple[Counter[str], list[str]]:
    """How many laws were judged how, and the texts of wrong verdicts."""
    counts: Counter[str] = Counter()
    wrong = []
    for law in laws(seed, count):
        word, text = judged(law, most)
        counts[word] += 1
        wrong += [text] if word == "WRONG" else []
    return counts, wrong
