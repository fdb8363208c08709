"""Plans of sweeps: one configuration, and the keys of it that vary from cell to cell.

    config = "base.toml"                                  # beside the plan
    [vary]                                                # all combinations; the last key varies fastest
    tokens.n = [100, 1000]
    seed = { from = 0, to = 9 }                           # whole numbers, both ends included; step = 1
    attention.scale = { from = 0.1, to = 10.0, count = 5, log = true }
    [[cases]]                                             # optional: keys that go together, each with all of [vary]
    time.step = 0.1

Keys may be written in quotes, too. A value of [vary] replaces what the configuration has at its key.
"""

from __future__ import annotations

import math
import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.config import checks, emit
from fastpde.config.build import Problem, resolve
from fastpde.config.schema import Config
from fastpde.config.sections import key, read
from fastpde.config.shapes import Files
from fastpde.errors import InputError, InputTypeError
from fastpde.own_code import CodeRefused

MOST = 100_000  # cells: a bound on what a typing error can ask for
BASE = "base.toml"  # the name of the configuration in the directory of a sweep
_PART = re.compile(r"([A-Za-z0-9_]+)((?:\[\d{1,6}\])*)", re.ASCII)
_LONGEST = 60  # characters of a key or a value that a message shows
_BESIDE = "Keep the configuration in the folder of the plan; its .npy files may be elsewhere, with --data."
Step = str | int


def _path(name: str, word: str) -> tuple[Step, ...]:
    """Return the steps of a key: "attention.heads[0].scale" is ("attention", "heads", 0, "scale")."""
    steps: list[Step] = []
    for part in word.split("."):
        found = _PART.fullmatch(part)
        if found is None:
            shown = ascii(word)[:_LONGEST]
            raise InputError(f"{name}.{shown}", shown, "a key of a configuration, as attention.heads[0].k")
        steps += [found[1], *(int(number) for number in re.findall(r"\d+", found[2]))]
    return tuple(steps)


def _flat(name: str, table: object, leaf: Callable[[dict[str, object]], bool]) -> Iterator[tuple[str, object]]:
    """Yield the dotted keys of a table of tables with their values; a table that is a `leaf` is a value."""
    if not isinstance(table, dict):
        checks.refuse(name, table, "a table")
    for word, value in table.items():
        _path(name, word)
        if isinstance(value, dict) and not leaf(value):
            yield from ((f"{word}.{rest}", entry) for rest, entry in _flat(f"{name}.{word}", value, leaf))
        else:
            yield word, value


def _plain(name: str, value: object) -> object:
    """Return a value if a configuration can have it. Raises InputError for others: TOML has dates, too."""
    if isinstance(value, dict):
        return {word: _plain(f"{name}.{word}", entry) for word, entry in value.items()}
    if isinstance(value, list):
        return [_plain(f"{name}[{i}]", entry) for i, entry in enumerate(value)]
    if not isinstance(value, str | int | float):
        checks.refuse(name, value, "text, a number, true, false, a list or a table")
    if isinstance(value, int) and value.bit_length() > 63:
        checks.refuse(name, value, "a whole number of at most 64 bits, as TOML has them")
    return value


def _spaced(name: str, first: object, last: object, count: object, log: object) -> tuple[float, ...]:
    """Return `count` numbers from first to last, both included: with equal differences or, if `log`, equal ratios."""
    points = checks.integer(2, MOST)(f"{name}.count", count)
    low = checks.number(**({"above": 0.0} if checks.boolean(f"{name}.log", log) else {}))(f"{name}.from", first)
    high = checks.number(above=low)(f"{name}.to", last)
    if not log and not math.isfinite(high - low):
        checks.refuse(f"{name}.to", last, "a number whose distance from that of from is finite")
    values = np.geomspace(low, high, points) if log else np.linspace(low, high, points)
    return low, *values[1:-1].tolist(), high


def _range(name: str, table: dict[str, object]) -> tuple[object, ...]:
    """Return the values of { from, to, step } or { from, to, count, log }."""
    spaced = "count" in table or "log" in table
    known = ("from", "to", "count", "log") if spaced else ("from", "to", "step")
    for word, value in table.items():
        checks.known(f"{name}.", word, value, known)
    for word in ("to", "count") if spaced else ("to",):
        if word not in table:
            raise InputError(f"{name}.{word}", "nothing", "a value, beside from")
    if spaced:
        return _spaced(name, table["from"], table["to"], table["count"], table.get("log", False))
    for word, value in table.items():
        if isinstance(value, float):
            need = "a whole number, or the number of values as well, as { from = 0.1, to = 1.0, count = 10 }"
            checks.refuse(f"{name}.{word}", value, need)
    first = checks.integer(-(2**53))(f"{name}.from", table["from"])
    last = checks.integer(first)(f"{name}.to", table["to"])
    step = checks.integer(1)(f"{name}.step", table.get("step", 1))
    values = range(first, last + 1, step)
    if len(values) > MOST:
        raise InputError(name, f"{len(values)} values", f"at most {MOST}")
    return tuple(values)


@dataclass(frozen=True)
class Axis:
    """A key that varies, and its values."""

    key: str
    values: tuple[object, ...]


def _axes(name: str, table: object) -> tuple[Axis, ...]:
    axes = []
    for word, value in _flat(name, table, lambda found: "from" in found):
        whole = f"{name}.{word}"
        if isinstance(value, dict):
            values = _range(whole, value)
        elif isinstance(value, list) and value:
            values = tuple(_plain(f"{whole}[{i}]", entry) for i, entry in enumerate(value))
        else:
            checks.refuse(whole, value, "a list of values, or a range as { from = 0, to = 9 }")
        if len({emit.value(entry) for entry in values}) < len(values):
            checks.refuse(whole, value, "each value once")
        axes.append(Axis(word, values))
    _check_keys(name, [axis.key for axis in axes])
    return tuple(axes)


def _cases(name: str, tables: object) -> tuple[dict[str, object], ...]:
    if not isinstance(tables, list) or not tables:
        checks.refuse(name, tables, f"one [[{name}]] table or more")
    found = []
    for i, table in enumerate(tables):
        items = [(word, _plain(f"{name}[{i}].{word}", value)) for word, value in _flat(f"{name}[{i}]", table, _never)]
        _check_keys(f"{name}[{i}]", [word for word, _ in items])
        found.append(dict(items))
    return tuple(found)


def _never(_: dict[str, object]) -> bool:
    return False


def _check_keys(name: str, words: list[str]) -> None:
    """Raise InputError for a key that is given twice, or inside another one."""
    steps: dict[tuple[Step, ...], str] = {}
    for word in words:
        path = _path(name, word)
        if path in steps:
            raise InputError(f"{name}.{word}", "the key twice", "each key once")
        steps[path] = word
    for path, word in steps.items():
        for length in range(1, len(path)):
            if path[:length] in steps:
                raise InputError(f"{name}.{word}", f"{steps[path[:length]]} as well, which it is in", "one of them")


@dataclass(frozen=True, kw_only=True)
class Asked:
    """The content of a plan. Without [[cases]] there is one case, that of the configuration itself."""

    config: str = key(checks.text)
    vary: tuple[Axis, ...] = key(_axes, ())
    cases: tuple[dict[str, object], ...] = key(_cases, ({},))

    def settled(self, name: str) -> Asked:
        """Return the plan. Raises InputError if a key is in both of its tables, or its cells are too many."""
        for case in self.cases:
            _check_keys("cases", [axis.key for axis in self.vary] + list(case))
        count = len(self.cases) * math.prod(len(axis.values) for axis in self.vary)
        if count > MOST:
            raise InputError("vary", f"values that make {count} cells", f"at most {MOST}", "Make several plans.")
        return self


def _shown(value: object) -> str:
    text = emit.value(value)
    return text if len(text) <= _LONGEST else text[: _LONGEST - 3] + "..."


class CellError(InputError):
    """The error of a cell that is no valid configuration; the message names the cell, its values and the key."""

    def __init__(self, words: str, error: InputError | InputTypeError) -> None:
        ValueError.__init__(self, f"{words}: {error}")
        self.name = error.name


def _with(table: Any, path: tuple[Step, ...], value: object, name: str) -> Any:
    """Return a copy of a table of tables and lists with another value at a path."""
    if not path:
        return value
    step, rest = path[0], path[1:]
    if isinstance(step, int):
        if not isinstance(table, list) or step >= len(table):
            many = f"a list of {len(table)}" if isinstance(table, list) else "no list"
            raise InputError(name, many, f"a list with an entry [{step}] in the configuration")
        return [*table[:step], _with(table[step], rest, value, name), *table[step + 1 :]]
    if isinstance(table, list):
        raise InputError(name, f"a list before {step}", f"the number of an entry, as [0].{step}")
    inner = table if isinstance(table, dict) else {}
    return {**inner, step: _with(inner.get(step, {}), rest, value, name)}


@dataclass(frozen=True)
class Sweep:
    """A plan with its configuration, as text and as a table, which is checked when a cell is made of it."""

    asked: Asked
    text: str
    base: dict[str, Any]
    files: Files

    def __len__(self) -> int:
        return len(self.asked.cases) * math.prod(len(axis.values) for axis in self.asked.vary)

    @property
    def keys(self) -> list[str]:
        """The keys that vary, in their order."""
        cases = dict.fromkeys(word for case in self.asked.cases for word in case)
        return [*cases, *(axis.key for axis in self.asked.vary)]

    def varied(self, index: int) -> dict[str, object]:
        """Return the values of one cell by key."""
        found = {}
        for axis in reversed(self.asked.vary):
            index, place = divmod(index, len(axis.values))
            found[axis.key] = axis.values[place]
        return {**self.asked.cases[index], **dict(reversed(found.items()))}

    def words(self, index: int) -> str:
        """Return the number and the values of one cell in words."""
        values = ", ".join(f"{word} = {_shown(value)}" for word, value in self.varied(index).items())
        return f"cell {index} ({values})" if values else f"cell {index}"

    def problem(self, index: int) -> Problem:
        """Return the checked problem of one cell. Raises CellError."""
        try:
            table: Any = self.base
            for word, value in self.varied(index).items():
                table = _with(table, _path("vary", word), value, word)
            return resolve(read(Config, table, ""), self.files)
        except CodeRefused:  # it is not this cell's fault
            raise
        except (InputError, InputTypeError) as error:
            raise CellError(self.words(index), error) from None

    def dumps(self) -> str:
        """Return the plan as TOML, with ranges written out; its configuration is to be in `BASE` beside it."""
        lines = [f"config = {emit.value(BASE)}"]
        if self.asked.vary:
            lines += ["", "[vary]"]
            lines += [f"{emit.value(axis.key)} = {emit.value(axis.values)}" for axis in self.asked.vary]
        for case in self.asked.cases if self.asked.cases != ({},) else ():
            lines += ["", "[[cases]]", *(f"{emit.value(word)} = {emit.value(value)}" for word, value in case.items())]
        return "\n".join(lines) + "\n"


def asked(table: dict[str, Any]) -> Asked:
    """Return the checked content of a plan from its TOML table. Raises InputError naming the key at fault."""
    return read(Asked, table, "")


def beside(folder: Path, name: str) -> Path:
    """Return the path of the configuration of a plan in this folder. Raises InputError if it leaves the folder."""
    try:
        return Files(folder).locate("config", name)
    except InputError:
        need = f"the name of a configuration inside {folder.resolve()}, the folder of the plan"
        raise InputError("config", checks.show(name), need, _BESIDE) from None
