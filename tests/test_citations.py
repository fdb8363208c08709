"""What to cite: every name has entries that exist, entries are whole, and results know what they have used."""

from __future__ import annotations

import re

import numpy as np
import pytest

import fastpde as fp
from fastpde import citations, cli
from fastpde.attention import VARIANTS
from fastpde.integrate.methods import METHODS

from .problems import ROOT

I2 = np.eye(2)
X = np.random.default_rng(5).standard_normal((12, 2))
CONFIG = """
[tokens]
kind = "gaussian"
n = 8
d = 2
[attention]
kind = "sigmoid"
masked = true
[time]
t_end = 0.1
[output]
every = 0.1
"""
ALWAYS = ["fastpde", "castin2025", "lam2015", "harris2020"]
OWN_ALONE = {"exponential", "euler"}  # known by no article but the one that is always cited


def keys(text: str) -> list[str]:
    """The keys of the entries of a .bib text."""
    return re.findall(r"^@\w+\{(\w+),$", text, re.MULTILINE)


def fields(entry: str) -> dict[str, str]:
    """The fields of an entry, "name = {value}" in a line each."""
    return dict(re.findall(r"^  (\w+) = \{(.*)\},?$", entry, re.MULTILINE))


def wrong(entry: str) -> list[str]:
    """What is not right in an entry: braces that do not match, fields that are missing or written twice, no comma."""
    said, lines = fields(entry), entry.splitlines()[1:-1]
    missing = [name for name in ("title", "author", "year") if not said.get(name)]
    venue = {"article": "journal", "inproceedings": "booktitle", "book": "publisher", "misc": "note"}
    missing += [need for kind, need in venue.items() if entry.startswith(f"@{kind}{{") and need not in said]
    if entry.count("{") != entry.count("}") or len(said) != len(lines):
        missing.append("form")
    if not all(line.endswith(",") for line in lines[:-1]) or lines[-1].endswith(","):
        missing.append("commas")
    return missing


def test_every_entry_is_whole():
    text = (ROOT / "fastpde" / "references.bib").read_text(encoding="utf-8")
    found = citations.entries()
    assert list(found) == re.findall(r"^@\w+\{(\w+)", text, re.MULTILINE)
    assert {key: problems for key, entry in found.items() if (problems := wrong(entry))} == {}
    assert wrong("@misc{a,\n  title = {A {b},\n  year = {2000},\n}") == ["author", "note", "form", "commas"]
    assert f"version {fp.__version__}" in found["fastpde"]


def test_names_have_entries_and_entries_have_names():
    used = {key for own in citations.REFERENCES.values() for key in own} | set(citations.ALWAYS)
    assert used == set(citations.entries())
    known = {*VARIANTS, *METHODS, *fp.studies.__all__, *(name.lower() for name in fp.__all__)}
    assert set(citations.REFERENCES) <= known | {"noise", "log_density", "trajectory"}
    assert {*VARIANTS, *METHODS} - set(citations.REFERENCES) == OWN_ALONE


@pytest.mark.parametrize(
    ("attention", "options", "more"),
    [
        (fp.L2(I2, I2, I2), {}, ["kim2021", "dormand1980"]),
        (fp.Masked(fp.MultiHead([fp.Sigmoid(I2, I2, I2)])), {"method": "tsit5"},
         ["vaswani2017", "ramapuram2025", "castin2024", "tsitouras2011"]),
        (fp.Exponential(I2, I2, I2), {"method": "heun", "step": 0.1, "noise": 0.1},
         ["heun1900", "kloeden1992", "salmon2011"]),
        (fp.Linear(I2, I2, -I2), {"method": "euler", "step": 0.1, "log_density": np.zeros(len(X))},
         ["katharopoulos2020", "chen2018"]),
    ],
    ids=["l2", "heads", "noise", "density"],
)  # fmt: skip
def test_a_solution_knows_what_it_has_used(attention, options, more):
    sol = fp.solve(attention, X, (0.0, 0.2), backend="direct", **options)
    assert keys(fp.cite(sol)) == ALWAYS + more


def test_systems_laws_and_the_sphere(tmp_path):
    on = X / np.linalg.norm(X, axis=1, keepdims=True)
    sphere = fp.solve(fp.Softmax(I2, I2, I2), on, (0.0, 0.2), manifold=fp.Sphere(), method="rk4", step=0.1)
    assert keys(fp.cite(sphere)) == [*ALWAYS, "vaswani2017", "geshkovski2025", "kutta1901"]
    law = fp.Gaussian(np.zeros((3, 2)), I2)
    flow = fp.solve(fp.L2(I2, I2, I2), law, (0.0, 0.2))
    assert keys(fp.cite(flow)) == [*ALWAYS, "kim2021", "dormand1980"]
    positions = fp.solve(fp.Masked(fp.Linear(I2, I2, -I2)), fp.Gaussian(np.arange(6.0).reshape(3, 2), I2), (0.0, 0.2))
    assert keys(fp.cite(positions)) == [*ALWAYS, "katharopoulos2020", "castin2024", "dormand1980"]
    with np.load(flow.save(tmp_path / "flow")) as saved:
        assert saved["settings/attention"] == "L2"


def test_functions_attentions_and_the_order():
    """Entries have the order of the file, whatever that of the arguments; each stands there once, with its reasons."""
    text = fp.cite(fp.wasserstein, fp.Sinkhorn(I2, I2, I2), fp.clusters, fp.sinkhorn_energy, fp.wasserstein)
    assert keys(text) == [*ALWAYS, "virtanen2020", "sander2022", "flamary2021", "gower1969"]
    assert "% wasserstein, clusters\n@article{virtanen2020" in text
    assert "% Sinkhorn, sinkhorn_energy\n@inproceedings{sander2022" in text
    assert keys(fp.cite()) == keys(fp.cite(fp.gradient)) == ALWAYS


@pytest.mark.parametrize("thing", ["a.run", 3, np.eye(2), np.linalg.norm, dict])
def test_what_is_not_of_fastpde_is_refused(thing):
    with pytest.raises(fp.InputTypeError, match=r"used: got .*; need a solution, a run, a study"):
        fp.cite(thing)


def test_runs_sweeps_and_studies(tmp_path, monkeypatch, capsys):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "a.toml").write_text(CONFIG)
    assert cli.main(["run", "a.toml", "--quiet"]) == 0
    capsys.readouterr()
    want = [*ALWAYS, "ramapuram2025", "castin2024", "dormand1980", "debuyl2014"]
    assert keys(fp.cite(fp.open_run("a.run"))) == want
    assert cli.main(["cite", "a.run"]) == 0
    assert capsys.readouterr().out == fp.cite(fp.open_run("a.run"))
    (tmp_path / "plan.toml").write_text('config = "a.toml"\n[vary]\ntime.method = ["bosh3", "tsit5"]\n')
    assert cli.main(["sweep", "plan.toml", "--quiet", "--local", "1"]) == 0
    capsys.readouterr()
    assert cli.main(["cite", "plan.sweep"]) == 0
    assert keys(capsys.readouterr().out) == [*want[:6], "bogacki1989", "tsitouras2011", "debuyl2014"]
    study = fp.studies.phase_diagram(dimension=2, draws=2, variant="l2")
    study.save("s.study")
    assert cli.main(["cite", "s.study"]) == 0
    assert keys(capsys.readouterr().out) == [*ALWAYS, "kim2021"]
    assert cli.main(["cite"]) == 0
    assert keys(capsys.readouterr().out) == ALWAYS
    assert cli.main(["cite", "nothing"]) == 2
