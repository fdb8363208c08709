"""The checks before a release: each passes where all is right, and says what is wrong where it is not."""

from __future__ import annotations

import datetime
import re
import subprocess

import pytest

from ..problems import ROOT
from .loading import load

installing, release = load("installing"), load("release")

FILES = {
    "pyproject.toml": '[project]\nname = "fastpde"\nversion = "1.2.0"\ndependencies = ["numpy>=2.0"]\n',
    "fastpde/__init__.py": '__version__ = "1.2.0"\n',
    "CITATION.cff": "cff-version: 1.2.0\nversion: 1.2.0\n",
    "scripts/recipes/recipe.yaml": 'context:\n  version: "1.2.0"\n',
    "CHANGELOG.md": "# Changes\n\n## 1.2.0 (2026-01-31)\n\n### Added\n- One.\n- Two.\n\n## 1.1.0 (2025-01-01)\n- 3.\n",
}


@pytest.fixture
def tree(tmp_path):
    """A checkout of which everything is right, under git."""
    for name, text in FILES.items():
        path = tmp_path / "tree" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text)
    for words in (["init", "-q"], ["add", "."], ["-c", "user.name=a", "-c", "user.email=a@b.c", "commit", "-qm", "a"]):
        subprocess.run(["git", *words], cwd=tmp_path / "tree", check=True)
    return release.Release(tmp_path / "tree", tmp_path / "dist")


def edit(found, name, old, new):
    path = found.root / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new, 1))


def test_a_tree_that_is_right(tree):
    assert release.versions(tree) == "1.2.0"
    assert release.changelog(tree) == "2 entries of 2026-01-31"
    assert re.fullmatch(r"[0-9a-f]{7,}", release.clean(tree))


@pytest.mark.parametrize(
    ("check", "name", "old", "new", "said"),
    [
        ("versions", "CITATION.cff", "\nversion: 1.2.0", "\nversion: 1.1.0", "CITATION.cff has 1.1"),
        ("versions", "fastpde/__init__.py", "__version__", "version", "has none"),
        ("changelog", "CHANGELOG.md", "(2026-01-31)", "(unreleased)", "dated 'unreleased'"),
        ("changelog", "CHANGELOG.md", "## 1.2.0", "## 1.3.0", "is not '## 1.2.0"),
        ("changelog", "CHANGELOG.md", "- One.\n- Two.\n", "", "no entries"),
        ("clean", "CHANGELOG.md", "- One.", "- 1.", "1 files are changed or new: CHANGELOG.md"),
    ],
    ids=["citation", "package", "date", "section", "entries", "clean"],
)  # fmt: skip
def test_what_is_wrong_is_said(tree, check, name, old, new, said):
    edit(tree, name, old, new)
    with pytest.raises(installing.Failed, match=re.escape(said)):
        getattr(release, check)(tree)


def test_a_day_to_come_and_a_tag_that_is_there(tree):
    tomorrow = datetime.date.today() + datetime.timedelta(days=1)
    edit(tree, "CHANGELOG.md", "2026-01-31", str(tomorrow))
    with pytest.raises(installing.Failed, match="not yet"):
        release.changelog(tree)
    subprocess.run(["git", "checkout", "-q", "."], cwd=tree.root, check=True)
    subprocess.run(["git", "tag", "v1.2.0"], cwd=tree.root, check=True)
    with pytest.raises(installing.Failed, match=r"a tag v1\.2\.0"):
        release.clean(tree)


def test_nothing_is_built_into_a_folder_that_holds_something(tree):
    tree.folder.mkdir()
    (tree.folder / "old.whl").touch()
    with pytest.raises(installing.Failed, match="empty folder"):
        release.built(tree)


def test_this_repository_has_one_version():
    assert release.versions(release.Release(ROOT, ROOT / "dist")) == installing.project()["version"]


def test_a_command_that_fails_says_why(tmp_path):
    assert installing.run(["echo", "a"], tmp_path) == "a\n"
    with pytest.raises(installing.Failed, match="No such file"):
        installing.run(["nothing-of-this-name"], tmp_path)
    with pytest.raises(installing.Failed, match="worse"):
        installing.run(["sh", "-c", "echo worse; exit 3"], tmp_path)


def test_the_conda_recipe_has_the_requirements_of_the_package():
    """With the names that conda has: Matplotlib without its window systems."""
    text = (ROOT / "scripts" / "recipes" / "recipe.yaml").read_text(encoding="utf-8")
    run = text.partition("  run:")[2].partition("tests:")[0]
    found = dict(re.findall(r"^    - ([\w-]+) >=([\w.]+)$", run, re.MULTILINE))
    want = dict(requirement.split(">=") for requirement in installing.project()["dependencies"])
    assert found == {name.replace("matplotlib", "matplotlib-base"): bound for name, bound in want.items()}
    least = installing.project()["requires-python"].removeprefix(">=")
    assert f'python_min: "{least}"' in text
