"""Scripts are no package: a script and the modules beside it are imported as `python scripts/name.py` would."""

from __future__ import annotations

import importlib
import sys
from types import ModuleType

from ..problems import ROOT


def load(name: str) -> ModuleType:
    """The script scripts/name.py as a module."""
    folder = str(ROOT / "scripts")
    if folder not in sys.path:
        sys.path.append(folder)
    return importlib.import_module(name)
