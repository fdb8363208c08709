"""Configurations: what is refused and by which name, what is filled in, and that text and objects agree."""

from __future__ import annotations

import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

import fastpde as fp
from fastpde import config
from fastpde.errors import InputError

from .problems import compiling_nothing

GOOD = """
[tokens]
kind = "gaussian"
n = 20
d = 2
[attention]
kind = "softmax"
[time]
t_end = 1.0
"""


def edited(old: str, new: str) -> str:
    assert old in GOOD
    return GOOD.replace(old, new)


def heads(block: str) -> str:
    return edited('kind = "softmax"', f'kind = "multihead"\n[[attention.heads]]\n{block}')


WRONG = {  # text: (the key that must be named, a word that must help)
    "no TOML": ("tokens = [", "config", "TOML"),
    "unknown section": (GOOD + "[outptu]\nevery = 1", "outptu", "output"),
    "unknown key": (edited("t_end", "t_ned"), "time.t_ned", "t_end"),
    "typing error": (GOOD + "[backend]\ndtyp = 'float64'", "backend.dtyp", '"dtype"'),
    "text for a number": (edited("n = 20", 'n = "20"'), "tokens.n", '"20"'),
    "fraction for a count": (edited("n = 20", "n = 20.0"), "tokens.n", "whole"),
    "negative n": (edited("n = 20", "n = -5"), "tokens.n", "-5"),
    "zero d": (edited("d = 2", "d = 0"), "tokens.d", "0"),
    "true for a number": (edited("t_end = 1.0", "t_end = true"), "time.t_end", "true"),
    "nan": (edited("t_end = 1.0", "t_end = nan"), "time.t_end", "finite"),
    "infinite": (edited("t_end = 1.0", "t_end = inf"), "time.t_end", "finite"),
    "huge": (edited("t_end = 1.0", "t_end = 1" + "0" * 400), "time.t_end", "finite"),
    "empty interval": (edited("t_end = 1.0", "t_end = -1.0"), "time.t_end", "t_start"),
    "no t_end": (edited("t_end = 1.0", ""), "time.t_end", "got nothing; need a finite number"),
    "no tokens": (edited('kind = "gaussian"\nn = 20\nd = 2', ""), "tokens.kind", "gaussian"),
    "unknown kind": (edited('"gaussian"', '"gausian"'), "tokens.kind", 'Did you mean "gaussian"'),
    "unknown variant": (edited('"softmax"', '"softmx"'), "attention.kind", 'Did you mean "softmax"'),
    "section is a number": ("tokens = 3\n" + GOOD.replace("[tokens]", "[x]"), "x", "tokens"),
    "key of another kind": (edited("d = 2", "d = 2\nradius = 1.0"), "tokens.radius", "one of"),
    "std and cov": (edited("d = 2", "d = 2\nstd = 1.0\ncov = [[1,0],[0,1]]"), "tokens.std", "cov"),
    "mean too long": (edited("d = 2", "d = 2\nmean = [1, 2, 3]"), "tokens.mean", "got 3 numbers; need d = 2"),
    "times misspelt": (GOOD + "[output]\ntimes = { frist = 0.1, count = 3 }", "output.times.frist", '"first"'),
    "cov not symmetric": (edited("d = 2", "d = 2\ncov = [[1,2],[0,1]]"), "tokens.cov", "symmetric"),
    "cov not positive": (edited("d = 2", "d = 2\ncov = [[1,2],[2,1]]"), "tokens.cov", "eigenvalue"),
    "ragged matrix": (edited('"softmax"', '"softmax"\nQ = [[1, 2], [3]]'), "attention.Q[1]", "got 1 numbers; need 2"),
    "text in a matrix": (edited('"softmax"', '"softmax"\nQ = [[1, "2"]]'), "attention.Q[0][1]", "number"),
    "wrong columns": (edited('"softmax"', '"softmax"\nQ = [[1, 2, 3]]'), "attention.Q", "d = 2"),
    "rows differ": (edited('"softmax"', '"softmax"\nQ = [[1, 2]]'), "attention.K", "1 rows"),
    "scale of Q": (edited('"softmax"', '"softmax"\nQ = { scale = 2.0 }'), "attention.Q", "identity"),
    "scale misspelt": (edited('"softmax"', '"softmax"\nK = { scal = 2 }'), "attention.K.scal", "scale"),
    "bias of softmax": (edited('"softmax"', '"softmax"\nbias = 1.0'), "attention.bias", "sigmoid"),
    "eps of softmax": (edited('"softmax"', '"softmax"\neps = 1.0'), "attention.eps", "sinkhorn"),
    "eps zero": (edited('"softmax"', '"sinkhorn"\neps = 0.0'), "attention.eps", "above 0"),
    "tol too large": (edited('"softmax"', '"sinkhorn"\ntol = 1'), "attention.tol", "below 1"),
    "one half-iteration": (edited('"softmax"', '"sinkhorn"\nmax_iter = 1'), "attention.max_iter", "from 3"),
    "even n_half": (edited('"softmax"', '"sinkhorn"\nn_half = 4'), "attention.n_half", "odd"),
    "masked sinkhorn": (edited('"softmax"', '"sinkhorn"\nmasked = true'), "attention.masked", "identity"),
    "eps of another head": (heads("eps = 0.5"), "attention.heads[0].eps", "sinkhorn"),
    "masked sinkhorn heads": (
        heads("kind = 'sinkhorn'").replace("[[", "masked = true\n[[", 1),
        "attention.masked",
        "head",
    ),
    "energy of heads": (heads("kind = 'sinkhorn'") + "[output]\nenergy = true", "output.energy", "false"),
    "energy of n_half": (
        edited('"softmax"', '"sinkhorn"\nn_half = 3') + "[output]\nenergy = true",
        "output.energy",
        "n_half",
    ),
    "scale in words": (edited('"softmax"', '"softmax"\nscale = "1/k"'), "attention.scale", "sqrt"),
    "missing file": (edited('"softmax"', '"softmax"\nQ = "gone.npy"'), "attention.Q", "gone.npy"),
    "no .npy": (edited('"softmax"', '"softmax"\nQ = "Q.npz"'), "attention.Q", ".npy"),
    "path upwards": (edited('"softmax"', '"softmax"\nQ = "../Q.npy"'), "attention.Q", "inside"),
    "absolute path": (edited('"softmax"', '"softmax"\nQ = "/etc/Q.npy"'), "attention.Q", "inside"),
    "bad index": (edited('"softmax"', '"softmax"\nQ = "Q.npy[-1]"'), "attention.Q", "indices"),
    "no heads": (
        edited('"softmax"', '"multihead"'),
        "attention.heads",
        'got nothing; need kind = "multihead" and one [[attention.heads]]',
    ),
    "wrong in a head": (heads('scale = "x"'), "attention.heads[0].scale", "sqrt"),
    "masked in a head": (heads("masked = true"), "attention.heads[0].masked", "one of"),
    "W does not fit": (heads("dv = 3\nV = 'normal'\nW = 'identity'"), "attention.heads[0].W", "(2, 3)"),
    "unknown manifold": (edited("t_end = 1.0", 't_end = 1.0\nmanifold = "spere"'), "time.manifold", '"sphere"'),
    "Gaussian on the sphere": (
        edited("t_end = 1.0", 't_end = 1.0\nmanifold = "sphere"'),
        "tokens.kind",
        "time.manifold",
    ),
    "sphere of radius 2": (
        edited("t_end = 1.0", 't_end = 1.0\nmanifold = "sphere"').replace('"gaussian"', '"sphere"\nradius = 2'),
        "tokens.radius",
        "time.manifold",
    ),
    "negative noise": (edited("t_end = 1.0", "t_end = 1.0\nnoise = -0.1"), "time.noise", "at least 0"),
    "noise without a method": (edited("t_end = 1.0", "t_end = 1.0\nnoise = 0.1"), "time.method", '"heun"'),
    "noise with rk4": (edited("t_end = 1.0", 't_end = 1\nnoise = 1\nmethod = "rk4"\nstep = 1'), "time.method", "noise"),
    "noise without a step": (edited("t_end = 1.0", 't_end = 1\nnoise = 1\nmethod = "heun"'), "time.step", "heun"),
    "no systems": (edited("d = 2", "d = 2\nsystems = 0"), "tokens.systems", "whole number from 1"),
    "half a system": (edited("d = 2", "d = 2\nsystems = 1.5"), "tokens.systems", "whole"),
    "too many systems": (edited("d = 2", "d = 2\nsystems = 1000000000000"), "tokens.systems", "GiB"),
    "event misspelt": (GOOD + "[events]\ncolapsed = 1", "events.colapsed", '"collapsed"'),
    "event of nothing": (GOOD + "[events]\nblow_up = 0", "events.blow_up", "above 0"),
    "event in words": (GOOD + "[events]\nsteady_state = true", "events.steady_state", "above 0"),
    "infinite event": (GOOD + "[events]\ncollapsed = inf", "events.collapsed", "finite"),
    "no step": (edited("t_end = 1.0", 't_end = 1.0\nmethod = "euler"'), "time.step", "got nothing; need a step"),
    "no means": (
        edited('kind = "gaussian"\nn = 20\nd = 2', 'kind = "mixture"\nn = 9'),
        "tokens.means",
        "got nothing; need a list of rows, each a list of finite numbers",
    ),
    "clusters of an ensemble": (
        edited("d = 2", "d = 2\nsystems = 3") + "[output]\nclusters = true",
        "output.clusters",
        "got clusters of 3 systems",
    ),
    "too many tokens": (edited("n = 20", "n = 1000000000000"), "tokens.n", "GiB"),
    "too many frames": (GOOD + "[output]\nevery = 1e-12", "output.every", "frames"),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_input_is_refused_by_name(case, tmp_path):
    text, name, word = WRONG[case]
    path = tmp_path / "a.toml"
    path.write_text(text)
    with compiling_nothing(), pytest.raises(InputError) as caught:
        config.load(path)
    assert caught.value.name == name
    assert word in str(caught.value)


def test_defaults_are_filled_in(tmp_path):
    path = tmp_path / "a.toml"
    path.write_text(GOOD)
    problem = config.load(path)
    assert problem.config.tokens.std == 1.0
    assert problem.config.output.every == 1.0 / 50
    assert problem.config.output.energy is True
    assert (problem.config.time.manifold, problem.config.time.noise) == ("euclidean", 0.0)
    assert (problem.n, problem.d) == (20, 2)


def test_the_memory_of_sinkhorn_heads_counts(tmp_path, monkeypatch):
    """200,000 tokens where there are 660 MiB: 250 MiB of libraries, 73 of tokens and sums, 61 of a scaling, 82 for what
    is remembered of a head."""
    monkeypatch.setattr("fastpde.run.machine.memory", lambda: 660 * 2**20)
    for count, fits in ((1, True), (2, False)):
        text = heads(f"kind = 'sinkhorn'\ncount = {count}").replace("n = 20", "n = 200_000")
        if fits:
            load(tmp_path, text)
            continue
        load(tmp_path, text.replace("count", "n_half = 3\ncount"))  # remembers nothing
        with pytest.raises(fp.InputError, match=r"about 0\.5\d* GiB at work") as caught:
            load(tmp_path, text)
        assert caught.value.name == "tokens.n"


def test_sinkhorn(tmp_path):
    """Its keys reach the attention, alone and in a head; no energy unless asked for; `sinkhorn_energy` then."""
    problem = load(tmp_path, edited('"softmax"', '"sinkhorn"\neps = 0.5\ntol = 1e-7\nmax_iter = 50'))
    attention = problem.attention()
    assert isinstance(attention, fp.Sinkhorn)
    assert (float(attention.eps(0.0)), attention.tol, attention.max_iter, attention.n_half) == (0.5, 1e-7, 50, None)
    assert problem.config.output.energy is False
    defaults = load(tmp_path, edited('"softmax"', '"sinkhorn"')).config.attention
    assert (defaults.eps, defaults.tol, defaults.max_iter) == (1.0, 1e-9, 10_000)
    several = load(tmp_path, heads("kind = 'sinkhorn'\neps = 2\nn_half = 3\n[[attention.heads]]")).attention()
    assert (float(several.heads[0].eps(0.0)), several.heads[0].n_half) == (2.0, 3)
    assert isinstance(several.heads[1], fp.Softmax)
    asked = load(tmp_path, edited('"softmax"', '"sinkhorn"') + "[output]\nenergy = true")
    assert asked.config.output.energy is True


ROUND = {
    "minimal": GOOD,
    "example": config.EXAMPLE,
    "mixture": edited('kind = "gaussian"\nn = 20\nd = 2', 'kind = "mixture"\nn = 9\nmeans = [[0, 1], [2.5, -3]]'),
    "cov": edited("d = 2", "d = 2\nmean = [1e-300, -0.1]\ncov = [[2, 1], [1, 3]]"),
    "matrices": edited('"softmax"', '"sigmoid"\nQ = "normal"\nk = 5\nK = { scale = -1 }\nbias = -2\nmasked = true'),
    "heads": heads("count = 3\nQ = 'Q.npy[layer, 2, head]'\nK = 'normal'\nscale = '1/sqrt(k)'\n[[attention.heads]]"),
    "sphere": edited('"gaussian"', '"sphere"').replace(
        "t_end = 1.0", 't_end = 1\nmanifold = "sphere"\nnoise = 0.25\nmethod = "heun"\nstep = 0.1'
    ),
    "sinkhorn": edited('"softmax"', '"sinkhorn"\neps = 0.1\nn_half = 5'),
    "ensemble": edited("d = 2", "d = 2\nsystems = 3") + "[events]\nsteady_state = 1e-6\nblow_up = 50\ncollapsed = 1e-3",
    "text": edited('kind = "gaussian"\nn = 20\nd = 2', 'kind = "file"\npath = "a \\"b\\" \\\\ \\u007f é.npy"'),
}


@pytest.mark.parametrize("case", ROUND)
def test_text_of_a_configuration_reads_back_equal(case):
    once = config.parse(ROUND[case])
    assert config.parse(config.dumps(once)) == once


def save(folder, **arrays):
    for name, array in arrays.items():
        np.save(folder / f"{name}.npy", array)


def load(folder, text, data=None):
    path = folder / "a.toml"
    path.write_text(text)
    return config.load(path, data)


LAYERS = (
    heads("count = 3\nQ = 'Q.npy[layer, head]'\nK = 'Q.npy[1, head]'\nV = 'V.npy[head]'\nW = 'W.npy[layer, head]'")
    + "[backend]\ndtype = 'float32'"
)


def stacks():
    rng = np.random.default_rng(0)
    return {
        "Q": rng.normal(size=(4, 3, 5, 2)),
        "V": rng.normal(size=(3, 6, 2)),
        "W": rng.normal(size=(4, 3, 2, 6)),
    }


def test_shapes_of_stored_heads_and_layers(tmp_path):
    save(tmp_path, **stacks())
    problem = load(tmp_path, LAYERS)
    assert [(s.k, s.dv, s.layers) for s in problem.shapes] == [(5, 6, 4)] * 3


@pytest.mark.parametrize(
    ("change", "name", "word"),
    [
        (("count = 3", "count = 4"), "attention.heads[0].Q", "head = 3"),
        (("[layer, head]'\nK", "[head]'\nK"), "attention.heads[0].Q", "indices"),
        (("W.npy[layer, head]", "V.npy[head]"), "attention.heads[0].W", "(2, 6)"),
        (("Q.npy[1, head]", "Q.npy[4, head]"), "attention.heads[0].K", "below 4"),
    ],
)
def test_stored_parameters_that_do_not_fit(tmp_path, change, name, word):
    save(tmp_path, **stacks())
    assert change[0] in LAYERS
    with pytest.raises(InputError) as caught:
        load(tmp_path, LAYERS.replace(*change))
    assert caught.value.name == name
    assert word in str(caught.value)


FILE = edited('kind = "gaussian"\nn = 20\nd = 2', 'kind = "file"\npath = "x.npy"')


@pytest.mark.parametrize(
    ("array", "word"),
    [
        (np.zeros((4, 2), np.float16), r"need an array of float64, float32 or whole numbers\. Save it with astype"),
        (np.array([[1.0, None]], dtype=object), "readable"),
        (np.zeros((3, 4, 2, 2)), "shape"),
        (np.zeros((0, 2)), "shape"),
        (np.zeros((4, 2), dtype=complex), "float"),
    ],
)
def test_token_files_of_the_wrong_kind(tmp_path, array, word):
    np.save(tmp_path / "x.npy", array)
    with pytest.raises(InputError, match=word) as caught:
        load(tmp_path, FILE)
    assert caught.value.name == "tokens.path"


def test_cut_token_file(tmp_path):
    save(tmp_path, x=np.zeros((100, 2)))
    whole = (tmp_path / "x.npy").read_bytes()
    (tmp_path / "x.npy").write_bytes(whole[:-9])
    with pytest.raises(InputError, match="complete"):
        load(tmp_path, FILE)


def test_files_stay_inside_the_folder(tmp_path):
    inside, outside = tmp_path / "inside", tmp_path / "outside"
    inside.mkdir()
    outside.mkdir()
    save(outside, x=np.zeros((4, 2)))
    (inside / "x.npy").symlink_to(outside / "x.npy")
    with pytest.raises(InputError, match="link"):
        load(inside, FILE)
    assert load(inside, FILE, data=outside).n == 4


def test_tokens_of_a_file_keep_their_bits_and_nan_is_found(tmp_path):
    x = np.random.default_rng(0).normal(size=(5000, 2)).astype(">f4")  # the other byte order
    save(tmp_path, x=np.asfortranarray(x))
    tokens = load(tmp_path, FILE).tokens()
    assert tokens.dtype == np.float64 and tokens.flags.c_contiguous
    assert (tokens == x).all()
    x[4500, 1] = np.nan
    save(tmp_path, x=x)
    with pytest.raises(InputError, match="row 4500, column 1"):
        load(tmp_path, FILE).tokens()


def test_systems_of_a_file_are_its_first(tmp_path):
    x = np.random.default_rng(0).normal(size=(5, 4, 2))
    save(tmp_path, x=x)
    problem = load(tmp_path, FILE)
    assert (problem.systems, problem.n, problem.d) == (5, 4, 2) and (problem.tokens() == x).all()
    problem = load(tmp_path, FILE.replace('"x.npy"', '"x.npy"\nn = 3\nsystems = 2'))
    assert (problem.systems, problem.n) == (2, 3) and (problem.tokens() == x[:2, :3]).all()
    assert (load(tmp_path, FILE.replace('"x.npy"', '"x.npy"\nsystems = 1')).tokens() == x[0]).all()
    with pytest.raises(InputError, match="at most the 5") as caught:
        load(tmp_path, FILE.replace('"x.npy"', '"x.npy"\nsystems = 6'))
    assert caught.value.name == "tokens.systems"
    x[3, 2, 1] = np.nan
    save(tmp_path, x=x)
    with pytest.raises(InputError, match="row 2, column 1 of system 3"):
        load(tmp_path, FILE).tokens()


def test_events_are_made(tmp_path):
    problem = load(tmp_path, GOOD + "[events]\ncollapsed = 0.5\nsteady_state = 1e-6\nblow_up = 7")
    steady, blow_up, collapsed = problem.events()
    assert (steady.tol, blow_up.radius, collapsed.tol) == (1e-6, 7.0, 0.5)
    assert load(tmp_path, GOOD).events() == [] and "events" not in config.dumps(config.parse(GOOD))


@pytest.mark.parametrize(("end", "every"), [(1.0, 0.1), (1.0, 0.3), (0.7, 0.1), (1.0, 5.0), (1e-12, 1.0), (1.3, 1.3)])
def test_output_times_are_those_of_an_observer(tmp_path, end, every):
    problem = load(
        tmp_path, edited("t_end = 1.0", f"t_start = -0.5\nt_end = {-0.5 + end}") + f"[output]\nevery = {every}"
    )
    seen = []
    observer = fp.Observer(lambda t, x: seen.append(t), time=every)
    attention, times = fp.Linear([[0.0]], [[0.0]], [[0.0]]), problem.config.time
    fp.solve(attention, np.ones((1, 1)), (times.t_start, times.t_end), observers=[observer])
    assert problem.times().tolist() == seen


def test_tokens_of_a_file_must_be_on_the_sphere(tmp_path):
    x = np.random.default_rng(0).normal(size=(20, 2))
    x /= np.linalg.norm(x, axis=1, keepdims=True)
    text = FILE.replace("t_end = 1.0", 't_end = 1.0\nmanifold = "sphere"')
    save(tmp_path, x=x)
    assert len(load(tmp_path, text).tokens()) == 20
    x[7] *= 1.1
    save(tmp_path, x=x)
    with pytest.raises(InputError, match=r"\[7\] of norm 1\.1;") as caught:
        load(tmp_path, text).tokens()
    assert caught.value.name == "tokens.path"


def test_large_numbers_do_not_pass_as_float32(tmp_path):
    save(tmp_path, x=np.full((3, 2), 1e200))
    with pytest.raises(InputError, match="float32"):
        load(tmp_path, FILE + "[backend]\ndtype = 'float32'").tokens()


JUNK = st.one_of(
    st.sampled_from(['"x"', "-1", "0", "true", "nan", "[]", "{}", "[[1]]", '"normal"', "1e400", "'a.npy[0'"]),
    st.integers(-(2**70), 2**70).map(str),
    st.floats().map(repr),
)


@settings(max_examples=150, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    key=st.sampled_from(
        ["n", "d", "systems", "mean", "cov", "std", "kind", "Q", "K", "scale", "t_end", "step", "z", "noise", "blow_up"]
    ),
    section=st.sampled_from(["tokens", "attention", "time", "events", "output", "backend"]),
    junk=JUNK,
)
def test_fuzzed_configurations_are_understood_or_refused(tmp_path, key, section, junk):
    lines = [line for line in GOOD.splitlines() if not line.startswith(f"{key} =")]
    text = "\n".join(lines).replace(f"[{section}]", f"[{section}]\n{key} = {junk}")
    if f"[{section}]" not in text:
        text += f"\n[{section}]\n{key} = {junk}\n"
    try:
        problem = load(tmp_path, text)
    except InputError as error:  # any other exception fails the test
        assert error.name and error.name in str(error)
    else:
        assert config.parse(config.dumps(problem.config)) == problem.config
