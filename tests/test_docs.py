"""The documentation: its examples run, its reference is whole, its links and citations lead somewhere, it builds."""

from __future__ import annotations

import builtins
import io
import os
import pkgutil
import re
import runpy
import shutil
import subprocess
import sys
import textwrap
from dataclasses import dataclass, fields
from pathlib import Path

import pytest

import fastpde as fp
from fastpde.config import schema
from fastpde.config.attention_keys import ATTENTION, Head
from fastpde.config.token_keys import TOKENS

from .problems import ROOT

DOCS = ROOT / "docs"
PAGES = sorted(path for path in DOCS.rglob("*.md") if "_build" not in path.parts)
API = sorted((DOCS / "api").glob("*.md"))
README = ROOT / "README.md"
FOLDERS = {path.name for place in (ROOT, ROOT / "fastpde") for path in place.iterdir() if path.is_dir()} - {"docs"}
CONF = runpy.run_path(str(DOCS / "conf.py"))

_FENCE = re.compile(r"^(?P<indent> *)```python(?P<mark>[^\n]*)\n(?P<code>.*?)^(?P=indent)```", re.DOTALL | re.MULTILINE)
_PROMISE = re.compile(r"^print\(.*\)  # (.*)$", re.MULTILINE)
_TARGET = re.compile(r"^\(([\w.:-]+)\)=\s*$", re.MULTILINE)
_LINK = re.compile(r"\]\(([^()\s]+)\)")
_ENTRY = re.compile(r"^\.\. auto\w+:: (fastpde\.[\w.]+)$", re.MULTILINE)
_HEADING = re.compile(r"^#+ +(.+?)\s*$", re.MULTILINE)


@dataclass(frozen=True)
class Block:
    """A block of Python in a page: its line, what is written behind "python", and its code."""

    line: int
    mark: str
    code: str

    @property
    def runs(self) -> bool:
        return not self.mark


def blocks(text: str) -> list[Block]:
    """The blocks of Python of a page, of lists too."""
    found = []
    for fence in _FENCE.finditer(text):
        line = text.count("\n", 0, fence.start()) + 2
        found.append(Block(line, fence["mark"].strip(), textwrap.dedent(fence["code"])))
    return found


def prose(text: str) -> str:
    """A page without what is between fences, its formulas and its `code`."""
    text = re.sub(r"^ *(```+|~~~+).*?^ *\1`*$", "", text, flags=re.DOTALL | re.MULTILINE)
    return re.sub(r"\$\$.*?\$\$|\$[^$]*\$|`[^`]*`", "", text, flags=re.DOTALL)


def cited(text: str) -> list[str]:
    """The sections of the theory that a text cites: "Theory 8.1, 8.2" are "8.1" and "8.2", "Theory 2-4" all three."""
    found = []
    for citation in re.finditer(CONF["CITATION"], text):
        numbers = re.sub(r"\([^)]*\)", "", citation[1])
        found += re.findall(CONF["NUMBER"], numbers)
        found += [str(n) for a, b in re.findall(r"\b(\d+)-(\d+)\b", numbers) for n in range(int(a) + 1, int(b))]
    return found


def slug(heading: str) -> str:
    """The name of a heading in links."""
    return re.sub(r"[^\w\- ]", "", heading.lower()).replace(" ", "-")


def anchors(text: str) -> set[str]:
    """What links to a page may name: its labels, its headings, its entries."""
    return {*_TARGET.findall(text), *_ENTRY.findall(text), *map(slug, _HEADING.findall(text))}


def broken(page: Path, text: str, targets: set[str]) -> list[str]:
    """The links of a page that lead nowhere; targets: the labels of all pages."""
    own = targets | {slug(heading) for heading in _HEADING.findall(text)}
    wrong = []
    for link in _LINK.findall(prose(text)):
        if re.match(r"[a-z]+:", link):
            continue  # of the internet
        name, _, anchor = link.partition("#")
        there = page.parent / name
        if name and name not in targets and not there.is_file() and not there.with_name(there.name + ".md").is_file():
            wrong.append(link)
        if anchor:
            known = own
            if name and there.is_file():
                known = anchors(there.read_text(encoding="utf-8"))
            if anchor not in known and (name or anchor.removeprefix("fastpde.") not in fp.__all__):
                wrong.append(link)
    return wrong


@pytest.mark.parametrize("page", [*PAGES, README], ids=lambda path: path.relative_to(ROOT).as_posix())
def test_examples_run(page, tmp_path, monkeypatch):
    """The blocks of a page, one after the other, in a folder of their own; the reference prints what it says."""
    monkeypatch.chdir(tmp_path)
    names = {"__name__": "example"}
    for block in blocks(page.read_text(encoding="utf-8")):
        if not block.runs:
            continue
        printed = io.StringIO()
        monkeypatch.setitem(
            names, "print", lambda *words, to=printed, **how: builtins.print(*words, **({"file": to} | how))
        )
        # Empty lines in front: errors then name the lines of the page.
        exec(compile("\n" * (block.line - 1) + block.code, str(page), "exec"), names)
        promised = _PROMISE.findall(block.code)
        if promised and page in API:
            assert printed.getvalue().splitlines() == promised


def test_blocks_that_are_not_run_are_known():
    marks = {block.mark for page in [*PAGES, README] for block in blocks(page.read_text(encoding="utf-8"))}
    assert marks <= {"", "no-run", "mpi", "torch", "jax"}


@pytest.mark.parametrize("name", ["api/backends.md", "guides/several-machines.md"])
def test_example_of_several_processes_runs_alone(name, tmp_path):
    """In a process of its own, since MPI starts once for the whole of it."""
    pytest.importorskip("mpi4py")
    if not any(shutil.which("mpiexec", path=path) for path in (str(Path(sys.executable).parent), None)):
        pytest.skip("no MPI")
    text = (DOCS / name).read_text(encoding="utf-8")
    (code,) = [block.code for block in blocks(text) if block.mark == "mpi"]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    alone = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], cwd=tmp_path, env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


@pytest.mark.parametrize("world", ["torch", "jax"])
def test_examples_of_a_bridge_run(world):
    """Where its library is; in a process of its own, since precisions and seeds are set for the whole of it."""
    pytest.importorskip(world)
    found = blocks((DOCS / "api" / "bridges.md").read_text(encoding="utf-8"))
    code = "".join(block.code for block in found if block.mark == world)
    assert code
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    alone = os.environ | {"PYTHONPATH": path}
    done = subprocess.run([sys.executable, "-c", code], env=alone, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def public() -> list[str]:
    """The names of the package, its studies and its laws, as they are written behind "fastpde."."""
    laws = [f"laws.{name}" for name in fp.laws.__all__ if name != "Gaussian"]  # which is `fp.Gaussian`
    return [*fp.__all__, *(f"studies.{name}" for name in fp.studies.__all__), *laws]


@pytest.mark.parametrize("name", public())
def test_every_public_name_has_its_entry_and_example(name):
    text = "".join(page.read_text(encoding="utf-8") for page in API)
    directive = rf"^\.\. auto(?:class|exception|function|module):: fastpde\.{re.escape(name)}$"
    assert len(re.findall(directive, text, re.MULTILINE)) == 1
    run = "".join(block.code for block in blocks(text) if block.runs or block.mark == "mpi")
    assert re.search(rf"\bfp\.{re.escape(name)}\b", run)


def test_citations_of_the_theory_resolve():
    """Each section that the package cites has a target, (theory-8-1)= for 8.1, in the pages of the theory."""
    pages = sorted((DOCS / "theory").glob("*.md"))
    assert pages, "docs/theory has no pages"
    known = {target for page in pages for target in _TARGET.findall(page.read_text(encoding="utf-8"))}
    missing = [
        f"{path.relative_to(ROOT)}: {number}"
        for path in sorted((ROOT / "fastpde").rglob("*.py"))
        for number in cited(path.read_text(encoding="utf-8"))
        if "theory-" + number.replace(".", "-") not in known
    ]
    assert missing == []


def missing(text: str) -> list[str]:
    """The names of the package, its files and its tests that a page writes as `code`, and that are not there."""
    wrong = []
    for name in re.findall(r"`(fastpde(?:\.\w+)+)[`(]", text):
        try:
            pkgutil.resolve_name(name)
        except (AttributeError, ImportError):
            wrong.append(name)
    for path, test in re.findall(r"`((?:\w+/)+\w*(?:\.\w+)?)(?:::(\w+))?`", text):
        places = [place for place in (ROOT / path, ROOT / "fastpde" / path) if place.exists()]
        if not places and path.split("/")[0] in FOLDERS:
            wrong.append(path)
        elif test and (not places or f"def {test}(" not in places[0].read_text(encoding="utf-8")):
            wrong.append(f"{path}::{test}")
    return wrong


@pytest.mark.parametrize("page", PAGES, ids=lambda page: str(page.relative_to(ROOT)))
def test_names_and_files_in_pages_exist(page):
    assert missing(page.read_text(encoding="utf-8")) == []


def test_links_between_pages_resolve():
    texts = {page: page.read_text(encoding="utf-8") for page in [*PAGES, README, ROOT / "CONTRIBUTING.md"]}
    targets = [target for text in texts.values() for target in _TARGET.findall(text)]
    assert sorted(targets) == sorted(set(targets))
    wrong = {str(page.relative_to(ROOT)): broken(page, text, set(targets)) for page, text in texts.items()}
    assert {page: links for page, links in wrong.items() if links} == {}


def test_site_builds_without_warnings(tmp_path):
    for name in ("sphinx", "myst_parser", "pydata_sphinx_theme"):
        pytest.importorskip(name)
    command = [sys.executable, "-m", "sphinx", "-W", "--keep-going", "-q", "-d", str(tmp_path / "trees")]
    path = os.pathsep.join([str(ROOT), os.environ.get("PYTHONPATH", "")])
    done = subprocess.run(
        [*command, str(DOCS), str(tmp_path / "html")],
        capture_output=True,
        text=True,
        env=os.environ | {"PYTHONPATH": path},
    )
    assert done.returncode == 0, done.stderr
    entries = (tmp_path / "html" / "api" / "solve.html").read_text(encoding="utf-8")
    assert 'id="fastpde.solve"' in entries


def test_the_checks_can_fail(tmp_path):
    """Each check on a text that was made up for it."""
    text = "a\n\n```python\nx = 1\n```\n\n* b\n\n  ```python no-run\n  y = 2\n  ```\n\n```bash\nls\n```\n"
    assert blocks(text) == [Block(4, "", "x = 1\n"), Block(10, "no-run", "y = 2\n")]
    assert [block.runs for block in blocks(text)] == [True, False]

    text = "Theory 8.1, 8.2, 9; see Theory 12.4. (Theory 7), 3 more; Theory 10 (experiments 6 and 7), 11.2."
    text += "\nTheory 1.1 and 2.3"
    assert cited(text) == ["8.1", "8.2", "9", "12.4", "7", "10", "11.2", "1.1", "2.3"]
    assert cited("(Theory\n    2-4). Theory 3, 4 x 4, Theories 5, theory 6") == ["2", "4", "3", "3", "4"]
    assert cited("no Theory here, 1.1") == []

    page = tmp_path / "page.md"
    (tmp_path / "other.md").write_text("# A title: here\n\n(mark)=\n", encoding="utf-8")
    good = "[a](other.md) [b](#mark) [c](other.md#a-title-here) [d](#own) [e](https://x.org) [f](#fastpde.solve)"
    good += "\n\n# Own\n"
    assert broken(page, good, {"mark"}) == []
    bad = ["none.md", "#none", "other.md#none", "other.md#elsewhere", "other.md#fastpde.solve"]
    assert broken(page, " ".join(f"[a]({link})" for link in bad), {"mark", "elsewhere"}) == bad
    assert anchors("# A title\n(mark)=\n.. autofunction:: fastpde.solve\n") == {"a-title", "mark", "fastpde.solve"}
    assert broken(page, "`[a](none.md)` $[b](#none)$\n```\n[c](none.md)\n```\n", set()) == []
    good = "`fastpde.solve(x)` `fastpde.attention.score.Score` `attention/score.py` `tests/test_docs.py::missing` `a/b`"
    assert missing(good) == []
    wrong = ["fastpde.solved", "fastpde.none.at_all", "attention/none.py", "tests/test_docs.py::none"]
    assert missing(" ".join(f"`{name}`" for name in wrong)) == wrong
    assert _TARGET.findall("(theory-8-1)=\n## 8.1\n(not a target)=\n") == ["theory-8-1"]


def test_docstrings_become_markup():
    """What docstrings mean by bars, stars, backticks and indented blocks."""
    lines = [
        "Text |x| of `fp.solve`, `Sphere()`, `x_` and M_:",
        "",
        "    a = b * c",
        "",
        "Args:",
        "    x, y: |x|^2,",
        "        more.",
    ]
    CONF["marked_up"](None, "property", "f", None, None, lines)
    assert lines == [
        r"Text \|x\| of :py:obj:`fp.solve <fastpde.solve>`, :py:obj:`Sphere() <fastpde.Sphere>`, ``x_`` and M\_:",
        "",
        "::",
        "",
        "    a = b * c",
        "",
        "Args:",
        r"    x, y: \|x\|^2,",
        "        more.",
    ]


def test_pages_that_follow_from_the_code_are_as_the_code_is(monkeypatch):
    """The command line, the keys of configurations, and the notebook of the first steps."""
    pages = runpy.run_path(str(ROOT / "scripts" / "reference_pages.py"))["PAGES"]
    old = [name for name, make in pages.items() if (DOCS / name).read_text(encoding="utf-8") != make()]
    assert old == [], "run python scripts/reference_pages.py"


def test_every_key_of_a_configuration_says_what_it_means():
    kinds = {*TOKENS.values(), *ATTENTION.values(), Head, schema.Time, schema.Events, schema.Output, schema.Backend}
    silent = [
        f"{kind.__name__}.{item.name}"
        for kind in kinds
        for item in fields(kind)
        if item.init and not item.metadata.get("says")
    ]
    assert silent == []
