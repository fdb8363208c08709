"""Facts about this machine and these versions, for status.json and the doctor; nothing here imports a
compiled package.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

PACKAGES = ("numpy", "scipy", "numba", "h5py", "matplotlib")


def version() -> str:
    """Return the version of fastpde."""
    try:
        return metadata.version("fastpde")
    except metadata.PackageNotFoundError:  # run from a source tree
        import fastpde

        return str(getattr(fastpde, "__version__", "unknown"))


def versions() -> dict[str, str]:
    """Return the versions of fastpde, Python and the packages below it."""
    found = {"fastpde": version(), "python": platform.python_version()}
    for name in PACKAGES:
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            found[name] = "not installed"
    return found


def cores() -> int:
    """Return how many cores this process may use."""
    return len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count() or 1


def memory() -> int:
    """Return the bytes that this process may use: the machine's, or the limit of its control group or SLURM job."""
    found = [os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")]
    found += [limit for folder in _groups() for name in _LIMITS if (limit := _number(folder / name)) is not None]
    slurm = os.environ.get("SLURM_MEM_PER_NODE", "")  # MiB
    if slurm.isascii() and slurm.isdigit() and int(slurm) > 0:
        found.append(int(slurm) * 2**20)
    return min(found)


_LIMITS = ("memory.max", "memory.limit_in_bytes")


def _groups() -> list[Path]:
    """Return the folders of the control groups of this process, from its own up."""
    try:
        lines = Path("/proc/self/cgroup").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return []
    found = []
    for line in lines:
        _, controllers, name = line.split(":", 2)
        if controllers in ("", "memory"):
            root = Path("/sys/fs/cgroup") / controllers
            own = root / name.lstrip("/")
            found += [own, *(folder for folder in own.parents if folder.is_relative_to(root))]
    return found


def _number(path: Path) -> int | None:
    """Return the number that a file holds; None for "max", and if there is no such file."""
    try:
        return int(path.read_text(encoding="utf-8"))
    except (OSError, ValueError):
        return None


def cpu() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="utf-8", errors="replace").splitlines()
    except OSError:
        return platform.processor() or platform.machine()
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.machine()


def facts() -> dict[str, str | int]:
    """Return the machine's name, processor, cores and system."""
    return {"host": platform.node(), "cpu": cpu(), "cores": cores(), "system": platform.platform()}


def libraries() -> dict[str, str]:
    """Return the BLAS libraries in this process and how HDF5 will lock files."""
    found = {"hdf5 locking": os.environ.get("HDF5_USE_FILE_LOCKING", "off for runs, whatever the file system offers")}
    try:
        from threadpoolctl import threadpool_info
    except ImportError:
        found["blas"] = "unknown: threadpoolctl is not installed"
        return found
    import numpy  # noqa: F401  (loads its BLAS, so that it is seen)

    for i, library in enumerate(threadpool_info()):
        name = f"{library.get('internal_api', '?')} {library.get('version') or ''}".strip()
        found[f"{library.get('user_api', 'library')} {i}"] = f"{name}, {library.get('num_threads')} threads"
    return found
