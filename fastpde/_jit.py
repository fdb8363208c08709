"""Compiler policy, in one place: flags, and a disk cache that never serves an edited weight.

Numba stamps a cache entry with the file that defines the function only. Here the folder of the cache carries a digest
of every source the kernels are made of (and of Numba, NumPy and the vector width), so any edit is a new cache.
"""

from __future__ import annotations

import hashlib
import os
import stat
import tempfile
import warnings
from functools import cache
from pathlib import Path
from typing import Any

import numba
import numpy as np
from numba.extending import intrinsic

from .simd.vectors import BITS

__all__ = ["cache_folder", "intrinsic", "jit"]

_PACKAGE = Path(__file__).parent
_SOURCES = ("_jit.py", "weights.py", "simd/*.py", "kernels/*.py")


def _source_digest() -> str:
    """Digest of what compiled code depends on beside the CPU, which Numba's own key holds."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{numba.__version__} {np.__version__} {BITS}".encode())
    for pattern in _SOURCES:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


# Taken at import, with the sources that are being imported: a later edit must not give old code a new name.
_DIGEST = _source_digest()


@cache
def cache_folder() -> Path | None:
    """The private folder (mode 0700) of compiled code, or None when none can be written.

    `FASTPDE_CACHE_DIR` names its parent; the default is the user's cache folder.
    """
    parent = os.environ.get("FASTPDE_CACHE_DIR")
    base: Path | str = parent or "the home folder"
    try:
        base = Path(parent) if parent else Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "fastpde"
        folder = base / _DIGEST
        folder.mkdir(mode=0o700, parents=True, exist_ok=True)
        _refuse_what_others_write(folder)
        folder.chmod(stat.S_IRWXU)
        with tempfile.TemporaryFile(dir=folder):
            pass
    except (OSError, RuntimeError) as error:
        warnings.warn(
            f"compiled kernels cannot be cached in {base} ({error}); they are compiled again in every process. "
            "Set FASTPDE_CACHE_DIR to a folder you can write.",
            RuntimeWarning,
            stacklevel=2,
        )
        return None
    return folder


def _refuse_what_others_write(folder: Path) -> None:
    """Raises OSError for a folder of another user, or one that others may write to: what is in it would be run."""
    if os.name != "posix":
        return
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is a link or belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others may write to {folder}: remove it")


def _attach_cache(dispatcher) -> None:
    """Gives a dispatcher a disk cache in `cache_folder`. Uses Numba's private classes: without them, no cache."""
    if cache_folder() is None:
        return
    try:
        from ._cache import PackageCache
    except (ImportError, AttributeError):
        return
    dispatcher._cache = PackageCache(dispatcher.py_func, str(cache_folder()), _DIGEST)


def jit(function=None, *, parallel: bool = False, inline: bool = False, borrowed: bool = False):
    """`numba.njit` as every kernel uses it: no GIL, no fast-math (the exp2 bit trick does not survive it), cached.

    inline=True marks a helper that is compiled into its callers only: a separate compilation would cost as much again.
    borrowed=True is for functions that allocate nothing: arrays are used as they come, without the atomic counting of
    references that Numba wraps around every call and slice (a third of the time of a small system's step).
    """

    def wrap(f):
        if inline:
            return numba.njit(inline="always", error_model="numpy")(f)
        counting = {"_nrt": False} if borrowed else {}
        # Nobody calls kernels from C: without an entry for that, a tenth less is compiled.
        policy: dict[str, Any] = {"nogil": True, "error_model": "numpy", "no_cfunc_wrapper": True}
        dispatcher = numba.njit(parallel=parallel, **policy, **counting)(f)
        _attach_cache(dispatcher)
        return dispatcher

    return wrap if function is None else wrap(function)
