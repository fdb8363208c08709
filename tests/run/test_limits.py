"""Limits of threads and memory, from files and an environment that are made up."""

from __future__ import annotations

import os
from pathlib import Path

import pytest
from threadpoolctl import threadpool_info

from fastpde import cli, config
from fastpde.run import machine, resource_limits, runner
from fastpde.run.resource_limits import Place
from fastpde.simd import pool

GIB = 2**30


def place(folder: Path, process: str, files: dict[str, str], **environment: str) -> Place:
    (folder / "cgroup").write_text(process)
    for name, text in files.items():
        (folder / "groups" / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / "groups" / name).write_text(text + "\n")
    return Place(folder / "cgroup", folder / "groups", environment)


TWO = "0::/job/step\n"
ONE = "4:memory:/job\n2:cpu,cpuacct:/job\n1:name=systemd:/\n0::/\n"
QUOTAS = {
    "version 2": (TWO, {"job/step/cpu.max": "250000 100000"}, 2),
    "of a parent": (TWO, {"job/step/cpu.max": "max 100000", "job/cpu.max": "300000 100000"}, 3),
    "less than one": (TWO, {"cpu.max": "50000 100000"}, 1),
    "version 1": (ONE, {"cpu/job/cpu.cfs_quota_us": "400000", "cpu/job/cpu.cfs_period_us": "100000"}, 4),
    "version 1, no link": (ONE, {"cpu,cpuacct/cpu.cfs_quota_us": "9", "cpu,cpuacct/cpu.cfs_period_us": "4"}, 2),
    "hybrid": (ONE, {"unified/cpu.max": "200000 100000"}, 2),
    "none": (ONE, {"cpu/cpu.cfs_quota_us": "-1", "cpu/cpu.cfs_period_us": "100000"}, None),
    "max": (TWO, {"cpu.max": "max 100000"}, None),
    "nonsense": ("junk\n\n:\n0::/..\n", {"cpu.max": "1e5 x", "memory.max": ""}, None),
}


@pytest.mark.parametrize("case", QUOTAS)
def test_quotas(tmp_path, case):
    process, files, want = QUOTAS[case]
    found = resource_limits.threads(place(tmp_path, process, files))
    assert found.get("cgroup quota") == want
    assert found["affinity"] == len(os.sched_getaffinity(0)) and found["cores of the machine"] == os.cpu_count()


def test_the_smallest_number_of_threads_counts(tmp_path):
    found = resource_limits.threads(place(tmp_path, TWO, {"cpu.max": "900000 100000"}, SLURM_CPUS_PER_TASK="1"))
    assert resource_limits.least(found) == (1, "SLURM_CPUS_PER_TASK") or found["affinity"] == 1
    whole = resource_limits.threads(place(tmp_path, TWO, {}, SLURM_CPUS_ON_NODE="1"))  # without affinity
    assert whole["SLURM_CPUS_ON_NODE"] == 1 and resource_limits.least(whole)[0] == 1
    assert "SLURM_CPUS_PER_TASK" not in resource_limits.threads(place(tmp_path, TWO, {}, SLURM_CPUS_PER_TASK="many"))


MEMORY = {
    "version 2": (TWO, {"job/memory.max": str(3 * GIB), "memory.max": "max"}, {}, "cgroup", 3 * GIB),
    "version 1": (ONE, {"memory/memory.limit_in_bytes": str(2 * GIB)}, {}, "cgroup", 2 * GIB),
    "no limit": (ONE, {"memory/memory.limit_in_bytes": "9223372036854771712"}, {}, "machine", None),
    "a node": (TWO, {}, {"SLURM_MEM_PER_NODE": "1024"}, "SLURM_MEM_PER_NODE", GIB),
    "all of a node": (TWO, {}, {"SLURM_MEM_PER_NODE": "0"}, "machine", None),
    "a processor": (TWO, {}, {"SLURM_MEM_PER_CPU": "256", "SLURM_CPUS_ON_NODE": "4"}, "SLURM_MEM_PER_CPU", GIB),
    "a task": (TWO, {}, {"SLURM_MEM_PER_CPU": "512", "SLURM_CPUS_PER_TASK": "2"}, "SLURM_MEM_PER_CPU", GIB),
    "one": (TWO, {}, {"SLURM_MEM_PER_CPU": "512"}, "SLURM_MEM_PER_CPU", GIB // 2),
    "nonsense": (TWO, {"memory.max": "-5"}, {"SLURM_MEM_PER_NODE": "2G"}, "machine", None),
}


@pytest.mark.parametrize("case", MEMORY)
def test_memory(tmp_path, case):
    process, files, environment, name, size = MEMORY[case]
    whole = os.sysconf("SC_PAGE_SIZE") * os.sysconf("SC_PHYS_PAGES")
    assert resource_limits.least(resource_limits.memory(place(tmp_path, process, files, **environment))) == (
        size or whole,
        name,
    )


def test_a_run_takes_the_threads_it_may_and_one_of_blas(small, monkeypatch):
    seen = []

    def run(*_, **__):
        seen.append(pool.threads())
        return runner.Outcome(2, "", None)

    before = pool.threads()
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.chdir(small.parent)
    with monkeypatch.context() as context:
        context.setattr(runner, "run", run)
        for asked in ([], ["--threads", "4"]):
            assert cli.main(["run", "small.toml", *asked]) == 2
    assert seen == [1, 1]
    blas = []
    monkeypatch.setattr(
        runner,
        "_run",
        lambda *_: blas.append([one["num_threads"] for one in threadpool_info()]) or runner.Outcome(0, "", None),
    )
    monkeypatch.setattr(runner, "_ended_badly", lambda *_: None)
    infos = [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"]
    runner.run(config.load(small), small.parent / "out", quiet=True)
    assert [one["num_threads"] for one in threadpool_info() if one["user_api"] == "blas"] == infos
    assert 1 in blas[0]
    pool.set_threads(before)


def test_a_run_of_too_much_memory_is_refused(small, monkeypatch, capsys):
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "300")
    monkeypatch.chdir(small.parent)
    assert cli.main(["run", "small.toml", "--quiet"]) == 2
    errors = capsys.readouterr().err
    assert errors.startswith("fastpde: error: tokens.n: got 30 tokens") and "80 % of this machine's 0.293 GiB" in errors
    assert [file.name for file in small.parent.iterdir()] == ["small.toml"]


def test_reasons(monkeypatch):
    monkeypatch.setenv("SLURM_CPUS_PER_TASK", "1")
    monkeypatch.setenv("SLURM_MEM_PER_NODE", "512")
    found = machine.reasons()
    assert found["threads of runs"].startswith("1, by ") and "SLURM_CPUS_PER_TASK 1" in found["threads of runs"]
    assert found["memory"].startswith("0.5 GiB, by SLURM_MEM_PER_NODE (machine ")
