"""A configuration as TOML text: what the run directory keeps, every default filled in; reading it gives an equal
configuration.
"""

from __future__ import annotations

from dataclasses import fields
from typing import Any

from fastpde.config.schema import Config

_ESCAPES = {'"': '\\"', "\\": "\\\\", "\b": "\\b", "\t": "\\t", "\n": "\\n", "\f": "\\f", "\r": "\\r"}


def _string(value: str) -> str:
    def escaped(c: str) -> str:
        return _ESCAPES.get(c, f"\\u{ord(c):04x}" if ord(c) < 0x20 or ord(c) == 0x7F else c)

    return '"' + "".join(map(escaped, value)) + '"'


def value(item: Any) -> str:
    """Return one value as TOML; floats get the shortest text that reads back to the same bits."""
    if hasattr(item, "toml"):
        item = item.toml()
    elif hasattr(item, "table"):
        item = item.table()
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, str):
        return _string(item)
    if isinstance(item, int | float):
        return repr(item)
    if isinstance(item, dict):
        return "{ " + ", ".join(f"{name} = {value(entry)}" for name, entry in item.items()) + " }"
    return "[" + ", ".join(map(value, item)) + "]"


def keys(section: Any, skip: tuple[str, ...] = ()) -> list[str]:
    """Return the lines of a section's own keys but those of `skip`; a key that is None is left out."""
    found = [(item.name, getattr(section, item.name)) for item in fields(section) if item.init]
    return [f"{name} = {value(entry)}" for name, entry in found if entry is not None and name not in skip]


def attention(section: Any) -> list[str]:
    """Return the lines of the section [attention] and of its heads."""
    lines = ["[attention]", *keys(section, skip=("heads",))]
    if section.kind == "multihead":
        for head in section.heads:
            lines += ["", "[[attention.heads]]", *keys(head)]
    return lines


def dumps(config: Config) -> str:
    """Return the TOML text of a configuration."""
    lines = [f"seed = {config.seed}", "", "[tokens]", *keys(config.tokens), "", *attention(config.attention)]
    for name in ("time", "events", "output", "backend"):
        if found := keys(getattr(config, name)):  # no events, no section
            lines += ["", f"[{name}]", *found]
    return "\n".join(lines) + "\n"
