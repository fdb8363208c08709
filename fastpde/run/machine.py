"""Facts about this machine and the versions of packages, for status.json and the doctor. Only `libraries` imports a
compiled package.
"""

from __future__ import annotations

import os
import platform
from importlib import metadata
from pathlib import Path

from fastpde.run import resource_limits

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
    """Return the number of threads that this process may use."""
    return resource_limits.least(resource_limits.threads())[0]


def memory() -> int:
    """Return the number of bytes that this process may use."""
    return resource_limits.least(resource_limits.memory())[0]


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


def reasons() -> dict[str, str]:
    """Return the limits on threads and memory of runs in words, with their sources."""
    return {
        "threads of runs": resource_limits.said(resource_limits.threads()),
        "memory": resource_limits.said(resource_limits.memory(), lambda size: f"{size / 2**30:.3g} GiB"),
    }


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
