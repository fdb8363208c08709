"""What is shown: a bar on a terminal, lines in a log, nothing when quiet."""

from __future__ import annotations

import io

from fastpde.run import progress


class Terminal(io.StringIO):
    def isatty(self):
        return True


def test_lines_come_every_so_many_seconds(monkeypatch):
    now = [100.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    stream = io.StringIO()
    shown = progress.choose(0.0, 4.0, stream, quiet=False)
    assert isinstance(shown, progress.Lines)
    for k in range(1, 9):  # ten seconds and a quarter of time per step
        now[0] += 10
        shown.update(0.25 * k, k)
    lines = stream.getvalue().splitlines()
    assert len(lines) == 2
    assert lines[0] == "fastpde: t = 0.75 of 4 (19 %), 3 steps, about 130 s left"
    shown.close()


def test_a_bar_reaches_its_end():
    stream = Terminal()
    shown = progress.choose(1.0, 3.0, stream, quiet=False)
    assert isinstance(shown, progress.Bar)
    shown.update(2.0, 5)
    shown.update(3.0, 10)
    shown.close()
    assert "100%" in stream.getvalue() and "t = 2/2" in stream.getvalue()


def test_an_ensemble_counts_systems(monkeypatch):
    stream = Terminal()
    shown = progress.choose(0, 8, stream, quiet=False, name=progress.SYSTEMS)
    shown.update(8, 0)
    shown.close()
    assert "systems 8/8" in stream.getvalue() and "steps" not in stream.getvalue()
    now = [0.0]
    monkeypatch.setattr(progress.time, "monotonic", lambda: now[0])
    lines = io.StringIO()
    shown = progress.choose(0, 8, lines, quiet=False, name=progress.SYSTEMS)
    now[0] = 40.0
    shown.update(2, 100)
    assert lines.getvalue() == "fastpde: systems 2 of 8 (25 %), 100 steps, about 120 s left\n"


def test_quiet_says_nothing():
    stream = Terminal()
    shown = progress.choose(0.0, 1.0, stream, quiet=True)
    shown.update(1.0, 1)
    shown.close()
    assert stream.getvalue() == ""
