"""A run directory, opened for reading: of one system or of many, finished or not, of this version or an earlier one."""

from __future__ import annotations

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from fastpde.config import Config
from fastpde.errors import InputError, InputTypeError, explained
from fastpde.run import directory, labelled, trajectory, trajectory_ensemble
from fastpde.run.cited import cited_as
from fastpde.run.stored_array import StoredArray
from fastpde.run.study_inspect import is_study
from fastpde.run.sweep_folder import CELLS, is_sweep
from fastpde.run.tables import read_table

if TYPE_CHECKING:
    from pandas import DataFrame
    from xarray import Dataset

Array = np.ndarray[Any, Any]
_NEED = "the directory of one run"
_CLUSTERS = "clusters.csv"


@dataclass(frozen=True)
class Ends:
    """The ends of the S systems of an ensemble that are done.

    Attributes:
        t_final: (S,) the last good time of each system, at the event if one ended it.
        x_final: (S, k, d) the stored tokens at these times, read where they are indexed.
        status: S words that say how each system ended, as "completed" or "collapsed"; see `fastpde.Status`.
        steps, rejected: (S,) numbers of accepted and of rejected steps.
        t_events: by the name of an event, (S,) times at which it happened, nan where it never did.
        observables: by the name of a column, (S,) of all tokens at t_final; nan where a kill has cut off the table.
    """

    t_final: Array
    x_final: StoredArray
    status: tuple[str, ...]
    steps: Array
    rejected: Array
    t_events: dict[str, Array]
    observables: dict[str, Array]

    def __len__(self) -> int:
        return len(self.status)

    def __repr__(self) -> str:
        return f"Ends of {len(self)} systems: {self.words()}"

    def words(self) -> str:
        """Return how many systems have ended in which way."""
        found = sorted(set(self.status))
        return ", ".join(f"{self.status.count(word)} {word}" for word in found) or "none is done"


@dataclass(frozen=True, eq=False, repr=False)
class Run:
    """A run directory as it was when `open_run` opened it; positions are read from the files when they are indexed.

    Times and positions have no unit but that of the configuration.

    Attributes:
        path: the directory.
        config: the configuration as understood, defaults filled in.
        status: what status.json says, a dict: state ("finished", "running", "failed", "stopped"), message, versions.
        t: (m,) the times of the stored frames; of an ensemble those of its output.
        x: (m, k, d) the stored tokens; of an ensemble (m, S, k, d), nan after the end of a system. `x[i]` reads one
            frame, `x[:, s]` one system, `numpy.asarray(x)` everything; float64 or float32, to the bit as computed.
        ids: (k,) the index of each stored token among all n.
    """

    path: Path
    config: Config
    status: dict[str, Any]
    t: Array
    x: StoredArray
    ids: Array

    @property
    def is_ensemble(self) -> bool:
        """Whether this is a run of several systems."""
        return self.x.ndim == 4

    @property
    def finished(self) -> bool:
        """Whether the run has come to its end."""
        return self.status.get("state") == directory.FINISHED

    @property
    def cited_as(self) -> tuple[str, ...]:
        """The names of what the run has used, for `fp.cite`."""
        return cited_as(self.config)

    @cached_property
    def observables(self) -> dict[str, Array]:
        """The observables of all tokens by the name of their column, one of which is "t".

        (m,) at the times t, nan where a kill came before the row; of an ensemble (m, S), nan after a system's end.
        """
        if self.is_ensemble:
            return {name: rows[:, : self.x.shape[1]] for name, rows in self._ensemble.observables.items()}
        table = read_table(self.path / directory.OBSERVABLES)
        return {name: _lengthened(rows, len(self.t)) for name, rows in table.items()} | {"t": self.t}

    @cached_property
    def positions(self) -> Array | None:
        """The positions (k,) of the stored tokens under a mask, as `fp.conditional_wasserstein` takes them; None
        without a mask, if none are given.
        """
        if (self.path / directory.POSITIONS).exists():
            return read_table(self.path / directory.POSITIONS)["position"]
        return self.ids.astype(np.float64) if self.config.attention.masked else None

    @cached_property
    def means(self) -> dict[str, Array] | None:
        """The means (m,) of the observables over the systems that run, by column, and how many "running" (m,) there
        are; None for one system.
        """
        return read_table(self.path / directory.OBSERVABLES) if self.is_ensemble else None

    @cached_property
    def clusters(self) -> dict[str, Array] | None:
        """The largest clusters of every frame by column, one entry per cluster: t, cluster (0 is the largest), size and
        position_0, ...; None if they were not recorded.
        """
        if not (self.path / _CLUSTERS).exists():
            return None
        table = read_table(self.path / _CLUSTERS)
        return {name: rows[np.isin(table["t"], self.t)] for name, rows in table.items()}

    @cached_property
    def systems(self) -> Ends | None:
        """The ends of the systems that are done; None for one system."""
        if not self.is_ensemble:
            return None
        data, (_, count, *tokens), file = self._ensemble, self.x.shape, self.path / directory.ENSEMBLE
        last = read_table(self.path / directory.SYSTEMS, without="status")
        ends = StoredArray(file, "position_final", (count, *tokens), self.x.dtype)
        events = {name: times[:count] for name, times in data.events.items()}
        rows = {name: _lengthened(last[name], count) for name in data.observables if name in last}
        counts = data.steps[:count], data.rejected[:count]
        return Ends(data.t_final[:count], ends, data.status[:count], *counts, events, rows)

    @cached_property
    def _ensemble(self) -> trajectory_ensemble.EnsembleData:
        return trajectory_ensemble.read_ensemble(self.path / directory.ENSEMBLE)

    def dataset(self) -> Dataset:
        """Return everything but clusters as an xarray.Dataset with the dimensions time, token and coordinate, of an
        ensemble system too.

        Coordinates: the times, and the ids of the tokens. Variables: position, the observables, and of an ensemble
        position_final, t_final, status, steps, rejected and event_NAME. Attributes: the configuration as TOML, the
        status as JSON. All positions are read into memory; large files open lazily, see the reference.

        Raises InputError if xarray is not installed.
        """
        return labelled.dataset(self)

    def frame(self) -> DataFrame:
        """Return the observables as a pandas.DataFrame with one row per time; of an ensemble with one row per system
        and time, up to the end of the system. Raises InputError if pandas is not installed.
        """
        return labelled.frame(self)

    def systems_frame(self) -> DataFrame:
        """Return the ends of the systems as a pandas.DataFrame with one row per system: status, t_final, steps,
        rejected, the times of events, and observables at the end.

        Raises InputError if pandas is not installed, or the run is of one system.
        """
        if self.systems is None:
            raise InputError("systems_frame()", "a run of one system", "an ensemble", "frame() has the observables.")
        return labelled.systems_frame(self.systems)

    def __repr__(self) -> str:
        kind = self.config.attention.kind
        stored = f"{len(self.ids)} of {self.status.get('n', 'all')} tokens"
        times = f"{len(self.t)} times" + (f" from {self.t[0]:.6g} to {self.t[-1]:.6g}" if len(self.t) else "")
        lines = [
            f"Run {str(self.path)!r}: {self.status.get('state', 'of unknown state')}, {kind} attention",
            f"  t            {times}",
            f"  x            {self.x.shape} {self.x.dtype}: {stored} in d = {self.x.shape[-1]}",
            f"  observables  {', '.join(self.observables)}",
        ]
        if self.clusters is not None:
            lines.append(f"  clusters     {', '.join(self.clusters)}")
        if self.systems is not None:
            count = f"{len(self.systems)} of {self.status.get('systems', '?')}"
            lines.append(f"  systems      {count} are done: {self.systems.words()}")
        return "\n".join(lines)


@explained
def open_run(path: Any) -> Run:
    """Open a run directory for reading, finished or not, and return it as a `Run`.

    A directory of this or an earlier version of fastpde, of one system or of many, also one whose run goes on or was
    killed: what is there of it are the frames, or the systems, that were whole. Open it again to see more.

    Args:
        path: the directory.

    Raises:
        InputError: the directory is that of no run, or its files cannot be read. InputTypeError: it is no path.
    """
    try:
        folder = Path(path)
    except TypeError:
        raise InputTypeError("directory", type(path).__name__, "the path of a run directory") from None
    _refuse_others(folder)
    try:
        config, status = directory.config_of(folder), directory.status_of(folder)
    except (OSError, ValueError) as error:
        raise InputError("directory", f"{folder} ({error})", f"{_NEED}, with files that can be read") from None
    for name, layout, values in _FILES:
        if (folder / name).is_file():
            times, ids, shape, dtype = layout(folder / name)
            return Run(folder, config, status, times, StoredArray(folder / name, values, shape, dtype), ids)
    names = " or ".join(name for name, *_ in _FILES)
    raise InputError("directory", f"{folder}, without {names}", _NEED)


_FILES = (
    (directory.TRAJECTORY, trajectory.read_layout, trajectory.POSITION),
    (directory.ENSEMBLE, trajectory_ensemble.read_layout, "position"),
)


def _refuse_others(folder: Path) -> None:
    """Raise InputError for what is no run directory, with the name of the function that reads it."""
    if is_sweep(folder):
        cell = next(
            (str(one) for one in sorted((folder / CELLS).glob("[!.]*")) if one.is_dir()), f"{folder}/{CELLS}/CELL"
        )
        remedy = f"Its cells are runs: fastpde.open_run({cell!r}); cells.csv has one row for each."
        raise InputError("directory", f"{folder}, the directory of a sweep", _NEED, remedy)
    if is_study(folder):
        remedy = f"A finished study is read by fastpde.studies.load({str(folder)!r})."
        raise InputError("directory", f"{folder}, the directory of a study", _NEED, remedy)
    if folder.is_file():
        inside = (
            f"Give the directory: fastpde.open_run({str(folder.parent)!r})."
            if directory.is_there(folder.parent)
            else ""
        )
        raise InputError("directory", f"{folder}, which is a file", _NEED, inside)
    if not folder.exists():
        raise InputError("directory", f"{folder}, which does not exist", _NEED)
    if not directory.is_there(folder):
        raise InputError("directory", f"{folder}, without {directory.CONFIG}", _NEED)


def _lengthened(rows: Array, count: int) -> Array:
    """Return the first `count` entries of a column, with nan at the end if there are fewer."""
    return np.concatenate([rows[:count], np.full(max(0, count - len(rows)), np.nan)])
