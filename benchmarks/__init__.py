"""Speed of fastpde over its history, by airspeed velocity; every time has its error beside it.

From a clean clone, with `pip install asv virtualenv`:

    cd benchmarks
    asv machine --yes                       once per machine
    asv run                                 the newest commit of main, in a virtual environment of its own
    asv run --quick --python=same           every benchmark once, on the fastpde this Python imports
    asv continuous main HEAD                two commits, side by side
    asv publish && asv preview              pages of the history

`asv run --python=same` needs fastpde installed (`pip install -e .`). Results go to .asv/ of the clone.
`velocity` has every variant, `systems` batches of small systems, `stepping` a time step, `starting` import and compile
time; `common` holds their inputs and a naive reference that shares no code with fastpde. `peers` compares with other
libraries, by a command of its own.
"""
