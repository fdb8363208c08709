"""Build fastpde, install it into fresh environments and test it there: `python scripts/install_matrix.py`.

Each Python that is found (3.11 to 3.14, or those of --python) gets the wheel with the highest versions of what fastpde
needs, and with the lowest ones that pyproject.toml allows and this Python has wheels of. The first Python gets the
sdist as well. In each environment the command, a small run and the README's example are tried, and of the wheel a
part of the tests, from a copy outside of the checkout, or, with --tests all, the whole suite in the unpacked sdist:
it has tests of scripts and documentation. It needs `pip install build uv`. --report writes a dated table. The exit
code is 0 if all that could be tried have passed, 1 if one has not, 2 if there was nothing to try.

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
from datetime import date
from pathlib import Path

import installing
from installing import ROOT, Failed

PYTHONS = ("3.11", "3.12", "3.13", "3.14")
LOWEST, HIGHEST = "lowest", "highest"
TOOLS = ["pytest", "pytest-xdist", "hypothesis"]
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
    """Return the environments to try: every Python with every choice of versions, and the sdist with the first."""
    found = [Case(path, release, which, wheel) for release, path in pythons.items() for which in versions]
    return [*found, *(Case(path, release, HIGHEST, sdist) for release, path in [*pythons.items()][:1])]


def copied_tests(folder: Path) -> Path:
    """Copy the tests into a folder without the package, with their settings, and return the folder."""
    shutil.copytree(ROOT / "tests", folder / "tests", ignore=shutil.ignore_patterns("__pycache__"))
    (folder / "pytest.ini").write_text(
        "[pytest]\npythonpath = .\nmarkers = soak: long\naddopts = -q\nfilterwarnings = error\n", encoding="utf-8"
    )
    return folder


def tested(inside: Path, case: Case, tests: str, sdist: Path, folder: Path) -> str:
    """Run the tests in an environment and return the last line that they print. Raises Failed.

    Warnings are errors, but not those of old packages: of newer ones below them, or of a newer Python at their sources.
    """
    if tests == "all":
        shutil.unpack_archive(sdist, folder, filter="data")
        place, what = folder / sdist.name.removesuffix(".tar.gz"), ["tests"]
    else:
        place, what = copied_tests(folder), [f"tests/{name}" for name in CORE]
    if case.versions == LOWEST:
        what += ["-W", "ignore::DeprecationWarning", "-W", "ignore::SyntaxWarning"]
    command = [inside, "-m", "pytest", "-n", "auto", "--dist", "worksteal", *what]
    where = {"FASTPDE_CACHE_DIR": str(folder / "cache"), "PYTHONPATH": str(place)}  # for processes of tests
    return installing.run(command, place, 7200.0, **where)


def tried(case: Case, tests: str, sdist: Path, folder: Path) -> tuple[str, str]:
    """Install a case in a folder, try it, and return its packages and what its tests said. Raises Failed."""
    inside = installing.environment(case.python, folder / "env")
    extras, about = ("data", "test") if tests == "all" else ("data",), installing.project()
    needed = [*about["dependencies"], *(each for extra in extras for each in about["optional-dependencies"][extra])]
    installing.install(inside, [str(case.source), *needed], folder, case.versions == LOWEST)
    installing.install(inside, TOOLS, folder)
    installing.try_installed(inside, folder)
    code = (
        "import platform; from importlib.metadata import version as v; "
        f"print('Python ' + platform.python_version(), *(n + ' ' + v(n) for n in {SHOWN}), sep=', ')"
    )
    packages = installing.run([inside, "-c", code], folder).strip()
    if tests == "none" or case.kind == "sdist":
        return packages, "not run"
    return packages, tested(inside, case, tests, sdist, folder).strip().splitlines()[-1].strip("= ")


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
                word, (packages, said) = "passed", tried(case, options.tests, sdist, folder)
            except Failed as error:
                word, packages, said, bad = "FAILED", "", str(error), True
            print(f"{word}  {case} ({time.monotonic() - began:.0f} s): {packages}; {said}", flush=True)
            rows.append(f"| {case.release} | {case.versions} | {case.kind} | {packages} | {word}: {_last(said)} |")
            shutil.rmtree(folder)
    if options.report is not None:
        head = "| Python | versions | from | packages | tests |\n|---|---|---|---|---|\n"
        text = f"Tested on {date.today()} ({options.tests} tests):\n\n{head}" + "\n".join(rows)
        options.report.write_text(text + "\n", encoding="utf-8")
    return int(bad)


def _last(said: str) -> str:
    """Return the last line of what was said, without the time that it took."""
    return said.strip().splitlines()[-1].partition(" in ")[0]


if __name__ == "__main__":
    sys.exit(main())
