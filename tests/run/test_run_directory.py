"""The run directory appears whole, and is never touched when it is not ours."""

from __future__ import annotations

import pytest

from fastpde import config
from fastpde.errors import InputError
from fastpde.run import directory

CONFIG = config.example().config


def made(path, state, configuration=CONFIG):
    stage = directory.Stage(path)
    directory.write_config(stage.path, configuration, path.parent)
    directory.write_status(stage.path, {"state": state, "t": 0.5})
    return stage.publish()


def test_finished_absent_and_empty(tmp_path):
    assert directory.is_finished(made(tmp_path / "a", directory.FINISHED), CONFIG)
    assert not directory.is_finished(tmp_path / "b", CONFIG)
    (tmp_path / "c").mkdir()
    assert not directory.is_finished(tmp_path / "c", CONFIG)


@pytest.mark.parametrize("state", [directory.RUNNING, directory.FAILED, directory.STOPPED])
def test_unfinished_runs_are_to_be_gone_on_with(tmp_path, state):
    path = made(tmp_path / "a", state)
    before = {file.name: file.read_bytes() for file in path.iterdir()}
    assert not directory.is_finished(path, CONFIG) and directory.is_there(path)
    assert before == {file.name: file.read_bytes() for file in path.iterdir()}


def test_other_directories_are_refused(tmp_path):
    other = config.parse(config.EXAMPLE.replace("seed = 1", "seed = 2"))
    with pytest.raises(InputError, match="another configuration"):
        directory.is_finished(made(tmp_path / "a", directory.FINISHED, other), CONFIG)
    (tmp_path / "b").mkdir()
    (tmp_path / "b" / "thesis.tex").write_text("x")
    with pytest.raises(InputError, match="no run directory"):
        directory.is_finished(tmp_path / "b", CONFIG)
    with pytest.raises(InputError, match="no run directory"):
        directory.is_finished(tmp_path / "b" / "thesis.tex", CONFIG)
    damaged = made(tmp_path / "c", directory.FINISHED)
    (damaged / directory.STATUS).write_text("[1")
    with pytest.raises(InputError, match="no run directory"):
        directory.is_finished(damaged, CONFIG)


def test_a_stage_that_cannot_be_published_leaves_nothing(tmp_path):
    stage = directory.Stage(tmp_path / "a")
    (tmp_path / "a").mkdir()
    (tmp_path / "a" / "mine").write_text("x")
    with pytest.raises(directory.OutputError, match="run directory could not be written"):
        stage.publish()
    stage.discard()
    assert [file.name for file in tmp_path.iterdir()] == ["a"]
    assert (tmp_path / "a" / "mine").read_text() == "x"


def test_status_is_replaced_whole(tmp_path, monkeypatch):
    directory.write_status(tmp_path, {"t": 1.0})

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr(directory.os, "replace", full)
    with pytest.raises(directory.OutputError, match="No space left"):
        directory.write_status(tmp_path, {"t": 2.0})
    found = directory.read_status(tmp_path)
    assert found.pop("digest") and found == {"t": 1.0}


def test_of_an_error_of_hdf5_the_words_of_the_system_are_kept(tmp_path):
    """They stand among addresses and offsets; other errors are said as they are."""
    text = "Can't write data (file write failed: errno = 28, error message = 'No space left on device', buf = 0x55aa)"
    for said, want in ((text, "No space left on device"), ("Bad chunk", "Bad chunk")):
        with pytest.raises(directory.OutputError) as caught, directory.writing("the trajectory", tmp_path / "a.h5"):
            raise RuntimeError(said)
        assert str(caught.value) == f"the trajectory could not be written to {tmp_path / 'a.h5'}: {want}"
