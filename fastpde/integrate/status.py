"""The ways in which an integration ends, each with a remedy."""

from __future__ import annotations

from enum import Enum


class Status(Enum):
    """The outcome of an integration: `value` for files, `message` for people, with the remedy."""

    _success: bool
    _message: str

    def __new__(cls, label: str, success: bool, message: str) -> Status:
        """Make the label the value, so that `Status("event")` and JSON files read well."""
        member = object.__new__(cls)
        member._value_ = label
        member._success = success
        member._message = message
        return member

    COMPLETED = (
        "completed",
        True,
        "The end of the time span was reached.",
    )
    EVENT = (
        "event",
        True,
        "A terminal event ended the integration; its time and state are in t_events and x_events.",
    )
    STEADY_STATE = (
        "steady_state",
        True,
        "The tokens stopped moving (SteadyState). To integrate on, lower its tol or make it non-terminal.",
    )
    BLOW_UP = (
        "blow_up",
        True,
        "A token left the radius given to BlowUp: the solution grows without bound or soon will. To "
        "follow it further, raise the radius.",
    )
    COLLAPSED = (
        "collapsed",
        True,
        "All tokens are within the tol given to Collapsed of their mean. To integrate on, lower its "
        "tol or make it non-terminal.",
    )
    MAX_STEPS = (
        "max_steps",
        False,
        "max_steps attempted steps were used up before the end of the time span. Raise max_steps, "
        "loosen rtol and atol (or take a larger step), or shorten t_span.",
    )
    STEP_TOO_SMALL = (
        "step_too_small",
        False,
        "The step needed for rtol and atol fell below the resolution of floating-point time. The "
        "solution probably blows up or is discontinuous here: add the event BlowUp(radius) to stop "
        "before it, end t_span earlier, or loosen rtol and atol.",
    )
    NOT_FINITE = (
        "not_finite",
        False,
        "The state or its velocity stopped being finite; the state returned is the last good one. "
        "Take a smaller step or an adaptive method, or add the event BlowUp(radius). A field of your own must write "
        "all of out.",
    )
    NOT_CONVERGED = (
        "not_converged",
        False,
        "The velocity could not be computed to its tolerance, nor could it with a smaller step; the state returned is "
        "the last good one. For Sinkhorn attention raise max_iter or tol, or take a larger eps; "
        "where rounding of the scores exceeds tol, max_iter is of no use.",
    )
    INTERRUPTED = (
        "interrupted",
        False,
        "The integration was stopped from outside before the end of the time span. It continues "
        "exactly from its State record.",
    )

    @property
    def message(self) -> str:
        """The text that says what happened and what to do."""
        return self._message

    @property
    def success(self) -> bool:
        """Whether the integration ended as asked: at the end of the span or at a terminal event."""
        return self._success
