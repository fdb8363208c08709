"""What `install_matrix.py` and `release.py` share: the built package, fresh environments, and what is run in them."""

from __future__ import annotations

import os
import re
import subprocess
import sys
import tomllib
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
_FOREIGN = ("PYTHONPATH", "PYTHONHOME", "VIRTUAL_ENV", "PIP_REQUIRE_VIRTUALENV")


class Failed(Exception):
    """A command that ended with an error; its text is the end of what the command has printed."""


def project(root: Path = ROOT) -> dict[str, Any]:
    """Return the table [project] of pyproject.toml."""
    return dict(tomllib.loads((root / "pyproject.toml").read_text(encoding="utf-8"))["project"])


def run(command: list[Any], folder: Path, seconds: float = 3600.0, **more: str) -> str:
    """Run a command in a folder, without what the environment of this Python adds, and return what it printed.

    Raises Failed with the last lines if it ends with an error or takes longer than `seconds`.
    """
    kept = {name: value for name, value in os.environ.items() if name not in _FOREIGN}
    try:
        done = subprocess.run(
            [str(word) for word in command], cwd=folder, env=kept | more, text=True, timeout=seconds,
            stdout=subprocess.PIPE, stderr=subprocess.STDOUT,
        )  # fmt: skip
    except subprocess.TimeoutExpired:
        raise Failed(f"took more than {seconds:g} s") from None
    except OSError as error:
        raise Failed(str(error)) from None
    if done.returncode:
        raise Failed("\n".join(done.stdout.strip().splitlines()[-25:]) or f"exit code {done.returncode}")
    return done.stdout


def build(folder: Path, root: Path = ROOT) -> tuple[Path, Path]:
    """Build the sdist, and from it the wheel, into a folder; return the paths of wheel and sdist. Raises Failed."""
    run([sys.executable, "-m", "build", "--outdir", folder, root], folder)
    (wheel,), (sdist,) = folder.glob("*.whl"), folder.glob("*.tar.gz")
    return wheel, sdist


def environment(python: str, folder: Path) -> Path:
    """Make a fresh environment of a Python in a folder and return its interpreter. Raises Failed."""
    run([python, "-m", "venv", "--clear", folder], folder.parent)
    inside = folder / ("Scripts" if os.name == "nt" else "bin") / "python"
    run([inside, "-m", "pip", "install", "--quiet", "--upgrade", "pip"], folder)
    return inside


def install(inside: Path, requirements: list[str], folder: Path, lowest: bool = False) -> None:
    """Install requirements, and check that all packages fit each other. Raises Failed.

    lowest: what is named has the lowest version that is allowed and that this Python has a wheel of; what only that
    needs has the highest.
    """
    install = [inside, "-m", "pip", "install", "--quiet"]
    if lowest:
        install = [sys.executable, "-m", "uv", "pip", "install", "--quiet", "--python", inside]
        install += ["--resolution", "lowest-direct", "--only-binary", ":all:"]
    run([*install, *requirements], folder)
    run([inside, "-m", "pip", "check"], folder)


def readme_example(root: Path = ROOT) -> str:
    """Return the first block of Python in the README. Raises ValueError if there is none."""
    text = (root / "README.md").read_text(encoding="utf-8")
    found = re.search(r"^```python\n(.*?)^```", text, re.DOTALL | re.MULTILINE)
    if found is None:
        raise ValueError("README.md has no block of Python")
    return found[1]


SMALL = """
[tokens]
kind = "gaussian"
n = 200
d = 2
[attention]
kind = "sinkhorn"
[time]
t_end = 0.2
[output]
every = 0.1
"""


def try_installed(inside: Path, folder: Path, root: Path = ROOT) -> str:
    """Try an environment outside of any checkout: the command, a small run and what reads it, the README's example.

    Returns what `fastpde --version` says. Raises Failed.
    """
    where = {"FASTPDE_CACHE_DIR": str(folder / "cache")}
    own = run([inside, "-c", "import fastpde; print(fastpde.__file__)"], folder, **where).strip()
    if root in Path(own).resolve().parents and "site-packages" not in own:
        raise Failed(f"{own} is that of the checkout, not the installed one")
    said = run([inside, "-m", "fastpde", "--version"], folder, **where).strip()
    (folder / "small.toml").write_text(SMALL, encoding="utf-8")
    for words in (
        "run small.toml --quiet",
        "verify small.run",
        "report small.run",
        "export small.run --to npz",
        "cite small.run",
    ):
        run([inside, "-m", "fastpde", *words.split()], folder, **where)
    example = folder / "example.py"
    example.write_text(readme_example(root), encoding="utf-8")
    run([inside, example], folder, **where)
    return said
