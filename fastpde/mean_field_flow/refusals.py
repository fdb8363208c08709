"""What is said where nodes do not hold to the end."""

from __future__ import annotations

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


def early(setting: Setting, t: Array, reached: int, what: str, remedy: str) -> InputError:
    """Return the error that asks for an earlier end.

    Args:
        setting: the law and its times.
        t: times, those of the setting or closer ones.
        reached: at how many of the times t `what` is true.
        what: as "two rules agree to tol = 1e-08".
        remedy: what else helps.
    """
    if reached < 2:
        need = f"an earlier end: already at t = {t[reached]:.4g} no {what}"
    else:
        need = f"an end of at most {t[reached - 1]:.6g}, up to where {what}"
    return InputError("t_span", f"the end {setting.t[-1]:g}", need, remedy)
