"""The fingerprint of compiled code: which kernels there are, and their machine code for three processors, on record.

    python scripts/fingerprint.py check
    python scripts/fingerprint.py record

`check` compares the sources with benchmarks/fingerprint.json. Where the sources of kernels are the same but for
comments, nothing is compiled. Otherwise their machine code is made for the three processors and compared: code that
differs is described, and the exit code is 1 until it is recorded. That is a reason to time it, by
scripts/regression.py. Another version of Numba makes other code of the same sources: then nothing can be said, and the
exit code is 0.
"""

from __future__ import annotations

import argparse
import json
import sys
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from . import assembly, kernel_code
from .cases import CASES
from .versions import TrackingError, Version, checked_out

ROOT = Path(__file__).resolve().parents[2]
RECORD = ROOT / "benchmarks" / "fingerprint.json"


def versions() -> dict[str, str]:
    """Return the versions of what makes machine code."""
    import llvmlite
    import numba

    return {"numba": numba.__version__, "llvmlite": llvmlite.__version__}


def of(version: Version) -> dict[str, Any]:
    """Return the fingerprint: versions, a digest of sources, and by target and kernel its digest and busiest loop."""
    names = [case.name for case in CASES]
    targets = {}
    for target in kernel_code.possible():
        code = version.code(names, target)
        digests = {key: digest for found in code["cases"].values() for key, digest in found.items()}
        texts = code["texts"]
        targets[target] = {key: [digests[key], assembly.busiest_loop(texts[key]).words()] for key in sorted(digests)}
    return {"versions": versions(), "sources": version.sources(*kernel_code.SOURCES), "targets": targets}


def differences(before: dict[str, Any], after: dict[str, Any]) -> list[str]:
    """Describe the kernels whose machine code differs between two fingerprints."""
    found = []
    for target in sorted(set(before["targets"]).intersection(after["targets"])):
        old, new = before["targets"][target], after["targets"][target]
        for key in sorted({**old, **new}):
            name = f"{target}: {key.partition('(')[0]}"
            if key not in old or key not in new:
                found.append(f"{name}: {'new' if key in new else 'gone'}")
            elif old[key][0] != new[key][0]:
                found += [f"{name}: other code", f"    before: {old[key][1]}", f"    after:  {new[key][1]}"]
    return found


def check(record: Path, version: Version) -> int:
    """Compare a version with the record; print what is found and return the exit code."""
    try:
        before = json.loads(record.read_text())
    except (OSError, ValueError) as error:
        raise TrackingError(f"{record}: {error}; scripts/fingerprint.py record makes it") from None
    if before["sources"] == version.sources(*kernel_code.SOURCES):
        print("fingerprint: the sources of all kernels are as recorded")
        return 0
    if before["versions"] != versions():
        print(f"fingerprint: the sources of kernels have changed; recorded with {before['versions']}, not comparable")
        return 0
    found = differences(before, of(version))
    if not found:
        print("fingerprint: the sources of kernels have changed, their machine code has not")
        return 0
    sys.stdout.writelines(f"{line}\n" for line in found)
    print("fingerprint: machine code has changed: time it (scripts/regression.py), then scripts/fingerprint.py record")
    return 1


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("check", "record"))
    parser.add_argument("--file", type=Path, default=RECORD, help="the record (default: benchmarks/fingerprint.json)")
    given = parser.parse_args(arguments)
    try:
        version = checked_out(str(ROOT), ROOT / ".regression")
        if given.what == "check":
            return check(given.file, version)
        given.file.write_text(json.dumps(of(version), indent=1) + "\n")
    except TrackingError as error:
        sys.stderr.write(f"fingerprint: error: {error}\n")
        return 2
    return 0
