"""What a run will need, against runs, and against counts that are known."""

from __future__ import annotations

import gc
import math
import signal
import time
import tracemalloc

import numpy as np
import pytest

from fastpde import cli, config
from fastpde.config import memory_estimate
from fastpde.run import estimate, machine
from fastpde.run.runner import run
from fastpde.run.trial import trial

TEXT = """
seed = 0
[tokens]
kind = "gaussian"
n = 3000
d = 2
[attention]
kind = "softmax"
K = { scale = -1.0 }
[time]
t_end = 1.0
method = "rk4"
step = 0.1
[output]
every = 0.25
energy = false
[backend]
costs = { direct = 1.0, fast = 1.0 }
"""


def problem(folder, text=TEXT):
    path = folder / "a.toml"
    path.write_text(text)
    return config.load(path)


def test_velocities_are_counted_and_priced(tmp_path):
    """Ten steps of four stages, and one at the end; 9e6 pairs of 1.26 ns."""
    found = estimate.estimate(problem(tmp_path))
    assert found.share == 1.0 and 40 <= found.evaluations <= 42
    one = problem(tmp_path)
    sums = found.direct - estimate.overhead(one) - 5 * estimate._WRITTEN  # of five frames
    assert sums == pytest.approx(40 * 9e6 * 1.26e-9 / (1 + 0.85 * (found.threads - 1)), rel=0.25)
    assert found.fast < found.direct and found.configured == found.fast
    forced = TEXT.replace("costs = { direct = 1.0, fast = 1.0 }", 'kind = "direct"')
    found = estimate.estimate(problem(tmp_path, forced))
    assert found.configured == found.direct


def test_sums_that_no_way_helps_are_said_to_be_direct(tmp_path):
    found = estimate.estimate(problem(tmp_path))
    assert found.refused == 0.0 and not any("are direct" in line for line in found.lines())
    wide = TEXT.replace("n = 3000\nd = 2", "n = 3000\nd = 10").replace("t_end = 1.0", "t_end = 0.2")
    found = estimate.estimate(problem(tmp_path, wide))
    assert found.refused == 1.0 and found.fast == pytest.approx(found.direct, rel=0.2)
    assert found.lines()[2].endswith("; 100% of its sums are direct: no way in O(n) helps")


def test_a_sample_that_is_slow_is_cut_off(tmp_path, monkeypatch):
    monkeypatch.setattr(estimate, "_PATIENCE", 0.0)
    found = estimate.estimate(problem(tmp_path))
    assert found.share == pytest.approx(0.1) and found.evaluations == pytest.approx(40, rel=0.3)
    assert "10%" in found.lines()[-1]


@pytest.mark.parametrize("kind", ["linear", "sigmoid", "sinkhorn", "l2", "exponential"])
def test_every_variant_has_a_price(tmp_path, kind):
    found = estimate.estimate(
        problem(tmp_path, TEXT.replace('"softmax"', f'"{kind}"').replace("step = 0.1", "step = 0.5"))
    )
    assert 0 < found.fast <= found.direct * 1.1  # 3000 tokens are near break-even


def test_disk_is_what_a_run_writes(tmp_path):
    """Within 1.5, beside the constant for pictures, which a run does not draw."""
    many = problem(tmp_path, TEXT.replace("every = 0.25", "every = 0.01"))
    run(many, tmp_path / "out", quiet=True)
    written = sum(path.stat().st_size for path in (tmp_path / "out").iterdir())
    expected = estimate.disk(many, 1.0) - estimate.PICTURES
    assert written / 1.5 < expected < 1.5 * written


def test_memory_is_that_of_the_refusal(tmp_path, monkeypatch):
    """One model: what is estimated is refused above 80 % of the limit."""
    found = estimate.estimate(problem(tmp_path))
    for limit, fits in ((found.memory / 0.79, True), (found.memory / 0.81, False)):
        monkeypatch.setattr(machine, "memory", lambda limit=limit: int(limit))
        if fits:
            problem(tmp_path)
            continue
        with pytest.raises(config.InputError, match="80 %") as caught:
            problem(tmp_path)
        assert caught.value.name == "tokens.n"


def test_memory_grows_with_the_tokens(tmp_path):
    one, two, four = (memory_estimate.at_work(problem(tmp_path).config, 1, n, 2) for n in (10**5, 2 * 10**5, 4 * 10**5))
    assert four - two == 2 * (two - one) > 200 * 2 * 10**5


@pytest.mark.parametrize(
    ("method", "edits", "arrays"),
    [
        ("rk4", {}, 7),
        ("euler", {}, 6),
        ("dopri5", {}, 11),
        ("rk4", {'kind = "softmax"': 'kind = "l2"'}, 7),
        ("rk4", {"[backend]": '[backend]\ndtype = "float32"'}, 7),
        ("rk4", {"K = { scale = -1.0 }": "", "[backend]": '[backend]\ndtype = "float32"'}, 7),
        ("rk4", {"K = { scale = -1.0 }": "", "d = 2": "d = 1"}, 7),
    ],
)
def test_what_a_token_costs_is_what_a_run_allocates(tmp_path, method, edits, arrays):
    """The growth of the largest memory that is traced: tensors and tables do not grow.

    To an eighth: the ways to sum, of which the clock decides, differ by a vector or two.
    """
    text, peaks, few, many = TEXT, [], 100_000, 400_000
    for old, new in ({"t_end = 1.0": "t_end = 0.2", '"rk4"': f'"{method}"'} | edits).items():
        assert old in text
        text = text.replace(old, new)
    for n in (20_000, few, many):
        one = problem(tmp_path, text.replace("n = 3000", f"n = {n}").replace("every = 0.25", "every = 0.15"))
        gc.collect()
        tracemalloc.start()
        try:
            run(one, tmp_path / str(n), quiet=True)
            peaks.append(tracemalloc.get_traced_memory()[1])
        finally:
            tracemalloc.stop()
    each, itemsize = memory_estimate.of_token(one.config, many, one.d), np.dtype(one.config.backend.dtype).itemsize
    assert each.states == arrays * one.d * itemsize
    assert (peaks[2] - peaks[1]) / (many - few) == pytest.approx(sum(each), rel=0.125)


def test_a_hundred_million_tokens_fit_into_24_gb(tmp_path):
    """Of two coordinates, in float64, by rk4, with frames; with 80 % of 24 GB."""
    one = problem(tmp_path, TEXT.replace("K = { scale = -1.0 }", ""))
    needs = memory_estimate.at_work(one.config, 1, 10**8, 2)
    assert 18e9 < needs < 0.8 * 24e9


@pytest.mark.parametrize(
    "edits",
    [
        {"n = 3000": "n = 200"},
        {"n = 3000": "n = 200", "every = 0.25": "every = 0.004"},  # frames take longer than sums
        {"n = 3000": "n = 200", "t_end = 1.0": "t_end = 1e4", "[output]": "[events]\nsteady_state = 0.5\n[output]"},
        {"n = 3000": "n = 20\nsystems = 50", "energy = false": "energy = true"},
    ],
)
def test_small_runs_are_begun_as_they_are(tmp_path, edits):
    """A run of the same length, between half and twice as long: clocks of busy machines say no more.

    Compared with the fastest of some runs, as the estimate is: another process can only make one longer.
    """
    text = TEXT.replace("costs = { direct = 1.0, fast = 1.0 }", "")
    for old, new in edits.items():
        assert old in text
        text = text.replace(old, new)
    one = problem(tmp_path, text)
    found = estimate.estimate(one)
    assert ("50 systems" in found.timed) == ("systems" in text) and found.share == 1.0 and "run" in found.lines()[-1]
    took, expected = math.inf, found.configured - estimate.overhead(one)
    for attempt in range(5):
        began = time.monotonic()
        run(one, tmp_path / f"out{attempt}", quiet=True)
        took = min(took, time.monotonic() - began)
        if 0.5 * took - 0.1 < expected < 2.0 * took + 0.1:
            break
    assert 0.5 * took - 0.1 < expected < 2.0 * took + 0.1
    written = sum(path.stat().st_blocks * 512 for path in (tmp_path / "out0").iterdir())
    assert written / 1.5 < found.disk - estimate.PICTURES < 1.5 * written


def test_a_trial_that_does_not_come_far_says_nothing(tmp_path):
    text = TEXT.replace("costs = { direct = 1.0, fast = 1.0 }", "").replace("t_end = 1.0", "t_end = 1e4")
    text = text.replace("every = 0.25", "every = 100.0")
    assert trial(problem(tmp_path, text.replace("n = 3000", "n = 2000")), 0.5) is None


def test_systems_that_run_at_a_time_need_memory(tmp_path):
    """Three times the frames of a block, and no more than of all systems."""
    text = TEXT.replace("n = 3000", "n = 20\nsystems = 50")
    frames = 20 * 2 * 8 * 5
    one, all_ = (memory_estimate.at_work(problem(tmp_path, text).config, count, 20, 2) for count in (2, 50))
    assert all_ - one == pytest.approx(48 * (3 * frames + 20 * 2 * 8), rel=0.01)
    many = memory_estimate.at_work(problem(tmp_path, text).config, 10**7, 20, 2) - memory_estimate.BASE
    assert many == pytest.approx(3 * memory_estimate.BLOCK + 10**7 * 20 * 2 * 8, rel=0.01)


def test_a_plan_is_estimated(tmp_path, capsys):
    text = TEXT.replace("costs = { direct = 1.0, fast = 1.0 }", "").replace("n = 3000", "n = 100")
    problem(tmp_path, text)
    (tmp_path / "plan.toml").write_text('config = "a.toml"\n[vary]\nseed = { from = 1, to = 20 }\n')
    assert cli.main(["estimate", str(tmp_path / "plan.toml")]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["cells", "time", "memory", "disk", "based"]
    assert lines[0].split() == ["cells", "20"] and "a cell" in lines[1] and "6 cells" in lines[-1]
    (tmp_path / "plan.toml").write_text('config = "a.toml"\n[vary]\ntokens.n = [10, -1]\n')
    assert cli.main(["estimate", str(tmp_path / "plan.toml")]) == 2 and "tokens.n" in capsys.readouterr().err


def test_command_prints_a_table(tmp_path, capsys):
    problem(tmp_path)
    assert cli.main(["estimate", str(tmp_path / "a.toml"), "--threads", "1"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert [line.split()[0] for line in lines] == ["time", "direct", "fast", "memory", "a", "disk", "based"]
    assert sorted(path.name for path in tmp_path.iterdir()) == ["a.toml"]  # nothing was made


def test_a_run_records_the_costs_and_they_make_no_other_configuration(tmp_path, monkeypatch):
    from fastpde.sums import calibration
    from fastpde.sums.costs import Costs

    plain = TEXT.replace("costs = { direct = 1.0, fast = 1.0 }", "").replace("t_end = 1.0", "t_end = 0.1")
    monkeypatch.setattr(calibration, "costs", lambda: Costs(1.5, 0.5))
    first = problem(tmp_path, plain)
    run(first, tmp_path / "out", quiet=True)
    text = (tmp_path / "out" / "config.toml").read_text()
    assert "costs = { direct = 1.5, fast = 0.5, threads = 2.0 }" in text
    stored = config.parse(text)
    assert stored == first.config and stored.backend.costs == Costs(1.5, 0.5)
    assert run(first, tmp_path / "out", quiet=True).message == "already finished"
    assert first.calibrated(stored).config.backend.costs == Costs(1.5, 0.5)  # whatever this machine is


def test_a_signal_ends_an_estimate(tmp_path, launch):
    text = TEXT.replace("costs = { direct = 1.0, fast = 1.0 }", "").replace("t_end = 1.0", "t_end = 1e4")
    problem(tmp_path, text.replace("n = 3000", "n = 1500").replace("every = 0.25", "every = 100.0"))
    process = launch(["estimate", "a.toml"], tmp_path)
    time.sleep(2.0)
    process.send_signal(signal.SIGINT)
    out, errors = process.communicate(timeout=30)
    assert process.returncode == 130 and not out and "stopped by SIGINT" in errors
