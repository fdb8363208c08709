"""What to cite: BibTeX entries of fastpde, of the article whose dynamics it computes, and of what a result has used."""

from __future__ import annotations

import re
from collections.abc import Iterable, Iterator
from importlib.resources import files
from types import FunctionType
from typing import Any

import fastpde as fp
from fastpde.attention.composite import kinds
from fastpde.errors import InputTypeError, explained

_ENTRIES = "references.bib"  # beside this file
_NEED = "a solution, a run, a study, an attention, or a function or class of fastpde"
ALWAYS = {"fastpde": "this package", "castin2025": "the dynamics", "lam2015": "compiled sums", "harris2020": "arrays"}

# The entries of what has some of its own, by names as users write them, in small letters and with "_" for "-".
REFERENCES = {
    # attention
    "softmax": ("vaswani2017",),
    "l2": ("kim2021",),
    "sigmoid": ("ramapuram2025",),
    "sinkhorn": ("sander2022",),
    "linear": ("katharopoulos2020",),
    "multihead": ("vaswani2017",),
    "masked": ("castin2024",),
    # methods and what goes with them
    "heun": ("heun1900",),
    "rk4": ("kutta1901",),
    "bosh3": ("bogacki1989",),
    "dopri5": ("dormand1980",),
    "tsit5": ("tsitouras2011",),
    "sphere": ("geshkovski2025",),
    "noise": ("kloeden1992", "salmon2011"),
    "log_density": ("chen2018",),
    "trajectory": ("debuyl2014",),
    # functions, and what they return
    "wasserstein": ("flamary2021", "virtanen2020"),
    "conditional_wasserstein": ("castin2025", "flamary2021", "virtanen2020"),
    "bures_wasserstein": ("bhatia2019",),
    "sinkhorn_energy": ("sander2022",),
    "clusters": ("gower1969", "virtanen2020"),
    "lyapunov": ("benettin1980",),
    "stationary": ("kelley1998", "virtanen2020"),
    "lipschitz": ("virtanen2020",),
    "meanfield": ("virtanen2020",),
    # studies
    "mean_field": ("fournier2015", "virtanen2020"),
    "stability": ("flamary2021", "virtanen2020"),
    "stationary_points": ("virtanen2020",),
    "sequence_task": ("garg2022", "kingma2015", "olsson2022"),
}


@explained
def cite(*used: Any) -> str:
    """Return BibTeX of what to cite: fastpde, the article on its dynamics, NumPy, Numba, and what results have used.

    Args:
        used: solutions, runs of `open_run`, studies, attentions, or functions and classes of fastpde, as
            `fp.wasserstein`: a solution does not know the distances that were taken of it.

    Returns:
        the text of a .bib file, each entry once, behind a line that says what it stands for.

    Raises:
        InputTypeError: for what is none of these.
    """
    return of_words(word for item in used for word in _words(item))


def of_words(words: Iterable[str]) -> str:
    """Return what is always cited, and the entries of names as those of `REFERENCES`; other names have none."""
    reasons = {key: [why] for key, why in ALWAYS.items()}
    for word in words:
        for key in REFERENCES.get(_plain(word), ()):
            if word not in (found := reasons.setdefault(key, [])):
                found.append(word)
    told = [f"% {', '.join(reasons[key])}\n{text}\n" for key, text in entries().items() if key in reasons]
    return "\n".join(told)


def entries() -> dict[str, str]:
    """Return the text of all entries by their keys, in the order in which they are printed."""
    text = files("fastpde").joinpath(_ENTRIES).read_text(encoding="utf-8").replace("VERSION", fp.__version__)
    return {found[1]: found[0] for found in re.finditer(r"^@\w+\{(\w+),\n.*?^\}", text, re.MULTILINE | re.DOTALL)}


def _plain(word: str) -> str:
    return word.lower().replace("-", "_")


def _words(item: object) -> Iterator[str]:
    """Yield the names of what a thing is made of, and of what made it. Raises InputTypeError."""
    if isinstance(item, fp.Attention):
        yield from kinds(item)
    elif isinstance(item, fp.Solution | fp.EnsembleSolution | fp.GaussianSolution):
        yield from of_settings(item.settings)
        if getattr(item, "log_density", None) is not None:
            yield "log_density"
    elif isinstance(item, fp.MeanField):
        yield from ("MeanField", *kinds(item.attention))
    elif hasattr(item, "cited_as") and _is_ours(type(item)):  # runs and studies
        yield from item.cited_as
    elif isinstance(item, FunctionType | type) and _is_ours(item):
        yield item.__name__
    elif _is_ours(type(item)):
        yield type(item).__name__
    else:
        came = f"{item!r} ({type(item).__name__})" if isinstance(item, str | int | float) else type(item).__name__
        remedy = "A directory is opened first: fp.open_run(DIR), fp.studies.load(DIR)." if isinstance(item, str) else ""
        raise InputTypeError("used", came, _NEED, remedy)


def _is_ours(item: Any) -> bool:
    return str(item.__module__).partition(".")[0] == "fastpde"


def of_settings(settings: dict[str, Any]) -> Iterator[str]:
    """Yield the names in the settings of a solution: of its method, its attention, its manifold, and "noise"."""
    for name in ("method", "attention", "manifold"):
        yield from str(settings.get(name, "")).split(", ")
    if settings.get("noise"):
        yield "noise"
