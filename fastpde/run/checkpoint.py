"""Checkpoints: files of numbers and arrays that are whole or not there, in two generations. They know no physics.

    magic (16)   version, header's length (2 x uint32)   header (JSON, at most 1 MiB)   arrays   BLAKE2b digest (32)

Everything is little-endian, nothing is ever executed. The header holds `facts`, the number of the checkpoint and, for
every array, name, dtype and shape; a file has exactly the size that they add up to. Checkpoint k is written to a
temporary file, which replaces checkpoint.0 (k even) or checkpoint.1 (k odd) when it is on the disk.
"""

from __future__ import annotations

import errno
import hashlib
import json
import math
import os
import struct
from collections.abc import Callable
from contextlib import suppress
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any, BinaryIO

import numpy as np

from fastpde.errors import InputError
from fastpde.parallel.spread import PIECE, Cut, Spread
from fastpde.run.directory import CHECKPOINTS, writing

Array = np.ndarray[Any, Any]
NAMES = CHECKPOINTS
VERSION = 1
_MAGIC = b"fastpde state\r\n\x00"
_HEAD = struct.Struct("<16sII")
_DIGEST = 32
_LONGEST = 2**20  # bytes of a header
_DTYPES = ("<f8", "<f4", "<i8", "|b1")


class Damaged(Exception):
    """The error of a checkpoint that is not what was written; the text says why."""


@dataclass(frozen=True)
class Checkpoint:
    """Checkpoint `number` of a run; `facts` are data that JSON can hold."""

    number: int
    facts: dict[str, Any]
    arrays: dict[str, Any]  # arrays; on ranks, `Spread` to be written


Part = Callable[[str], Cut | None]  # which part of an array is wanted, by its name; None: all of it


def whole(_: str) -> Cut | None:
    """Return None, whatever the name: all of every array is wanted."""
    return None


def write(folder: Path, found: Checkpoint) -> None:
    """Write a checkpoint in the place of the one before the last. Raises OutputError, with both earlier ones whole."""
    target = folder / NAMES[found.number % 2]
    temporary = folder / f".{target.name}.{os.getpid()}.tmp"
    arrays = {name: _plain(array) for name, array in found.arrays.items()}
    described = [[name, array.dtype.str, list(array.shape)] for name, array in arrays.items()]
    header = {"number": found.number, "facts": found.facts, "arrays": described}
    text = json.dumps(header, allow_nan=False).encode()
    if len(text) > _LONGEST:
        raise ValueError(f"a header of {len(text)} bytes")
    with writing("the checkpoint", target):
        file = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_EXCL, 0o666)  # less the umask
        try:
            try:
                _fill(file, [_HEAD.pack(_MAGIC, VERSION, len(text)), text, *arrays.values()])
                os.fsync(file)
            finally:
                os.close(file)
            os.replace(temporary, target)
        except BaseException:
            with suppress(OSError):
                os.unlink(temporary)
            raise
        sync_folder(folder)


def _plain(array: Array | Spread) -> Array | Spread:
    """Return the array as a contiguous little-endian one; `Spread` are already so."""
    if isinstance(array, Spread):
        return array
    return np.ascontiguousarray(array).astype(array.dtype.newbyteorder("<"), copy=False)


def _fill(file: int, pieces: list[Any]) -> None:
    """Write the pieces, and then their digest, to the file."""
    digest = hashlib.blake2b(digest_size=_DIGEST)
    for piece in chain.from_iterable(piece.pieces() if isinstance(piece, Spread) else [piece] for piece in pieces):
        data = memoryview(_bytes(_plain(piece)) if isinstance(piece, np.ndarray) else piece)
        digest.update(data)
        _write(file, data)
    _write(file, memoryview(digest.digest()))


def _bytes(array: Any) -> Any:
    """Return the memory of a contiguous array as bytes."""
    return array.reshape(-1).view(np.uint8)


def _write(file: int, data: memoryview) -> None:
    while len(data):
        data = data[os.write(file, data) :]


def sync_folder(folder: Path) -> None:
    """Write the names in a folder to the disk, where its file system can."""
    place = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(place)
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ENOTSUP):
            raise
    finally:
        os.close(place)


def clean(folder: Path) -> None:
    """Remove the temporary files of writers that were killed; the caller holds the lock of the run."""
    for name in NAMES:
        for path in folder.glob(f".{name}.*.tmp"):
            with suppress(OSError):
                path.unlink()


def newest(folder: Path, part: Part = whole) -> tuple[Checkpoint | None, list[str]]:
    """Return the newest checkpoint that is whole, or None, and what is wrong with the others; `part`: see `read`.

    Raises InputError for a checkpoint in a later version of the format.
    """
    found, wrong = [], []
    for name in NAMES:
        try:
            found.append(read(folder / name, part))
        except FileNotFoundError:
            continue
        except (Damaged, OSError) as error:
            wrong.append(f"{name}: {error}")
    return max(found, key=lambda one: one.number, default=None), wrong


def read(path: Path, part: Part = whole, *, checked: bool = False) -> Checkpoint:
    """Read a checkpoint and check its digest. Raises Damaged, OSError; InputError for a later version of the format.

    part: returns, by the name of an array, the part of it that is kept.
    checked: another process has found the file whole, so the rest of the arrays is not read.
    """
    with path.open("rb") as file:
        size = os.fstat(file.fileno()).st_size
        digest = _Unasked() if checked else hashlib.blake2b(digest_size=_DIGEST)
        length = _begin(file, path, digest)
        header = _exactly(file, length, digest)
        try:
            number, facts, described = _understood(header)
        except (ValueError, KeyError, TypeError, RecursionError):
            raise Damaged("its header cannot be read") from None
        sizes = [np.dtype(dtype).itemsize * math.prod(shape) for _, dtype, shape in described]
        if size != _HEAD.size + length + sum(sizes) + _DIGEST:  # before anything of a declared size is made
            raise Damaged(f"it has {size} bytes, not those of its header")
        arrays = {}
        for name, dtype, shape in described:
            array = _array(file, np.dtype(dtype), shape, part(name), digest)
            arrays[name] = array.astype(array.dtype.newbyteorder("="), copy=False)
        if not isinstance(digest, _Unasked) and file.read() != digest.digest():
            raise Damaged("its digest is another")
    return Checkpoint(number, facts, arrays)


class _Unasked:
    """The null digest, for a file that is known to be whole."""

    def update(self, data: Any) -> None:
        """Do nothing."""


def _array(file: BinaryIO, dtype: Any, shape: tuple[int, ...], cut: Cut | None, digest: Any) -> Array:
    """Read the next array, or its part `cut`, and return it."""
    outer, length, width, rows = 1, 1, dtype.itemsize * math.prod(shape), slice(0, 1)
    kept = shape
    if cut is not None:
        if cut.axis >= len(shape) or cut.rows.stop > shape[cut.axis]:
            raise Damaged(f"an array has the shape {shape}")
        outer, length, rows = math.prod(shape[: cut.axis]), shape[cut.axis], cut.rows
        width = dtype.itemsize * math.prod(shape[cut.axis + 1 :])
        kept = (*shape[: cut.axis], rows.stop - rows.start, *shape[cut.axis + 1 :])
    try:
        array = np.empty(kept, dtype)
    except (ValueError, MemoryError):
        raise Damaged(f"an array has the shape {shape}") from None
    for piece in _bytes(array).reshape(outer, -1):
        _skip(file, rows.start * width, digest)
        _into(file, piece, digest)
        _skip(file, (length - rows.stop) * width, digest)
    return array


def _into(file: BinaryIO, piece: Any, digest: Any) -> None:
    data = memoryview(piece)
    if file.readinto(data) != len(data):  # type: ignore[attr-defined]
        raise Damaged("it is too short")
    digest.update(data)


def _skip(file: BinaryIO, count: int, digest: Any) -> None:
    """Skip `count` bytes of the file, but let the digest have them."""
    if isinstance(digest, _Unasked):
        file.seek(count, os.SEEK_CUR)
        return
    while count > 0:
        data = _exactly(file, min(count, PIECE), digest)
        count -= len(data)


def _begin(file: BinaryIO, path: Path, digest: Any) -> int:
    """Read the first bytes and return the length of the header. Raises Damaged, InputError for a later version."""
    magic, version, length = _HEAD.unpack(_exactly(file, _HEAD.size, digest))
    if magic != _MAGIC:
        raise Damaged("it does not begin as a checkpoint does")
    if version > VERSION:
        rest = file.read()
        digest.update(rest[:-_DIGEST])
        if rest[-_DIGEST:] == digest.digest():  # a damaged number is no later version
            came = f"{path} in version {version} of the format"
            raise InputError("--out", came, f"at most {VERSION}", "Take the newer fastpde.")
    if version != VERSION or length > _LONGEST:
        raise Damaged(f"its version is {version} and its header {length} bytes long")
    return int(length)


def _understood(header: bytes) -> tuple[int, dict[str, Any], list[tuple[str, str, tuple[int, ...]]]]:
    table = json.loads(header)
    described = []
    for name, dtype, shape in table["arrays"]:
        if dtype not in _DTYPES or any(type(length) is not int or length < 0 for length in shape):
            raise ValueError(name)
        described.append((str(name), dtype, tuple(shape)))
    if type(table["number"]) is not int or not isinstance(table["facts"], dict):
        raise ValueError("number")
    return table["number"], table["facts"], described


def _exactly(file: BinaryIO, count: int, digest: Any) -> bytes:
    data = file.read(count)
    if len(data) != count:
        raise Damaged("it is too short")
    digest.update(data)
    return data
