"""A short run of the benchmarks, every concept once: `python scripts/short_benchmarks.py`, see --help.

The benchmarks run on the fastpde of this clone, once each, in this Python; nothing is built or kept. The exit code is
0 if all have run and no error is above the bound that its benchmark states, 1 if not, 2 if they could not be started.
Benchmarks that this machine cannot run, as those of MPI without it, are skipped and named.
"""

from __future__ import annotations

import argparse
import importlib
import itertools
import json
import math
import os
import re
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterator, Sequence
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
sys.path.insert(0, str(ROOT))  # `benchmarks` is no part of the installed package
PASSED, FAILED, UNUSABLE = range(3)

# Patterns of names of benchmarks with their parameters, as asv writes them: "fast.Fast.time_velocity('1e5x1')".
SHORT = (
    r"^velocity\.Velocity\.\w+\('\w+', '1024x2 float64'\)",
    r"^velocity\.Velocity\.\w+\('softmax', '4096x8 float32'\)",
    r"^velocity\.Sizes\.\w+\('8192x(2|64)', 'float64'\)",
    r"^velocity\.Summation\.\w+\('(masked|sigmoid)', '\w+'\)",
    r"^velocity\.Linear\.\w+\('1e6x2', 'float64'\)",
    r"^derivatives\.Derivative\.\w+\('\w+', 8\)",
    r"^fast\.Fast\.\w+\('1e5x[123]'\)",
    r"^stepping\.Step\.",
    r"^stepping\.Methods\.(time|track_error)\w*\('(rk4|tsit5)'\)",
    r"^stepping\.Places\.\w+\('sphere and noise'\)",
    r"^systems\.(Batch|Run)\.\w+\(2, 'float64'\)",
    r"^systems\.(Adaptive|InStep)\.(time|track_error)",
    r"^scalings\.Velocity\.\w+\('K = -Q', '1024x2'\)",
    r"^scalings\.Summation\.\w+\('fast'\)",
    r"^scalings\.HalfIterations\.\w+\('K = -Q', 3\.0\)",
    r"^gaussians\.Run\.\w+\('(Softmax|Sinkhorn)', 3\)",
    r"^euler_loop\.Limits\.track_speedup\(3\)",
    r"^running\.Checkpoints\.",
    r"^ranks\.Velocity\.track_(seconds|error)\('\w+', 2\)",
    r"^memory\.Peak\.(peakmem_work|track_error)\('(direct|fast|linear rk4)'\)",
    r"^starting\.(Import|FirstVelocity|FirstPicture\.track_(cold|error))",
)


def run(patterns: Sequence[str], results: Path) -> int:
    """Run the benchmarks that match and keep what they find in a folder; return asv's exit code."""
    settings = json.loads((ROOT / "benchmarks" / "asv.conf.json").read_text())
    places = {"repo": ROOT, "benchmark_dir": ROOT / "benchmarks", "env_dir": results / "env", "results_dir": results}
    file = results.with_suffix(".conf.json")
    branches = {"branches": ["HEAD"]}  # a clone may have no `main`
    file.write_text(json.dumps(settings | branches | {key: str(path) for key, path in places.items()}))
    asv = [sys.executable, "-m", "asv"]
    chosen = [word for pattern in patterns for word in ("--bench", pattern)]
    commit = subprocess.run(["git", "rev-parse", "HEAD"], cwd=ROOT, check=True, capture_output=True, text=True).stdout
    machine = ["--machine", "short", "--yes", "--config", str(file)]
    subprocess.run([*asv, "machine", *machine], cwd=ROOT, check=True, stdout=subprocess.DEVNULL)
    command = [
        *asv,
        "run",
        "--config",
        str(file),
        "--machine",
        "short",
        "--quick",
        "--show-stderr",
        "--durations",
        "20",
    ]
    place = ["--environment", f"existing:{sys.executable}", "--set-commit-hash", commit.strip()]
    # asv takes PYTHONPATH away: an installed fastpde might be another one than that of this clone.
    environment = {**os.environ, "ASV_PYTHONPATH": str(ROOT)}
    return subprocess.run([*command, *place, *chosen], cwd=ROOT, env=environment).returncode


def rows(results: Path, patterns: Sequence[str]) -> Iterator[tuple[str, tuple[Any, ...], float | None]]:
    """Yield the name, parameters and value of every benchmark that was to run; None: it failed, nan: skipped."""
    for file in results.glob("*/*-existing*.json"):
        found = json.loads(file.read_text())
        columns = found["result_columns"]
        for name, row in found["results"].items():
            values = dict(zip(columns, row, strict=False))
            combinations = list(itertools.product(*values["params"])) if values.get("params") else [()]
            counts = values["result"] if isinstance(values["result"], list) else [None] * len(combinations)
            for given, value in zip(combinations, counts, strict=True):
                if selected(name, given, patterns):
                    yield name, given, value


def selected(name: str, given: tuple[Any, ...], patterns: Sequence[str]) -> bool:
    """Return whether a benchmark with parameters, written as asv writes them, matches one of some patterns."""
    full = f"{name}({', '.join(map(str, given))})" if given else name
    return any(re.search(pattern, full) for pattern in patterns)


def bound(name: str, given: tuple[Any, ...]) -> float:
    """Return the bound that the benchmark of an error states; parameters are as asv writes them, `repr`."""
    module, cls, _ = name.split(".")
    benchmark = getattr(importlib.import_module(f"benchmarks.{module}"), cls)()
    values = [next(v for v in known if repr(v) == text) for known, text in zip(_params(benchmark), given, strict=True)]
    return float(benchmark.error_bound(*values))


def _params(benchmark: Any) -> Sequence[Sequence[Any]]:
    """Return the lists of values of the parameters of a benchmark's errors."""
    found = getattr(benchmark.track_error, "params", getattr(benchmark, "params", ()))
    return found if not found or isinstance(found[0], list | tuple) else (found,)


def judge(found: Sequence[tuple[str, tuple[Any, ...], float | None]]) -> tuple[list[str], list[str]]:
    """Return what is wrong, and what was skipped."""
    wrong, skipped = [], []
    for name, given, value in found:
        full = f"{name}({', '.join(given)})"
        if value is None:
            wrong.append(f"{full}: failed")
        elif math.isnan(value):
            skipped.append(full)
        elif name.endswith("track_error") and not value <= (most := bound(name, given)):
            wrong.append(f"{full}: error {value:.2g}, above its bound of {most:.2g}")
    return wrong, skipped


def main(arguments: Sequence[str] | None = None) -> int:
    """Run the benchmarks, check the errors, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--bench", nargs="*", metavar="PATTERN", help="other benchmarks: patterns as asv takes them")
    given = parser.parse_args(arguments)
    patterns, began = given.bench or SHORT, time.monotonic()
    with tempfile.TemporaryDirectory() as folder:
        results = Path(folder) / "results"
        try:
            code = run(patterns, results)
        except (OSError, subprocess.CalledProcessError) as error:
            sys.stderr.write(f"short_benchmarks: error: {error}; needed: git and asv, pip install -e '.[bench]'\n")
            return UNUSABLE
        found = list(rows(results, patterns))
    wrong, skipped = judge(found)
    lines = [*wrong, *(f"{name}: skipped" for name in skipped)]
    sys.stdout.writelines(f"{line}\n" for line in lines)
    errors, seconds = sum(name.endswith("track_error") for name, _, _ in found), time.monotonic() - began
    said = f"{len(found)} benchmarks, {errors} of them errors, in {seconds:.0f} s"
    sys.stdout.write(f"{said}: {len(wrong)} failures, {len(skipped)} skipped\n")
    if not found or code not in (0, 2):
        return UNUSABLE
    return FAILED if wrong or code else PASSED


if __name__ == "__main__":
    sys.exit(main())
