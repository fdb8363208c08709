"""Independent scrambled Sobol sequences, more and more points of each, until their spread is small."""

from __future__ import annotations

import numpy as np

from .._types import Array
from ..errors import InputError
from . import refusals
from .moved_nodes import MovedNodes, Steps
from .node_sets import SCRAMBLES, by_sobol
from .setting import Setting

_FIRST = 64  # points of a sequence, at each position
_RTOL = 1e-2  # rtol of the steps as a fraction of tol
_LEAP = 3  # doublings at once: that errors do not fall is to be seen where it costs little
_FAR = 10.0  # the largest number of points is not tried if errors that fall as 1/n would be so many times tol


def by_scrambles(setting: Setting, tol: float) -> MovedNodes:
    """Return the law by 8 scrambles that were moved independently and have a standard error of at most tol.

    Raises InputError, with what is reached, if at most `setting.most` nodes do not do that.
    """
    nodes = by_sobol(setting, _FIRST)
    most = setting.most // nodes.count  # times the first number
    if not most:
        raise InputError("most_nodes", str(setting.most), f"at least {nodes.count}, {_FIRST} points at each position")
    times = 1
    while True:
        found = MovedNodes(setting, nodes, Steps(_RTOL * tol, to_frames=False, backend="auto"))
        with found.reporting() as report:
            found.reach(len(setting.t) - 1, report)
        found.error = standard_error(found)
        reached = int(np.argmax(np.append(found.error > tol, True)))
        if reached == len(setting.t):
            return found
        if not found.sol.success and reached == len(found.probes):
            break
        ratio = found.error[-1] / tol
        if 2 * times > most or ratio * times > _FAR * most:
            break
        times *= 2 ** max(1, min(int(np.log2(ratio)), int(np.log2(most / times)), _LEAP))
        nodes = by_sobol(setting, _FIRST * times)
    if told := refusals.why(found.sol):
        holds = f"{SCRAMBLES} scrambles have a standard error of at most tol = {tol:g}"
        raise refusals.early(setting, setting.t, reached, holds, told, refusals.lost(found.sol))
    count, error = found.nodes.count, found.error[-1]
    need = f"at least {error:.2g}, the standard error of {SCRAMBLES} scrambles of {count} Sobol points"
    remedy = f"It falls about as 1 / most_nodes: some {count * error / tol:.0e} would be needed."
    if reached > 1:
        remedy += f" Up to t = {setting.t[reached - 1]:.4g} it is at most tol."
    raise InputError("tol", f"{tol:g}", need, remedy)


def standard_error(found: MovedNodes) -> Array:
    """Return the largest relative standard error (k,) of the mean over the scrambles up to each time reached.

    It is that of where probes are, and of mean and covariance, relative to the largest distance of a probe from the
    origin, and the square of that.
    """
    probes, scale = found.probes, found.setting.scale  # (k, S, p, d)
    sets = probes.shape[1]
    size = np.maximum(np.linalg.norm(probes, axis=3).max(axis=(1, 2)), scale)
    off = np.sqrt(probes.var(axis=1, ddof=1).sum(axis=2)).max(axis=1) / size
    for frame in range(len(probes)):
        each = [found.moments_at(frame, k) for k in range(sets)]
        for part, power in ((0, 1), (1, 2)):
            spread = np.std([moments[part] for moments in each], axis=0, ddof=1).max()
            off[frame] = max(off[frame], spread / size[frame] ** power)
    return np.maximum.accumulate(off / np.sqrt(sets))
