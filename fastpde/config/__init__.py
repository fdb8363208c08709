"""Strict TOML configurations: text <-> objects. Everything is checked before anything is computed or compiled.

`load` reads a file into a `Problem`, whose `tokens()` and `attention()` make the array and the attention; `dumps`
writes a configuration as understood. The keys, their checks and their defaults are in `schema`.
"""

from __future__ import annotations

import tomllib
from pathlib import Path
from typing import Any

from fastpde.config import memory_estimate, sweep_plan
from fastpde.config.build import Problem, resolve, times_of
from fastpde.config.emit import dumps
from fastpde.config.schema import Config
from fastpde.config.sections import read
from fastpde.config.shapes import Files
from fastpde.config.studies import STUDIES, Plan, plan
from fastpde.config.sweep_plan import Sweep
from fastpde.errors import InputError

__all__ = [
    "EXAMPLE",
    "STUDIES",
    "Config",
    "Files",
    "Plan",
    "Problem",
    "Sweep",
    "dumps",
    "example",
    "is_plan",
    "load",
    "load_study",
    "load_sweep",
    "parse",
    "resolve",
    "same_study",
    "times_of",
]

_LARGEST = 2**24  # bytes of a configuration: matrices of more than that belong in a file

EXAMPLE = """\
# The built-in example: a million tokens in 15 layers of a residual network. Under softmax attention a Gaussian cloud
# grows like e^t and gathers in a few clusters, the corners of a polygon. Pictures are scaled to the cloud.
seed = 1

[tokens]
kind = "gaussian"
n = 1_000_000
d = 2

[attention]
kind = "softmax"
scale = 2.0

[time]
t_end = 1.5
method = "euler"
step = 0.1

[output]
every = 0.05
max_tokens = 20_000

[backend]
tol = 1e-6
"""


def parse(text: str) -> Config:
    """Return the configuration of a TOML text; the files that it names are not opened.

    Raises InputError naming the key at fault, or the line where the text is no TOML.
    """
    return read(Config, _table(text), "")


def _table(text: str, name: str = "config") -> dict[str, object]:
    try:
        return tomllib.loads(text)
    except (tomllib.TOMLDecodeError, RecursionError, ValueError) as error:
        raise InputError(name, f"text that is no TOML ({error})", "a TOML file") from None


def load(
    path: Path, data: Path | None = None, ranks: memory_estimate.Ranks = memory_estimate.ALONE, *, code: bool = False
) -> Problem:
    """Return the problem of a configuration file, to be run on `ranks`.

    Paths in it are relative to its own folder, or to `data`. code: it may name an attention of the user's own, whose
    module is run.
    """
    table = _table(_text(path))
    if _of_plan(table):
        remedy = f"Run its cells by fastpde sweep {path}."
        raise InputError("CONFIG", f"{path}, the plan of a sweep", "the configuration of a run", remedy)
    if data is not None and not data.is_dir():
        raise InputError("--data", str(data), "a folder that exists")
    return resolve(read(Config, table, ""), Files(data or path.parent, code), ranks)


def load_study(name: str, path: Path | None, *, code: bool = False) -> Plan:
    """Return the plan of the study `name`, from a configuration file or, without one, with all defaults.

    Paths in the file are relative to its own folder. code: as in `load`. Raises InputError naming the key at fault.
    """
    if path is None:
        return plan(name, {}, Files(Path()))
    return plan(name, _table(_text(path)), Files(path.parent, code))


def same_study(text: str, found: Plan) -> bool:
    """Return whether a TOML text and a plan describe the same study."""
    kind: Any = type(found.config)
    try:
        table = _table(text)
        return getattr(kind, "always", frozenset()) <= table.keys() and read(kind, table, "") == found.config
    except InputError:
        return False


def is_plan(path: Path) -> bool:
    """Return whether a file is the plan of a sweep, and not the configuration of a run."""
    return _of_plan(_table(_text(path)))


def _of_plan(table: dict[str, object]) -> bool:
    """Return whether a table has the keys of a plan and not those of a configuration."""
    return not table.keys().isdisjoint(("config", "vary", "cases")) and "tokens" not in table


def load_sweep(path: Path, data: Path | None = None, *, code: bool = False) -> Sweep:
    """Return the sweep of a plan file. Its cells are not checked. Raises InputError naming the key at fault.

    Paths in its configuration are relative to the configuration's own folder, or to `data`. code: as in `load`.
    """
    table = _table(_text(path, "PLAN"), "PLAN")
    if "tokens" in table and "config" not in table:
        need = f'a plan: config = "{path.name}" and what varies'
        raise InputError("PLAN", f"{path}, the configuration of a run", need, f"fastpde run {path} runs it.")
    asked = sweep_plan.asked(table)
    if data is not None and not data.is_dir():
        raise InputError("--data", str(data), "a folder that exists")
    base = sweep_plan.beside(path.parent, asked.config)
    text = _text(base, "config")
    return Sweep(asked, text, _table(text), Files(data or base.parent, code))


def _text(path: Path, name: str = "CONFIG") -> str:
    """Return the text of a configuration file. Raises InputError."""
    try:
        if path.exists() and not path.is_file():  # a pipe would wait for ever
            raise InputError(name, f"{path}, which is no file", "the name of a TOML file")
        raw = path.read_bytes() if path.stat().st_size <= _LARGEST else None
    except InputError:
        raise
    except (OSError, ValueError) as error:
        reason = getattr(error, "strerror", None) or error
        raise InputError(name, f"{path} ({reason})", "the name of a TOML file that can be read") from None
    if raw is None:
        raise InputError(name, f"{path} of more than 16 MiB", "a small TOML file", "Keep matrices in .npy files.")
    try:
        return raw.decode("utf-8")
    except UnicodeDecodeError:
        raise InputError(name, f"{path}, which is no UTF-8 text", "a TOML file in UTF-8") from None


def example(ranks: memory_estimate.Ranks = memory_estimate.ALONE) -> Problem:
    """Return the problem of the built-in example, to be run on ranks."""
    return resolve(parse(EXAMPLE), Files(Path()), ranks)
