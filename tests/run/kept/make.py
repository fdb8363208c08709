"""Make one directory of each kind with the version at hand: `python tests/run/kept/make.py FOLDER`.

Tests read and go on with the directories of earlier versions that are kept beside this file (v0: 29 November 2026).
They were made once, by the version that wrote this format, and are never made again: a change of format needs a new
folder beside them, not other contents.
"""

from __future__ import annotations

import os
import shutil
import signal
import sys
from pathlib import Path

from fastpde import cli, config
from fastpde.run import checkpoint, runner, sweep_folder, system_blocks
from fastpde.run.signals import Stopped, StopSignals

ONE = """
seed = 3
[tokens]
kind = "gaussian"
n = 12
d = 2
[attention]
kind = "softmax"
V = { scale = -1.0 }
[time]
t_end = 1.0
method = "rk4"
step = 0.05
[output]
every = 0.25
max_tokens = 8
energy = true
clusters = 0.3
"""
SINKHORN = ONE.replace('"softmax"', '"sinkhorn"\nK = { scale = -1.0 }\neps = 2.0\ntol = 1e-6').replace(
    'method = "rk4"\nstep = 0.05', 'method = "dopri5"\nrtol = 1e-5'
)
MANY = (
    ONE.replace("n = 12", "n = 8\nsystems = 5")
    .replace("clusters = 0.3\n", "")
    .replace('"rk4"\nstep = 0.05', '"dopri5"\n[events]\nsteady_state = 0.5')
)
PLAN = 'config = "one.toml"\n[vary]\nseed = [1, 2]\n'
STUDY = "variants = ['l2']\nsizes = [4, 8]\ndraws = 2\nclt_draws = 2\n"


class Cut:
    """Stands in for a signal at the check number `at`."""

    def __init__(self, at: int) -> None:
        self.count, self.at = 0, at

    def __enter__(self) -> None:
        self._plain, cut = StopSignals.check, self

        def check(signals: StopSignals) -> None:
            if not signals._held:
                cut.count += 1
                if cut.count == cut.at:
                    raise Stopped(signal.SIGTERM)

        StopSignals.check = check  # type: ignore[method-assign]

    def __exit__(self, *_: object) -> None:
        StopSignals.check = self._plain  # type: ignore[method-assign]


def _run(name: str, out: str, at: int = 0) -> None:
    with Cut(at):
        assert runner.run(config.load(Path(f"{name}.toml")), Path(out), quiet=True).code == (75 if at else 0)


def _in_the_middle(name: str, out: str) -> None:
    """Stop a run within a step, some stages of which are kept."""
    for at in range(40, 80):
        shutil.rmtree(out, ignore_errors=True)
        _run(name, out, at)
        last, _ = checkpoint.newest(Path(out))
        if last is not None and (last.facts["state"].get("summed") or "stages" in last.arrays):
            return
    raise AssertionError("no cut within a step")


def _between_blocks(name: str, out: str) -> None:
    """Stop an ensemble after two of its systems."""
    system_blocks._FIRST = 2
    for at in range(1, 100):
        shutil.rmtree(out, ignore_errors=True)
        _run(name, out, at)
        if Path(out).exists():
            return
    raise AssertionError("no cut between blocks")


def main(folder: Path) -> None:
    """Make the directories in a folder that is there, beside the files from which they are made."""
    os.chdir(folder)
    for name, text in {"one": ONE, "sinkhorn": SINKHORN, "many": MANY, "plan": PLAN, "mean-field": STUDY}.items():
        Path(f"{name}.toml").write_text(text)
    _run("one", "one.run")
    _in_the_middle("one", "one-stopped.run")
    _run("sinkhorn", "sinkhorn-stopped.run", 60)
    _run("many", "many.run")
    _between_blocks("many", "many-stopped.run")
    assert cli.main(["sweep", "plan.toml", "--local", "1", "--quiet"]) == 0
    shutil.copytree("plan.sweep", "plan-stopped.sweep")
    cells = sweep_folder.load(Path("plan-stopped.sweep"))
    shutil.rmtree(cells.cell(1))
    with Cut(60):
        assert runner.run(cells.problem(1, sweep_folder.Digests()), cells.cell(1), quiet=True).code == 75
    assert cli.main(["study", "mean-field", "mean-field.toml", "--quiet"]) == 0


if __name__ == "__main__":
    main(Path(sys.argv[1]))
