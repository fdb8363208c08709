"""The page report.html about a run, a sweep or a study: its configuration, its results, and what theory says of them.

Everything on the page is from the directory: pictures are embedded, numbers are copied. No script, no network.
"""

from __future__ import annotations

from pathlib import Path
from typing import TextIO

from fastpde import studies
from fastpde.plot import canvas
from fastpde.report import pages, sweep_page
from fastpde.run import sweep_folder

NAME = "report.html"


def write(path: Path, code: bool = False, stream: TextIO | None = None) -> Path:
    """Write report.html into the directory of a run, a sweep or a study and return its path.

    Pictures that do not show all that is there are drawn again.
    code: an attention of the user's own may be read again, whose module is run.
    stream: where progress is shown while many cells of a sweep are read, and what is left out of the page of a run.
    Raises InputError for a directory of anything else, OSError.
    """
    if studies.is_study(path):
        page = pages.of_study(path)
    elif sweep_folder.is_sweep(path):
        page = sweep_page.page(path, stream)
    else:
        page = pages.of_run(path, code, stream)
    target = path / NAME
    canvas.write(target, lambda stream: stream.write(page.encode("utf-8")))
    return target
