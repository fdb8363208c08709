"""The ledger: times of all cases in units that a machine brings along, one JSON line each, over commits and machines.

    python scripts/ledger.py record [--cases TEXT ...] [--ledger FILE]
    python scripts/ledger.py check [--ledger FILE]

`record` times the cases of the sources here, each beside a frozen kernel and a matrix product in the same windows, and
appends a line per case. `check` looks for steps in the history of each case, for every kind of processor by itself; two
sessions must agree before it raises an alarm (exit code 1), since one may have met a busy machine.
"""

from __future__ import annotations

import argparse
import itertools
import json
import math
import platform
import statistics
import subprocess
import sys
from collections import defaultdict
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from tqdm import tqdm

from .cases import BY_NAME, Case
from .gate import chosen
from .reference import GEMM_UNIT, KERNEL_UNIT
from .versions import TrackingError, Worker, checked_out

ROOT = Path(__file__).resolve().parents[2]
LEDGER = ROOT / "benchmarks" / "ledger.jsonl"
_WINDOWS = 7
_SECONDS = 0.4  # of each of the three in a window
_AGREEING = 2  # sessions at a new level before it is believed
_DEFAULT = 0.05  # threshold of a case that is no more
Line = dict[str, Any]


def session() -> Line:
    """Return what all lines of a session have in common: time, commit, processor and versions."""
    import llvmlite
    import numba
    import numpy as np

    from fastpde.run.machine import facts
    from fastpde.simd.vectors import BITS

    def git(*words: str) -> str:
        return subprocess.run(["git", *words], cwd=ROOT, capture_output=True, text=True).stdout.strip()

    changed = bool(git("status", "--porcelain", "--", "fastpde"))
    return {
        "time": datetime.now(UTC).isoformat(timespec="seconds"),
        "commit": git("rev-parse", "HEAD") + ("+" if changed else ""),
        "processor": f"{facts()['cpu']}, vectors of {BITS} bits",
        "versions": {
            "python": platform.python_version(),
            **{module.__name__: module.__version__ for module in (numba, llvmlite, np)},
        },
    }


def measured(worker: Worker, case: Case) -> Line:
    """Time a case and both units in windows; return the medians, and how far windows differ."""
    error = worker.error(case.name)
    rows = []
    for window in range(_WINDOWS):
        names = [case.name, KERNEL_UNIT, GEMM_UNIT]
        names = names[window % 3 :] + names[: window % 3]
        row = {name: statistics.median(worker.times(name, _SECONDS)) for name in names}
        rows.append((row[case.name], row[case.name] / row[KERNEL_UNIT], row[case.name] / row[GEMM_UNIT]))
    seconds, kernels, products = (statistics.median(column) for column in zip(*rows, strict=True))
    spread = statistics.stdev(math.log(row[1]) for row in rows)
    return {
        "case": case.name, "seconds": seconds, "in reference kernels": kernels, "in matrix products": products,
        "spread": spread, "error": error,
    }  # fmt: skip


def record(path: Path, cases: Sequence[Case], threads: int) -> None:
    """Append a line for each case."""
    common = {**session(), "threads": threads}
    with Worker(checked_out(str(ROOT), ROOT / ".regression"), threads) as worker, open(path, "a") as file:
        for case in tqdm(cases, unit=" cases", file=sys.stderr, dynamic_ncols=True):
            found = measured(worker, case)
            file.write(json.dumps({**common, **found}) + "\n")
            file.flush()
            tqdm.write(
                f"{case.name:<34} {found['in reference kernels']:8.3g} reference kernels, error {found['error']:.1e}"
            )


def read(path: Path) -> list[Line]:
    """Read the lines of a ledger. Raises TrackingError, naming the line, for what is none."""
    found = []
    for number, text in enumerate(path.read_text().splitlines() if path.is_file() else [], 1):
        try:
            line = json.loads(text)
            found.append(
                line | {name: line[name] for name in ("time", "commit", "processor", "case", "in reference kernels")}
            )
        except (ValueError, KeyError, TypeError) as error:
            raise TrackingError(f"{path}, line {number}: not a line of a ledger: {error!r}") from None
    return found


def alarms(lines: Iterable[Line]) -> list[str]:
    """Describe the steps after which a case is slower, for every kind of processor and number of threads.

    A step must be larger than the threshold of the case, at least two sessions must lie behind it, as asv's detector of
    steps divides the history, and the latest level must still be that much higher than the one before it.
    """
    from asv.step_detect import detect_steps

    series: dict[tuple[str, int, str], list[Line]] = defaultdict(list)
    for line in sorted(lines, key=lambda line: line["time"]):
        series[line["processor"], line.get("threads", 1), line["case"]].append(line)
    found = []
    for (processor, threads, case), some in series.items():
        limit = math.log1p(BY_NAME[case].threshold if case in BY_NAME else _DEFAULT)
        values = [math.log(line["in reference kernels"]) for line in some]
        steps = detect_steps([value - min(values) + 1.0 for value in values])
        for (_, _, before, *_), (at, _, level, *_) in itertools.pairwise(steps):
            last = steps[-1][2]
            if min(level, last) - before > limit and len(some) - at >= _AGREEING:
                told = f"{some[at]['commit'][:10]} of {some[at]['time'][:10]}"
                rise = math.expm1(last - before)
                found.append(f"{case}: {rise:+.0%} from {told} on ({processor}, threads: {threads})")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the command and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("what", choices=("record", "check"))
    parser.add_argument("--ledger", type=Path, default=LEDGER, help="the file (default: benchmarks/ledger.jsonl)")
    parser.add_argument(
        "--cases", nargs="*", default=[], metavar="TEXT", help="only cases with one of these in the name"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads (default 1)")
    given = parser.parse_args(arguments)
    try:
        if given.what == "record":
            record(given.ledger, chosen(given.cases), given.threads)
            return 0
        lines = read(given.ledger)
        found = alarms(lines)
    except (TrackingError, OSError) as error:
        sys.stderr.write(f"ledger: error: {error}\n")
        return 2
    sessions = len({line["time"] for line in lines})
    sys.stdout.writelines(
        f"{line}\n" for line in found or [f"no step upwards in {len(lines)} lines of {sessions} sessions"]
    )
    return int(bool(found))
