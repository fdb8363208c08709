"""The processes that a launcher (mpiexec, mpirun or srun) has started together, as the environment tells."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import NamedTuple

from fastpde.errors import InputError

_MPI = ("PMI", "OMPI_COMM_WORLD", "MV2_COMM_WORLD", "JSM_NAMESPACE")  # with _SIZE and _RANK; below: of this machine
_LOCAL = ("MPI_LOCALNRANKS", "MPI_LOCALRANKID")
# Of a step, set by srun alone. A batch script has SLURM_NTASKS and SLURM_PROCID, too, and is one process, as is each
# task of a job array. What launches ranks with MPI may itself be started by srun: then its own numbers count.
_STEP = ("SLURM_STEP_NUM_TASKS", "SLURM_PROCID")


class Launch(NamedTuple):
    """A launch of `size` processes, of which this is number `rank`."""

    size: int = 1
    rank: int = 0


def launch(environment: Mapping[str, str] | None = None) -> Launch:
    """Return the launch that the environment describes; one process if there is none."""
    environment = os.environ if environment is None else environment
    pairs = [(f"{name}_SIZE", f"{name}_RANK") for name in _MPI]
    found = [_pair(environment, *pair) for pair in (*pairs, _LOCAL)]
    known = [one for one in found if one is not None]
    return max(known) if known else _pair(environment, *_STEP) or Launch()


def _pair(environment: Mapping[str, str], size: str, rank: str) -> Launch | None:
    texts = [environment.get(name, "") for name in (size, rank)]
    numbers = [int(text) if text.isascii() and text.isdigit() and len(text) < 10 else None for text in texts]
    return None if not numbers[0] else Launch(numbers[0], numbers[1] or 0)


def refuse_copies(size: int) -> None:
    """Raise InputError if more processes were started together than know of each other by MPI: all would do the same.

    size: the number of processes that this one knows of, itself included.
    """
    started = launch().size
    if started <= max(1, size):
        return
    need = f"one process, or {started} that know of each other"
    remedy = (
        f"For ranks: mpiexec -n {started} python -m mpi4py -m fastpde run, with the mpiexec of mpi4py's MPI (fastpde "
        "doctor). For separate runs in one SLURM job: srun -n 1 for each."
    )
    raise InputError("mpiexec", f"{started} processes started together, {size} known to each", need, remedy)


def refuse_many(command: str, size: int) -> None:
    """Raise InputError if a command that is not for ranks was started as several processes."""
    count = max(size, launch().size)
    if count > 1:
        remedy = "Many runs at once: fastpde sweep, whose cells are local processes or a SLURM job array (--slurm)."
        raise InputError("mpiexec", f"{count} processes of fastpde {command}", "one: only run is for ranks", remedy)
