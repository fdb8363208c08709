"""A model of the time on a cluster from rates that are measured here, checked on 1, 2 and 4 processes.

    python scripts/scaling_model.py [--out scaling] [--quick]

Measured are, for softmax attention in the plane (N(0, I), Q = K = V = I, tol 1e-8) on one core: the seconds per pair of
a direct sum, per token and per grid of a sum in O(n), and what a message costs between two processes; from the program:
how many collective calls a velocity makes and how many bytes it sends. One velocity on P processes is then expected to
take

    direct   pair n^2 / P + token_d n / P + calls (wait log2 P) + bytes_per_token n (1 - 1/P) / speed
    fast     token n / P + grid + calls (wait log2 P) + 2 (P - 1) wait + 2 grid_bytes (1 - 1/P) / speed

where `wait` and `speed` are the latency and the bandwidth of messages, and `grid` is the work that each process
repeats. The model is compared with runs of other sizes on 1, 2 and 4 processes here; if they are more than the cores,
they share these.

For a cluster (`CLUSTER`) a process is a node, and a node computes `efficiency` x cores times as fast as one core of
this machine. That, the network's figures, and a grid that does not grow with n are assumptions, none of them measured
here. OUT.png and OUT.csv are written: seconds of a velocity against cores, and the largest n of a run of 100 velocities
within an hour. Needs mpi4py and mpiexec (`pip install fastpde[mpi]`).
"""

from __future__ import annotations

import argparse
import csv
import json
import os
import shutil
import subprocess
import sys
import time
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np

import fastpde as fp
from fastpde import sums
from fastpde.plot import canvas

TOL = 1e-8
RUN = 100  # velocities of a run: 25 steps of rk4
HOUR = 3600.0
EXAMPLES = (1e6, 1e8, 1e10, 1e12)
FAST_BYTES, DIRECT_BYTES = 400, 250  # of memory per token of an rk4 run in the plane, and a direct one
SIZES = {"direct": (10_000, 20_000), "fast": (200_000, 2_000_000)}  # what the rates are fitted to
CHECKS = {"direct": (14_000, 40_000), "fast": (500_000, 4_000_000)}
REPEATS = 5
MESSAGES = (8, 2**23)  # bytes


@dataclass(frozen=True)
class Cluster:
    """A cluster of equal nodes: cores and bytes of memory of each, latency and bandwidth of messages (s, bytes/s)."""

    cores: int = 128
    memory: float = 256e9
    wait: float = 2e-6
    speed: float = 25e9
    efficiency: float = 0.8
    most_cores: int = 100_000


CLUSTER = Cluster()


@dataclass(frozen=True)
class Rates:
    """The measured rates in seconds and bytes; calls are collective ones per velocity."""

    pair: float
    direct_token: float
    token: float
    grid: float
    wait: float
    speed: float
    direct_calls: float
    direct_bytes: float  # per token
    fast_calls: float
    grid_bytes: float

    def seconds(self, kind: str, n: float, processes: float, machine: Rates | None = None, by: float = 1.0) -> float:
        """Return the predicted seconds of one velocity.

        `machine`: the rates whose messages are used instead. Each process computes `by` times as fast as a core here.
        """
        links = machine or self
        parts, stages = 1.0 - 1.0 / processes, np.log2(processes)
        if kind == "direct":
            work = (self.pair * n * n + self.direct_token * n) / processes
            return float(
                work / by + self.direct_calls * links.wait * stages + self.direct_bytes * n * parts / links.speed
            )
        work = self.token * n / processes + self.grid
        told = self.fast_calls * stages + 2.0 * (processes - 1.0)
        return float(work / by + told * links.wait + 2.0 * self.grid_bytes * parts / links.speed)


class Counting:
    """A communicator that counts collective calls."""

    _COLLECTIVE = ("Allgather", "Allgatherv", "Alltoallv", "Bcast", "Ibcast", "Allreduce", "Reduce", "Alltoall")

    def __init__(self, comm: Any) -> None:
        self._comm, self.calls = comm, 0

    def __getattr__(self, name: str) -> Any:
        self.calls += name in self._COLLECTIVE
        return getattr(self._comm, name)


def rank_job(jobs: list[tuple[str, int]]) -> None:
    """Run jobs on this process of `mpiexec`; process 0 prints the seconds of each job, and what messages cost."""
    from mpi4py import MPI

    sums.set_threads(1)
    comm = Counting(MPI.COMM_WORLD)
    first = MPI.COMM_WORLD.Get_rank() == 0
    attention, found = fp.Softmax(*[np.eye(2)] * 3), []
    for kind, n in jobs:
        backend = fp.Mpi(fp.Fast(TOL) if kind == "fast" else "direct", comm)
        rows = backend.rows(n)
        x = fp.Gaussian(0.0, np.eye(2)).sample(n, 1, rows=rows)
        attention.velocity(x, backend=backend)
        calls, sent, seconds = comm.calls, backend.stats()["bytes_sent"], []
        for _ in range(REPEATS):
            MPI.COMM_WORLD.Barrier()
            began = time.perf_counter()
            attention.velocity(x, backend=backend)
            seconds.append(MPI.COMM_WORLD.allreduce(time.perf_counter() - began, MPI.MAX))
        found.append({
            "kind": kind, "n": n, "seconds": float(np.median(seconds)),
            "calls": (comm.calls - calls) / REPEATS,
            "bytes": (backend.stats()["bytes_sent"] - sent) / REPEATS,
        })  # fmt: skip
    messages = [_message(MPI.COMM_WORLD, size) for size in MESSAGES] if MPI.COMM_WORLD.Get_size() > 1 else []
    if first:
        sys.stdout.write(json.dumps({"jobs": found, "messages": messages}) + "\n")


def _message(comm: Any, size: int) -> float:
    """Return the median seconds of a message from process 0 to 1, half of there and back."""
    buffer, rank, seconds = np.zeros(size, np.uint8), comm.Get_rank(), []
    for _ in range(50):
        comm.Barrier()
        began = time.perf_counter()
        if rank == 0:
            comm.Send(buffer, 1)
            comm.Recv(buffer, 1)
        elif rank == 1:
            comm.Recv(buffer, 0)
            comm.Send(buffer, 0)
        seconds.append((time.perf_counter() - began) / 2)
    return float(np.median(seconds))


def launched(processes: int, jobs: list[tuple[str, int]]) -> dict[str, Any]:
    """Return what `rank_job` finds on some processes of this machine."""
    launcher = shutil.which("mpiexec", path=os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]]))
    if launcher is None:
        raise SystemExit("mpiexec was not found: pip install fastpde[mpi]")
    command = [launcher, "-n", str(processes), sys.executable, "-m", "mpi4py", __file__, "--jobs", json.dumps(jobs)]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} ended with {done.returncode}:\n{done.stderr[-2000:]}")
    return dict(json.loads(done.stdout.splitlines()[-1]))


def measured(sizes: dict[str, tuple[int, int]]) -> Rates:
    """Measure the rates of this machine."""
    jobs = [(kind, n) for kind, several in sizes.items() for n in several]
    alone, two = launched(1, jobs)["jobs"], launched(2, jobs)
    seconds = {(job["kind"], job["n"]): job["seconds"] for job in alone}
    sent = {(job["kind"], job["n"]): job for job in two["jobs"]}
    small, large = sizes["direct"]
    # s = pair n^2 + token n through two points, and s = grid + token n.
    slope = (seconds["direct", large] / large - seconds["direct", small] / small) / (large - small)
    direct_token = max(seconds["direct", small] / small - slope * small, 0.0)
    few, many = sizes["fast"]
    token = (seconds["fast", many] - seconds["fast", few]) / (many - few)
    wait = two["messages"][0]
    direct, fast = sent["direct", large], sent["fast", many]
    return Rates(
        pair=slope,
        direct_token=direct_token,
        token=token,
        grid=max(seconds["fast", few] - token * few, 0.0),
        wait=wait,
        speed=MESSAGES[1] / max(two["messages"][1] - wait, 1e-9),
        direct_calls=direct["calls"],
        direct_bytes=2.0 * direct["bytes"] / large,  # each of two sends half
        fast_calls=fast["calls"],
        grid_bytes=fast["bytes"] / 1.5,  # each of two sends the grid, to be added up, and half of the sum
    )


def checked(rates: Rates, checks: dict[str, tuple[int, int]]) -> list[dict[str, Any]]:
    """Run other sizes on 1, 2, 4 processes; return the seconds that were expected and seen."""
    cores, rows = len(os.sched_getaffinity(0)), []
    jobs = [(kind, n) for kind, several in checks.items() for n in several]
    for processes in (1, 2, 4):
        for job in launched(processes, jobs)["jobs"]:
            want = rates.seconds(job["kind"], job["n"], processes, by=min(1.0, cores / processes))
            rows.append({"kind": job["kind"], "n": job["n"], "processes": processes, "expected": want,
                         "seen": job["seconds"], "ratio": job["seconds"] / want})  # fmt: skip
    return rows


def on_cluster(rates: Rates, kind: str, n: float, cores: float, cluster: Cluster = CLUSTER) -> float:
    """Return the predicted seconds of one velocity; inf where the nodes' memory is too small."""
    nodes = max(1.0, np.ceil(cores / cluster.cores))
    each = cores / nodes
    # Direct sums bring all sources together on every node: 4 numbers of 8 bytes each.
    need = FAST_BYTES * n / nodes if kind == "fast" else DIRECT_BYTES * n / nodes + 32 * n
    if need > 0.8 * cluster.memory:
        return float("inf")
    links = Rates(**{**asdict(rates), "wait": cluster.wait, "speed": cluster.speed})
    return rates.seconds(kind, n, nodes, links, 1.0 + cluster.efficiency * (each - 1.0))


def largest(rates: Rates, kind: str, cores: float, cluster: Cluster = CLUSTER) -> float:
    """Return the largest n whose run of 100 velocities takes an hour at most."""
    low, high = 1.0, 1e13
    while high / low > 1.001:
        middle = (low * high) ** 0.5
        low, high = (middle, high) if RUN * on_cluster(rates, kind, middle, cores, cluster) <= HOUR else (low, middle)
    return low


@canvas.in_style
def picture(rates: Rates, checks: list[dict[str, Any]], out: Path) -> None:
    """Draw seconds against cores, and the largest n per hour."""
    drawn = canvas.figure(canvas.WIDEST, 4.0)
    here, left, right = drawn.subplots(1, 3)
    for kind, colour in zip(("direct", "fast"), canvas.COLOURS, strict=False):
        rows = [row for row in checks if row["kind"] == kind]
        for row, marker in zip(rows, "os" * len(rows), strict=False):
            here.loglog(row["expected"], row["seen"], marker, color=colour, ms=4 + row["processes"], alpha=0.7)
        here.plot([], [], "o", color=colour, label=kind)
    ends = np.array([min(r["expected"] for r in checks) / 2, max(r["expected"] for r in checks) * 2])
    here.plot(ends, ends, color=canvas.FAINT, lw=1)
    here.set(xlabel="seconds expected", ylabel="seconds seen", title="on 1, 2, 4 processes here")
    cores = np.geomspace(1, CLUSTER.most_cores, 120)
    for n, colour in zip(EXAMPLES, canvas.COLOURS, strict=False):
        for kind, line in (("fast", "-"), ("direct", "--")):
            seconds = np.array([on_cluster(rates, kind, n, c) for c in cores])
            shown = np.where(np.isfinite(seconds) & (seconds < 1e5), seconds, np.nan)
            label = f"n = 1e{np.log10(n):.0f}" if kind == "fast" and np.isfinite(shown).any() else None
            left.loglog(cores, shown, line, color=colour, label=label)
    left.set(xlabel="cores", ylabel="seconds of a velocity", title="cluster: fast, direct dashed")
    for kind, colour in zip(("direct", "fast"), canvas.COLOURS, strict=False):
        right.loglog(cores, [largest(rates, kind, c) for c in cores], color=colour, label=kind)
    right.set(xlabel="cores", ylabel="n", title=f"largest n of {RUN} velocities in an hour")
    for axes in (here, left, right):
        axes.legend()
        canvas.tidy(axes)
    assumed = ", ".join(f"{name} {value:g}" for name, value in asdict(CLUSTER).items())
    text = f"Cluster, assumed: {assumed}; one process per node. Larger marks: more processes. Steps: nodes, and memory."
    missing = [f"{n:.0e}" for n in EXAMPLES if not np.isfinite(on_cluster(rates, "fast", n, CLUSTER.most_cores))]
    text += f" Not in the memory of that many cores: n = {', '.join(missing)}." if missing else ""
    canvas.caption(drawn, text)
    canvas.save(drawn, out.with_suffix(".png"))


def main() -> None:
    """Measure, check and extrapolate."""
    options = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    options.add_argument("--out", type=Path, default=Path("scaling"))
    options.add_argument("--quick", action="store_true", help="sizes a tenth as large, to see that it works")
    options.add_argument("--jobs", help=argparse.SUPPRESS)
    given = options.parse_args()
    if given.jobs is not None:
        rank_job([(kind, n) for kind, n in json.loads(given.jobs)])
        return
    part = 10 if given.quick else 1
    sizes, checks = ({k: (a // part, b // part) for k, (a, b) in each.items()} for each in (SIZES, CHECKS))
    rates = measured(sizes)
    for name, value in asdict(rates).items():
        print(f"{name:<14}{value:.3g}")
    rows = checked(rates, checks)
    print(f"\n{'kind':<8}{'n':>9}{'processes':>11}{'expected':>10}{'seen':>9}{'seen / expected':>17}")
    for row in rows:
        print(f"{row['kind']:<8}{row['n']:>9}{row['processes']:>11}{row['expected']:>10.3g}{row['seen']:>9.3g}"
              f"{row['ratio']:>17.2f}")  # fmt: skip
    print(f"\n{'cores':>8}{'direct':>12}{'fast':>12}   largest n of {RUN} velocities within an hour")
    with given.out.with_suffix(".csv").open("w", newline="") as stream:
        table = csv.writer(stream)
        table.writerow(["cores", "direct_n_per_hour", "fast_n_per_hour"])
        for cores in (1, 16, 128, 1024, 10_000, CLUSTER.most_cores):
            found = [largest(rates, kind, cores) for kind in ("direct", "fast")]
            table.writerow([cores, *(f"{n:.3g}" for n in found)])
            print(f"{cores:>8}{found[0]:>12.2g}{found[1]:>12.2g}")
    picture(rates, rows, given.out)
    print(f"\n{given.out.with_suffix('.png')}")


if __name__ == "__main__":
    main()
