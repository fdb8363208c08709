"""Initial value problems with exact solutions, for the tests of the time stepping.

Each has `field(t, y, out)` and `exact(t)`; both are independent of the package.
"""

from __future__ import annotations

import numpy as np


class Spiral:
    """n tokens in the plane that wind on to the unit circle, at a speed that depends on time.

        x' = s'(t) (x - y - x r^2),    y' = s'(t) (x + y - y r^2),    s(t) = t + sin(2 t) / 4,

    with the solution r(t)^2 = 1 / (1 + (1 / r0^2 - 1) exp(-2 s)), angle = angle0 + s: nonlinear, coupled, and
    explicit in t, so that every coefficient of a method counts.
    """

    def __init__(self, n: int = 3, dtype: type = np.float64) -> None:
        self.radius, self.angle = np.linspace(0.4, 1.6, n), np.linspace(0.0, 2.0, n)
        self.y0 = self.exact(0.0).astype(dtype)

    def field(self, t: float, y: np.ndarray, out: np.ndarray) -> None:
        """Write the velocity (n, 2)."""
        speed = 1.0 + 0.5 * np.cos(2.0 * t)
        u, v = y[..., 0], y[..., 1]
        square = u * u + v * v
        out[..., 0] = speed * (u - v - u * square)
        out[..., 1] = speed * (u + v - v * square)

    def exact(self, t: float) -> np.ndarray:
        """Return the positions (n, 2)."""
        s = t + np.sin(2.0 * t) / 4.0
        r = 1.0 / np.sqrt(1.0 + (1.0 / self.radius**2 - 1.0) * np.exp(-2.0 * s))
        return np.stack([r * np.cos(self.angle + s), r * np.sin(self.angle + s)], axis=-1)


class Twist:
    """Tokens that circle at the speed s'(t) r^2, with s(t) = t + sin(t) / 2 and r between 1 and 1.2.

    Nonlinear, coupled, explicit in t, and without decay, so that errors reach their asymptotic order early,
    also for methods whose leading error terms were minimised. Solution: r = r0, angle = s(t) r0^2.
    """

    def __init__(self) -> None:
        self.square = np.linspace(1.0, 1.2, 3) ** 2
        self.y0 = self.exact(0.0)

    def field(self, t: float, y: np.ndarray, out: np.ndarray) -> None:
        """Write the velocity (3, 2)."""
        speed = (1.0 + 0.5 * np.cos(t)) * (y * y).sum(axis=1)
        out[:, 0], out[:, 1] = -speed * y[:, 1], speed * y[:, 0]

    def exact(self, t: float) -> np.ndarray:
        """Return the positions (3, 2)."""
        angle = (t + 0.5 * np.sin(t)) * self.square
        return np.sqrt(self.square)[:, None] * np.stack([np.cos(angle), np.sin(angle)], axis=-1)


class Riccati:
    """y' = y^2, y(0) = 1: y = 1 / (1 - t) blows up at t = 1."""

    y0 = np.ones((1, 1))

    def field(self, t: float, y: np.ndarray, out: np.ndarray) -> None:
        """Write y^2."""
        np.multiply(y, y, out=out)

    def exact(self, t: float) -> np.ndarray:
        """Return y (1, 1)."""
        return np.full((1, 1), 1.0 / (1.0 - t))


class Decay:
    """y' = -rate y for any shape: y = y0 exp(-rate t)."""

    def __init__(self, y0: np.ndarray, rate: float = 1.0) -> None:
        self.y0, self.rate = y0, rate

    def field(self, t: float, y: np.ndarray, out: np.ndarray) -> None:
        """Write -rate y."""
        np.multiply(y, -self.rate, out=out)

    def exact(self, t: float) -> np.ndarray:
        """Return y."""
        return self.y0 * np.exp(-self.rate * t)


class Layers:
    """A field that is constant on [i, i + 1) for each layer i, as in a residual network, and remembers when
    it was called."""

    def __init__(self, slopes: tuple[float, ...]) -> None:
        self.slopes, self.times = slopes, []
        self.y0 = np.array([[1.0, 2.0]])

    def field(self, t: float, y: np.ndarray, out: np.ndarray) -> None:
        """Write slope(t) y, the last layer's beyond the end."""
        self.times.append(t)
        np.multiply(y, self.slopes[min(int(t), len(self.slopes) - 1)], out=out)

    def network(self) -> np.ndarray:
        """Return the output of the residual network y -> y + slope_i y."""
        return self.y0 * np.prod([1.0 + slope for slope in self.slopes])


class Counted:
    """Wraps a field and counts its calls."""

    def __init__(self, field: object) -> None:
        self.field, self.calls = field, 0

    def __call__(self, t: float, y: np.ndarray, out: np.ndarray) -> None:
        self.calls += 1
        self.field(t, y, out)


def fitted_slope(steps: list[float], errors: list[float]) -> float:
    """Return the least-squares slope of log error against log step; raises on errors that are zero or not
    finite."""
    if not (np.isfinite(errors).all() and min(errors) > 0.0):
        raise ValueError(f"errors {errors} have no slope")
    return float(np.polyfit(np.log(steps), np.log(errors), 1)[0])
