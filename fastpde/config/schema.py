"""Every key of a configuration, with its check and its default, see `sections`."""
# ruff: noqa: RUF009  (`key` makes a field; its checks are frozen)

from __future__ import annotations

from dataclasses import dataclass, field, fields, replace
from typing import Any

from fastpde.config import checks
from fastpde.config.attention_keys import ATTENTION, MultiHead, Single
from fastpde.config.sections import key, read, section
from fastpde.config.token_keys import TOKENS, FileTokens, GaussianTokens, MixtureTokens, RoundTokens
from fastpde.errors import InputError
from fastpde.own_code import is_own
from fastpde.sums.costs import Costs

FIXED = ("euler", "heun", "rk4")
NOISY = ("euler", "heun")
ADAPTIVE = ("dopri5", "tsit5", "bosh3")
# Tokens up to which the energy is on by default: it costs one more sum at every frame, over all pairs or in O(n).
ENERGY_LIMIT, FAST_ENERGY_LIMIT = 20_000, 200_000
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


@dataclass(frozen=True, kw_only=True)
class Time:
    """The time interval, the method and its steps, the manifold, and the noise, which needs "euler" or "heun"."""

    t_start: float = key(checks.number(), 0.0, says="the time of the first state")
    t_end: float = key(checks.number(), says="the time at which the run ends")
    method: str = key(
        checks.choice(*FIXED, *ADAPTIVE), "dopri5", says="the Runge-Kutta method; the first three have fixed steps"
    )
    step: float | None = key(_POSITIVE, None, says="size of a step; of the other methods the first one, else chosen")
    rtol: float = key(checks.number(above=0.0, below=1.0), 1e-6, says="relative error of a step")
    atol: float = key(_POSITIVE, 1e-9, says="absolute error of a step, in the unit of tokens")
    max_steps: int = key(_COUNT, 100_000, says="steps, at most")
    manifold: str = key(
        checks.choice("euclidean", "sphere"),
        "euclidean",
        says='"sphere": tokens of norm 1, as after layer normalisation',
    )
    noise: float = key(checks.number(minimum=0.0), 0.0, says="sigma of dx = Gamma dt + sigma dW, with euler or heun")

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

    steady_state: float | None = key(
        _POSITIVE, None, says="end where no token is faster than this (times the radius, beyond 1)"
    )
    blow_up: float | None = key(_POSITIVE, None, says="end where a token is farther from the origin")
    collapsed: float | None = key(_POSITIVE, None, says="end where all tokens are within this distance of their mean")

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

    every: float | None = key(
        _POSITIVE, None, says="time between frames; without every and times a fiftieth of the interval"
    )
    times: tuple[float, ...] | tuple[str, float, int] | None = key(
        checks.times,
        None,
        says="times of frames beside both ends, as a list, or { first = 0.01, count = 20 } in equal ratios",
    )
    max_tokens: int = key(_COUNT, 100_000, says="tokens that are kept of each frame")
    checkpoint: float = key(
        _POSITIVE, 60.0, says="seconds between checkpoints; a slow one waits until it costs a hundredth of the time"
    )
    energy: bool | None = key(
        checks.automatic,
        None,
        says='whether the energy is recorded; "auto": where it costs little',
    )
    divergence: bool | None = key(
        _recorded, None, says="whether the mean divergence of the field is recorded, the rate of the entropy"
    )
    entropy: bool | None = key(
        _recorded, None, says="whether the entropy is recorded: of one system, without noise, on one process"
    )
    clusters: float | None = key(
        _share,
        None,
        says="whether clusters are counted; a number is their length as a share of the radius, true stands for 0.05",
    )
    observables: tuple[str, ...] | None = key(
        checks.own_names, None, says='observables of your own, "module:name", with --allow-code'
    )


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

    kind: str = key(
        checks.choice("auto", "direct", "fast"), "auto", says="how sums are made: as is faster, exactly, or in O(n)"
    )
    tol: float = key(checks.number(minimum=1e-14, below=0.1), 1e-8, says="relative error of sums in O(n)")
    dtype: str = key(checks.choice("float64", "float32"), "float64", says="precision of tokens and sums")
    costs: Costs | None = field(
        default=None,
        compare=False,
        metadata={"check": _costs, "says": 'the costs by which "auto" chooses; written by runs'},
    )

    def settled(self, name: str) -> Backend:
        """Return the section. Raises InputError if it has costs but no choice that depends on them."""
        if self.costs is not None and self.kind != "auto":
            checks.refuse(
                f"{name}.costs", self.costs.table(), f'nothing with kind = "{self.kind}": "auto" chooses by it'
            )
        return self


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

    seed: int = key(checks.integer(0), 0, says="the seed of all random numbers")
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
