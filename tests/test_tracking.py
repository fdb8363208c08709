"""Performance tracking: statistics that know when they know nothing, machine code compared, versions, the ledger."""

from __future__ import annotations

import hashlib
import inspect
import json
import shutil
from pathlib import Path

import numpy as np
import pytest

from benchmarks.tracking import assembly, fingerprint, gate, kernel_code, ledger, pairs, reference
from benchmarks.tracking.cases import BY_NAME
from benchmarks.tracking.versions import TrackingError, Worker, checked_out

ROOT = Path(__file__).resolve().parents[1]
CASE = BY_NAME["direct softmax, d = 2"]


def decided(slowdown, noise, rng, threshold=0.02):
    """Return what the gate says of simulated windows, some of them met by another process, and how many it took."""
    logs = []
    while True:
        busy = rng.exponential(0.3) * rng.choice([-1, 1]) if rng.random() < 0.1 else 0.0
        logs.append(np.log1p(slowdown) + noise * rng.standard_normal() + busy)
        if len(logs) >= pairs.LEAST:
            found = pairs.estimate(logs, threshold)
            if pairs.is_enough(found, threshold):
                return pairs.verdicts({"one": found}, {"one": threshold})["one"], len(logs)


@pytest.mark.parametrize(("noise", "trials"), [(0.004, 20), (0.03, 4)])
def test_the_gate_says_what_it_knows(noise, trials):
    rng = np.random.default_rng(0)
    said = {slow: [decided(slow, noise, rng)[0] for _ in range(trials)] for slow in (-0.1, 0.0, 0.05, 0.1)}
    assert set(said[0.1]) == {pairs.SLOWER} and set(said[-0.1]) == {pairs.FASTER}
    assert set(said[0.05]) <= {pairs.SLOWER, pairs.UNDECIDED}
    assert set(said[0.0]) <= {pairs.SAME, pairs.UNDECIDED}
    if noise < 0.01:
        assert set(said[0.0]) == {pairs.SAME}


def test_a_restless_machine_is_undecided_and_never_a_pass():
    said, windows = decided(0.0, 0.3, np.random.default_rng(1))
    assert said == pairs.UNDECIDED and windows == pairs.MOST


def test_many_cases_are_corrected():
    """A chance of 0.4 % is certain enough for one case, not for each of twenty."""
    one = pairs.Estimate(0.03, 0.021, 0.04, 20, 0.004, 1.0)
    other = pairs.Estimate(0.0, -0.01, 0.01, 20, 1.0, 1.0)
    assert pairs.verdicts({"a": one}, {"a": 0.02}) == {"a": pairs.SLOWER}
    many = {"a": one} | {f"other {i}": other for i in range(19)}
    assert pairs.verdicts(many, dict.fromkeys(many, 0.02))["a"] == pairs.UNDECIDED


X86 = """
	.text
	.file	"<string>"
_ZN7fastpde7kernels3sumB{count}v1B38c8E:                         # @{count}
	vxorps	%xmm0, %xmm0, %xmm0
	movabsq	$exp, %rbx
.LBB0_{first}:
	vmovups	({register}), %zmm2      # comment
	vfmadd231pd	%zmm2, %zmm1, %zmm0
	vaddpd	%zmm3, %zmm0, %zmm3
{more}	addq	$64, %rdi
	jne	.LBB0_{first}
	retq
.const.picklebuf.{count}:
	.asciz	"line {count}"
"""


def x86(count=1, first=2, register="%rdi", more=""):
    return X86.format(count=count, first=first, register=register, more=more)


def test_equal_machine_code_is_equal():
    assert assembly.digest(x86()) == assembly.digest(x86(count=77, first=31))
    assert assembly.digest(x86()) != assembly.digest(x86(register="%rsi"))
    assert assembly.digest(x86()) != assembly.digest(x86(more="\tcallq\texp\n"))


def test_what_a_loop_has_lost_is_named():
    before = assembly.busiest_loop(x86())
    assert (before.widths, before.fused, before.spills, before.calls) == ({512: 2}, 1, 0, {})
    spilled = "\tvmovups\t%zmm9, 64(%rsp)\n\tcallq\t*%rbx\n\tcallq\tpow@PLT\n"
    after = assembly.busiest_loop(x86(more=spilled).replace("zmm", "ymm").replace("vfmadd231pd", "vmulpd"))
    assert assembly.changes(before, after) == [
        "lost vector width: 512 -> 256 bits", "fewer fused multiply-adds: 1 -> 0", "more spills: 0 -> 1",
    ]  # fmt: skip
    assert assembly.calls(x86(more=spilled)) == {"exp": 1, "pow": 1} and not assembly.calls(x86())
    assert assembly.changes(before, before) == []


def test_the_busiest_loop_of_arm_code():
    lines = ("ldr q0, [x1], #16", "fmla v1.2d, v0.2d, v2.2d", "str q1, [sp, #16]", "bl exp", "b.ne .LBB0_1", "ret")
    text = "f:\n.LBB0_1:\n\t" + "\n\t".join(lines)
    found = assembly.busiest_loop(text)
    assert (found.widths, found.fused, found.spills, found.calls) == ({128: 1}, 1, 1, {"exp": 1})


def test_the_reference_kernel_is_frozen():
    text = inspect.getsource(reference.reference_kernel.py_func)
    assert hashlib.blake2b(text.encode(), digest_size=8).hexdigest() == "46decc1ec4d63a6f"


def tree(folder: Path, edit=lambda text: text, name="weights.py") -> str:
    """Copy the package with one file edited; return the folder."""
    shutil.copytree(ROOT / "fastpde", folder / "fastpde", ignore=shutil.ignore_patterns("__pycache__"))
    path = folder / "fastpde" / name
    text = edit(path.read_text())
    assert path.read_text() != text or folder.name == "base"
    path.write_text(text)
    return str(folder)


def test_comments_and_docstrings_are_no_change(tmp_path):
    edits = {
        "base": lambda text: text,
        "commented": lambda text: "# A comment.\n" + text.replace("Return w(s).", "Return the weight."),
        "other": lambda text: text.replace("0.5 * spread", "0.25 * spread"),
    }
    found = []
    for name, edit in edits.items():
        (tmp_path / name / "fastpde").mkdir(parents=True)
        (tmp_path / name / "fastpde" / "weights.py").write_text(edit((ROOT / "fastpde" / "weights.py").read_text()))
        found.append(checked_out(str(tmp_path / name), tmp_path).sources())
    assert found[0] == found[1] != found[2]


def test_a_case_is_timed_in_a_process_of_its_version(tmp_path):
    with Worker(checked_out(str(ROOT), tmp_path), 1) as worker:
        assert worker.error(CASE.name) < 1e-14
        times = worker.times(CASE.name, 0.05)
        assert len(times) >= 3 and min(times) > 0.0
        assert min(worker.times(reference.KERNEL_UNIT, 0.01)) > 0.0
        with pytest.raises(TrackingError, match=r"no case.*KeyError"):
            worker.error("no case")


def test_two_versions_are_judged(tmp_path, monkeypatch, capsys):
    """The numbers of the clocks are made up; everything else is the gate's own."""
    clocks = iter(range(10**6))

    class Made:
        def __init__(self, version, threads):
            self.slow = 1.3 if version.name.endswith("slow") else 1.0

        def __enter__(self):
            return self

        def __exit__(self, *_):
            pass

        def error(self, case):
            return 1e-9 if case == "softmax in O(n), d = 2" and self.slow > 1.0 else 1e-15

        def times(self, case, seconds):
            return [self.slow * (1.0 + 0.001 * (next(clocks) % 7))] * 3

    monkeypatch.setattr(gate, "Worker", Made)
    versions = [gate.Version(name, tmp_path, tmp_path) for name in ("base", "slow")]
    code, numbers = gate.judge(*versions, gate.chosen(["O(n), d = 2"]), 1, always=True)
    assert code == 1 and numbers["verdict"] == pairs.SLOWER
    out = capsys.readouterr().out
    assert out.count(pairs.SLOWER) == 2 and "error 1.0e-15 before" in out
    code, numbers = gate.judge(versions[0], versions[0], [CASE], 1, always=True)
    assert code == 0 and numbers["head against base"]["estimates"][CASE.name]["windows"] == pairs.LEAST
    monkeypatch.setattr(Made, "times", lambda self, *_: [1.0 + 0.5 * (next(clocks) % 2)])
    assert gate.judge(*versions, [CASE], 1, always=True)[0] == 3


@pytest.mark.parametrize(
    ("words", "message"),
    [(["nowhere"], "neither a commit"), ([str(ROOT), str(ROOT), "--cases", "xyz"], "there are: direct softmax")],
)
def test_what_cannot_be_compared_is_said(words, message, tmp_path, capsys):
    assert gate.main([*words, "--work", str(tmp_path)]) == 2
    assert message in capsys.readouterr().err


def line(day, units, processor="one", case=CASE.name):
    return {
        "time": f"2026-11-{day:02d}T12:00:00+00:00", "commit": f"{day:040d}", "processor": processor, "case": case,
        "in reference kernels": units,
    }  # fmt: skip


def test_two_sessions_must_agree_before_an_alarm(tmp_path, capsys):
    pytest.importorskip("asv")
    rng = np.random.default_rng(0)
    before = [line(day, 2.0 * np.exp(0.01 * rng.standard_normal())) for day in range(1, 9)]
    others = [line(day, 3.0, "other") for day in range(9, 15)]
    assert ledger.alarms(before + others) == []
    assert ledger.alarms([*before, *others, line(20, 2.6)]) == []
    (alarm,) = ledger.alarms([*before, *others, line(20, 2.6), line(21, 2.61)])
    assert alarm.startswith(f"{CASE.name}: +3") and f"{20:040d}"[:10] in alarm and "(one, threads: 1)" in alarm
    path = tmp_path / "ledger.jsonl"
    path.write_text("".join(json.dumps(one) + "\n" for one in [*before, line(20, 2.6), line(21, 2.6)]))
    assert ledger.main(["check", "--ledger", str(path)]) == 1
    path.write_text(path.read_text() + "{}\n")
    assert ledger.main(["check", "--ledger", str(path)]) == 2
    assert "line 11" in capsys.readouterr().err


def test_a_session_is_recorded(tmp_path, monkeypatch, capsys):
    monkeypatch.setattr(ledger, "_SECONDS", 0.01)
    path = tmp_path / "ledger.jsonl"
    for _ in range(2):
        assert ledger.main(["record", "--ledger", str(path), "--cases", "direct softmax, d = 8"]) == 0
    found = ledger.read(path)
    assert len(found) == 2 and all(0.0 < one["error"] < 1e-13 and one["seconds"] > 0.0 for one in found)
    assert 0.05 < found[0]["in reference kernels"] / found[1]["in reference kernels"] < 20.0  # windows of 10 ms
    assert found[0]["versions"]["numba"] and len(found[0]["commit"].rstrip("+")) == 40


def test_fingerprints_are_compared(tmp_path, monkeypatch, capsys):
    """What compiling would find is made up."""
    path, version = tmp_path / "record.json", checked_out(str(ROOT), tmp_path)
    kernels = {"neoverse": {"a.f(int64,)": ["1", "a loop"], "a.g(int64,)": ["2", "its loop"]}}
    record = {"versions": fingerprint.versions(), "sources": "others", "targets": kernels}
    with pytest.raises(TrackingError, match="record makes it"):
        fingerprint.check(path, version)
    path.write_text(json.dumps(record))
    now = json.loads(json.dumps(record))
    monkeypatch.setattr(fingerprint, "of", lambda _: now)
    assert fingerprint.check(path, version) == 0
    now["targets"]["neoverse"]["a.f(int64,)"] = ["3", "a slower loop"]
    del now["targets"]["neoverse"]["a.g(int64,)"]
    assert fingerprint.check(path, version) == 1
    out = capsys.readouterr().out
    assert "neoverse: a.f: other code" in out and "after:  a slower loop" in out and "neoverse: a.g: gone" in out
    path.write_text(json.dumps(record | {"versions": {"numba": "0"}}))
    assert fingerprint.check(path, version) == 0 and "not comparable" in capsys.readouterr().out
    path.write_text(json.dumps(record | {"sources": version.sources(*kernel_code.SOURCES)}))
    assert fingerprint.check(path, version) == 0 and "as recorded" in capsys.readouterr().out


@pytest.mark.soak
def test_machine_code_of_versions(tmp_path):
    """Comments give the same code for three processors; a call of a library and lost vectors are named."""
    work = tmp_path / "work"
    base = checked_out(tree(tmp_path / "base"), work)

    def said(name, edit, path):
        return gate.changed_kernels(base, checked_out(tree(tmp_path / name, edit, path), work), [CASE])

    unused = "# A comment, and\n# another line.\n@jit\ndef unused(x):\n    return x + 1\n\n\n@jit\ndef attend("
    assert said("unused", lambda text: text.replace("@jit\ndef attend(", unused), "kernels/attend.py") == (set(), [])
    launch = "    launch(scratch.targets.shape[0], items, portion"
    called = f"    scratch.targets[0, 0] *= np.exp(-scratch.targets[0, 0])\n{launch}"
    touched, lines = said("called", lambda text: text.replace(launch, called), "kernels/attend.py")
    assert touched == {CASE.name} and sum("new calls: exp x" in one for one in lines) == len(kernel_code.possible())
    narrow = said(
        "narrow", lambda text: text.replace("    forced = os", "    return 128\n    forced = os"), "simd/vectors.py"
    )
    assert narrow[0] == {CASE.name}
    assert any("x86-64-v4: fastpde.kernels.attend.attend: lost vector width: 512 -> 128" in one for one in narrow[1])
    assert len(kernel_code.possible()) in (1, 3)
