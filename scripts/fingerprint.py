"""Which machine code the kernels have: `python scripts/fingerprint.py check` and `record`, see --help."""

from __future__ import annotations

import sys
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `benchmarks` is no part of the installed package

from benchmarks.tracking.fingerprint import main

if __name__ == "__main__":
    sys.exit(main())
