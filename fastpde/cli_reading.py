"""The commands that read directories of runs, sweeps and studies: `fastpde status`, `verify`, `plot`, `export`, ..."""

from __future__ import annotations

import argparse
import sys
from collections.abc import Iterable
from pathlib import Path
from typing import Any

from fastpde.cli_machine import whole
from fastpde.errors import InputError

_EXPORT = (
    "Write the frames of a run as files of other programs: vtk (a folder of .vtu and a .pvd for ParaView), xyz"
    " (extended XYZ for OVITO, ASE, MDAnalysis), npz (NumPy, everything), parquet (a folder of long tables). vtk and"
    " xyz have three coordinates: of d > 3 they are the first three principal components of the last frame."
)
_KINDS = ("vtk", "xyz", "npz", "parquet")
_MOST = 10**9
_CITE = (
    "Print BibTeX of fastpde, the article on its dynamics, NumPy and Numba, and with DIR of the attention, the method,"
    " the manifold and the files that it has used. Of a sweep the cells that have begun count."
)
_ANY = "the directory of a run or a sweep, finished or not, or of a study"


def add(commands: Any) -> None:
    """Add the parsers of `fastpde status`, `fastpde verify` and `fastpde cite`."""
    status = commands.add_parser("status", help="say how far a run, a sweep or a study is")
    status.add_argument("directory", type=Path, metavar="DIR", help="a run directory, or a sweep's, or a study's")
    status.set_defaults(call=_status)
    verify = commands.add_parser("verify", help="check every file of a run or a sweep; 1 if something is wrong")
    verify.add_argument("directory", type=Path, metavar="DIR", help="a run directory, or a sweep's")
    verify.set_defaults(call=_verify)
    cite = commands.add_parser("cite", help="print BibTeX of what to cite", description=_CITE)
    cite.add_argument("directory", nargs="?", type=Path, metavar="DIR", help=_ANY)
    cite.set_defaults(call=_cite)


def add_export(commands: Any) -> argparse.ArgumentParser:
    """Add the parser of `fastpde export` and return it."""
    export = commands.add_parser("export", help="write a run for other programs", description=_EXPORT)
    export.add_argument("directory", type=Path, metavar="DIR", help="a run directory, finished or not")
    export.add_argument("--to", choices=_KINDS, required=True, help="the kind of file")
    export.add_argument("--out", type=Path, metavar="PATH", help="what to make; default: DIR's name + .vtk, ..., here")
    export.add_argument("--system", metavar="S", help="the number of one system of an ensemble, for vtk and xyz")
    export.add_argument("--every", metavar="K", help="every K-th frame only")
    return export


def add_plot(commands: Any) -> argparse.ArgumentParser:
    """Add the parser of `fastpde plot` and return it."""
    plot = commands.add_parser("plot", help="draw the pictures of a run, a sweep or a study again")
    plot.add_argument("directory", type=Path, metavar="DIR", help=_ANY)
    about = "of a sweep: the columns of cells.csv to draw; default: those that people look at first"
    plot.add_argument("--columns", metavar="NAME", nargs="+", default=(), help=about)
    return plot


def add_report(commands: Any) -> argparse.ArgumentParser:
    """Add the parser of `fastpde report` and return it."""
    report = commands.add_parser("report", help="one self-contained HTML page about a run, a sweep or a study")
    report.add_argument("directory", type=Path, metavar="DIR", help=_ANY)
    return report


def plot(options: argparse.Namespace) -> list[Path]:
    """Draw the pictures of a directory and return their paths. Raises InputError, OSError."""
    from fastpde import plot, studies
    from fastpde.run import sweep_folder

    path, columns = options.directory, options.columns
    if sweep_folder.is_sweep(path):
        return plot.plot_sweep(path, columns, sys.stderr)
    if columns:
        raise InputError("--columns", " ".join(columns), "the directory of a sweep as DIR with it")
    if not studies.is_study(path):
        return plot.plot_run(path)
    study = studies.load(path)
    picture: Path = path / f"{study.name}.png"
    study.plot(picture)
    return [picture]


def export(options: argparse.Namespace) -> list[str]:
    """Write the files that were asked for, and return what was done, in lines. Raises InputError, OutputError."""
    system, every = whole("--system", options.system, 0, _MOST), whole("--every", options.every, 1, _MOST)
    from fastpde import export

    return export.write(options.directory, options.to, options.out, system=system, every=every or 1)


def _status(options: argparse.Namespace) -> int:
    from fastpde.run import inspect, study_inspect, sweep_folder, sweep_inspect

    path = options.directory
    look: Any = study_inspect if study_inspect.is_study(path) else inspect
    found = (sweep_inspect if sweep_folder.is_sweep(path) else look).status(path)
    width = max(map(len, found))
    sys.stdout.writelines(f"{name:<{width}}  {text}\n" for name, text in found.items())
    return 0


def _cite(options: argparse.Namespace) -> int:
    from fastpde import citations

    sys.stdout.write(citations.of_words(_used(options.directory)))
    return 0


def _used(path: Path | None) -> Iterable[str]:
    """Return the names of what a directory has used, see `citations.of_words`. Raises InputError if it is none."""
    from fastpde import studies
    from fastpde.run import directory, opened, sweep_folder
    from fastpde.run.cited import cited_as

    if path is None:
        return ()
    if sweep_folder.is_sweep(path):
        cells = [cell for cell in (path / sweep_folder.CELLS).glob("[!.]*") if directory.is_there(cell)]
        return [word for cell in cells for word in cited_as(directory.config_of(cell))]
    return studies.load(path).cited_as if studies.is_study(path) else opened.open_run(path).cited_as


def _verify(options: argparse.Namespace) -> int:
    from fastpde.run import inspect, sweep_folder, sweep_inspect

    if sweep_folder.is_sweep(options.directory):
        good, wrong = sweep_inspect.verify(options.directory, code=options.allow_code)
    else:
        good, wrong = inspect.verify(options.directory)
    sys.stdout.writelines(f"good   {text}\n" for text in good)
    sys.stdout.writelines(f"WRONG  {text}\n" for text in wrong)
    return 1 if wrong else 0
