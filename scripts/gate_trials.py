"""Whether the gate can be trusted here: how often it reports a kernel that is slower, and one that is not.

    python scripts/gate_trials.py [--trials 20] [--slowdowns 0 0.05 0.1] [--case "direct softmax, d = 2"]

Each trial is the whole gate, base against base included, with two folders that hold the sources as they are, of which
one makes direct sums for a share of the targets twice. A trial takes half a minute to two minutes.
"""

from __future__ import annotations

import argparse
import contextlib
import io
import shutil
import sys
import tempfile
from collections import Counter
from pathlib import Path

sys.path.insert(0, str(Path(__file__).resolve().parents[1]))  # `benchmarks` is no part of the installed package

from benchmarks.tracking import gate
from benchmarks.tracking.versions import checked_out

ROOT = Path(__file__).resolve().parents[1]
# In sums/direct.py, at the end of `attend`, behind the loop over parts of the targets: the first of them once more.
_LOOP, _PLACE = "        for part in self._parts(pair, layout):", "\n    def attend_second("
_MORE = """        again = {share} * pair.targets.shape[1]
        part = slice(0, max(1, int(again)))
        targets = pair.targets[:, part]
        size, portion = attend.division(targets, pair.limits is not None, layout)
        attend.attend(
            weight, factor, layout, size, portion, packed, targets, limits[:, part], scratch,
            np.empty_like(out[:, part]), logs[:, :0],
        )
"""


def slowed(folder: Path, share: float) -> Path:
    """Copy the package into a folder, with direct sums that take so much longer; return it."""
    shutil.copytree(ROOT / "fastpde", folder / "fastpde", ignore=shutil.ignore_patterns("__pycache__"))
    if share:
        path = folder / "fastpde" / "sums" / "direct.py"
        text = path.read_text()
        before, place, behind = text.partition(_PLACE)
        if not (place and _LOOP in before.rpartition("    def attend(")[2]):
            raise SystemExit("gate_trials: sums/direct.py has changed: mend the place where it is made slower")
        path.write_text(before + _MORE.format(share=share) + place + behind)
    return folder


def main() -> None:
    """Print what the gate says in each trial, and how often."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--trials", type=int, default=20)
    parser.add_argument("--slowdowns", type=float, nargs="+", default=[0.0, 0.05, 0.1])
    parser.add_argument("--case", default="direct softmax, d = 2")
    given = parser.parse_args()
    cases = [case for case in gate.CASES if case.name == given.case]
    with tempfile.TemporaryDirectory() as work:
        folder = Path(work)
        base = checked_out(str(slowed(folder / "base", 0.0)), folder / "work")
        for slowdown in given.slowdowns:
            head = checked_out(str(slowed(folder / f"slower-{slowdown}", slowdown)), folder / "work")
            said: Counter[str] = Counter()
            for trial in range(given.trials):
                with contextlib.redirect_stderr(io.StringIO()), contextlib.redirect_stdout(io.StringIO()):
                    _, numbers = gate.judge(base, head, cases, 1, always=True)
                said[numbers["verdict"]] += 1
                kept = numbers.get("head against base", numbers["itself"])["estimates"][given.case]
                interval = f"[{kept['low']:+.1%}, {kept['high']:+.1%}], {kept['windows']} windows"
                print(f"{slowdown:.0%} slower, trial {trial + 1}: {numbers['verdict']}, {interval}", flush=True)
            print(f"{slowdown:.0%} slower: {dict(said)}", flush=True)


if __name__ == "__main__":
    main()
