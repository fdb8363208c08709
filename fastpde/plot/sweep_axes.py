"""What varies in a sweep, as axes of pictures: numbers and categories, and which of them goes on which axis."""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from fastpde.plot import canvas, scales

Array = np.ndarray[Any, Any]
CASE = "case"  # the name of what varies where the cases of a plan have different keys
CURVES = 6  # values of a second parameter that can be told apart as curves
_PANELS = 4  # values of further parameters that get a panel
_LABEL = 24  # characters of a category
_RANDOM = 8  # values of a number from which on they may be random draws


@dataclass(frozen=True)
class CellColumns:
    """The cells of a sweep in columns, each with an entry per cell.

    Attributes:
        varied: key -> values; `CASE` -> what each cell changes, a line for each key.
        states: "finished", "failed", ...
        outcomes: the same, for finished cells with the way in which they ended.
        seconds: of wall time, nan where nothing has run.
        finals: observable -> last values, nan where there is none.
    """

    varied: Mapping[str, Sequence[object]]
    states: Array
    outcomes: Sequence[str]
    seconds: Array
    finals: Mapping[str, Array]

    def __len__(self) -> int:
        return len(self.outcomes)


@dataclass(frozen=True, eq=False)
class SweepParameter:
    """Something that varies: its values as places (cells,) on an axis, those of categories 0, 1, ... with labels."""

    name: str
    places: Array
    labels: tuple[str, ...] = ()

    @property
    def values(self) -> Array:
        """The different places, in their order."""
        return np.unique(self.places)

    @property
    def logarithmic(self) -> bool:
        """Whether the values lie more evenly on a logarithmic axis."""
        values = self.values
        if self.labels or len(values) < 2 or values[0] <= 0.0:
            return False
        if len(values) == 2:
            return bool(values[1] >= 30.0 * values[0])
        return scales.in_ratios(values)

    def words(self, place: float) -> str:
        """Return a value in words: "tokens.n = 100"; a case as it is: "step = 0.1"."""
        word = (
            self.labels[int(place)]
            if self.labels
            else dict(zip(self.values, distinct_words(self.values), strict=True))[place]
        )
        return word if self.name == CASE else f"{self.name} = {word}"


def parameter(name: str, values: Sequence[object]) -> SweepParameter:
    """Return the parameter with these values: an axis of numbers if all of them are numbers, otherwise of words."""
    if all(isinstance(value, int | float) and not isinstance(value, bool) for value in values):
        return SweepParameter(name, np.array(values, dtype=np.float64))
    labels: dict[str, str] = {}  # of each value, by its text
    for value in values:
        if repr(value) not in labels:
            word = _short(value)
            taken = word in labels.values()  # by a long value that begins alike
            labels[repr(value)] = f"{word} ({len(labels)})" if taken else word
    numbers = {text: float(i) for i, text in enumerate(labels)}
    return SweepParameter(name, np.array([numbers[repr(value)] for value in values]), tuple(labels.values()))


def _short(value: object) -> str:
    """Return a value as a label, each of its lines shortened in the middle."""
    text = value if isinstance(value, str) else str(value).lower() if isinstance(value, bool) else str(value)
    cut = (one if len(one) <= _LABEL else f"{one[: _LABEL // 3]}…{one[-_LABEL // 2 :]}" for one in text.split("\n"))
    return canvas.plain("\n".join(cut))


@dataclass(frozen=True)
class SweepLayout:
    """The axes of the pictures of a sweep.

    Attributes:
        x, y: on the axes; y is None where values are drawn against x alone.
        rest: further parameters.
        kind: "curves" against x, one for each value of y; a "map" or a "scatter" of points over x and y; "each": points
            against each parameter in turn.
        repeats: whether cells differ in their seed, or in parameters that are not drawn, alone.
        notes: for a caption.
    """

    x: SweepParameter
    y: SweepParameter | None = None
    rest: tuple[SweepParameter, ...] = ()
    kind: str = "curves"
    repeats: bool = False
    notes: list[str] = field(default_factory=list)

    def panels(self) -> list[tuple[str, Array]]:
        """Return title and cells (cells,) of each panel: one for each of some combinations of further parameters."""
        if not self.rest or self.kind == "each":
            return [("", np.ones(len(self.x.places), dtype=bool))]
        table = np.stack([one.places for one in self.rest], axis=1)
        found, number = np.unique(table, axis=0, return_inverse=True)
        shown = np.unique(np.linspace(0, len(found) - 1, min(len(found), _PANELS)).round().astype(int))
        titles = ["\n".join(p.words(v) for p, v in zip(self.rest, found[i], strict=True)) for i in shown]
        return [(title, number.ravel() == i) for title, i in zip(titles, shown, strict=True)]

    def columns(self) -> str:
        """Return in words which panels there are; "" for one."""
        if not self.rest or self.y is None or self.kind == "each":
            return ""
        total = len(np.unique(np.stack([one.places for one in self.rest], axis=1), axis=0))
        shown, names = len(self.panels()), " and ".join(one.name for one in self.rest)
        every = "each value" if shown == total else f"{shown} of {total} values"
        place = "on the axis and as curves" if self.kind == "curves" else "on the axes"
        return f"{self.x.name} and {self.y.name}, which have most values, {place}; a column for {every} of {names}"


def layout(varied: Mapping[str, Sequence[object]], count: int) -> SweepLayout:
    """Return the axes for the keys that vary over `count` cells."""
    every = [parameter(name, values) for name, values in varied.items()]
    found = [one for one in every if len(one.values) > 1]
    seeds = [one for one in found if _is_seed(one)]
    kept, notes = _independent([one for one in found if not _is_seed(one)])
    kept = _merged(kept)
    same = sorted((one for one in every if len(one.values) == 1), key=_is_seed)
    if not kept:
        x = next(iter([*seeds, *same]), SweepParameter("cell", np.arange(count, dtype=np.float64)))
        return SweepLayout(x, kind="each", notes=notes + _alike([one for one in same if one is not x]))
    notes += _alike(same)
    if seeds:
        notes.append(f"of cells that differ in {seeds[0].name} alone the median")
    repeats = bool(seeds)
    if len(kept) == 1:
        return SweepLayout(kept[0], repeats=repeats, notes=notes)
    numbers = [one for one in kept if not one.labels]
    if _random(numbers):
        kind = "scatter" if len(kept) == 2 else "each"
        rest = tuple(one for one in kept if one not in numbers[:2])
        return SweepLayout(numbers[0], numbers[1], rest, kind, repeats, notes)
    return _grid(kept, repeats, notes)


def _alike(same: list[SweepParameter]) -> list[str]:
    """Return the note about parameters that have one value."""
    return [f"all with {', '.join(one.words(one.places[0]) for one in same)}"] if same else []


def _grid(kept: list[SweepParameter], repeats: bool, notes: list[str]) -> SweepLayout:
    """Return the layout of two parameters or more: the two with most values on axes, a panel for each of the rest."""
    by_size = sorted(kept, key=lambda one: -len(one.values))
    x, y = by_size[:2]
    if x.labels and not y.labels:
        x, y = y, x
    rest = tuple(one for one in kept if one not in (x, y))
    few = not x.labels and len(y.values) <= (CURVES if y.labels else 2)
    return SweepLayout(x, y, rest, "curves" if few else "map", repeats, notes)


def _is_seed(one: SweepParameter) -> bool:
    return one.name.rpartition(".")[2] == "seed"


def _independent(found: list[SweepParameter]) -> tuple[list[SweepParameter], list[str]]:
    """Leave out parameters that another one determines, as those of [[cases]] may; return the rest, and notes."""
    kept: list[SweepParameter] = []
    notes = []
    for one in found:
        leader = next((other for other in kept if _determines(other, one)), None)
        if leader is None:
            kept.append(one)
        else:
            notes.append(f"{one.name} goes with {leader.name}")
    return kept, notes


def _merged(found: list[SweepParameter]) -> list[SweepParameter]:
    """Make one category of parameters that stand together in [[cases]]: words, and what is not combined with all."""
    kept: list[SweepParameter] = []
    for one in found:
        partner = next((other for other in kept if (one.labels or other.labels) and not _combined(other, one)), None)
        if partner is None:
            kept.append(one)
        else:
            words = [f"{first}, {second}" for first, second in zip(_words(partner), _words(one), strict=True)]
            kept[kept.index(partner)] = parameter(f"{partner.name}, {one.name}", words)
    return kept


def _words(one: SweepParameter) -> list[str]:
    return [one.labels[int(place)] for place in one.places] if one.labels else distinct_words(one.places)


def distinct_words(values: Iterable[float]) -> list[str]:
    """Write numbers with three digits, or with as many as tell different ones apart: 0.316, 1, 3.16."""
    known = set(values)
    for digits in range(3, 18):
        rounded = [value if float(value).is_integer() else float(f"{value:.{digits}g}") for value in values]
        words = [f"{value:.{max(digits, 6)}g}" for value in rounded]
        if len(set(words)) == len(known):
            break
    return words


def _combined(first: SweepParameter, second: SweepParameter) -> bool:
    """Return whether each value of `first` comes with each value of `second`."""
    pairs = np.unique(np.stack([first.places, second.places], axis=1), axis=0)
    return len(pairs) == len(first.values) * len(second.values)


def _determines(first: SweepParameter, second: SweepParameter) -> bool:
    """Return whether each value of `first` has one of `second`; of numbers, in rising or falling order, too."""
    pairs = np.unique(np.stack([first.places, second.places], axis=1), axis=0)
    if len(pairs) > len(first.values):
        return False
    steps = np.diff(pairs[:, 1])
    return bool(first.labels or second.labels or (steps >= 0).all() or (steps <= 0).all())


def _random(numbers: list[SweepParameter]) -> bool:
    """Return whether numbers are draws: many values, in far fewer combinations than a grid would have."""
    if len(numbers) < 2 or min(len(one.values) for one in numbers[:2]) < _RANDOM:
        return False
    pairs = np.unique(np.stack([one.places for one in numbers[:2]], axis=1), axis=0)
    return 2 * len(pairs) < len(numbers[0].values) * len(numbers[1].values)
