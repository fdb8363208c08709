"""The reading of a section of a configuration: a dataclass, of which a key is a field with its check and its default.

A field made by `key` without a default is required. A default of None means "said by other keys" and is either filled
in when the section is read (`settled`) or left out of the text. `elsewhere` of a class has the keys that belong to
another kind of section, with the function that says so.
"""

from __future__ import annotations

from dataclasses import MISSING, field, fields
from typing import Any, TypeVar

from fastpde.config import checks
from fastpde.errors import InputError

Section = TypeVar("Section")


def key(check: checks.Check, default: Any = MISSING, *, says: str = "") -> Any:
    """Return the dataclass field of one key, with its check, its default, and what the documentation says of it."""
    return field(metadata={"check": check, "says": says}, **({} if default is MISSING else {"default": default}))


def read(kind: type[Section], table: object, name: str) -> Section:
    """Fill the section `kind` from a TOML table and return it.

    Raises InputError for unknown, missing and wrong keys, by their full names.
    """
    prefix = f"{name}." if name else ""
    if not isinstance(table, dict):
        checks.refuse(name, table, "a table")
    known = {item.name: item for item in fields(kind) if item.init}  # type: ignore[arg-type]
    for word, value in table.items():
        if (refuse := getattr(kind, "elsewhere", {}).get(word)) is not None:
            refuse(prefix + word, value)
        checks.known(prefix, word, value, known)
    values = {}
    for word, item in known.items():
        if word in table:
            values[word] = item.metadata["check"](prefix + word, table[word])
        elif item.default is MISSING:
            item.metadata["check"](prefix + word, None)  # says what is needed
            raise InputError(prefix + word, "nothing", "a value")
    section = kind(**values)
    settled = getattr(section, "settled", None)
    return settled(name) if settled else section


def section(kind: type) -> checks.Check:
    """Return the check of a section with fixed keys."""
    return lambda name, value: read(kind, value, name)
