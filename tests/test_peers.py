"""Comparison with other libraries: those that need nothing agree with fastpde and with naive sums, others are said."""

import json
import sys
from dataclasses import replace

import numpy as np
import pytest

from benchmarks.peers import __main__ as command
from benchmarks.peers import catalogue, machine, table
from benchmarks.peers.larger import ManySystems, Run, Scaling, SystemsRun
from benchmarks.peers.picture import plot
from benchmarks.peers.registry import EVERY, PEERS, Peer
from benchmarks.peers.rows import Row
from benchmarks.peers.session import Session, environment, shared_folder
from benchmarks.peers.timing import Rules
from benchmarks.peers.work import TRUTHS, LinearSum, Masked, Softmax, SoftmaxTo, Variant, relative_error

from . import naive

FAST = Rules(repeats=1, budget=0.1, pause=0.0, patience=60.0)
SMALL = [
    Softmax(300, 2),
    LinearSum(300, 5, "float32"),
    Softmax(200, 8, "float32"),
    SoftmaxTo(3000, 2, tol=1e-6),
    SoftmaxTo(300, 1, logit=150.0),
    Variant(200, 2, kind="l2"),
    Variant(200, 2, "float32", "weights"),
    Variant(200, 3, kind="sigmoid"),
    Masked(200, 2),
    ManySystems(16, 2, systems=8),
    SystemsRun(16, 2, systems=8, steps=5),
    Scaling(100, 2),
    Run(60, 2, method="rk4"),
    Run(60, 2),
]


def row(**changes):
    """A row with some columns other than those of `ROW`."""
    return replace(Row("softmax", 100, 2, "float64", 1e-13, "NumPy", ours=0.5, theirs=1.0, ratio=2.0), **changes)


@pytest.mark.parametrize("work", SMALL, ids=lambda work: f"{work.label}-{work.dtype}")
def test_fastpde_and_those_that_need_nothing_are_as_accurate_as_asked(work):
    calls = [work.ours(), *(PEERS[name].call(work) for name in ("NumPy", "SciPy") if PEERS[name].does(work))]
    for call in calls:
        assert work.error(call()) <= work.asked


@pytest.mark.parametrize("kind", ["softmax", "weights", "l2", "sigmoid", "masked"])
def test_true_values_are_those_of_the_oracles(kind):
    work = {"softmax": Softmax, "masked": Masked}.get(kind, Variant)(
        150, 3, **({} if kind in ("softmax", "masked") else {"kind": kind})
    )
    name = {"l2": "L2", "sigmoid": "Sigmoid"}.get(kind, "Softmax")
    eye, places = np.eye(3), np.arange(150) if kind == "masked" else None
    weights = getattr(work, "weights", None)
    want = naive.velocity(name, work.tokens, eye, eye, eye, scale=work.scale, weights=weights, positions=places)
    # Both are in extended precision; the bound is that of float64.
    assert relative_error(work.pick(want), work.truth()) < 1e-16


def test_true_values_are_shared_by_processes(tmp_path, monkeypatch):
    monkeypatch.setenv(TRUTHS, str(tmp_path))
    want = Softmax(50, 2).known_truth
    (kept,) = tmp_path.iterdir()
    np.save(kept, 2 * want)
    assert (Softmax(50, 2).known_truth == 2 * want).all()
    assert (Softmax(50, 1).known_truth != 0).all()  # another work has a file of its own
    assert len({work.key for work in catalogue.full() if not isinstance(work, Run)} | {"run"}) > 50


def test_an_absent_peer_is_said(capsys, tmp_path):
    nothing = Peer("Nothing", "nothing", {"no-such-library": "no_such_library"}, (Softmax,))
    assert nothing.available() == "not installed: pip install no-such-library"
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr("benchmarks.peers.registry.find_spec", lambda name: None)
        assert command.main(["--out", str(tmp_path / "out.json"), "--markdown"], works=[Softmax(50, 2)]) == 0
    said = capsys.readouterr().out
    for peer in EVERY:
        assert f"skipped: {peer.name} (not installed: pip install " in said
    written = json.loads((tmp_path / "out.json").read_text())
    assert written["rows"] == [] and set(written["absent"]) == set(PEERS)


def test_the_command_measures_and_prints(capsys, tmp_path):
    arguments = ["--quick", "--peers", "numpy", "--threads", "1", "--markdown", "--repeats", "1"]
    files = ["--out", str(tmp_path / "out.json"), "--plot", str(tmp_path / "out.png")]
    assert command.main([*arguments, *files], works=[Softmax(n, 2) for n in (64, 128)]) == 0
    said = capsys.readouterr().out
    assert machine.processor() in said and f"numpy {np.__version__}" in said
    rows = [Row(**each) for each in json.loads((tmp_path / "out.json").read_text())["rows"]]
    assert [(each.n, each.peer, each.problem) for each in rows] == [(64, "NumPy", ""), (128, "NumPy", "")]
    for each in rows:
        assert each.ratio > 0 and each.our_error < each.asked and each.their_error < each.asked
        assert table.line(each) in said
    assert table.markdown(rows) in said
    assert (tmp_path / "out.png").read_bytes().startswith(b"\x89PNG")


@pytest.mark.skipif(sys.platform == "win32", reason="the peer kills itself by a signal of POSIX")
def test_a_peer_that_crashes_hangs_or_raises_is_reported_and_the_rest_goes_on():
    peer = Peer("Failing", "tests.failing_peers", {}, (Softmax,))
    with shared_folder() as folder:
        session = Session(peer, 1, FAST, folder)
        crashed, skipped, raised, wrong, odd = (
            session.row(Softmax(n, d)) for n, d in ((64, 1), (128, 1), (64, 3), (64, 4), (64, 5))
        )
        session.rules = replace(FAST, patience=0.5)
        hung = session.row(Softmax(64, 2))
        session.close()
    assert crashed.problem.startswith("crashed: signal SIGKILL")
    assert skipped.problem == "skipped: crashed with n = 64"
    assert hung.problem == "no result within 0.5 s"
    assert raised.problem == "failed: ValueError: no such dimension"
    for bad in (wrong, odd):
        assert bad.problem == "" and bad.inaccurate and "PEER MISSES" in table.line(bad)


def test_more_tokens_are_skipped_once_a_call_would_take_too_long():
    session = Session(PEERS["NumPy"], 1, FAST, None)
    session._ask = lambda work: Row.of(work, "NumPy", theirs=FAST.limit / 2)
    assert session.row(Softmax(1000, 2)).problem == ""
    assert session.row(Softmax(2000, 2)).problem == "skipped: about 10 s are expected"
    assert session.row(Softmax(2000, 1)).problem == ""


def test_a_busy_machine_is_said():
    here = machine.describe()
    assert machine.warning(here | {"load": 0.1, "cores": 2}) == ""
    assert "load 3.0" in machine.warning(here | {"load": 3.0, "cores": 2})


def test_no_kernels_of_another_processor(monkeypatch):
    import os

    monkeypatch.setenv("OPENBLAS_CORETYPE", "Haswell")
    with environment({"OMP_NUM_THREADS": "1"}):
        assert "OPENBLAS_CORETYPE" not in os.environ and os.environ["OMP_NUM_THREADS"] == "1"
    assert os.environ["OPENBLAS_CORETYPE"] == "Haswell"


def test_markdown_is_a_table():
    rows = [
        row(our_error=1e-15, their_error=1e-15),
        row(n=1000, d=2, our_error=1e-15, their_error=1e-10, ratio=12.345),
        row(d=8, our_error=1e-15, their_error=1e-15),
        row(d=64, ours=None, theirs=None, ratio=None, problem="skipped"),
    ]
    lines = table.markdown(rows).split("\n")
    assert {line.count("|") for line in lines} == {lines[0].count("|")}
    assert lines[0] == "| work | n | peer | d = 2 | d = 8 | largest error | of the peer |"
    assert set(lines[1]) <= set("| -")
    # The largest n is shown; a peer that is not accurate is marked, and so is a cell of another n.
    assert lines[2:] == ["| softmax, float64 | 1,000 | NumPy | 12.3 (!) | 2 (n = 100) | 1e-15 | 1e-10 |"]
    assert table.MARK in table.legend(rows) and table.MARK not in table.legend(rows[:1])


def test_a_picture_needs_two_sizes(tmp_path):
    with pytest.raises(ValueError, match="two numbers of tokens"):
        plot([row()], tmp_path / "a.png", "title")


@pytest.mark.parametrize(
    "arguments", [["--threads", "0"], ["--repeats", "0"], ["--limit", "-1"], ["--peers", "abacus"]]
)
def test_bad_arguments_are_named(arguments, capsys):
    with pytest.raises(SystemExit):
        command.main(arguments)
    assert f"{arguments[0]}: got" in capsys.readouterr().err


def test_every_peer_has_work_in_both_catalogues():
    for works in (catalogue.full(), catalogue.quick()):
        assert len({(work.label, work.n, work.d, work.dtype) for work in works}) == len(works)
        for peer in EVERY:
            assert any(peer.does(work) for work in works), peer.name
