"""Pictures of a run or a sweep, drawn from the files in its directory.

Drawing imports matplotlib; importing this module does not.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import TextIO

from fastpde.errors import InputError

TOKENS, SPECTRUM, CLUSTERS, MOVIE = "tokens.png", "spectrum.png", "clusters.png", "tokens.gif"
MOMENTS, ENDS, SYSTEMS, SERIES = "ensemble.png", "ends.png", "systems.png", "observables.png"
PICTURES = (TOKENS, SPECTRUM, CLUSTERS, MOVIE, MOMENTS, ENDS, SYSTEMS, SERIES)
_TRAJECTORY, _ENSEMBLE = "trajectory.h5", "ensemble.h5"


def first_picture(directory: Path) -> Path:
    """Return the path of the first picture of a run, whether or not it has been drawn."""
    return directory / (MOMENTS if (directory / _ENSEMBLE).is_file() else TOKENS)


def are_current(directory: Path) -> bool:
    """Return whether the pictures of a run were drawn from all that it holds now."""
    from fastpde.plot import canvas

    found = canvas.made_of(first_picture(directory))
    return bool(found) and found == _contents(directory)


def current_pictures(directory: Path) -> list[Path]:
    """Return the paths of the pictures of a run, which are drawn again if it holds more than they show.

    Raises InputError, OSError as `plot_run`.
    """
    if not are_current(directory):
        return plot_run(directory)
    return [path for path in (directory / name for name in PICTURES) if path.is_file()]


def _contents(directory: Path) -> str:
    """Return how many frames, or systems, a run holds, in words."""
    if (directory / _ENSEMBLE).is_file():
        from fastpde.run.trajectory_ensemble import read_ensemble

        return f"{len(read_ensemble(directory / _ENSEMBLE).status)} systems"
    from fastpde.run.trajectory import read_times

    times = read_times(directory / _TRAJECTORY)
    return f"{len(times)} frames, the last one at t = {times[-1]!s}" if len(times) else "no frame"


def _tokens(directory: Path) -> int:
    """Return the number of tokens of each system of a run, of which its files may have some; 0 if it is not known."""
    from fastpde.run.directory import read_status

    try:
        return int(read_status(directory)["n"])
    except (OSError, ValueError, KeyError, TypeError):
        return 0


def plot_run(directory: Path) -> list[Path]:
    """Draw the pictures of a run into its directory, and return their paths.

    One system: tokens.png, spectrum.png, clusters.png where clusters were recorded and, for d >= 2 and two frames or
    more, tokens.gif. An ensemble: ensemble.png, ends.png if the configuration has events, systems.png. Both: where
    energies or observables of the user's own were recorded, observables.png. A run that is under way or was killed is
    drawn up to its last stored frame.

    Raises InputError if `directory` is no run directory, OSError if a picture cannot be written.
    """
    if (directory / _ENSEMBLE).is_file():
        return _plot_ensemble(directory)
    if not (directory / _TRAJECTORY).is_file():
        raise InputError("DIR", str(directory), f"a run directory, with {_TRAJECTORY} or {_ENSEMBLE} in it")
    from fastpde.plot import clouds, cluster_paths, movie, series, spectrum
    from fastpde.run.tables import read_observables
    from fastpde.run.trajectory import read_times

    source = directory / _TRAJECTORY
    count, total = len(read_times(source)), _tokens(directory)
    if count == 0:
        raise InputError("DIR", f"{directory}, with no whole frame", "a run that stored a frame")
    paths = [directory / TOKENS, directory / SPECTRUM]
    table = read_observables(directory / "observables.csv")
    spectrum.save(table, paths[1])
    if "clusters" in table:
        paths.append(directory / CLUSTERS)
        cluster_paths.save(table, paths[-1])
    if count > 1 and movie.save(source, count, directory / MOVIE, total):
        paths.append(directory / MOVIE)
    if series.names(table):
        paths.append(directory / SERIES)
        series.save(table["t"], table, paths[-1])
    clouds.save(source, count, paths[0], _contents(directory), total)  # the last one: it says that all are drawn
    return paths


def plot_sweep(directory: Path, columns: Sequence[str] = (), stream: TextIO | None = None) -> list[Path]:
    """Draw the pictures of a sweep into its directory, and return their paths.

    results.png has the last observables of its finished cells over what varies, cells.png how and when cells ended. A
    sweep that is under way, or of which cells have failed, is drawn as far as it is.

    columns: the observables to draw, as cells.csv calls them; default: those that people look at first.
    stream: where progress is shown while many cells are read.

    Raises InputError if `directory` is no sweep or has no such columns, OSError if a picture cannot be written.
    """
    from fastpde.plot import sweep_pictures
    from fastpde.run import sweep_folder, sweep_table

    return sweep_pictures.save(sweep_table.read(sweep_folder.load(directory), stream), columns)


def _plot_ensemble(directory: Path) -> list[Path]:
    from fastpde.plot import many_systems, series
    from fastpde.run.trajectory_ensemble import read_ensemble

    source = directory / _ENSEMBLE
    data = read_ensemble(source)
    if not data.status:
        raise InputError("DIR", f"{directory}, with no system that is done", "a run that stored a block of systems")
    paths = [directory / name for name in ((MOMENTS, ENDS, SYSTEMS) if data.events else (MOMENTS, SYSTEMS))]
    if data.events:
        many_systems.save_ends(data, paths[1])
    many_systems.save_systems(data, source, paths[-1], _tokens(directory))
    if series.names(data.observables):
        paths.append(directory / SERIES)
        series.save(data.time, data.observables, paths[-1])
    many_systems.save_moments(data, paths[0], _contents(directory))  # the last one: it says that all are drawn
    return paths
