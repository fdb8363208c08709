"""The files that a configuration reads, and their digests: a run does not go on with other files than it began with."""

from __future__ import annotations

import hashlib
from pathlib import Path

from fastpde.config import Problem
from fastpde.config.matrices import Stored
from fastpde.config.shapes import each_head


def paths(problem: Problem) -> dict[str, Path]:
    """Return the path of each file, by its name in the configuration."""
    tokens, named = problem.config.tokens, {}
    if tokens.kind == "file":
        path = str(getattr(tokens, "path", ""))
        named[path] = problem.files.locate("tokens.path", path)
    if isinstance(tokens.positions, Stored):
        named[tokens.positions.path] = problem.files.locate("tokens.positions", tokens.positions.path)
    for name, block, _ in each_head(problem.config):
        for letter in "QKVW":
            matrix = getattr(block, letter, None)
            if isinstance(matrix, Stored):
                named[matrix.path] = problem.files.locate(f"{name}.{letter}", matrix.path)
    return named | problem.sources


def digests(problem: Problem) -> dict[str, str]:
    """Return the digest of each file, by its name in the configuration."""
    return {name: digest(path) for name, path in paths(problem).items()}


def digest(path: Path) -> str:
    """Return the digest of a file. Raises OSError."""
    with path.open("rb") as file:
        return hashlib.file_digest(file, lambda: hashlib.blake2b(digest_size=16)).hexdigest()
