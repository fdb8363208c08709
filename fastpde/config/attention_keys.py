"""The keys of `[attention]` in a configuration: one head, or a sum of heads, see `sections`."""
# ruff: noqa: RUF009  (`key` makes a field; its checks are frozen)

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field, replace
from typing import Any, ClassVar, NoReturn

from fastpde.attention.variants import VARIANTS
from fastpde.config import checks
from fastpde.config.matrices import Matrix, matrix, scale
from fastpde.config.sections import key, read
from fastpde.own_code import is_own

MAX_COUNT = 100_000  # heads of one block: a bound on what a typing error can ask for
_COUNT = checks.integer(1)
_POSITIVE = checks.number(above=0.0)
_OWNERS = {word: variant.name for variant in VARIANTS.values() for word in variant.own_keys}  # of keys of their own


def variant(*words: str) -> checks.Check:
    """Return the check of the name of a variant: one of `words`, or one of the user's own."""

    def check(name: str, value: object) -> str:
        if isinstance(value, str) and is_own(value):
            return value
        return str(checks.choice(*words)(name, value))

    return check


def _own(name: str, value: object) -> dict[str, Any]:
    """Check the arguments of a user's own variant: numbers, texts, true and false."""
    if not isinstance(value, dict):
        checks.refuse(name, value, "a table of numbers, texts, true and false")
    for word, entry in value.items():
        if not isinstance(entry, bool | int | float | str):
            checks.refuse(f"{name}.{word}", entry, "a number, a text, true or false")
    return value


def _unmaskable(kind: str) -> str:
    """Return why a variant cannot be masked; "" if it can, or is a user's own, which is checked when it is made."""
    return "" if is_own(kind) else VARIANTS[kind].kind.unmaskable


def _refuse_heads(name: str, value: object) -> NoReturn:
    need = f'kind = "multihead" and one [[{name}]] table or more'
    checks.refuse(name, value, need, "With count = 4 in it a table stands for four heads alike.")


@dataclass(frozen=True, kw_only=True)
class VariantKeys(ABC):  # noqa: B024 (heads and their blocks have no method of their own)
    """The keys of one variant; k is the number of rows of "normal" Q and K (default d).

    kind "module:Class" is a user's own variant. `own` is a table of the arguments of a variant that have no key here.
    """

    elsewhere: ClassVar[dict[str, Any]] = {"heads": _refuse_heads}
    kind: str = key(variant(*VARIANTS), says="the variant")
    Q: Matrix = key(matrix(), "identity", says="queries, (k, d)")
    K: Matrix = key(matrix(scaled="Q"), "identity", says="keys, (k, d)")
    V: Matrix = key(matrix(scaled="the identity"), "identity", says="values, (d, d); of a head with dv: (dv, d)")
    scale: float | str = key(scale, 1.0, says="factor of the score")
    bias: float | None = key(checks.number(), None, says="only sigmoid: added to the score; without it 0")
    eps: float | None = key(_POSITIVE, None, says="only sinkhorn: the regularisation; without it 1")
    tol: float | None = key(
        checks.number(above=0.0, below=1.0), None, says="only sinkhorn: marginal error of a scaling; without it 1e-9"
    )
    max_iter: int | None = key(
        checks.integer(3), None, says="only sinkhorn: half-iterations at most; without it 10,000"
    )
    n_half: int | None = key(
        checks.integer(1), None, says="only sinkhorn: a fixed, odd number of half-iterations in the place of tol"
    )
    k: int | None = key(_COUNT, None, says='rows of Q and K that are drawn ("normal"); without it d')
    own: dict[str, Any] | None = key(
        _own, None, says="of a variant of your own: the other arguments of its constructor"
    )
    masked: bool = key(checks.boolean, False, says="whether a token sees only those at its position and before")

    def settled(self, name: str) -> Any:
        """Return the section with the defaults of its variant's own keys. Raises InputError for those of other
        variants.
        """
        own: dict[str, Any] = {}
        if not is_own(self.kind):  # else its class is not known here, and may be none that is allowed
            arguments = VARIANTS[self.kind].own_keys
            own = {word: value for word, value in arguments.items() if hasattr(self, word)}
            if self.own is not None and not self.own.keys() <= arguments.keys() - own.keys():
                checks.refuse(f"{name}.own", self.own, f'no own: the arguments of "{self.kind}" are keys of their own')
        for word, owner in _OWNERS.items():
            if hasattr(self, word) and word not in own and (value := getattr(self, word)) is not None:
                checks.refuse(f"{name}.{word}", value, f'no {word}: only "{owner}" has one, not "{self.kind}"')
        if self.n_half is not None and self.n_half % 2 == 0:
            checks.refuse(f"{name}.n_half", self.n_half, "an odd number of half-iterations: the last makes rows exact")
        if self.masked and (why := _unmaskable(self.kind)):
            checks.refuse(f"{name}.masked", self.masked, f'false for "{self.kind}"', why)
        return replace(self, **{word: value for word, value in own.items() if getattr(self, word) is None})


@dataclass(frozen=True, kw_only=True)
class Single(VariantKeys):
    """One attention head."""

    @property
    def heads(self) -> tuple[Single, ...]:
        """The one head, as a tuple of blocks like that of `MultiHead`."""
        return (self,)


@dataclass(frozen=True, kw_only=True)
class Head(VariantKeys):
    """A block of `count` equal heads of a multi-head attention; in it `head` in a file index is 0 to count - 1."""

    masked: bool = field(default=False, init=False)
    kind: str = key(variant(*VARIANTS), "softmax", says="the variant")
    W: Matrix | None = key(
        matrix(scaled="the identity"),
        None,
        says="matrix by which the head's output is multiplied, (d, dv); without it the identity",
    )
    dv: int | None = key(_COUNT, None, says="rows of V that are drawn; without it d")
    count: int = key(checks.integer(1, MAX_COUNT), 1, says="so many heads alike, each with matrices of its own")


def _heads(name: str, value: object) -> tuple[Head, ...]:
    if not isinstance(value, list) or not value:
        _refuse_heads(name, value)
    return tuple(read(Head, table, f"{name}[{i}]") for i, table in enumerate(value))


@dataclass(frozen=True, kw_only=True)
class MultiHead:
    """A sum of heads, sum_h W_h head_h."""

    kind: str = key(checks.choice("multihead"), says="a sum of heads")
    masked: bool = key(checks.boolean, False, says="whether a token sees only those at its position and before")
    heads: tuple[Head, ...] = key(_heads, says="one table [[attention.heads]] for each block of heads")

    def settled(self, name: str) -> MultiHead:
        """Return the section. Raises InputError if it masks a head that cannot be masked."""
        for head in self.heads:
            if self.masked and (why := _unmaskable(head.kind)):
                checks.refuse(f"{name}.masked", self.masked, f'false with a "{head.kind}" head', why)
        return self


ATTENTION: dict[str, type] = {**dict.fromkeys(VARIANTS, Single), "multihead": MultiHead}
