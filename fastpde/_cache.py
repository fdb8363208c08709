"""Numba's disk cache in a folder of ours, with a digest at the end of every file, so that damage is seen, not run.

The classes this builds on are private to Numba; `_jit` does without a cache where they are gone.
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
    """One warning in a process: what harms one entry harms hundreds."""
    global _warned
    if not _warned:
        _warned = True
        warnings.warn(text, RuntimeWarning, stacklevel=2)


class _Files(IndexDataCacheFile):
    """Index and code files. What follows the pickled content of a file does not disturb its readers."""

    def _load_index(self):
        return super()._load_index() if self._sound(self._index_path) else {}

    def _load_data(self, name):
        if not self._sound(self._data_path(name)):
            raise OSError("damaged")  # as if the file were not there: it is compiled again
        return super()._load_data(name)

    def _sound(self, path: str) -> bool:
        """Whether a file is as it was written; one that is not is set aside."""
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
    """The cache of one function: entries are valid for one digest of the package's sources."""

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
        """A full or vanished disk costs the entry, not the run."""
        try:
            super().save_overload(sig, data)
        except OSError as error:
            _warn(f"compiled code could not be cached ({error}); it is compiled again in the next process")
