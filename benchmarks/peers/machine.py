"""What a table of times was measured on."""

from __future__ import annotations

import os
import platform
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from typing import Any

import llvmlite.binding as llvm

from .registry import EVERY
from .session import usable_threads

OURS = ("fastpde", "numba", "llvmlite", "numpy", "scipy")


def processor() -> str:
    """Return the name of the processor."""
    try:
        lines = Path("/proc/cpuinfo").read_text().splitlines()
    except OSError:
        lines = []
    names = [line.split(":", 1)[1].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


def versions() -> dict[str, str]:
    """Return the versions of fastpde, of what it needs, and of all peers that are installed, by distribution."""
    found = {}
    for name in dict.fromkeys((*OURS, *(name for peer in EVERY for name in peer.modules))):
        try:
            found[name] = version(name)
        except PackageNotFoundError:
            continue
    return found


def load() -> float:
    """Return how many threads wanted to run in the last minute, on average; 0 where that is not known."""
    return os.getloadavg()[0] if hasattr(os, "getloadavg") else 0.0


def warning(machine: dict[str, Any]) -> str:
    """Return what to say of a machine that is busy, or ""."""
    if machine["load"] <= 0.5 * machine["cores"]:
        return ""
    return (
        f"warning: other processes are at work here (load {machine['load']:.1f}). Times are then no measure: "
        "threads of OpenMP (PyTorch, KeOps, FINUFFT) that wait for each other lose most."
    )


def describe() -> dict[str, Any]:
    """Return name, processor and versions, as they are written beside results."""
    return {
        "processor": processor(),
        "kind": llvm.get_host_cpu_name(),
        "cores": usable_threads(),
        "load": load(),
        "avx512": bool(llvm.get_host_cpu_features().get("avx512f", False)),
        "system": f"{platform.system()} {platform.machine()}",
        "python": platform.python_version(),
        "versions": versions(),
    }


def sentence(machine: dict[str, Any]) -> str:
    """Return the machine and the versions in two lines."""
    vectors = "with AVX-512" if machine["avx512"] else "without AVX-512"
    libraries = ", ".join(f"{name} {number}" for name, number in machine["versions"].items())
    return (
        f"{machine['processor']} ({machine['kind']}), {machine['cores']} cores, {vectors}, {machine['system']}\n"
        f"Python {machine['python']}, {libraries}"
    )
