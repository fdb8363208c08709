"""What `fastpde status` says of studies: finished ones, and those whose cells are kept."""

from __future__ import annotations

from pathlib import Path

import pytest

from fastpde import cli, studies
from fastpde.errors import InputError
from fastpde.run import study_inspect
from fastpde.studies import table
from fastpde.studies.study_cells import Cells

OLD = Path(__file__).parent / "kept" / "v0"


def test_a_finished_study(capsys):
    path = OLD / "mean-field.study"
    assert cli.main(["status", str(path)]) == 0
    words = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    study = studies.load(path)
    assert words["state"] == "finished" and words["study"] == "mean-field" and words["summary"] == f"{study.summary()}."
    assert words["rows"].startswith(f"{len(study)}, in ") and "sizes = [4, 8]" in words["parameters"]
    assert words["picture"].startswith("none; fastpde plot")


@pytest.mark.parametrize("name", ["a.study", "a.study.cells"])
def test_cells_of_a_study_that_was_stopped(tmp_path, capsys, name):
    cells = Cells(tmp_path / "a.study.cells", {"sizes": [4, 8]})
    cells.add("l2 4", [{"n": 4}, {"n": 4}])
    cells.add("l2 8", [{"n": 8}])
    with (tmp_path / "a.study.cells").open("a") as file:
        file.write('{"half')  # a kill within a line
    assert cli.main(["status", str(tmp_path / name)]) == 0
    words = dict(line.split(maxsplit=1) for line in capsys.readouterr().out.splitlines())
    assert words["state"] == "unfinished: the same command goes on with its cells"
    assert words["cells"] == f"2 are finished, with 3 rows: {tmp_path / 'a.study.cells'}"
    assert words["parameters"] == "sizes = [4, 8]"


def test_damaged_cells_and_what_is_no_study_are_refused(tmp_path, capsys):
    (tmp_path / "a.cells").write_text("text\n")
    assert study_inspect.is_study(tmp_path / "a") and not study_inspect.is_study(tmp_path / "b")
    with pytest.raises(InputError, match="the cells of an unfinished study"):
        study_inspect.status(tmp_path / "a")
    assert cli.main(["status", str(tmp_path / "b")]) == 2
    assert "need a run directory" in capsys.readouterr().err


@pytest.mark.parametrize(("inside", "named"), [(".", "."), ("deeper", ".."), (".", "../a.study")])
def test_the_cells_of_a_folder_without_a_name(tmp_path, monkeypatch, inside, named):
    (tmp_path / "a.study" / "deeper").mkdir(parents=True)
    monkeypatch.chdir(tmp_path / "a.study" / inside)
    found = study_inspect.cells_of(Path(named))
    assert found.resolve() == tmp_path / "a.study.cells" and not study_inspect.is_study(Path(named))


def test_the_root_is_no_study(capsys):
    assert not study_inspect.is_study(Path("/"))
    assert cli.main(["status", "/"]) == 2 and "need a run directory" in capsys.readouterr().err


def test_its_file_is_that_of_the_studies():
    assert study_inspect.FACTS == table.PARAMETERS and study_inspect.is_study(OLD / "mean-field.study")
