"""report.html: self-contained, every number from the directory, verdicts that can be bad."""

from __future__ import annotations

import json
import shutil
import subprocess
import tomllib
from html.parser import HTMLParser

import numpy as np
import pytest

import fastpde as fp
from fastpde import report
from fastpde.report import pages, rendering, theory_checks
from fastpde.run.tables import read_observables

from .problems import ROOT
from .test_cli import call

CONFIG = """
seed = 3
[tokens]
kind = "gaussian"
n = 40
d = 2
[attention]
kind = "{kind}"
[time]
t_end = 0.4
method = "rk4"
step = 0.05
[output]
every = 0.05
energy = true
"""


class Page(HTMLParser):
    """The cells, the pictures and the links of a page."""

    def __init__(self, text):
        super().__init__()
        self.cells, self.links, self.pictures, self.open, self._text = [], [], [], [], None
        self.feed(text)
        self.close()

    def handle_starttag(self, tag, attributes):
        found = dict(attributes)
        self.links += [value for name, value in attributes if name in ("src", "href", "action")]
        if tag == "img":
            self.pictures.append(found["alt"])
        if tag not in ("meta", "img", "br"):
            self.open.append(tag)
        if tag in ("td", "th"):
            self._text = ""

    def handle_endtag(self, tag):
        assert self.open.pop() == tag
        if tag in ("td", "th"):
            self.cells.append(self._text)
            self._text = None

    def handle_data(self, data):
        if self._text is not None:
            self._text += data


@pytest.fixture(scope="module")
def softmax(tmp_path_factory):
    folder = tmp_path_factory.mktemp("softmax")
    (folder / "a.toml").write_text(CONFIG.format(kind="softmax"))
    from fastpde.cli import main

    assert main(["run", str(folder / "a.toml"), "--out", str(folder / "run"), "--quiet"]) == 0
    return folder / "run"


def test_a_run_has_a_page_of_its_own(softmax, capsys):
    code, out, errors = call(capsys, "report", str(softmax))
    assert (code, errors) == (0, "") and out.strip() == str(softmax / "report.html")
    page = Page((softmax / "report.html").read_text())
    assert page.open == [] and all(link.startswith("data:image/") for link in page.links)
    assert page.pictures == ["tokens.png", "spectrum.png", "tokens.gif", "observables.png"]
    table = read_observables(softmax / "observables.csv")
    for value in (table["energy"][-1], table["radius"][0], table["trace"][2]):
        assert f"{value:.6g}" in page.cells
    assert page.cells.count("holds") == 4 and "fails" not in page.cells  # finite, support, energy, its balance
    assert f"{table['dissipation'][1]:.6g}" in page.cells and "energy.violations" in page.cells
    assert "marks.trajectory.frames" in page.cells and not any(cell.startswith("{") for cell in page.cells)


def test_broken_theory_is_said(softmax):
    text = (softmax / "config.toml").read_text()
    table = {name: column.copy() for name, column in read_observables(softmax / "observables.csv").items()}
    table["radius"][2] *= 100.0
    table["energy"][-1] = 0.0
    table["trace"][1] = np.nan
    status = {"energy": {"expected": "rises", "intervals": 4, "violations": 1, "first_violation_t": 0.4}}
    # finite, support, mean (of Sinkhorn attention only), energy, its balance (frames may be too far apart)
    found = theory_checks.checks(text, table, status)
    assert [check.verdict for check in found] == ["fails", "fails", "not applicable", "fails", "unknown"]
    assert "3 of 4 intervals" in found[3].numbers and "t = 0.4" in found[3].numbers
    assert theory_checks.checks(text, table, {})[3].verdict == "unknown"


def test_a_balance_that_is_not_known_is_not_applicable(softmax):
    """A mask, or L2 attention, has energies without a dissipation, whatever the number of frames."""
    text = (softmax / "config.toml").read_text()
    table = read_observables(softmax / "observables.csv")
    broken = table | {"dissipation": np.full(len(table["t"]), np.nan)}
    found = theory_checks.checks(text, broken, {})[4]
    assert found.verdict == "not applicable" and "no dissipation is known" in found.numbers
    gap = {name: column.copy() for name, column in table.items()}
    gap["dissipation"][1] = np.nan
    found = theory_checks.checks(text, gap, {})[4]
    assert found.verdict == "unknown" and "four frames" in found.numbers
    found = theory_checks.checks(text, table | {"energy": np.full(len(table["t"]), np.nan)}, {})[4]
    assert found.verdict == "unknown" and "no energy was recorded" in found.numbers


def test_own_columns_are_not_pushed_out_of_the_table():
    """Components of means and eigenvalues make room; nothing else is left out."""
    parts = [f"{word}_{i}" for word in ("mean", "eigenvalue") for i in range(8)]
    table = {name: np.zeros(3) for name in ("t", "trace", *parts, "energy", "width", "mean_norm", "mean_width")}
    found = rendering.excerpt(table, spared=pages._COMPONENTS)
    assert found.names == ["t", "trace", *parts[:8], "energy", "width", "mean_norm", "mean_width"]
    assert found.more == "8 more columns" and len(found.rows[0]) == 14
    many = {name: np.zeros(3) for name in ("t", *parts, *(f"w{i}" for i in range(20)))}
    assert rendering.excerpt(many, spared=pages._COMPONENTS).names == ["t", *(f"w{i}" for i in range(20))]
    assert rendering.excerpt({f"{i}": np.zeros(31) for i in range(15)}).more == "1 more row and 1 more column"


def test_the_status_has_no_tables_within_it():
    marks = {"trajectory": {"frames": 7, "digest": "ab"}, "bytes": 3}
    found = pages._flat({"state": "finished", "marks": marks, "own_code": ["a"], "n": 3})
    want = [("state", "finished"), ("n", 3), ("marks.bytes", 3)]
    assert found == [*want, ("marks.trajectory.frames", 7), ("marks.trajectory.digest", "ab")]


def test_the_mean_under_sinkhorn_attention(tmp_path):
    (tmp_path / "a.toml").write_text(CONFIG.format(kind="sinkhorn"))
    from fastpde.cli import main

    assert main(["run", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    table = read_observables(tmp_path / "run" / "observables.csv")
    text = (tmp_path / "run" / "config.toml").read_text()
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    verdicts = [check.verdict for check in theory_checks.checks(text, table, status)]
    assert verdicts == ["holds"] * 5  # finite, support, mean, energy, its balance
    table["mean_0"] = table["mean_0"] + 0.1
    table["mean_0"][0] -= 0.1
    assert [check.verdict for check in theory_checks.checks(text, table, status)][2] == "fails"


@pytest.mark.parametrize(
    ("edits", "verdict"),
    [
        ((('"rk4"\nstep = 0.05', '"euler"\nstep = 0.2'),), "holds"),  # far from e^(V t / eps)
        ((("energy = true", 'energy = true\n[backend]\ndtype = "float32"'),), "holds"),
        ((('"rk4"\nstep = 0.05', '"dopri5"\nrtol = 1e-2'),), "holds"),
        ((('kind = "sinkhorn"', 'kind = "sinkhorn"\nn_half = 3'), ("energy = true", "")), "not applicable"),
    ],
)
def test_the_mean_is_judged_by_what_the_run_states(tmp_path, edits, verdict):
    text = CONFIG.format(kind="sinkhorn")
    for old, new in edits:
        assert old in text
        text = text.replace(old, new)
    (tmp_path / "a.toml").write_text(text)
    from fastpde.cli import main

    assert main(["run", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    table = read_observables(tmp_path / "run" / "observables.csv")
    status = json.loads((tmp_path / "run" / "status.json").read_text())
    found = theory_checks.checks((tmp_path / "run" / "config.toml").read_text(), table, status)[2]
    assert found.verdict == verdict, found


def test_clusters_are_shown(tmp_path):
    text = CONFIG.format(kind="softmax").replace("energy = true", "energy = false\nclusters = true")
    (tmp_path / "a.toml").write_text(text)
    from fastpde.cli import main

    assert main(["run", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    page = Page(report.write(tmp_path / "run").read_text())
    assert "clusters.png" in page.pictures and "from t" in page.cells and "clustered" in page.cells


def test_a_study_has_one_too(tmp_path):
    fp.studies.stability(("linear",), 2, n=5, times=2).save(tmp_path / "study")
    path = report.write(tmp_path / "study")
    page = Page(path.read_text())
    assert page.pictures == ["stability.png"] and "log_ratio" in page.cells


@pytest.mark.parametrize("content", [{}, {"status.json": "{"}, {"study.json": "[]"}])
def test_other_directories_are_refused(tmp_path, capsys, content):
    for name, text in content.items():
        (tmp_path / name).write_text(text)
    code, _, errors = call(capsys, "report", str(tmp_path))
    assert code == 2 and errors.count("\n") == 1
    assert not (tmp_path / "report.html").exists()


def test_no_name_is_taken_for_markup(softmax, tmp_path):
    """Names with the characters of HTML, in the folder's name, the configuration and the status."""
    folder = tmp_path / "a<b>&\"c\"'d'.run"
    shutil.copytree(softmax, folder)
    status = json.loads((folder / "status.json").read_text())
    (folder / "status.json").write_text(json.dumps(status | {"message": '<script>1 < 2 && "3"</script>'}))
    with (folder / "config.toml").open("a") as file:
        file.write("# </pre><b>bold</b>\n")
    text = report.write(folder).read_text()
    page = Page(text)
    assert page.open == [] and '<script>1 < 2 && "3"</script>' in page.cells
    assert "<script" not in text and "<b>" not in text and "a&lt;b&gt;&amp;" in text


def test_a_wheel_holds_every_file_that_is_no_module():
    package = ROOT / "fastpde"
    data = tomllib.loads((ROOT / "pyproject.toml").read_text())["tool"]["setuptools"]["package-data"]
    held = {path for name, globs in data.items() for one in globs
            for path in package.joinpath(*name.split(".")[1:]).glob(one)}  # fmt: skip
    there = {path for path in package.rglob("*.*") if path.is_file() and path.suffix not in (".py", ".pyc")}
    assert {path.name for path in held} >= {"page.html", "run.html", "style.css"} and there <= held


BROWSER = next(filter(None, map(shutil.which, ("chromium", "chromium-browser", "google-chrome"))), None)


@pytest.mark.skipif(BROWSER is None, reason="no Chromium on this machine")
def test_a_browser_opens_it(softmax, tmp_path):
    path, picture = report.write(softmax), tmp_path / "page.png"
    size = "--window-size=1200,4000"
    command = [BROWSER, "--headless", "--no-sandbox", "--disable-gpu", size, f"--screenshot={picture}", path.as_uri()]
    subprocess.run(command, check=True, capture_output=True, timeout=120)
    assert picture.read_bytes()[:4] == b"\x89PNG"


@pytest.mark.parametrize(("more", "words"), [(0, ""), (1, "1 more column"), (2, "2 more columns")])
def test_columns_that_are_left_out_are_counted(more, words):
    columns = {f"c{i}": [1.0] for i in range(rendering._MOST_COLUMNS + more)}
    assert rendering.excerpt(columns).more == words
