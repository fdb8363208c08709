"""What a run records of its tokens: a registry of observables, one file each."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any

from fastpde.config import Problem
from fastpde.errors import InputError
from fastpde.observable import Observable
from fastpde.run.observables import token_clusters, token_divergence, token_energy, token_entropy, token_moments

# Each makes its observable for a run of a problem, with its attention and backend and the positions (n,) of the tokens
# that are here, or None if it is not recorded.
REGISTRY: tuple[Callable[[Problem, Any, Any, Any], Observable | None], ...] = (
    token_moments.observable,
    token_energy.observable,
    token_divergence.observable,
    token_entropy.observable,
    token_clusters.observable,
)

# Names of other columns of tables, and of files and their marks in checkpoints.
_TAKEN = (
    *("t", "t_final", "system", "systems", "status", "step", "steps", "running"),
    *("observables", "table", "trajectory", "ensemble", "cells", "positions"),
)


def chosen(problem: Problem, attention: Any, backend: Any, positions: Any = None) -> tuple[Observable, ...]:
    """Return the observables that a run records, those of the user's own last.

    Raises InputError where two have a column, or a name, in common.
    """
    found = [made for make in REGISTRY if (made := make(problem, attention, backend, positions)) is not None]
    found += [own for own, _ in problem.own_observables]
    names = dict.fromkeys(_TAKEN, "the package")
    for observable in found:
        for name in dict.fromkeys((observable.name, *observable.columns)):
            if names.setdefault(name, observable.name) != observable.name:
                came = f"{observable.name} with a name {name!r} like that of {names[name]}"
                raise InputError("output.observables", came, "names of their own")
    return tuple(found)


def columns(observables: tuple[Observable, ...]) -> list[str]:
    """Return the names of the columns of a table of observables: the time, and all numbers."""
    return ["t", *(name for observable in observables for name in observable.columns)]
