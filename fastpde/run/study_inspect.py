"""The inspection of a study from outside: what a finished one found, or the cells of one that is not finished."""

from __future__ import annotations

import json
import os
from pathlib import Path
from typing import Any

from fastpde.errors import InputError

FACTS = "study.json"  # as in `studies.table`, whose import takes a while


def cells_of(target: Path) -> Path:
    """Return the path of the file that keeps the finished cells of a study until its directory is made."""
    named = target if target.name not in ("", "..") else Path(os.path.abspath(target))
    return named.parent / f"{named.name}.cells"


def is_study(path: Path) -> bool:
    """Return whether `path` is the directory of a finished study, or the cells of an unfinished one are beside it."""
    return (path / FACTS).is_file() or _kept(path) is not None


def status(path: Path) -> dict[str, str]:
    """Return how far a study is, in words. Raises InputError if it is none, or its files are damaged."""
    kept, words = _kept(path), {"state": "unfinished: the same command goes on with its cells"}
    if (path / FACTS).is_file():
        from fastpde import studies

        study = studies.load(path)
        picture = path / f"{study.name}.png"
        words = {"state": "finished", "study": study.name, "summary": f"{study.summary()}."}
        words |= {"rows": f"{len(study)}, in {path / 'rows.csv'}", "columns": ", ".join(study.columns)}
        words["parameters"] = _listed(study.parameters)
        words["picture"] = str(picture) if picture.is_file() else f"none; fastpde plot {path} draws it"
    return words if kept is None else words | _cells(kept)


def _kept(path: Path) -> Path | None:
    """Return the file of the cells of a study, which `path` may name itself; None if there is none."""
    for found in (cells_of(path), path):
        if found.suffix == ".cells" and found.is_file():
            return found
    return None


def _cells(kept: Path) -> dict[str, str]:
    """Return what a file of finished cells holds, see `studies.study_cells`; a line that a kill cut does not count."""
    try:
        text = kept.read_text(encoding="utf-8")
        first, *lines = [line for line in text.splitlines(keepends=True) if line.endswith("\n")]
        parameters: dict[str, Any] = json.loads(first)["parameters"]
        cells: dict[str, Any] = {}
        for line in lines:
            cells |= json.loads(line)
        rows = sum(map(len, cells.values()))
    except (OSError, ValueError, KeyError, TypeError) as error:
        raise InputError("DIR", f"{kept} ({error})", "the cells of an unfinished study") from None
    return {"cells": f"{len(cells)} are finished, with {rows} rows: {kept}", "parameters": _listed(parameters)}


def _listed(parameters: Any) -> str:
    return ", ".join(f"{name} = {value}" for name, value in parameters.items())
