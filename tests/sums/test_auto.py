"""Direct sums or sums in O(n): what is chosen, by which costs, and that the choice depends on nothing else."""

from __future__ import annotations

import json
from types import SimpleNamespace

import numpy as np
import pytest

import fastpde as fp
from fastpde.sums import calibration, chebyshev_grid, masked_windows, ways
from fastpde.sums.cell_nodes import Cells
from fastpde.sums.costs import TYPICAL, Costs, Estimate, may_choose, pair_seconds
from fastpde.sums.tree_pair import TreePair

SLOW_PAIRS, SLOW_GRIDS = Costs(direct=3.0, fast=0.1), Costs(direct=0.1, fast=3.0)


def softmax(d):
    return fp.Softmax(*[np.eye(d)] * 3)


def cloud(n, d, seed=0):
    return np.random.default_rng(seed).standard_normal((n, d))


def sums(attention, x, backend, **options):
    """(how many sums were direct, how many fast) of one velocity."""
    attention.velocity(x, backend=backend, **options)
    stats = backend.stats()
    return stats["direct_sums"], stats["fast_sums"]


@pytest.fixture
def no_measuring(monkeypatch):
    def measure():
        raise AssertionError("a machine was measured")

    monkeypatch.setattr(calibration, "costs", measure)


def test_small_systems_are_direct_to_the_bit_without_a_look(no_measuring, monkeypatch):
    monkeypatch.setattr("fastpde.sums.summation.reduced_sum", None)
    x = cloud(1500, 2)
    auto = fp.Auto()
    got = softmax(2).velocity(x, backend=auto)
    np.testing.assert_array_equal(got, softmax(2).velocity(x, backend="direct"))
    assert auto.stats() == {"direct_sums": 1.0, "fast_sums": 0.0}  # nothing else to tell


def test_large_systems_are_fast_where_few_coordinates_carry_the_logits(no_measuring):
    """Clear cases need no measured costs. 1e-8 of the spread, 5, and the rounding of the direct sum."""
    x = cloud(60_000, 2)
    auto = fp.Auto()
    got = softmax(2).velocity(x, backend=auto)[:200]
    assert np.abs(got - softmax(2).velocity(x, at=x[:200], backend="direct")).max() < 1e-7
    assert auto.stats()["fast_sums"] == 1.0 and 0 < auto.stats()["fast_error_bound"] < 1e-8


def test_where_many_coordinates_carry_the_logits_sums_are_direct():
    assert sums(softmax(8), cloud(5000, 8), fp.Auto(costs=TYPICAL)) == (1.0, 0.0)
    assert sums(fp.Sigmoid(*[np.eye(8)] * 3), cloud(5000, 8), fp.Auto(costs=TYPICAL)) == (1.0, 0.0)


def test_each_head_is_chosen_for_by_itself():
    thin, wide = np.eye(1, 8), np.eye(8)
    heads = fp.MultiHead([fp.Softmax(thin, thin, wide), fp.Softmax(wide, wide, wide)])
    assert sums(heads, cloud(6000, 8), fp.Auto(costs=TYPICAL)) == (1.0, 1.0)


def test_costs_decide_between_the_two():
    """A size where a grid and a direct sum take about as long; then a table does, as a run records it."""
    x = cloud(2700, 2)
    assert sums(softmax(2), x, fp.Auto(costs=SLOW_PAIRS)) == (0.0, 1.0)
    assert sums(softmax(2), x, fp.Auto(costs=SLOW_GRIDS.table())) == (1.0, 0.0)
    masked = fp.Masked(softmax(2))
    assert sums(masked, cloud(6000, 2), fp.Auto(costs=SLOW_PAIRS)) == (0.0, 1.0)
    assert sums(masked, cloud(6000, 2), fp.Auto(costs=SLOW_GRIDS)) == (1.0, 0.0)
    spread = 30 * cloud(7000, 2)  # no grid will do, a tree may
    assert sums(softmax(2), spread, fp.Auto(costs=SLOW_PAIRS)) == (0.0, 1.0)
    assert sums(softmax(2), spread, fp.Auto(costs=SLOW_GRIDS)) == (1.0, 0.0)


def test_direct_sums_of_auto_are_those_of_direct():
    x = cloud(2700, 2)
    got = softmax(2).velocity(x, backend=fp.Auto(costs=SLOW_GRIDS))
    np.testing.assert_array_equal(got, softmax(2).velocity(x, backend="direct"))


def test_a_batch_of_small_systems_stays_fused_with_its_bits():
    x = cloud(2 * 40, 2).reshape(2, 40, 2)
    runs = [fp.solve(softmax(2), x, (0.0, 0.5), backend=b) for b in ("auto", fp.Auto(1e-6), "direct")]
    assert [run.stats["path"] for run in runs] == ["fused", "fused", "batched"]
    np.testing.assert_array_equal(runs[0].x, runs[1].x)


def test_solve_counts_the_sums():
    sol = fp.solve(softmax(1), cloud(3000, 1), (0.0, 0.1), method="euler", step=0.05, backend=fp.Auto(costs=SLOW_PAIRS))
    assert (sol.stats["direct_sums"], sol.stats["fast_sums"]) == (0.0, sol.stats["evaluations"])


def test_more_threads_favour_direct_sums():
    """They are shared out whole; of a sum in O(n) a part is not, and so is the look that it takes to choose it."""
    one, many, wide = Costs(threads=1.0), Costs(threads=64.0), np.dtype(np.float64)
    shared, mixed, serial = Estimate(1.0), Estimate(1.0, 0.1), Estimate(0.0, 1.0)
    assert many.seconds(shared) < one.seconds(shared) / 30
    assert one.seconds(mixed) / 10 < many.seconds(mixed) < one.seconds(mixed)
    assert many.seconds(serial) == one.seconds(serial)
    x = cloud(6000, 2)
    assert sums(softmax(2), x, fp.Auto(costs=one)) == (0.0, 1.0)
    assert sums(softmax(2), x, fp.Auto(costs=many)) == (1.0, 0.0)
    assert one.worth_planning(2500.0**2, 4, wide) and not many.worth_planning(2500.0**2, 4, wide)
    assert not one.worth_planning(2500.0**2, 4, np.dtype(np.float32))  # direct sums are four times faster


def test_costs():
    """Twice the costs take twice as long; more columns and large scores take longer."""
    wide, single = np.dtype(np.float64), np.dtype(np.float32)
    assert Costs(direct=2.0).seconds(Estimate(pairs=1.0)) == 2 * TYPICAL.seconds(Estimate(1.0))
    assert Costs(fast=2.0).seconds(Estimate(1.0)) == 2 * TYPICAL.seconds(Estimate(pairs=1.0))
    assert pair_seconds(4, single) < pair_seconds(4, wide) < pair_seconds(40, wide) < pair_seconds(40, wide, 1.0)
    assert TYPICAL.seconds(Estimate(TYPICAL.within(0.5, 0.1), 0.1)) == pytest.approx(0.5)
    assert may_choose(10_000, 2) and not may_choose(1000, 2)
    assert Costs.of({"direct": 0.5, "fast": 2, "threads": 8}) == Costs(0.5, 2.0, 8.0)
    assert Costs.of({"direct": 0.5, "fast": 2}) == Costs(0.5, 2.0)  # of an older run
    for wrong, kind, name in (
        (3.0, fp.InputTypeError, "costs"),
        ({"direct": 1.0}, fp.InputError, "costs"),
        ({"direct": 1.0, "fast": -1.0}, fp.InputError, "costs.fast"),
        ({"direct": float("nan"), "fast": 1.0}, fp.InputError, "costs.direct"),
        ({"direct": True, "fast": 1.0}, fp.InputError, "costs.direct"),
    ):
        with pytest.raises(kind) as caught:
            fp.Auto(costs=wrong)
        assert caught.value.name == name


@pytest.mark.parametrize(
    "way, owner, name",
    [
        ("grid", chebyshev_grid, "on_grid"),
        ("tree", TreePair, "attend"),
        ("windows", masked_windows, "_in_windows"),
        ("nodes", Cells, "gathered"),
    ],
)
def test_warming_up_reaches_every_kind_of_sum(way, owner, name, monkeypatch):
    """With too few points it would be summed directly, and compiled in the first run that needs it."""
    original, calls = getattr(owner, name), []

    def counted(*arguments):
        calls.append(name)
        return original(*arguments)

    monkeypatch.setattr(owner, name, counted)
    ways.warmup(lambda _: None, [np.float64], [each for each in ways.WAYS if each.name == way])
    assert calls


@pytest.fixture
def kept(tmp_path, monkeypatch):
    """A file of costs of its own, and what is measured: other numbers each time."""
    file, counter = tmp_path / "costs.json", iter(range(1, 100))
    monkeypatch.setattr(calibration, "path", lambda: file)
    monkeypatch.setattr(calibration, "measure", lambda: Costs(float(next(counter)), 1.0))
    calibration.costs.cache_clear()
    yield file
    calibration.costs.cache_clear()


def again():
    """As a new process would."""
    calibration.costs.cache_clear()
    return calibration.costs()


def test_a_machine_is_measured_once(kept):
    assert calibration.costs().direct == 1.0
    assert again().direct == 1.0
    assert kept.stat().st_mode & 0o077 == 0  # private
    assert [path.name for path in kept.parent.iterdir()] == ["costs.json"]


@pytest.mark.parametrize(
    "damage", ["", "{", "[]", '{"costs": {"direct": 2.0, "fast": 1.0}, "digest": "0"}', "\x00" * 50]
)
def test_damaged_costs_are_measured_again(kept, damage):
    calibration.costs()
    kept.write_text(damage)
    assert again().direct == 2.0
    assert again().direct == 2.0  # and kept
    assert json.loads(kept.read_text())["costs"] == {"direct": 2.0, "fast": 1.0, "threads": 2.0}


def test_of_two_processes_the_first_measures_for_both(kept, monkeypatch):
    def late():
        calibration._keep(kept, Costs(7.0, 1.0))
        return Costs(8.0, 1.0)

    monkeypatch.setattr(calibration, "measure", late)
    assert calibration.costs().direct == 7.0


def test_without_a_place_costs_are_typical(kept, monkeypatch):
    monkeypatch.setattr(calibration, "path", lambda: kept.parent / "gone" / "costs.json")
    assert calibration.costs() == TYPICAL
    monkeypatch.setattr(calibration, "path", lambda: None)
    assert again() == TYPICAL


def test_a_measurement_is_one_of_this_machine(monkeypatch):
    """On one whose direct sums take three times as long as the typical one's, and the others half: its clock is ours.
    In few digits, so that a table of text keeps it."""
    now = [0.0]
    monkeypatch.setattr(calibration, "time", SimpleNamespace(thread_time=lambda: now[0]))
    for name, made, factor in (("_direct", calibration._direct, 3.0), ("_fast", calibration._fast, 0.5)):

        def slow(*arguments, made=made, factor=factor):
            call, price = made(*arguments)
            calls = iter([call])  # made once

            def timed():
                next(calls, lambda: None)()
                now[0] += factor * price

            return timed, price

        monkeypatch.setattr(calibration, name, slow)
    found = calibration.measure()
    assert (found.direct, found.fast) == (3.0, 0.5) and found.threads >= 1.0
    assert found == found.rounded() == Costs.of(json.loads(json.dumps(found.table())))
