"""Clusters along a run: columns, clusters.csv, the picture, and what is refused."""

from __future__ import annotations

import sys
import tracemalloc

import numpy as np
import pytest
from edits import changed

import fastpde as fp
from fastpde import config, observe, plot
from fastpde.errors import InputError
from fastpde.plot.cluster_paths import metastable
from fastpde.run import inspect, runner
from fastpde.run.observables import token_clusters
from fastpde.run.tables import read_observables
from fastpde.run.trajectory import read_trajectory


def test_the_clusters_of_every_frame(small):
    changed(small, ("every = 0.25", "every = 0.25\nclusters = 0.2"), ("n = 30", "n = 300"))
    out = small.parent / "out"
    assert runner.run(config.load(small), out, quiet=True).code == 0
    stored, table = read_trajectory(out / "trajectory.h5"), read_observables(out / "observables.csv")
    largest = read_observables(out / "clusters.csv")
    assert list(largest) == ["t", "cluster", "size", "position_0", "position_1"]
    for i, (t, x) in enumerate(zip(stored.time, stored.value, strict=True)):
        found = fp.clusters(x, 0.2 * observe.radius(x - x.mean(axis=0)))
        assert table["clusters"][i] == (found.sizes >= 3).sum()
        assert table["clustered"][i] == pytest.approx(found.sizes[found.sizes >= 3].sum() / 300, rel=1e-14)
        rows = largest["t"] == t
        np.testing.assert_array_equal(largest["size"][rows], found.sizes[:16])
        # Means of the same numbers about means that differ by rounding.
        np.testing.assert_allclose(largest["position_1"][rows], found.positions[:16, 1], atol=1e-13)
    assert out / "clusters.png" in plot.plot_run(out) and (out / "clusters.png").stat().st_size > 1000
    assert inspect.verify(out)[1] == []
    text = (out / "clusters.csv").read_text()
    (out / "clusters.csv").write_text(text.replace("0.", "1.", 1))
    assert any("clusters.csv" in said for said in inspect.verify(out)[1])


def test_metastable_times():
    t = np.linspace(0.0, 1.0, 21)
    counts = np.repeat([5.0, 4.0, 3.0], [9, 1, 11])
    counts[-1] = np.nan
    found = metastable({"t": t, "clusters": counts})
    assert [(p.start, p.end, p.count) for p in found] == [(0.0, t[8], 5), (t[10], t[19], 3)]
    assert metastable({"t": t[:1], "clusters": counts[:1]}) == []


def test_ends_of_what_can_be_clustered():
    point = token_clusters.of(np.full((4, 2), 3.0), 0.1)
    assert token_clusters.counted(point) == [1.0, 1.0]
    assert token_clusters.rows(0.5, point) == [[0.5, "0", "4", 3.0, 3.0]]
    lost = token_clusters.of(np.full((5, 2), np.nan), 0.1)
    assert lost is None and np.isnan(token_clusters.counted(lost)).all() and token_clusters.rows(0.5, lost) == []


def test_a_token_alone_is_no_cluster():
    """Of 100 tokens one is 1 %: 40 that are alone are not counted beside two clusters of 30."""
    x = np.concatenate([np.zeros((30, 1)), np.full((30, 1), 10.0), np.arange(20.0, 60.0)[:, None]])
    found = token_clusters.of(x, 0.01)
    assert len(found) == 42 and token_clusters.counted(found) == [2.0, 0.6]
    assert len(token_clusters.rows(0.0, found)) == token_clusters.MOST  # the table has the largest, whatever they hold
    alone = token_clusters.of(np.arange(3.0)[:, None], 0.1)
    assert token_clusters.counted(alone) == [0.0, 0.0]


def test_work_is_linear_in_the_tokens():
    """Ten times the tokens need about as many calls of NumPy, each on arrays that are at most ten times as large."""
    x = np.random.default_rng(0).normal(size=(200_000, 2))
    calls, peaks = [], []
    for n in (20_000, 200_000):
        counted = []
        tracemalloc.start()
        sys.setprofile(lambda frame, event, argument, counted=counted: counted.append(event))
        try:
            token_clusters.of(x[:n], 0.05)
        finally:
            sys.setprofile(None)
            peaks.append(tracemalloc.get_traced_memory()[1])
            tracemalloc.stop()
        calls.append(len(counted))
    assert calls[1] < 1.5 * calls[0] and peaks[1] < 11 * peaks[0]


@pytest.mark.parametrize("value", ["1.0", "0.0", "-1", '"yes"', "[0.1]"])
def test_lengths_that_are_refused(small, value):
    changed(small, ("every = 0.25", f"every = 0.25\nclusters = {value}"))
    with pytest.raises(InputError, match=r"output\.clusters"):
        config.load(small)


def test_switches_and_ensembles(small):
    text = small.read_text()
    for value, share in (("true", 0.05), ("false", None), ("0.1", 0.1)):
        small.write_text(text)
        changed(small, ("every = 0.25", f"every = 0.25\nclusters = {value}"))
        problem = config.load(small)
        assert problem.config.output.clusters == share
        assert config.parse(config.dumps(problem.config)).output.clusters == share
    changed(small, ("d = 2", "d = 2\nsystems = 3"))
    with pytest.raises(InputError, match=r"output\.clusters"):
        config.load(small)
