"""Word of compilation: a bar on a terminal, one line in a log, nothing in the second process or when quiet."""

from __future__ import annotations

import io
from types import SimpleNamespace

import numba
import pytest

from fastpde import compiling

from . import problems

SHOWS = """
import sys
import numpy as np, fastpde as fp
from fastpde import compiling
compiling._SOON = 0.1
fp.solve(fp.Softmax(*[np.eye(2)] * 3), np.random.default_rng(0).normal(size=(300, 2)), (0.0, 0.1), progress=True)
print(0)
"""
LINE = "fastpde: compiling kernels, which later runs on this machine find in a cache\n"


class Terminal(io.StringIO):
    def isatty(self):
        return True


@pytest.fixture
def clock(monkeypatch):
    now = SimpleNamespace(seconds=0.0)
    monkeypatch.setattr(compiling.time, "monotonic", lambda: now.seconds)
    return now


def pass_by(word, clock, seconds, inner=3):
    """Compile a function, and `inner` others for it."""
    word.notify(SimpleNamespace(is_start=True))
    for _ in range(inner):
        clock.seconds += seconds / inner
        word.notify(SimpleNamespace(is_start=True))
        word.notify(SimpleNamespace(is_start=False))
    word.notify(SimpleNamespace(is_start=False))


@pytest.mark.parametrize("kind", [io.StringIO, Terminal])
def test_short_compilation_is_not_shown(clock, kind):
    stream = kind()
    word = compiling._Word(stream)
    pass_by(word, clock, 0.9)
    clock.seconds += 100  # while nothing is compiled
    assert stream.getvalue() == ""


def test_a_log_has_one_line(clock):
    stream = io.StringIO()
    word = compiling._Word(stream)
    for _ in range(5):
        pass_by(word, clock, 0.5)
    assert stream.getvalue() == LINE


def test_a_terminal_has_a_bar_that_goes_away(clock):
    stream = Terminal()
    word = compiling._Word(stream)
    for _ in range(3):
        pass_by(word, clock, 0.6)
    frames = [frame.strip() for frame in stream.getvalue().replace("\n", "\r").split("\r")]
    assert "fastpde: compiling kernels for this and later runs, 8 functions so far" in frames
    assert frames[-1] == ""


def test_seconds_count_the_outermost_function_and_one_under_way(clock):
    word = compiling._Word(None)
    pass_by(word, clock, 0.5)
    clock.seconds += 100
    word.notify(SimpleNamespace(is_start=True))
    clock.seconds += 0.25
    assert word.seconds() == pytest.approx(0.75)


@pytest.mark.parametrize("quiet", [False, True])
def test_functions_that_numba_compiles_are_noticed(monkeypatch, quiet):
    monkeypatch.setattr(compiling, "_SOON", 0.0)
    stream = io.StringIO()
    with compiling.shown(stream, quiet=quiet) as seconds:
        assert numba.njit(lambda x: x + 1)(2) == 3
    assert seconds() > 0.0
    assert stream.getvalue() == ("" if quiet else LINE)
    numba.njit(lambda x: x + 2)(2)
    assert stream.getvalue() == ("" if quiet else LINE)


def test_a_run_says_so_in_the_first_process_alone(tmp_path):
    (_, first), (_, second) = (problems.run(SHOWS, FASTPDE_CACHE_DIR=tmp_path) for _ in range(2))
    assert first.count(LINE) == 1 and LINE not in second
