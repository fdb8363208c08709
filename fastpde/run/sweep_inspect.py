"""The inspection of a sweep from outside: how far its cells are, and whether all their files are whole."""

from __future__ import annotations

import csv
import io
import math
from pathlib import Path

from fastpde.errors import InputError
from fastpde.own_code import CodeRefused
from fastpde.run import directory, inspect, lock, progress
from fastpde.run.sweep_folder import CELLS, TABLE, Digests, Folder, load
from fastpde.run.sweep_table import FAILED, FINISHED, RUNNING, STOPPED, Table

_ENDED = (FINISHED, FAILED)
_SHOWN = 20  # cells that are named


def status(path: Path) -> dict[str, str]:
    """Return the states of the cells of a sweep in words, and bring its table up to date. Raises InputError."""
    folder = load(path)
    table, by = Table(folder), lock.held(path)
    words = {"cells": table.summary().partition(": ")[2], "of": progress.counted(len(table.cells), "cell")}
    if by:
        words["process"] = f"{by.get('pid')} on {by.get('host')}"
    if math.isfinite(left := table.left()):
        words["left"] = f"about {inspect.duration(left)}"
    elif table.counts()[STOPPED] and not by:
        words["next"] = "the same command goes on"
    if others := _others(folder):
        words["others"] = f"{progress.counted(others, 'cell')} of earlier plans"
    try:
        words["table"] = str(table.write())
    except directory.OutputError as error:
        words["table"] = str(error)
    shown = [i for state in (FAILED, RUNNING, STOPPED) for i, cell in table.cells.items() if cell.state == state]
    for i in shown[:_SHOWN]:
        cell, values = table.cells[i], folder.sweep.words(i).removeprefix(f"cell {i}")
        words[f"cell {i}"] = f"{cell.state}{values} {cell.far()}"
    if len(shown) > _SHOWN:
        words["more"] = f"{progress.counted(len(shown) - _SHOWN, 'such cell')}, in the table"
    return words


def _others(folder: Folder) -> int:
    """Return the number of cells in the directory that the plan no longer has."""
    mine = set(folder.cells)
    return sum(path.name not in mine and not path.name.startswith(".") for path in (folder.path / CELLS).iterdir())


def verify(path: Path, code: bool = False) -> tuple[list[str], list[str]]:
    """Check the cells that are there; return what is in order and what is wrong. code: as of `config.load`.

    Raises InputError if it is no sweep.
    """
    folder, digests = load(path, code), Digests()
    good: list[str] = []
    wrong: list[str] = []
    for i in range(len(folder.cells)):
        cell = folder.cell(i)
        if not cell.exists():
            continue
        try:
            directory.is_finished(cell, folder.problem(i, digests).config)
            _, found = inspect.verify(cell)
        except CodeRefused:
            raise
        except (InputError, OSError) as error:
            found = [str(error)]
        wrong += [f"cell {i}, {cell.name}: {text}" for text in found]
        if not found:
            good.append(f"cell {i}, {cell.name}")
    wrong += _rows(folder)
    return [f"{len(good)} of {len(folder.cells)} cells are there and whole"], wrong


def _rows(folder: Folder) -> list[str]:
    """Return what is wrong with the rows of the table; those of cells that have gone on since may be older."""
    try:
        text = (folder.path / TABLE).read_text(encoding="utf-8")
    except FileNotFoundError:  # no cell has ended yet
        return []
    except (OSError, ValueError) as error:
        return [f"{TABLE}: {error}"]
    wanted = {row["index"]: row for row in csv.DictReader(io.StringIO(Table(folder).text()))}
    wrong = []
    for row in csv.DictReader(io.StringIO(text)):
        own = wanted.get(row.get("index", ""), {})
        moved = row.get("state") not in _ENDED and own.get("state") in (*_ENDED, RUNNING, STOPPED)
        if not moved and any(text != own.get(name) for name, text in row.items()):
            wrong.append(f"{TABLE}: row {row.get('index')} is not what its cell says")
    return wrong
