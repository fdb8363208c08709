"""The pieces of work that are compared."""

from __future__ import annotations

from .larger import ManySystems, Run, Scaling, SystemsRun
from .work import LinearSum, Masked, Softmax, SoftmaxTo, Variant, Work

DTYPES = ("float64", "float32")


def full() -> list[Work]:
    """Return all pieces of work, with the number of tokens growing for each kind."""
    works: list[Work] = [Softmax(n, d, t) for t in DTYPES for d in (1, 2, 8, 16, 64) for n in (1024, 4096, 16384)]
    works += [SoftmaxTo(n, d) for d in (1, 2, 3) for n in (16384, 65536, 1_000_000)]
    works += [SoftmaxTo(100_000, d, logit=150.0) for d in (1, 2)]
    works += [kind for t in DTYPES for d in (2, 8) for kind in kinds(16384, d, t)]
    works += [LinearSum(n, d, t) for t in DTYPES for n, d in ((1_000_000, 2), (262_144, 16), (65536, 64), (16384, 256))]
    works += [ManySystems(32, d, t) for t in DTYPES for d in (2, 4, 8)]
    works += [SystemsRun(n, d, t) for t in DTYPES for n, d in ((32, 2), (32, 4), (32, 8), (64, 2))]
    works += [Scaling(n, d) for d in (2, 8) for n in (1024, 2048, 4096)]
    works += [Run(n, 2, method=method) for method in ("rk4", "dopri5") for n in (512, 2048)]
    return works


def quick() -> list[Work]:
    """Return small pieces of work, of which every peer has some."""
    works: list[Work] = [Softmax(n, d) for d in (2, 64) for n in (1024, 4096)]
    works += [Softmax(4096, 2, "float32")]
    works += [SoftmaxTo(n, 2) for n in (16384, 100_000)]
    works += kinds(4096, 2, "float64")
    works += [LinearSum(n, d) for n, d in ((262_144, 2), (65536, 64))]
    works += [ManySystems(32, 2, systems=512), SystemsRun(32, 2, systems=512, steps=10)]
    works += [Scaling(n, 2) for n in (256, 512)]
    works += [Run(256, 2, method=method) for method in ("rk4", "dopri5")]
    return works


def kinds(n: int, d: int, dtype: str) -> list[Work]:
    """Return the other kinds of sums."""
    return [*(Variant(n, d, dtype, kind) for kind in ("l2", "weights", "sigmoid")), Masked(n, d, dtype)]
