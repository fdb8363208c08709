"""Code of the user's own that a configuration names, "module:name": found, imported and told apart by its digest."""

from __future__ import annotations

import hashlib
import importlib.util
import re
import sys
from pathlib import Path
from typing import Any

from .errors import InputError


class CodeRefused(InputError):
    """The error of code of the user's own where none may run."""


def is_own(name: str) -> bool:
    """Return whether a name is that of code of the user's own, "module:name"."""
    return re.fullmatch(r"[A-Za-z_]\w*:[A-Za-z_]\w*", name, re.ASCII) is not None


def refused(name: str, where: str, need: str) -> CodeRefused:
    """Return the error of a name where no code may run."""
    remedy = "Only with --allow-code is the code of that module run."
    return CodeRefused(where, f'"{name}", code of your own', need, remedy)


def imported(name: str, folder: Path, where: str) -> tuple[Any, Path | None]:
    """Return the object "module:name" of `folder`/module.py, or else as Python finds the module, and its file.

    The object is None if the module has none of that name. Raises InputError, of the key `where`, without a module.
    """
    module_name, object_name = name.split(":")
    path = folder / f"{module_name}.py"
    try:
        if path.is_file():
            own = f"fastpde_own_{module_name}"  # beside all other modules, whatever it is called
            spec = importlib.util.spec_from_file_location(own, path)
            assert spec is not None and spec.loader is not None, "a .py file has a loader"
            module = importlib.util.module_from_spec(spec)
            sys.modules[own] = module  # for pickle
            spec.loader.exec_module(module)
        else:
            module = importlib.import_module(module_name)
    except (Exception, SystemExit) as error:
        sys.modules.pop(f"fastpde_own_{module_name}", None)
        need = f"a module {module_name} in {folder} or on Python's path"
        raise InputError(where, f'"{name}": {type(error).__name__}: {error}', need) from error
    file = getattr(module, "__file__", None)
    return getattr(module, object_name, None), None if file is None else Path(file)


def digest_of(source: Path | None) -> str:
    """Return the digest of a file of code; empty if there is none that can be read, or nothing in it."""
    try:
        text = b"" if source is None else source.read_bytes()
    except OSError:
        return ""
    return hashlib.blake2b(text, digest_size=16).hexdigest() if text else ""
