"""Shapes of every parameter, from the text and the headers of .npy files: misfits are found before data are read."""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np

from fastpde.config import checks
from fastpde.config.attention_keys import VariantKeys
from fastpde.config.matrices import Matrix, Scaled, Stored
from fastpde.config.schema import Config
from fastpde.errors import InputError
from fastpde.initial import open_array

Shape = tuple[int, int]


@dataclass(frozen=True)
class Files:
    """The only folder that a configuration may read from; `code` tells whether it may name code of the user's own."""

    folder: Path
    code: bool = False

    def locate(self, name: str, path: str) -> Path:
        """Return the file of a relative path, links followed; raises InputError if it leaves the folder."""
        need = f"a path relative to {self.folder} that stays inside it"
        if Path(path).is_absolute() or ".." in Path(path).parts:
            checks.refuse(name, path, need, "Name another folder with --data.")
        root = self.folder.resolve()
        try:
            found = (root / path).resolve()
        except (OSError, RuntimeError):  # a loop of links
            checks.refuse(name, path, need)
        if not found.is_relative_to(root):
            checks.refuse(name, f"{path}, a link to {found}", need, "Name another folder with --data.")
        return found

    def array(self, name: str, path: str) -> np.ndarray[Any, Any]:
        """Return the array of a .npy file, mapped and not read."""
        return open_array(self.locate(name, path), name)


@dataclass(frozen=True)
class HeadShape:
    """The shapes of one head: Q and K (k, d), V (dv, d), W (d, dv); `layers` is the number of layers, None without."""

    k: int
    dv: int
    layers: int | None


def each_head(config: Config) -> Iterator[tuple[str, VariantKeys, int]]:
    """Yield, for every head in turn, the key of its block, the block and its number in the block."""
    blocks = config.attention.heads
    for b, block in enumerate(blocks):
        name = f"attention.heads[{b}]" if config.attention.kind == "multihead" else "attention"
        for h in range(getattr(block, "count", 1)):
            yield name, block, h


def stored_slice(files: Files, name: str, matrix: Stored, head: int) -> np.ndarray[Any, Any]:
    """Return the matrix (a, b) or stack of layers (L, a, b) that a file reference means for one head, not yet read."""
    array = files.array(name, matrix.path)
    if array.ndim - len(matrix.index) != 2:
        rest = f"{len(matrix.index)} indices into shape {array.shape}"
        raise InputError(name, rest, "as many indices as leave a matrix", 'Write "file.npy[layer, head]".')
    place: list[int | slice] = []
    for axis, word in enumerate(matrix.index):
        number = head if word == "head" else word
        if number == "layer":
            place.append(slice(None))
            continue
        if not isinstance(number, int) or number >= array.shape[axis]:
            what = f'{word} = {number} in "{matrix.path}" of shape {array.shape}'
            raise InputError(name, what, f"an index below {array.shape[axis]} on axis {axis}")
        place.append(number)
    return array[tuple(place)]


class _Shapes:
    """The shapes of one head, each checked against the others."""

    def __init__(self, files: Files, name: str, block: VariantKeys, number: int) -> None:
        self.files, self.name, self.block, self.number = files, name, block, number
        self.layers: int | None = None

    def of(self, letter: str, matrix: Matrix, drawn: Shape, unit: int) -> Shape:
        """Return the shape of a parameter; `drawn` is the shape of "normal", `unit` the size of the identity."""
        name = f"{self.name}.{letter}"
        if matrix == "normal":
            return drawn
        if isinstance(matrix, tuple):
            return len(matrix), len(matrix[0])
        if not isinstance(matrix, Stored):
            return unit, unit
        if "head" in matrix.index and not hasattr(self.block, "count"):
            checks.refuse(name, matrix.toml(), 'no word "head" outside [[attention.heads]]')
        array = stored_slice(self.files, name, matrix, self.number)
        if matrix.layered:
            if self.layers not in (None, array.shape[0]):
                raise InputError(name, f"{array.shape[0]} layers", f"{self.layers} layers, as before it")
            self.layers = array.shape[0]
        return array.shape[-2], array.shape[-1]

    def need(self, letter: str, shape: Shape, rows: int | None, columns: int, why: str) -> None:
        """Raise InputError for a shape that is not (rows, columns); `why` is the reason."""
        if shape[1] != columns or shape[0] < 1 or (rows is not None and shape[0] != rows):
            wanted = f"shape ({'any' if rows is None else rows}, {columns}): {why}"
            raise InputError(f"{self.name}.{letter}", f"shape {shape}", wanted)


def head_shape(files: Files, head: tuple[str, VariantKeys, int], d: int) -> HeadShape:
    """Return the shape of one head of `each_head`, or raise InputError naming the parameter that does not fit."""
    name, block, number = head
    shapes = _Shapes(files, name, block, number)
    k = block.k or d
    q = shapes.of("Q", block.Q, (k, d), d)
    shapes.need("Q", q, block.k, d, f"tokens have d = {d} numbers" + (f", k = {block.k}" if block.k else ""))
    key = q if isinstance(block.K, Scaled) else shapes.of("K", block.K, (q[0], d), d)
    shapes.need("K", key, q[0], d, f"Q has {q[0]} rows and tokens have d = {d} numbers")
    dv = getattr(block, "dv", None)
    v = shapes.of("V", block.V, (dv or d, d), d)
    if hasattr(block, "count"):
        shapes.need("V", v, dv, d, f"tokens have d = {d} numbers" + (f", dv = {dv}" if dv else ""))
    else:
        shapes.need("V", v, d, d, "one head maps tokens to tokens")
    output = getattr(block, "W", None)
    w = (d, d) if output is None else shapes.of("W", output, (d, v[0]), d)
    if (w[0], w[1]) != (d, v[0]):
        why = f"tokens have d = {d} numbers and V has {v[0]} rows"
        raise InputError(f"{name}.W", f"shape {w}", f"shape ({d}, {v[0]}): {why}")
    return HeadShape(q[0], v[0], shapes.layers)
