"""The change to the fewest coordinates that carry the scores, balanced between sources and targets.

`frame` finds coordinates t = M (y - centre) in which keys have size one in every direction in which they extend.
Whether they extend in a direction is decided by the largest coordinate, not by a variance, which does not show thin or
seldom used directions. With y - centre = N t, a score <z, y - centre> is <N^T z, t>. With the second moments S = C C^T
of t and S_z of N^T z, and C^T S_z C = W Lam W^T,

    y' = Lam^{1/4} W^T C^{-1} t,    z' = Lam^{-1/4} W^T C^T N^T z

leave all scores unchanged and give both sides the second moments Lam^{1/2}: the scores are spread over the axes as
evenly as the data allow, and axes that carry none are left out. Any invertible C and W do: moments that rounding has
spoiled cost time, not digits.

Values are a linear function of the coordinates kept, v = B y' + constant, and a remainder in as few channels as it has
dimensions. Source: balanced truncation, Moore, IEEE Trans. Autom. Control 26 (1981).
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from .._types import Array
from ..kernels import reduce
from ..kernels.cells import CHUNKS
from ..parallel.partition import Partition, Undivided
from .score_rank import too_many
from .workspace import Workspace

_EPS = 2.0**-52
ROUNDED = 8.0 * _EPS  # per coordinate, relative to the largest one: a direction that is not larger may be rounding
_SEEN = 1e-9  # relative to the largest second moment: less may be rounding of it
_SAMPLE = 8192  # points, at least, from which moments are computed
_ROUNDS = 3  # of the separation of thin directions from wide ones
_METRIC = 1e-10  # relative to the largest second moment: smaller ones are replaced by this
_UNEVEN = 2.0**10  # factor by which the sizes of sources and targets may differ on an axis
_BLURRED = 64.0  # units of rounding of a score: errors up to that are those of a direct sum
_BENT = 4.0  # amplification beyond which values are not represented as a function of the coordinates
_LEAST_EXPONENT = -1000  # of a power of two with a finite inverse


@dataclass(frozen=True)
class Reduced:
    """A pair sum in r reduced coordinates, with e channels.

    Attributes:
        y, z: (r, n) and (r, m) coordinates of sources and targets.
        y_ends, z_ends: (2, r) their smallest and largest.
        centre: (k,) the centre of the keys: a score <target, key> is <z, y> + <target, centre>.
        channels: (e, n) the remainder of the values.
        B, constant: (c, r + e) and (c,): values = B [y', channels] + constant.
        scores: upper bound of the sum of the absolute terms of a score: rounding is relative to it.
        dropped: upper bound of what is left out: of scores, and of the values' digits in units of their spread.
        amplification: the factor from errors of the means of coordinates and channels to errors of means of values, in
            units of the values' spread.
        keys: (k, r), keys = `keys` y' + centre to rounding; None where a coordinate is left out.
    """

    y: Array
    z: Array
    y_ends: Array
    z_ends: Array
    centre: Array
    channels: Array
    B: Array
    constant: Array
    scores: float
    dropped: float
    amplification: float
    keys: Array | None


class Frame(NamedTuple):
    """Coordinates t = M (x - centre) of points x, with x = centre + N t to rounding."""

    centre: Array  # (k,)
    M: Array  # (q, k)
    N: Array  # (k, q)
    moments: Array  # (q, q) second moments of t, about their mean if the points were centred
    reach: Array  # (k,) the largest |x - centre|

    @property
    def spread(self) -> float:
        """The largest entry of `reach`."""
        return float(self.reach.max(initial=0.0))


class Maps(NamedTuple):
    """The maps y' = to_y (y - centre) of sources in a frame and z' = to_z z of targets; y - centre = to_z^T y'."""

    to_y: Array  # (q, k)
    to_z: Array  # (q, k)
    reach: Array  # (k,) the largest |z|


class Values(NamedTuple):
    """The values as B [y', channels] + constant, and the factor by which errors are amplified, as in `Reduced`."""

    channels: Array
    B: Array
    constant: Array
    amplification: float


def frame(
    x: Array, workspace: Workspace, partition: Partition, *, centred: bool = True, noise: Array | None = None
) -> Frame | None:
    """Return the frame of points x (n, k) and of those of other processes; None where their range is not finite.

    Without `centred` the centre is the origin. noise: (k,) how much of each coordinate may be rounding; None: the
    rounding of numbers as large as the largest one.
    """
    low, high = extremes(x, partition)
    half = 0.5 * high - 0.5 * low if centred else np.maximum(np.abs(low), np.abs(high))
    if not np.isfinite(2.0 * half).all():
        return None
    noise = ROUNDED * len(half) * half if noise is None else noise
    used = np.flatnonzero(half > noise)
    scale = _powers(half[used])
    M, N = np.zeros((len(used), len(half))), np.zeros((len(half), len(used)))
    M[np.arange(len(used)), used], N[used, np.arange(len(used))] = 1.0 / scale, scale
    centre = low if centred else np.zeros(len(half))
    mean, S = _moments(x, centre, M, workspace, partition, centred, _stride(partition.n))
    centre = centre + N @ mean if centred else centre
    for turn in (_principal, *[_one_after_another] * _ROUNDS):
        if not np.isfinite(S).all():
            return None
        values = np.linalg.eigvalsh(S)
        if len(values) < 2 or values[0] > _SEEN * values[-1]:
            break
        # Some directions are thin, seldom used, or not there: the largest coordinates decide.
        T, back = turn(S)
        turned = T @ M
        t = workspace("turned", (len(turned), len(x)), np.float64)
        lengths = np.abs(outermost(coordinates(x, centre, turned, t), partition)).max(axis=0)
        there = lengths > np.abs(turned) @ noise
        sizes = _powers(lengths[there])
        M, N = turned[there] / sizes[:, None], N @ (back[:, there] * sizes)
        S = _moments(x, centre, M, workspace, partition, centred, _stride(partition.n))[1]
    return Frame(centre, M, N, S, np.maximum(high - centre, centre - low))


def _principal(S: Array) -> tuple[Array, Array]:
    """Return T (q, q) and its inverse: the principal directions of moments S (q, q), the widest first."""
    U = np.linalg.eigh(S)[1][:, ::-1]
    return np.ascontiguousarray(U.T), U


def _one_after_another(S: Array) -> tuple[Array, Array]:
    """Return T (q, q) and its inverse, where T subtracts from each coordinate its regression on those before it.

    Rounding of moments has left some of a wide direction in a thin one. It is removed from the thin one, whose digits
    are noise in the wide one.
    """
    T = np.eye(len(S))
    for k in range(1, len(S)):
        T[k, :k] = -np.linalg.lstsq(S[:k, :k], S[:k, k], rcond=_METRIC)[0]
    return T, np.linalg.inv(T)


def _powers(sizes: Array) -> Array:
    """Return the powers of two just above the given sizes > 0."""
    found: Array = np.ldexp(1.0, np.maximum(np.frexp(sizes)[1], _LEAST_EXPONENT))
    return found


def extremes(x: Array, partition: Partition) -> tuple[Array, Array]:
    """Return the smallest and largest coordinates, each (k,), of points (n, k) and of those of other processes."""
    ends = np.empty((CHUNKS, 2, x.shape[1]))
    reduce.extremes(x, ends)
    low, high = outermost(np.stack([ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)]), partition)
    return low, high


def _moments(
    x: Array, origin: Array, M: Array, workspace: Workspace, partition: Partition, centred: bool, stride: int
) -> tuple[Array, Array]:
    """Return the mean (q,) and the second moments (q, q) of M (x - origin) for every `stride`-th of points x (n, k).

    The moments are about the mean if `centred`. Nothing but computing times depends on how accurate they are.
    """
    q = len(M)
    partial, some = workspace("moments", (CHUNKS, q + 1, q), np.float64), np.ascontiguousarray(x[::stride])
    reduce.sums(some, origin, M, partial)
    total = partition.added(partial.sum(axis=0)) / partition.added(np.array([float(len(some))]))
    mean, products = total[0], total[1:]
    products = np.tril(products) + np.tril(products, -1).T
    return mean, products - np.outer(mean, mean) if centred else products


def _stride(n: int) -> int:
    return max(1, n // _SAMPLE)


def maps(of: Frame, targets: Array, workspace: Workspace, partition: Partition, *, centred: bool = True) -> Maps | None:
    """Return balanced maps for sources in a frame and targets (m, k); None where they are not finite."""
    low, high = extremes(targets, partition)
    reach = np.maximum(np.abs(low), np.abs(high))
    scale = _powers(reach)
    origin = low if centred else np.zeros(len(low))
    _, S_z = _moments(targets, origin, np.diag(1.0 / scale), workspace, partition, centred, _stride(partition.n))
    turn = scale[:, None] * of.N
    S_z = turn.T @ S_z @ turn
    if not (np.isfinite(S_z).all() and np.isfinite(of.moments).all()):
        return None
    values, U = np.linalg.eigh(of.moments)
    root = _roots(values)
    lam, W = np.linalg.eigh(root[:, None] * (U.T @ S_z @ U) * root)
    size, W = np.sqrt(_roots(lam[::-1])), W[:, ::-1]
    return Maps((U @ (W / root[:, None] * size)).T @ of.M, (U @ (root[:, None] * W / size)).T @ of.N.T, reach)


def _roots(values: Array) -> Array:
    """Return roots of eigenvalues, with a lower bound for those that may be rounding; 1 where all are zero."""
    largest = values.max(initial=0.0)
    return np.sqrt(np.maximum(values, _METRIC * largest)) if largest > 0.0 else np.ones(len(values))


def reduce_pair(
    targets: Array,
    keys: Array,
    values: Array | None,
    most: int,
    thin: float,
    workspace: Workspace,
    partition: Partition | None = None,
) -> Reduced | None:
    """Return the reduced sum for targets (m, k), keys (n, k), values (n, c), None: the keys.

    Return None if more than `most` axes carry scores, or numbers are out of range. thin: axes whose loads add up to no
    more are left out. partition: which of all sources these are; maps and ends are then those of all
    processes.
    """
    with np.errstate(over="ignore", invalid="ignore"):
        return _reduced(
            targets, keys, values, most, thin, workspace, Undivided(len(keys)) if partition is None else partition
        )


def _reduced(
    targets: Array,
    keys: Array,
    values: Array | None,
    most: int,
    thin: float,
    workspace: Workspace,
    partition: Partition,
) -> Reduced | None:
    if too_many(targets, keys, most, thin, partition):
        return None
    of = frame(keys, workspace, partition)
    both = None if of is None else maps(of, targets, workspace, partition)
    if of is None or both is None:
        return None
    to_y, to_z, _ = both
    q = len(to_y)
    y, z = workspace("coords_y", (q, len(keys)), np.float64), workspace("coords_z", (q, len(targets)), np.float64)
    y_ends = outermost(coordinates(keys, of.centre, to_y, y), partition)
    z_ends = outermost(coordinates(targets, np.zeros(len(of.centre)), to_z, z), partition)
    # Totals are relative to the centre, so sizes are measured from there. It may be outside of a cloud that is no wider
    # than rounding.
    loads = np.abs(z_ends).max(axis=0) * (np.maximum(y_ends[1], 0.0) - np.minimum(y_ends[0], 0.0))
    if not np.isfinite(loads).all():
        return None
    ranked = np.argsort(loads, kind="stable")
    unseen = np.cumsum(loads[ranked]) <= thin
    kept, rest = np.sort(ranked[~unseen]), np.sort(ranked[unseen])
    if len(kept) > most:
        return None
    # Rounding errors of coordinates: in thin directions they are larger than those of keys and targets themselves.
    blur_y, blur_z = _EPS * np.abs(to_y) @ of.reach, _EPS * np.abs(to_z) @ both.reach
    scores, reach_y, reach_z = (
        float(both.reach @ of.reach), np.abs(y_ends).max(axis=0), np.abs(z_ends).max(axis=0),
    )  # fmt: skip
    blur = float(reach_z @ blur_y + reach_y @ blur_z)
    if blur <= _BLURRED * _EPS * scores:
        blur = 0.0
    elif blur > thin:
        return None
    rounded = float((np.abs(to_z).T @ blur_y).max(initial=0.0))
    _even(y, z, y_ends, z_ends, to_z, kept)
    reach = np.abs(y_ends).max(axis=0)
    found: Values | None = None
    close = rounded <= max(_BLURRED * _EPS, thin) * of.spread
    if values is None and close:
        found = _of_keys(of, to_z, y, kept, rest, reach)
    else:
        values_or_keys, axes = keys if values is None else values, y if len(kept) == q else y[kept]
        found = _of_others(values_or_keys, axes, reach[kept], workspace, partition)
    if found is None:
        return None
    if len(kept) < q:
        y, z, y_ends, z_ends = y[kept], z[kept], y_ends[:, kept], z_ends[:, kept]
    dropped = float(loads[rest].sum()) + blur
    if values is None and rounded > _BLURRED * _EPS * of.spread:
        dropped += min(thin, rounded / of.spread)
    return Reduced(
        y, z, y_ends, z_ends, of.centre, found.channels, found.B, found.constant, scores, dropped, found.amplification,
        np.ascontiguousarray(to_z.T) if close and not len(rest) else None,
    )  # fmt: skip


def _even(y: Array, z: Array, y_ends: Array, z_ends: Array, to_z: Array, axes: Array) -> None:
    """Move powers of two from sources to targets, or back, where their sizes on an axis are far apart."""
    for k in axes:
        wide = 0.5 * np.ptp(y_ends[:, k])
        ratio = np.abs(z_ends[:, k]).max() / wide if wide > 0.0 else 1.0
        if not 1.0 / _UNEVEN < ratio < _UNEVEN:
            factor = 2.0 ** round(0.5 * np.log2(ratio))
            for up, down in ((y, z), (y_ends.T, z_ends.T)):
                up[k] *= factor
                down[k] /= factor
            to_z[k] /= factor


def coordinates(x: Array, origin: Array, matrix: Array, out: Array) -> Array:
    """Write matrix (q, k) times (x - origin), for x (n, k), into `out` (q, n); return its corners (2, q)."""
    ends = np.empty((CHUNKS, 2, len(matrix)))
    reduce.coordinates(x, origin, matrix, out, ends)
    return np.stack([ends[:, 0].min(axis=0), ends[:, 1].max(axis=0)])


def outermost(ends: Array, partition: Partition) -> Array:
    """Return the corners (2, q) of the box that contains the boxes `ends` (2, q) of all processes."""
    if partition.whole:
        return ends
    low, high = partition.largest(np.stack([-ends[0], ends[1]]))
    return np.stack([-low, high])


def amplified(B: Array, reach: Array, axes: int, spread: float) -> float:
    """Return the factor from errors of means of coordinates and channels to errors of means of values.

    The former are relative to their `reach` (r + e,), the latter to `spread`. Errors of slopes along several axes add
    like the sides of a box; a channel is a sum of its own, with an error in the total too.
    """
    sizes = np.abs(B) * reach
    errors = np.hypot.reduce(sizes[:, :axes], axis=1, initial=0.0) + 2.0 * sizes[:, axes:].sum(axis=1)
    return float(errors.max(initial=0.0) / spread) if spread > 0.0 else 1.0


def _of_keys(of: Frame, to_z: Array, y: Array, kept: Array, rest: Array, reach: Array) -> Values:
    """Represent values that are the keys as a linear function of all coordinates.

    The coordinates `rest`, which carry no scores, are channels, unless they are as small as rounding.
    """
    wanted = rest[(np.abs(to_z[rest]) * reach[rest, None]).max(axis=1, initial=0.0) > _EPS * of.spread]
    order = np.concatenate([kept, wanted])
    B = np.ascontiguousarray(to_z[order].T)
    return Values(y[wanted], B, of.centre.copy(), amplified(B, reach[order], len(kept), of.spread))


def _of_others(values: Array, y: Array, reach: Array, workspace: Workspace, partition: Partition) -> Values | None:
    """Represent values (n, c) as a linear function of the coordinates y (r, n), and a remainder in channels.

    reach: (r,) the largest |coordinates|. Return None where numbers are out of range.
    """
    n, c = values.shape
    if c == 0:
        return Values(np.empty((0, n)), np.empty((0, len(y))), np.empty(0), 1.0)
    low, high = extremes(values, partition)
    scale = _powers(np.maximum(np.abs(low), np.abs(high)))
    if not np.isfinite(high - low).all():
        return None
    mean = (
        scale
        * _moments(values, np.zeros(c), np.diag(1.0 / scale), workspace, partition, False, _stride(partition.n))[0]
    )
    size = np.maximum(high - mean, mean - low)
    spread = float(size.max())
    B = _regressed(values, mean, scale, y, workspace, partition)
    if amplified(B, reach, len(y), spread) > _BENT:
        B[:] = 0.0
    rest, largest = workspace("channels", (c, n), np.float64), np.empty(CHUNKS)
    reduce.remainders(values, mean, B, y, np.eye(c), rest, largest)
    noise = ROUNDED * (np.abs(B) @ reach + size)
    of = frame(np.ascontiguousarray(rest.T), workspace, partition, noise=noise)
    if of is None:
        return None
    channels, origin = np.empty((len(of.M), n)), mean + of.centre
    reduce.remainders(values, origin, B, y, of.M, channels, largest)
    B, largest = np.concatenate([B, of.N], axis=1), partition.largest(np.abs(channels).max(axis=1, initial=0.0))
    reach = np.concatenate([reach, largest])
    return Values(channels, B, origin, amplified(B, reach, len(y), spread))


def _regressed(values: Array, mean: Array, scale: Array, y: Array, workspace: Workspace, partition: Partition) -> Array:
    """Return the matrix B (c, r) of the least squares fit of values by coordinates."""
    r = len(y)
    if r == 0:
        return np.zeros((len(mean), 0))
    step = _stride(partition.n)
    both = np.concatenate([y[:, ::step].T, (values[::step] - mean) / scale], axis=1)
    _, S = _moments(both, np.zeros(both.shape[1]), np.eye(both.shape[1]), workspace, partition, True, 1)
    root = _roots(np.diag(S)[:r])
    B = np.linalg.lstsq(S[:r, :r] / np.outer(root, root), S[:r, r:] / root[:, None], rcond=_METRIC)[0]
    return scale[:, None] * (B / root[:, None]).T
