"""A sweep as a SLURM job array. The script is fixed text and numbers: no name of a file or a key reaches a shell."""

from __future__ import annotations

import math
import sys

from fastpde.config import memory_estimate
from fastpde.errors import InputError
from fastpde.run import directory, progress, walltime
from fastpde.run.sweep import Share
from fastpde.run.sweep_folder import Folder

SCRIPT, INTERPRETER = "sweep.sbatch", "interpreter"
TASKS = 1000  # a job array may have that many tasks nearly everywhere (MaxArraySize is 1001)
_LEAST_TIME = 60.0  # seconds; SLURM counts minutes
# Seconds between the signal and the end: at most a twelfth of the time, as SLURM sends it up to a minute earlier; and
# where the time is that of the cluster.
_SIGNAL, _PART, _UNKNOWN = 60, 12, 30

_TEXT = """\
#!/bin/bash
# Written by fastpde sweep --slurm. To be submitted from its own folder; options of sbatch may be added there:
#   sbatch {script}
#SBATCH --job-name=fastpde-sweep
#SBATCH --array=0-{last}
#SBATCH --ntasks=1
#SBATCH --cpus-per-task={cores}
#SBATCH --mem={memory}M
{time}#SBATCH --output=slurm-%A_%a.log
#SBATCH --open-mode=append
#SBATCH --requeue
#SBATCH --signal=B:USR1@{signal}
# `requeue` puts the task into the queue again when it stops before all of its cells are done.
python=$(<{interpreter})
exec "$python" -P -m fastpde requeue "$python" -P -m fastpde sweep . --task "$SLURM_ARRAY_TASK_ID" --tasks {tasks} \\
    --plan-digest {digest} --local {processes} --threads {threads} --quiet{walltime}{code}
"""


def write(folder: Folder, tasks: int | None, share: Share, seconds: float | None) -> list[str]:
    """Write the script of a job array of `tasks` tasks into the folder of a sweep; return the lines to print.

    Each task runs its part of the cells with the processes and threads of `share`, for `seconds` at most (None: the
    limit of the cluster). Raises OutputError; InputError for an interpreter or a time that no script can have.
    """
    if "\n" in sys.executable or not sys.executable:
        raise InputError("--slurm", f"the interpreter {sys.executable!a}", "one whose path is a line of text")
    if seconds is not None and seconds < _LEAST_TIME:
        raise InputError("--max-walltime", f"{seconds:g} s", "a minute or more: SLURM counts minutes")
    count = min(tasks or TASKS, math.ceil(len(folder.cells) / share.processes))
    needs = share.processes * int(folder.facts["memory"]) + memory_estimate.BASE  # of the process that gives the orders
    text = _TEXT.format(
        script=SCRIPT,
        last=count - 1,
        tasks=count,
        cores=share.processes * share.threads,
        memory=math.ceil(needs / memory_estimate.SHARE / 2**20),
        time="" if seconds is None else f"#SBATCH --time={int(seconds // 60)}\n",
        signal=_UNKNOWN if seconds is None else min(_SIGNAL, int(seconds // _PART)),
        walltime="" if seconds is None else f" --max-walltime {int(walltime.before_end(seconds // 60 * 60))}s",
        interpreter=INTERPRETER,
        digest=folder.digest,
        processes=share.processes,
        threads=share.threads,
        code=" --allow-code" if folder.sweep.files.code else "",
    )
    directory.replace("the interpreter's path", folder.path / INTERPRETER, sys.executable)
    directory.replace("the script", folder.path / SCRIPT, text)
    each = math.ceil(len(folder.cells) / count)
    cells = f"{progress.counted(len(folder.cells), 'cell')}, up to {each} in each of {progress.counted(count, 'task')}"
    return [f"{cells}; nothing was submitted. In the folder {folder.path}:", f"sbatch {SCRIPT}"]


def partition_of(folder: Folder, task: int, tasks: int, digest: str | None) -> range:
    """Return the cells of one task; neighbouring cells, which are alike, go to different tasks. Raises InputError."""
    if digest != folder.digest:
        need = "the plan that the script was written for"
        raise InputError("--plan-digest", "that of another plan", need, "Write and submit the script again.")
    if task >= tasks:
        raise InputError("--task", str(task), f"a number below {tasks}")
    return range(task, len(folder.cells), tasks)
