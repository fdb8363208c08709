"""Edits of configuration files."""

from __future__ import annotations

from pathlib import Path


def changed(small: Path, *edits: tuple[str, str]) -> Path:
    """A configuration file with some of its text replaced, which must be there."""
    text = small.read_text()
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    small.write_text(text)
    return small
