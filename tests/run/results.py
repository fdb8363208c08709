"""What a finished run has found, to the bit."""

from __future__ import annotations

import json
from pathlib import Path

import h5py

from fastpde.run import checkpoint
from fastpde.run.trajectory import read_trajectory

Bits = dict[str, object]


def result(out: Path) -> Bits:
    """All that a finished run of one system or of several has found."""
    status = json.loads((out / "status.json").read_text())
    assert status["state"] == "finished"
    last, wrong = checkpoint.newest(out)
    arrays = {name: array.tobytes() for name, array in last.arrays.items()}
    common = {"wrong": wrong, "table": (out / "observables.csv").read_bytes(), **arrays}
    return common | (_systems(out) if "systems_done" in status else _one(out) | {"state": last.facts["state"]})


def _one(out: Path) -> Bits:
    stored = read_trajectory(out / "trajectory.h5")
    return {"times": stored.time.tolist(), "x": stored.value.tobytes()}


def _systems(out: Path) -> Bits:
    with h5py.File(out / "ensemble.h5", "r") as file:
        names = [name for name in file if isinstance(file[name], h5py.Dataset) and name != "observable"]
        found = {name: file[name][:].tobytes() for name in names}
        found |= {name: times[:].tobytes() for name, times in file.get("event_time", {}).items()}
    return found | {"systems": (out / "systems.csv").read_bytes()}
