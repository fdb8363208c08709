"""The keys of `[tokens]` in a configuration, by kind, see `sections`."""
# ruff: noqa: RUF009  (`key` makes a field; its checks are frozen)

from __future__ import annotations

from dataclasses import dataclass, replace

from fastpde.config import checks
from fastpde.config.matrices import Positions, positions
from fastpde.config.sections import key
from fastpde.errors import InputError

_COUNT = checks.integer(1)
_POSITIVE = checks.number(above=0.0)
_SYSTEMS = "independent clouds; more than 1 is an ensemble"
_POSITIONS = "where tokens stand in the sequence, with masked = true; equal positions are ties"
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

    kind: str = key(checks.choice("gaussian"), says="normal tokens")
    n: int = key(_COUNT, says="tokens")
    d: int = key(_COUNT, says="dimension")
    mean: tuple[float, ...] | None = key(checks.vector, None, says="mean; without it 0")
    std: float | None = key(_deviation, None, says="standard deviation in every direction; without std and cov 1")
    cov: tuple[tuple[float, ...], ...] | None = key(checks.rows, None, says="covariance, d rows, in the place of std")
    systems: int = key(_COUNT, 1, says=_SYSTEMS)
    positions: Positions = key(positions, None, says=_POSITIONS)

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

    kind: str = key(checks.choice("ball", "sphere"), says="uniform tokens in a ball, or on a sphere, about the origin")
    n: int = key(_COUNT, says="tokens")
    d: int = key(_COUNT, says="dimension")
    radius: float = key(_POSITIVE, 1.0, says="radius")
    systems: int = key(_COUNT, 1, says=_SYSTEMS)
    positions: Positions = key(positions, None, says=_POSITIONS)


@dataclass(frozen=True, kw_only=True)
class MixtureTokens:
    """Tokens drawn from sum_m weights_m N(means_m, std^2 I)."""

    kind: str = key(checks.choice("mixture"), says="tokens of several normal laws")
    n: int = key(_COUNT, says="tokens")
    means: tuple[tuple[float, ...], ...] = key(checks.rows, says="means of the components, a row of d numbers each")
    d: int | None = key(_COUNT, None, says="dimension; without it the length of a row of means")
    std: float = key(_deviation, 1.0, says="standard deviation of every component")
    weights: tuple[float, ...] | None = key(
        checks.vector, None, says="how likely each component is; without it equally"
    )
    systems: int = key(_COUNT, 1, says=_SYSTEMS)
    positions: Positions = key(positions, None, says=_POSITIONS)

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

    kind: str = key(checks.choice("file"), says="tokens of a file")
    path: str = key(
        checks.text, says="a .npy file (n, d) or (systems, n, d), or a .csv table with a row for each token"
    )
    n: int | None = key(_COUNT, None, says="the first so many tokens; without it all")
    systems: int | None = key(_COUNT, None, says="the first so many clouds of the file; without it all")
    positions: Positions = key(positions, None, says=_POSITIONS)


TOKENS: dict[str, type] = {
    "gaussian": GaussianTokens,
    "ball": RoundTokens,
    "sphere": RoundTokens,
    "mixture": MixtureTokens,
    "file": FileTokens,
}
