"""The kernels at the vector widths that this session does not use; wider ones than the processor's are made of two."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

from fastpde.simd.vectors import BITS

from ..problems import ROOT

# Direct sums, masked and weighted, of all laws in both precisions; maps and means; panels of grids and a sum on them;
# small systems in the compiled loop.
FILES = ["tests/sums/test_direct.py", "tests/sums/test_gridsum.py", "tests/test_ensemble.py"]
CHOSEN = "attend or no_values or project or centre or decades or test_gridsum or test_sizes"


# Each takes a minute: by default the next smaller width, the others with --soak.
SMALLER = max((bits for bits in (256, 128) if bits < BITS), default=256)
WIDTHS = [
    pytest.param(bits, marks=() if bits == SMALLER else pytest.mark.soak) for bits in (512, 256, 128) if bits != BITS
]


@pytest.mark.parametrize("bits", WIDTHS)
def test_kernels_at_other_widths(bits):
    """Those of their tests that compile the fewest kernels and reach all that is written in vectors."""
    command = [sys.executable, "-m", "pytest", "-n", "0", "-p", "no:cacheprovider", "-k", CHOSEN, *FILES]
    environment = {**os.environ, "FASTPDE_VECTOR_BITS": str(bits)}
    done = subprocess.run(command, cwd=ROOT, env=environment, capture_output=True, text=True, timeout=1800)
    assert done.returncode == 0 and " passed" in done.stdout, done.stdout + done.stderr
