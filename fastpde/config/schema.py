"""Every key of a configuration, with its check and its default, see `sections`."""
# ruff: noqa: RUF009  (`key` makes a field; its checks are frozen)

from __future__ import annotations

from abc import ABC
from dataclasses import dataclass, field, fields, replace
from typing import Any, ClassVar, NoReturn

from fastpde.attention.variants import VARIANTS
from fastpde.config import checks
from fastpde.config.matrices import Matrix, Positions, matrix, positions, scale
from fastpde.config.sections import key, read, section
from fastpde.errors import InputError
from fastpde.own_code import is_own
from fastpde.sums.costs import Costs

FIXED = ("euler", "heun", "rk4")
NOISY = ("euler", "heun")
ADAPTIVE = ("dopri5", "tsit5", "bosh3")
MAX_COUNT = 100_000  # heads of one block: a bound on what a typing error can ask for
# Tokens up to which the energy is on by default: it costs one more sum at every frame, over all pairs or in O(n).
ENERGY_LIMIT, FAST_ENERGY_LIMIT = 20_000, 200_000
_OWNERS = {word: variant.name for variant in VARIANTS.values() for word in variant.own_keys}  # of keys of their own
CLUSTER_SHARE = 0.05  # the length of `clusters = true`


def _share(name: str, value: object) -> float | None:
    """Check true, false and a number between 0 and 1; return the number, None for false."""
    if isinstance(value, bool):
        return CLUSTER_SHARE if value else None
    return float(checks.number(above=0.0, below=1.0)(name, value))


def _recorded(name: str, value: object) -> bool | None:
    """Check true and false; return None for false, as if it were not there."""
    return checks.boolean(name, value) or None


_COUNT = checks.integer(1)
_POSITIVE = checks.number(above=0.0)
_SQUARED = 1e-150, 1e150  # standard deviations whose squares are neither 0 nor infinite


def _deviation(name: str, value: object) -> float:
    """Check a standard deviation: 0, or a number that can be squared."""
    found = checks.number(minimum=0.0)(name, value)
    if found and not _SQUARED[0] <= found <= _SQUARED[1]:
        checks.refuse(name, value, f"0, or a number from {_SQUARED[0]:g} to {_SQUARED[1]:g}")
    return float(found)


@dataclass(frozen=True, kw_only=True)
class GaussianTokens:
    """Tokens drawn from N(mean, cov), or from N(mean, std^2 I)."""

    kind: str = key(checks.choice("gaussian"))
    n: int = key(_COUNT)
    d: int = key(_COUNT)
    mean: tuple[float, ...] | None = key(checks.vector, None)
    std: float | None = key(_deviation, None)
    cov: tuple[tuple[float, ...], ...] | None = key(checks.rows, None)
    systems: int = key(_COUNT, 1)
    positions: Positions = key(positions, None)

    def settled(self, name: str) -> GaussianTokens:
        """Return the section with std filled in. Raises InputError if shapes differ or both std and cov are given."""
        if self.std is not None and self.cov is not None:
            checks.refuse(f"{name}.std", self.std, "either std or cov, not both")
        if self.mean is not None and len(self.mean) != self.d:
            raise InputError(f"{name}.mean", f"{len(self.mean)} numbers", f"d = {self.d} numbers")
        if self.cov is None:
            return replace(self, std=1.0 if self.std is None else self.std)
        if (len(self.cov), len(self.cov[0])) != (self.d, self.d):
            shape = f"{len(self.cov)} x {len(self.cov[0])} numbers"
            raise InputError(f"{name}.cov", shape, f"d = {self.d} rows of {self.d} numbers")
        return self


@dataclass(frozen=True, kw_only=True)
class RoundTokens:
    """Tokens drawn uniformly from a ball or a sphere about the origin."""

    kind: str = key(checks.choice("ball", "sphere"))
    n: int = key(_COUNT)
    d: int = key(_COUNT)
    radius: float = key(_POSITIVE, 1.0)
    systems: int = key(_COUNT, 1)
    positions: Positions = key(positions, None)


@dataclass(frozen=True, kw_only=True)
class MixtureTokens:
    """Tokens drawn from sum_m weights_m N(means_m, std^2 I)."""

    kind: str = key(checks.choice("mixture"))
    n: int = key(_COUNT)
    means: tuple[tuple[float, ...], ...] = key(checks.rows)
    d: int | None = key(_COUNT, None)
    std: float = key(_deviation, 1.0)
    weights: tuple[float, ...] | None = key(checks.vector, None)
    systems: int = key(_COUNT, 1)
    positions: Positions = key(positions, None)

    def settled(self, name: str) -> MixtureTokens:
        """Return the section with d and weights filled in and checked against `means`."""
        m, d = len(self.means), len(self.means[0])
        if self.d not in (None, d):
            checks.refuse(f"{name}.d", self.d, f"{d}, the length of a row of means")
        weights = self.weights or (1.0 / m,) * m
        if len(weights) != m or min(weights) < 0 or abs(sum(weights) - 1) > 1e-9:
            checks.refuse(f"{name}.weights", list(weights), f"{m} numbers of at least 0 that sum to 1")
        return replace(self, d=d, weights=weights)


@dataclass(frozen=True, kw_only=True)
class FileTokens:
    """Tokens of a .npy file of shape (m, d) or (systems, m, d): the first n (default: all) of each of the first systems
    (default: all).
    """

    kind: str = key(checks.choice("file"))
    path: str = key(checks.text)
    n: int | None = key(_COUNT, None)
    systems: int | None = key(_COUNT, None)
    positions: Positions = key(positions, None)


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
    kind: str = key(variant(*VARIANTS))
    Q: Matrix = key(matrix(), "identity")
    K: Matrix = key(matrix(scaled="Q"), "identity")
    V: Matrix = key(matrix(scaled="the identity"), "identity")
    scale: float | str = key(scale, 1.0)
    bias: float | None = key(checks.number(), None)
    eps: float | None = key(_POSITIVE, None)
    tol: float | None = key(checks.number(above=0.0, below=1.0), None)
    max_iter: int | None = key(checks.integer(3), None)
    n_half: int | None = key(checks.integer(1), None)
    k: int | None = key(_COUNT, None)
    own: dict[str, Any] | None = key(_own, None)
    masked: bool = key(checks.boolean, False)

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
    kind: str = key(variant(*VARIANTS), "softmax")
    W: Matrix | None = key(matrix(scaled="the identity"), None)
    dv: int | None = key(_COUNT, None)
    count: int = key(checks.integer(1, MAX_COUNT), 1)


def _heads(name: str, value: object) -> tuple[Head, ...]:
    if not isinstance(value, list) or not value:
        _refuse_heads(name, value)
    return tuple(read(Head, table, f"{name}[{i}]") for i, table in enumerate(value))


@dataclass(frozen=True, kw_only=True)
class MultiHead:
    """A sum of heads, sum_h W_h head_h."""

    kind: str = key(checks.choice("multihead"))
    masked: bool = key(checks.boolean, False)
    heads: tuple[Head, ...] = key(_heads)

    def settled(self, name: str) -> MultiHead:
        """Return the section. Raises InputError if it masks a head that cannot be masked."""
        for head in self.heads:
            if self.masked and (why := _unmaskable(head.kind)):
                checks.refuse(f"{name}.masked", self.masked, f'false with a "{head.kind}" head', why)
        return self


@dataclass(frozen=True, kw_only=True)
class Time:
    """The time interval, the method and its steps, the manifold, and the noise, which needs "euler" or "heun"."""

    t_start: float = key(checks.number(), 0.0)
    t_end: float = key(checks.number())
    method: str = key(checks.choice(*FIXED, *ADAPTIVE), "dopri5")
    step: float | None = key(_POSITIVE, None)
    rtol: float = key(checks.number(above=0.0, below=1.0), 1e-6)
    atol: float = key(_POSITIVE, 1e-9)
    max_steps: int = key(_COUNT, 100_000)
    manifold: str = key(checks.choice("euclidean", "sphere"), "euclidean")
    noise: float = key(checks.number(minimum=0.0), 0.0)

    def settled(self, name: str) -> Time:
        """Return the section. Raises InputError if the interval is empty, or if noise has no suitable method or a
        method of fixed steps has no step.
        """
        if not self.t_end > self.t_start:
            checks.refuse(f"{name}.t_end", self.t_end, f"a time after t_start = {self.t_start:g}")
        if self.noise and self.method not in NOISY:
            need = f'"euler" or "heun", because {name}.noise = {self.noise:g}'
            checks.refuse(f"{name}.method", self.method, need, "Both take steps of a fixed size: give step as well.")
        if self.method in FIXED and self.step is None:
            checks.refuse(f"{name}.step", None, f'a step: "{self.method}" does not choose its own')
        return self


@dataclass(frozen=True, kw_only=True)
class Events:
    """The events that end a run, or a system of an ensemble, before t_end: the parameters tol, radius and tol of
    `fastpde.SteadyState`, `fastpde.BlowUp` and `fastpde.Collapsed`.
    """

    steady_state: float | None = key(_POSITIVE, None)
    blow_up: float | None = key(_POSITIVE, None)
    collapsed: float | None = key(_POSITIVE, None)

    @property
    def given(self) -> dict[str, float]:
        """The parameters of the events that are given, by name."""
        return {item.name: level for item in fields(self) if (level := getattr(self, item.name)) is not None}


@dataclass(frozen=True, kw_only=True)
class Output:
    """The output of a run.

    `every` is the time between frames, by default a fiftieth of the interval; or `times` are those of the frames beside
    both ends: a list, or { first = 0.01, count = 20 }, from t_start + first to t_end in equal ratios.
    `checkpoint` is the number of seconds between checkpoints, which may change from one part of a run to the next. One
    that takes more than half a second waits until it costs a hundredth of the time.
    `energy` "auto", the default, is true for n <= 20,000, or n <= 200,000 where sums may be in O(n): the energy costs
    one sum at every frame. It is false with Sinkhorn heads, whose energy costs a whole scaling, and for ensembles.
    `divergence` and `entropy` are whether the rate at which the entropy of the law grows, and itself, are recorded.
    `observables` are observables of the user's own, "module:name".
    `clusters` is the length of `fastpde.clusters` as a fraction of the cloud's radius; true stands for 0.05.
    """

    every: float | None = key(_POSITIVE, None)
    times: tuple[float, ...] | tuple[str, float, int] | None = key(checks.times, None)
    max_tokens: int = key(_COUNT, 100_000)
    checkpoint: float = key(_POSITIVE, 60.0)
    energy: bool | None = key(checks.automatic, None)
    divergence: bool | None = key(_recorded, None)
    entropy: bool | None = key(_recorded, None)
    clusters: float | None = key(_share, None)
    observables: tuple[str, ...] | None = key(checks.own_names, None)


def _costs(name: str, value: object) -> Costs:
    if not isinstance(value, dict):
        checks.refuse(name, value, "a table of the positive numbers direct, fast, threads")
    return Costs.of({word: _POSITIVE(f"{name}.{word}", entry) for word, entry in value.items()}, name)


@dataclass(frozen=True, kw_only=True)
class Backend:
    """The computation of sums: kind, relative tolerance (of sums in O(n) only) and precision.

    A run of many tokens adds the costs by which "auto" chooses, so that it chooses alike when it goes on elsewhere.
    They do not make it another configuration.
    """

    kind: str = key(checks.choice("auto", "direct", "fast"), "auto")
    tol: float = key(checks.number(minimum=1e-14, below=0.1), 1e-8)
    dtype: str = key(checks.choice("float64", "float32"), "float64")
    costs: Costs | None = field(default=None, compare=False, metadata={"check": _costs})

    def settled(self, name: str) -> Backend:
        """Return the section. Raises InputError if it has costs but no choice that depends on them."""
        if self.costs is not None and self.kind != "auto":
            checks.refuse(
                f"{name}.costs", self.costs.table(), f'nothing with kind = "{self.kind}": "auto" chooses by it'
            )
        return self


TOKENS: dict[str, type] = {
    "gaussian": GaussianTokens,
    "ball": RoundTokens,
    "sphere": RoundTokens,
    "mixture": MixtureTokens,
    "file": FileTokens,
}
ATTENTION: dict[str, type] = {**dict.fromkeys(VARIANTS, Single), "multihead": MultiHead}


def by_kind(kinds: dict[str, type]) -> checks.Check:
    """Return the check of a section whose keys depend on its `kind`."""

    def check(name: str, value: object) -> object:
        if not isinstance(value, dict):
            checks.refuse(name, value, "a table")
        if "kind" not in value:
            raise InputError(f"{name}.kind", "nothing", f"one of {', '.join(kinds)}")
        kind = value["kind"]
        if kinds is ATTENTION and isinstance(kind, str) and is_own(kind):
            return read(Single, value, name)
        return read(kinds[checks.choice(*kinds)(f"{name}.kind", kind)], value, name)

    return check


def _check_on_sphere(tokens: Any) -> None:
    """Raise InputError for clouds that are not on the unit sphere; the tokens of a file are checked when it is read."""
    if tokens.kind not in ("sphere", "file"):
        checks.refuse("tokens.kind", tokens.kind, '"sphere" or "file", because time.manifold = "sphere"')
    if tokens.kind == "sphere" and tokens.radius != 1.0:
        checks.refuse("tokens.radius", tokens.radius, '1, because time.manifold = "sphere"')


@dataclass(frozen=True, kw_only=True)
class Config:
    """A whole configuration."""

    seed: int = key(checks.integer(0), 0)
    tokens: GaussianTokens | RoundTokens | MixtureTokens | FileTokens = key(by_kind(TOKENS))
    attention: Single | MultiHead = key(by_kind(ATTENTION))
    time: Time = key(section(Time))
    events: Events = key(section(Events), Events())
    output: Output = key(section(Output), Output())
    backend: Backend = key(section(Backend), Backend())

    def settled(self, name: str) -> Config:
        """Return the configuration with `output.every` filled in. Raises InputError for tokens off the manifold."""
        if self.time.manifold == "sphere":
            _check_on_sphere(self.tokens)
        output, start, end = self.output, self.time.t_start, self.time.t_end
        if output.times is None:
            every = output.every or (end - start) / 50
            return replace(self, output=replace(output, every=every))
        if output.every is not None:
            checks.refuse("output.times", list(output.times), "output.every or output.times, not both")
        times = checks.spread("output.times", output.times, start, end)
        return replace(self, output=replace(output, times=times))
