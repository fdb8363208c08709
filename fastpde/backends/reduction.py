"""A pair sum with scores <z, y> in R^k, reduced to the few balanced coordinates that carry them.

With S_y, S_z the second moments of sources and targets, S_y = C C^T and C^T S_z C = W Lam W^T, the coordinates
y' = Lam^{1/4} W^T C^+ y and z' = Lam^{-1/4} W^T C^T z keep <z, y> = <z', y'> and give both sides the second moments
Lam^{1/2}: the logits are spread over the axes as evenly as the data allow, and axes that carry none are left out.

Values are a linear function of the coordinates kept, v = B y' + constant, and a remainder in as few channels as it has
dimensions. Source: balanced truncation, Moore, IEEE Trans. Autom. Control 26 (1981).
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from .._types import Array
from ..kernels import reduce
from ..kernels.cells import CHUNKS
from ..share import Share

_FLOOR = 1e-22  # of the largest second moment: what is left of a direction that is not there
_NOTHING = 1e-13  # of the largest value: a remainder that rounding made


@dataclass(frozen=True)
class Reduced:
    """Attributes:
    y, z: (r, n) and (r, m) coordinates of sources and targets.
    y_ends, z_ends: (2, r) their smallest and largest.
    centre: (k,) of the keys: a score <target, key> is <z, y> + <target, centre>.
    channels: (e, n) the values' remainder.
    B, constant: (c, r + e) and (c,): values = B [y', channels] + constant.
    """

    y: Array
    z: Array
    y_ends: Array
    z_ends: Array
    centre: Array
    channels: Array
    B: Array
    constant: Array


def second_moments(x: Array, take, share: Share | None = None) -> tuple[Array, Array]:  # type: ignore[no-untyped-def]
    """Mean (k,) and covariance (k, k) of points (n, k), and of those of other processes."""
    n, k = x.shape
    share = Share(n) if share is None else share
    partial = take("moments", (CHUNKS, k + 1, k), np.float64)
    origin = share.added(x[0].astype(np.float64) * (share.first == 0))
    reduce.sums(x, origin, partial)
    total = share.added(partial.sum(axis=0)) / share.added(np.array([float(n)]))
    shift, products = total[0], total[1:]
    products = np.tril(products) + np.tril(products, -1).T
    return origin + shift, products - np.outer(shift, shift)


def maps(S_y: Array, S_z: Array) -> tuple[Array, Array, Array]:
    """(to_y (q, k), to_z (q, k), sizes (q,)): balanced coordinates, largest first; sizes are Lam^{1/2}."""
    values, U = np.linalg.eigh(S_y)
    kept = values > _FLOOR * max(values[-1], 1e-300)
    C, inverse = U[:, kept] * np.sqrt(values[kept]), (U[:, kept] / np.sqrt(values[kept])).T
    lam, W = np.linalg.eigh(C.T @ S_z @ C)
    lam, W = np.maximum(lam[::-1], 0.0), W[:, ::-1]
    root = np.maximum(lam, _FLOOR * max(lam[:1].max(initial=0.0), 1e-300)) ** 0.25
    return root[:, None] * (W.T @ inverse), (W.T @ C.T) / root[:, None], np.sqrt(lam)


def reduce_pair(  # type: ignore[no-untyped-def]
    targets: Array, keys: Array, values: Array, most: int, thin: float, take, share: Share | None = None
) -> Reduced | None:
    """The reduced sum for targets (m, k), keys (n, k), values (n, c); None if more than `most` axes carry logits.

    thin: an axis whose logits are below it in absolute value is left out. share: which of all sources these are; maps
    and ends are then those of the sources and targets of all processes.
    """
    share = Share(len(keys)) if share is None else share
    y_mean, S_y = second_moments(keys, take, share)
    _, S_z = second_moments(targets, take, share)
    to_y, to_z, _ = maps(S_y, S_z)
    q = len(to_y)
    y, z = take("coords_y", (q, len(keys)), np.float64), take("coords_z", (q, len(targets)), np.float64)
    y_ends = outermost(coordinates(keys, y_mean, to_y, y), share)
    z_ends = outermost(coordinates(targets, np.zeros(len(y_mean)), to_z, z), share)
    loads = np.abs(z_ends).max(axis=0) * np.ptp(y_ends, axis=0)
    kept = np.flatnonzero(loads > thin)
    if len(kept) > most:
        return None
    if len(kept) < q:
        y, z, y_ends, z_ends = y[kept], z[kept], y_ends[:, kept], z_ends[:, kept]
    channels, B, constant = _values(values, keys, y_mean, to_y, kept, y, take, share)
    return Reduced(y, z, y_ends, z_ends, y_mean, channels, B, constant)


def coordinates(x: Array, origin: Array, matrix: Array, out: Array) -> Array:
    """out (q, n) <- matrix (q, k) times (x - origin), for x (n, k); returns its corners (2, q)."""
    ends = np.empty((CHUNKS, 2, len(matrix)))
    reduce.coordinates(x, origin, matrix, out, ends)
    return np.stack([ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)])


def outermost(ends: Array, share: Share) -> Array:
    """The corners (2, q) of a box that has those of all processes."""
    low, high = share.largest(np.stack([-ends[0], ends[1]]))
    return np.stack([-low, high])


def _values(values, keys, y_mean, to_y, kept, y, take, share):  # type: ignore[no-untyped-def]
    """channels (e, n), B (c, r + e), constant (c,)."""
    n, c = values.shape
    if c == 0:
        return np.empty((0, n)), np.empty((0, len(kept))), np.empty(0)
    if values is keys and len(kept) == len(to_y) == c:
        return np.empty((0, n)), np.linalg.inv(to_y), y_mean.copy()
    mean, _ = second_moments(values, take, share)
    B = np.zeros((c, len(kept)))
    if len(kept):
        both = np.concatenate([y.T, values - mean], axis=1)
        _, S = second_moments(both, take, share)
        r = len(kept)
        B = np.linalg.lstsq(S[:r, :r], S[:r, r:], rcond=1e-14)[0].T
    rest, largest = take("channels", (c, n), np.float64), np.empty(CHUNKS)
    reduce.remainders(values, mean, B, y, np.eye(c), rest, largest)
    size, rounded = share.largest(np.array([np.abs(values - mean).max(), largest.max()]))
    if not rounded > _NOTHING * size:
        return np.empty((0, n)), B, mean
    _, S = second_moments(np.ascontiguousarray(rest.T), take, share)
    spectrum, E = np.linalg.eigh(S)
    E = E[:, spectrum > (_NOTHING * size) ** 2]
    channels = np.empty((E.shape[1], n))
    reduce.remainders(values, mean, B, y, np.ascontiguousarray(E.T), channels, largest)
    return channels, np.concatenate([B, E], axis=1), mean
