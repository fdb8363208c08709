"""The six attention layers of a pretrained Transformer, all-MiniLM-L6-v2, on its own 4096 tokens at once.

    python scripts/real_transformer.py [--data DIR] [--out DIR]

One Euler step of length 1 per layer: x + sum_h W_h V_h . softmax((Q_h x) . (K_h y) / sqrt(k)), without layer norm and
feed-forward blocks. First checks layer 0 against a plain NumPy attention block. Prints effective rank, mean pairwise
cosine and time per layer; writes real_transformer.png and real_transformer.csv. Tokens carry a constant 1 as their last
coordinate, which holds the biases: all statistics leave it out.
"""

from __future__ import annotations

import argparse
import csv
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

import fastpde as fp
from fastpde import observe

Array = np.ndarray[Any, Any]
DATA = Path(__file__).resolve().parents[2] / "shared" / "data" / "minilm"
WINDOW = 512  # tokens the model itself sees at once


class Weights(NamedTuple):
    """The weights, constant coordinate included in d: Q, K (L, H, k, d), V (L, H, dv, d), W (L, H, d, dv)."""

    Q: Array
    K: Array
    V: Array
    W: Array


class Layer(NamedTuple):
    """The statistics of the tokens after so many layers: numbers and a spectrum, without the constant coordinate."""

    layer: int
    effective_rank: float
    mean_cosine: float
    seconds: float
    spectrum: Array


def load(data: Path) -> tuple[Weights, Array]:
    """Load the weights and the tokens (n, d) of a folder of .npy files. Raises FileNotFoundError that names missing
    ones.
    """
    missing = [f"{name}.npy" for name in (*Weights._fields, "tokens") if not (data / f"{name}.npy").is_file()]
    if missing:
        raise FileNotFoundError(
            f"{data} has no {', '.join(missing)}; needed: Q, K (6, 12, 32, 385), V (6, 12, 33, 385), "
            "W (6, 12, 385, 33) and tokens (4096, 385) of all-MiniLM-L6-v2, as .npy files. "
            "Name their folder with --data."
        )
    return Weights(*(np.load(data / f"{name}.npy") for name in Weights._fields)), np.load(data / "tokens.npy")


def attention(weights: Weights) -> fp.MultiHead:
    """Return the attention of all layers: layer l acts for l <= t < l + 1."""
    layers, heads, k, _ = weights.Q.shape

    def head(h: int) -> fp.Softmax:
        parts = (fp.Layers(stack[:, h], layers) for stack in weights[:3])
        return fp.Softmax(*parts, scale=1 / np.sqrt(k))

    outputs = [fp.Layers(weights.W[:, h], layers) for h in range(heads)]
    return fp.MultiHead([head(h) for h in range(heads)], W=outputs)


def plain_block(weights: Weights, x: Array, layer: int = 0) -> Array:
    """Apply the attention block of one layer as the model has it, in NumPy float64 with explicit biases: (n, d - 1).

    q = x W_q + b_q and so on, all heads side by side; softmax(q k^T / sqrt(32)) v; output matrix and bias.
    """
    Q, K, V, W = (part[layer].astype(np.float64) for part in weights)
    x = x[:, :-1].astype(np.float64)
    (q, k, v) = (x @ M[..., :-1].swapaxes(-1, -2) + M[:, None, :, -1] for M in (Q, K, V[:, :-1]))  # (H, n, k)
    scores = q @ k.swapaxes(-1, -2) / np.sqrt(Q.shape[1])
    p = np.exp(scores - scores.max(axis=-1, keepdims=True))
    context = p @ v / p.sum(axis=-1, keepdims=True)
    return np.einsum("hnv,hdv->nd", context, W[:, :-1, :-1]) + W[:, :-1, -1].sum(axis=0)


def block_error(weights: Weights, x: Array) -> float:
    """Return the largest error of layer 0 on x against `plain_block`, over the block's largest value."""
    want = plain_block(weights, x)
    got = attention(weights).velocity(x)
    return float(np.abs(got[:, :-1] - want).max() / np.abs(want).max())


def measure(layer: int, x: Array, seconds: float) -> Layer:
    """Return the statistics of the tokens x (n, d), the constant last coordinate left out."""
    tokens = x[:, :-1]
    cov = observe.covariance(tokens)
    return Layer(layer, observe.effective_rank(cov), observe.mean_cosine(tokens), seconds, observe.spectrum(cov))


def run(weights: Weights, x: Array) -> tuple[list[Layer], Array]:
    """Apply all layers to the tokens x (n, d); return their statistics before and after every layer, and the last
    tokens.
    """
    layers: list[Layer] = []
    clock = time.perf_counter()

    def look(t: float, state: Array) -> None:
        nonlocal clock
        seconds = time.perf_counter() - clock if layers else 0.0
        layers.append(measure(len(layers), state, seconds))
        clock = time.perf_counter()

    depth = len(weights.Q)
    steps = fp.Observer(look, steps=1)
    solution = fp.solve(attention(weights), x, (0, depth), method="euler", step=1, observers=[steps])
    return layers, solution.x[-1]


def principal(x: Array) -> tuple[Array, float]:
    """Return the tokens on their own two principal components (n, 2), and the part of the variance that these hold."""
    tokens = x[:, :-1].astype(np.float64)
    values, vectors = np.linalg.eigh(observe.covariance(tokens))
    return (tokens - tokens.mean(axis=0)) @ vectors[:, :-3:-1], float(values[-2:].sum() / values.sum())


def write_csv(path: Path, layers: list[Layer]) -> None:
    """Write one row per layer."""
    with path.open("w", newline="") as file:
        writer = csv.writer(file)
        writer.writerow(Layer._fields[:-1])
        writer.writerows([row[:-1] for row in layers])


def draw(path: Path, layers: list[Layer], before: Array, after: Array) -> None:
    """Draw rank and cosine against layer, the spectrum per layer, and the tokens before and after."""
    from matplotlib.figure import Figure

    figure = Figure(figsize=(11, 8.5), layout="constrained")
    axes = figure.subplots(2, 2)
    _draw_collapse(axes[0, 0], layers)
    _draw_spectra(axes[0, 1], layers)
    for ax, x, when in ((axes[1, 0], before, "at the start"), (axes[1, 1], after, f"after {len(layers) - 1} layers")):
        points, part = principal(x)
        ax.scatter(*points.T, s=4, alpha=0.4, linewidths=0, color="C0")
        ax.set(title=f"tokens {when}: {part:.0%} of the variance", aspect="equal", adjustable="datalim")
        ax.set(xlabel="principal component 1", ylabel="principal component 2")
    figure.suptitle(f"Attention layers of all-MiniLM-L6-v2 on {len(before)} real tokens (constant coordinate left out)")
    figure.savefig(path, dpi=130)


def _draw_collapse(ax: Any, layers: list[Layer]) -> None:
    x = [row.layer for row in layers]
    ax.plot(x, [row.effective_rank for row in layers], "o-", color="C0")
    ax.set(xlabel="layers passed", title="collapse of the tokens", ylim=(0, None))
    ax.set_ylabel("effective rank of the covariance", color="C0")
    other = ax.twinx()
    other.plot(x, [row.mean_cosine for row in layers], "s--", color="C3")
    other.set_ylim(0, 1)
    other.set_ylabel("mean pairwise cosine", color="C3")


def _draw_spectra(ax: Any, layers: list[Layer]) -> None:
    from matplotlib import colormaps

    for row in layers:
        shade = colormaps["viridis"](0.9 * row.layer / max(1, len(layers) - 1))
        ax.loglog(np.arange(1, len(row.spectrum) + 1), row.spectrum, color=shade, label=f"{row.layer}")
    top = max(row.spectrum[0] for row in layers)
    ax.set_ylim(1e-5 * top, 2 * top)  # layer norm leaves one direction empty: its eigenvalue is rounding
    ax.set(xlabel="index", ylabel="eigenvalue of the covariance", title="spectrum")
    ax.legend(title="layers passed", ncols=2, fontsize="small")


def main(arguments: list[str] | None = None) -> int:
    """Run the script and return its exit code."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--data", type=Path, default=DATA, help="folder of the weights and tokens")
    parser.add_argument("--out", type=Path, default=Path("real_transformer.run"), help="folder of the results")
    options = parser.parse_args(arguments)
    try:
        weights, x = load(options.data)
        options.out.mkdir(parents=True, exist_ok=True)
    except (OSError, ValueError) as error:
        print(f"real_transformer: error: {error}", file=sys.stderr)
        return 2
    print(f"layer 0 on tokens 0..{WINDOW - 1} against a plain attention block: {block_error(weights, x[:WINDOW]):.1e}")
    layers, last = run(weights, x)
    print("(statistics leave out the constant last coordinate)")
    print("layers passed   effective rank   mean cosine   seconds")
    for row in layers:
        print(f"{row.layer:13d} {row.effective_rank:16.2f} {row.mean_cosine:13.4f} {row.seconds:9.2f}")
    write_csv(options.out / "real_transformer.csv", layers)
    draw(options.out / "real_transformer.png", layers, x, last)
    np.save(options.out / "tokens_end.npy", last)
    print(options.out / "real_transformer.png")
    return 0


if __name__ == "__main__":
    sys.exit(main())
