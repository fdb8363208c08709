"""Build fastpde, install it into fresh environments and test it there: `python scripts/install_matrix.py`.

Each Python that is found (3.11 to 3.14, or those of --python) gets the wheel with the highest versions of what fastpde
needs. The oldest Python that it allows gets the lowest versions in pyproject.toml, too: newer Pythons have none of
these. The first Python gets the sdist as well. In each environment the command, a small run and the README's example
are tried, and a part of the tests, from a copy outside of the checkout. It needs `pip install build`. --report writes
a table. The exit code is 0 if all that could be tried have passed, 1 if one has not, 2 if there was nothing to try.

    python scripts/install_matrix.py [--python PATH ...] [--versions lowest highest] [--tests core | all | none]
"""

from __future__ import annotations

import argparse
import shutil
import sys
import tempfile
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import installing
from installing import ROOT, Failed

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LOWEST, HIGHEST = "lowest", "highest"
TOOLS = ["pytest", "pytest-xdist", "hypothesis"]
EXTRA = "data"
# What touches every library that fastpde needs, in about two minutes on two cores.
CORE = (
    "test_types.py",
    "attention/test_sinkhorn.py",
    "gaussian/test_closure.py",
    "laws/test_samples.py",
    "run/test_opened.py",
    "run/test_trajectory.py",
    "theory/test_clusters.py",
    "transport/test_bures.py",
    "transport/test_wasserstein.py",
)
SHOWN = ("numpy", "numba", "scipy", "h5py", "matplotlib", "pot")


@dataclass(frozen=True)
class Case:
    """One environment to try: an interpreter, which versions of other packages, and what is installed."""

    python: str
    release: str
    versions: str
    source: Path

    @property
    def kind(self) -> str:
        """What is installed: "wheel" or "sdist"."""
        return "wheel" if self.source.suffix == ".whl" else "sdist"

    def __str__(self) -> str:
        return f"Python {self.release}, {self.versions} versions, {self.kind}"


def found_pythons(asked: Sequence[str]) -> dict[str, str]:
    """Return the paths of interpreters by their release, "3.13": those asked for, or all of `PYTHONS` on the path."""
    found: dict[str, str] = {}
    for name in asked or [f"python{release}" for release in PYTHONS]:
        if (path := shutil.which(name)) is not None:
            code = "import sys; print('%d.%d' % sys.version_info[:2])"
            found.setdefault(installing.run([path, "-c", code], ROOT).strip(), path)
    return found


def cases(pythons: dict[str, str], versions: Sequence[str], wheel: Path, sdist: Path) -> list[Case]:
    """Return the environments to try, the lowest versions for the oldest Python that is allowed alone."""
    oldest = installing.project()["requires-python"].removeprefix(">=")
    found = [
        Case(path, release, which, wheel)
        for release, path in pythons.items()
        for which in versions
        if which != LOWEST or release == oldest
    ]
    return [*found, *(Case(path, release, HIGHEST, sdist) for release, path in [*pythons.items()][:1])]


def copied_tests(folder: Path, strict: bool) -> Path:
    """Copy the tests into a folder without the package, with their settings, and return the folder.

    strict: warnings of any kind are errors; else those of old packages about newer ones below them are not.
    """
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    warnings = "error\n" if strict else "error\n    ignore::DeprecationWarning\n"
    (folder / "pytest.ini").write_text(
        f"[pytest]\npythonpath = .\nmarkers = soak: long\naddopts = -q\nfilterwarnings =\n    {warnings}",
        encoding="utf-8",
    )
    return folder


def tried(case: Case, tests: str, folder: Path) -> str:
    """Install a case in a folder, try it, and return what was found in one line. Raises Failed."""
    inside = installing.environment(case.python, folder / "env")
    about = installing.project()
    least = [*about["dependencies"], *about["optional-dependencies"][EXTRA]]
    limits = installing.lowest(least) if case.versions == LOWEST else []
    installing.install(inside, [f"{case.source}[{EXTRA}]", *TOOLS], folder, limits)
    installing.try_installed(inside, folder)
    code = f"from importlib.metadata import version as v; print(', '.join(n + ' ' + v(n) for n in {SHOWN}))"
    packages = installing.run([inside, "-c", code], folder).strip()
    if tests == "none":
        return packages
    place = copied_tests(folder, case.versions == HIGHEST)
    what = [f"tests/{name}" for name in CORE] if tests == "core" else ["tests"]
    cache = {"FASTPDE_CACHE_DIR": str(folder / "cache")}
    said = installing.run([inside, "-m", "pytest", "-n", "auto", "--dist", "worksteal", *what], place, **cache)
    return f"{packages}; {said.strip().splitlines()[-1]}"


def main(arguments: Sequence[str] | None = None) -> int:
    """Try every case, print a line for each, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--python", nargs="+", default=[], metavar="PATH", help="interpreters; default: all found")
    parser.add_argument("--versions", nargs="+", choices=(LOWEST, HIGHEST), default=[LOWEST, HIGHEST])
    parser.add_argument("--tests", choices=("core", "all", "none"), default="core")
    parser.add_argument("--report", type=Path, metavar="FILE", help="a table of what was found, in Markdown")
    options = parser.parse_args(arguments)
    pythons = found_pythons(options.python)
    for release in sorted(set(PYTHONS) - set(pythons)):
        print(f"none    Python {release}: not found, not tried")
    if not pythons:
        return 2
    rows, bad = [], False
    with tempfile.TemporaryDirectory() as made:
        wheel, sdist = installing.build(Path(made))
        for i, case in enumerate(cases(pythons, options.versions, wheel, sdist)):
            folder, began = Path(made) / str(i), time.monotonic()
            folder.mkdir()
            try:
                word, text = "passed", tried(case, options.tests, folder)
            except Failed as error:
                word, text, bad = "FAILED", str(error), True
            print(f"{word}  {case} ({time.monotonic() - began:.0f} s): {text}", flush=True)
            rows.append(f"| {case.release} | {case.versions} | {case.kind} | {word} | {text.splitlines()[-1]} |")
            shutil.rmtree(folder)
    if options.report is not None:
        head = "| Python | versions | from | result | packages and tests |\n|---|---|---|---|---|\n"
        options.report.write_text(head + "\n".join(rows) + "\n", encoding="utf-8")
    return int(bad)


if __name__ == "__main__":
    sys.exit(main())
