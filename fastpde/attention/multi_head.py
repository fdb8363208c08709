"""Multi-head attention."""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from typing import TYPE_CHECKING, Any, cast

import numpy as np

from .._types import Array
from ..backends.affine import AffineHeads
from ..backends.reduced_form import ReducedForm
from ..errors import InputError, InputTypeError
from .balance import Balance
from .base import Attention
from .cloud import Cloud
from .gaussian_field import Affine
from .parameters import Parameter, Value, matrix, parameter
from .rates import Rate
from .small_matrices import product, side_by_side, times, transposed

if TYPE_CHECKING:
    from ..backends.backend import Backend


class MultiHead(Attention):
    """Gamma_mu(x) = sum_h W_h Gamma_mu^h(x), Gamma^h the field of head h with V_h (dv, d), W_h (d, dv) or absent.

    Source: Theory 1.1; Castin et al. 2025.
    """

    def __init__(self, heads: Any, W: Value | None = None) -> None:
        """heads: H attentions of any variant. W: (H, d, dv), (B, H, d, dv), a function of time, `Layers`, a list of H
        matrices or such parameters (heads may then differ in dv), or None when every V_h is (d, d).

        Raises InputError, InputTypeError: for no heads, or shapes that do not fit.
        """
        if isinstance(heads, Attention | str) or not hasattr(heads, "__iter__"):
            raise InputTypeError("heads", type(heads).__name__, "a list of attentions")
        self.heads = tuple(heads)
        if not self.heads:
            raise InputError("heads", "no heads", "at least one")
        for h, head in enumerate(self.heads):
            if not isinstance(head, Attention):
                raise InputTypeError(f"heads[{h}]", type(head).__name__, "an attention, as fp.Softmax(Q, K, V)")
        self.unmaskable = next((head.unmaskable for head in self.heads if head.unmaskable), "")
        self._stack: Parameter | None = None
        self._each: tuple[Parameter, ...] | None = None
        if isinstance(W, list | tuple):
            if len(W) != len(self.heads):
                raise InputError("W", f"{len(W)} matrices", f"{len(self.heads)}, one per head")
            self._each = tuple(matrix(f"W[{h}]", w) for h, w in enumerate(W))
        elif W is not None:
            self._stack = parameter("W", W, (3, 4))
        if all(p.constant for p in self.parameters()):
            self.dimensions(0.0)

    def __repr__(self) -> str:
        return f"MultiHead([{', '.join(map(repr, self.heads))}])"

    @property
    def masked(self) -> bool:
        return any(head.masked for head in self.heads)

    def parameters(self) -> Iterator[Parameter]:
        for head in self.heads:
            yield from head.parameters()
        yield from self._each or ()
        if self._stack is not None:
            yield self._stack

    def outputs(self, t: float) -> list[Array] | None:
        """W_h (d, dv) or (B, d, dv) for every head, or None."""
        if self._each is not None:
            return [w(t) for w in self._each]
        if self._stack is None:
            return None
        stack = self._stack(t)
        if stack.shape[-3] != len(self.heads):
            raise InputError("W", f"shape {stack.shape}", f"{len(self.heads)} matrices, one per head")
        return [stack[..., h, :, :] for h in range(len(self.heads))]

    def dimensions(self, t: float) -> tuple[int, int]:
        sizes = []
        for h, head in enumerate(self.heads):
            try:
                sizes.append(head.dimensions(t))
            except InputError as error:
                raise InputError(f"heads[{h}]", str(error), "parameters that fit each other") from error
        outputs = self.outputs(t)
        d, rows = sizes[0][0], 0
        for h, (columns, length) in enumerate(sizes):
            if columns != d:
                raise InputError(f"heads[{h}]", f"parameters with {columns} columns", f"{d}, as in heads[0]")
            if outputs is not None and outputs[h].shape[-1] != length:
                raise InputError(f"W[{h}]", f"shape {outputs[h].shape}", f"{length} columns, the rows of V of head {h}")
            out = length if outputs is None else outputs[h].shape[-2]
            rows = rows or out
            if out != rows:
                raise InputError(f"heads[{h}]", f"a field of length {out}", f"{rows}, as heads[0]")
        return d, rows

    def evaluate(self, cloud: Cloud, t: float, backend: Backend, out: Array) -> None:
        outputs = self.outputs(t)
        out[...] = 0.0
        # The level names the scratch: a head may be a MultiHead itself.
        with backend.evaluation() as level:
            term = backend.take(f"head_term{level}", out.shape, out.dtype)
            for h, head in enumerate(self.heads):
                own = cloud if cloud.memory is None else cloud.with_(memory=cloud.memory.head(h))
                if outputs is None:
                    head.evaluate(own, t, backend, term)
                else:
                    field = backend.take(f"head_field{level}", (*out.shape[:2], outputs[h].shape[-1]), out.dtype)
                    head.evaluate(own, t, backend, field)
                    backend.project(field, outputs[h], term)
                out += term

    def _weighted(self, t: float) -> Iterator[tuple[Attention, Array | None]]:
        outputs: Sequence[Array | None] = self.outputs(t) or [None] * len(self.heads)
        return zip(self.heads, outputs, strict=True)

    def closure(self, mean: Array, factor: Array, t: float) -> Affine:
        """The sums of W_h M_h and of W_h c_h."""
        M: Array | float = 0.0
        c: Array | float = 0.0
        for head, W in self._weighted(t):
            M_h, c_h = head.closure(mean, factor, t)
            M, c = M + (M_h if W is None else W @ M_h), c + (c_h if W is None else times(W, c_h))
        return np.asarray(M), np.asarray(c)

    def second_moment_map(self, second: Array, t: float) -> Array:
        """The sum of W_h M_h. Raises NoGaussianClosure for a head that sees positions for itself."""
        if self.masked:
            return super().second_moment_map(second, t)
        maps = [(head.second_moment_map(second, t), W) for head, W in self._weighted(t)]
        return np.sum([M if W is None else W @ M for M, W in maps], axis=0)

    def affine_heads(self) -> AffineHeads | None:
        """The heads' forms side by side; W_h V_h for V_h."""
        found = [head.affine_heads() for head in self.heads]
        if None in found or not all(p.constant for p in self.parameters()):
            return None
        forms = cast("list[AffineHeads]", found)
        V = self._applied([form.V for form in forms])
        D = [np.zeros_like(form.A) if form.D is None else form.D for form in forms]
        return AffineHeads(
            sum((form.kinds for form in forms), ()), sum((form.counts for form in forms), ()),
            side_by_side([form.A for form in forms]), side_by_side(V), side_by_side(D),
        )  # fmt: skip

    def _applied(self, V: list[Array]) -> list[Array]:
        """W_h V_h of constant parameters, V_h (1 or B, H, dv, d)."""
        outputs = self.outputs(0.0)
        return V if outputs is None else [product(W[..., None, :, :], v) for W, v in zip(outputs, V, strict=True)]

    def gaussian_field(self, x: Array, mean: Array, factor: Array, t: float) -> Array:
        total: Array | float = 0.0
        for head, W in self._weighted(t):
            field = head.gaussian_field(x, mean, factor, t)
            total = total + (field if W is None else field @ transposed(W))
        return np.asarray(total)

    def energy_balance(self, cloud: Cloud, t: float, backend: Backend) -> Balance:
        """The sums of the heads', the fields times W_h."""
        found = [(head.energy_balance(cloud, t, backend), W) for head, W in self._weighted(t)]
        fields = [one.field if W is None else one.field @ transposed(W) for one, W in found]
        energies, gradients = ([getattr(one, part) for one, _ in found] for part in ("energy", "gradient"))
        with np.errstate(invalid="ignore", over="ignore"):  # of weights that have overflowed
            return Balance(np.sum(energies, axis=0), np.sum(gradients, axis=0), np.sum(fields, axis=0))

    def rates(self, p: Array, t: float, W: Array | None = None) -> Iterator[Rate]:
        """Those of the heads, with the norms of W_h V_h."""
        for head, own in self._weighted(t):
            yield from head.rates(p, t, own if W is None else W if own is None else W @ own)

    @property
    def averages(self) -> bool:
        return all(head.averages for head in self.heads)

    @property
    def never_blows_up(self) -> bool:
        return all(head.never_blows_up for head in self.heads)

    def score_matrices(self, t: float) -> Iterator[Array]:
        for head in self.heads:
            yield from head.score_matrices(t)

    @property
    def mean_free(self) -> bool:
        return all(head.mean_free for head in self.heads)

    def reduced_form(self) -> ReducedForm | None:
        """The heads' forms side by side, where they have one weight and none is masked for itself; W_h V_h for V_h."""
        found = [head.reduced_form() for head in self.heads]
        if self.masked or not all(p.constant for p in self.parameters()) or None in found:
            return None
        forms = cast("list[ReducedForm]", found)
        kinds = {(type(form.weight), form.weight, form.normalised, form.D is None) for form in forms}
        if len(kinds) > 1:
            return None
        V = self._applied([form.V for form in forms])
        D = None if forms[0].D is None else side_by_side([cast(Array, form.D) for form in forms])
        A, E, bias = (side_by_side([getattr(form, name) for form in forms]) for name in ("A", "E", "bias"))
        return ReducedForm(forms[0].weight, forms[0].normalised, A, E, side_by_side(V), bias, D)

    def masses(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        for head in self.heads:
            yield from head.masses(cloud, t, backend)

    def log_masses(self, cloud: Cloud, t: float, backend: Backend) -> Iterator[Array]:
        for head in self.heads:
            yield from head.log_masses(cloud, t, backend)
