"""Configuration of the documentation site: `sphinx-build -W docs docs/_build`."""

from __future__ import annotations

import re
from importlib.util import find_spec
from itertools import groupby
from pathlib import Path

import fastpde

project = "fastpde"
author = "The fastpde developers"
copyright = f"2026, {author}"
version = release = fastpde.__version__

extensions = ["myst_parser", "sphinx.ext.autodoc", "sphinx.ext.mathjax"]
if find_spec("sphinx-mathjax-offline"):  # MathJax beside the pages; without it they load it from the internet
    extensions.append("sphinx-mathjax-offline")
autodoc_mock_imports = ["jax", "torch"]  # the bridges are described without them
exclude_patterns = ["_build", "paper"]
source_suffix = {".md": "markdown"}

myst_enable_extensions = ["amsmath", "colon_fence", "deflist", "dollarmath"]
myst_heading_anchors = 3
myst_dmath_double_inline = True

add_module_names = False
autoclass_content = "both"
autodoc_class_signature = "mixed"
autodoc_member_order = "bysource"
autodoc_typehints = "none"  # the texts say what arguments are
smartquotes_action = "D"  # dashes; primes are no quotes

html_theme = "pydata_sphinx_theme"
html_title = f"fastpde {release}"
html_copy_source = False
html_show_sourcelink = False
html_static_path = ["_static"]
html_css_files = ["site.css"]
HERE = Path(__file__).parent
html_sidebars = {name: [] for name in (*(path.stem for path in HERE.glob("*.md")), "reference/*")}  # no pages below
html_theme_options = {
    "header_links_before_dropdown": 6,
    "navigation_with_keys": False,
    "show_nav_level": 2,
    "show_toc_level": 2,
}

_SECTION = re.compile(r"(Args|Attributes|Raises|Returns|Yields):$")
_RAISED = re.compile(r"([A-Z]\w+(?:, [A-Z]\w+)*)(?=:)")
_LABEL = re.compile(r"^\((theory-[\d-]+)\)=", re.MULTILINE)
# "../theory/01-model.md#theory-1-1": a reader of the files gets the page, a reader of the site the section
_LABELLED = re.compile(r"\]\([^()\s]+\.md(#(?:fastpde\.|(?:theory|fast|direct|distributed|reliability)-)[\w.-]+)\)")
NUMBER = r"\b\d+(?:\.\d+)*\b"
# "Theory 8.1", "Theory 2, 2.1", "Theory 2-4", "Theory 10 (experiment 6), 11.2"
CITATION = rf"\bTheory\s+({NUMBER}(?:(?:\s\([^)]*\))?(?:,\s+|-|\s+and\s+){NUMBER})*)"


def marked_up(app, what, name, obj, options, lines: list[str]) -> None:
    """Make reStructuredText of a docstring in place, which is text with `code`, indented blocks and sections, no more.

    Bars, stars and underscores are what they are; an indented block after an empty line is shown as it stands; names
    of the package and citations of the theory become links.
    """
    made = []
    for literal, block in groupby(_told_apart(lines), key=lambda line: line[0]):
        text = "\n".join(line for _, line in block)
        made.append(text if literal else _escaped(text))
    lines[:] = "\n".join(made).split("\n")
    if what not in ("attribute", "property"):  # these have no sections
        lines[:] = _sections(lines)


def _sections(lines: list[str]) -> list[str]:
    """The lines with Google's sections as lists; an entry may have several names, "rtol, atol".

    What is returned and raised is text: a colon in it ends no type, and a line without one goes on with the last entry.
    """
    from sphinx.ext.napoleon import Config
    from sphinx.ext.napoleon import GoogleDocstring as Google

    class Sections(Google):
        def _consume_returns_section(self, preprocess_types=False):
            return [("", "", self._dedent(self._consume_to_next_section()))]

        def _parse_raises_section(self, section):
            entries: list[str] = []
            for line in filter(None, map(str.strip, self._consume_to_next_section())):
                named = _RAISED.match(line)
                if named or not entries:
                    entries.append(
                        ", ".join(map(_raised, named[1].split(", "))) + line[named.end(1) :] if named else line
                    )
                else:
                    entries[-1] += f" {line}"
            return [":raises:", "", *(f"    * {entry}" for entry in entries), ""]

    custom = [("Arguments", "params_style"), ("Attributes", "params_style")]
    config = Config(napoleon_custom_sections=custom, napoleon_use_rtype=False)
    named = [re.sub(r"^(\s*)Args:$", r"\1Arguments:", line) for line in lines]
    return Sections(named, config, what="function").lines()


def _raised(name: str) -> str:
    return f":py:obj:`{name} <fastpde.{name}>`" if name in fastpde.__all__ else name


def _told_apart(lines: list[str]) -> list[tuple[bool, str]]:
    """(literal, line) for all lines, with "::" before each literal block.

    A literal block follows an empty line and is indented more than the text above, unless that is a section's title.
    """
    made: list[tuple[bool, str]] = []
    above, within, last = 0, False, ""
    for i, line in enumerate(lines):
        indent = len(line) - len(line.lstrip())
        if line.strip():
            within = within and indent > above
            if not within and i and not lines[i - 1].strip() and indent > above and not _SECTION.match(last.strip()):
                made += [(False, " " * above + "::"), (False, "")]
                within = True
            if not within:
                above, last = indent, line
        made.append((within, line))
    return made


def _escaped(text: str) -> str:
    """Text in which only `code`, names of the package and citations are special."""
    parts = re.split(r"(`[^`]*`)", text)
    parts[::2] = [re.sub(r"[|*\\]|_(?!\w)", r"\\\g<0>", part) for part in parts[::2]]
    parts[1::2] = [_code(part[1:-1]) for part in parts[1::2]]
    return _linked("".join(parts))


def _code(text: str) -> str:
    """Code, with a link where it is a public name, or a call or a member of it: `fp.Sphere()`, `limit`."""
    name = re.match(r"(?:fp\.)?((\w+)(?:\.\w+)*)(?:\(.*\))?$", text)
    return f":py:obj:`{text} <fastpde.{name[1]}>`" if name and name[2] in fastpde.__all__ else f"``{text}``"


def _linked(text: str) -> str:
    """The text with links from citations, "Theory 8.1, 8.2", to the sections of the theory that there are."""
    known = {label for page in HERE.glob("theory/*.md") for label in _LABEL.findall(page.read_text(encoding="utf-8"))}

    def link(number: re.Match[str]) -> str:
        label = "theory-" + number[0].replace(".", "-")
        return f":ref:`{number[0]} <{label}>`" if label in known else number[0]

    def links(citation: re.Match[str]) -> str:
        parts = re.split(r"(\([^)]*\))", citation[1])  # what is in parentheses has other numbers
        parts[::2] = [re.sub(NUMBER, link, part) for part in parts[::2]]
        return "Theory " + "".join(parts)

    return re.sub(CITATION, links, text)


def labelled(app, name: str, source: list[str]) -> None:
    """Make of links to a page and a label in it, in place, links to the label."""
    source[0] = _LABELLED.sub(r"](\1)", source[0])


def setup(app) -> None:
    app.connect("source-read", labelled)
    app.connect("autodoc-process-docstring", marked_up)
