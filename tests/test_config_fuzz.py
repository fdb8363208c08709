"""Configurations that went wrong in any way: exit 2 in one line with the key's name, and nothing is started or made."""

from __future__ import annotations

import copy
import datetime
import json
import tomllib
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st

from fastpde import cli, config
from fastpde.config import studies
from fastpde.run import runner, study

HEADS = """
seed = 1
[tokens]
kind = "mixture"
n = 9
means = [[0.0, 1.0], [2.5, -3.0]]
weights = [0.5, 0.5]
[attention]
kind = "multihead"
masked = true
[[attention.heads]]
count = 3
Q = "normal"
k = 2
dv = 3
V = "normal"
W = "normal"
scale = "1/sqrt(k)"
[[attention.heads]]
kind = "sigmoid"
K = { scale = -1.0 }
bias = 0.5
[time]
t_end = 1.0
method = "heun"
step = 0.1
noise = 0.5
[events]
blow_up = 50.0
[output]
checkpoint = 3.0
energy = false
[backend]
kind = "fast"
tol = 1e-7
"""
SINKHORN = """
[tokens]
kind = "gaussian"
n = 20
d = 2
mean = [1.0, 2.0]
cov = [[2.0, 1.0], [1.0, 3.0]]
systems = 4
[attention]
kind = "sinkhorn"
Q = [[1.0, 0.5], [0.0, 2.0]]
eps = 0.5
tol = 1e-6
max_iter = 50
[time]
t_start = -1.0
t_end = 1.0
rtol = 1e-5
max_steps = 10
[output]
every = 0.5
max_tokens = 7
[backend]
dtype = "float32"
costs = { direct = 1.0, fast = 2.0 }
"""
BASES = [tomllib.loads(text) for text in (HEADS, SINKHORN, config.EXAMPLE)]
REQUIRED = ("tokens", "attention", "time", "tokens.kind", "tokens.n", "attention.kind", "time.t_end")
PLANS = {name: tomllib.loads(studies.dumps(config.load_study(name, None))) for name in config.STUDIES}


@dataclass(frozen=True)
class Raw:
    """A value by its text; Python cannot print a number of that many digits."""

    text: str


# Values that no key may have, of any type, ...
NEVER = st.one_of(
    st.sampled_from(
        [
            float("nan"),
            float("inf"),
            -float("inf"),
            10**400,
            -(10**400),
            Raw("0x" + "f" * 5000),
            Raw("1e9999"),
            Raw("07:32:00"),
            "",
            "\0",
            [[[]]],
            [[1.0, []]],
        ]
    ),
    st.sampled_from([{"junk": {"deeper": [1, {"x": 2}]}}, [{"junk": 1}], [True, "x"], [float("nan")]]),
    st.dates().filter(lambda day: day.year >= 1000),
    st.text(min_size=1).map(lambda text: "§" + text),
)
# ... and such as some may.
NUMBERS = st.one_of(st.floats(), st.integers(-(2**70), 2**70), st.sampled_from([0, 1, 2, 3, 1e-300, 1e308, 2**53]))
_WORDS = """
identity normal softmax l2 sigmoid sinkhorn multihead gaussian ball file x.npy x.npy[layer] euler heun rk4 dopri5 sphere
fast auto direct float32 1/sqrt(d)
"""
WORDS = st.sampled_from(_WORDS.split())
ANY = st.recursive(
    st.one_of(NUMBERS, st.booleans(), WORDS, st.text(), NEVER),
    lambda inner: st.one_of(
        st.lists(inner, max_size=3), st.dictionaries(st.sampled_from(["scale", "kind", "n"]), inner)
    ),
    max_leaves=6,
)
NAMES = st.text(st.characters(codec="utf-8", exclude_characters="\x7f"), max_size=12)


def toml(value: Any) -> str:
    """A value as TOML text."""
    if isinstance(value, bool):
        return str(value).lower()
    if isinstance(value, str):
        return json.dumps(value, ensure_ascii=False).replace("\x7f", "\\u007f")
    if isinstance(value, dict):
        return "{ " + ", ".join(f"{toml(name)} = {toml(entry)}" for name, entry in value.items()) + " }"
    if isinstance(value, list):
        return "[" + ", ".join(map(toml, value)) + "]"
    if isinstance(value, datetime.date):
        return value.isoformat()
    return value.text if isinstance(value, Raw) else repr(value)


def document(table: dict[str, Any]) -> str:
    return "".join(f"{toml(name)} = {toml(value)}\n" for name, value in table.items())


def places(table: Any, name: str = "") -> list[tuple[Any, Any, str]]:
    """Every value in a table: what holds it, its key there, and its full name."""
    found = []
    for key, value in table.items() if isinstance(table, dict) else enumerate(table):
        full = f"{name}[{key}]" if isinstance(key, int) else f"{name}.{key}" if name else key
        found += [(table, key, full)] + (places(value, full) if isinstance(value, dict | list) else [])
    return found


@st.composite
def broken(draw: Any, bases: list[dict[str, Any]], required: tuple[str, ...] = ()) -> tuple[str, str]:
    """A text with one thing wrong with it, and the name of the key at fault."""
    table = copy.deepcopy(draw(st.sampled_from(bases)))
    ways = ["value", "unknown", "missing"] if required else ["value", "unknown"]
    all_, way = places(table), draw(st.sampled_from(ways))
    if way == "missing":
        holder, key, name = draw(st.sampled_from([place for place in all_ if place[2] in required]))
        del holder[key]
        kinds = {"tokens": "tokens", "attention": "attention"}
        return document(table), kinds.get(name, name)
    if way == "unknown":
        tables = [(table, "")] + [(holder[key], name) for holder, key, name in all_ if isinstance(holder[key], dict)]
        holder, name = draw(st.sampled_from(tables))
        word = draw(NAMES.filter(lambda word: word not in holder and not word.isidentifier()))
        holder[word] = copy.deepcopy(draw(ANY))
        return document(table), f"{name}.{word}" if name else word
    holder, key, name = draw(st.sampled_from(all_))
    holder[key] = copy.deepcopy(draw(NEVER))
    return document(table), name


@st.composite
def edited(draw: Any, bases: list[dict[str, Any]]) -> str:
    """A text with some values changed to others, which may be good."""
    table = copy.deepcopy(draw(st.sampled_from(bases)))
    for _ in range(draw(st.integers(1, 4))):
        holder, key, _ = draw(st.sampled_from(places(table)))
        holder[key] = copy.deepcopy(draw(ANY))
    return document(table)


class Started(Exception):
    """A run was about to begin."""


@pytest.fixture
def command(tmp_path, monkeypatch, capsys):
    """Call the command with a configuration; return its exit code (None: it would have started) and its error."""

    def started(*_: Any, **__: Any) -> None:
        raise Started

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(runner, "run", started)
    monkeypatch.setattr(study, "run", started)
    path = Path("a.toml")

    def call(text: str | bytes, *arguments: str) -> tuple[int | None, str]:
        path.write_bytes(text if isinstance(text, bytes) else text.encode())
        try:
            code = cli.main([*(arguments or ("run",)), "a.toml", "--quiet"])
        except Started:
            code = None
        out, errors = capsys.readouterr()
        assert out == "" and list(Path().iterdir()) == [path]
        return code, errors

    return call


# 500 in all; 10,000 with --soak.
fuzz = settings(
    max_examples=max(100, settings().max_examples),
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)


def shown(name: str) -> str:
    """How a message in one line shows a name."""
    text = " ".join(f"fastpde: error: {name}".split())
    return "".join(c if c.isprintable() else ascii(c)[1:-1] for c in text)


def assert_refused(found: tuple[int | None, str], name: str) -> None:
    code, errors = found
    assert code == 2 and errors.count("\n") == 1 and errors.endswith("\n")
    assert errors.startswith(shown(name)), (errors, name)


@fuzz
@given(broken(BASES, REQUIRED))
def test_a_broken_configuration_names_its_key(command, case):
    text, name = case
    assert_refused(command(text), name)


@fuzz
@given(edited(BASES))
@example(document(BASES[0] | {"time": {"t_start": -1e308, "t_end": 1e308}}))
def test_other_values_are_refused_or_run(command, text):
    code, errors = command(text)
    assert code is None or (code == 2 and errors.count("\n") == 1 and ": got " in errors)


@fuzz
@given(st.data())
def test_a_broken_study_names_its_key(command, data):
    name = data.draw(st.sampled_from(sorted(PLANS)))
    text, key = data.draw(broken([PLANS[name]]))
    assert_refused(command(text, "study", name), key)


@fuzz
@given(st.data())
def test_other_values_of_a_study_are_refused_or_run(command, data):
    name = data.draw(st.sampled_from(sorted(PLANS)))
    code, errors = command(data.draw(edited([PLANS[name]])), "study", name)
    assert code is None or (code == 2 and errors.count("\n") == 1 and ": got " in errors)


@fuzz
@given(st.one_of(st.binary(), st.text().map(str.encode), st.binary().map(lambda junk: HEADS.encode() + junk)))
def test_what_is_no_toml(command, raw):
    code, errors = command(raw)
    assert code is None or (code == 2 and errors.count("\n") == 1 and ": got " in errors)


def test_what_is_no_file(command, tmp_path, capsys):
    (tmp_path / "folder.toml").mkdir()
    for name in ("folder.toml", "gone.toml", "a" * 5000, "a\0b", "\udcff.toml", ""):
        assert cli.main(["run", name]) == 2
        out, errors = capsys.readouterr()
        assert out == "" and errors.startswith("fastpde: error: CONFIG: got ") and errors.count("\n") == 1
    assert [path.name for path in tmp_path.iterdir()] == ["folder.toml"]
