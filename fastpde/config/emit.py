"""A configuration as TOML text: what the run directory keeps, every default filled in; reading it gives an equal
configuration.
"""

from __future__ import annotations

import json
from dataclasses import fields
from typing import Any

from fastpde.config.schema import Config


def value(item: Any) -> str:
    """Return one value as TOML; floats get the shortest text that reads back to the same bits."""
    if hasattr(item, "toml"):
        item = item.toml()
    elif hasattr(item, "table"):
        item = item.table()
    if isinstance(item, bool):
        return str(item).lower()
    if isinstance(item, str):
        # Strings are those of JSON, but for one character.
        return json.dumps(item, ensure_ascii=False).replace("\x7f", "\\u007f")
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
