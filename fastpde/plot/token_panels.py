"""Pictures of moving tokens: the cloud at several times, each at its own scale; for d = 1 the paths against time."""

from __future__ import annotations

from typing import Any, NamedTuple, Protocol

import numpy as np
from matplotlib.figure import Figure
from matplotlib.ticker import MaxNLocator

from fastpde import initial
from fastpde.plot import canvas, view

Array = np.ndarray[Any, Any]
MAX_POINTS = 4000  # more points would only fill the picture
PATHS = 200  # of tokens in one dimension
_PANELS, _COLUMNS = 6, 3


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


def of_tokens(t: Array, x: Array, t_final: float, x_final: Array, status: str = "") -> Figure:
    """Draw tokens x (m, n, d) at times t (m,), thinned to as many times and tokens as a picture can show, and the last
    ones x_final (n, d) at t_final, where a run has ended with a status.
    """
    some = initial.some_of(x.shape[1], PATHS if x.shape[2] == 1 else MAX_POINTS)
    ended = len(t) > 0 and t[-1] == t_final
    times, count = (t, len(t)) if ended else (np.append(t, t_final), len(t) + 1)
    frames = np.arange(count) if x.shape[2] == 1 else chosen(count)
    stored = x[frames if ended else frames[:-1]][:, some]
    shown = Kept(times[frames], stored if ended else np.concatenate([stored, x_final[None, some]]))
    if x.shape[2] == 1:
        return paths(shown, x.shape[1], end=ending(status))
    return panels(shown, x.shape[1], end=ending(status))


def chosen(count: int) -> Array:
    """Return the indices of the frames, out of `count`, that panels show."""
    return np.unique(np.linspace(0, count - 1, _PANELS).round().astype(int))


def scatter(axes: Any, points: Array, colours: Array, names: tuple[str, ...]) -> Any:
    """Draw one cloud (m, 2 or 3) with equal scales, few ticks and named axes; return the points' artist."""
    size = float(np.clip(6000 / len(points), 3, 30))
    look: dict[str, Any] = {"s": size, "c": colours, "alpha": 0.75, "linewidths": 0}
    if points.shape[1] == 3:
        look["depthshade"] = False  # colour shows the order at the start, not depth
    artist = axes.scatter(*points.T, **look)
    frame(axes, points, names)
    return artist


def frame(axes: Any, points: Array, names: tuple[str, ...]) -> None:
    """Set limits, ticks and names of the axes around a cloud."""
    for letter, limit, name in zip("xyz", view.limits(points), names, strict=False):
        getattr(axes, f"set_{letter}lim")(*limit)
        axis = getattr(axes, f"{letter}axis")
        axis.set_major_locator(MaxNLocator(3 if len(names) == 3 else 4))
        axis.set_tick_params(labelsize=7 if len(names) == 3 else 8)
        getattr(axes, f"set_{letter}label")(name, fontsize=9)
    if len(names) == 3:
        axes.set_box_aspect((1, 1, 1), zoom=0.85)
    else:
        axes.set_aspect("equal", adjustable="box")


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


def caption(shown: view.View, count: str, more: str) -> str:
    """Return the text below a picture: the projection, the number of tokens, the meaning of colours, and `more`."""
    parts = [shown.caption, count, "colour: order along the first axis at the start", more]
    return "; ".join(part for part in parts if part)


def panels(data: Frames, total: int = 0, end: str = "") -> Figure:
    """Draw the cloud at each time (f,), d >= 2, in a panel of its own.

    total: the number of tokens, of which these may be some; end: of the title of the last panel.
    """
    shown = view.of(data.value[-1])
    rows = -(-len(data.time) // _COLUMNS)
    columns = min(_COLUMNS, len(data.time))
    drawn = canvas.figure(max(5.0, 3.2 * columns), 3.25 * rows + 0.4)
    colours = canvas.shades(shown(data.value[0])[:, 0])
    kind = {"projection": "3d"} if len(shown.labels) == 3 else {}
    if kind:  # the layout does not know how far the labels of 3-D axes reach
        drawn.set_layout_engine("constrained", rect=(0.0, 0.01, 0.97, 0.96))
    for i, (t, x) in enumerate(zip(data.time, data.value, strict=True)):
        axes = drawn.add_subplot(rows, columns, i + 1, **kind)
        scatter(axes, shown(x), colours, shown.labels)
        axes.set_title(title(float(t)) + end * (i == len(data.time) - 1), fontsize=11)
    count = tokens(data.value.shape[1], total)
    canvas.caption(drawn, caption(shown, count, "each panel at its own scale"))
    return drawn


def paths(data: Frames, total: int = 0, end: str = "") -> Figure:
    """Draw the paths of tokens in one dimension against time; total and end: as of `panels`."""
    drawn = canvas.figure(7.0, 4.5)
    axes = drawn.add_subplot()
    x = data.value[:, :, 0].astype(np.float64)
    for path, colour in zip(x.T, canvas.shades(x[0]), strict=True):
        axes.plot(data.time, path, color=colour, linewidth=0.8, alpha=0.8, marker="." if len(x) == 1 else "")
    if np.abs(x).max() > 50 * max(np.abs(x[0]).max(), 1e-300):
        axes.set_yscale("symlog", linthresh=float(max(np.abs(x[0]).max(), 1e-300)))
    axes.set_xlabel("t")
    axes.set_ylabel("x")
    words = f"{tokens(x.shape[1], total)} against time; colour: order at the start"
    axes.set_title(words + (f"{end[:-1]} at {title(float(data.time[-1]))})" if end else ""), fontsize=10)
    axes.spines[["top", "right"]].set_visible(False)
    return drawn
