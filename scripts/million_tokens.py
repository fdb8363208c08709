"""A million tokens that cluster: softmax attention with K = Q = V = I in the plane, t from 0 to 3, to 1e-8.

Checked along the run: log E rises, as it must for V = Q^T K (Theory 7); a direct run of 20,000 of the tokens is the
same as one in O(n); and means and covariances of all tokens are those of the 20,000, within the spread over runs of
other 20,000. The law of infinitely many tokens blows up at t = 1/2 (S' = 2 S^2), where clusters begin to form
around the outermost tokens: from then on there is no limit, and the size of the cloud, its trace, grows with n.
Writes million_tokens.csv and million_tokens.png.

    python scripts/million_tokens.py [--n 1000000] [--subset 20000] [--samples 8] [--t-end 3] [--out .]
"""

from __future__ import annotations

import argparse
import csv
import itertools
import time
from pathlib import Path

import numpy as np
from tqdm import tqdm

import fastpde as fp
from fastpde.plot import canvas

FRAMES = 13


def follow(attention: fp.Attention, x0: np.ndarray, t: np.ndarray, backend: fp.Fast | fp.Direct, energies: bool):
    """Return mean (m, d), covariance (m, d, d) and log E (m,) at the times t, the last cloud, the solver's numbers."""
    rows = []

    def record(now: float, x: np.ndarray) -> None:
        log_energy = fp.interaction_energy(attention, x, log=True, backend=backend) if energies else np.nan
        rows.append((x.mean(axis=0), np.cov(x.T, bias=True), log_energy))

    x, stats, began = x0, {}, time.perf_counter()
    record(0.0, x)
    for start, end in tqdm(list(itertools.pairwise(t)), desc=f"{len(x0):,} tokens", unit="frame"):
        found = fp.solve(attention, x, (start, end), rtol=1e-5, backend=backend)
        if not found.success:
            raise SystemExit(found.message)
        x = found.x[-1]
        for key, value in found.stats.items():
            stats[key] = max(stats.get(key, 0.0), value) if "error" in key else stats.get(key, 0.0) + value
        record(end, x)
    stats["seconds"] = time.perf_counter() - began
    mean, cov, log_energy = (np.array(column) for column in zip(*rows, strict=True))
    return mean, cov, log_energy, x, stats


def spread(rows: np.ndarray, size: np.ndarray) -> np.ndarray:
    """Return the standard deviation over samples of vectors or matrices (samples, m, ...), relative to size (m,)."""
    variance = rows.reshape(*rows.shape[:2], -1).var(axis=0, ddof=1)
    return np.sqrt(variance.sum(axis=1)) / size


def main(arguments: list[str] | None = None) -> int:
    """Run both sizes, print whether they agree, and return the exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--subset", type=int, default=20_000)
    parser.add_argument("--samples", type=int, default=8)
    parser.add_argument("--t-end", type=float, default=3.0)
    parser.add_argument("--out", type=Path, default=Path())
    options = parser.parse_args(arguments)
    if options.n < (1 + options.samples) * options.subset:
        parser.error("--n must be at least (1 + samples) subset")
    options.out.mkdir(parents=True, exist_ok=True)
    attention = fp.Softmax(*[np.eye(2)] * 3)
    x0 = np.random.default_rng(0).standard_normal((options.n, 2))
    t = np.linspace(0.0, options.t_end, FRAMES)
    mean, cov, log_energy, last, stats = follow(attention, x0, t, fp.Fast(1e-8), True)
    few = x0[: options.subset]
    few_mean, few_cov, _, few_last, _ = follow(attention, few, t, fp.Direct(), False)
    *_, again, _ = follow(attention, few, t, fp.Fast(1e-8), False)
    same = np.abs(again - few_last).max() / np.abs(few_last).max()
    firsts = options.subset * np.arange(1, 1 + options.samples)
    others = [follow(attention, x0[k : k + options.subset], t, fp.Fast(1e-8), False) for k in firsts]
    size, norm = np.sqrt(np.trace(cov, axis1=1, axis2=2)), np.linalg.norm(cov, axis=(1, 2))
    off_mean = np.linalg.norm(mean - few_mean, axis=1) / size
    off_cov = np.linalg.norm(cov - few_cov, axis=(1, 2)) / norm
    of_mean, of_cov = (spread(np.array([other[k] for other in others]), unit) for k, unit in enumerate((size, norm)))
    with (options.out / "million_tokens.csv").open("w", newline="", encoding="utf-8") as stream:
        table = csv.writer(stream)
        names = ("mean_difference", "mean_sampling_error", "cov_difference", "cov_sampling_error")
        table.writerow(["t", "log_energy", "trace_cov", *names])
        table.writerows(zip(t, log_energy, size**2, off_mean, of_mean, off_cov, of_cov, strict=True))
    draw(options.out / "million_tokens.png", t, log_energy, off_cov, of_cov, last, few_last)
    rises = bool((np.diff(log_energy) > 0).all())
    print(f"{options.n} tokens, t = 0 .. {t[-1]:g}: {stats['seconds']:.0f} s")
    print("solver: " + ", ".join(f"{key} {value:.3g}" for key, value in stats.items()))
    print(f"log E rises at every frame: {rises} ({log_energy[0]:.6g} to {log_energy[-1]:.6g})")
    print(f"{options.subset} tokens, direct and in O(n): the last clouds differ by {same:.2g} of their size")
    print(f"against {options.subset} tokens, in sampling errors of so many, at the worst time:", end=" ")
    print(f"mean {(off_mean / of_mean).max():.2g}, covariance {(off_cov / of_cov).max():.2g}")
    return 0 if rises else 1


@canvas.in_style
def draw(path: Path, t, log_energy, off_cov, of_cov, last, few_last) -> None:
    """Draw the energy, the difference of covariances, and where both clouds ended."""
    drawn = canvas.figure(canvas.WIDEST, 3.6)
    energy, difference, cloud = drawn.subplots(1, 3)
    energy.plot(t, log_energy, "o-", markersize=4, color=canvas.COLOURS[0])
    energy.set(title="interaction energy", ylabel="log E")
    difference.plot(t, off_cov, "o-", markersize=4, color=canvas.COLOURS[1], label="all tokens - subset")
    difference.plot(t, of_cov, "--", color=canvas.FAINT, label="sampling error of the subset")
    difference.set(title="covariances", ylabel="relative difference")
    difference.set_ylim(bottom=0.0)
    difference.legend()
    for axes in (energy, difference):
        axes.set_xlabel("t")
        canvas.tidy(axes)
    shown = np.random.default_rng(1).choice(len(last), min(len(last), 20_000), replace=False)
    cloud.plot(
        *last[shown].T, ".", markersize=1.5, color=canvas.COLOURS[0], label=f"{len(last):,} tokens", rasterized=True
    )
    cloud.plot(
        *few_last.T, ".", markersize=1.5, color=canvas.COLOURS[1], label=f"{len(few_last):,} tokens", rasterized=True
    )
    cloud.set_aspect("equal", adjustable="datalim")
    cloud.set(title=f"tokens at t = {t[-1]:g}", xlabel="$x_1$", ylabel="$x_2$")
    cloud.legend(markerscale=6)
    canvas.tidy(cloud)
    canvas.save(drawn, path)


if __name__ == "__main__":
    raise SystemExit(main())
