"""The cache of compiled code: used by the next process, never stale, never a reason to fail; bits of the results."""

from __future__ import annotations

import os
import shutil
import stat

import numba
import numpy as np
import pytest

from fastpde._jit import jit
from fastpde.simd import pool

from . import problems
from .problems import ROOT, finish, launch, run

# Importing the package, then one velocity, counting the functions that Numba compiles.
FIRST_CALL = """
import json
import numpy as np, fastpde as fp
from numba.core import event
x = np.random.default_rng(0).normal(size=(100, 2))
with event.install_recorder("numba:compile") as compiled:
    v = fp.Softmax(np.eye(2), np.eye(2), np.eye(2)).velocity(x)
print(json.dumps({"compiled": len(compiled.buffer), "v": v.tolist()}))
"""

# The cheapest compiled function that is public: the mean of the tokens.
CENTRE = """
import json, warnings
import numpy as np
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    from numba.core import event
    import fastpde as fp
    with event.install_recorder("numba:compile") as compiled:
        mean = fp.Direct().centre(np.arange(12.0).reshape(2, 3, 2))
    from fastpde import _jit
texts = [f"{w.category.__name__}: {w.message}" for w in caught]
found = {"mean": mean.tolist(), "warnings": texts, "compiled": len(compiled.buffer)}
print(json.dumps({**found, "folder": str(_jit.cache_folder())}))
"""
MEAN = [[2.0, 3.0], [8.0, 9.0]]


def test_the_second_process_compiles_nothing():
    """This process has compiled what is asked for, or loaded it, so another one only loads it."""
    problems.case_like("Softmax", 2).velocity(np.zeros((3, 2)))
    found, _ = run(FIRST_CALL)
    assert found["compiled"] == 0


@pytest.mark.parametrize("edit", ["weight", "kernel"])
def test_edited_code_is_never_stale(tmp_path, edit):
    """A copy of the package shares this one's cache folder; when a law or a kernel is edited, its results change.

    The weight's edit: a coefficient of its exponential, 0.69 read as 0.96. The kernel's: a mean that is off by 100.
    """
    shutil.copytree(ROOT / "fastpde", tmp_path / "fastpde", ignore=shutil.ignore_patterns("__pycache__"))
    code = FIRST_CALL if edit == "weight" else CENTRE
    before, _ = run(code, root=tmp_path)
    assert before["compiled"] == 0 or edit == "kernel"
    name, old, new = {
        "weight": ("simd/emitters.py", "0.6931", "0.9631"),
        "kernel": ("kernels/project.py", "out[b, t, r] += x[b, i, r]", "out[b, t, r] += x[b, i, r] + 100.0"),
    }[edit]
    path = tmp_path / "fastpde" / name
    assert old in path.read_text()
    path.write_text(path.read_text().replace(old, new))
    after, _ = run(code, root=tmp_path)
    if edit == "weight":
        assert np.abs(np.array(after["v"]) - before["v"]).max() > 1e-3
    else:
        assert after["mean"] == [[a + 100 for a in row] for row in MEAN]
    again, _ = run(code, root=tmp_path)
    assert again == {**after, "compiled": 0}


def test_the_folder_is_private(tmp_path):
    """Mode 0700 whatever the umask and whatever the folder's mode was before."""
    found, _ = run(CENTRE, FASTPDE_CACHE_DIR=tmp_path / "new" / "cache")
    folder = tmp_path / "new" / "cache"
    (inside,) = folder.iterdir()
    assert str(inside) == found["folder"]
    assert stat.S_IMODE(inside.stat().st_mode) == 0o700
    assert any(path.suffix == ".nbc" for path in inside.iterdir())
    inside.chmod(0o755)
    found, _ = run(CENTRE, FASTPDE_CACHE_DIR=folder)
    assert (found["compiled"], found["warnings"]) == (0, [])
    assert stat.S_IMODE(inside.stat().st_mode) == 0o700


def test_a_folder_that_cannot_be_written_only_warns(tmp_path):
    """The parent is a file, so this holds for root too."""
    (tmp_path / "file").write_text("")
    found, _ = run(CENTRE, FASTPDE_CACHE_DIR=tmp_path / "file" / "cache")
    assert found["mean"] == MEAN
    (warning,) = found["warnings"]
    assert warning.startswith("RuntimeWarning")
    assert "FASTPDE_CACHE_DIR" in warning


def test_no_home_only_warns():
    """A process without a home folder, as a user id without an account has in a container."""
    code = "import os, pathlib\ndef none(): raise RuntimeError('no home')\npathlib.Path.home = none\n" + CENTRE
    found, _ = run(code, FASTPDE_CACHE_DIR=None, XDG_CACHE_HOME=None)
    assert found["mean"] == MEAN
    assert len(found["warnings"]) == 1


DAMAGES = {
    "empty": lambda data: b"",
    "truncated": lambda data: data[: len(data) // 2],
    "garbage": lambda data: b"\x93garbage" * 50,
    "flipped": lambda data: data[: len(data) // 2] + bytes([data[len(data) // 2] ^ 255]) + data[len(data) // 2 + 1 :],
}


def test_damaged_cache_files_are_replaced(tmp_path):
    """Index or code empty, cut, overwritten or with one byte changed: a warning, the right result, then whole files."""
    sound = tmp_path / "sound"
    run(CENTRE, FASTPDE_CACHE_DIR=sound)
    cases = [(suffix, name) for suffix in (".nbi", ".nbc") for name in DAMAGES]
    for suffix, name in cases:
        folder = tmp_path / f"{name}{suffix}"
        shutil.copytree(sound, folder)
        (path,) = folder.glob(f"*/*tile_sums*{suffix}")
        path.write_bytes(DAMAGES[name](path.read_bytes()))
    wrong = {}
    for pair in (cases[i : i + 2] for i in range(0, len(cases), 2)):
        started = [launch(CENTRE, FASTPDE_CACHE_DIR=tmp_path / f"{name}{suffix}") for suffix, name in pair]
        for (suffix, name), process in zip(pair, started, strict=True):
            try:
                found, _ = finish(process)
            except AssertionError as error:
                wrong[name, suffix] = str(error).strip().splitlines()[-1]
                continue
            if found["mean"] != MEAN or len(found["warnings"]) > 1:
                wrong[name, suffix] = found
    assert wrong == {}
    found, _ = run(CENTRE, FASTPDE_CACHE_DIR=tmp_path / "garbage.nbc")
    assert (found["mean"], found["compiled"], found["warnings"]) == (MEAN, 0, [])


def foreign(folder):
    if os.geteuid() != 0:
        pytest.skip("only root gives folders away")
    os.chown(folder, 12345, 12345)


def linked(folder):
    folder.rename(folder.with_name("elsewhere"))
    folder.symlink_to(folder.with_name("elsewhere"))


def replaced(suffix):
    """A folder where a file should be: nobody can read or replace it, not even root."""

    def spoil(folder):
        for path in folder.glob(f"*{suffix}"):
            path.unlink()
            path.mkdir()

    return spoil


def a_file(folder):
    shutil.rmtree(folder)
    folder.write_text("")


SPOILED = {  # and whether what is in the folder may be used
    "unreadable index": (replaced(".nbi"), True),
    "unreadable code": (replaced(".nbc"), True),
    "a file": (a_file, False),
    "read only": (lambda folder: folder.chmod(0o500), True),
    "anybody's": (lambda folder: folder.chmod(0o777), False),
    "a link": (linked, False),
    "another user's": (foreign, False),
}


@pytest.mark.parametrize("case", SPOILED)
def test_a_folder_that_cannot_be_trusted_or_used(tmp_path, case):
    """The right result and one warning at most, of as many functions as there are; nobody else's code is run."""
    spoil, used = SPOILED[case]
    found, _ = run(CENTRE, FASTPDE_CACHE_DIR=tmp_path)
    (folder,) = tmp_path.iterdir()
    spoil(folder)
    found, _ = run(CENTRE, FASTPDE_CACHE_DIR=tmp_path)
    assert found["mean"] == MEAN and found["folder"] == (str(folder) if used else "None")
    assert len(found["warnings"]) == (0 if case == "read only" else 1)
    assert (found["compiled"] == 0) == (case == "read only")


# ---- the same bits -------------------------------------------------------------------------------------------------

DIGESTS = "import json\nfrom tests.problems import digests\nprint(json.dumps(digests()))"


def test_bits_do_not_depend_on_threads():
    """1 to 4 threads of Numba and of the BLAS libraries, each in a process of its own, and changed within this one."""

    settings = [(1, 1), (2, 4), (3, 1), (4, 2)]
    started = [
        launch(DIGESTS, NUMBA_NUM_THREADS=a, OMP_NUM_THREADS=b, OPENBLAS_NUM_THREADS=b, MKL_NUM_THREADS=b)
        for a, b in settings
    ]
    found = [finish(process)[0] for process in started]
    threads = pool.threads()
    try:
        for count in {1, threads}:
            pool.set_threads(count)
            found.append(problems.digests())
    finally:
        pool.set_threads(threads)
    differing = {name for name in found[0] if len({one[name] for one in found}) > 1}
    assert differing == set()


def test_the_digests_can_differ():
    """They are of different results (two variants share their energy), and see one bit."""
    digests = problems.digests()
    assert len(set(digests.values())) > 0.9 * len(digests) > 60
    assert problems.digest(np.array([1.0, 2.0])) != problems.digest(np.nextafter([1.0, 2.0], 3.0))


PAIR = "import json\nfrom tests.problems import softmax_pair\nprint(json.dumps(softmax_pair({!r})))"


def test_missing_fma_changes_roundings_only():
    """A processor without fused operations, and vectors of 128 bits: equal to rounding.

    1e-14: a dot product, an exponent and a sum round differently, at most a few dozen units in the last place; a
    hundred times that where logits of hundreds are themselves rounded. For widths see sums/test_widths.py.
    """
    process = launch(PAIR.format("float64"), NUMBA_CPU_NAME="generic", NUMBA_CPU_FEATURES="")
    here, (there, _) = problems.softmax_pair("float64"), finish(process)
    assert there.keys() == here.keys()
    for key, value in here.items():
        error = np.abs(np.array(there[key]) - value).max() / np.abs(value).max()
        assert error < 1e-14 * (100 if key.endswith("12") else 1), key


@jit(borrowed=True)
def _one_more(x):
    return x + 1.0


@jit(borrowed=True)
def _ten_times(x):
    return 10.0 * x


@numba.njit
def _both(x):
    return _one_more(x), _ten_times(x)


def test_parts_of_one_signature_are_told_apart():
    assert _both(2.0) == (3.0, 20.0)
    assert _both(np.float32(2.0)) == (3.0, 20.0)


def test_python_cannot_call_a_part():
    for number in (2.0, 1j):
        with pytest.raises(
            KeyError, match="_one_more is compiled as a part of kernels and cannot be called from Python"
        ):
            _one_more(number)
