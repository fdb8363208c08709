"""Speed of fastpde over its history, by airspeed velocity; every time has its error beside it.

From a clean clone, with `pip install asv virtualenv`:

    cd benchmarks
    asv machine --yes                       once per machine
    asv run --quick HEAD^!                  the newest commit, in a virtual environment of its own, every benchmark once
    asv run                                 the same for main, with repetitions
    asv continuous --quick HEAD~1 HEAD      two commits, side by side
    asv publish && asv preview              pages of the history, in docs/_build/benchmarks

    python ../scripts/short_benchmarks.py   every concept once, in this Python; says whether errors are within bounds

Results go to .asv/ of the clone. With `--environment existing --set-commit-hash HEAD` nothing is built; asv removes
PYTHONPATH, and ASV_PYTHONPATH says which fastpde is meant, if it is not the installed one.

`time_` are seconds, `track_error` is the error of the same computation, and `error_bound` what it may be. `track_share`
is the share of a limit that is measured in the same process, see `fastpde.sums.limits`: for direct sums, ensembles,
steps and scalings the time of the multiply-adds at the rate of NumPy's matrix products and of the exponentials alone;
for linear attention that of moving its bytes. Sums in O(n) state no limit, but how much faster than direct sums they
are. A class without an error says why (`no_error`).

asv takes larger numbers for worse. Of `track_share` and `track_speedup` the opposite holds: what `asv continuous` and
the pages of regressions call an improvement of these is none. Runs with `--quick` say nothing about a few per cents.

| module | what is there |
|---|---|
| `velocity` | every variant, size, precision and way to sum |
| `fast` | sums in O(n), up to a million tokens |
| `stepping` | a step, methods, the sphere and noise |
| `systems` | ensembles |
| `scalings` | Sinkhorn attention and its half-iterations |
| `gaussians`, `euler_loop` | batches of Gaussian laws, and the paper's loop |
| `running` | runs with their files: what a checkpoint costs |
| `ranks` | two processes by MPI; skipped without it |
| `memory` | peak memory |
| `starting` | import, cold compilation, the first velocity and the first picture of a process |
| `peers` | the same work by other libraries, by a command of its own |
| `kernel_shares` | every kernel's part of a sum and its share of the machine's limits, by a command of its own |

`common` holds inputs and a naive reference that shares no code with fastpde. `tracking` compares two versions on
restless machines (`scripts/regression.py`), and is no part of this suite.
"""
