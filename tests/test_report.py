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
    assert page.open == [] and all(link.startswith(("data:image/", "https://")) for link in page.links)
    assert page.pictures == ["tokens.png", "spectrum.png", "tokens.gif", "observables.png"]
    table = read_observables(softmax / "observables.csv")
    for value in (table["energy"][-1], table["radius"][0], table["trace"][2]):
        assert f"{value:.6g}" in page.cells
    # finite, support, hull, energy, its balance; stability and the Gaussian law
    assert (page.cells.count("holds"), page.cells.count("stated")) == (5, 2) and "fails" not in page.cells
    text = " ".join(page.cells)
    assert "https://arxiv.org/abs/2501.18322" in page.links
    assert "one run cannot decide it" in (softmax / "report.html").read_text()
    assert "R(t)" in text and "largest radius" not in text
    assert "Theorem 3.1" in text and "docs/theory/08-stability.md#theory-8-1" in text
    assert f"{table['dissipation'][1]:.6g}" in page.cells and "energy.violations" in page.cells
    assert "marks.trajectory.frames" in page.cells and not any(cell.startswith("{") for cell in page.cells)


def verdicts(text, table, status, **more):
    """The checks of a run by their names."""
    return {check.name: check for check in theory_checks.checks(text, table, status, **more)}


def test_broken_theory_is_said(softmax):
    text = (softmax / "config.toml").read_text()
    table = {name: column.copy() for name, column in read_observables(softmax / "observables.csv").items()}
    table["radius"][2] *= 100.0
    table["energy"][-1] = 0.0
    table["trace"][1] = np.nan
    status = {"energy": {"expected": "rises", "intervals": 4, "violations": 1, "first_violation_t": 0.4}}
    found = verdicts(text, table, status)
    assert {name: found[name].verdict for name in ("finite", "support", "hull", "energy", "balance")} == {
        "finite": "fails", "support": "fails", "hull": "fails", "energy": "fails", "balance": "unknown",
    }  # fmt: skip
    assert "3 of 4 intervals" in found["energy"].numbers and "t = 0.4" in found["energy"].numbers
    found = verdicts(text, table, {})["energy"]
    assert found.verdict == "unknown" and "energy = true in [output]" in found.numbers


def test_a_balance_that_is_not_known_is_not_shown(softmax):
    """An energy may have no dissipation, whatever the number of frames."""
    text = (softmax / "config.toml").read_text()
    table = read_observables(softmax / "observables.csv")
    broken = table | {"dissipation": np.full(len(table["t"]), np.nan)}
    assert "balance" not in verdicts(text, broken, {})
    gap = {name: column.copy() for name, column in table.items()}
    gap["dissipation"][1] = np.nan
    found = verdicts(text, gap, {})["balance"]
    assert found.verdict == "unknown" and "four frames" in found.numbers
    found = verdicts(text, table | {"energy": np.full(len(table["t"]), np.nan)}, {})["balance"]
    assert found.verdict == "unknown"


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
    found = verdicts(text, table, status)
    assert all(found[name].verdict == "holds" for name in ("finite", "support", "mean", "energy", "balance"))
    table["mean_0"] = table["mean_0"] + 0.1
    table["mean_0"][0] -= 0.1
    assert verdicts(text, table, status)["mean"].verdict == "fails"


@pytest.mark.parametrize(
    ("edits", "verdict"),
    [
        ((('"rk4"\nstep = 0.05', '"euler"\nstep = 0.2'),), "holds"),  # far from e^(V t / eps)
        ((("energy = true", 'energy = true\n[backend]\ndtype = "float32"'),), "holds"),
        ((('"rk4"\nstep = 0.05', '"dopri5"\nrtol = 1e-2'),), "holds"),
        ((('kind = "sinkhorn"', 'kind = "sinkhorn"\nn_half = 3'), ("energy = true", "")), None),
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
    found = verdicts((tmp_path / "run" / "config.toml").read_text(), table, status).get("mean")
    assert (found and found.verdict) == verdict, found


def test_clusters_are_shown(tmp_path):
    text = CONFIG.format(kind="softmax").replace("energy = true", "energy = false\nclusters = true")
    (tmp_path / "a.toml").write_text(text)
    from fastpde.cli import main

    assert main(["run", str(tmp_path / "a.toml"), "--out", str(tmp_path / "run"), "--quiet"]) == 0
    page = Page(report.write(tmp_path / "run").read_text())
    assert "clusters.png" in page.pictures and "from t" in page.cells and "clustered" in page.cells


def ran(tmp_path, text):
    """The directory of a run, and its checks by name."""
    (tmp_path / "a.toml").write_text(text)
    from fastpde.cli import main

    folder = tmp_path / "run"
    main(["run", str(tmp_path / "a.toml"), "--out", str(folder), "--quiet"])
    table, status = read_observables(folder / "observables.csv"), json.loads((folder / "status.json").read_text())
    return folder, verdicts((folder / "config.toml").read_text(), table, status, path=folder)


def test_a_masked_run_and_the_conditional_distance(tmp_path):
    text = CONFIG.format(kind="softmax").replace('kind = "softmax"', 'kind = "softmax"\nmasked = true')
    folder, found = ran(tmp_path, text)
    assert set(found) == {"finite", "support", "stability-masked", "moved", "hull"}
    assert found["moved"].verdict == "holds" and "conditional distance" in found["stability-masked"].claim
    run = fp.open_run(folder)
    far = np.sqrt(((run.x[0] - run.x[-1]) ** 2).sum(axis=1).mean())
    assert f"d₂ = {far:.6g}" in found["moved"].numbers


def test_existence_under_exponential_attention(tmp_path):
    """d = 1, one radius: E1(a R0^2) / (2 v); a Gaussian law has no solution for infinitely many tokens."""
    from scipy.special import exp1

    text = CONFIG.format(kind="exponential").replace("d = 2", "d = 1").replace("t_end = 0.4", "t_end = 0.001")
    text = text.replace('"rk4"\nstep = 0.05', '"dopri5"').replace("every = 0.05", "every = 0.0005")
    folder, found = ran(tmp_path, text)
    radius = read_observables(folder / "observables.csv")["radius"][0]
    assert f"t* ≥ {exp1(radius**2) / 2.0:.6g}" in found["existence-exponential"].numbers
    assert found["existence-exponential"].verdict == "holds" and found["no-limit"].verdict == "stated"
    assert "support" not in found and "stability" not in found


def test_a_gaussian_law_and_its_rank(tmp_path):
    """K = -Q of rank 1, V = I: the law's trace by its closed form, beside that of the tokens."""
    text = CONFIG.format(kind="softmax").replace("n = 40", "n = 400")
    text = text.replace('kind = "softmax"', 'kind = "softmax"\nQ = [[1.0, 0.0]]\nK = { scale = -1.0 }')
    _, found = ran(tmp_path, text)
    assert f"{1.0 + 1.0 / 1.8:.6g} of the law" in found["gaussian"].numbers  # s = 1 / (1 + 2 t) and 1
    assert found["rank"].numbers.startswith("rank 1 of 2") and found["energy"].verdict == "holds"


def test_a_law_that_blows_up_where_tokens_do_not(tmp_path):
    _, found = ran(tmp_path, CONFIG.format(kind="softmax").replace("t_end = 0.4", "t_end = 0.6"))
    assert "blows up at t = 0.5;" in found["gaussian"].numbers and found["support"].verdict == "holds"


def test_a_study_has_one_too(tmp_path):
    fp.studies.stability(("linear",), 2, n=5, times=2).save(tmp_path / "study")
    path = report.write(tmp_path / "study")
    page = Page(path.read_text())
    assert page.pictures == ["stability.png"] and "log_ratio" in page.cells
    assert any("Theorem 3.1" in cell for cell in page.cells) and "no pair of 2 exceeds a bound" in path.read_text()


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
