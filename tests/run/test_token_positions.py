"""Positions of the tokens of a run under a mask: where they come from, and that every part of a run has the same."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from conftest import SMALL
from results import result

import fastpde as fp
from fastpde import config, initial
from fastpde.config import memory_estimate
from fastpde.errors import InputError
from fastpde.run import estimate, inspect, runner, sweep_folder
from fastpde.run.signals import Stopped, StopSignals

N = 30
SHUFFLED = np.random.default_rng(0).permutation(N) / 4.0  # exact in float32, too
TIES = [float(i // 3) for i in reversed(range(N))]


def masked(value: object, *, systems: int = 1, more: str = "") -> str:
    text = SMALL.replace("d = 2", f"d = 2\nsystems = {systems}\npositions = {value}")
    return text.replace('"softmax"', '"softmax"\nmasked = true') + more


def load(folder: Path, text: str) -> config.Problem:
    (folder / "a.toml").write_text(text)
    return config.load(folder / "a.toml")


def run(problem: config.Problem, out: Path) -> fp.Run:
    assert runner.run(problem, out, quiet=True).code == 0
    assert inspect.verify(out)[1] == []
    return fp.open_run(out)


def files(folder: Path) -> None:
    np.save(folder / "p.npy", SHUFFLED.astype(np.float32))
    np.save(folder / "column.npy", SHUFFLED[:, None])
    np.save(folder / "longer.npy", np.append(SHUFFLED, [7.0, 8.0]))
    (folder / "p.csv").write_text("place\n" + "".join(f"{p}\n" for p in SHUFFLED))


@pytest.mark.parametrize("value", ['"p.npy"', '"column.npy"', '"longer.npy"', '"p.csv"', SHUFFLED.tolist()])
def test_where_positions_come_from(tmp_path, value):
    files(tmp_path)
    problem = load(tmp_path, masked(value))
    assert (problem.positions() == SHUFFLED).all() and problem.positions().dtype == np.float64
    assert (problem.positions(slice(7, 19)) == SHUFFLED[7:19]).all()
    assert config.parse(config.dumps(problem.config)) == problem.config


def test_uniform_positions_are_drawn_from_the_seed(tmp_path):
    problem = load(tmp_path, masked('"uniform"'))
    drawn = problem.positions()
    assert drawn.shape == (N,) and 0 <= drawn.min() < drawn.max() < 1 and len(set(drawn)) == N
    assert not np.array_equal(drawn, load(tmp_path, masked('"uniform"').replace("seed = 3", "seed = 4")).positions())
    many = initial.uniform_positions(10_000, seed=3)
    assert (many[:N] == drawn).all() and (
        initial.uniform_positions(10_000, seed=3, rows=slice(4000, 9000)) == many[4000:9000]
    ).all()
    assert abs(many.mean() - 0.5) < 5 / np.sqrt(12 * len(many))  # five standard deviations
    assert not np.isin(many, initial.stream(3, 0, 1, 0).random(10_000)).any()  # no numbers of tokens


def test_the_order_is_the_default(tmp_path):
    """Its text is that of earlier versions: the digests of their runs and cells stay."""
    given, none = (
        load(tmp_path, masked('"order"')),
        load(tmp_path, masked('"order"').replace('positions = "order"', "")),
    )
    assert given.config == none.config and given.positions() is None
    assert "positions" not in config.dumps(given.config)
    found = run(given, tmp_path / "a.run")
    assert (found.positions == np.arange(N)).all() and not (tmp_path / "a.run" / "positions.csv").exists()
    assert run(load(tmp_path, SMALL), tmp_path / "b.run").positions is None


@pytest.mark.parametrize("systems", [1, 3])
@pytest.mark.parametrize("value", ['"uniform"', TIES, '"p.npy"'])
def test_a_run_is_solved_with_its_positions(tmp_path, value, systems):
    files(tmp_path)
    problem = load(tmp_path, masked(value, systems=systems, more="energy = true\nmax_tokens = 20\n"))
    found = run(problem, tmp_path / "a.run")
    arguments = runner.arguments(problem) | {"t_eval": problem.times()}
    sol = fp.solve(problem.attention(), problem.tokens(), **arguments, positions=problem.positions())
    other = fp.solve(problem.attention(), problem.tokens(), **arguments)
    stored = sol.x[..., found.ids, :]
    assert np.asarray(found.x).tobytes() == stored.tobytes()
    assert not np.allclose(stored, other.x[..., found.ids, :])
    assert (found.positions == problem.positions()[found.ids]).all() and len(found.ids) == 20
    energy = fp.interaction_energy(problem.attention(), sol.x[-1], positions=problem.positions())
    np.testing.assert_allclose(found.observables["energy"][-1], energy, rtol=1e-12)  # sums in another order
    first, last = (np.asarray(found.x)[i] if systems == 1 else np.asarray(found.x)[i, 0] for i in (0, -1))
    assert fp.conditional_wasserstein(first, last, found.positions) > 0


@pytest.mark.parametrize("systems", [1, 3])
def test_a_run_goes_on_with_the_same_bits(tmp_path, monkeypatch, systems):
    problem = load(tmp_path, masked('"uniform"', systems=systems, more="checkpoint = 1e-9\n"))
    run(problem, tmp_path / "whole.run")
    count, check = 0, StopSignals.check

    def stop(signals: StopSignals) -> None:
        nonlocal count
        count += 1
        if count == 30 and not signals._held:
            raise Stopped(15)
        check(signals)

    with monkeypatch.context() as context:
        context.setattr(StopSignals, "check", stop)
        code = runner.run(problem, tmp_path / "cut.run", quiet=True).code
    assert code == 75 or systems > 1
    run(problem, tmp_path / "cut.run")
    assert result(tmp_path / "cut.run") == result(tmp_path / "whole.run")
    name = "positions.csv"
    assert (tmp_path / "cut.run" / name).read_bytes() == (tmp_path / "whole.run" / name).read_bytes()


def test_an_edited_table_of_positions_is_found(tmp_path):
    run(load(tmp_path, masked('"uniform"')), tmp_path / "a.run")
    table = tmp_path / "a.run" / "positions.csv"
    table.write_text(table.read_text().replace("0.", "1.", 1))
    assert any("positions.csv" in wrong for wrong in inspect.verify(tmp_path / "a.run")[1])


def test_another_file_of_positions_is_another_run(tmp_path):
    files(tmp_path)
    problem = load(tmp_path, masked('"p.npy"'))
    before = sweep_folder.Digests().of(problem)
    np.save(tmp_path / "p.npy", SHUFFLED[::-1])
    assert sweep_folder.Digests().of(problem) != before


def test_a_sweep_varies_positions(tmp_path):
    files(tmp_path)
    (tmp_path / "base.toml").write_text(masked('"order"'))
    (tmp_path / "plan.toml").write_text(
        f'config = "base.toml"\n[vary]\ntokens.positions = ["order", "uniform", "p.npy", {TIES}]\n'
    )
    sweep = config.load_sweep(tmp_path / "plan.toml")
    found = [sweep.problem(i).positions() for i in range(len(sweep))]
    assert found[0] is None and (found[2] == SHUFFLED).all() and found[3].tolist() == TIES
    assert len(sweep_folder.planned(sweep).digests) == 4


def test_the_estimate_knows_positions(tmp_path):
    text = masked('"uniform"').replace("n = 30", "n = 3000")
    with_, without = (load(tmp_path, one) for one in (text, text.replace('"uniform"', '"order"')))
    sizes = [memory_estimate.at_work(p.config, 1, p.n, p.d) for p in (with_, without)]
    assert sizes[0] - sizes[1] == 3000 * (2 * 2 * 8 + 4 * 8)
    assert estimate.estimate(with_)


def test_positions_of_a_class_of_ones_own(tmp_path):
    source = Path(__file__).parents[1] / "outside" / "positions.py"
    (tmp_path / "mine.py").write_text(source.read_text())
    (tmp_path / "a.toml").write_text(masked('"uniform"').replace('"softmax"\nmasked = true', '"mine:Rotary"'))
    problem = config.load(tmp_path / "a.toml", code=True)
    assert run(problem, tmp_path / "a.run").positions.tolist() == problem.positions().tolist()


WRONG = {
    "no mask": (masked('"uniform"').replace("masked = true", ""), "attention.masked = true"),
    "too few": (masked([1, 2, 3]), "3 numbers; need 30 numbers"),
    "too many": (masked(list(range(31))), "31 numbers; need 30"),
    "nan": (masked("[nan]"), "tokens.positions[0]"),
    "text": (masked('["a"]'), "tokens.positions[0]"),
    "none": (masked("[]"), "finite numbers"),
    "a number": (masked("3"), '"positions.npy"'),
    "misspelt": (masked('"unifrom"'), 'Did you mean "uniform"?'),
    "large whole numbers": (masked(f"[{2**53 + 1}]"), "up to 2^53"),
    "missing": (masked('"gone.npy"'), "gone.npy"),
    "outside": (masked('"../p.npy"'), "inside"),
    "a matrix": (masked('"matrix.npy"'), "shape (30, 2)"),
    "a short file": (masked('"short.npy"'), "4 positions"),
    "float16": (masked('"half.npy"'), "float64, float32 or whole numbers"),
    "two columns": (masked('"two.csv"'), "shape (30, 2)"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_positions_are_refused(tmp_path, case):
    text, word = WRONG[case]
    np.save(tmp_path / "matrix.npy", np.zeros((N, 2)))
    np.save(tmp_path / "short.npy", np.zeros(4))
    np.save(tmp_path / "half.npy", np.zeros(N, np.float16))
    np.savetxt(tmp_path / "two.csv", np.zeros((N, 2)), delimiter=",")
    with pytest.raises(InputError) as caught:
        load(tmp_path, text)
    assert caught.value.name.startswith("tokens.positions") and word in str(caught.value)


def test_whole_numbers_as_positions(tmp_path):
    np.save(tmp_path / "p.npy", np.arange(N)[::-1])
    assert (load(tmp_path, masked('"p.npy"')).positions() == np.arange(N)[::-1]).all()
    np.save(tmp_path / "p.npy", 2**53 + np.arange(N))  # as floats, some would be equal
    with pytest.raises(InputError, match=r"tokens\.positions: .* beyond 2\^53; need"):
        load(tmp_path, masked('"p.npy"')).positions()


def test_positions_of_a_file_that_are_not_finite(tmp_path):
    np.save(tmp_path / "p.npy", np.append(np.zeros(N - 1), np.inf))
    problem = load(tmp_path, masked('"p.npy"'))
    with pytest.raises(InputError, match="finite"):
        runner.run(problem, tmp_path / "a.run", quiet=True)
    assert not (tmp_path / "a.run").exists()
