"""Runs as data sets of xarray and tables of pandas, which are imported when they are asked for."""

from __future__ import annotations

import json
from importlib import import_module
from typing import TYPE_CHECKING, Any

import numpy as np

from fastpde.config import dumps
from fastpde.errors import InputError

if TYPE_CHECKING:
    from fastpde.run.opened import Ends, Run

Array = np.ndarray[Any, Any]
Columns = dict[str, Any]
_TOKENS = ("token", "coordinate")


def library(name: str, asked: str) -> Any:
    """Return an optional library. Raises InputError with the command that installs it; `asked`: what needs it."""
    try:
        return import_module(name)
    except ImportError:
        remedy = f"Install it: pip install {name}. The extra [data] of fastpde has all libraries for reading."
        raise InputError(asked, f"a Python without {name}", name, remedy) from None


def dataset(run: Run) -> Any:
    """Return a run as an xarray.Dataset, see `Run.dataset`."""
    xarray = library("xarray", "dataset()")
    coordinates = {"time": ("time", run.t), "token": ("token", run.ids)}
    coordinates["coordinate"] = ("coordinate", np.arange(run.x.shape[-1]))
    if run.positions is not None:
        coordinates["sequence_position"] = ("token", run.positions)
    lead: tuple[str, ...] = ("time",)
    data: Columns = {}
    if run.systems is not None:
        lead, last = ("time", "system"), run.systems
        coordinates["system"] = ("system", np.arange(len(last)))
        data["position_final"] = (("system", *_TOKENS), np.asarray(last.x_final))
        data |= {name: ("system", column) for name, column in _ends(last).items()}
    data["position"] = ((*lead, *_TOKENS), np.asarray(run.x))
    taken = {*coordinates, *data}
    for name, column in run.observables.items():
        if name != "t":  # the coordinate
            data[f"{name}_" if name in taken else name] = (lead, column)
    facts = {"source": "fastpde", "directory": str(run.path), "state": str(run.status.get("state", "unknown"))}
    facts |= {"config": dumps(run.config), "status_json": json.dumps(run.status)}
    return xarray.Dataset(data, coordinates, facts)


def frame(run: Run) -> Any:
    """Return the observables of a run as a pandas.DataFrame, see `Run.frame`."""
    return library("pandas", "frame()").DataFrame(observables(run))


def observables(run: Run) -> Columns:
    """Return the observables of a run as columns of equal length; of an ensemble with `system`, up to its end."""
    if not run.is_ensemble:
        return dict(run.observables)
    running = np.isfinite(run.observables["t"]).T  # (S, m): system after system
    columns = {"system": np.nonzero(running)[0]}
    return columns | {name: table.T[running] for name, table in run.observables.items()}


def systems_frame(found: Ends) -> Any:
    """Return the ends of systems as a pandas.DataFrame, see `Run.systems_frame`."""
    return library("pandas", "systems_frame()").DataFrame(ends(found))


def ends(found: Ends) -> Columns:
    """Return the ends of systems as columns of equal length: system, what is known of the end, observables there."""
    columns = {"system": np.arange(len(found))} | _ends(found)
    return columns | {name: column for name, column in found.observables.items() if name not in columns}


def _ends(found: Ends) -> dict[str, Array]:
    """Return what is one word or number per system."""
    columns = {"status": np.array(found.status, dtype=np.str_), "t_final": found.t_final}
    columns |= {"steps": found.steps, "rejected": found.rejected}
    return columns | {f"event_{name}": times for name, times in found.t_events.items()}
