"""Ways to sum over tokens, behind one contract (`base`). Numba is imported only when one of them is first made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

from ..errors import InputError, InputTypeError

if TYPE_CHECKING:
    from .base import Backend

NAMES = ("auto", "direct")


def resolve(backend: Any) -> Backend:
    """The backend object for a name or an object; "auto" is "direct", the only one so far."""
    from .base import Backend
    from .direct import Direct

    if isinstance(backend, Backend):
        return backend
    if not isinstance(backend, str):
        raise InputTypeError("backend", repr(backend), f"one of {', '.join(map(repr, NAMES))} or a backend object")
    if backend not in NAMES:
        raise InputError("backend", repr(backend), f"one of {', '.join(map(repr, NAMES))} or a backend object")
    return Direct()
