"""The figures on Gaussian data of Castin, Ablin, Carrillo and Peyre (2025), as published and corrected, side by side.

    python scripts/paper_figures.py [--coarse] [--only 1 3 ...] [--draws 100] [--out paper_figures]

Left, the authors' scheme: explicit Euler on covariances, projected to positive ones (paper_euler.py). Right, the same
laws with `fp.solve`: adaptive steps on a factor of the covariance. The caption says what changed. Matrices, starts and
step sizes are those of the authors' scripts (paper_experiments.py). `--coarse`: grids a third as fine.

Source: Theory 10, 11.
"""

from __future__ import annotations

import argparse
import multiprocessing
import sys
import time
from concurrent.futures import Future, ProcessPoolExecutor
from pathlib import Path
from typing import Any

import numpy as np
import paper_corrected as corrected
from paper_euler import LARGEST, Published, euler, published_ranks
from paper_experiments import DIMENSIONS, DRAWS, Case, Plane, Ranks, planes, ranks
from tqdm import tqdm

from fastpde.plot import canvas, covariances

Array = np.ndarray[Any, Any]
LEFT, RIGHT = "as published: Euler, projected", "corrected: adaptive, on a factor"
AT_MOST = 20  # blocks of draws, before the published scheme gives up finding runs that converge

CHANGED = {
    1: "Factor form keeps every covariance at full rank; published paths end where |S'| < 1e-5, these at t = 1e6.",
    2: "Published paths stop where |S'| < 1e-4, short of their limits; these reach t = 1000.",
    3: "Published Softmax and L2 pictures both show the L2 run; here each shows its own.",
    4: "Published runs end at tr S = 1000 (here 'grows'); corrected ones tell finite-time blow-up from growth, and end "
    "there or at t = {t_end:g}.",
    5: "Published runs that pass tr S = 1000 count as divergent (here 'grows'); corrected ones tell finite-time "
    "blow-up from rest; {large} laws come to rest at larger traces.",
}
HEADS_5 = (
    "The published run with 'two heads' has H = 1, that is Softmax; here H = 2, and the law shrinks slowly from every "
    "start: the largest trace at t = 1000 is {trace:.2g}, and shapes still change."
)
RANKS = (
    "Published: eigenvalues above 0.1, of the first {draws} draws whose Euler run converges ({redrawn}), without ranks "
    "above (d + 1) // 2. Corrected: every one of {draws} draws, and the rank from how the eigenvalues decay."
)


def published_plane(experiment: Plane, case: Case) -> Published:
    """Return the published run of a case."""
    return euler(case, experiment.starts, experiment.tol)


def published_histogram(experiment: Ranks, draws: int) -> tuple[Array, int]:
    """Return the ranks of the first `draws` draws that converge, without the large ones; and how many did not."""
    found: list[Array] = []
    stream, redrawn, count = experiment.starts(AT_MOST * draws), 0, 0
    for block in range(AT_MOST):
        run = euler(experiment.case, stream[block * draws : (block + 1) * draws], experiment.tol, frames=2)
        for cov, converged in zip(run.cov[-1], run.converged, strict=True):
            if count < draws:
                count, redrawn = count + int(converged), redrawn + int(not converged)
                found += [cov] * int(converged)
        if count == draws:
            break
    values = published_ranks(np.array(found))
    return values[values <= (experiment.d + 1) // 2], redrawn


def draw_plane(experiment: Plane, case: Case, run: Published, out: Path) -> Path:
    """Draw one picture of two cones or discs."""
    follow = corrected.paths if experiment.picture == "cone" else corrected.ends
    t_end = case.t_end or experiment.t_end
    right = follow(case.attention, experiment.starts, t_end)
    panels = {LEFT: (run.cov, run.outcome), RIGHT: right}
    text = HEADS_5 if experiment.number == 5 and case.published else CHANGED[experiment.number]
    traces, converges = np.trace(covariances.last(right[0]), axis1=1, axis2=2), np.array(right[1]) == "converges"
    text = text.format(large=np.sum(traces[converges] > LARGEST), trace=traces.max(), t_end=t_end)
    caption = f"Experiment {experiment.number}, {case.name}. {text}"
    path = out / f"{experiment.number}_{case.name.split()[0].lower()}.png"
    if experiment.picture == "cone":
        canvas.save(covariances.cones(panels, caption=caption), path)
    else:
        text = f"{caption} On the circle: rank one; centre: multiples of I."
        canvas.save(covariances.discs(panels, caption=text), path)
    return path


def draw_ranks(
    number: int, name: str, experiments: list[Ranks], found: list[tuple[Array, int]], draws: int, out: Path
) -> Path:
    """Draw one picture of two rows of histograms; for V = I the caption compares the limits with their closed form."""
    runs = [corrected.limits(experiment.case.attention, experiment.starts(draws)) for experiment in experiments]
    panels = {
        "as published": {e.d: values for e, (values, _) in zip(experiments, found, strict=True)},
        "corrected": {e.d: values for e, (values, _) in zip(experiments, runs, strict=True)},
    }
    text = RANKS.format(draws=draws, redrawn=" + ".join(str(r) for _, r in found) + " redrawn")
    if name == "V = I":
        errors = [
            corrected.distance(cov, corrected.closed_form(e.Q, e.starts(draws)))
            for e, (_, cov) in zip(experiments, runs, strict=True)
        ]
        text += f" Largest distance of a limit from its closed form: {max(errors):.0e} of its size."
    kind = experiments[0].case.name
    path = out / f"{number}_{'identity' if name == 'V = I' else 'random'}.png"
    caption = f"Experiment {number}, {kind}, K = -Q, {name}, d = {', '.join(map(str, DIMENSIONS))}. {text}"
    canvas.save(covariances.ranks(panels, {e.d: e.d - len(e.Q) for e in experiments}, caption=caption), path)
    return path


def work(pool: ProcessPoolExecutor, chosen: argparse.Namespace) -> list[tuple[Any, ...]]:
    """Return everything that is to be drawn: (function that draws, its arguments, published runs to come)."""
    jobs: list[tuple[Any, ...]] = []
    for number in sorted({6, 7} & set(chosen.only)):
        for name, experiments in ranks(number).items():
            found = [pool.submit(published_histogram, e, chosen.draws) for e in experiments]
            jobs.append((draw_ranks, (number, name, experiments), found))
    for experiment in planes(chosen.coarse):
        if experiment.number in chosen.only:
            runs = {}
            for case in experiment.cases:
                # Two published figures show another case's run: that is computed once.
                shown = next(c for c in experiment.cases if c.name == (case.published or case.name))
                if shown.name not in runs:
                    runs[shown.name] = pool.submit(published_plane, experiment, shown)
                jobs.append((draw_plane, (experiment, case), runs[shown.name]))
    # What draws while the pool still computes should not wait for the longest runs.
    return jobs[::-1]


def draw(job: tuple[Any, ...], chosen: argparse.Namespace) -> Path:
    """Wait for the published runs of a picture and draw it."""
    function, arguments, runs = job
    if isinstance(runs, Future):
        return function(*arguments, runs.result(), chosen.out)
    return function(*arguments, [run.result() for run in runs], chosen.draws, chosen.out)


def options(arguments: list[str] | None) -> argparse.Namespace:
    """Return the checked arguments."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    numbers = [1, 2, 3, 4, 5, 6, 7]
    parser.add_argument(
        "--only", type=int, nargs="+", choices=numbers, default=numbers, help="experiments (default all)"
    )
    parser.add_argument("--coarse", action="store_true", help="grids a third as fine")
    parser.add_argument("--draws", type=int, default=DRAWS, help=f"per histogram (default {DRAWS})")
    parser.add_argument("--out", type=Path, default=Path("paper_figures"), help="the folder to write to")
    parser.add_argument("--processes", type=int, default=2, help="that run the published scheme (default 2)")
    parser.add_argument("--quiet", action="store_true", help="no progress bar")
    read = parser.parse_args(arguments)
    for name in ("draws", "processes"):
        if getattr(read, name) < 1:
            parser.error(f"--{name}: got {getattr(read, name)}; need a whole number of at least 1")
    if not read.out.parent.is_dir():
        parser.error(f"--out: the folder {read.out.parent} does not exist")
    return read


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    chosen = options(arguments)
    chosen.out.mkdir(exist_ok=True)
    began = time.perf_counter()
    # Started afresh, not forked: Numba's threads do not survive a fork.
    context = multiprocessing.get_context("spawn")
    with ProcessPoolExecutor(chosen.processes, mp_context=context) as pool:
        jobs = work(pool, chosen)
        for job in tqdm(jobs, desc="pictures", unit=" pictures", file=sys.stderr, disable=chosen.quiet):
            path = draw(job, chosen)
            tqdm.write(f"{path}  ({time.perf_counter() - began:.0f} s)", file=sys.stdout)
    return 0


if __name__ == "__main__":
    sys.exit(main())
