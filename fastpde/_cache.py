"""Numba's disk cache in a folder of the package's own; by a digest at its end a damaged file is found and not run.

The base classes are private to Numba; where a version lacks them, `_jit` compiles without a cache.
"""

from __future__ import annotations

import contextlib
import hashlib
import io
import os
import warnings

from numba.core.caching import CompileResultCacheImpl, FunctionCache, IndexDataCacheFile, _CacheLocator

_SIZE = 32  # bytes of the digest


def _digest(data: bytes) -> bytes:
    return hashlib.blake2b(data, digest_size=_SIZE).digest()


_warned = False


def _warn(text: str) -> None:
    """Warn once in a process: what damages one entry of the cache damages hundreds."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(text, RuntimeWarning, stacklevel=2)


class _Files(IndexDataCacheFile):
    """The index and code files of a cache. A digest follows the pickled content, where Numba does not read it."""

    def _load_index(self):
        return super()._load_index() if self._sound(self._index_path) else {}

    def _load_data(self, name):
        if not self._sound(self._data_path(name)):
            raise OSError("damaged")  # as if the file were not there: it is compiled again
        return super()._load_data(name)

    def _sound(self, path: str) -> bool:
        """Return whether a file is as it was written, or does not exist; rename a damaged one to *.damaged."""
        try:
            with open(path, "rb") as file:
                data = file.read()
        except FileNotFoundError:
            return True  # the base class knows what to do
        except OSError:
            return False
        if _digest(data[:-_SIZE]) == data[-_SIZE:]:
            return True
        with contextlib.suppress(OSError):
            os.replace(path, f"{path}.damaged")
        _warn(f"{path} was damaged: it was set aside and is compiled again, as others may be")
        return False

    @contextlib.contextmanager
    def _open_for_write(self, filepath):
        memory = io.BytesIO()
        yield memory
        with super()._open_for_write(filepath) as file:
            file.write(memory.getvalue() + _digest(memory.getvalue()))


class PackageCache(FunctionCache):
    """The disk cache of one function, whose entries are valid for one digest of the package's sources."""

    def __init__(self, function, folder: str, digest: str) -> None:
        class Locator(_CacheLocator):
            def __init__(self, *_):
                pass

            def get_cache_path(self):
                return folder

            def get_source_stamp(self):
                return digest

            def get_disambiguator(self):
                return function.__module__

            @classmethod
            def from_function(cls, *_):
                return cls()

        self._impl_class = type("Impl", (CompileResultCacheImpl,), {"_locator_classes": [Locator]})
        super().__init__(function)
        self._cache_file = _Files(folder, self._impl.filename_base, digest)

    def save_overload(self, sig, data) -> None:
        """Save a compiled function; if the disk is full or gone, warn once and let the run go on without the entry."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn(f"compiled code could not be cached ({error}); it is compiled again in the next process")
