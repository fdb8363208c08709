"""Memory of sums: one array for each name, at the start of a cache line, zeros at first."""

from __future__ import annotations

import numpy as np

from fastpde.sums.workspace import Workspace


def test_memory_begins_with_zeros():
    """Small integers are denormal numbers when read as floats, which make kernels slow in lanes that nobody reads."""
    used = [np.full(5000, k + 1) for k in range(50)]
    del used  # where new memory is likely to lie
    workspace = Workspace()
    for k, dtype in enumerate((np.float64, np.float32, np.int64) * 10):
        found = workspace(f"name{k}", (50, 100), dtype)
        assert not found.any() and found.ctypes.data % 64 == 0 and found.dtype == dtype


def test_memory_is_kept_by_name_and_dtype():
    workspace = Workspace()
    first = workspace("a", (2, 3), np.float64)
    first[:] = 1.0
    assert (workspace("a", (6,), np.float64) == 1.0).all() and np.shares_memory(workspace("a", (5,), np.float64), first)
    for other in (
        workspace("b", (6,), np.float64),
        workspace("a", (6,), np.float32),
        workspace.part("a")("a", (6,), np.float64),
    ):
        assert not other.any() and not np.shares_memory(other, first)


def test_what_is_kept_is_made_again_for_another_key():
    workspace = Workspace()
    made = []

    def make(own):
        made.append(own("rows", (3,), np.float64))
        return made[-1]

    part = workspace.part("small")
    first = part.kept("scratch", (1, "a"), make)
    assert part.kept("scratch", (1, "a"), make) is first
    assert workspace.part("small").kept("scratch", (1, "a"), make) is first  # parts of one name are one
    assert len(made) == 1
    part.kept("scratch", (2, "a"), make)
    workspace.kept("scratch", (2, "a"), make)  # not that of the part
    assert len(made) == 3
