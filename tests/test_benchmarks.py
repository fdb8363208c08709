"""Benchmarks can be imported, no time is without its error, and the short run covers them all."""

from __future__ import annotations

import importlib
import inspect
import itertools
import json
import math
import re

import pytest

from benchmarks import kernel_shares, running, scalings, stepping, velocity

from .problems import ROOT
from .scripts.loading import load

MODULES = sorted(path.stem for path in (ROOT / "benchmarks").glob("*.py") if path.stem != "__init__")
TIMES = ("time_", "timeraw_", "peakmem_")
short = load("short_benchmarks")


def classes(module):
    """The classes of a module that asv finds."""
    found = importlib.import_module(f"benchmarks.{module}")
    kinds = (*TIMES, "track_")
    return [
        kind
        for _, kind in inspect.getmembers(found, inspect.isclass)
        if kind.__module__ == found.__name__ and any(name.startswith(kinds) for name in dir(kind))
    ]


def combinations(kind, name):
    """The parameters with which asv calls a method."""
    params = getattr(getattr(kind, name), "params", getattr(kind, "params", ()))
    params = params if not params or isinstance(params[0], list | tuple) else (params,)
    return list(itertools.product(*params))


def full_names():
    """Every benchmark, with its parameters as asv writes them."""
    return [
        (f"{module}.{kind.__name__}.{name}", tuple(map(repr, given)))
        for module in MODULES
        for kind in classes(module)
        for name in dir(kind)
        if name.startswith((*TIMES, "track_"))
        for given in combinations(kind, name)
    ]


def unsaid(kind):
    """What a class should say and does not: an error with bounds beside its times, or why there is none."""
    if not any(name.startswith((*TIMES, "track_")) for name in dir(kind)):
        return []
    if isinstance(getattr(kind, "no_error", None), str):
        return []
    if not hasattr(kind, "track_error"):
        return ["track_error"]
    bounds = [kind().error_bound(*given) for given in combinations(kind, "track_error")]
    return [] if bounds and all(0 < bound < math.inf for bound in bounds) else ["error_bound"]


@pytest.mark.parametrize("module", MODULES)
def test_times_stand_beside_errors(module):
    assert {kind.__name__: unsaid(kind) for kind in classes(module)} == {kind.__name__: [] for kind in classes(module)}


def test_a_time_alone_is_found():
    class Alone:
        def time_it(self):
            pass

    assert unsaid(Alone) == ["track_error"]
    Alone.no_error = "it has no result"
    assert unsaid(Alone) == []


@pytest.mark.parametrize(
    "benchmark, given",
    [
        (velocity.Velocity, ("softmax", "1024x2 float64")),
        (velocity.Summation, ("l2", "auto")),
        (scalings.Velocity, ("K = -Q", "1024x2")),
        (stepping.Methods, ("tsit5",)),
        (running.Checkpoints, ("every step",)),
    ],
)
def test_errors_are_within_their_bounds(benchmark, given):
    one = benchmark()
    one.setup(*given)
    assert one.track_error(*given) <= one.error_bound(*given)


def test_the_short_run_has_every_class():
    """Every pattern finds something, and no class is left out."""
    names = full_names()
    for pattern in short.SHORT:
        assert any(short.selected(name, given, [pattern]) for name, given in names), pattern
    chosen = {name.rpartition(".")[0] for name, given in names if short.selected(name, given, short.SHORT)}
    assert chosen == {name.rpartition(".")[0] for name, _ in names}


def test_the_short_run_finds_failures():
    name, given = "velocity.Velocity.track_error", ("'l2'", "'1024x2 float64'")
    assert short.bound(name, given) == 1e-13
    wrong, skipped = short.judge(
        [(name, given, 1e-15), (name, given, math.nan), ("ranks.Velocity.track_seconds", (), 1.0)]
    )
    assert wrong == [] and len(skipped) == 1
    wrong, _ = short.judge([(name, given, 1e-3), (name, given, None)])
    assert re.search("error 0.001, above", wrong[0]) and wrong[1].endswith("failed")


def test_results_are_read_as_asv_writes_them(tmp_path):
    """Of a benchmark with parameters, only those that were asked for."""
    name = "velocity.Velocity.track_error"
    row = [[1e-15, None], [["'l2'"], ["'1024x2 float64'", "'8192x8'"]], "version"]
    found = {
        "result_columns": ["result", "params", "version"],
        "results": {name: row, "starting.Import.t": [[0.1], [], ""]},
    }
    (tmp_path / "short").mkdir()
    (tmp_path / "short" / "1234-existing-py.json").write_text(json.dumps(found))
    assert list(short.rows(tmp_path, [r"l2.*1024"])) == [(name, ("'l2'", "'1024x2 float64'"), 1e-15)]
    assert len(list(short.rows(tmp_path, [""]))) == 3


def test_what_counts_the_work_of_a_kernel_takes_its_arguments():
    for (module, name), count in kernel_shares.COUNTED.items():
        arguments = [*inspect.signature(getattr(module, name).py_func).parameters]
        taken = inspect.signature(count)
        assert len(taken.bind(*arguments).args) == len(arguments)
        named = [each.name for each in taken.parameters.values() if each.kind is each.POSITIONAL_OR_KEYWORD]
        assert named == arguments[: len(named)]
