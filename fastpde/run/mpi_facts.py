"""What MPI there is on this machine, and whether mpi4py uses the same one as mpiexec."""

from __future__ import annotations

import importlib.util
import shutil
import subprocess
import sys
from importlib import metadata
from pathlib import Path

# Words in the version of a library or of an mpiexec, by the name that MPI4PY_MPIABI has for the binary interface.
_WORDS = {
    "openmpi": ("open mpi", "open-mpi", "openrte", "prrte"),
    "mpich": ("mpich", "hydra", "intel(r) mpi", "mvapich"),
}
_NAMES = {"openmpi": "Open MPI", "mpich": "MPICH"}
_FILES = {"openmpi": "libmpi.so.40", "mpich": "libmpi.so.12"}
_PATIENCE = 10.0  # seconds for an mpiexec to say its version


def facts() -> dict[str, str]:
    """Return in words what MPI there is on this machine, and what to set where mpi4py and mpiexec do not fit."""
    if importlib.util.find_spec("mpi4py") is None:
        return {"mpi": "none: runs on ranks need mpi4py and an MPI (pip install mpi4py)"}
    found = {"mpi4py": metadata.version("mpi4py")}
    try:
        if "mpi4py" not in sys.modules:
            import mpi4py

            mpi4py.rc.initialize = False  # only asked for its name
        from mpi4py import MPI

        library = MPI.Get_library_version().split("\n")[0].strip("\0 ")
        size = MPI.COMM_WORLD.Get_size() if MPI.Is_initialized() else 1
    except (ImportError, RuntimeError, OSError) as error:
        remedy = "install the MPI that mpi4py was built for, or say where it is (MPI4PY_LIBMPI)"
        return found | {"mpi library": f"cannot be loaded ({error}): {remedy}"}
    beside = shutil.which("mpiexec", path=str(Path(sys.executable).parent))
    return found | {"mpi library": library} | _launchers(library, size, beside, shutil.which("mpiexec"))


def _launchers(library: str, size: int, beside: str | None, typed: str | None) -> dict[str, str]:
    """Return how to start ranks with a library, and whether the mpiexec that a shell finds is not of its kind.

    beside: the mpiexec beside the interpreter; typed: that of PATH.
    """
    kind, kinds = kind_of(library), {path: kind_of(_version(path)) for path in (beside, typed) if path}
    fitting = [path for path, found in kinds.items() if kind in (found, None) or found is None]
    command = (fitting or [*kinds, "mpiexec (not found: it comes with the MPI library)"])[0]
    start = f"{command} -n P {Path(sys.executable).name} -m mpi4py -m fastpde run ..."
    said = {"mpi ranks": f"{size} here; a run on P: {start}"}
    if typed is None or typed in fitting:
        return said
    other = kinds[typed]
    assert kind is not None and other is not None  # else it would be taken for fitting
    path = _library(typed, other) or f"the path of its {_FILES[other]}"
    remedy = (
        f"set MPI4PY_LIBMPI={path} (where the system finds that library by itself, MPI4PY_MPIABI={other} is enough)"
    )
    if fitting:
        remedy = f"use {fitting[0]}, or {remedy}"
    wrong = f"{typed} is that of {_NAMES[other]}, and mpi4py has loaded {_NAMES[kind]}: ranks would not start"
    return said | {"mpi mismatch": f"{wrong}. Remedy: {remedy}; an mpi4py built from source has to be built again"}


def _library(mpiexec: str, kind: str) -> str | None:
    """Return the path of the MPI library that was installed together with an mpiexec, None if it is not found."""
    roots = dict.fromkeys(path.parent.parent for path in (Path(mpiexec), Path(mpiexec).resolve()))
    places = (f"{folder}/{_FILES[kind]}" for folder in ("lib", "lib64", "lib/*"))
    found = (path for place in places for root in roots for path in sorted(root.glob(place)))
    return next(map(str, found), None)


def kind_of(version: str) -> str | None:
    """Return the binary interface of a library or an mpiexec from its version text, None if that says nothing."""
    found = [kind for kind, words in _WORDS.items() if any(word in version.lower() for word in words)]
    return found[0] if len(found) == 1 else None


def _version(path: str) -> str:
    command = [path, "--version"]
    try:
        done = subprocess.run(command, stdin=subprocess.DEVNULL, capture_output=True, text=True, timeout=_PATIENCE)
    except (OSError, ValueError, subprocess.TimeoutExpired):
        return ""
    return done.stdout + done.stderr
