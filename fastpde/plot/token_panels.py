"""Pictures of moving tokens: the cloud at several times in one frame; for d = 1 the paths against time."""

from __future__ import annotations

from collections.abc import Callable
from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import FixedLocator, MaxNLocator

from fastpde import initial
from fastpde.plot import canvas, masses, scales, spheres, view

Array = np.ndarray[Any, Any]
MAX_POINTS = 4000  # more points would only fill the picture
PATHS = 200  # of tokens in one dimension
_PANELS, _COLUMNS = 6, 3
_FEW = 8.0  # a cloud that fills less than 1/8 of its panel is also drawn in an inset
_EARLY = 0.5  # of the whole displacement in the first eighth of the frames: early frames are shown
_CORNERS = ((0.0, 0.0), (1.0, 0.0), (0.0, 1.0), (1.0, 1.0))
_INSET = 0.4  # of the width of a panel
_THIN, _THICK = 0.2, 8.0  # points: the limits of the width of a path, of which the mean is 1 where tokens have weights
WEIGHTS = "areas: weights of tokens"
MERGED = "discs: tokens that cannot be told apart, areas by their number"
MERGED_WEIGHTS = "discs: tokens that cannot be told apart, areas by their weights"
INSETS = "insets: the same cloud at its own scale"


class Frames(Protocol):
    """Tokens `value` (f, m, d) at times `time` (f,)."""

    @property
    def time(self) -> Array: ...

    @property
    def value(self) -> Array: ...


class Kept(NamedTuple):
    """Tokens that are in memory, as `Frames`."""

    time: Array
    value: Array


def of_tokens(
    t: Array, x: Array, t_final: float, x_final: Array, status: str = "", weights: Array | None = None
) -> Figure:
    """Draw tokens x (m, n, d) at times t (m,), thinned to as many times and tokens as a picture can show, and the last
    ones x_final (n, d) at t_final, where a run has ended with a status; weights (n,) of the tokens, None: all alike.
    """
    some = initial.some_of(x.shape[1], PATHS if x.shape[2] == 1 else MAX_POINTS)
    ended = len(t) > 0 and t[-1] == t_final
    times, count = (t, len(t)) if ended else (np.append(t, t_final), len(t) + 1)

    def clouds(frames: Array) -> Array:
        return np.stack([(x[i] if i < len(t) else x_final)[some] for i in frames])

    shares = None if weights is None else weights[some] / weights[some].sum()
    if x.shape[2] == 1:
        return paths(Kept(times, clouds(np.arange(count))), x.shape[1], end=ending(status), weights=shares)
    frames = chosen(count, clouds)
    return panels(Kept(times[frames], clouds(frames)), x.shape[1], end=ending(status), weights=shares)


def chosen(count: int, clouds: Callable[[Array], Array]) -> Array:
    """Return the indices of the frames, out of `count`, that panels show: at equal distances.

    Where tokens make half of their way in the first eighth of the frames: in equal ratios.
    clouds: returns the tokens (f, m, d) of frames (f,).
    """
    even = np.unique(np.linspace(0, count - 1, _PANELS).round().astype(int))
    if count <= 2 * _PANELS:
        return even
    first, soon, last = np.asarray(clouds(np.array([0, count // 8, count - 1])), dtype=np.float64)
    way = float(np.linalg.norm(last - first))
    if not 0.0 < _EARLY * way <= float(np.linalg.norm(soon - first)):
        return even
    return np.unique(np.append(0, np.geomspace(1, count - 1, _PANELS - 1).round().astype(int)))


class Cloud(NamedTuple):
    """What all panels of a picture have in common: colours (m, 4), the names of axes, the frame, and weights (m,)."""

    colours: Array
    names: tuple[str, ...]
    frame: view.Frame
    weights: Array | None = None

    def draw(self, axes: Any, points: Array) -> set[str]:
        """Draw points (m, 2 or 3) into axes, with an inset if they are close together; return what a caption says."""
        _frame(axes, self.frame, self.names)
        if self.frame.sphere:
            spheres.ground(axes, len(self.names))
        said = self._scatter(axes, points, self.frame)
        near = view.close(points, self.frame.width, _FEW)
        if near is not None:
            said |= {INSETS} | self._inset(axes, points, near)
        return said

    def _scatter(self, axes: Any, points: Array, frame: view.Frame, size: float = 1.0) -> set[str]:
        """Draw a cloud into axes that are smaller than a panel by a factor `size`; return what a caption says."""
        found = masses.discs(points, self.colours, frame.width, self.weights)
        look: dict[str, Any] = {
            "s": found.areas * size,
            "c": found.colours,
            "alpha": None,
            "linewidths": 0.6 * found.several,
            "edgecolors": canvas.INK,
        }
        if points.shape[1] == 3:
            look["depthshade"] = False  # colour shows the order at the start, not depth
            look["zorder"] = 3
            if frame.sphere:
                look["c"] = spheres.paler(found.colours, spheres.seen(axes, found.places))
        axes.scatter(*found.places.T, **look)
        said = set() if self.weights is None else {WEIGHTS}
        return said | ({MERGED if self.weights is None else MERGED_WEIGHTS} if found.several.any() else set())

    def _inset(self, axes: Any, points: Array, near: view.Frame) -> set[str]:
        """Draw a cloud at its own scale into the corner of axes that is farthest from it."""
        three = points.shape[1] == 3
        low = np.array([limit[0] for limit in self.frame.limits[:2]])
        place = (points[:, :2].mean(axis=0) - low) / self.frame.width
        corner = max(_CORNERS[2:] if three else _CORNERS, key=lambda at: float(np.hypot(*(np.array(at) - place))))
        left, bottom = (0.02 + at * (0.96 - _INSET) for at in corner)
        kind = {"projection": "3d"} if three else {}
        inset = axes.inset_axes([left, bottom, _INSET, _INSET], **kind)
        _frame(inset, near, ("",) * points.shape[1])
        inset.set(xticks=[], yticks=[], **({"zticks": []} if three else {}))
        text, side = f"width {float(f'{near.width:.2g}'):g}", "center" if three else "right" if corner[0] else "left"
        above = corner[1] == 0.0
        inset.set_title(text, fontsize=canvas.SMALL, pad=2 if above else -canvas.SMALL - 2, y=float(above), loc=side)
        inset.patch.set(alpha=0.9)
        return self._scatter(inset, points, near, _INSET)


def _frame(axes: Any, frame: view.Frame, names: tuple[str, ...]) -> None:
    """Set limits, ticks and names of the axes."""
    for letter, limit, name in zip("xyz", frame.limits, names, strict=False):
        getattr(axes, f"set_{letter}lim")(*limit)
        axis = getattr(axes, f"{letter}axis")
        axis.set_major_locator(
            FixedLocator([-1.0, 0.0, 1.0]) if frame.sphere else MaxNLocator(3 if len(names) == 3 else 4)
        )
        getattr(axes, f"set_{letter}label")(name)
    if len(names) == 3:
        axes.set_box_aspect((1, 1, 1), zoom=0.92)
        axes.tick_params(pad=1)
        for letter in "xyz":
            getattr(axes, f"{letter}axis").labelpad = -3
        axes.patch.set_visible(False)  # it would hide the names of axes beside it
    else:
        axes.set_aspect("equal", adjustable="box")


def order(first: Array, *, sphere: bool = False) -> tuple[Array, str]:
    """Return colours (m, 4) of points (m, c) by their order at the start, and this in words."""
    if sphere and first.shape[1] == 2:
        angle = np.arctan2(first[:, 1], first[:, 0])
        return canvas.shades(angle, 0.85), "colour: order by angle at the start"
    return canvas.shades(first[:, 0], 0.85), "colour: order along the first axis at the start"


def title(t: float) -> str:
    """Return the title of a panel at time t."""
    return f"t = {t:.4g}"


def ending(status: str) -> str:
    """Return what a title says of the status with which a run has ended; "" for the end of its time span."""
    return "" if status in ("", "completed") else f"\n({status.replace('_', ' ')})"


def tokens(shown: int, total: int = 0) -> str:
    """Return how many of all tokens are drawn, in words: "4000 of 1,000,000 tokens"."""
    count = max(shown, total)
    return f"{f'{shown} of ' * (total > shown)}{count:{',' * (total > shown)}} token{'s' * (count != 1)}"


@canvas.in_style
def panels(data: Frames, total: int = 0, end: str = "", weights: Array | None = None) -> Figure:
    """Draw the cloud at each time (f,), d >= 2, in a panel of its own, all at one scale.

    total: the number of tokens, of which these may be some; end: of the title of the last panel; weights (m,): of the
    tokens, which sum to 1, None: all alike.
    """
    sphere = view.on_sphere(data.value)
    shown = view.of(data.value[-1], sphere=sphere)
    points = np.stack([shown(x) for x in data.value])
    colours, meaning = order(points[0], sphere=sphere)
    cloud = Cloud(colours, shown.labels, view.frame(points, sphere=sphere), weights)
    rows, columns, three = -(-len(points) // _COLUMNS), min(_COLUMNS, len(points)), len(shown.labels) == 3
    drawn = canvas.figure(max(5.0, 3.1 * columns), 3.1 * rows + 0.6)
    lay_out(drawn, space=three)
    said: set[str] = set()
    for i, (t, x) in enumerate(zip(data.time, points, strict=True)):
        axes: Any = drawn.add_subplot(rows, columns, i + 1, **({"projection": "3d"} if three else {}))
        said |= cloud.draw(axes, x)
        axes.set_title(title(float(t)) + end * (i == len(points) - 1))
        if not three:
            outer(axes, left=i % columns == 0, bottom=i + columns >= len(points))
    parts = [shown.caption, tokens(data.value.shape[1], total), meaning, *sorted(said)]
    canvas.caption(drawn, "; ".join(part for part in parts if part))
    return drawn


def lay_out(drawn: Figure, *, space: bool) -> None:
    """Lay out panels of equal sides, of the plane or of space."""
    if space:  # how far the labels of such axes reach is not known to the layout
        drawn.set_layout_engine("constrained", rect=(0.0, 0.01, 0.98, 0.98))
    else:
        drawn.set_layout_engine("compressed")


def outer(axes: Any, *, left: bool, bottom: bool) -> None:
    """Remove the names and the numbers of axes that other panels of the same frame have."""
    if not left:
        axes.set_ylabel("")
        axes.tick_params(labelleft=False)
    if not bottom:
        axes.set_xlabel("")
        axes.tick_params(labelbottom=False)


@canvas.in_style
def paths(data: Frames, total: int = 0, end: str = "", weights: Array | None = None) -> Figure:
    """Draw the paths of tokens in one dimension against time; total, end and weights: as of `panels`."""
    drawn = canvas.figure(7.0, 4.5)
    axes = drawn.add_subplot()
    x = data.value[:, :, 0].astype(np.float64)
    known = np.full(x.shape[1], 0.8) if weights is None else np.clip(x.shape[1] * weights, _THIN, _THICK)
    for path, colour, width in zip(x.T, canvas.shades(x[0]), known, strict=True):
        axes.plot(data.time, path, color=colour, linewidth=width, alpha=0.8, marker="." if len(x) == 1 else "")
    if np.abs(x).max() > 50 * max(np.abs(x[0]).max(), 1e-300):
        axes.set_yscale("symlog", linthresh=float(max(np.abs(x[0]).max(), 1e-300)))
    scales.times(axes, data.time)
    axes.set_ylabel("x")
    words = f"{tokens(x.shape[1], total)} against time; colour: order at the start"
    words += "" if weights is None else "; width: weight"
    axes.set_title(words + (f"{end[:-1]} at {title(float(data.time[-1]))})" if end else ""))
    canvas.tidy(axes)
    return drawn
