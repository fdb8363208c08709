"""Plans: which cells they mean, how cells are named, and what is refused before anything starts."""

from __future__ import annotations

import itertools
import os
from pathlib import Path

import numpy as np
import pytest

from fastpde import cli, config
from fastpde.errors import InputError
from fastpde.run import sweep_folder

PLAN = """
config = "small.toml"
[vary]
tokens.n = [20, 40]
"attention.kind" = ["softmax", "l2"]
seed = { from = 1, to = 6, step = 2 }
"""


def plan(small: Path, text: str = PLAN) -> config.Sweep:
    path = small.with_name("plan.toml")
    path.write_text(text)
    return config.load_sweep(path)


def vary(small: Path, text: str) -> config.Sweep:
    return plan(small, f'config = "small.toml"\n[vary]\n{text}\n')


def test_cells_are_all_combinations_the_last_key_fastest(small):
    sweep = plan(small)
    assert sweep.keys == ["tokens.n", "attention.kind", "seed"]
    found = [tuple(sweep.varied(i).values()) for i in range(len(sweep))]
    assert found == list(itertools.product([20, 40], ["softmax", "l2"], [1, 3, 5]))
    for i, (n, kind, seed) in enumerate(found):
        problem = sweep.problem(i)
        assert (problem.config.tokens.n, problem.config.attention.kind, problem.config.seed) == (n, kind, seed)
        assert problem.config.time == config.load(small).config.time  # what does not vary is the configuration's


def test_cases_go_together_and_each_with_all_of_vary(small):
    cases = "[[cases]]\ntime.step = 0.1\noutput.every = 0.5\n[[cases]]\ntokens = { n = 7 }\n"
    sweep = plan(small, f'config = "small.toml"\n{cases}[vary]\nseed = [4, 5]\n')
    steps = [(p.config.time.step, p.config.output.every, p.n, p.config.seed) for p in map(sweep.problem, range(4))]
    assert steps == [(0.1, 0.5, 30, 4), (0.1, 0.5, 30, 5), (0.05, 0.25, 7, 4), (0.05, 0.25, 7, 5)]
    assert sweep.problem(2).d == 2  # of a table in a case, only the keys that it has are replaced
    assert sweep.keys == ["time.step", "output.every", "tokens.n", "seed"]
    assert "time.step" not in sweep.varied(2)


def test_a_plan_without_tables_has_the_one_cell(small):
    sweep = plan(small, 'config = "small.toml"')
    assert len(sweep) == 1 and sweep.varied(0) == {} and sweep.problem(0).config == config.load(small).config


def test_ranges(small):
    sweep = vary(small, "attention.scale = { from = 0.1, to = 10.0, count = 5, log = true }")
    values = [sweep.problem(i).config.attention.scale for i in range(5)]
    assert (values[0], values[-1]) == (0.1, 10.0)  # the ends to the bit
    np.testing.assert_allclose(np.divide(values[1:], values[:-1]), 10**0.5, rtol=1e-14)  # rounding of five powers
    sweep = vary(small, "attention.scale = { from = -1.0, to = 2, count = 4 }")
    np.testing.assert_allclose([sweep.problem(i).config.attention.scale for i in range(4)], [-1, 0, 1, 2], atol=1e-15)


def test_keys_may_lead_into_lists_and_through_words(small):
    heads = '[attention]\nkind = "multihead"\n[[attention.heads]]\nV = "identity"\n[[attention.heads]]\nscale = 2.0\n'
    text = small.read_text().replace('[attention]\nkind = "softmax"\nV = { scale = -1.0 }\n', heads)
    small.write_text(text)
    found = vary(small, '"attention.heads[1].scale" = [3.0]\n"attention.heads[0].K.scale" = [-2.0]').problem(0).config
    assert [head.scale for head in found.attention.heads] == [1.0, 3.0]
    assert found.attention.heads[0].K.toml() == {"scale": -2.0}
    for wrong in ('"attention.heads[2].scale" = [1.0]', '"attention.heads.scale" = [1.0]', '"seed[0]" = [1]'):
        with pytest.raises(InputError, match="cell 0"):
            vary(small, wrong).problem(0)


def test_a_plan_as_understood_means_the_same(small, tmp_path):
    cases = '[[cases]]\nattention.V = { scale = 0.5 }\n[[cases]]\nattention.V = "identity"\ntime.rtol = 1e-300\n'
    sweep = plan(small, PLAN.replace("[vary]", f"{cases}[vary]"))
    folder = tmp_path / "again"
    folder.mkdir()
    (folder / "base.toml").write_text(sweep.text)
    again = plan(folder / "small.toml", sweep.dumps())
    assert sweep_folder.planned(again).digests == sweep_folder.planned(sweep).digests


def test_a_cell_is_named_by_all_that_makes_its_run_and_nothing_else(small):
    np.save(small.with_name("x.npy"), np.ones((5, 2)))
    digests, seen = sweep_folder.Digests(), {}

    def same(text: str, old: str = "", new: str = "") -> str:
        small.write_text(small.read_text().replace(old, new) if old else small.read_text())
        return digests.of(vary(small, text).problem(0))

    seen["base"] = same("seed = [3]")
    assert same("tokens.n = [30]") == seen["base"]  # another plan, the same cell
    assert same("output.checkpoint = [7.0]") == seen["base"]
    assert same("time.rtol = [1e-6]") == seen["base"]  # the default
    costs = "{ direct = 1.1, fast = 1.2 }"
    assert same(f"backend.costs = [{costs}]") == seen["base"]  # facts about a machine
    seen["seed"] = same("seed = [4]")
    stored = 'tokens = [{ kind = "file", path = "x.npy" }]'
    seen["file"] = same(stored)
    np.save(small.with_name("x.npy"), np.full((5, 2), 2.0))
    seen["changed"] = same(stored)
    assert len(set(seen.values())) == len(seen)


def test_equal_cells_are_refused(small):
    with pytest.raises(InputError, match=r"cell 0 \(attention\.scale = 1\) and cell 1 .* the same"):
        sweep_folder.planned(vary(small, "attention.scale = [1, 1.0]"))


VARY = 'config = "small.toml"\n[vary]\n'
WRONG = {  # plan: what the message must name
    "no toml": ("[vary", "PLAN"),
    "no config": ("[vary]\nseed = [1]", "config"),
    "unknown key": ('config = "small.toml"\nvaried = 1', "varied"),
    "missing base": ('config = "gone.toml"', "gone.toml"),
    "base outside": ('config = "../small.toml"', "config"),
    "base by a link": ('config = "link.toml"', "config"),
    "absolute base": ('config = "/etc/hostname"', "config"),
    "base is a folder": ('config = "."', "config"),
    "no values": (VARY + "seed = []", "vary.seed"),
    "one value": (VARY + "seed = 1", "vary.seed"),
    "a value twice": (VARY + "seed = [1, 2, 1]", "vary.seed"),
    "a date": (VARY + "seed = [1979-05-27]", "vary.seed[0]"),
    "half a range": (VARY + "seed = { from = 1 }", "vary.seed.to"),
    "log without count": (VARY + "seed = { from = 1, to = 2, log = true }", "vary.seed.count"),
    "empty range": (VARY + "seed = { from = 2, to = 1 }", "vary.seed.to"),
    "range of fractions": (VARY + "seed = { from = 0, to = 1.0 }", "vary.seed.to: got 1.0; need a whole number, or "),
    "wrong range": (VARY + "seed = { from = 2, to = 4, by = 1 }", "vary.seed.by"),
    "log of zero": (VARY + "time.rtol = { from = 0, to = 1, count = 3, log = true }", "from"),
    "huge range": (VARY + "seed = { from = 0, to = 9999999999 }", "vary.seed"),
    "too many": (
        VARY + "seed = { from = 0, to = 999 }\ntokens.n = { from = 1, to = 101 }",
        "vary",
    ),
    "a key twice": (VARY + "seed = [1]\n[[cases]]\nseed = 2", "cases.seed"),
    "a key in another": (
        VARY + '"attention.K" = ["identity"]\nattention.K.scale = [1]',
        "K.scale",
    ),
    "a number of thousands of digits": (VARY + f"tokens.n = [0x{'f' * 5000}]", "vary.tokens.n[0]: got a whole number"),
    "no key": (VARY + '"tokens..n" = [1]', "tokens..n"),
    "a command": (VARY + '"$(touch x)" = [1]', "vary"),
    "wrong cell": (VARY + "tokens.n = [10, -1]", "cell 1 (tokens.n = -1): tokens.n: got -1"),
    "unknown cell key": (VARY + "tokens.nn = [10]", "tokens.nn"),
    "missing file": (VARY + 'attention.Q = ["gone.npy"]', "attention.Q"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_plans_are_exit_2_in_one_line_and_leave_nothing(small, capsys, monkeypatch, case):
    text, name = WRONG[case]
    monkeypatch.chdir(small.parent)
    os.symlink("/etc/hostname", "link.toml")
    Path("plan.toml").write_text(text)
    before = sorted(os.listdir())
    assert cli.main(["sweep", "plan.toml"]) == 2
    out, errors = capsys.readouterr()
    assert out == "" and errors.startswith("fastpde: error: ") and errors.count("\n") == 1 and name in errors
    assert sorted(os.listdir()) == before


def test_a_range_whose_width_is_no_number_is_refused(small):
    with pytest.raises(InputError, match=r"attention\.scale\.to"):
        vary(small, "attention.scale = { from = -1e308, to = 1e308, count = 5 }")
    assert len(vary(small, "attention.scale = { from = 1e-300, to = 1e300, count = 5, log = true }")) == 5
