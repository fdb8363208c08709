"""The compiler policy in one place: flags, and a disk cache that never serves code of sources that were edited.

Numba checks a cache entry against the file that defines the function only. Here the cache folder is named by a digest
of every source the kernels are made of (and of Numba, NumPy and the vector width), so any edit starts a new cache.
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
_SOURCES = ("_jit.py", "_library.py", "weights.py", "step_rules.py", "simd/*.py", "kernels/*.py")


def _source_digest() -> str:
    """Return the digest of all that compiled code depends on, except the CPU, which is in Numba's own key."""
    digest = hashlib.blake2b(digest_size=12)
    digest.update(f"{numba.__version__} {np.__version__} {BITS}".encode())
    for pattern in _SOURCES:
        for path in sorted(_PACKAGE.glob(pattern)):
            digest.update(path.name.encode() + b"\0" + path.read_bytes())
    return digest.hexdigest()


ABOUT = "about.txt"  # in a cache folder: what its code was compiled of

# Taken at import, with the sources that are being imported: a later edit must not give old code a new name.
_DIGEST = _source_digest()


@cache
def cache_folder() -> Path | None:
    """Return the private folder (mode 0700) of compiled code, or None, with a warning, where none can be written.

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
        if not (about := folder / ABOUT).exists():
            about.write_text(f"Kernels of {_PACKAGE}, Numba {numba.__version__}, NumPy {np.__version__}, {BITS} bits\n")
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
    """Raise OSError for a link, a folder of another user, or one that others may write to: its code would be run."""
    if os.name != "posix":
        return
    found = folder.lstat()
    if stat.S_ISLNK(found.st_mode) or found.st_uid != os.geteuid():
        raise PermissionError(f"{folder} is a link or belongs to another user")
    if found.st_mode & (stat.S_IWGRP | stat.S_IWOTH):
        raise PermissionError(f"others may write to {folder}: remove it")


def _attach_cache(dispatcher) -> None:
    """Give a dispatcher a disk cache in `cache_folder`, unless Numba lacks the private classes that this needs."""
    if cache_folder() is None:
        return
    try:
        from ._cache import PackageCache
    except (ImportError, AttributeError):
        return
    dispatcher._cache = PackageCache(dispatcher.py_func, str(cache_folder()), _DIGEST)


def _compiler(*, part: bool) -> dict[str, Any]:
    """Return the option of `numba.njit` that names a compiler of `_library`; none if Numba lacks what it rests on."""
    try:
        from ._library import KernelCompiler, PartCompiler
    except (ImportError, AttributeError):
        return {}
    return {"pipeline_class": PartCompiler if part else KernelCompiler}


def jit(function=None, *, inline: bool = False, borrowed: bool = False):
    """Compile a function by `numba.njit` with the options of every kernel: no GIL, no fast-math, a disk cache.

    Fast-math would break the manipulation of bits by which exp2 is computed.
    inline=True marks a helper that is copied into its callers.
    borrowed=True is for functions that only compiled code calls, and that allocate nothing: arrays are passed without
    the atomic counting of references that Numba wraps around every call and slice (a third of the time of a small
    system's step). They are compiled as parts of their callers only, see `_library`.
    """

    def wrap(f):
        if inline:
            return numba.njit(inline="always", error_model="numpy")(f)
        policy: dict[str, Any] = {"nogil": True, "error_model": "numpy"} | _compiler(part=borrowed)
        if borrowed:
            return numba.njit(**policy, _nrt=False)(f)
        # Nobody calls kernels from C: without an entry for that, a tenth less is compiled.
        dispatcher = numba.njit(**policy, no_cfunc_wrapper=True)(f)
        _attach_cache(dispatcher)
        return dispatcher

    return wrap if function is None else wrap(function)
