"""L2 attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..laws import ExpLaw
from .base import Cloud
from .closure import Affine, tilted, transposed
from .pairwise import PairwiseAttention, Scores, apply, gram, one_head, product
from .parameters import column
from .rates import Rate, norm, spread

if TYPE_CHECKING:
    from ..backends.affine import AffineHeads
    from ..backends.base import Backend
    from ..backends.tilt import Tilt


class L2(PairwiseAttention):
    """Gamma_mu(x) = V int y e^{-scale |Qx-Ky|^2} dmu(y) / int e^{-scale |Qx-Ky|^2} dmu(y).

    The sum is the tilted one of MATH 1.1: score 2 scale <Qx - Kc, K(y - c)> - scale |K(y - c)|^2, c the mean token;
    the rest of the exponent, -scale |Qx - Kc|^2, is the same for all y and cancels.

    Source: MATH 1.1; Castin et al. 2025.
    """

    law = ExpLaw()
    normalised = True

    def closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """The tilt of A = 2 scale K^T Q, D = scale K^T K: M = V P A, c = V (I + 2 S D)^{-1} mean."""
        return tilted(2.0 * self.score_matrix(t), self._curvature(t), self.V(t), mean, factor)

    def _curvature(self, t: float) -> Array:
        """D = scale K^T K."""
        K = self.K(t)
        return column(self.scale(t)) * product(transposed(K), K)

    def rates(self, p: Array, t: float, W: Array | None = None) -> Iterator[Rate]:
        """v [2 a R^2 + (1 + 2 c_p k (q + k) R^2) e^{(q + k)^2 R^2 / p}], Q and K times the root of the scale."""
        root = np.sqrt(np.abs(column(self.scale(t))))
        q, k = norm(root * self.Q(t)), norm(root * self.K(t))
        xi, c = 2.0 * norm(self.score_matrix(t)), 2.0 * spread(p) * k * (q + k)
        yield Rate.of(norm(self.V(t), W), p, xi=xi, c=c, eta=(q + k) ** 2, averages=True)

    def affine_heads(self) -> AffineHeads | None:
        return self.one_affine_head("tilt", lambda t: 2.0 * self.score_matrix(t), D=self._curvature)

    @property
    def never_blows_up(self) -> bool:
        """K injective: |M| <= |V| |Q| / sigma_min(K)."""
        K = self.K(0.0)
        return bool(np.all(np.linalg.matrix_rank(K) == K.shape[-1]) and np.all(self.scale(0.0) > 0.0))

    def tilt(self) -> Tilt | None:
        """A = 2 scale K^T Q, E = 2 scale K^T (Q - K), D = scale K^T K: see `scores`."""
        from ..backends.tilt import Tilt

        if not (all(p.constant for p in self.parameters()) and self.has_score_matrix(0.0)):
            return None
        Q, K, scale = self.Q(0.0), self.K(0.0), column(self.scale(0.0))
        turned = 2 * scale * np.swapaxes(K, -1, -2)
        A, E, D = (one_head(product(turned, m)) for m in (Q, Q - K, K / 2))
        return Tilt(self.law, self.normalised, A, E, one_head(self.V(0.0)), np.zeros((1, 1)), D)

    def scores(self, cloud: Cloud, t: float, backend: Backend, centre: Array | None) -> Scores:
        Q, K, scale = self.Q(t), self.K(t), column(self.scale(t))
        centre = backend.centre(cloud.x) if centre is None else centre
        origin, gap = _about(cloud, Q, K, centre, backend)
        offset = 2 * scale.reshape(-1, 1) * gap
        target_map = 2 * scale * Q
        key_map: Array | None = K
        if self.keys_are_tokens(t, cloud.x.dtype):
            offset, target_map, key_map = (
                apply(backend, np.swapaxes(K, -1, -2), offset),
                gram(backend, K, target_map),
                None,
            )
        r, dtype = target_map.shape[-2], cloud.x.dtype
        targets = backend.take("scaled_targets", (*cloud.targets.shape[:2], r), dtype)
        keys = backend.take("keys", (*cloud.x.shape[:2], r), dtype)
        backend.project(cloud.targets, target_map, targets, origin=origin, shift=offset)
        backend.project(cloud.x, key_map, keys, origin=centre)
        moved = keys
        if key_map is None:
            moved = backend.take("moved", (*cloud.x.shape[:2], K.shape[-2]), dtype)
            backend.project(cloud.x, K, moved, origin=centre)
        bias = backend.take("bias", cloud.x.shape[:2], dtype)
        np.einsum("bnk,bnk->bn", moved, moved, out=bias)
        bias *= -scale.reshape(-1, 1).astype(dtype)
        return Scores(targets, keys, bias)

    def log_offset(self, cloud: Cloud, t: float, backend: Backend) -> Array:
        """-scale |Qx - Kc|^2 (B, m)."""
        Q, K, scale = self.Q(t), self.K(t), self.scale(t)
        centre = backend.centre(cloud.x)
        moved = np.empty((*cloud.targets.shape[:2], Q.shape[-2]))
        targets = cloud.targets.astype(np.float64)
        origin, gap = _about(cloud, Q, K, centre, backend)
        backend.project(targets, Q, moved, origin=origin, shift=gap)
        return -scale.reshape(-1, 1) * np.einsum("bmk,bmk->bm", moved, moved)


def _about(cloud: Cloud, Q: Array, K: Array, centre: Array, backend: Backend) -> tuple[Array, Array]:
    """(o (B, d), Qo - Kc (B, k)) for Qx - Kc = Q(x - o) + (Qo - Kc), with few digits lost: o = c serves clouds far from
    the origin with Q = K; for points that are not the tokens it is zero if that makes smaller numbers of them."""
    gap = apply(backend, Q - K, centre)
    if cloud.at is None:
        return centre, gap
    far = apply(backend, K, centre)
    ends = np.stack([cloud.at.min(axis=1), cloud.at.max(axis=1)]).astype(np.float64)
    reach, moved = (
        apply(backend, np.abs(Q), np.abs(points).max(axis=0)).max(axis=1) for points in (ends, ends - centre)
    )
    plain = reach + np.abs(far).max(axis=1) < 0.5 * (moved + np.abs(gap).max(axis=1))
    return np.where(plain[:, None], 0.0, centre), np.where(plain[:, None], -far, gap)
