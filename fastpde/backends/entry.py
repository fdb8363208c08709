"""The guard of the kernels: it admits one Python thread at a time where Numba's threading layer needs that, and no
process that was forked after OpenMP had started its threads.
"""

from __future__ import annotations

import os
import threading
from collections.abc import Iterator
from contextlib import contextmanager
from importlib import import_module

import numba

from ..errors import InputError
from ..simd import pool

# Held by a thread in a kernel; a fork waits for it, so that the child finds it free.
LOCK = threading.RLock()
_forked = False


def _layer() -> str:
    """Return the name of the threading layer, "" before the first kernel has chosen it."""
    try:
        return str(numba.threading_layer())
    except ValueError:
        return ""


def _in_child() -> None:
    global _forked
    LOCK.release()
    _forked = _forked or (_layer() == "omp" and _is_gnu())


def _is_gnu() -> bool:
    """Return whether OpenMP is that of GNU, whose threads do not survive a fork.

    In a forked process Numba would end the process without a Python exception.
    """
    return str(import_module("numba.np.ufunc.omppool").openmp_vendor) == "GNU"


if hasattr(os, "register_at_fork"):
    os.register_at_fork(before=LOCK.acquire, after_in_parent=LOCK.release, after_in_child=_in_child)


@contextmanager
def entered() -> Iterator[None]:
    """Return a context in which kernels may be called. Raises InputError in a forked process that cannot call them."""
    if _forked:
        came, need = "a process that was forked after a sum", "one that was spawned, or forked before the first sum"
        remedy = 'As with multiprocessing.get_context("spawn").'
        raise InputError("backend", came, need, remedy)
    pool.start(numba.get_num_threads())
    if _layer() in ("omp", "tbb"):
        yield
        return
    with LOCK:  # the layer "workqueue" ends the process if two threads enter at once
        yield
