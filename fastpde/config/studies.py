"""Configurations of the studies of the command line: strict, every key with its check and its default.

A study without a configuration has all defaults. `load` reads a file into a `Plan`; `dumps` writes it as understood.
"""
# ruff: noqa: RUF009  (`key` makes a field; its checks are frozen)

from __future__ import annotations

from dataclasses import dataclass, fields
from operator import attrgetter
from typing import Any, ClassVar

from fastpde.attention.variants import VARIANTS, chosen, named, suiting
from fastpde.config import attention_keys, checks, emit, schema, token_keys
from fastpde.config.build import Problem, load_own, resolve
from fastpde.config.sections import key, read, section
from fastpde.config.shapes import Files
from fastpde.errors import InputError
from fastpde.own_code import is_own

_COUNT = checks.integer(1)
_SEED = checks.integer(0)
_is_closed = attrgetter("is_closed")
_CLOSED = suiting(_is_closed)
_COMPOSED = ("multihead", "masked")
_PAIRS = (*VARIANTS, *_COMPOSED)
_LAWS = ("ball", "gaussian", "sphere", "annulus", "box", "mixture")
_LIMITS = ("softmax", "l2", "sigmoid", "sinkhorn", *_COMPOSED, "exponential")
_SIZES = (100, 316, 1000, 3162, 10_000)
_TASKS = ("recall", "regression", "sorting")
_TRAINED = ("softmax", "l2", "sigmoid", "sinkhorn")
_CASES = ((2, 2), (3, 3), (3, 2), (3, 1), (4, 4), (4, 2), (5, 5))
_SPECTRA = ((0.5,), (1.0,), (1.5,), (-1.0,), (1.0, 0.5), (1.0, -1.0), (-1.0, -0.5))
_UNNORMALISED = ("exponential", "linear", "sigmoid")
_SIGNS = ("positive", "negative", "indefinite")
_MOST = 64  # dimensions: a bound on what a typing error can ask for
_ROOT = "studies of Gaussian laws need a field that keeps them Gaussian"


def _list(item: Any, example: str) -> Any:
    """Return the check of a list of different values, each of which passes the check `item`."""

    def check(name: str, value: object) -> tuple[Any, ...]:
        if not isinstance(value, list) or not value:
            checks.refuse(name, value, f"a list, as {example}")
        found = tuple(item(f"{name}[{i}]", entry) for i, entry in enumerate(value))
        if len(set(found)) < len(found):
            checks.refuse(name, value, "each value once")
        return found

    return check


_DIMENSIONS = _list(checks.integer(1, _MOST), "[3, 4, 5]")


@dataclass(frozen=True, kw_only=True)
class RankCollapse:
    """The configuration of `fp.studies.rank_collapse`."""

    dimensions: tuple[int, ...] = key(_DIMENSIONS, (3, 4, 5))
    draws: int = key(_COUNT, 100)
    variant: str = key(attention_keys.variant(*_CLOSED), "softmax")
    values: str = key(checks.choice("identity", "gram"), "identity")
    rank: int | None = key(_COUNT, None)
    seed: int = key(_SEED, 0)

    def settled(self, name: str) -> RankCollapse:
        """Return the section. Raises InputError if `rank` is more than a Q (rank, d) can have."""
        if self.rank is not None and self.rank > min(self.dimensions):
            checks.refuse("rank", self.rank, f"at most {min(self.dimensions)}, the smallest of dimensions")
        return self


@dataclass(frozen=True, kw_only=True)
class PhaseDiagram:
    """The configuration of `fp.studies.phase_diagram`."""

    dimension: int = key(checks.integer(1, _MOST), 2)
    draws: int = key(_COUNT, 500)
    variant: str = key(attention_keys.variant(*_CLOSED), "softmax")
    seed: int = key(_SEED, 0)


@dataclass(frozen=True, kw_only=True)
class Starts:
    """The starts of `fp.studies.grid`: those of grid x grid points of [-limit, limit]^2 that lie in the unit disc."""

    grid: int = key(checks.integer(1, 1000), 10, says="points per axis")
    limit: float = key(
        checks.number(minimum=0.0, below=1.0 + 1e-12), 0.9,
        says="half the side of the square of points; those outside of the unit disc are left out",
    )  # fmt: skip

    def settled(self, name: str) -> Starts:
        """Return the section. Raises InputError if its four points are all outside the disc."""
        if self.grid == 2 and 2 * self.limit**2 >= 1:
            checks.refuse(f"{name}.limit", self.limit, "a number below 0.7 with grid = 2: corners are in no disc")
        return self


@dataclass(frozen=True, kw_only=True)
class Span:
    """The time interval of the paths, and the number of times that are recorded in it."""

    t_end: float = key(checks.number(above=0.0), 1e3, says="the last time")
    frames: int = key(checks.integer(1, 10_000), 160, says="number of times that are recorded")


# Some laws blow up, and the others end on one of the lines u^T A u = 0 (Theory 4.3): like experiment 5 of Theory 10.
_MIXED = attention_keys.Single(
    kind="softmax",
    K=((-0.2, -0.4), (-0.9, -0.8)),
    V=((1.8, -0.4), (0.3, -0.1)),
)


@dataclass(frozen=True, kw_only=True)
class CovariancePaths:
    """The configuration of `fp.studies.covariance_paths`; `seed` is that of matrices that are "normal"."""

    seed: int = key(_SEED, 0, says='of matrices that are "normal"')
    attention: attention_keys.Single | attention_keys.MultiHead = key(schema.by_kind(attention_keys.ATTENTION), _MIXED)
    starts: Starts = key(section(Starts), Starts())
    time: Span = key(section(Span), Span(), says="the times of the paths")

    def settled(self, name: str) -> CovariancePaths:
        """Return the configuration. Raises InputError if its attention is masked."""
        if self.attention.masked:
            checks.refuse("attention.masked", True, "false: masked attention moves one law per position")
        return self


@dataclass(frozen=True, kw_only=True)
class MeanField:
    """The configuration of `fp.studies.mean_field`."""

    # Keys without which a text is that of an older version, whose study was another one.
    always: ClassVar[frozenset[str]] = frozenset({"laws"})
    variants: tuple[str, ...] = key(_list(attention_keys.variant(*_PAIRS), '["softmax", "l2"]'), _LIMITS)
    sizes: tuple[int, ...] = key(_list(checks.integer(2, 10**9), "[100, 1000]"), _SIZES)
    draws: int = key(checks.integer(2), 12)
    laws: tuple[str, ...] = key(_list(checks.choice(*_LAWS), '["ball", "gaussian"]'), ("ball", "gaussian"))
    dimension: int = key(checks.integer(1, _MOST), 2)
    strengths: tuple[float, ...] = key(_list(checks.number(above=0.0), "[0.25]"), (0.25,))
    times: int = key(checks.integer(2, 1000), 3)
    steps: int = key(checks.integer(1, 100_000), 12)
    points: int = key(checks.integer(1, 100_000), 32)
    distances: bool = key(checks.boolean, True)
    clt_draws: int = key(checks.integer(0, 10**7), 1000)
    seed: int = key(_SEED, 0)

    def settled(self, name: str) -> MeanField:
        """Return the section. Raises InputError if it has too few steps for its times, or one cloud for a variance."""
        if self.steps < self.times - 1:
            checks.refuse("steps", self.steps, f"at least {self.times - 1}, one less than times")
        if self.clt_draws == 1:
            checks.refuse("clt_draws", 1, "0, or at least 2 clouds")
        return self


@dataclass(frozen=True, kw_only=True)
class Stability:
    """The configuration of `fp.studies.stability`."""

    variants: tuple[str, ...] = key(_list(attention_keys.variant(*_PAIRS), '["softmax", "l2"]'), _PAIRS)
    draws: int = key(_COUNT, 25)
    n: int = key(checks.integer(2, 2000), 48)
    dimension: int = key(checks.integer(1, _MOST), 2)
    radius: float = key(checks.number(above=0.0), 1.0)
    speed: float = key(checks.number(above=0.0), 0.5)
    t_end: float = key(checks.number(above=0.0), 1.0)
    times: int = key(checks.integer(2, 10_000), 11)
    seed: int = key(_SEED, 0)


def _case(name: str, value: object) -> tuple[int, int]:
    """Return a pair [d, k]. Raises InputError."""
    if not isinstance(value, list) or len(value) != 2:
        checks.refuse(name, value, "a pair, as [3, 2]: the dimension, and the rows of Q and K")
    d, k = value
    return checks.integer(2, _MOST)(f"{name}[0]", d), checks.integer(1, _MOST)(f"{name}[1]", k)


@dataclass(frozen=True, kw_only=True)
class StationaryPoints:
    """The configuration of `fp.studies.stationary_points`."""

    cases: tuple[tuple[int, int], ...] = key(_list(_case, "[[3, 3], [3, 2]]"), _CASES)
    draws: int = key(_COUNT, 100)
    tau: float = key(checks.number(minimum=100.0), 1e8)
    seed: int = key(_SEED, 0)


@dataclass(frozen=True, kw_only=True)
class SequenceTask:
    """The configuration of `fp.studies.sequence_task`."""

    tasks: tuple[str, ...] = key(_list(checks.choice(*_TASKS), '["recall"]'), _TASKS)
    variants: tuple[str, ...] = key(_list(checks.choice(*_TRAINED), '["softmax", "l2"]'), _TRAINED)
    rates: tuple[float, ...] = key(_list(checks.number(above=0.0), "[0.01, 0.1]"), (0.003, 0.01, 0.03, 0.1, 0.3))
    seeds: int = key(checks.integer(1, 10**6), 10)
    steps: int = key(checks.integer(20), 300)
    batch: int = key(_COUNT, 16)
    length: int = key(checks.integer(2), 12)
    layers: int = key(_COUNT, 2)
    heads: int = key(_COUNT, 1)
    rank: int = key(_COUNT, 4)
    seed: int = key(_SEED, 0)


def _spectrum(name: str, value: object) -> tuple[float, ...]:
    """Return one eigenvalue or two, not all 0. Raises InputError."""
    if not isinstance(value, list) or not 1 <= len(value) <= 2:
        checks.refuse(name, value, "one eigenvalue of A or two, as [1.0, -1.0]")
    found = tuple(checks.number()(f"{name}[{i}]", number) for i, number in enumerate(value))
    return found if any(found) else checks.refuse(name, value, "an eigenvalue that is not 0")


def _increasing(name: str, value: object) -> tuple[float, ...]:
    """Return increasing numbers > 0. Raises InputError."""
    found: tuple[float, ...] = _list(checks.number(above=0.0), "[2.0, 4.0]")(name, value)
    return found if found == tuple(sorted(found)) else checks.refuse(name, value, "increasing numbers")


@dataclass(frozen=True, kw_only=True)
class BlowUp:
    """The configuration of `fp.studies.blow_up`."""

    spectra: tuple[tuple[float, ...], ...] = key(_list(_spectrum, "[[1.0], [1.0, -1.0]]"), _SPECTRA)
    variants: tuple[str, ...] = key(_list(checks.choice(*_UNNORMALISED), '["linear"]'), _UNNORMALISED)
    radii: tuple[float, ...] = key(_increasing, (2.0, 3.0, 4.0, 5.0, 6.0, 8.0, 10.0, 12.0))
    plane_radii: tuple[float, ...] = key(_increasing, (2.0, 3.0, 4.0))
    turns: tuple[float, ...] = key(_list(checks.number(), "[0.0, 90.0]"), (0.0, 60.0))
    times: tuple[float, ...] = key(_increasing, (0.05, 0.5, 2.0))


@dataclass(frozen=True, kw_only=True)
class EnergyConvexity:
    """The configuration of `fp.studies.energy_convexity`."""

    dimensions: tuple[int, ...] = key(_DIMENSIONS, (1, 2, 3))
    gaussians: int = key(_COUNT, 4000)
    spectra: tuple[str, ...] = key(_list(checks.choice(*_SIGNS), '["positive"]'), _SIGNS)
    seed: int = key(_SEED, 0)

    def settled(self, name: str) -> EnergyConvexity:
        """Return the section. Raises InputError if no class of laws is left."""
        if self.spectra == ("indefinite",) and self.dimensions == (1,):
            checks.refuse(
                "spectra", list(self.spectra), "another spectrum: an indefinite A needs a dimension of 2 or more"
            )
        return self


def _grid(config: CovariancePaths) -> tuple[int, float]:
    return config.starts.grid, config.starts.limit


Section = (
    RankCollapse | PhaseDiagram | CovariancePaths | MeanField | Stability | StationaryPoints | SequenceTask
    | BlowUp | EnergyConvexity
)  # fmt: skip
STUDIES: dict[str, type[Section]] = {
    "rank-collapse": RankCollapse,
    "phase-diagram": PhaseDiagram,
    "covariance-paths": CovariancePaths,
    "mean-field": MeanField,
    "stability": Stability,
    "sequence-task": SequenceTask,
    "stationary-points": StationaryPoints,
    "blow-up": BlowUp,
    "energy-convexity": EnergyConvexity,
}


@dataclass(frozen=True)
class Plan:
    """A study by name, with its checked configuration; `files` is the folder of its matrices."""

    name: str
    config: Section
    files: Files

    @property
    def rows(self) -> int:
        """The number of laws, cells, pairs, models or classes of laws. Raises InputError if no setting has a limit."""
        import fastpde as fp
        from fastpde.studies import limit_settings

        found = self.config
        if isinstance(found, CovariancePaths):
            return len(fp.studies.grid(*_grid(found)))
        if isinstance(found, MeanField):
            laws = limit_settings.named_laws(found.laws, found.dimension)
            asked, _ = limit_settings.settings(laws, found.variants, found.strengths)
            return limit_settings.cells_of(asked, vars(found))
        if isinstance(found, BlowUp):
            planes = sum(len(spectrum) == 2 for spectrum in found.spectra)
            per_variant = (len(found.spectra) - planes) * len(found.radii)
            return len(found.variants) * (per_variant + planes * len(found.turns) * len(found.plane_radii))
        if isinstance(found, EnergyConvexity):
            return 2 * sum(d > 1 or spectrum != "indefinite" for d in found.dimensions for spectrum in found.spectra)
        if isinstance(found, SequenceTask):
            return found.seeds * len(found.rates) * len(found.variants) * len(found.tasks)
        several = {RankCollapse: "dimensions", Stability: "variants", StationaryPoints: "cases"}.get(type(found))
        return found.draws * (len(getattr(found, several)) if several else 1)

    @property
    def code(self) -> dict[str, str]:
        """The digests of the files of the user's own variants, by the names of these."""
        match self.config:
            case CovariancePaths(attention=attention):
                asked = [head.kind for head in attention.heads]
            case RankCollapse(variant=one) | PhaseDiagram(variant=one):
                asked = [one]
            case MeanField(variants=several) | Stability(variants=several):
                asked = list(several)
            case _:
                asked = []
        return {name: named(name).digest for name in asked if is_own(name)}

    @property
    def resumable(self) -> bool:
        """Whether the study keeps finished cells in a file and goes on from there."""
        return not isinstance(self.config, RankCollapse | PhaseDiagram | CovariancePaths)

    def run(self, progress: Any, cells: Any = None) -> Any:
        """Run the study and return its result, an `fp.studies.Study`. cells: the file of finished cells.

        Raises InputError for a file's numbers, and for cells of another study.
        """
        import fastpde as fp

        found = self.config
        if isinstance(found, CovariancePaths):
            attention = self.problem().attention()
            starts, span = fp.studies.grid(*_grid(found)), (0.0, found.time.t_end)
            return fp.studies.covariance_paths(attention, starts, span, frames=found.time.frames, progress=progress)
        study: Any = getattr(fp.studies, self.name.replace("-", "_"))
        kept = {"cells": cells} if self.resumable else {}
        return study(**{item.name: getattr(found, item.name) for item in fields(found)}, **kept, progress=progress)

    def problem(self) -> Problem:
        """Return the problem with the attention's shapes, as of a run with tokens of dimension 2. Raises InputError."""
        found = self.config
        assert isinstance(found, CovariancePaths)
        tokens = token_keys.GaussianTokens(kind="gaussian", n=1, d=2, std=1.0)
        time = schema.Time(t_end=found.time.t_end)
        config = schema.Config(seed=found.seed, tokens=tokens, attention=found.attention, time=time)
        problem = resolve(config, self.files)
        for i, head in enumerate(found.attention.heads):
            if not named(head.kind).keeps_gaussians:
                where = f"attention.heads[{i}].kind" if found.attention.kind == "multihead" else "attention.kind"
                some = ", ".join(f'"{name}"' for name in suiting(attrgetter("keeps_gaussians")))
                checks.refuse(where, head.kind, f"one of {some}: {_ROOT}")
        if any(shape.layers is not None for shape in problem.shapes):
            raise InputError("attention", "layers", "matrices that are constant in time: limits are of t to infinity")
        return problem


def plan(name: str, table: dict[str, Any], files: Files) -> Plan:
    """Return the plan of the study `name` from the keys of a TOML table. Raises InputError naming the key at fault."""
    found = Plan(name, read(STUDIES[name], table, ""), files)
    match found.config:
        case CovariancePaths():
            found.problem()
        case RankCollapse(variant=asked) | PhaseDiagram(variant=asked):
            load_own(files, [asked], "variant")
            chosen("variant", asked, _is_closed)
        case MeanField(variants=several):
            load_own(files, several, "variants")
            for asked in several:
                if asked not in _COMPOSED:
                    chosen("variants", asked, lambda variant: not variant.kind.positional)
        case Stability(variants=several):
            load_own(files, several, "variants")
    return found


def dumps(found: Plan) -> str:
    """Return the configuration as TOML, defaults filled in."""
    config = found.config
    if not isinstance(config, CovariancePaths):
        return "\n".join(emit.keys(config)) + "\n"
    lines = [f"seed = {config.seed}", "", *emit.attention(config.attention)]
    for name in ("starts", "time"):
        lines += ["", f"[{name}]", *emit.keys(getattr(config, name))]
    return "\n".join(lines) + "\n"
