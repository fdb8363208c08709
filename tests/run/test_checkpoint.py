"""Checkpoints come back to the bit or not at all."""

from __future__ import annotations

import hashlib
import json
import os
import random

import numpy as np
import pytest

from fastpde.errors import InputError
from fastpde.run import checkpoint
from fastpde.run.checkpoint import Checkpoint, Damaged
from fastpde.run.directory import OutputError

ARRAYS = {
    "y": np.random.default_rng(0).normal(size=(7, 2)),
    "f": np.array([np.nan, -0.0, np.inf], np.float32),
    "count": np.array([2**62, -1]),
    "flags": np.array([True, False]),
    "nothing": np.empty((0, 3)),
    "strided": np.arange(12.0).reshape(3, 4)[:, ::2],
}


def made(folder, number=0):
    checkpoint.write(folder, Checkpoint(number, {"t": 0.1, "words": "é"}, ARRAYS))
    return folder / checkpoint.NAMES[number % 2]


def test_it_comes_back_to_the_bit(tmp_path):
    path = made(tmp_path, 6)
    found = checkpoint.read(path)
    assert found.number == 6 and found.facts == {"t": 0.1, "words": "é"} and set(found.arrays) == set(ARRAYS)
    for name, array in ARRAYS.items():
        assert found.arrays[name].dtype == array.dtype and found.arrays[name].shape == array.shape
        assert found.arrays[name].tobytes() == array.tobytes()
    assert path.read_bytes()[:13] == b"fastpde state"


def test_it_has_the_mode_of_other_files(tmp_path):
    """A group that may read the run may read its checkpoints."""
    before = os.umask(0o027)
    try:
        assert made(tmp_path).stat().st_mode & 0o777 == 0o640
    finally:
        os.umask(before)


def test_every_damage_is_seen_and_the_one_before_is_taken(tmp_path):
    """300 of them: cut anywhere, a bit turned anywhere, bytes added, zeros in the middle."""
    made(tmp_path, 3)
    path, source = made(tmp_path, 4), random.Random(0)
    whole = path.read_bytes()
    for trial in range(300):
        data, place = bytearray(whole), source.randrange(len(whole))
        if trial % 3 == 0:
            del data[place:]
        elif trial % 3 == 1:
            data[place] ^= 1 << source.randrange(8)
        elif trial % 2:
            data += bytes(1 + place)
        else:
            data[place] ^= 0xFF
            data[place : place + 64] = bytes(len(data[place : place + 64]))
        if data == whole:
            continue
        path.write_bytes(data)
        found, wrong = checkpoint.newest(tmp_path)
        assert found.number == 3 and len(wrong) == 1 and wrong[0].startswith("checkpoint.0: ")
    path.write_bytes(whole)
    assert checkpoint.newest(tmp_path)[0].number == 4


def test_generations(tmp_path):
    assert checkpoint.newest(tmp_path) == (None, [])
    for number in range(4):
        made(tmp_path, number)
        assert checkpoint.newest(tmp_path)[0].number == number
    assert {file.name for file in tmp_path.iterdir()} == set(checkpoint.NAMES)


def forged(path, header, version=1, tail=b""):
    text = json.dumps(header).encode() if not isinstance(header, bytes) else header
    path.write_bytes(checkpoint._HEAD.pack(checkpoint._MAGIC, version, len(text)) + text + tail)


HEADERS = {
    "huge": {"number": 1, "facts": {}, "arrays": [["y", "<f8", [2**40, 2**40]]]},
    "empty but huge": {"number": 1, "facts": {}, "arrays": [["y", "<f8", [0, 2**70]]]},
    "negative": {"number": 1, "facts": {}, "arrays": [["y", "<f8", [-1]]]},
    "objects": {"number": 1, "facts": {}, "arrays": [["y", "|O", [1]]]},
    "no number": {"facts": {}, "arrays": []},
    "no table": [],
    "deep": b"[" * 200_000,
}


@pytest.mark.parametrize("case", HEADERS)
def test_headers_that_promise_nonsense(tmp_path, case):
    forged(tmp_path / "a", HEADERS[case], tail=bytes(32))
    with pytest.raises(Damaged):
        checkpoint.read(tmp_path / "a")


def test_later_and_foreign_files(tmp_path):
    forged(tmp_path / checkpoint.NAMES[0], {}, version=2)
    data = (tmp_path / checkpoint.NAMES[0]).read_bytes()
    (tmp_path / checkpoint.NAMES[0]).write_bytes(data + hashlib.blake2b(data, digest_size=32).digest())
    with pytest.raises(InputError, match="version 2 of the format; need at most 1"):
        checkpoint.newest(tmp_path)
    (tmp_path / checkpoint.NAMES[0]).write_bytes(b"\x89HDF" + bytes(100))
    found, wrong = checkpoint.newest(tmp_path)
    assert found is None and "does not begin as a checkpoint" in wrong[0]


@pytest.mark.parametrize("name", ["open", "write", "fsync", "replace"])
def test_a_failing_call_leaves_both_generations(tmp_path, monkeypatch, name):
    for number in (0, 1):
        made(tmp_path, number)
    before, plain = {file.name: file.read_bytes() for file in tmp_path.iterdir()}, getattr(os, name)

    def full(*arguments, **options):
        if name == "write":
            plain(arguments[0], arguments[1][: len(arguments[1]) // 2])
        raise OSError(28, "No space left on device")

    with monkeypatch.context() as context:
        context.setattr(os, name, full)
        with pytest.raises(OutputError, match=r"checkpoint could not be written to .*: No space left"):
            made(tmp_path, 2)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}
    (tmp_path / ".checkpoint.0.77.tmp").write_bytes(b"x")  # of a writer that was killed
    checkpoint.clean(tmp_path)
    assert before == {file.name: file.read_bytes() for file in tmp_path.iterdir()}


def test_a_write_that_takes_a_part_is_gone_on_with(tmp_path, monkeypatch):
    plain = os.write
    monkeypatch.setattr(os, "write", lambda file, data: plain(file, data[:100]))
    assert checkpoint.read(made(tmp_path)).arrays["y"].tobytes() == ARRAYS["y"].tobytes()
