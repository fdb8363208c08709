"""The colours of all pictures, and the markers and lines beside them, so that no colour alone carries a meaning.

`COLOURS` differ by hue for most readers, and by lightness for all: in CIELAB their L* are 7 or more apart, so that they
can be told apart in grey, and any two are 20 or more apart under protanopia, deuteranopia and tritanopia.
"""

from __future__ import annotations

from typing import Any

INK, FAINT, GRID = "#222222", "#8f8f8f", "#e5e5e5"
COLOURS = ("#165BAC", "#DF6517", "#57B092", "#8F082F", "#B44C8E", "#1F314C", "#EDAB70")
MARKERS = ("o", "s", "^", "D", "v", "P", "X")
_DARK = 0.3  # luminance: white has a contrast of 3 to it, which large words need
LINES: tuple[Any, ...] = (
    "-",
    (0, (6, 1.5)),
    (0, (3, 1.2)),
    (0, (6, 1.5, 1, 1.5)),
    (0, (1, 1)),
    (0, (4, 1, 1, 1, 1, 1)),
    (0, (10, 2)),
)


def text_on(colour: str) -> str:
    """Return the colour of text on an area of a colour: white where that is dark."""
    red, green, blue = (int(colour[i : i + 2], 16) / 255.0 for i in (1, 3, 5))
    return "white" if 0.2126 * red**2.2 + 0.7152 * green**2.2 + 0.0722 * blue**2.2 < _DARK else INK


def look(i: int, *, marker: bool = True, line: bool = True) -> dict[str, Any]:
    """Return colour, marker and line style of the curve with number i, as Matplotlib's `plot` takes them."""
    style: dict[str, Any] = {"color": COLOURS[i % len(COLOURS)]}
    if marker:
        style["marker"] = MARKERS[i % len(MARKERS)]
    if line:
        style["linestyle"] = LINES[i % len(LINES)]
    return style
