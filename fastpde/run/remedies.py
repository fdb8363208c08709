"""How a run ended, in the keys of its configuration: `fastpde.Status` speaks of the arguments of `fastpde.solve`."""

from __future__ import annotations

from typing import Any

from fastpde.attention.variants import named
from fastpde.config import Problem
from fastpde.config.shapes import each_head

KEYS = {"MAX_STEPS": "time.max_steps", "STEP_TOO_SMALL": "time.rtol"}  # what to change first, by the name of a status
WORDS = {
    "shorten t_span": "lower time.t_end",
    "end t_span earlier": "lower time.t_end",
    "the event BlowUp(radius)": "events.blow_up",
}


def told(problem: Problem, end: str, message: str, cause: Any = None) -> str:
    """Return the message of an end, the name of a `fastpde.Status`, with the key to change before it, if there is one.

    cause: the error of a scaling that did not converge, if it is known.
    """
    for word, key in WORDS.items():
        message = message.replace(word, key)
    key = _scaling_keys(problem, cause) if end == "NOT_CONVERGED" else KEYS.get(end, "")
    return f"{key}: {message}" if key else message


def _scaling_keys(problem: Problem, cause: Any) -> str:
    """Return the key to change where a scaling did not converge: that of its head, if known, or of all that scale."""
    heads = list(each_head(problem.config))
    if cause is not None and cause.heads:
        heads = [heads[cause.heads[0]]]
    key = "tol" if cause is not None and cause.rounding else "max_iter"
    return ", ".join(dict.fromkeys(f"{name}.{key}" for name, block, _ in heads if named(block.kind).scales))
