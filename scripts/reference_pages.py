"""Write what follows from other files of the documentation and the code, so that nothing is written twice.

    python scripts/reference_pages.py            # writes docs/reference/*.md and docs/getting-started.ipynb
    python scripts/reference_pages.py --check    # exit code 1 if they are not as the code is

The pages of the command line and of the keys of configurations come from the code, the notebook from docs/start.md.
"""

from __future__ import annotations

import argparse
import inspect
import json
import re
import sys
import textwrap
from collections.abc import Iterator
from dataclasses import MISSING, Field, fields, is_dataclass
from pathlib import Path
from typing import Any

import fastpde as fp
from fastpde.cli import parser
from fastpde.config import emit, schema, studies
from fastpde.config.attention_keys import ATTENTION, Head, MultiHead, Single
from fastpde.config.token_keys import TOKENS
from fastpde.errors import InputError, InputTypeError

DOCS = Path(__file__).parents[1] / "docs"
TABLE = ["| key | value | default | meaning |", "|---|---|---|---|"]

COMMANDS = """\
# Command line

`fastpde COMMAND --help` says the same as this page. Exit codes: 0 done; 2 bad configuration or arguments; 3 the state
stopped being finite or a scaling did not converge (in a sweep: cells have failed); 5 output could not be written; 75
stopped early, and the same command goes on; 128 + the number of a signal that stopped anything else. `verify` ends with
1 if it finds something wrong.
"""

CONFIGURATION = """\
# Configuration

A run is described by one TOML file. An unknown key, a wrong type and an impossible value are refused by name before
anything starts; `fastpde estimate CONFIG.toml` checks a file and says what it will cost. A key without a default has to
be given; "-" means that the meaning says what happens without it.

```toml
seed = 0
[tokens]
kind = "gaussian"
n = 4000
d = 2
[attention]
kind = "l2"
K = { scale = -1.0 }          # of Q
[time]
t_end = 1.0
[events]
collapsed = 1e-3
[output]
every = 0.1
```
"""

STUDIES = """\
# Studies

`fastpde study NAME [CONFIG.toml]` runs a study; without a file every key has its default. The keys are the arguments of
the functions of [`fp.studies`](../api/studies.md).
"""


class Nothing:
    """What no key can be."""


def needed(check: Any) -> str:
    """Return what a check says that it needs, when it is given what nothing needs."""
    try:
        check("key", Nothing())
    except (InputError, InputTypeError) as error:
        if found := re.match(r"key: got .*?; need (.*)\.$", str(error), re.DOTALL):
            need = found[1].removesuffix(" to 2^53")
            return need.removeprefix("one of ") if need.count('"') == 2 else need
        raise
    raise TypeError(f"{check} takes everything")


def default_of(item: Field[Any]) -> str:
    """Return a default as TOML has it."""
    if is_dataclass(item.default):
        return "see below"
    if item.default is MISSING:
        return "required"
    if item.default is None:
        return "-"
    return f"`{emit.value(item.default)}`"


def rows(kind: type, says: dict[str, str] | None = None, only: str = "") -> Iterator[str]:
    """Yield the rows of the keys of one section; `only`: the name of one of them."""
    for item in fields(kind):
        if not item.init or (only and item.name != only):
            continue
        check = item.metadata["check"]
        meaning = item.metadata.get("says") or (says or {}).get(item.name, "")
        value = "tables `[[attention.heads]]`" if kind is MultiHead and item.name == "heads" else needed(check)
        cells = (f"`{item.name}`", value, default_of(item), meaning)
        yield "| " + " | ".join(cell.replace("|", "\\|") for cell in cells) + " |"


def titled(level: int, title: str, kind: type, *, intro: str = "") -> list[str]:
    """Return the heading and the table of one section."""
    return [f"{'#' * level} {title}", "", *([intro, ""] if intro else []), *TABLE, *rows(kind), ""]


def configuration() -> str:
    """Return the page of all keys of a configuration."""
    lines = [CONFIGURATION, "## Top level", "", *TABLE]
    lines += rows(schema.Config, only="seed")
    lines += ["", "## `[tokens]`", "", "The keys depend on `kind`.", ""]
    for kind in dict.fromkeys(TOKENS.values()):
        named = ", ".join(f'"{word}"' for word, of in TOKENS.items() if of is kind)
        lines += titled(3, f"`kind = {named}`" if named.count('"') == 2 else f"`kind` = {named}", kind)
    variants = ", ".join(f'`"{word}"`' for word, kind in ATTENTION.items() if kind is Single)
    lines += ["## `[attention]`", ""]
    lines += titled(3, "One head", Single, intro=f'`kind` is one of {variants}, or `"module:Class"`, your own.')
    lines += titled(3, '`kind = "multihead"`', MultiHead)
    lines += titled(3, "`[[attention.heads]]`", Head)
    for name in ("time", "events", "output", "backend"):
        section = {item.name: item for item in fields(schema.Config)}[name]
        kind = type(section.default) if section.default is not MISSING else schema.Time
        lines += titled(2, f"`[{name}]`", kind)
    return "\n".join(lines).rstrip() + "\n"


def arguments(name: str) -> dict[str, str]:
    """Return what the docstring of a study says of its arguments, by name."""
    text = inspect.getdoc(getattr(fp.studies, name.replace("-", "_"))) or ""
    found, word = {}, ""
    for line in text.partition("Args:\n")[2].split("\n\n")[0].splitlines():
        if entry := re.match(r"    (\w+(?:, \w+)*): (.*)", line):
            for word in entry[1].split(", "):
                found[word] = entry[2]
        elif word:
            found[word] += " " + line.strip()
    return {name: said.rstrip(".") for name, said in found.items()}


def study_keys() -> str:
    """Return the page of the keys of all studies."""
    lines = [STUDIES]
    for name, kind in studies.STUDIES.items():
        lines += [f"## {name}", "", *TABLE, *rows(kind, says=arguments(name)), ""]
        for item in fields(kind):
            if isinstance(item.default, Single):
                keys = "The keys of [`[attention]`](configuration.md) of a run. The default is\n\n```toml"
                lines += [f"### `[{item.name}]`", "", keys, *emit.attention(item.default), "```", ""]
            elif is_dataclass(item.default):
                lines += titled(3, f"`[{item.name}]`", type(item.default))
    return "\n".join(lines).rstrip() + "\n"


def command_line() -> str:
    """Return the page of all commands."""
    commands = next(a for a in parser()._actions if isinstance(a, argparse._SubParsersAction))
    lines, about = [COMMANDS], {action.dest: action.help for action in commands._choices_actions}
    for name, command in commands.choices.items():
        usage = command.format_usage().removeprefix("usage: ")
        said = command.description or (about[name] or "").capitalize() + "."
        lines += [f"## fastpde {name}", "", said, "", "```", folded(usage), "```", ""]
        listed = [action for action in command._actions if action.dest != "help"]
        if listed:
            lines += ["| argument | meaning |", "|---|---|", *map(argument, listed), ""]
    return "\n".join(lines).rstrip() + "\n"


def folded(usage: str) -> str:
    """Return a usage in lines that fit a page, broken between arguments."""
    whole = re.sub(r"\[[^\]]*\]", lambda found: found[0].replace(" ", "\0"), " ".join(usage.split()))
    lines = textwrap.wrap(whole, 84, subsequent_indent="    ", break_long_words=False, break_on_hyphens=False)
    return "\n".join(lines).replace("\0", " ")


def argument(action: argparse.Action) -> str:
    """Return the row of one argument."""
    word = action.option_strings[0] if action.option_strings else str(action.metavar or action.dest)
    if action.option_strings and action.metavar:
        word += f" {action.metavar}"
    elif action.choices and action.option_strings:
        word += " " + " \\| ".join(map(str, action.choices))
    return f"| `{word}` | {(action.help or '').replace('|', chr(92) + '|')} |"


def notebook() -> str:
    """Return the first steps as a notebook: the blocks of Python that run are its code, all else its text."""
    cells, text = [], (DOCS / "start.md").read_text(encoding="utf-8")
    text = re.sub(r";\s+the same steps are a notebook, \S+(?=\.\n)", "", text)
    for i, part in enumerate(re.split(r"^```python\n(.*?)^```\n", text, flags=re.DOTALL | re.MULTILINE)):
        if not part.strip():
            continue
        lines = part.strip().splitlines(keepends=True)
        cell: dict[str, Any] = {
            "cell_type": "code" if i % 2 else "markdown",
            "id": f"cell-{len(cells)}",
            "metadata": {},
        }
        cells.append(cell | ({"execution_count": None, "outputs": []} if i % 2 else {}) | {"source": lines})
    kernel = {"display_name": "Python 3", "language": "python", "name": "python3"}
    whole = {"cells": cells, "metadata": {"kernelspec": kernel}, "nbformat": 4, "nbformat_minor": 5}
    return json.dumps(whole, indent=1, ensure_ascii=False) + "\n"


PAGES = {
    "reference/command-line.md": command_line,
    "reference/configuration.md": configuration,
    "reference/study-keys.md": study_keys,
    "getting-started.ipynb": notebook,
}


def main() -> int:
    """Write the pages, or compare them."""
    check = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    check.add_argument("--check", action="store_true", help="write nothing; 1 if a page is not as the code is")
    options, old = check.parse_args(), []
    (DOCS / "reference").mkdir(exist_ok=True)
    for name, make in PAGES.items():
        path, text = DOCS / name, make()
        if options.check:
            old += [name] if not path.is_file() or path.read_text(encoding="utf-8") != text else []
        else:
            path.write_text(text, encoding="utf-8")
    if old:
        print(f"not as the code is: {', '.join(old)}: run python {Path(__file__).name}", file=sys.stderr)
    return bool(old)


if __name__ == "__main__":
    sys.exit(main())
