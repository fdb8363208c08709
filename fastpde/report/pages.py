"""The pages about a run and about a study: the facts of a directory, handed to its template."""

from __future__ import annotations

import re
from pathlib import Path
from typing import Any, TextIO

from fastpde import plot, studies
from fastpde.errors import InputError
from fastpde.plot import cluster_paths
from fastpde.report import rendering
from fastpde.report.theory_checks import checks
from fastpde.run import directory
from fastpde.run.tables import read_observables
from fastpde.theory import statements

# Columns of which there are as many as coordinates: those of a long table that are left out first.
_COMPONENTS = re.compile(r"mean_\d+|eigenvalue_\d+", re.ASCII)


def of_study(path: Path) -> str:
    """Return the page about a study; its picture is drawn if there is none. Raises InputError, OSError."""
    study = studies.load(path)
    picture = path / f"{study.name}.png"
    if not picture.is_file():
        study.plot(picture)
    about = study.layout(study.parameters)
    return rendering.render(
        "study.html",
        title=f"Study {study.name}",
        about=f"{study.summary()}.",
        pictures=[rendering.picture(picture)],
        statements=statements.STUDIES.get(study.name, ()),
        measured=study.summary(),
        parameters=study.parameters.items(),
        columns=[(name, column.unit, column.meaning) for name, column in about.items()],
        count=len(study),
        rows=rendering.excerpt(study.columns),
        more={name: rendering.excerpt(columns) for name, columns in study.tables.items()},
    )


def of_run(path: Path, code: bool, stream: TextIO | None = None) -> str:
    """Return the page about a run, its pictures drawn if need be; code: as of `report.write`.

    stream: where it is said that statements are left out, because code of the user's own may not be run.
    Raises InputError for a directory that is no run's, OSError.
    """
    try:
        status = directory.read_status(path)
        text = (path / directory.CONFIG).read_text(encoding="utf-8")
    except (OSError, ValueError):
        need = f"a run directory, with {directory.CONFIG} and {directory.STATUS} in it, or that of a study or a sweep"
        raise InputError("DIR", str(path), need) from None
    if status.get("own_code") and not code and stream is not None:
        stream.write("fastpde: the run is of code of your own: only with --allow-code the page says what theory does\n")
    pictures = plot.current_pictures(path)
    table = read_observables(path / directory.OBSERVABLES)
    single = (path / directory.TRAJECTORY).is_file()
    plateaus = cluster_paths.metastable(table) if "clusters" in table else None
    return rendering.render(
        "run.html",
        title=f"Run {path.resolve().name}",
        about=f"{status.get('state', 'unknown state')}. {str(status.get('message', '')).rstrip('.')}.",
        pictures=[rendering.picture(picture) for picture in pictures],
        checks=checks(text, table, status, directory.data_of(path, status), code, path) if single else [],
        clusters=plateaus and [(f"{p.start:.6g}", f"{p.end:.6g}", p.count) for p in plateaus],
        observables=rendering.excerpt(table, spared=_COMPONENTS),
        status=_flat(status),
        configuration=text,
    )


def _flat(status: dict[str, Any], name: str = "") -> list[tuple[str, Any]]:
    """Return the entries of status.json, those of tables within it by dotted names at the end; lists are left out."""
    plain = [(f"{name}{key}", value) for key, value in status.items() if not isinstance(value, dict | list)]
    tables = [(f"{name}{key}.", inner) for key, inner in status.items() if isinstance(inner, dict)]
    return plain + [entry for prefix, inner in tables for entry in _flat(inner, prefix)]
