"""Pictures of a run, drawn from what its directory holds; drawing imports matplotlib, importing this module
does not.
"""

from __future__ import annotations

from pathlib import Path

from fastpde.errors import InputError

TOKENS, SPECTRUM, MOVIE = "tokens.png", "spectrum.png", "tokens.gif"


def plot_run(directory: Path) -> list[Path]:
    """Draw tokens.png, spectrum.png and, for d >= 2 and two frames or more, tokens.gif into a run directory.

    Returns the paths, tokens.png first. A run that goes on or was killed is drawn as far as it got.
    Raises InputError if `directory` is no run directory, OSError if a picture cannot be written.
    """
    if not (directory / "trajectory.h5").is_file():
        raise InputError("DIR", str(directory), "a run directory, with trajectory.h5 in it")
    from fastpde.plot import clouds, movie, spectrum
    from fastpde.run.observables import read_observables
    from fastpde.run.trajectory import read_times

    source = directory / "trajectory.h5"
    count = len(read_times(source))
    if count == 0:
        raise InputError("DIR", f"{directory}, with no whole frame", "a run that stored a frame")
    paths = [directory / TOKENS, directory / SPECTRUM]
    clouds.save(source, count, paths[0])
    spectrum.save(read_observables(directory / "observables.csv"), paths[1])
    if count > 1 and movie.save(source, count, directory / MOVIE):
        paths.append(directory / MOVIE)
    return paths
