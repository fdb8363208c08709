"""Sinkhorn attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING

import numpy as np

from .. import weights
from .._numbers import positive, whole
from .._types import Array
from ..batches import affine
from ..batches.affine import AffineHeads
from ..errors import ConvergenceError, InputError
from ..parallel.partition import Partition
from ..sums.pair_sum import PairSum
from ..transport.scaling import Scalings, Softmin, iterate, scale
from . import energy_forces
from .balance import Balance
from .cloud import Cloud
from .derivatives import Linearised, through
from .energy_forces import Force
from .gaussian_field import Affine
from .gaussian_maps import GaussianMap, map_of
from .linearised_law import LinearisedLaw, LinearisedLawOfSinkhorn
from .linearised_sinkhorn import LinearisedHalfSteps, LinearisedSinkhorn, Scaled
from .memory import Memory
from .parameters import Parameter, Value, column, scalar
from .rates import Rate, norm
from .scaling_arguments import all_positive, odd
from .score import Operands, Score, pair_sum
from .single_head import SingleHead
from .small_matrices import apply, gram, one_head, over_largest, times, transposed
from .warm_start import WarmStart

if TYPE_CHECKING:
    from ..sums.backend import Backend

_EPS = 2.0**-52
# Of tol: velocities are up to six times as far from their limit, relative to the largest, as the marginals are.
_AIM = 0.125
_COMMON = 1e3  # a number in all potentials that is taken out of them: it costs three of their digits


class Sinkhorn(SingleHead):
    """Gamma_mu(x) = (1/eps) V int y kappa(x,y) dmu(y), kappa = e^{f(x) + g(y) + s(x,y)/eps}, s(x, y) = scale <Qx, Ky>.

    The potentials f, g make kappa bistochastic: int kappa dmu(y) = 1 = int kappa dmu(x), the first to rounding, the
    second up to `tol` in L1(mu). So Gamma is a true weighted average, and the mean velocity is V/eps times the mean
    token up to |V| max|y| tol / eps, any measure. The error of a velocity is larger than tol where the kernel couples
    distant tokens weakly; that of a token whose weight is below tol is an average of the tokens, but tol does not say
    which. At a point off the support f(x) = -log int e^{g + s/eps} dmu.

    The scaling runs in float64, for float32 tokens too: in float32 sums no useful tol could be reached. A run remembers
    27 numbers per token for the next scaling of each head, beside the 40 or so that a scaling works with.

    Source: Theory 1.1; Castin et al. 2025; Sander, Ablin, Blondel, Peyre, Sinkformers (AISTATS 2022).
    """

    weight = weights.Exp()
    normalised = True
    unmaskable = "The only bistochastic causal kernel is the identity: masked Sinkhorn attention is V x / eps."

    def __init__(
        self,
        Q: Value,
        K: Value,
        V: Value,
        eps: Value = 1.0,
        scale: Value = 1.0,
        tol: float = 1e-9,
        max_iter: int = 10_000,
        n_half: int | None = None,
    ) -> None:
        """Make a head of Q, K, V and scale as `SingleHead` does; eps > 0 is a number, (B,), a function or `Layers`.

        Args:
            tol: > 0, marginal error to reach, sum_j w_j |int kappa(x, y_j) dmu(x) - 1|, within max_iter
                half-iterations; an eighth of it is aimed at, so that velocities too are right to about tol of the
                largest.
            n_half: an odd number of plain half-iterations instead, as Sinkformers do: 1 is Softmax/eps; no tol then.

        Raises InputError, InputTypeError: naming the argument.
        """
        self.eps = scalar("eps", eps)
        if self.eps.constant:
            all_positive(self.eps(0.0))
        self.tol, self.max_iter, self.n_half = positive("tol", tol), whole("max_iter", max_iter, 3), odd(n_half)
        super().__init__(Q, K, V, scale)

    def _as_declared(self, score: Score) -> Score:
        if score.positional or score.distance or score.bias.any():
            raise InputError("attention", repr(self), "the score scale <Qx, Ky>: Sinkhorn attention has no other")
        return super()._as_declared(score)

    def parameters(self) -> Iterator[Parameter]:
        yield from super().parameters()
        yield self.eps

    def _dimensions(self, t: float) -> tuple[int, int]:
        all_positive(self.eps(t))
        return super()._dimensions(t)

    def _evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        if out.dtype == np.float64:
            self._in_double(cloud, t, backend, out)
            return
        wide = backend.workspace("wide_result", out.shape, np.float64)
        self._in_double(_widened(cloud, backend), t, backend, wide)
        out[...] = wide

    def _linearised(self, cloud: Cloud, t: float, backend: Backend) -> Linearised:
        scaled = Scaled.of(self._score(t), self.eps(t))
        if self.n_half is not None:
            return LinearisedHalfSteps(scaled, cloud, self.n_half, backend)
        softmin = _Kernel(self, cloud.with_(at=None), t, backend)
        potentials, _ = self._scaled(softmin, cloud, t)
        # The scores of averages have targets that are not moved: what differs belongs to the sources.
        centre, moved = softmin.centre[:, None], cloud.x - softmin.centre[:, None]
        apart = np.einsum(
            "bik,bnk->bn", through(backend, scaled.score.Q, centre), through(backend, scaled.score.K, moved)
        )
        g = potentials.g - scaled.score.scale.reshape(-1, 1) * apart
        return LinearisedSinkhorn(scaled, cloud, g, 0.1 * self.tol, backend)

    def _closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """Return M = V N / eps, c = V (I - N) mean / eps, N the regression of y on x under the plan (Theory 2.1)."""
        scaled, law = self._regressed(mean, factor, t)
        return scaled.score.V @ law.N, times(scaled.score.V, law.b)

    def _linearised_law(self, mean: Array, factor: Array, t: float) -> LinearisedLaw:
        return LinearisedLawOfSinkhorn(*self._regressed(mean, factor, t))

    def _regressed(self, mean: Array, factor: Array, t: float) -> tuple[Scaled, GaussianMap]:
        """Return the parameters, and what V / eps is applied to."""
        scaled = Scaled.of(self._score(t), self.eps(t))
        kind, count = self._form
        return scaled, map_of(kind, count, scaled.score.matrix, None, mean, factor)

    @property
    def _form(self) -> tuple[str, int]:
        """The form of its Gaussian closure, and the number of half-iterations."""
        return (affine.PLAN, 0) if self.n_half is None else (affine.STEPS, self.n_half)

    def _energy_balance(self, cloud: Cloud, t: float, backend: Backend) -> Balance:
        """Return S_eps, its gradient -2 A int y kappa(x, y) dmu(y) and the field, all from one scaling."""
        self._check_symmetry(t)
        energy, softmin = self._energy_of_kernel(cloud, t, backend)
        means = softmin.means * softmin.unit[:, None] + softmin.centre[:, None]
        # A factor by factor: where tokens are large A may be too small for a number.
        score = self._score(t)
        gradient = -2.0 * column(score.scale) * (means @ transposed(score.Q) @ score.K)
        return Balance(energy, gradient, means @ transposed(score.V / column(self.eps(t))))

    def _energy_force(self, cloud: Cloud, t: float, backend: Backend, shift: Array, masked: bool = False) -> Force:
        """Return that of S_eps. Raises ConvergenceError; InputError with `n_half`."""
        self._refuse_half_steps()
        eps, more = self.eps(t), (self.tol, self.max_iter)
        return energy_forces.of_plan(
            self._score(t), cloud,
            lambda s: Sinkhorn(s.Q, s.K, column(eps) * s.V, eps, s.scale, *more)._linearised(cloud, 0.0, backend),
        )  # fmt: skip

    def _energy_trend(self, t: float) -> int:
        """Return the other sign than elsewhere: V = Q^T K descends."""
        return -self._work_sign(t)

    def _rates(self, p: Array, t: float, W: Sequence[Array] = ()) -> Iterator[Rate]:
        """Yield (v / eps) (1 + 2 a R^2 / eps), for W_2: a projection in L^2(pi) bounds what the score changes."""
        if (p != 2.0).any():
            raise InputError("p", f"{p[0]:g}", "p = 2 for Sinkhorn attention", "No other bound is known.")
        self._refuse_half_steps()
        eps = column(self.eps(t))
        score = self._score(t)
        yield Rate.of(norm(score.V / eps, W), p, xi=2.0 * norm(score.matrix / eps))

    def _reduced_form(self, t: float = 0.0) -> None:
        """Return None: an evaluation is many sums."""

    def _affine_heads(self) -> AffineHeads | None:
        if not self.constant:
            return None
        kind, count = self._form
        score, eps = self._score(0.0), column(self.eps(0.0))
        return AffineHeads((kind,), (count,), one_head(score.matrix / eps), one_head(score.V / eps))

    @property
    def never_blows_up(self) -> bool:
        """(tr S)' <= 2 |V| tr S / eps under the converged plan."""
        return self.n_half is None

    def _totals(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        """Raise InputError: the totals are all 1."""
        need = "an attention with an interaction energy"
        raise InputError("attention", repr(self), need, "Use fp.sinkhorn_energy(attention, x).")

    def _energy(self, cloud: Cloud, t: float, backend: Backend) -> Array:
        """Return S_eps(mu) = eps (int f dmu + int g dmu), (B,). Raises ConvergenceError; InputError with `n_half`."""
        return self._energy_of_kernel(cloud if cloud.x.dtype == np.float64 else _widened(cloud, backend), t, backend)[0]

    def _energy_of_kernel(self, cloud: Cloud, t: float, backend: Backend) -> tuple[Array, _Kernel]:
        """Return the energy (B,), and the kernel that has summed the tokens."""
        self._refuse_half_steps()
        softmin = _Kernel(self, cloud, t, backend)
        found, _ = self._scaled(softmin, cloud, t)
        total = cloud.partition.sum(softmin.weights * (found.f + found.g))
        return self.eps(t) * total - self._moved(softmin, t), softmin

    def _refuse_half_steps(self) -> None:
        if self.n_half is not None:
            raise InputError("attention", f"n_half={self.n_half}", "converged potentials", "Leave n_half out.")

    def _keys_are_tokens(self, t: float) -> bool:
        """Return what `Score.keys_are_tokens` does; K^T Q is in units of the cloud here, always within range."""
        k, d = self._score(t).Q.shape[-2:]
        return k >= d

    def _scaled_scores(self, cloud: Cloud, t: float, backend: Backend, centre: Array, unit: Array) -> Operands:
        """Return targets and keys of s(x, y) / eps, both about the centre: the potentials take up the difference.

        Keys that are tokens are in units (B, d), so that the map of the targets, which has the inverse of the tokens'
        size and not of its square, is a number whatever that is. A fixed number of half-iterations starts from g = 0,
        which is another kernel's about another centre: only keys are moved then.
        """
        score = self._score(t)
        Q, K, factor = score.Q, score.K, column(np.asarray(score.scale / self.eps(t)))
        own = self._keys_are_tokens(t)
        target_map = factor * (gram(backend, K * unit[:, None], Q) if own else Q)
        r = target_map.shape[-2]
        targets = backend.workspace("scaled_targets", (*cloud.targets.shape[:2], r), np.float64)
        keys = backend.workspace("keys", (*cloud.x.shape[:2], r), np.float64)
        backend.project(cloud.targets, target_map, targets, origin=centre if self.n_half is None else None)
        backend.project(cloud.x, None if own else K, keys, origin=centre)
        if own:
            keys /= unit[:, None]
        return Operands(targets, keys)

    def _pair(
        self, cloud: Cloud, scores: Operands, values: Array | None, normalised: bool, kind: str = "field"
    ) -> PairSum:
        """Return a sum whose relative error is a tenth of what the marginals are to reach."""
        plain = pair_sum(self.weight, normalised, cloud, scores, values, kind)
        return plain if self.n_half is not None else replace(plain, tol=0.1 * _AIM * self.tol)

    def _symmetric(self, t: float, backend: Backend, unit: Array) -> bool:
        """Return whether s(x, y) = s(y, x) for tokens of sizes `unit` (B, d), to rounding, in every system."""
        along = unit / unit.max(axis=1, keepdims=True)
        score = self._score(t)
        A = gram(backend, *(over_largest(M * along[:, None]) for M in (score.K, score.Q)))
        difference, size = (np.abs(M).max(axis=(1, 2)) for M in (A - transposed(A), A))
        return bool((difference <= 4 * _EPS * size).all())

    def _in_double(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        V = self._score(t).V / column(self.eps(t))
        softmin = _Kernel(self, cloud, t, backend)
        if cloud.memory is not None and not np.isfinite(softmin.centre).any():
            out[...] = np.nan  # a step that left the range of numbers: the solver tries a smaller one
            return
        found, failed = self._scaled(softmin, cloud, t)
        means = softmin.means
        if cloud.at is not None:
            means = backend.workspace("means", (*cloud.at.shape[:2], cloud.at.shape[2]), np.float64)
            scores = self._scaled_scores(cloud, t, backend, softmin.centre, softmin.unit)
            scores = Operands(scores.targets, scores.keys, found.g)
            backend.attend(self._pair(cloud, scores, softmin.values, True), means)
        backend.project(means, V * softmin.unit[:, None], out, shift=apply(backend, V, softmin.centre))
        out[failed] = np.nan

    def _scaled(self, softmin: _Kernel, cloud: Cloud, t: float) -> tuple[Scalings, Array]:
        """Return the potentials, and which systems did not converge, (B,).

        Outside of a run it raises ConvergenceError for these.
        """
        systems, n, _ = cloud.x.shape
        memory = cloud.memory
        if self.n_half is not None:
            found = iterate(softmin, np.zeros((systems, n)), self.n_half)
            if memory is not None:
                memory.add("half_iterations", found.half_iterations)
            return found, np.zeros(systems, bool)
        tol = _AIM * self.tol
        if memory is None:
            found = scale(softmin, np.zeros((systems, n)), tol, self.max_iter)
            good = found.error <= self.tol
            if not good.all():
                raise self._failure(found, ~good, t)
            return found, ~good
        warm_start = WarmStart(memory, softmin.tokens, cloud.partition, softmin.unit)
        window = warm_start.window()
        start = warm_start.start()
        # A number added to all potentials changes nothing but their digits. It may grow from one start to the next.
        common = (cloud.partition.sum(start) / cloud.partition.n)[:, None]
        start -= np.where(np.abs(common) > _COMMON, common, 0.0)
        found = scale(softmin, start, tol, self.max_iter, window)
        good = found.error <= self.tol
        warm_start.keep(found.g, good)
        # Of tokens that are no numbers nothing is learnt, as if they had not been seen.
        window.forget(~good & np.isfinite(softmin.centre).all(axis=1))
        memory.add("half_iterations", found.half_iterations)
        if good.any():
            memory.raise_to("marginal_error", float(found.error[good].max()))
        memory.succeed(good)
        stuck = found.error > self.tol  # an error that is no number belongs to a step that left the range of numbers
        if stuck.any():
            memory.fail(stuck, self._failure(found, stuck, t, memory.path))
        return found, ~good

    def _failure(self, found: Scalings, systems: Array, t: float, heads: tuple[int, ...] = ()) -> ConvergenceError:
        """Return the error that tells how far the worst of `systems`, a mask (B,), has come."""
        errors = np.where(systems, found.error, -np.inf)
        worst = int(errors.argmax())  # a nan is the largest
        cause = bool(found.rounding[worst])
        return ConvergenceError(float(errors[worst]), self.tol, found.half_iterations, t, heads, cause)

    def _moved(self, softmin: _Kernel, t: float) -> Array:
        """Return int s(x, y) - s(x - c, y - c) dmu(x) dmu(y), (B,), c the centre."""
        backend, c, w = softmin.backend, softmin.centre, softmin.weights
        offset = softmin.unit * softmin.partition.gathered(w[:, :, None] * softmin.tokens).sum(axis=1)
        score = self._score(t)
        qc, kc, qu, ku = (apply(backend, M, v) for v in (c, offset) for M in (score.Q, score.K))
        with np.errstate(over="ignore", invalid="ignore"):  # of tokens whose squares are no numbers
            return score.scale * (qc * (kc + ku) + qu * kc).sum(axis=1)


class _Kernel(Softmin):
    """e^{s(x, y) / eps} on a cloud: every half-iteration is one pair sum in O(n d) memory.

    The last row step also sums the tokens: `means` (B, n, d) are int (y - c) kappa(x, y) dmu(y), c the centre. They and
    `tokens` are in units (B, d), powers of two of the cloud's size along each axis: what is squared of them, here or in
    a backend, stays a number.
    """

    def __init__(self, attention: Sinkhorn, cloud: Cloud, t: float, backend: Backend) -> None:
        shape = cloud.x.shape
        self.attention, self.backend = attention, backend
        self.centre = backend.centre(cloud.x)
        self.unit = _unit(cloud, self.centre)
        self.symmetric = attention.n_half is None and attention._symmetric(t, backend, self.unit)
        self.weights = np.full((1, shape[1]), 1.0 / cloud.partition.n) if cloud.weights is None else cloud.weights
        # One evaluation makes a sum many times: what is counted of it must outlive each.
        memory = Memory() if cloud.memory is None else cloud.memory
        self._cloud, self._averages = cloud.with_(at=None, memory=memory), cloud.at is None
        self._scores = attention._scaled_scores(self._cloud, t, backend, self.centre, self.unit)
        self.tokens, self.values = self._scores.keys, None  # the values of sums: the keys, or
        if not attention._keys_are_tokens(t):
            self.tokens = backend.workspace("values", shape, np.float64)
            backend.project(cloud.x, None, self.tokens, origin=self.centre)
            self.tokens /= self.unit[:, None]
            self.values = self.tokens
        self.means = backend.workspace("means", shape, np.float64)
        self._nothing = np.empty((*shape[:2], 0))

    @property
    def partition(self) -> Partition:
        return self._cloud.partition

    def rows(self, g: Array, out: Array, last: bool) -> None:
        averages = last and self._averages
        self._sum(Operands(self._scores.targets, self._scores.keys, g), out, averages, "field" if averages else "rows")

    def columns(self, f: Array, out: Array) -> None:
        self._sum(Operands(self._scores.keys, self._scores.targets, f), out, False, "columns")

    def _sum(self, scores: Operands, out: Array, averages: bool, kind: str) -> None:
        values, result = (self.values, self.means) if averages else (self._nothing, self._nothing)
        self.backend.attend(self.attention._pair(self._cloud, scores, values, averages, kind), result, out)
        np.negative(out, out=out)


def _widened(cloud: Cloud, backend: Backend) -> Cloud:
    """Return the cloud in float64."""
    x = backend.workspace("wide_tokens", cloud.x.shape, np.float64)
    x[...] = cloud.x
    return cloud.with_(x=x, at=None if cloud.at is None else cloud.at.astype(np.float64))


def _unit(cloud: Cloud, centre: Array) -> Array:
    """Return the power of two above the largest distance of tokens from the centre along each axis, (B, d)."""
    size = cloud.partition.largest(np.maximum(cloud.x.max(axis=1) - centre, centre - cloud.x.min(axis=1)))
    _, exponent = np.frexp(np.where(np.isfinite(size), size, 1.0))
    # Its inverse is a number, too. Along an axis without extent keys are zero in any unit, and so should the map be.
    return np.ldexp(1.0, np.clip(np.where(size == 0.0, -1000, exponent), -1000, 1000))
