"""The command line: exit codes, one-line errors, nothing left behind, nothing heavy imported for an error."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import time
import weakref
from pathlib import Path

import pytest
from matplotlib.figure import Figure

import fastpde
from fastpde import cli, config, sums
from fastpde._jit import cache_folder
from fastpde.run import machine, signals
from fastpde.run.writer import Writer

from .problems import compiling_nothing

GOOD = """
[tokens]
kind = "gaussian"
n = 20
d = 2
[attention]
kind = "softmax"
[time]
t_end = 0.2
[output]
every = 0.1
"""


@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(GOOD)
    return tmp_path


def call(capsys, *arguments):
    """Return exit code, standard output and standard error of the command in this process."""
    try:
        code = cli.main(list(arguments))
    except SystemExit as stop:
        code = stop.code
    return code, *capsys.readouterr()


def files(folder):
    return sorted(str(path.relative_to(folder)) for path in folder.rglob("*"))


WRONG = {  # arguments: what the message must name
    "unknown command": (("rum",), "rum"),
    "unknown option": (("run", "a.toml", "--thread-count", "2"), "--thread-count"),
    "missing config": (("run", "b.toml"), "b.toml"),
    "folder as config": (("run", "."), "CONFIG"),
    "threads in words": (("run", "a.toml", "--threads", "two"), "--threads"),
    "no threads": (("run", "a.toml", "--threads", "0"), "--threads"),
    "negative threads": (("run", "a.toml", "--threads=-1"), "--threads"),
    "too many threads": (("run", "a.toml", "--threads", "99999999999999"), "--threads"),
    "missing data": (("run", "a.toml", "--data", "gone"), "--data"),
    "data without config": (("run", "--data", "."), "--data"),
    "out without value": (("run", "a.toml", "--out"), "--out"),
    "out is a file": (("run", "a.toml", "--out", "a.toml"), "--out"),
    "out is another folder": (("run", "a.toml", "--out", "."), "--out"),
    "walltime in words": (("run", "a.toml", "--max-walltime", "soon"), "--max-walltime"),
    "status of nothing": (("status", "gone"), "DIR"),
    "verify of no run": (("verify", "."), "DIR"),
    "plot of nothing": (("plot", "gone"), "DIR"),
    "plot without folder": (("plot",), "DIR"),
    "two configs": (("run", "a.toml", "b.toml"), "b.toml"),
    "misspelt command": (("rnu", "a.toml"), 'Did you mean "run"?'),
    "misspelt option": (
        ("run", "a.toml", "--qiet", "2"),
        'arguments: --qiet 2. Did you mean "--quiet"? (see: fastpde run',
    ),
    "misspelt option of another": (("sweep", "a.toml", "--locl=2"), 'Did you mean "--local"?'),
    "misspelt kind": (("export", "a.run", "--to", "parqet"), 'Did you mean "parquet"?'),
}


@pytest.mark.parametrize("case", WRONG)
def test_wrong_arguments_are_exit_2_in_one_line_and_leave_nothing(folder, capsys, case):
    arguments, name = WRONG[case]
    before = files(folder)
    with compiling_nothing():
        code, out, errors = call(capsys, *arguments)
    assert (code, out) == (2, "")
    assert errors.startswith("fastpde: error: ") and errors.count("\n") == 1 and name in errors
    assert files(folder) == before


@pytest.mark.parametrize(
    ("old", "new", "name"),
    [
        ("n = 20", "n = -1", "tokens.n"),
        ('kind = "softmax"', "kind = \"softmax\"\nQ = 'gone.npy'", "attention.Q"),
        ("t_end", "t_ned", "time.t_ned"),
        ("t_end = 0.2", "t_end = '1'", "time.t_end"),
        ("[output]", "[output", "config"),
    ],
)
def test_wrong_configurations_are_exit_2_in_one_line_and_leave_nothing(folder, capsys, old, new, name):
    (folder / "a.toml").write_text(GOOD.replace(old, new))
    code, out, errors = call(capsys, "run", "a.toml")
    assert (code, out) == (2, "")
    assert errors.startswith(f"fastpde: error: {name}: got ") and errors.count("\n") == 1
    assert files(folder) == ["a.toml"]


def test_run_ends_with_a_picture_and_again_does_nothing(folder, capsys):
    code, out, _ = call(capsys, "run", "a.toml", "--quiet", "--threads", "1")
    assert code == 0
    picture = Path(out.splitlines()[-1])
    assert picture == Path("a.run/tokens.png") and picture.stat().st_size > 1000
    assert Path("a.run/spectrum.png").exists() and Path("a.run/tokens.gif").exists()
    stamps = {path: path.stat().st_mtime_ns for path in Path("a.run").iterdir()}
    code, out, _ = call(capsys, "run", "a.toml")
    assert code == 0 and out.splitlines()[-1] == str(picture) and "already finished" in out
    assert stamps == {path: path.stat().st_mtime_ns for path in Path("a.run").iterdir()}
    code, out, _ = call(capsys, "status", "a.run")
    assert code == 0 and "state       finished" in out
    code, out, _ = call(capsys, "verify", "a.run")
    assert code == 0 and "WRONG" not in out and "trajectory.h5 can be read: 3 frames" in out
    picture.unlink()
    assert call(capsys, "run", "a.toml")[0] == 0 and picture.exists()
    assert call(capsys, "plot", "a.run")[1].splitlines()[0] == str(picture)
    (folder / "a.toml").write_text(GOOD.replace("n = 20", "n = 21"))
    code, _, errors = call(capsys, "run", "a.toml")
    assert code == 2 and "another configuration" in errors


def test_an_ensemble_ends_with_a_picture_and_says_how_its_systems_ended(folder, capsys):
    text = GOOD.replace("d = 2", "d = 2\nsystems = 3") + "[events]\ncollapsed = 100.0\n"
    (folder / "a.toml").write_text(text)
    code, out, errors = call(capsys, "run", "a.toml")
    assert code == 0, errors
    assert out.splitlines() == ["3 systems: 3 collapsed: a.run", "a.run/ensemble.png"]
    assert {"ensemble.png", "ends.png", "systems.png"} <= {path.name for path in Path("a.run").iterdir()}
    code, out, _ = call(capsys, "run", "a.toml")
    assert (code, out.splitlines()[0]) == (0, "already finished: a.run")
    assert call(capsys, "plot", "a.run")[1].split() == ["a.run/ensemble.png", "a.run/ends.png", "a.run/systems.png"]


def test_the_current_folder_is_read_by_its_name_but_not_made(folder, capsys, monkeypatch):
    assert call(capsys, "run", "a.toml", "--quiet", "--threads", "1")[0] == 0
    with monkeypatch.context() as patched:
        patched.chdir(folder / "a.run")
        assert fastpde.open_run(".").finished
        for command in (("status", "."), ("verify", "."), ("export", ".", "--to", "npz", "--out", "../b.npz")):
            code, _, errors = call(capsys, *command)
            assert (code, errors) == (0, ""), command
        assert call(capsys, "run", "../a.toml", "--out", ".")[1].startswith("already finished: .")
        assert call(capsys, "run", "../a.toml", "--out", "..")[0] == 2
    (folder / "empty").mkdir()
    (folder / "plan.toml").write_text('config = "a.toml"\n')
    monkeypatch.chdir(folder / "empty")
    for command in (("run", "../a.toml"), ("sweep", "../plan.toml"), ("study", "rank-collapse")):
        code, out, errors = call(capsys, *command, "--out", ".")
        assert (code, out, errors.count("\n")) == (2, "", 1), command
        assert "--out: got ., the current folder; need" in errors and "as --out NAME" in errors
    assert not any(Path().iterdir())


def test_the_files_of_a_sweep_are_those_of_its_configuration(capsys):
    said = " ".join(call(capsys, "sweep", "--help")[1].split())
    assert "that PLAN's configuration reads; default: that of the configuration" in said and "CONFIG" not in said


def test_a_plan_and_a_configuration_say_whose_they_are(folder, capsys):
    (folder / "plan.toml").write_text('config = "a.toml"\n[vary]\nseed = [1, 2]\n')
    assert "CONFIG: got plan.toml, the plan of a sweep; " in (said := call(capsys, "run", "plan.toml")[2])
    assert said.endswith("fastpde sweep plan.toml.\n")
    assert "PLAN: got a.toml, the configuration of a run; " in (said := call(capsys, "sweep", "a.toml")[2])
    assert said.endswith("fastpde run a.toml runs it.\n")
    (folder / "plan.toml").write_text("[vary]\nseed = [1, 2]\n")
    assert "config: got nothing; need text" in call(capsys, "estimate", "plan.toml")[2]


def test_doctor_says_what_this_machine_will_do(folder, capsys):
    code, out, _ = call(capsys, "doctor")
    assert code == 0
    for word in ("cores", "numba", "hdf5 locking", "fastpde", "times as long as on a core"):
        assert word in out
    (about,) = cache_folder().glob("about.txt")
    assert "NumPy" in about.read_text()


def test_warmup_reports_every_kernel(folder, capsys, monkeypatch):
    # Compiling all of them takes longer than a test may; the backends' own tests do it.
    monkeypatch.setattr(sums, "warmup", lambda report: [report(name) for name in ("one", "two")])
    code, _, errors = call(capsys, "warmup")
    # The two, the kernels of small systems for two laws in two precisions, and that of Gaussian laws.
    assert code == 0 and "7 kernels" in errors


def fresh(folder, *arguments, check="numba,h5py,matplotlib,scipy"):
    """Run the command in a fresh interpreter; return (code, modules among `check`, errors)."""
    code = (
        "import sys\nfrom fastpde.cli import main\ntry:\n    code = main(sys.argv[2:])\n"
        "except SystemExit as stop:\n    code = stop.code\n"
        "print('LOADED', [m for m in sys.argv[1].split(',') if m in sys.modules])\nsys.exit(code)"
    )
    environment = {**os.environ, "PYTHONPATH": str(Path(fastpde.__file__).parents[1])}
    command = [sys.executable, "-c", code, check, *arguments]
    done = subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=60)
    return done.returncode, done.stdout.splitlines()[-1], done.stderr


@pytest.mark.parametrize(
    ("arguments", "code"),
    [(("--help",), 0), (("run", "--help"), 0), (("run", "gone.toml"), 2), (("run", "b.toml"), 2)],
)
def test_help_and_errors_import_nothing_heavy(folder, arguments, code):
    (folder / "b.toml").write_text(GOOD.replace("n = 20", "n = 2.5"))
    found, loaded, errors = fresh(folder, *arguments)
    assert (found, loaded) == (code, "LOADED []"), errors


def module(folder, *arguments):
    environment = {**os.environ, "PYTHONPATH": str(Path(fastpde.__file__).parents[1])}
    command = [sys.executable, "-m", "fastpde", *arguments]
    return subprocess.run(command, cwd=folder, env=environment, capture_output=True, text=True, timeout=120)


def test_module_is_the_command(folder):
    done = module(folder, "--version")
    assert done.returncode == 0 and done.stdout.startswith("fastpde ")


def test_unwritable_output_is_exit_5(folder):
    (folder / "file").write_text("x")
    done = module(folder, "run", "a.toml", "--quiet", "--out", "file/out")
    assert (done.returncode, done.stdout) == (5, "")
    assert done.stderr.startswith("fastpde: error: ") and done.stderr.count("\n") == 1
    assert "file/out" in done.stderr and "file is not a directory" in done.stderr
    assert files(folder) == ["a.toml", "file"]


def interrupt(patched, owner, name, number):
    """Let a function begin its work, and then the signal come."""
    whole = getattr(owner, name)

    def begun(*arguments, **options):
        whole(*arguments, **options)
        signal.raise_signal(number)

    patched.setattr(owner, name, begun)


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT])
def test_a_signal_while_pictures_are_drawn(folder, capsys, monkeypatch, number):
    """No half of a picture is left, and nothing is said but what came; a run goes on to its pictures with 75."""
    wanted = {"run": 75, "plot": 128 + number, "report": 128 + number, "study": 128 + number}
    (folder / "s.toml").write_text("dimensions = [2]\ndraws = 2\n")
    arguments = {"run": ("a.toml", "--quiet"), "study": ("rank-collapse", "s.toml", "--quiet")}
    for command, want in wanted.items():
        there = files(folder)
        with monkeypatch.context() as patched:
            interrupt(patched, Figure, "savefig", number)
            code, out, errors = call(capsys, command, *arguments.get(command, ("a.run",)))
        assert (code, out, errors.count("\n")) == (want, "", 1) and signal.Signals(number).name in errors
        assert command == "run" or files(folder) == there
        assert not [name for name in files(folder) if name.endswith((".tmp", ".png", ".html"))]
    assert call(capsys, "run", "a.toml")[0] == 0 and (folder / "a.run" / "tokens.png").is_file()


BEFORE = {"the arguments": (cli, "parser", 143), "the configuration": (config, "load", 75)}


@pytest.mark.parametrize("what", BEFORE)
def test_a_signal_before_a_run(folder, capsys, monkeypatch, what):
    owner, name, want = BEFORE[what]
    interrupt(monkeypatch, owner, name, signal.SIGTERM)
    code, out, errors = call(capsys, "run", "a.toml")
    assert (code, out, errors.count("\n")) == (want, "", 1) and "stopped by SIGTERM" in errors
    assert files(folder) == ["a.toml"]


def test_a_signal_after_the_last_step(folder, capsys, monkeypatch):
    """What has ended is finished; the pictures are left to the next call."""
    with monkeypatch.context() as patched:
        interrupt(patched, Writer, "finish", signal.SIGTERM)
        code, out, errors = call(capsys, "run", "a.toml", "--quiet")
    assert (code, out) == (75, "") and "reached" in errors and "before all pictures were drawn" in errors
    assert not list(folder.rglob("*.png"))
    code, out, _ = call(capsys, "run", "a.toml")
    assert code == 0 and "already finished" in out and list(folder.rglob("*.png"))


def test_the_third_signal_ends_the_process():
    before = signal.getsignal(signal.SIGTERM)
    with signals.AtOnce():
        for _ in range(2):
            assert signal.getsignal(signal.SIGTERM) is not signal.SIG_DFL
            with pytest.raises(signals.Stopped):
                signal.raise_signal(signal.SIGTERM)
        assert signal.getsignal(signal.SIGTERM) is signal.SIG_DFL
    assert signal.getsignal(signal.SIGTERM) is before


class Named:
    """Its assignment in the body of a class is interrupted: Python makes a RuntimeError of what that raises."""

    def __set_name__(self, owner, name):
        signal.raise_signal(signal.SIGINT)


def among_names():
    type("Owner", (), {"attribute": Named()})


def in_a_callback():
    """What the callback of a weak reference raises is lost."""
    class_ = type("Referred", (), {})
    held = class_()
    reference = weakref.ref(held, lambda _: signal.raise_signal(signal.SIGINT))
    del held
    time.sleep(10.0)
    assert reference() is None, "the signal came to nothing"


def in_a_handler():
    """An error that is about to be reported when the signal comes."""
    try:
        signal.raise_signal(signal.SIGINT)
    finally:
        raise OSError("made of the signal")


@pytest.mark.parametrize("place", [among_names, in_a_callback, in_a_handler])
def test_a_signal_where_nothing_can_be_raised(folder, capsys, monkeypatch, place):
    """It ends the command as anywhere else, with one line."""
    monkeypatch.setattr(config, "load", lambda *_, **__: place())
    began = time.monotonic()
    code, out, errors = call(capsys, "run", "a.toml")
    assert (code, out, errors.count("\n")) == (75, "", 1) and errors.startswith("fastpde: stopped by SIGINT")
    assert time.monotonic() - began < 5.0 and files(folder) == ["a.toml"]


def test_a_signal_while_an_error_is_said(folder, capsys, monkeypatch):
    """The command is about to end anyway."""
    monkeypatch.setattr(
        cli, "_fail", lambda *said, fail=cli._fail: (signal.raise_signal(signal.SIGINT), fail(*said))[1]
    )
    code, _, errors = call(capsys, "run", "b.toml")
    assert (code, errors.count("\n")) == (2, 1) and "b.toml" in errors


def test_the_command_alone_is_its_help(capsys):
    code, out, errors = call(capsys)
    assert code == 0 and out.startswith("usage: fastpde") and "doctor" in out and not errors


def test_more_threads_than_there_are(folder, capsys, monkeypatch):
    monkeypatch.setattr(machine, "cores", lambda: 2)
    code, _, errors = call(capsys, "run", "a.toml", "--threads", "99", "--quiet")
    assert code == 0 and "--threads 99: 2 are used" in errors


def test_heads_of_what_has_none(folder, capsys):
    for given in ("heads = 4", "heads = [{ kind = 'l2' }]"):
        (folder / "a.toml").write_text(GOOD.replace('kind = "softmax"', f'kind = "softmax"\n{given}'))
        code, _, errors = call(capsys, "run", "a.toml")
        assert code == 2 and 'kind = "multihead" and one [[attention.heads]] table' in errors
