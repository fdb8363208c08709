"""The commands about this machine, `fastpde warmup` and `fastpde doctor`, and how many of its threads are used."""

from __future__ import annotations

import sys
from collections.abc import Callable

from fastpde.errors import InputError
from fastpde.run import launch, machine

_MOST = 4096  # a bound on what a typing error can ask for


def threads_of(text: str | None, ranks: int = 1) -> int:
    """Return the number of threads to use: that in `text`, or the cores divided by `ranks`; at most all cores."""
    found, cores = whole("--threads", text), machine.cores()
    if found is not None and found > cores and not launch.launch().rank:
        sys.stderr.write(f"fastpde: --threads {found}: {cores} are used, all that this process may use\n")
    return max(1, cores // ranks) if found is None else min(found, cores)


def whole(name: str, text: str | None, least: int = 1, most: int = _MOST) -> int | None:
    """Return the whole number in `text`, None for None. Raises InputError naming `name` unless least <= it <= most."""
    if text is None:
        return None
    if not (text.isascii() and text.isdigit() and least <= int(text[:9]) <= most and len(text) <= 9):
        raise InputError(name, repr(text), f"a whole number from {least} to {most}")
    return int(text)


def set_threads(threads: int) -> None:
    """Set the number of threads that sums use."""
    from fastpde import sums

    sums.set_threads(threads)


def warmup() -> int:
    """Compile every kernel and return the exit code 0."""
    from tqdm import tqdm

    from fastpde import sums

    with tqdm(desc="compiling", unit=" kernels", file=sys.stderr) as bar:

        def report(name: str) -> None:
            bar.set_postfix_str(name, refresh=False)
            bar.update()

        sums.warmup(report)
        _warmup_systems(report)
    return 0


def _warmup_systems(report: Callable[[str], None]) -> None:
    """Compile the kernels of small systems for every weight and both precisions, and that of Gaussian laws."""
    import numpy as np

    import fastpde as fp
    from fastpde.attention import VARIANTS

    for dtype in ("float64", "float32"):
        # One variant of each weight whose sums over small systems are compiled whole.
        for variant in {type(v.kind.weight): v.kind for v in reversed(VARIANTS.values()) if not v.scales}.values():
            attention = variant(*[np.eye(1)] * 3)
            if attention._reduced_form() is None:
                continue
            report(f"{dtype} systems, {type(variant.weight).__name__}")
            fp.solve(attention, np.ones((1, 2, 1), dtype), (0.0, 1.0), method="euler", step=1.0)
    report("float64 Gaussian laws")
    fp.solve(fp.Softmax(*[np.eye(1)] * 3), fp.Gaussian(0.0, np.ones((1, 1, 1))), (0.0, 1.0), method="euler", step=1.0)


def doctor() -> int:
    """Print what this machine will do and why, and return the exit code 0."""
    from fastpde import sums
    from fastpde.run import mpi_facts

    facts = {**machine.facts(), **machine.versions(), **sums.describe(), **machine.libraries(), **mpi_facts.facts()}
    facts |= {**machine.reasons(), **sums.choices()}
    width = max(map(len, facts))
    sys.stdout.writelines(f"{name:<{width}}  {value}\n" for name, value in facts.items())
    return 0
