"""Seeded clouds: laws, prefixes, blocks."""

from __future__ import annotations

import re

import numpy as np
import pytest

from fastpde import initial
from fastpde.errors import InputError

MEANS = [[0.0, 5.0], [3.0, 0.0]]
CLOUDS = {
    "gaussian": lambda n, **k: initial.gaussian(n, 2, **k),
    "cov": lambda n, **k: initial.gaussian(n, 2, root=np.array([[1.0, 0.3], [0.3, 2.0]]), **k),
    "ball": lambda n, **k: initial.ball(n, 2, **k),
    "sphere": lambda n, **k: initial.sphere(n, 2, **k),
    "mixture": lambda n, **k: initial.mixture(n, MEANS, **k),
}


@pytest.mark.parametrize("kind", CLOUDS)
def test_a_token_depends_on_seed_and_index_alone(kind):
    many = CLOUDS[kind](2 * initial.BLOCK + 7, seed=3)
    for n in (1, 5, initial.BLOCK, initial.BLOCK + 1):
        assert (CLOUDS[kind](n, seed=3) == many[:n]).all()  # to the bit: it is the same draw
    assert (CLOUDS[kind](5, seed=4) != many[:5]).all()
    assert len(np.unique(many[:, 0])) == len(many)  # no block repeats another


@pytest.mark.parametrize("kind", CLOUDS)
def test_rows_are_made_alone(kind):
    n = 2 * initial.BLOCK + 7
    many = CLOUDS[kind](n, seed=3)
    for rows in (slice(0, 1), slice(5, initial.BLOCK + 1), slice(initial.BLOCK, 2 * initial.BLOCK), slice(-3, None)):
        assert (CLOUDS[kind](n, seed=3, rows=rows) == many[rows]).all()  # to the bit: it is the same draw
    for none in (slice(4, 4), slice(n, n + 5), slice(0, 10, 2)):
        with pytest.raises(InputError, match="rows"):
            CLOUDS[kind](n, seed=3, rows=none)


@pytest.mark.parametrize("kind", CLOUDS)
def test_systems_have_numbers_of_their_own_and_the_first_has_those_of_a_run_alone(kind):
    n = initial.BLOCK + 3
    clouds = [CLOUDS[kind](n, seed=3, system=s) for s in range(3)]
    assert (clouds[0] == CLOUDS[kind](n, seed=3)).all()
    assert len(np.unique(np.concatenate(clouds)[:, 0])) == 3 * n  # nor do blocks and systems share keys
    assert (CLOUDS[kind](5, seed=3, system=2) == clouds[2][:5]).all()
    with pytest.raises(InputError, match="system"):
        CLOUDS[kind](5, seed=3, system=-1)


def test_the_first_system_never_changes():
    """Numbers of the first release: a seed means the same cloud for ever."""
    want = [0.05078286803498232, 0.6618334385513129, -0.6526621576196217, 0.8909970248056861]
    assert initial.gaussian(2, 2, seed=1).ravel().tolist() == want


@pytest.mark.parametrize("kind", CLOUDS)
def test_float32_is_the_rounded_float64(kind):
    assert (CLOUDS[kind](50, seed=0, dtype=np.float32) == CLOUDS[kind](50, seed=0).astype(np.float32)).all()


def test_gaussian_has_its_moments():
    cov = np.array([[2.0, 1.0], [1.0, 3.0]])
    n = 40_000
    x = initial.gaussian(n, 2, seed=0, mean=[1.0, -2.0], root=initial.square_root(cov))
    # Five standard errors: sqrt(S_ii / n) for means, at most sqrt(2) * 3 / sqrt(n) for covariances.
    assert np.abs(x.mean(axis=0) - [1.0, -2.0]).max() < 5 * np.sqrt(3 / n)
    assert np.abs(np.cov(x.T) - cov).max() < 5 * np.sqrt(2) * 3 / np.sqrt(n)


def test_singular_covariance_gives_a_line():
    x = initial.gaussian(100, 2, seed=0, root=initial.square_root(np.ones((2, 2))))
    # The root of eigenvalue 0 is the root of a rounding error, 1e-8 at most.
    assert np.abs(x[:, 0] - x[:, 1]).max() < 1e-6 and x.std() > 0.5


def test_ball_and_sphere_have_their_radii():
    n, d = 20_000, 3
    r = np.linalg.norm(initial.ball(n, d, seed=0, radius=2.0), axis=1) / 2
    # u = r^d is uniform: its mean is 1/2 with standard error 1/sqrt(12 n); five of them.
    assert abs((r**d).mean() - 0.5) < 5 / np.sqrt(12 * n) and r.max() <= 1 + 1e-15
    s = np.linalg.norm(initial.sphere(n, d, seed=0, radius=2.0), axis=1)
    assert np.abs(s - 2).max() < 1e-14  # a few roundings of 2.2e-16


@pytest.mark.parametrize("d", [2, 3, 8])
def test_sphere_is_uniform(d):
    """The moments of the uniform law, five standard errors each; and, in the plane, angles that fill the circle evenly.

    E x = 0, E x_i x_j = delta_ij / d, E x_i^4 = 3 / (d (d + 2)).
    """
    n = 40_000
    x = initial.sphere(n, d, seed=0)
    assert np.abs(x.mean(axis=0)).max() < 5 / np.sqrt(d * n)
    assert np.abs(x.T @ x / n - np.eye(d) / d).max() < 5 * np.sqrt(3 / (d * (d + 2)) / n)
    fourth = x**4
    assert np.abs(fourth.mean(axis=0) - 3 / (d * (d + 2))).max() < 5 * fourth.std() / np.sqrt(n)
    if d == 2:
        turns = np.sort(np.arctan2(x[:, 1], x[:, 0]) / (2 * np.pi) + 0.5)
        # Kolmogorov: sqrt(n) sup |F_n - F| exceeds 2.5 with probability 2 e^{-2 * 2.5^2} = 7e-6.
        assert np.abs(turns - (np.arange(n) + 0.5) / n).max() < 2.5 / np.sqrt(n)


def test_mixture_has_its_weights():
    n = 20_000
    x = initial.mixture(n, MEANS, seed=0, std=0.01, weights=[0.25, 0.75])
    share = (x[:, 1] > 2.5).mean()
    assert abs(share - 0.25) < 5 * np.sqrt(0.25 * 0.75 / n)  # five standard errors
    assert initial.mixture(1000, MEANS, seed=0, std=0.0, weights=[0.0, 1.0])[:, 1].max() == 0.0


@pytest.mark.parametrize("cov", [[[1.0, 2.0]], [[1.0, 0.5], [0.0, 1.0]], [[1.0, 2.0], [2.0, 1.0]]])
def test_what_is_no_covariance_is_refused(cov):
    with pytest.raises(InputError, match="cov"):
        initial.square_root(np.array(cov))


def test_subset_is_fixed_sorted_and_without_repetition():
    ids = initial.subset(1000, 100, seed=1)
    assert (np.diff(ids) > 0).all() and ids.min() >= 0 and ids.max() < 1000 and len(ids) == 100
    assert (ids == initial.subset(1000, 100, seed=1)).all() and (ids != initial.subset(1000, 100, seed=2)).any()
    assert (initial.subset(7, 100, seed=1) == np.arange(7)).all()


def test_rows_of_a_file(tmp_path):
    x = np.random.default_rng(0).standard_normal((2, 9000, 2))
    np.save(tmp_path / "x.npy", x)
    found = initial.from_file(tmp_path / "x.npy", n=8000, system=1, rows=slice(4000, 8000))
    assert (found == x[1, 4000:8000]).all()
    x[1, 5000, 1] = np.nan
    np.save(tmp_path / "x.npy", x)
    with pytest.raises(InputError, match="row 5000, column 1"):
        initial.from_file(tmp_path / "x.npy", system=1, rows=slice(4000, 8000))
    assert initial.from_file(tmp_path / "x.npy", system=1, rows=slice(0, 5000)).shape == (5000, 2)


@pytest.mark.parametrize("kind", ["i1", ">i4", "u8"])
def test_whole_numbers_of_a_file_are_float64(tmp_path, kind):
    x = np.random.default_rng(0).integers(0, 9, (7, 2)).astype(kind)
    np.save(tmp_path / "x.npy", x)
    found = initial.from_file(tmp_path / "x.npy")
    assert found.dtype == np.float64 and (found == x).all()


def _npy(header: str) -> bytes:
    return b"\x93NUMPY\x01\0" + len(header).to_bytes(2, "little") + header.encode() + bytes(64)


@pytest.mark.parametrize(
    "content",
    [
        b"PK\x03\x04 no archive",
        b"PK\x05\x06" + bytes(18),
        b"",
        _npy("'''"),
        _npy("{[]: 1}"),
        _npy(f"{{'descr': '<f8', 'fortran_order': False, 'shape': ({10**30},)}}"),
        _npy("{'descr': '|O', 'fortran_order': False, 'shape': (1,)}"),
    ],
    ids=["PK", "empty archive", "empty", "text", "unhashable", "too large", "objects"],
)
def test_files_that_are_no_arrays_are_refused(tmp_path, content):
    path = tmp_path / "x.npy"
    path.write_bytes(content)
    with pytest.raises(InputError, match=r'^tokens.path: got "x.npy": .*; need a readable, complete .npy file'):
        initial.open_array(path, "tokens.path")


def test_tables_of_commas(tmp_path):
    x = np.random.default_rng(0).normal(size=(7, 3))
    path = tmp_path / "x.csv"
    lines = [",".join(map(repr, row)) for row in x.tolist()]
    for head in ("", "a,b,c\n", "x,1,2\n"):
        path.write_text(head + "\n".join(lines) + "\n")
        assert (initial.from_file(path) == x).all() and initial.open_array(path, "path").shape == (7, 3)
    path.write_text("1.5\n2.5\n")
    assert initial.from_file(path).tolist() == [[1.5], [2.5]]


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("", "no numbers"),
        ("a,b\n", "no numbers"),
        ("1,2\n3\n", "1 numbers in line 2 and 2 before it"),
        ("1,2\n\n3,x\n", '"x" as number 2 of line 3'),
        ("a,b\n1,2\n3,\n", '"" as number 2 of line 3'),
        ("1;2\n3;4\n", '"3;4" as number 1 of line 2'),
        ("1,2\n#3,4\n", '"#3" as number 1 of line 2'),
        ("1_0,2\nb,3\n", '"b" as number 1 of line 2'),
    ],
)
def test_tables_that_are_refused(tmp_path, text, word):
    path = tmp_path / "x.csv"
    path.write_text(text)
    with pytest.raises(InputError, match=rf'^tokens.path: got "x.csv": {re.escape(word)}; need rows of numbers'):
        initial.open_array(path, "tokens.path")
