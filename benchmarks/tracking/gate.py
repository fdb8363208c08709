"""The gate: whether a version is slower than another, decided on machines that change their speed all the time.

    python scripts/regression.py BASE HEAD [--cases TEXT ...] [--threads 1] [--always] [--out FILE]

BASE and HEAD are commits, or folders with sources. First the machine code of all kernels is compared: a case whose
kernels are the same needs no clock, and for a kernel that has changed its busiest loop is described before and after.
Then base is timed against base, which must not differ, then head against base, case by case: the two processes take
turns, in random order, within windows of a second, until the interval of the slowdown is narrower than the threshold
(2 % for kernels, 5 % for runs with Python in them), or 60 windows have passed.

Exit codes: 0, no case is slower; 1, some are; 2, the versions cannot be compared; 3, undecided, or the machine is too
restless: never taken for a pass.
"""

from __future__ import annotations

import argparse
import json
import math
import random
import statistics
import sys
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

from tqdm import tqdm

from . import assembly, kernel_code, pairs
from .cases import BY_NAME, CASES, KERNEL, Case
from .versions import TrackingError, Version, Worker, checked_out

WINDOW = 1.0  # seconds in which both versions are timed
_FRESH = 6  # windows after which the processes are started anew: where their memory lies can cost per cents
_WORSE = 10.0  # a result with so many times the error of before is not the same work
_PASS, _SLOWER, _UNUSABLE, _UNDECIDED = range(4)


@dataclass
class Comparison:
    """What was found of two versions: estimates and verdicts of cases, and errors of results (before, after)."""

    estimates: dict[str, pairs.Estimate] = field(default_factory=dict)
    errors: dict[str, tuple[float, float]] = field(default_factory=dict)
    verdicts: dict[str, str] = field(default_factory=dict)

    def lines(self) -> list[str]:
        """Return a table for people."""
        found = [f"{'case':<34} {'slowdown':>9} {'interval':>19} {'windows':>7}  {'error':>8}  verdict"]
        for name, one in self.estimates.items():
            interval = f"[{one.low:+.1%}, {one.high:+.1%}]"
            error = self.errors[name][1]
            row = f"{name:<34} {one.slowdown:>+9.1%} {interval:>19} {one.windows:>7}  {error:>8.1e}"
            found.append(f"{row}  {self.verdicts[name]}")
        return found


class Pair:
    """Two processes that take turns; they are started anew now and then, since a process has a speed of its own."""

    def __init__(self, versions: Sequence[Version], case: Case, threads: int) -> None:
        self._versions, self._case, self._threads = versions, case, threads
        self._order = random.Random(0)

    def compare(self, report: Callable[[], None]) -> tuple[pairs.Estimate, tuple[float, float]]:
        """Time both until enough is known; return the estimate, and the errors of both."""
        logs: list[float] = []
        threshold, errors = self._case.threshold, (math.nan, math.nan)
        while True:
            with Worker(self._versions[0], self._threads) as first, Worker(self._versions[1], self._threads) as second:
                workers = (first, second)
                errors = first.error(self._case.name), second.error(self._case.name)
                for _ in range(_FRESH):
                    logs.append(self._window(workers))
                    report()
                    if len(logs) >= pairs.LEAST:
                        found = pairs.estimate(logs, threshold)
                        if pairs.is_enough(found, threshold):
                            return found, errors

    def _window(self, workers: tuple[Worker, Worker]) -> float:
        """Return the logarithm of the ratio of the times of both within a window."""
        order, seconds = [0, 1], [0.0, 0.0]
        self._order.shuffle(order)
        for i in order:
            seconds[i] = statistics.median(workers[i].times(self._case.name, WINDOW / 2))
        return math.log(seconds[1] / seconds[0])


def compare(first: Version, second: Version, cases: Sequence[Case], threads: int, title: str) -> Comparison:
    """Time two versions on some cases, with a progress bar."""
    found = Comparison()
    with tqdm(total=len(cases) * pairs.LEAST, desc=title, unit=" windows", file=sys.stderr, dynamic_ncols=True) as bar:
        for i, case in enumerate(cases):

            def report(case: Case = case) -> None:
                bar.set_postfix_str(case.name, refresh=False)
                bar.update()

            found.estimates[case.name], found.errors[case.name] = Pair((first, second), case, threads).compare(report)
            bar.total = bar.n + (len(cases) - 1 - i) * pairs.LEAST  # cases take as many windows as they need
    found.verdicts = pairs.verdicts(found.estimates, {case.name: case.threshold for case in cases})
    return found


def changed_kernels(base: Version, head: Version, cases: Sequence[Case]) -> tuple[set[str], list[str]]:
    """Return the cases whose machine code differs, and what is to be said of it.

    Kernels of equal sources that are called with equal types are equal: they are not compiled.
    """
    names, touched, said = [case.name for case in cases], set(), []
    if base.sources() == head.sources():
        return touched, said
    if base.sources(*kernel_code.SOURCES) == head.sources(*kernel_code.SOURCES):
        before, after = base.kernels_of(names), head.kernels_of(names)
        touched = {name for name in names if before[name] != after[name]}
        for name in sorted(touched):
            gone, new = (
                sorted(set(a).difference(b)) for a, b in ((before[name], after[name]), (after[name], before[name]))
            )
            said += [f"{name}: calls no longer {key}" for key in gone] + [f"{name}: now calls {key}" for key in new]
        return touched, said
    for target in tqdm(kernel_code.possible(), desc="machine code", file=sys.stderr, dynamic_ncols=True):
        first, second = base.code(names, target), head.code(names, target)
        differing = {}
        for name in names:
            old, new = first["cases"][name], second["cases"][name]
            if old != new:
                touched.add(name)
                differing |= {key: None for key in {**old, **new} if old.get(key) != new.get(key)}
        for key in differing:
            said += _described(target, key, first["texts"].get(key), second["texts"].get(key))
    return touched, said


def _described(target: str, key: str, before: str | None, after: str | None) -> list[str]:
    """Describe the busiest loop of a kernel before and after."""
    head = f"{target}: {key.partition('(')[0]}"
    if before is None or after is None:
        return [f"{head}: {'new' if before is None else 'gone'}, {key}"]
    old, new = assembly.busiest_loop(before), assembly.busiest_loop(after)
    lost = assembly.changes(old, new)
    if called := assembly.calls(after) - assembly.calls(before):
        lost.append("new calls: " + ", ".join(f"{name} x {count}" for name, count in sorted(called.items())))
    return [f"{head}: {'; '.join(lost) or 'other code'}", f"    before: {old.words()}", f"    after:  {new.words()}"]


def judge(
    base: Version, head: Version, cases: Sequence[Case], threads: int, *, always: bool
) -> tuple[int, dict[str, Any]]:
    """Compare two versions as the gate does; print what is found, and return the exit code and all numbers."""
    numbers: dict[str, Any] = {"base": base.name, "head": head.name, "threads": threads}
    timed = list(cases)
    if not always:
        touched, said = changed_kernels(base, head, cases)
        same_sources = base.sources() == head.sources()
        timed = [case for case in cases if case.name in touched or not (case.kind == KERNEL or same_sources)]
        numbers["kernels"] = said
        _say([*said, *(f"{case.name}: same code, not timed" for case in cases if case not in timed)])
    if not timed:
        _say(["no slower: nothing that runs has changed"])
        return _PASS, numbers | {"verdict": pairs.SAME}
    itself = compare(base, base, timed, threads, "base against base")
    numbers["itself"] = asdict(itself)
    restless = [name for name, said in itself.verdicts.items() if said in (pairs.SLOWER, pairs.FASTER)]
    if restless:
        _say(["base against base:", *itself.lines(), f"undecided: base differs from itself in {', '.join(restless)}"])
        return _UNDECIDED, numbers | {"verdict": "restless"}
    found = compare(base, head, timed, threads, "head against base")
    numbers["head against base"] = asdict(found)
    worse = [name for name, (before, after) in found.errors.items() if not after <= _WORSE * max(before, 1e-15)]
    _say([*found.lines(), *(f"{name}: error {found.errors[name][0]:.1e} before" for name in worse)])
    said = set(found.verdicts.values())
    if pairs.SLOWER in said or worse:
        return _SLOWER, numbers | {"verdict": pairs.SLOWER}
    if pairs.UNDECIDED in said:
        return _UNDECIDED, numbers | {"verdict": pairs.UNDECIDED}
    return _PASS, numbers | {"verdict": pairs.SAME}


def _say(lines: Sequence[str]) -> None:
    sys.stdout.writelines(f"{line}\n" for line in lines)
    sys.stdout.flush()


def chosen(words: Sequence[str]) -> list[Case]:
    """Return the cases whose names contain one of some words, all without. Raises TrackingError if there are none."""
    found = [case for case in CASES if not words or any(word in case.name for word in words)]
    if not found:
        raise TrackingError(f"--cases {' '.join(words)}: none; there are: {'; '.join(BY_NAME)}")
    return found


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the gate and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("base", help="a commit, or a folder with sources")
    parser.add_argument("head", nargs="?", default=".", help="the same (default: the sources here)")
    parser.add_argument(
        "--cases", nargs="*", default=[], metavar="TEXT", help="only cases with one of these in the name"
    )
    parser.add_argument("--threads", type=int, default=1, help="threads of each process (default 1)")
    parser.add_argument("--always", action="store_true", help="time cases whose machine code is the same, too")
    parser.add_argument("--out", type=Path, help="write all numbers to this file (JSON)")
    parser.add_argument("--work", type=Path, default=Path(".regression"), help="worktrees and caches (.regression)")
    given = parser.parse_args(arguments)
    try:
        work = given.work.resolve()
        base, head = (checked_out(name, work) for name in (given.base, given.head))
        code, numbers = judge(base, head, chosen(given.cases), given.threads, always=given.always)
    except TrackingError as error:
        sys.stderr.write(f"regression: error: {error}\n")
        return _UNUSABLE
    if given.out:
        given.out.write_text(json.dumps(numbers, indent=1) + "\n")
    return code
