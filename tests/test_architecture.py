"""The arrows of STYLE.md, checked by reading imports: what may import what, and how long files and functions may be."""

from __future__ import annotations

import ast
import re
from pathlib import Path

import pytest

from fastpde import _jit

from .problems import ROOT, VARIANTS, run

PACKAGE = ROOT / "fastpde"
FILES = sorted(path.relative_to(PACKAGE) for path in PACKAGE.rglob("*.py"))

# Outside libraries that only some modules may import, at any depth of the code.
ONLY = {
    "numba": r"(_cache|_jit|_library|compiling|simd/.*|kernels/.*|sums/.*|batches/.*)\.py",
    "llvmlite": r"(_jit|simd/.*|sums/.*|batches/.*)\.py",
    "h5py": r"run/trajectory.*\.py",
    "argparse": r"cli.*\.py",
    "jinja2": r"report/rendering\.py",
    "matplotlib": r"plot/.*\.py",
    "tqdm": r"(theory/clusters|compiling|export|integrate/reporting|run/progress|cli_machine)\.py",
    "xarray": r"run/opened\.py",  # for type checkers; `run/labelled.library` imports it when it is asked for
    "pandas": r"run/opened\.py",
    "pyarrow": r"",
    "mpi4py": r"(sums/distributed|run/(ranks|mpi_facts))\.py",
    "ot": r"transport/wasserstein\.py",
    "torch": r"torch\.py",
    "jax": r"jax\.py",
    "scipy": r"(observe|(integrate|laws|transport|gaussian|sensitivity|run|studies|plot|config|report|theory)/.*)\.py",
}

# Imports point down: the parts of the package that each part may import, beside itself. `plot` reads what `run` writes.
BASE = {"errors", "_numbers", "_times", "_types", "parallel"}
MAY = {
    "errors": set(),
    "own_code": {"errors"},
    "observable": {"errors", "parallel"},
    "solutions": {"errors"},
    "compiling": set(),
    "parallel": {"errors"},
    "_numbers": {"errors"},
    "_times": {"errors"},
    "_types": {"errors", "parallel"},
    "weights": {"_types", "errors"},
    "simd": {"_jit", "errors", "weights"},
    "_cache": set(),
    "_library": set(),
    "_jit": {"_cache", "_library", "simd"},
    "step_rules": set(),
    "kernels": {"_jit", "parallel", "simd", "step_rules", "weights"},
    "sums": {"kernels", "simd", "weights", "_jit"} | BASE,
    "batches": {"sums", "kernels", "simd", "step_rules", "weights"} | BASE,
    "transport": {"sums", "weights"} | BASE,
    "theory": {"attention", "integrate", "laws", "manifold", "sums", "weights"} | BASE,
    "attention": {"batches", "own_code", "solutions", "sums", "weights", "transport"} | BASE,
    # Solutions draw their picture: `plot` is imported late, and only its parts that read no run.
    "integrate": {"_numbers", "_times", "compiling", "errors", "parallel", "plot", "solutions", "step_rules"},
    "manifold": {"integrate", "kernels"} | BASE,
    "noise": {"initial"} | BASE,
    "laws": {"initial"} | BASE,
    "compiled_runs": {"batches", "integrate", "manifold", "step_rules"} | BASE,
    "gaussian": {
        "attention",
        "batches",
        "compiled_runs",
        "ensemble",
        "integrate",
        "laws",
        "plot",
        "solutions",
        "step_rules",
        "sums",
    }
    | BASE,
    "ensemble": {"attention", "batches", "compiled_runs", "integrate", "manifold", "plot", "solutions"} | BASE,
    "tangents": {"attention", "ensemble", "integrate", "laws", "manifold"} | BASE,
    "meanfield": {"attention", "sums", "ensemble", "gaussian", "integrate", "laws", "manifold", "noise", "tangents"}
    | BASE,
    "mean_field_flow": {"attention", "gaussian", "integrate", "laws", "sums", "weights"} | BASE,
    "sensitivity": {
        "attention",
        "ensemble",
        "gaussian",
        "integrate",
        "manifold",
        "meanfield",
        "noise",
        "plot",
        "tangents",
        "solutions",
    }
    | BASE,
    "bridge": {"attention", "ensemble", "integrate", "meanfield", "sensitivity"} | BASE,
    "torch": {"bridge"} | BASE,
    "jax": {"bridge"} | BASE,
    # Beside the public names, by `import fastpde as fp`.
    "studies": {"_numbers", "attention", "errors", "integrate", "own_code", "plot", "theory"},
    "initial": BASE,
    "observe": BASE,
}
ABOVE = {
    "citations",
    "config",
    "run",
    "plot",
    "export",
    "cli",
    "cli_arguments",
    "cli_machine",
    "cli_reading",
    "__main__",
    "report",
    "__init__",
}


def imports(path: Path, text: str):
    """(module, names) of every import of a file of the package, absolute: "fastpde.kernels.pack", ["LOG2E"]."""
    package = ["fastpde", *path.parent.parts]
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.Import):
            for alias in node.names:
                yield alias.name, []
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            yield ".".join([*base, *filter(None, [node.module])]), [alias.name for alias in node.names]


def parts(path: Path, text: str) -> set[str]:
    """The parts of the package that a file imports: "kernels", "weights", ..."""
    found = set()
    for module, names in imports(path, text):
        head, *rest = module.split(".")
        if head == "fastpde":
            found |= {rest[0]} if rest else set(names)
    return found


def part_of(path: Path) -> str:
    return path.parts[0].removesuffix(".py")


def forbidden(path: Path, text: str) -> list[str]:
    """What a file imports and may not."""
    wrong = []
    for module, _ in imports(path, text):
        library = module.split(".")[0]
        if library in ONLY and not re.fullmatch(ONLY[library], path.as_posix()):
            wrong.append(library)
    me = part_of(path)
    if me in MAY:
        wrong += sorted(parts(path, text) - MAY[me] - {me})
    return wrong


def long(text: str, lines: int = 400, function: int = 80) -> list[str]:
    """The file, if it is too long, and its functions that are."""
    found = [f"{len(text.splitlines())} lines"] if len(text.splitlines()) > lines else []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef) and node.end_lineno - node.lineno + 1 > function:
            found.append(node.name)
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_imports_point_down(path):
    assert forbidden(path, (PACKAGE / path).read_text()) == []


def compiles(path: Path, text: str) -> bool:
    """Whether a file has kernels of its own."""
    return any(module == "fastpde._jit" and "jit" in names for module, names in imports(path, text))


def test_compiled_code_is_where_the_cache_looks_for_edits():
    """A kernel in another file would be served from the cache after it was edited."""
    users = {path for path in FILES if compiles(path, (PACKAGE / path).read_text())}
    seen = {path.relative_to(PACKAGE) for pattern in _jit._SOURCES for path in PACKAGE.glob(pattern)}
    assert len(users) > 10
    assert users <= seen


@pytest.mark.parametrize("path", FILES, ids=str)
def test_files_and_functions_are_short(path):
    assert long((PACKAGE / path).read_text()) == []


def test_every_part_has_its_place():
    assert {part_of(path) for path in FILES} <= set(MAY) | ABOVE


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] in ("kernels", "sums")], ids=str)
def test_sums_name_no_variant(path):
    """Code below the seam knows weights, not variants; prose may mention them in comments and docstrings."""
    tree = ast.parse((PACKAGE / path).read_text())
    names = {n.id for n in ast.walk(tree) if isinstance(n, ast.Name)} | {
        n.attr for n in ast.walk(tree) if isinstance(n, ast.Attribute)
    }
    names |= {alias.name for n in ast.walk(tree) if isinstance(n, ast.ImportFrom) for alias in n.names}
    variants = {*VARIANTS, "Sinkhorn", "MultiHead", "Masked", "Attention"} - {"Sigmoid", "Linear"}  # weights, too
    assert names.isdisjoint(variants)


# -- circles, late imports, names, subclasses, arguments ---------------------------------------------------------------

# What may be imported late: heavy libraries; and what brings them, or is needed by one command alone.
LATE = {"numba", "llvmlite", "h5py", "jinja2", "matplotlib", "mpi4py", "ot", "scipy", "tqdm", "threadpoolctl", "ast"}
HEAVY = {"batches", "compiled_runs", "sums", "plot", "kernels", "simd", "_cache", "_jit", "_library"}
# 20 changes config, run, and what plot reads
LATE_IN = {"__init__", "cli", "cli_machine", "cli_reading", "config", "run", "plot"}
MANY = {
    "gradient",
    "integrate",
    "jvp",
    "lyapunov",
    "prepare",
    "solve",
    "mean_field",
    "sequence_task",
    "stability",
    "stationary",
    "wasserstein",
}  # public, by keyword; `Stepper`: 20


def reached(path: Path, text: str) -> tuple[set[str], set[str]]:
    """Modules that a file imports at once, and late, those for type checkers left out: "run.inspect", "numba"."""
    package, tree, early, late = ["fastpde", *path.parent.parts], ast.parse(text), set(), set()
    typing = {id(n) for i in ast.walk(tree) if isinstance(i, ast.If) and "TYPE_CHECKING" in ast.dump(i.test)
              for n in ast.walk(i)}  # fmt: skip
    inside = {id(n) for f in ast.walk(tree) if isinstance(f, ast.FunctionDef) for n in ast.walk(f)}
    for node in ast.walk(tree):
        found = []
        if isinstance(node, ast.Import):
            found = [alias.name for alias in node.names]
        elif isinstance(node, ast.ImportFrom):
            base = package[: len(package) - node.level + 1] if node.level else []
            module = ".".join([*base, *filter(None, [node.module])])
            found = [f"{module}.{alias.name}" for alias in node.names]
        if id(node) not in typing:
            (late if id(node) in inside else early).update(name.removeprefix("fastpde.") for name in found)
    return early, late


MODULES = {".".join(path.with_suffix("").parts).removesuffix(".__init__"): path for path in FILES}


def module_of(name: str) -> str | None:
    """The module of the package that an imported name is, or is in."""
    return name if name in MODULES else (name.rpartition(".")[0] if name.rpartition(".")[0] in MODULES else None)


def circles(edges: dict[str, set[str]]) -> list[set[str]]:
    """The sets of modules that reach each other."""
    reach = {node: set(nexts) for node, nexts in edges.items()}
    for _ in edges:
        grown = {node: nexts.union(*(reach.get(n, set()) for n in nexts)) for node, nexts in reach.items()}
        if grown == reach:
            break
        reach = grown
    return sorted(
        {frozenset(n for n in reach[node] if node in reach[n]) for node in reach if node in reach[node]}, key=sorted
    )


def test_no_circle_of_imports():
    edges = {}
    for name, path in MODULES.items():
        early, late = reached(path, (PACKAGE / path).read_text())
        edges[name] = {found for one in early | late if (found := module_of(one)) and found != name}
    assert sum(map(len, edges.values())) > 500
    assert circles(edges) == []
    assert circles({"a": {"b"}, "b": {"c"}, "c": {"b"}}) == [{"b", "c"}]


@pytest.mark.parametrize("path", FILES, ids=str)
def test_late_imports_are_of_heavy_things(path):
    _, late = reached(path, (PACKAGE / path).read_text())
    needless = {name for name in late if name.split(".")[0] not in LATE | HEAVY}
    assert part_of(path) in LATE_IN or not needless


@pytest.mark.parametrize("part", ["integrate", "ensemble"])
def test_solutions_import_their_pictures_late(part):
    for path in (p for p in FILES if part_of(p) == part):
        early, _ = reached(path, (PACKAGE / path).read_text())
        assert not any(name.split(".")[0] == "plot" for name in early), path


def test_stems_are_unique():
    stems = [path.stem for path in FILES if path.stem not in ("__init__", "__main__")]
    assert {stem for stem in stems if stems.count(stem) > 1} == set()


def inherited(files: dict[Path, str]) -> set[tuple[str, str]]:
    """(class, base) of classes that inherit from one that is neither abstract nor an error."""
    classes = [n for text in files.values() for n in ast.walk(ast.parse(text)) if isinstance(n, ast.ClassDef)]
    abstract = {c.name for c in classes if re.search(r"abstractmethod|NotImplementedError", ast.unparse(c))}
    abstract |= {c.name for c in classes if any(ast.unparse(b) in ("Protocol", "ABC") for b in c.bases)}
    abstract |= {"SingleHead", "Whole", "Explained", "ExplainedMethods"}  # made for that
    names, found = {c.name for c in classes}, set()
    for c in classes:
        for base in (ast.unparse(b).split("[")[0].split(".")[-1] for b in c.bases):
            if base in names - abstract and not base.endswith("Error"):
                found.add((c.name, base))
    return found


def test_concrete_classes_are_final():
    found = inherited({path: (PACKAGE / path).read_text() for path in FILES})
    assert found == set()
    assert inherited({Path("a.py"): "class A:\n    x = 1\nclass B(A):\n    pass"}) == {("B", "A")}


@pytest.mark.parametrize("path", [p for p in FILES if p.parts[0] not in ("kernels", "simd")], ids=str)
def test_functions_take_eight_arguments_at_most(path):
    for node in ast.walk(ast.parse((PACKAGE / path).read_text())):
        if isinstance(node, ast.FunctionDef) and (path.stem, node.name) != ("stepper", "__init__"):
            names = [arg.arg for arg in node.args.args + node.args.kwonlyargs if arg.arg not in ("self", "cls")]
            assert len(names) <= 8 or node.name in MANY, node.name


def test_the_checks_can_fail():
    """Each rule on a file that breaks it, however the import is written."""
    broken = {
        ("integrate/solve.py", "from fastpde.attention import Softmax"): ["attention"],
        ("integrate/solve.py", "from ..attention.base import Attention"): ["attention"],
        ("integrate/solve.py", "from .. import meanfield"): ["meanfield"],
        ("integrate/solve.py", "def f():\n    import fastpde.run.runner"): ["run"],
        ("attention/base.py", "from ..kernels.pack import Packed"): ["kernels"],
        ("attention/base.py", "if True:\n    from ..meanfield import solve"): ["meanfield"],
        ("attention/l2.py", "import numba"): ["numba"],
        ("transport/sinkhorn.py", "from ..attention.cloud import Cloud"): ["attention"],
        ("attention/l2.py", "def f():\n    from numba.core import types"): ["numba"],
        ("observe.py", "import h5py"): ["h5py"],
        ("run/recorder.py", "import h5py"): ["h5py"],
        ("meanfield.py", "import matplotlib.pyplot as plt"): ["matplotlib"],
        ("studies/random_laws.py", "from ..gaussian.asymptotics import limit"): ["gaussian"],
        ("kernels/pack.py", "from ..attention.softmax import Softmax"): ["attention"],
    }
    for (path, text), want in broken.items():
        assert forbidden(Path(path), text) == want
    assert forbidden(Path("kernels/pack.py"), "import numba\nfrom .._jit import jit\nfrom .panels import x") == []
    assert long("x = 1\n" * 401) == ["401 lines"]
    assert long("def f():\n" + "    x = 1\n" * 80) == ["f"]
    assert long("def f():\n" + "    x = 1\n" * 79) == []


def test_import_is_light():
    """`import fastpde` brings no Numba, no files, no pictures; making and printing an attention neither."""
    code = """
import sys, json, fastpde as fp
attention = fp.Masked(fp.MultiHead([fp.Softmax([[1.0]], [[1.0]], [[1.0]])]))
repr(attention)
heavy = ["numba", "scipy", "h5py", "matplotlib", "tqdm", "argparse", "pandas", "xarray", "jinja2"]
print(json.dumps([name for name in heavy if name in sys.modules]))
"""
    found, _ = run(code)
    assert found == []


# -- English ----------------------------------------------------------------------------------------------------------

# First words of sentences that have no verb; ruff's D401 knows verbs in other moods.
NO_VERB = set(
    re.findall(
        r"\w+",
        "A All An As At For How In Its Many No Numbers Of On One Some That The Their Those To What When Where Whether "
        "Which Who Whose Why",
    )
)


def without_a_verb(text: str) -> list[str]:
    """The functions whose docstring is no sentence in the imperative mood; properties have noun phrases."""
    found = []
    for node in ast.walk(ast.parse(text)):
        if isinstance(node, ast.FunctionDef) and not any("property" in ast.unparse(d) for d in node.decorator_list):
            first, *_ = (ast.get_docstring(node) or "Pass").split()
            if not first.rstrip(".,:").isalpha() or not first[0].isupper() or first in NO_VERB:
                found.append(node.name)
    return found


@pytest.mark.parametrize("path", FILES, ids=str)
def test_docstrings_of_functions_are_sentences(path):
    assert without_a_verb((PACKAGE / path).read_text()) == []


def test_a_docstring_without_a_verb_is_found():
    for said, good in {
        "Sum the weights of x (n,).": True, "Whether it is.": False, "out <- x.": False, "x (n,): tokens.": False,
        "(M, c) of a law.": False, "The sum.": False,
    }.items():  # fmt: skip
        assert (without_a_verb(f'def f():\n    """{said}"""') == []) == good
    assert without_a_verb('class A:\n    @property\n    def f(self):\n        """The sum."""') == []
