"""The objects that a configuration describes: its tokens as an array, its attention as an object of the library."""

from __future__ import annotations

import inspect
import math
from collections.abc import Iterable
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np

from fastpde import initial
from fastpde._types import covariance_eigen
from fastpde.attention.variants import load, named, refuse
from fastpde.config import checks, memory_estimate, schema, token_keys
from fastpde.config.attention_keys import VariantKeys
from fastpde.config.matrices import EXACT, Matrix, Scaled, Stored
from fastpde.config.schema import Config
from fastpde.config.shapes import Files, HeadShape, each_head, head_shape, stored_slice
from fastpde.config.token_law import token_law
from fastpde.errors import InputError
from fastpde.observable import Observable
from fastpde.own_code import imported, is_own, refused
from fastpde.sums.costs import Costs

Array = np.ndarray[Any, Any]
_MAX_FRAMES = 1_000_000
_SAME_TIME = 1e-9  # an output time closer to the end than this fraction of `every` is the end


@dataclass(frozen=True)
class Problem:
    """A configuration whose files and shapes agree: systems of n tokens of dimension d, and the shapes of all heads."""

    config: Config
    files: Files
    n: int
    d: int
    shapes: tuple[HeadShape, ...]
    systems: int = 1
    own_observables: tuple[tuple[Observable, Path | None], ...] = ()  # of the user's own, and their files

    def tokens(self, rows: slice | None = None) -> Array:
        """Return the tokens (n, d), those in `rows` alone, or (systems, n, d) if there are several.

        Raises InputError for a file with tokens that are not finite or off the sphere.
        """
        if self.systems == 1:
            return _tokens(self, 0, rows)
        x = np.empty((self.systems, self.n, self.d), dtype=self.config.backend.dtype)
        for system in range(self.systems):
            x[system] = _tokens(self, system, None)
        return x

    def positions(self, rows: slice | None = None) -> Array | None:
        """Return the positions (n,) of the tokens of every system, or of those in `rows`; None: their order.

        Raises InputError for a file with positions that are not finite.
        """
        asked = self.config.tokens.positions
        if asked is None:
            return None
        if asked == "uniform":
            return initial.uniform_positions(self.n, seed=self.config.seed, rows=rows)
        if not isinstance(asked, Stored):
            return np.array(asked[: self.n])[rows or slice(None)]
        found = initial.open_positions(self.files.locate("tokens.positions", asked.path), self.n, "tokens.positions")
        part = found[rows or slice(None)]
        if part.dtype.kind in "iu" and ((part > EXACT) | (part < -EXACT)).any():
            came = f'"{asked.path}" with a position beyond 2^53'
            raise InputError("tokens.positions", came, "numbers that a float holds: whole ones up to 2^53")
        found = np.array(part, dtype=np.float64)
        if not np.isfinite(found).all():
            came = f'"{asked.path}" with a position that is nan or infinite'
            raise InputError("tokens.positions", came, "finite numbers")
        return found

    def times(self) -> Array:
        """Return the times of the output (m,)."""
        return times_of(self.config)

    def events(self) -> list[Any]:
        """Return the event objects."""
        import fastpde as fp

        kinds: dict[str, Any] = {"steady_state": fp.SteadyState, "blow_up": fp.BlowUp, "collapsed": fp.Collapsed}
        return [kinds[name](level) for name, level in self.config.events.given.items()]

    def manifold(self) -> Any:
        """Return the manifold object."""
        import fastpde as fp

        return fp.Sphere() if self.config.time.manifold == "sphere" else fp.Euclidean()

    def backend(self) -> Any:
        """Return the backend object."""
        import fastpde as fp

        asked = self.config.backend
        if asked.kind == "auto":
            return fp.Auto(asked.tol, asked.costs)
        return fp.Fast(asked.tol) if asked.kind == "fast" else fp.Direct()

    @property
    def code(self) -> list[str]:
        """The names "module:name" of the attentions and observables that are code of the user's own."""
        kinds = [head.kind for head in self.config.attention.heads if is_own(head.kind)]
        return list(dict.fromkeys([*kinds, *(self.config.output.observables or ())]))

    @property
    def sources(self) -> dict[str, Path]:
        """The files of that code by the names of their modules, where there is one."""
        found = {head.kind: named(head.kind).source for head in self.config.attention.heads if is_own(head.kind)}
        found |= zip(self.config.output.observables or (), (source for _, source in self.own_observables), strict=True)
        return {f"{name.split(':')[0]}.py": source for name, source in found.items() if source is not None}

    @property
    def is_large(self) -> bool:
        """Whether its sums may be made in O(n)."""
        return memory_estimate.may_be_fast(self.config, self.n, self.d)

    def calibrated(self, recorded: Config | None = None) -> Problem:
        """Return the problem with the costs by which its sums are chosen: those `recorded` by the run that goes on, or
        those of this machine. If it has costs, or no choice, it is returned as it is.
        """
        asked = self.config.backend if recorded is None else recorded.backend
        if recorded is not None:
            return replace(self, config=replace(self.config, backend=asked))
        if asked.kind != "auto" or asked.costs is not None or not self.is_large:
            return self
        import fastpde as fp

        return self.with_costs(fp.Auto(asked.tol).costs.table())

    def with_costs(self, costs: dict[str, float] | None) -> Problem:
        """Return the problem with these costs."""
        found = None if costs is None else Costs.of(costs)
        return replace(self, config=replace(self.config, backend=replace(self.config.backend, costs=found)))

    def attention(self) -> Any:
        """Return the attention object; raises InputError if a file holds numbers that are not finite."""
        return _attention(self)


def times_of(config: Config) -> Array:
    """Return the times of the output (m,): t_start + k every, or those that are given, and both ends."""
    time, every = config.time, config.output.every or math.inf
    if config.output.times is not None:
        return np.unique([time.t_start, *config.output.times, time.t_end])
    before = max(1, math.ceil((time.t_end - time.t_start) / every - _SAME_TIME))
    return np.append(time.t_start + every * np.arange(before), time.t_end)


def load_own(files: Files, names: Iterable[str], where: str = "attention.kind") -> None:
    """Import the variants of the user's own that are among some names. Raises InputError, of the key `where`."""
    for name in filter(is_own, names):
        files.locate(where, f"{name.split(':')[0]}.py")  # no link out of the folder
        if files.code:
            load(name, files.folder, where)
        else:
            refuse(name, where)


def _own_observables(names: tuple[str, ...], files: Files) -> tuple[tuple[Observable, Path | None], ...]:
    """Import the observables of the user's own, and return them with their files. Raises InputError."""
    where, found = "output.observables", []
    for name in names:
        files.locate(where, f"{name.split(':')[0]}.py")  # no link out of the folder
        if not files.code:
            raise refused(name, where, "no observable of your own")
        made, source = imported(name, files.folder, where)
        if not isinstance(made, Observable):
            raise InputError(where, f'"{name}"', f"an fp.Observable called {name.split(':')[1]} in the module")
        found.append((made, source))
    return tuple(found)


def _check_own(name: str, head: VariantKeys) -> None:
    """Raise InputError unless a class of the user's own takes the arguments of its block."""
    taken, given = inspect.signature(named(head.kind).kind), head.own or {}
    try:
        taken.bind(None, None, None, scale=None, **given)
    except TypeError as error:
        need = f"what {head.kind}{taken} takes beside Q, K, V and scale"
        raise InputError(f"{name}.own", checks.show(given), need, f"Python says: {error}.") from error


def resolve(config: Config, files: Files, ranks: memory_estimate.Ranks = memory_estimate.ALONE) -> Problem:
    """Return the problem of a configuration, `output.energy` filled in, to be run on ranks.

    Raises InputError for missing files, shapes that do not fit, and sizes beyond this machine.
    """
    load_own(files, (head.kind for head in config.attention.heads))
    for name, head, number in each_head(config):
        if is_own(head.kind) and not number:
            _check_own(name, head)
    tokens = config.tokens
    if isinstance(tokens, token_keys.FileTokens):
        systems, n, d = _stored_tokens(tokens, files)
    else:
        systems, n, d = tokens.systems, tokens.n, int(tokens.d or 0)
        if isinstance(tokens, token_keys.GaussianTokens) and tokens.cov is not None:
            covariance_eigen("tokens.cov", np.array(tokens.cov))
    _check_sizes(config, systems, n, d, ranks)
    _check_positions(config, files, n)
    shapes = tuple(head_shape(files, head, d) for head in each_head(config))
    _check_layers(config, shapes)
    _check_energy(config)
    if config.output.clusters is not None and systems > 1:
        raise InputError(
            "output.clusters", f"clusters of {systems} systems", "false for an ensemble", "Run one system."
        )
    if config.output.energy is None:
        energy = n <= _energy_limit(config, d) and systems == 1 and not _sinkhorn(config)
        config = replace(config, output=replace(config.output, energy=energy))
    return Problem(config, files, n, d, shapes, systems, _own_observables(config.output.observables or (), files))


def _stored_tokens(tokens: token_keys.FileTokens, files: Files) -> tuple[int, int, int]:
    """Return (systems, n, d) of the tokens of a file."""
    shape = files.array("tokens.path", tokens.path).shape
    if len(shape) not in (2, 3) or 0 in shape:
        raise InputError("tokens.path", f'"{tokens.path}" of shape {shape}', "shape (n, d) or (systems, n, d)")
    systems, n, d = shape if len(shape) == 3 else (1, *shape)
    if tokens.n is not None and tokens.n > n:
        raise InputError("tokens.n", str(tokens.n), f'at most the {n} tokens of "{tokens.path}"')
    if tokens.systems is not None and tokens.systems > systems:
        need = f'at most the {systems} of "{tokens.path}" of shape {shape}'
        raise InputError("tokens.systems", str(tokens.systems), need)
    return tokens.systems or systems, tokens.n or n, d


def _check_positions(config: Config, files: Files, n: int) -> None:
    """Raise InputError for positions that the attention does not see, or that are not those of n tokens."""
    name, asked = "tokens.positions", config.tokens.positions
    if asked is None:
        return
    own = any(named(head.kind).kind.positional for head in config.attention.heads if is_own(head.kind))
    if not config.attention.masked and not own:
        came = asked.toml() if isinstance(asked, Stored) else asked
        need = "none: without attention.masked = true no token sees positions"
        checks.refuse(name, list(came) if isinstance(came, tuple) else came, need)
    if isinstance(asked, Stored):
        initial.open_positions(files.locate(name, asked.path), n, name)
    elif asked != "uniform" and len(asked) != n:
        raise InputError(name, f"{len(asked)} numbers", f"{n} numbers, one for each token")


def _sinkhorn(config: Config) -> bool:
    return any(named(head.kind).scales for head in config.attention.heads)


def _energy_limit(config: Config, d: int) -> int:
    """Return up to how many tokens the energy is recorded if the configuration does not say."""
    fast = config.backend.kind != "direct" and d <= 3 and not config.attention.masked
    several = config.attention.kind == "multihead"
    exponential = all(named(head.kind).sums_in_linear_time for head in config.attention.heads)
    return schema.FAST_ENERGY_LIMIT if fast and exponential and not several else schema.ENERGY_LIMIT


def _check_energy(config: Config) -> None:
    attention = config.attention
    if not config.output.energy or not _sinkhorn(config):
        return
    if attention.kind == "multihead":
        raise InputError("output.energy", "true", "false: Sinkhorn heads have no common energy with others")
    if attention.heads[0].n_half is not None:
        raise InputError("output.energy", "true", "false: the energy needs converged potentials, not attention.n_half")


def _check_sizes(config: Config, systems: int, n: int, d: int, ranks: memory_estimate.Ranks) -> None:
    frames = memory_estimate.frames(config)
    if frames > _MAX_FRAMES:
        every = config.output.every
        name, means = ("output.times", "") if every is None else ("output.every", f"{every:g}, which means ")
        raise InputError(name, f"{means}{frames:.3g} frames", f"at most {_MAX_FRAMES} frames")
    memory_estimate.check(config, systems, n, d, ranks)


def _check_layers(config: Config, shapes: tuple[HeadShape, ...]) -> None:
    layered = [h for h, shape in enumerate(shapes) if shape.layers]
    if not layered:
        return
    if config.time.t_start < 0:
        need = "at least 0: layers divide the time from 0 to t_end"
        raise InputError("time.t_start", f"{config.time.t_start:g}", need)
    heads = list(each_head(config))
    first = shapes[layered[0]].layers
    for h in layered:
        if shapes[h].layers != first:
            raise InputError(heads[h][0], f"{shapes[h].layers} layers", f"{first} layers, as the heads before")


def _tokens(problem: Problem, system: int, rows: slice | None) -> Array:
    """Return the tokens (n, d) of one system, or those in `rows`."""
    tokens: Any = problem.config.tokens
    seed, dtype, n, d = problem.config.seed, problem.config.backend.dtype, problem.n, problem.d
    if tokens.kind == "file":
        path = problem.files.locate("tokens.path", tokens.path)
        x = initial.from_file(path, n=n, dtype=dtype, name="tokens.path", system=system, rows=rows)
        problem.manifold().check(x, "tokens.path")
        return x
    x = token_law(tokens, d).sample(n, seed, dtype=dtype, system=system, rows=rows)
    if not _finite(x):
        raise InputError("tokens", f"numbers that overflow in {dtype}", f"a cloud within the range of {dtype}")
    return x


def _finite(x: Array) -> bool:
    """Return whether all numbers are finite. A block of rows is checked at a time, to save memory."""
    return all(np.isfinite(x[start : start + initial.BLOCK]).all() for start in range(0, len(x), initial.BLOCK))


class _Parameters:
    """The arrays of one head: (a, b), or (L, a, b) for the layers of a file."""

    def __init__(self, problem: Problem, index: int, head: tuple[str, VariantKeys, int]) -> None:
        self.problem, self.index, self.shape = problem, index, problem.shapes[index]
        self.name, self.block, self.number = head

    def array(self, letter: str, matrix: Matrix | None) -> Array:
        """Return one parameter in the precision of the run."""
        shape = self._wanted(letter)
        name, dtype = f"{self.name}.{letter}", self.problem.config.backend.dtype
        if matrix is None or matrix == "identity":
            return np.eye(*shape, dtype=dtype)
        if isinstance(matrix, Scaled):
            return (matrix.scale * (self.array("Q", self.block.Q) if letter == "K" else np.eye(*shape))).astype(dtype)
        if matrix == "normal":
            # Key 1: parameters (tokens have 0); then the head and the letter, so no two matrices share numbers.
            source = initial.stream(self.problem.config.seed, 1, self.index, "QKVW".index(letter))
            return (source.standard_normal(shape) / math.sqrt(shape[1])).astype(dtype)
        found: Any = matrix
        if isinstance(matrix, Stored):
            found = stored_slice(self.problem.files, name, matrix, self.number)
        with np.errstate(over="ignore"):  # reported below, with the key
            values = np.array(found, dtype=dtype)
        if not np.isfinite(values).all():
            came = "an entry that is nan, infinite or too large"
            raise InputError(name, came, f"numbers that are finite in {dtype}")
        return values

    def _wanted(self, letter: str) -> tuple[int, int]:
        k, dv, d = self.shape.k, self.shape.dv, self.problem.d
        return {"Q": (k, d), "K": (k, d), "V": (dv, d), "W": (d, dv)}[letter]

    def scale(self) -> float:
        """Return the scale as a number."""
        value = self.block.scale
        if isinstance(value, float):
            return value
        return 1.0 / math.sqrt(self.shape.k if value == "1/sqrt(k)" else self.problem.d)


def _layers(problem: Problem, array: Array) -> Any:
    if array.ndim == 2:
        return array
    import fastpde as fp

    return fp.Layers(array, problem.config.time.t_end)


def _head(problem: Problem, parameters: _Parameters) -> Any:
    block = parameters.block
    variant = named(block.kind)
    q, k, v = (_layers(problem, parameters.array(letter, getattr(block, letter))) for letter in "QKV")
    own = {word: getattr(block, word) for word in variant.own_keys if word in vars(block) and not is_own(block.kind)}
    try:
        return variant.kind(q, k, v, scale=parameters.scale(), **own, **(block.own or {}))
    except InputError:
        raise
    except Exception as error:  # of a class of the user's own
        came = f"{type(error).__name__}: {error}"
        raise InputError(f"{parameters.name}.own", came, "arguments that the class takes") from error


def _outputs(problem: Problem, heads: list[_Parameters]) -> Any:
    """Return W of all heads: None, or a list of arrays (d, dv), or layers of them where the file has layers."""
    if all(getattr(head.block, "W", None) is None for head in heads):
        return None
    return [_layers(problem, head.array("W", getattr(head.block, "W", None))) for head in heads]


def _attention(problem: Problem) -> Any:
    import fastpde as fp

    parameters = [_Parameters(problem, i, head) for i, head in enumerate(each_head(problem.config))]
    heads = [_head(problem, one) for one in parameters]
    attention = heads[0]
    if problem.config.attention.kind == "multihead":
        attention = fp.MultiHead(heads, W=_outputs(problem, parameters))
    return fp.Masked(attention) if problem.config.attention.masked else attention
