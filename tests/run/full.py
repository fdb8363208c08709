"""Runs where files cannot grow as they should, in twenty sizes. A program: `disk` or `limit`, then a configuration.

disk: on a file system of its own, mounted at `disk`, that is too small for them, and then with room.
limit: files are limited from the third frame on; what is left is for other processes to go on with.
"""

from __future__ import annotations

import resource
import shutil
import subprocess
import sys
from pathlib import Path

from results import result

from fastpde import config
from fastpde.run import inspect, runner
from fastpde.run.frames import Frames

SIZES = (0, 1, 10, 100, 200, 400, 600, 800, 1000, 1200, *range(2000, 92_000, 9000))


def sized(folder: Path, kilobytes: int) -> None:
    subprocess.run(["mount", "-o", f"remount,size={kilobytes}k", str(folder)], check=True)


def disk(problem: config.Problem, folder: Path) -> None:
    """Fill the disk, look, make room, go on: to the bits of a run with room."""
    assert runner.run(problem, Path("whole"), quiet=True).code == 0
    want, codes = result(Path("whole")), []
    # The last one has room for what is there only while a file is replaced.
    least, most = 40, sum(file.stat().st_size for file in Path("whole").iterdir()) * 5 // 4096
    for k in range(20):
        sized(folder, least + k * (most - least) // 19)
        outcome = runner.run(problem, folder / "out", quiet=True)
        codes.append(outcome.code)
        assert outcome.code == 0 or "No space left" in outcome.message, outcome
        assert not list(folder.glob(".*")), list(folder.iterdir())
        if (folder / "out").exists():
            _, wrong = inspect.verify(folder / "out")
            assert wrong == [], (k, wrong)
        sized(folder, 100_000)
        assert runner.run(problem, folder / "out", quiet=True).code == 0
        assert result(folder / "out") == want
        shutil.rmtree(folder / "out")
    print(*codes)


def limit(problem: config.Problem) -> None:
    """Runs whose files may not grow, or not so far."""
    append, codes = Frames._add, []
    before = resource.getrlimit(resource.RLIMIT_FSIZE)
    for size in SIZES:

        def appended(self, t, *rest, size=size):
            if t > 0.09:
                resource.setrlimit(resource.RLIMIT_FSIZE, (size, before[1]))
            append(self, t, *rest)

        Frames._add = appended
        outcome = runner.run(problem, Path(f"out{size}"), quiet=True)
        resource.setrlimit(resource.RLIMIT_FSIZE, before)
        assert "File too large" in outcome.message, outcome
        codes.append(outcome.code)
    print(*codes)


if __name__ == "__main__":
    problem = config.load(Path(sys.argv[2]))
    limit(problem) if sys.argv[1] == "limit" else disk(problem, Path("disk"))
