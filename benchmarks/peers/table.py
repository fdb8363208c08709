"""Rows as lines of a terminal, and as the table of a page."""

from __future__ import annotations

from collections.abc import Sequence

from .rows import Row

COLUMNS = "{:<30} {:>8} {:>3} {:<8} {:<13} {:>10} {:>10} {:>8} {:>9} {:>9}  {}"
HEADER = COLUMNS.format(
    "work", "n", "d", "dtype", "peer", "fastpde ms", "peer ms", "ratio", "error", "peer's", "remarks"
)
MARK = "(!)"  # behind a ratio whose peer is less accurate than a tenth of what was asked for


def line(row: Row) -> str:
    """Return a row as a line of a terminal."""
    start = (row.work, row.n, row.d, row.dtype, row.peer)
    if row.ratio is None or row.ours is None or row.theirs is None:
        return COLUMNS.format(*start, "", "", "", "", "", row.problem).rstrip()
    numbers = (f"{row.ours * 1e3:.2f}", f"{row.theirs * 1e3:.2f}", f"{row.ratio:.2f}")
    errors = (f"{row.our_error:.1e}", f"{row.their_error:.1e}")
    return COLUMNS.format(*start, *numbers, *errors, "; ".join(remarks(row))).rstrip()


def remarks(row: Row) -> list[str]:
    """Return what has to be said beside the numbers."""
    found = [row.setting] if row.setting else []
    if row.inaccurate:
        found.append(f"PEER MISSES {row.asked:.0e} by more than 10 times")
    if row.missed:
        found.append(f"FASTPDE MISSES {row.asked:.0e} by more than 10 times")
    if row.peer == "own softmax" and row.ratio is not None:
        found.append(f"{row.ratio * row.pairs:.2f} of softmax's pairs per second")
    if row.repeats == 1:
        found.append("one call")
    return found


def markdown(rows: Sequence[Row]) -> str:
    """Return how many times as long peers take, a line per work, precision and peer, and a column per dimension.

    A cell is of the largest n measured, which it names where it is not that of the line; errors are the largest ones.
    """
    known = [row for row in rows if row.ratio is not None]
    dimensions = sorted({row.d for row in known})
    head = ["work", "n", "peer", *(f"d = {d}" for d in dimensions), "largest error", "of the peer"]
    lines = [head, ["---"] * len(head)]
    for key in dict.fromkeys((row.work, row.dtype, row.peer) for row in known):
        mine = [row for row in known if (row.work, row.dtype, row.peer) == key]
        n = max(row.n for row in mine)
        shown = {row.d: row for row in sorted(mine, key=lambda row: row.n)}
        errors = [
            max(e or 0.0 for e in each) for each in zip(*((r.our_error, r.their_error) for r in mine), strict=True)
        ]
        cells = [_cell(shown[d], n) if d in shown else "" for d in dimensions]
        lines.append([f"{key[0]}, {key[1]}", f"{n:,}", key[2], *cells, *(f"{error:.0e}" for error in errors)])
    return "\n".join(f"| {' | '.join(cells)} |" for cells in lines)


def _cell(row: Row, n: int) -> str:
    """Return a ratio, marked if the peer is not as accurate as was asked."""
    size = f" (n = {row.n:,})" if row.n != n else ""
    return f"{row.ratio:.3g}{' ' + MARK if row.inaccurate else ''}{size}"


def legend(rows: Sequence[Row]) -> str:
    """Return what the table means, in a sentence or two."""
    text = "Times as long as fastpde takes (above 1: fastpde is faster), each pair in turns in one process."
    if any(row.inaccurate for row in rows):
        text += f" {MARK}: the peer's error is more than ten times what was asked for, so that times do not compare."
    return text
