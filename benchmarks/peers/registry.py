"""The peers: an entry names a file of `libraries`, what it imports, and the pieces of work that it does."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from importlib import import_module
from importlib.util import find_spec
from shutil import which

from .larger import ManySystems, Run, Scaling, SystemsRun
from .work import Call, LinearSum, Masked, Softmax, SoftmaxTo, Variant, Work

NATIVE = "-O3 -march=native -ffast-math"


@dataclass(frozen=True, eq=False)
class Peer:
    """Somebody who does the same work.

    Attributes:
        name: what it is called in tables and by `--peers`.
        file: the module of `libraries` (with a dot: any module) that has `call(work)`; imported in its process only.
        modules: what that imports, by the name of its distribution.
        works: the classes of work it does.
        environment: variables of its process.
        growth: the power of n that its time grows with, for a guess whether more tokens take too long; 0: no guess.
        methods: the methods of the runs it does.
        compiler: whether it needs a C++ compiler.
        reference: whether its value is that of softmax, whatever the work.
    """

    name: str
    file: str
    modules: Mapping[str, str]
    works: tuple[type[Work], ...]
    environment: Mapping[str, str] = field(default_factory=dict)
    growth: float = 2.0
    methods: tuple[str, ...] = ("rk4", "dopri5")
    compiler: bool = False
    reference: bool = False

    def available(self) -> str | None:
        """Return why it cannot be used here, or None."""
        absent = [name for name, module in self.modules.items() if find_spec(module) is None]
        if absent:
            return f"not installed: pip install {' '.join(absent)}"
        if self.compiler and not (which("c++") or which("g++") or which("clang++")):
            return "no C++ compiler was found"
        return None

    def does(self, work: Work) -> bool:
        """Return whether it does a piece of work."""
        return type(work) in self.works and getattr(work, "method", self.methods[0]) in self.methods

    def judged(self, work: Work) -> Work:
        """Return the work whose true value its result is compared with."""
        return Softmax(work.n, work.d, work.dtype) if self.reference else work

    def call(self, work: Work) -> Call:
        """Prepare a piece of work."""
        name = self.file if "." in self.file else f"{__package__}.libraries.{self.file}"
        prepared: Call = import_module(name).call(work)
        return prepared


SUMS = (Softmax, SoftmaxTo)
KEOPS = {"pykeops": "pykeops"}
JAX = {"jax": "jax"}
TORCH = {"torch": "torch"}
EVERY = (
    Peer("NumPy", "numpy_sums", {"numpy": "numpy"}, (*SUMS, LinearSum, ManySystems, Run), methods=("rk4",)),
    Peer("SciPy", "scipy_sums", {"scipy": "scipy"}, (*SUMS, Run), methods=("dopri5",)),
    Peer("PyTorch", "torch_sums", TORCH, (*SUMS, LinearSum, Masked, ManySystems, SystemsRun)),
    Peer("JAX", "jax_sums", JAX, (*SUMS, ManySystems, SystemsRun)),
    Peer("KeOps", "keops_sums", KEOPS, SUMS, compiler=True),
    Peer("KeOps native", "keops_sums", KEOPS, SUMS, environment={"CXXFLAGS": NATIVE}, compiler=True),
    Peer("FINUFFT", "finufft_sums", {"finufft": "finufft"}, (SoftmaxTo,), growth=0.0),
    Peer("POT", "pot_scalings", {"pot": "ot"}, (Scaling,)),
    Peer("POT lazy", "pot_lazy_scalings", {"pot": "ot"}, (Scaling,)),
    Peer("GeomLoss", "geomloss_scalings", TORCH | {"geomloss": "geomloss"}, (Scaling,)),
    Peer("OTT", "ott_scalings", JAX | {"ott-jax": "ott"}, (Scaling,)),
    Peer("diffrax", "diffrax_runs", JAX | {"diffrax": "diffrax"}, (Run,)),
    Peer("torchdiffeq", "torchdiffeq_runs", TORCH | {"torchdiffeq": "torchdiffeq"}, (Run,)),
    Peer("own softmax", "own_softmax", {"fastpde": "fastpde"}, (Variant, Masked), reference=True),
)
PEERS = {peer.name: peer for peer in EVERY}
