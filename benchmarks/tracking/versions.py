"""Two versions of the package side by side: their sources, and the processes that time them."""

from __future__ import annotations

import ast
import hashlib
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from types import TracebackType
from typing import Any

from . import kernel_code

_HERE = Path(__file__).resolve().parents[1]  # where `tracking` is imported from, whichever version is timed
_PATIENCE = 1800.0  # seconds of a step


class TrackingError(Exception):
    """A version cannot be compared, with the reason."""


@dataclass(frozen=True)
class Version:
    """A version of the sources: a commit in a worktree of its own, or a folder.

    Attributes:
        name: as it was asked for.
        tree: where its sources are.
        work: the folder of compiled code and other results that may be kept.
    """

    name: str
    tree: Path
    work: Path

    def environment(self, **more: str) -> dict[str, str]:
        """Return the variables of a process that imports this version."""
        ours = {"PYTHONPATH": str(self.tree), "FASTPDE_CACHE_DIR": str(self.work / "compiled")}
        kept = {
            name: value for name, value in os.environ.items() if not name.startswith(("NUMBA_", "OPENBLAS_CORETYPE"))
        }
        return kept | ours | {"OPENBLAS_NUM_THREADS": "1", "PYTHONHASHSEED": "0"} | more

    def command(self, module: str, *arguments: str) -> list[str]:
        """Return the command that runs a module of this package with this version of fastpde."""
        code = f"import sys; sys.path.append({str(_HERE)!r}); from tracking.{module} import main; main(sys.argv[1:])"
        return [sys.executable, "-P", "-c", code, *arguments]

    def run(self, module: str, *arguments: str, **more: str) -> None:
        """Run a module to its end. Raises TrackingError with its last lines if it fails."""
        done = subprocess.run(
            self.command(module, *arguments),
            env=self.environment(**more),
            capture_output=True,
            text=True,
            timeout=_PATIENCE,
        )
        if done.returncode:
            raise TrackingError(f"{self.name}: {module} failed:\n" + "\n".join(done.stderr.splitlines()[-12:]))

    def sources(self, *patterns: str) -> str:
        """Return a digest of the package's code, or of some of its files, without comments and docstrings.

        It is that of the first time: who edits the sources meanwhile compares what was there before.
        """
        return _digest(self.tree / "fastpde", patterns or ("**/*.py",))

    def kernels_of(self, cases: Sequence[str]) -> dict[str, list[str]]:
        """Return the kernels that each case calls, with the types of their arguments."""
        kept = self._kept("kernels", cases, ".pickle")
        if not kept.is_file():
            with tempfile.TemporaryDirectory() as folder:
                asked = Path(folder) / "cases.json"
                asked.write_text(json.dumps(list(cases)))
                self.run("kernel_code", "record", str(asked), str(kept.with_suffix(".new")))
            kept.with_suffix(".new").replace(kept)
        found: dict[str, list[str]] = json.loads(kept.with_suffix(".json").read_text())
        return found

    def code(self, cases: Sequence[str], target: str) -> dict[str, Any]:
        """Return the machine code of the kernels of some cases for a target, see `kernel_code.compile_all`.

        It is kept, named by the sources: compiling takes minutes.
        """
        kept = self._kept(target, cases, ".json")
        if not kept.is_file():
            self.kernels_of(cases)
            with tempfile.TemporaryDirectory() as folder:
                made = Path(folder) / "code.json"
                more = kernel_code.environment(target) | {"FASTPDE_CACHE_DIR": f"{folder}/compiled"}
                self.run(
                    "kernel_code", "compile", str(self._kept("kernels", cases, ".pickle")), target, str(made), **more
                )
                kept.write_bytes(made.read_bytes())
        found: dict[str, Any] = json.loads(kept.read_text())
        return found

    def _kept(self, what: str, cases: Sequence[str], suffix: str) -> Path:
        key = hashlib.blake2b(json.dumps([self.sources(), list(cases)]).encode(), digest_size=12).hexdigest()
        folder = self.work / "code"
        folder.mkdir(parents=True, exist_ok=True)
        return folder / f"{what}-{key}{suffix}"


def checked_out(name: str, work: Path) -> Version:
    """Return the version of a commit, checked out below `work`, or that of a folder with sources.

    Raises TrackingError if there is neither.
    """
    if (Path(name) / "fastpde").is_dir():
        return Version(name, Path(name).resolve(), work)
    found = subprocess.run(
        ["git", "rev-parse", "--verify", "--quiet", f"{name}^{{commit}}"], capture_output=True, text=True
    )
    if found.returncode:
        raise TrackingError(f"{name}: neither a commit of this repository nor a folder with fastpde in it")
    commit = found.stdout.strip()
    tree = work / "trees" / commit[:16]
    if not (tree / "fastpde").is_dir():
        tree.parent.mkdir(parents=True, exist_ok=True)
        subprocess.run(["git", "worktree", "prune"], check=True)
        made = subprocess.run(["git", "worktree", "add", "--detach", str(tree), commit], capture_output=True, text=True)
        if made.returncode:
            raise TrackingError(f"{name}: git worktree failed: {made.stderr.strip()}")
    return Version(f"{name} ({commit[:10]})", tree, work)


class Worker:
    """A process that times the cases of a version, as a context; see `worker`."""

    def __init__(self, version: Version, threads: int) -> None:
        self.version = version
        self._process = subprocess.Popen(
            version.command("worker", str(threads)),
            env=version.environment(NUMBA_NUM_THREADS=str(threads)),
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            text=True,
        )

    def __enter__(self) -> Worker:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, where: TracebackType | None
    ) -> None:
        assert self._process.stdin and self._process.stdout
        self._process.stdin.close()
        self._process.stdout.close()
        self._process.wait(60)

    def error(self, case: str) -> float:
        """Build a case and return the error of its result."""
        found: float = self._ask(case, 0.0)["error"]
        return found

    def times(self, case: str, seconds: float) -> list[float]:
        """Return the seconds of each call of a case, for about so many seconds."""
        found: list[float] = self._ask(case, seconds)["times"]
        return found

    def _ask(self, case: str, seconds: float) -> dict[str, Any]:
        assert self._process.stdin and self._process.stdout
        try:
            self._process.stdin.write(json.dumps({"case": case, "seconds": seconds}) + "\n")
            self._process.stdin.flush()
            line = self._process.stdout.readline()
        except BrokenPipeError:
            line = ""
        answer: dict[str, Any] = json.loads(line) if line else {"failed": "its process has ended"}
        if "failed" in answer:
            raise TrackingError(f"{self.version.name}: {case}: {answer['failed']}")
        return answer


@cache
def _digest(package: Path, patterns: tuple[str, ...]) -> str:
    found = hashlib.blake2b(digest_size=16)
    for path in sorted(path for pattern in patterns for path in package.glob(pattern)):
        found.update(f"{path.relative_to(package)}\n{_code(path)}\n".encode())
    return found.hexdigest()


def _code(path: Path) -> str:
    """Return a source as its syntax tree, without docstrings: comments and line numbers are not in it."""
    tree = ast.parse(path.read_text())
    for node in ast.walk(tree):
        if isinstance(node, ast.Module | ast.ClassDef | ast.FunctionDef | ast.AsyncFunctionDef):
            first = node.body[0] if node.body else None
            if (
                isinstance(first, ast.Expr)
                and isinstance(first.value, ast.Constant)
                and isinstance(first.value.value, str)
            ):
                node.body = node.body[1:] or [ast.Pass()]
    return ast.dump(tree)
