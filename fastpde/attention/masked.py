"""Masked (causal) attention."""

from __future__ import annotations

from collections.abc import Iterator
from typing import TYPE_CHECKING

import numpy as np

from .._types import Array
from ..errors import InputError, InputTypeError, NoGaussianClosure
from ..share import Share
from .base import Attention
from .cloud import Cloud, Visibility
from .gaussian_field import Affine
from .parameters import Parameter
from .rates import Rate, exponents_below

if TYPE_CHECKING:
    from ..backends.affine import AffineHeads
    from ..backends.backend import Backend
    from ..backends.reduced_form import ReducedForm


class Masked(Attention):
    """An attention whose token at position s sees the tokens at positions <= s only, ties and itself included.

    int dmu is replaced by int over [0, s] x R^d, in the normalisation too; mu itself is not rescaled.

    Source: Theory 1.1; Castin et al. 2025; Castin, Ablin, Peyre (ICML 2024).
    """

    def __init__(self, attention: Attention) -> None:
        """Raises InputTypeError unless `attention` is an unmasked attention."""
        if not isinstance(attention, Attention):
            raise InputTypeError("attention", type(attention).__name__, "an attention, as fp.Softmax(Q, K, V)")
        if attention.masked:
            raise InputTypeError("attention", repr(attention), "an attention that is not masked yet")
        if attention.unmaskable:
            raise InputError("attention", repr(attention), "an attention that can be masked", attention.unmaskable)
        self.attention = attention

    def __repr__(self) -> str:
        return f"Masked({self.attention!r})"

    @property
    def masked(self) -> bool:
        return True

    def parameters(self) -> Iterator[Parameter]:
        yield from self.attention.parameters()

    def reduced_form(self) -> ReducedForm | None:
        return self.attention.reduced_form()

    def dimensions(self, t: float) -> tuple[int, int]:
        return self.attention.dimensions(t)

    def evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        ordered = _ordered(cloud, backend)
        if _order_of_targets(cloud) is None:
            self.attention.evaluate(ordered, t, backend, out)
            return
        result = backend.take("masked_result", out.shape, out.dtype)
        self.attention.evaluate(ordered, t, backend, result)
        _place(cloud, result, out)

    @property
    def averages(self) -> bool:
        return self.attention.averages

    def rates(self, p: Array, t: float, W: Array | None = None) -> Iterator[Rate]:
        """In d_p: as unmasked where nothing is normalised, else with Hardy's constant and the best r < p."""
        plain = list(self.attention.rates(p, t, W))
        if not any(rate.averages for rate in plain):
            yield from plain
            return
        below = exponents_below(float(p[0]))
        for rate, other in zip(plain, self.attention.rates(below, t, W), strict=True):
            yield other.behind_mask(float(p[0]), below) if rate.averages else rate

    @property
    def never_blows_up(self) -> bool:
        return self.attention.never_blows_up

    def score_matrices(self, t: float) -> Iterator[Array]:
        yield from self.attention.score_matrices(t)

    @property
    def mean_free(self) -> bool:
        return self.attention.mean_free

    def closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """That of the attention inside, if all positions have the same Gaussian and it averages (Theory 2.2)."""
        if not self.averages:
            raise NoGaussianClosure(
                "masked attention that does not average sees more mass at later positions: positions with equal "
                "Gaussians do not stay equal (Theory 2.2). Give fp.solve a Gaussian per position instead."
            )
        return self.attention.closure(mean, factor, t)

    def affine_heads(self) -> AffineHeads | None:
        return self.attention.affine_heads() if self.averages else None

    def second_moment_map(self, second: Array, t: float) -> Array:
        return self.attention.second_moment_map(second, t)

    def gaussian_field(self, x: Array, mean: Array, factor: Array, t: float) -> Array:
        self.closure(mean, factor, t)
        return self.attention.gaussian_field(x, mean, factor, t)

    def masses(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        yield from self._placed(cloud, self.attention.masses(_ordered(cloud, backend), t, backend))

    def log_masses(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        yield from self._placed(cloud, self.attention.log_masses(_ordered(cloud, backend), t, backend))

    def _placed(self, cloud: Cloud, found: Iterator[Array]) -> Iterator[Array]:
        """Masses in the order of the targets."""
        for ordered in found:
            yield ordered if _order_of_targets(cloud) is None else _place(cloud, ordered, np.empty_like(ordered))


def _seen(cloud: Cloud) -> Visibility:
    if cloud.visibility is None:
        raise InputError("positions", "none", "positions, as the attention is masked")
    return cloud.visibility


def _order_of_targets(cloud: Cloud) -> Array | None:
    seen = _seen(cloud)
    return seen.order if cloud.at is None else seen.target_order


def _shared_targets(cloud: Cloud) -> Share:
    """Which of all targets are here: as of the tokens, but other points belong to the process that asks."""
    return cloud.share if cloud.at is None else Share(cloud.at.shape[1])


def _place(cloud: Cloud, ordered: Array, out: Array) -> Array:
    """out <- rows of targets in the order of their positions, in the order in which they came."""
    order = _order_of_targets(cloud)
    assert order is not None, "rows are in order"
    return _shared_targets(cloud).placed(ordered, order, out)


def _ordered(cloud: Cloud, backend: Backend) -> Cloud:
    """The cloud with sources and targets in the order of their positions."""
    seen = _seen(cloud)

    def gather(name: str, array: Array, order: Array | None, share: Share) -> Array:
        return array if order is None else share.ordered(array, order, backend.take(name, array.shape, array.dtype))

    return cloud.with_(
        x=gather("masked_tokens", cloud.x, seen.order, cloud.share),
        at=None if cloud.at is None else gather("masked_points", cloud.at, seen.target_order, _shared_targets(cloud)),
        weights=None if cloud.weights is None else gather("masked_weights", cloud.weights, seen.order, cloud.share),
        limits=seen.limits,
    )
