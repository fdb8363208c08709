"""The registry of attention variants: what configurations, studies, warm-up, benchmarks and tests know them by.

To add one: its file, and a line of _KINDS. A user's own variant needs neither: a configuration names it by its module
and class, "my_module:MyAttention", and `load` imports it where running code is allowed.
"""

from __future__ import annotations

import inspect
import sys
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any, NoReturn

from .. import own_code, weights
from ..errors import InputError, closest
from ..own_code import is_own
from .exponential import Exponential
from .l2 import L2
from .linear import Linear
from .sigmoid import Sigmoid
from .single_head import SingleHead
from .sinkhorn import Sinkhorn
from .softmax import Softmax

_SHARED = ("self", "Q", "K", "V", "scale", "weight")  # parameters that every variant has


@dataclass(frozen=True)
class Variant:
    """An attention by its name in configurations.

    Attributes:
        name: of the variant.
        kind: the class.
        source: the file of a user's own class; None: it has none, as in a notebook, or the class is built in.
        digest: of that file; empty without one.
    """

    name: str
    kind: type[SingleHead]
    source: Path | None = None
    digest: str = ""

    @staticmethod
    def of(name: str, kind: type[SingleHead], source: Path | None) -> Variant:
        """Return a user's own variant with the digest of its file, if that can be read."""
        digest = own_code.digest_of(source)
        return Variant(name, kind, source if digest else None, digest)

    @property
    def own_keys(self) -> dict[str, Any]:
        """The parameters that it has beside Q, K, V and scale, with their defaults."""
        parameters = inspect.signature(self.kind.__init__).parameters
        return {name: p.default for name, p in parameters.items() if name not in _SHARED}

    @property
    def is_exponential(self) -> bool:
        """Whether its sums are of w = exp: the moments of a grid are all that ranks need of each other."""
        return weights.is_exponential(self.kind.weight)

    @property
    def sums_in_linear_time(self) -> bool:
        """Whether an evaluation is one sum of w = exp, in O(n) where there are few coordinates."""
        return self.is_exponential and not self.scales

    @property
    def keeps_gaussians(self) -> bool:
        """Whether a Gaussian law stays Gaussian."""
        average = self.kind.normalised and self.is_exponential and not self.kind.positional
        return average or isinstance(self.kind.weight, weights.Linear)

    @property
    def is_bounded(self) -> bool:
        """Whether a velocity is at most |V| times a constant times the largest token: no flow blows up."""
        return self.kind.normalised or weights.is_bounded(self.kind.weight)

    @property
    def is_closed(self) -> bool:
        """Whether covariances move on their own: averages, under which a Gaussian law stays Gaussian."""
        return self.keeps_gaussians and self.is_bounded

    @property
    def scales(self) -> bool:
        """Whether an evaluation is an iteration of sums, a Sinkhorn scaling."""
        return issubclass(self.kind, Sinkhorn)


_KINDS: dict[str, type[SingleHead]] = {
    "softmax": Softmax,
    "l2": L2,
    "sigmoid": Sigmoid,
    "sinkhorn": Sinkhorn,
    "linear": Linear,
    "exponential": Exponential,
}
VARIANTS = {name: Variant(name, kind) for name, kind in _KINDS.items()}

_loaded: dict[str, Variant] = {}  # of users


def named(name: str, where: str = "attention.kind") -> Variant:
    """Return the variant of a name, built-in or loaded. Raises InputError for a user's own that is not loaded."""
    found = VARIANTS.get(name) or _loaded.get(name)
    return refuse(name, where) if found is None else found


def suiting(suits: Callable[[Variant], bool]) -> tuple[str, ...]:
    """Return the names of the built-in variants that suit a purpose."""
    return tuple(name for name, variant in VARIANTS.items() if suits(variant))


def chosen(
    argument: str,
    value: Any,
    suits: Callable[[Variant], bool] = lambda variant: True,
    beside: tuple[str, ...] = (),
) -> Variant:
    """Return the variant that a value names, or a user's own that it is the class of.

    beside: what else the argument may be, for the message. Raises InputError, with the name of the argument, unless it
    suits the purpose.
    """
    found: Variant | None = None
    if isinstance(value, type) and issubclass(value, SingleHead):
        name, file = (
            f"{value.__module__}:{value.__qualname__}",
            getattr(sys.modules.get(value.__module__), "__file__", None),
        )
        own = Variant.of(name, value, None if file is None else Path(file))
        found = next((built_in for built_in in VARIANTS.values() if built_in.kind is value), own)
        _loaded[found.name] = found
    elif isinstance(value, str) and (value in VARIANTS or is_own(value)):
        found = named(value, argument)
    if found is None or not suits(found):
        names = (*suiting(suits), *beside)
        need = f"{' or '.join(map(repr, names))}, or a variant of your own like them"
        raise InputError(argument, repr(value), need, closest(value, names) if isinstance(value, str) else "")
    if inspect.Parameter.empty in found.own_keys.values():
        raise InputError(argument, repr(value), "a class whose arguments beside Q, K and V have defaults")
    return found


def refuse(name: str, where: str = "attention.kind") -> NoReturn:
    """Raise the InputError of a user's own variant where no code may run."""
    raise own_code.refused(name, where, f"one of {', '.join(VARIANTS)}")


def load(name: str, folder: Path, where: str = "attention.kind") -> Variant:
    """Import a user's own variant "module:Class" from `folder`/module.py, or else as Python finds the module.

    Raises InputError unless there is such a module, and in it such a subclass of `SingleHead`.
    """
    kind, source = own_code.imported(name, folder, where)
    if not (isinstance(kind, type) and issubclass(kind, SingleHead)):
        need = f"a subclass of fp.SingleHead called {name.split(':')[1]} in the module"
        raise InputError(where, f'"{name}"', need)
    found = Variant.of(name, kind, source)
    if name in _loaded and _loaded[name].source != found.source:
        need = f"that of {_loaded[name].source}, which this process has loaded, or another name"
        raise InputError(where, f'"{name}" of {found.source}', need)
    _loaded[name] = found
    return found
