"""The settings of the study `mean_field`: a law, an attention and its strength, by names; and those without a limit."""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Mapping, Sequence
from typing import Any, NamedTuple

import numpy as np

import fastpde as fp
from fastpde.attention.composite import terms_of
from fastpde.attention.variants import Variant, chosen, named
from fastpde.errors import closest

from .study_arguments import several

COMPOSED = ("multihead", "masked")
_MARGINAL = 1e-7  # tolerance of Sinkhorn scalings: n^{-1/2} is 3e-5 for a billion tokens
_SEEN = 64  # points by which a law of one's own is told from others


def _two_gaussians(d: int) -> fp.laws.Law:
    """Return the law of N(e_1, I/4) and N(-e_1, I/4), half of each."""
    centre = np.eye(d)[0]
    return fp.laws.Mixture([fp.Gaussian(sign * centre, 0.25 * np.eye(d)) for sign in (1.0, -1.0)])


LAWS: dict[str, Callable[[int], fp.laws.Law]] = {
    "ball": lambda d: fp.laws.Ball(d),
    "gaussian": lambda d: fp.Gaussian(0.0, np.eye(d)),
    "sphere": lambda d: fp.laws.Sphere(d),
    "annulus": lambda d: fp.laws.Annulus(d, 0.5),
    "box": lambda d: fp.laws.Box(-np.ones(d), np.ones(d)),
    "mixture": _two_gaussians,
}


class Setting(NamedTuple):
    """What one limit follows from: the names of a law and of a variant, and |A|."""

    law: str
    variant: str
    strength: float

    def __str__(self) -> str:
        return f"{self.law} {self.variant} {self.strength!r}"


def named_laws(laws: Sequence[Any], d: int) -> dict[str, fp.laws.Law]:
    """Return the laws of a list of names and laws, by their names; a law of one's own has its text for a name.

    Raises InputError, InputTypeError naming laws.
    """
    found: dict[str, fp.laws.Law] = {}
    for entry in several("laws", laws):
        if isinstance(entry, fp.laws.Law):
            name, law = repr(entry), entry
            if law.mean.shape != (d,):
                raise fp.InputError("laws", name, f"one law in dimension {d}, as `dimension` says")
        elif isinstance(entry, str) and entry in LAWS:
            name, law = entry, LAWS[entry](d)
        else:
            need = f"{' or '.join(map(repr, LAWS))}, or a law, as fp.laws.Ball({d}, 2.0)"
            raise fp.InputError("laws", repr(entry), need, closest(entry, LAWS) if isinstance(entry, str) else "")
        found[name] = law
    return found


def samples_of(laws: Mapping[str, fp.laws.Law]) -> dict[str, Any]:
    """Return the parameter "samples" of a study, the digests of samples of laws of one's own, if there are some."""
    own = {name: law for name, law in laws.items() if name not in LAWS}
    found = {name: hashlib.sha256(law.sample(_SEEN, 0).tobytes()).hexdigest()[:16] for name, law in own.items()}
    return {"samples": found} if found else {}


def named_variants(variants: Sequence[Any]) -> list[str]:
    """Return the names of variants: words of `COMPOSED`, or what `attention.variants.chosen` takes.

    Raises InputError, InputTypeError naming variants.
    """
    asked = several("variants", variants)
    names = [name if name in COMPOSED else chosen("variants", name, has_one_law, COMPOSED).name for name in asked]
    return several("variants", names)


def has_one_law(variant: Variant) -> bool:
    """Return whether all tokens have the same law under a variant: their positions do not matter."""
    return not variant.kind.positional


def settings(
    laws: Mapping[str, fp.laws.Law], variants: Sequence[str], strengths: Sequence[float]
) -> tuple[list[Setting], list[str]]:
    """Return all settings that have a limit, and the pairs "law variant" that have none.

    Where weights grow without bound and are not divided by their sum there may be no solution at any time, unless the
    law has bounded support (Theory 13.1). Raises InputError if no setting is left.
    """
    kept, skipped = [], []
    for name, law in laws.items():
        for variant in variants:
            if np.isfinite(law.support_radius) or _spares_tails(variant):
                kept += [Setting(name, variant, s) for s in strengths]
            else:
                skipped.append(f"{name} {variant}")
    if not kept:
        need = "a law of bounded support: others have no solution under weights that grow"
        raise fp.InputError("laws", ", ".join(laws), need)
    return kept, skipped


def _spares_tails(variant: str) -> bool:
    """Return whether the field of a law is defined by its second moments: averages, bounded and linear weights."""
    if variant in COMPOSED:
        return True
    found = named(variant)
    return found.is_bounded or found.keeps_gaussians


def attention_of(setting: Setting, d: int, seed: int) -> fp.Attention:
    """Return the attention of a setting: A = strength G, |G| = 1 random, V = I.

    "multihead" has two softmax heads with matrices G of their own and V = I/2; "masked" is masked softmax.
    """
    stream, root = np.random.default_rng([seed, d]), np.sqrt(setting.strength)

    def head(name: str, share: float = 1.0) -> fp.SingleHead:
        G = stream.standard_normal((d, d))
        own = named(name)
        more: dict[str, Any] = {"tol": _MARGINAL} if own.scales else {}
        made: fp.SingleHead = own.kind(root * G / np.linalg.norm(G, 2), root * np.eye(d), share * np.eye(d), **more)
        return made

    if setting.variant == "multihead":
        return fp.MultiHead([head("softmax", 0.5), head("softmax", 0.5)])
    if setting.variant == "masked":
        return fp.Masked(head("softmax"))
    return head(setting.variant)


def has_derivatives(attention: fp.Attention) -> bool:
    """Return whether derivatives of velocities are known: not those of a weight of one's own without a derivative."""
    own = [term.head.weight for term in terms_of(attention) if isinstance(term.head, fp.SingleHead)]
    return all(weight.derived is not None for weight in own if isinstance(weight, fp.Weight))


def underived(variants: Sequence[str], d: int) -> dict[str, Any]:
    """Return the parameter "underived" of a study, the variants without known derivatives, if there are some."""
    found = [name for name in variants if not has_derivatives(attention_of(Setting("", name, 1.0), d, 0))]
    return {"underived": found} if found else {}


def cells_of(asked: Sequence[Setting], parameters: Mapping[str, Any]) -> int:
    """Return the number of cells of a study: of each setting one for its limit, one for its central limit if it is
    asked for, and one for each cloud.
    """
    return len(asked) * (1 + (parameters["clt_draws"] > 0) + len(parameters["sizes"]) * parameters["draws"])
