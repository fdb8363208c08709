"""Check everything that has to be right before a version goes out: `python scripts/release.py`. Uploads nothing.

It needs `pip install build twine`. Each check prints a line; the exit code is 0 if all have passed, else 1. What was
built stays in the folder --out. At the end it says what is left to do by hand.

    python scripts/release.py [--out dist] [--version 0.2.0]
"""

from __future__ import annotations

import argparse
import ast
import datetime
import re
import sys
import tarfile
import tempfile
import zipfile
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from pathlib import Path

import installing
from installing import ROOT, Failed

BY_HAND = (
    "who has made it and where it is stand in CITATION.cff, pyproject.toml (authors, urls), docs/paper/paper.md (with "
    "affiliations), docs/conf.py, fastpde/references.bib, LICENSE and recipe.yaml (homepage): only its owners know",
    "CI has passed on this commit, and `python scripts/install_matrix.py` on every Python that there is",
    "the pictures and pages of the documentation were looked at",
    "git tag -s v{version} && git push --tags",
    "twine upload {folder}/fastpde-{version}*",
    "the recipes in scripts/recipes have the digest of the uploaded sdist, where they take it from there",
    "a new section '## NEXT (unreleased)' in CHANGELOG.md",
)
IN_WHEEL = ("fastpde/py.typed", "fastpde/references.bib", "fastpde/report/templates/")
IN_SDIST = (
    "LICENSE",
    "README.md",
    "pyproject.toml",
    "fastpde/py.typed",
    "fastpde/references.bib",
    "tests/conftest.py",
    "CITATION.cff",
    "CHANGELOG.md",
)
NOT_IN_WHEEL = ("tests/", "benchmarks/", "scripts/", "docs/")


@dataclass(frozen=True)
class Release:
    """A version that is to go out: its checkout, and the folder of what is built."""

    root: Path
    folder: Path
    asked: str | None = None

    @property
    def version(self) -> str:
        """The version in pyproject.toml."""
        return str(installing.project(self.root)["version"])


def versions(release: Release) -> str:
    """Compare the version in all places where it is written. Raises Failed."""
    found = {"pyproject.toml": release.version, "fastpde/__init__.py": _in_package(release.root)}
    written = {"CITATION.cff": r"^version: (\S+)$", "scripts/recipes/recipe.yaml": r'^  version: "(.+)"$'}
    for name, pattern in written.items():
        said = re.search(pattern, (release.root / name).read_text(encoding="utf-8"), re.MULTILINE)
        found[name] = said[1] if said else "none"
    if release.asked is not None:
        found["--version"] = release.asked
    if len(set(found.values())) > 1:
        raise Failed(", ".join(f"{name} has {version}" for name, version in found.items()))
    if not re.fullmatch(r"\d+\.\d+\.\d+((a|b|rc)\d+)?", release.version):
        raise Failed(f"{release.version} is not MAJOR.MINOR.PATCH, with a1, b1 or rc1 behind it or not")
    return release.version


def _in_package(root: Path) -> str:
    tree = ast.parse((root / "fastpde" / "__init__.py").read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "__version__":
            return str(ast.literal_eval(node.value))
    return "none"


def changelog(release: Release) -> str:
    """Look whether CHANGELOG.md begins with this version, a date of today or before, and entries. Raises Failed."""
    text = (release.root / "CHANGELOG.md").read_text(encoding="utf-8")
    sections = re.findall(r"^## (\S+) \(([^)\n]+)\)\n(.*?)(?=^## |\Z)", text, re.DOTALL | re.MULTILINE)
    if not sections or sections[0][0] != release.version:
        raise Failed(f"the first section is not '## {release.version} (DATE)'")
    _, date, entries = sections[0]
    try:
        day = datetime.date.fromisoformat(date)
    except ValueError:
        raise Failed(f"the section of {release.version} is dated '{date}': a date as 2026-01-31 is needed") from None
    if day > datetime.date.today():
        raise Failed(f"{day} is not yet")
    if not re.search(r"^- ", entries, re.MULTILINE):
        raise Failed(f"the section of {release.version} has no entries")
    return f"{len(re.findall('^- ', entries, re.MULTILINE))} entries of {day}"


def clean(release: Release) -> str:
    """Look whether git knows everything that is there, and the version has no tag yet. Raises Failed."""
    changed = installing.run(["git", "status", "--porcelain"], release.root).splitlines()
    if changed:
        raise Failed(f"{len(changed)} files are changed or new: {', '.join(line[3:] for line in changed[:5])}")
    if installing.run(["git", "tag", "--list", f"v{release.version}"], release.root).strip():
        raise Failed(f"there is a tag v{release.version} already")
    return installing.run(["git", "rev-parse", "--short", "HEAD"], release.root).strip()


def built(release: Release) -> str:
    """Build wheel and sdist, and look what is in them. Raises Failed."""
    release.folder.mkdir(parents=True, exist_ok=True)
    if kept := [path.name for path in release.folder.iterdir()]:
        raise Failed(f"{release.folder} has {', '.join(sorted(kept)[:3])} in it: an empty folder is needed")
    wheel, sdist = installing.build(release.folder, release.root)
    with zipfile.ZipFile(wheel) as packed:
        inside = packed.namelist()
    with tarfile.open(sdist) as packed_source:
        source = [name.partition("/")[2] for name in packed_source.getnames()]
    missing = [name for name in IN_WHEEL if not any(own.startswith(name) for own in inside)]
    missing += [f"{name} (sdist)" for name in IN_SDIST if name not in source]
    needless = [own for own in inside if own.startswith(NOT_IN_WHEEL)]
    if missing or needless:
        raise Failed(f"missing: {', '.join(missing) or 'nothing'}; needless: {', '.join(needless[:5]) or 'nothing'}")
    return f"{wheel.name}, {wheel.stat().st_size / 1e3:.0f} kB; {sdist.name}, {sdist.stat().st_size / 1e3:.0f} kB"


def described(release: Release) -> str:
    """Let twine look at the metadata and the description. Raises Failed."""
    packages = sorted(release.folder.glob("fastpde-*"))
    if not packages:
        raise Failed("nothing is built")
    installing.run([sys.executable, "-m", "twine", "check", "--strict", *packages], release.folder)
    return "as a package index shows it"


def installed(release: Release) -> str:
    """Install the wheel into a fresh environment, and run the command and the README's example. Raises Failed."""
    wheels = [*release.folder.glob("*.whl")]
    if not wheels:
        raise Failed("no wheel is built")
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        inside = installing.environment(sys.executable, folder / "env")
        installing.install(inside, [str(wheels[0].resolve())], folder)
        return installing.try_installed(inside, folder, release.root)


CHECKS: tuple[tuple[str, Callable[[Release], str]], ...] = (
    ("one version everywhere", versions),
    ("changelog", changelog),
    ("clean tree", clean),
    ("wheel and sdist", built),
    ("description", described),
    ("fresh environment", installed),
)


def main(arguments: Sequence[str] | None = None) -> int:
    """Make every check, print a line for each and what is left to do by hand, and return the exit code."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=ROOT / "dist", help="an empty folder; default: dist")
    parser.add_argument("--version", help="the version that is meant")
    options = parser.parse_args(arguments)
    release, bad = Release(ROOT, options.out.resolve(), options.version), 0
    for name, check in CHECKS:
        try:
            print(f"[x] {name}: {check(release)}", flush=True)
        except Failed as error:
            bad += 1
            print(f"[ ] {name}: {error}", flush=True)
    if bad:
        print(f"{bad} of {len(CHECKS)} checks failed: nothing goes out yet")
        return 1
    for step in BY_HAND:
        print(f"[ ] by hand: {step.format(version=release.version, folder=options.out)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
