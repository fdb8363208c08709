"""What is said where nodes do not hold to the end."""

from __future__ import annotations

import math

from .._types import Array
from ..errors import ConvergenceError, InputError
from ..integrate import Solution, Status
from .setting import Setting

FAILED = (Status.STEP_TOO_SMALL, Status.NOT_FINITE)


def why(sol: Solution) -> str:
    """Return why a run of nodes ended early; empty if it did not, or because the nodes are too few."""
    if sol.status in FAILED:
        return f"The nodes probably blow up: they could be followed to t = {sol.t_final:.6g} only."
    few = sol.status is Status.NOT_CONVERGED and not isinstance(sol.cause, ConvergenceError)
    return "" if sol.success or few or sol.status is Status.INTERRUPTED else sol.message


def lost(sol: Solution) -> float:
    """Return the time at which a run of nodes could not go on; inf if it could."""
    return sol.t_final if sol.status in FAILED else math.inf


def early(setting: Setting, t: Array, reached: int, what: str, remedy: str, end: float) -> InputError:
    """Return the error that asks for an earlier end.

    Args:
        setting: the law and its times.
        t: times, those of the setting or closer ones.
        reached: at how many of the times t `what` is true.
        what: as "two rules agree to tol = 1e-08".
        remedy: what else helps.
        end: when the nodes or the law end, inf if that is not known.
    """
    if reached == 1 and end <= t[1]:
        need = f"an end before t = {end:.6g}"
    elif reached < 2:
        need = f"an earlier end: already at t = {t[reached]:.4g} no {what}"
    else:
        need = f"an end of at most {t[reached - 1]:.6g}, up to where {what}"
    return InputError("t_span", f"the end {setting.t[-1]:g}", need, remedy)
