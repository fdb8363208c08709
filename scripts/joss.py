"""The figure and the bibliography of docs/paper/paper.md: `python scripts/joss.py [--out docs/paper]`, about a minute.

Left: tokens under softmax attention in the plane, at three times on one scale. Right: how far covariances of n tokens
that start with a Gaussian law are from that of the law, which stays Gaussian, against n, with the rate n^{-1/2} of
independent samples (Theory 8.3).
"""

from __future__ import annotations

import argparse
import re
from collections.abc import Sequence
from pathlib import Path

import numpy as np

import fastpde as fp
from fastpde import citations
from fastpde.plot import canvas, palette

PAPER = Path(__file__).parents[1] / "docs" / "paper"

T, TIMES, SHOWN = 1.0, (0.0, 0.5, 2.0), 2000
SIZES, DRAWS = (100, 300, 1000, 3000, 10_000), 16
VARIANTS = {"softmax": fp.Softmax, "L2": fp.L2, "Sinkhorn": fp.Sinkhorn}
I2 = np.eye(2)


def clouds() -> np.ndarray:
    """Return tokens (3, SHOWN, 2) at TIMES: three groups that attract each other less the farther they are apart."""
    centres = np.array([[1.5, 0.0], [-0.75, 1.3], [-0.75, -1.3]])
    x0 = fp.laws.Mixture([fp.laws.Gaussian(centre, 0.25 * I2) for centre in centres]).sample(SHOWN, 0)
    return np.asarray(fp.solve(fp.Softmax(I2, I2, -0.5 * I2), x0, (0.0, TIMES[-1]), t_eval=TIMES).x)


def errors(kind: type, sizes: Sequence[int], draws: int) -> np.ndarray:
    """Return |cov_n(T) - cov(T)| / |cov(T)| (sizes, draws) of clouds drawn from a Gaussian law."""
    attention, law = kind(I2, -I2, I2), fp.Gaussian(np.zeros(2), np.diag([1.0, 0.5]))
    want = fp.solve(attention, law, (0.0, T), rtol=1e-9).cov[-1]
    found = np.empty((len(sizes), draws))
    for i, n in enumerate(sizes):
        for b in range(draws):
            x = fp.solve(attention, law.sample(n, 1000 * i + b), (0.0, T), rtol=1e-4).x[-1]
            found[i, b] = np.linalg.norm(np.cov(x.T, bias=True) - want) / np.linalg.norm(want)
    return found


@canvas.in_style
def drawn(shown: np.ndarray, found: dict[str, np.ndarray], sizes: Sequence[int]) -> canvas.Figure:
    """Return the figure of the clouds and of the errors by variant."""
    made = canvas.figure(9.0, 2.7, dpi=200)
    left, side = made.subfigures(1, 2, width_ratios=(2.25, 1.0))
    axes = left.subplots(1, 3, sharey=True)
    reach = 1.05 * np.abs(shown).max()
    for panel, time, x in zip(axes, TIMES, shown, strict=True):
        panel.plot(*x.T, ".", markersize=1.8, color=canvas.COLOURS[0], alpha=0.7, markeredgewidth=0)
        panel.set(xlim=(-reach, reach), ylim=(-reach, reach), aspect="equal", title=f"t = {time:g}", xlabel="$x_1$")
        panel.set(xticks=(-2, 0, 2), yticks=(-2, 0, 2))
        canvas.tidy(panel)
    axes[0].set_ylabel("$x_2$")
    right = side.subplots()
    for i, (name, values) in enumerate(found.items()):
        right.loglog(sizes, np.sqrt((values**2).mean(axis=1)), label=name, **palette.look(i))
    n = np.array([sizes[0], sizes[-1]], float)
    right.loglog(n, 2.0 * n**-0.5, color=palette.FAINT, label="$\\propto n^{-1/2}$")
    right.set(xlabel="number of tokens", ylabel="relative error of the covariance", title=f"t = {T:g}")
    right.legend()
    canvas.tidy(right)
    return made


def bibliography(text: str) -> str:
    """Return the entries that a text cites as @key, those of `fp.cite`. Raises KeyError for one that is not there."""
    keys, known = set(re.findall(r"@(\w+)", text)), citations.entries()
    if missing := keys - set(known):
        raise KeyError(f"fastpde/references.bib has no {', '.join(sorted(missing))}")
    return "\n\n".join(entry for key, entry in known.items() if key in keys) + "\n"


def main(arguments: Sequence[str] | None = None) -> int:
    """Write the bibliography, compute, draw and write the figure, and print the fitted rates."""
    parser = argparse.ArgumentParser(description=(__doc__ or "").split("\n")[0])
    parser.add_argument("--out", type=Path, default=PAPER, help="the folder of the files; default: docs/paper")
    options = parser.parse_args(arguments)
    text = (PAPER / "paper.md").read_text(encoding="utf-8")
    (options.out / "paper.bib").write_text(bibliography(text), encoding="utf-8")
    found = {name: errors(kind, SIZES, DRAWS) for name, kind in VARIANTS.items()}
    for name, values in found.items():
        rate = np.polyfit(np.log(SIZES), np.log((values**2).mean(axis=1)) / 2, 1)[0]
        print(f"{name}: error ~ n^{rate:.3f}")
    canvas.finished(drawn(clouds(), found, SIZES), options.out / "figure.png")
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
