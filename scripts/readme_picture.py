"""The picture on the front page: a million tokens gather in clusters, in the plane and on the sphere, at four times.

    python scripts/readme_picture.py [--n 1000000] [--frames FRAMES.npz] [--out docs/images/tokens.png]

Above, softmax attention with Q = K = V = I in the plane from N(0, I): the cloud grows like e^t, so e^-t x is drawn.
Below, on the unit sphere with Q = K = 4 I, V = I, from the uniform law. What is shown is the density of all tokens, per
area, on one logarithmic scale for each row. FRAMES.npz keeps the tokens: if it exists nothing is run. Two cores take
about three minutes.
"""

from __future__ import annotations

import argparse
from pathlib import Path
from typing import Any

import numpy as np
from scipy.ndimage import gaussian_filter

import fastpde as fp
from fastpde.plot import canvas

Array = np.ndarray[Any, Any]
PLANE, SPHERE = (0.0, 0.5, 1.0, 2.0), (0.0, 8.0, 10.0, 12.0)  # times
BETA = 16.0
HALF = 5.4  # half the width of a panel of the plane
CELLS, BLUR = 290, 1.3  # of a panel, and of the density in cells: a cluster in one point is seen
LARGEST = 200_000  # bytes
SHADES = ("#FFFFFF", "#DCE6F3", "#8FB3DC", "#165BAC", "#1F314C", "#0B0F1A")
WIDTH, HEIGHT, DPI = 8.0, 4.75, 150


def moved(n: int) -> dict[str, Array]:
    """Follow n tokens on both manifolds, and return them at the times, (4, n, d) in float32."""
    stream = np.random.default_rng(0)
    plane, sphere = stream.standard_normal((n, 2)), stream.standard_normal((n, 3))
    sphere /= np.linalg.norm(sphere, axis=1, keepdims=True)
    found = {}
    for name, x0, times, scale, manifold in (
        ("plane", plane, PLANE, 1.0, fp.Euclidean()),
        ("sphere", sphere, SPHERE, BETA**0.5, fp.Sphere()),
    ):
        one = np.eye(x0.shape[1])
        attention = fp.Softmax(scale * one, scale * one, one)
        options: dict[str, Any] = {"rtol": 1e-4, "backend": fp.Fast(1e-5), "manifold": manifold}
        run = fp.solve(attention, x0, (0.0, times[-1]), t_eval=times, progress=True, **options)
        if not run.success:
            raise SystemExit(run.message)
        found[name] = run.x.astype(np.float32)
    return found


def density(x: Array, half: float, weights: Array | None = None) -> Array:
    """Return the number of tokens (n, 2) per cell of the square [-half, half]^2, a little blurred; y downwards."""
    counts, *_ = np.histogram2d(x[:, 1], x[:, 0], CELLS, [[-half, half]] * 2, weights=weights)
    return np.asarray(gaussian_filter(counts, BLUR))


def turned(x: Array, elevation: float = 0.35, azimuth: float = 0.6) -> Array:
    """Return the coordinates (n, 3) of tokens of space to the right, upwards, and towards a reader."""
    up, a = elevation, azimuth
    right = np.array([-np.sin(a), np.cos(a), 0.0])
    eye = np.array([np.cos(up) * np.cos(a), np.cos(up) * np.sin(a), np.sin(up)])
    return np.asarray(x @ np.stack([right, np.cross(eye, right), eye], axis=1))


@canvas.in_style
def draw(found: dict[str, Array], path: Path) -> None:
    """Draw the densities."""
    from matplotlib.colors import LinearSegmentedColormap, LogNorm

    n = found["plane"].shape[1]
    shades = LinearSegmentedColormap.from_list("tokens", SHADES)
    drawn = canvas.figure(WIDTH, HEIGHT, dpi=DPI, layout="compressed")
    grid = drawn.subplots(2, 4)
    clouds = [density(np.exp(-t) * x, HALF) for t, x in zip(PLANE, found["plane"], strict=True)]
    globes = []
    for x in found["sphere"]:
        seen = turned(x)
        front = seen[:, 2] > 0.0  # by area of the sphere, not of its picture
        globes.append(density(seen[front, :2], 1.06, seen[front, 2]))
    for row, pictures, times, half in ((grid[0], clouds, PLANE, HALF), (grid[1], globes, SPHERE, 1.06)):
        norm = LogNorm(0.02 * n / 1e6, 0.7 * max(picture.max() for picture in pictures), clip=True)
        for axes, picture, t in zip(row, pictures, times, strict=True):
            axes.imshow(picture, norm=norm, cmap=shades, extent=[-half, half] * 2, origin="lower", interpolation="none")
            axes.set_title(f"t = {t:g}", pad=3)
            axes.set(xticks=[], yticks=[])
            axes.spines[:].set_visible(False)
    for axes in grid[1]:
        graticule(axes)
    words = ("plane: $e^{-t}\\,x$", "unit sphere: $x$")
    for axes, word in zip(grid[:, 0], words, strict=True):
        axes.set_ylabel(word)
    above = "above, softmax attention in the plane, Q = K = V = I, from N(0, I)".replace(" = ", "\u00a0=\u00a0")
    below = "below, on the side of the sphere that is seen, Q = K = 4\u00a0I, from the uniform law".replace(
        " = ", "\u00a0=\u00a0"
    )
    canvas.caption(drawn, f"The density of {n:,} tokens on a logarithmic scale: {above}; {below}")
    write(drawn, path)


def graticule(axes: Any) -> None:
    """Draw the rim of the globe, and the sides of the equator and of six meridians that face the reader."""
    angle = np.linspace(0.0, 2.0 * np.pi, 361)
    axes.plot(np.cos(angle), np.sin(angle), color=canvas.FAINT, linewidth=0.7)
    x, y, z = np.eye(3)
    circles = [(x, y), *((np.cos(a) * x + np.sin(a) * y, z) for a in np.arange(6) * np.pi / 6)]
    for one, other in circles:
        line = turned(np.cos(angle)[:, None] * one + np.sin(angle)[:, None] * other)
        line[line[:, 2] < 0.0] = np.nan
        axes.plot(line[:, 0], line[:, 1], color=canvas.FAINT, linewidth=0.35, alpha=0.7)


def write(drawn: Any, path: Path) -> None:
    """Write a picture in so many colours that its file is small enough. Raises SystemExit if there are too few."""
    from PIL import Image

    drawn.canvas.draw()
    image = Image.fromarray(np.asarray(drawn.canvas.buffer_rgba())[..., :3].copy())
    path.parent.mkdir(parents=True, exist_ok=True)
    for colours in (256, 128, 64, 32, 16):
        small = image.quantize(colours, dither=Image.Dither.NONE)
        canvas.write(path, lambda stream, small=small: small.save(stream, format="PNG", optimize=True))
        if path.stat().st_size <= LARGEST:
            print(f"{path}: {image.size[0]} x {image.size[1]}, {colours} colours, {path.stat().st_size} bytes")
            return
    raise SystemExit(f"{path}: more than {LARGEST} bytes")


def main(arguments: list[str] | None = None) -> int:
    """Run or read the tokens, and draw them."""
    parser = argparse.ArgumentParser(description=__doc__.split("\n")[0])
    parser.add_argument("--n", type=int, default=1_000_000)
    parser.add_argument("--frames", type=Path)
    parser.add_argument("--out", type=Path, default=Path("docs/images/tokens.png"))
    options = parser.parse_args(arguments)
    if options.frames is not None and options.frames.is_file():
        with np.load(options.frames) as file:
            found = {name: file[name] for name in file.files}
    else:
        found = moved(options.n)
        if options.frames is not None:
            np.savez(options.frames, **found)
    draw(found, options.out)
    return 0


if __name__ == "__main__":
    raise SystemExit(main())
