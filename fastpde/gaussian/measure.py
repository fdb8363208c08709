"""The Gaussian laws of this folder, see `fastpde.laws`."""

from __future__ import annotations

from ..laws.gaussian import Gaussian

__all__ = ["Gaussian"]
