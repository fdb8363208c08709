"""The values that matrices, and the positions of tokens, can have in a configuration: words, numbers, small objects.

"identity" is that of the token's dimension. "normal" has independent N(0, 1/columns) entries drawn from the seed of the
configuration, so that |M x| is about |x|.
"""

from __future__ import annotations

import re
from dataclasses import dataclass

from fastpde.config import checks
from fastpde.errors import closest

WORDS = ("layer", "head")  # axes of a stored array that are named instead of numbered
_STORED = re.compile(r"(?P<path>[^\[\]]+\.npy)(?:\[(?P<index>[^\[\]]*)\])?")
EXACT = 2**53  # larger whole numbers may be equal as floats
_NEED = '"identity", "normal", a list of rows or "file.npy[0, layer, head]"'


@dataclass(frozen=True)
class Scaled:
    """A multiple of another matrix: for K it is scale * Q of the same head, for V and W it is scale * identity."""

    scale: float

    def toml(self) -> object:
        """Return the value that a configuration has for it."""
        return {"scale": self.scale}


@dataclass(frozen=True)
class Stored:
    """A matrix of a .npy file; `index` has for each leading axis a number, or one of the words `layer` and `head`."""

    path: str
    index: tuple[int | str, ...] = ()

    def toml(self) -> object:
        """Return the value that a configuration has for it."""
        return f"{self.path}[{', '.join(map(str, self.index))}]" if self.index else self.path

    @property
    def layered(self) -> bool:
        """Whether the layers of the file become layers in time."""
        return "layer" in self.index


Rows = tuple[tuple[float, ...], ...]
Matrix = str | Rows | Scaled | Stored


def _stored(name: str, value: str) -> Stored:
    found = _STORED.fullmatch(value)
    if not found:
        checks.refuse(name, value, _NEED, closest(value, ("identity", "normal")))
    index: list[int | str] = []
    for item in (found["index"] or "").split(",") if found["index"] is not None else []:
        word = item.strip()
        if word in WORDS and word not in index:
            index.append(word)
        elif word.isascii() and word.isdigit() and len(word) <= 9:
            index.append(int(word))
        else:
            checks.refuse(name, value, "indices from 0 or the words layer and head, each word once")
    return Stored(checks.text(name, found["path"].strip()), tuple(index))


def matrix(*, scaled: str = "") -> checks.Check:
    """Return the check of a matrix; `scaled` names what { scale = c } is a multiple of, "" refuses that value."""

    def check(name: str, value: object) -> Matrix:
        if isinstance(value, str):
            return value if value in ("identity", "normal") else _stored(name, value)
        if isinstance(value, list):
            return checks.rows(name, value)
        if isinstance(value, dict) and scaled:
            for key in value:
                if key != "scale":
                    checks.refuse(f"{name}.{key}", value[key], f"the one key scale, a multiple of {scaled}")
            if value:
                return Scaled(checks.number()(f"{name}.scale", value["scale"]))
        need = _NEED + (f" or {{ scale = -1.0 }}, a multiple of {scaled}" if scaled else "")
        checks.refuse(name, value, need)

    return check


Positions = Stored | str | tuple[float, ...] | None  # a file, "uniform", numbers; None: the order of the tokens


def positions(name: str, value: object) -> Positions:
    """Check the positions of tokens: "order", for which None is returned, "uniform", a list of numbers, or a file."""
    if isinstance(value, list):
        for i, entry in enumerate(value):
            if isinstance(entry, int) and abs(entry) > EXACT:
                checks.refuse(f"{name}[{i}]", entry, "a number that a float holds: whole ones up to 2^53")
        return checks.vector(name, value)
    if value in ("order", "uniform"):
        return None if value == "order" else "uniform"
    if not isinstance(value, str) or not value.endswith((".npy", ".csv")):
        close = closest(value, ("order", "uniform")) if isinstance(value, str) else ""
        checks.refuse(name, value, '"order", "uniform", a list of numbers, or a file as "positions.npy"', close)
    return Stored(checks.text(name, value))


def scale(name: str, value: object) -> float | str:
    """Check a finite number, or the words "1/sqrt(k)" and "1/sqrt(d)" (k rows of Q, d columns), and return it."""
    if isinstance(value, str):
        return checks.choice("1/sqrt(k)", "1/sqrt(d)")(name, value)  # type: ignore[no-any-return]
    if isinstance(value, bool) or not isinstance(value, int | float):
        checks.refuse(name, value, 'a finite number, "1/sqrt(k)" or "1/sqrt(d)"')
    return checks.number()(name, value)  # type: ignore[no-any-return]
