"""Events: conditions that are located in time and may end a run, without influence on the steps before."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import ClassVar

import numpy as np

from fastpde._numbers import flag, positive, real, show
from fastpde.errors import Explained, InputError, InputTypeError
from fastpde.integrate.options import function
from fastpde.integrate.status import Status
from fastpde.parallel.partition import Partition, Undivided
from fastpde.step_rules import RESOLVED, meeting

_EPS = 2.0**-52

End = tuple[float, float]  # time and value at an end of a step


class Event(Explained):
    """Base class: an event happens where `value` crosses zero.

    `direction` +1 means crossings from below to zero or above, -1 from above to zero or below, 0 both. An event with a
    direction is a condition: it is "already satisfied" if its value is on the far side at t0, and is then reported at
    t0. Only the values at the ends of a step are compared: a condition that comes and goes within one step is not seen,
    and a value that touches zero and turns back is one only where a step ends on it.

    Attributes:
        terminal: whether the event ends the run.
        direction: -1, 0 or +1.
        status: how a run that it ends is reported.
        uses_velocity: whether `value` needs f(t, y). Such an event is checked, and reported, at the ends of steps; any
            other one is located on the continuous extension to about 4 eps |t| and gets None for the velocity.
    """

    terminal: bool = True
    direction: int = 0
    status: ClassVar[Status] = Status.EVENT
    uses_velocity: ClassVar[bool] = False

    def value(self, t: float, y: np.ndarray, velocity: np.ndarray | None) -> float:
        """Return the number whose sign changes at the event; y and velocity are read-only, valid during the call."""
        raise NotImplementedError

    def value_of_all(self, t: float, y: np.ndarray, velocity: np.ndarray | None, partition: Partition) -> float:
        """Return `value` for all tokens, of which y and velocity hold those of this process."""
        if partition.whole:
            return self.value(t, y, velocity)
        return self.value(t, _all(y, partition), None if velocity is None else _all(velocity, partition))

    def values(
        self, t: Sequence[float], y: np.ndarray, velocity: np.ndarray | None, partition: Partition
    ) -> Sequence[float] | np.ndarray:
        """Return `value_of_all` of each system of a batch y (B, n, d), (B,), at the times t (B,)."""
        rows = [None] * len(y) if velocity is None else velocity
        return [self.value_of_all(*each, partition) for each in zip(t, y, rows, strict=True)]

    def gradient(self, t: float, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Return the derivatives of `value` in t and in y (n, d), for those of runs. Raises InputError."""
        raise InputError("events", show(self), "an event with a method `gradient`, see fp.Event")

    def remark(self, y: np.ndarray) -> str:
        """Return a sentence, after a space, on what keeps the event from happening at a state; "" for nothing."""
        return ""

    def satisfied_at_start(self, value: float) -> bool:
        """Return whether the value at t0 counts as the event."""
        return self.direction * value >= 0.0 if self.direction else value == 0.0


class SteadyState(Event):
    """The event that all tokens are slow: max_i |v_i| <= tol max(1, max_i |x_i|), for every system of a batch.

    The norms are Euclidean, so tol is a speed for clouds of size up to one and a relative rate, per unit of time,
    beyond. The last axis holds the components of a token; the largest radius is that of the token's own system. Checked
    at the ends of steps.

    Raises:
        InputError, InputTypeError: tol is not a number > 0.
    """

    direction = -1
    status = Status.STEADY_STATE
    uses_velocity = True

    def __init__(self, tol: float, *, terminal: bool = True) -> None:
        self.tol = positive("SteadyState.tol", tol)
        self.terminal = flag("SteadyState.terminal", terminal)

    def value(self, t: float, y: np.ndarray, velocity: np.ndarray | None) -> float:
        """Return the largest of max_i |v_i| / max(1, max_i |x_i|) over the systems, minus tol."""
        return self.value_of_all(t, y, velocity, _everything(y))

    def value_of_all(self, t: float, y: np.ndarray, velocity: np.ndarray | None, partition: Partition) -> float:
        """Return `value` for all tokens, from the largest norms that each process finds."""
        return float(self._excess(y, velocity, partition).max())

    def values(
        self, t: Sequence[float], y: np.ndarray, velocity: np.ndarray | None, partition: Partition
    ) -> Sequence[float] | np.ndarray:
        return self._excess(y, velocity, partition)

    def _excess(self, y: np.ndarray, velocity: np.ndarray | None, partition: Partition) -> np.ndarray:
        assert velocity is not None, "uses_velocity is set"
        rate = _largest_norms(velocity, partition) / np.maximum(1.0, _largest_norms(y, partition))
        # A velocity that is not finite is not slow; the next step will report it.
        return np.where(np.isfinite(rate), rate - self.tol, math.inf)


class BlowUp(Event):
    """The event that a token has left the ball: max_i |x_i| >= radius, Euclidean norm over the last axis.

    Raises:
        InputError, InputTypeError: radius is not a number > 0.
    """

    direction = 1
    status = Status.BLOW_UP

    def __init__(self, radius: float, *, terminal: bool = True) -> None:
        self.radius = positive("BlowUp.radius", radius)
        self.terminal = flag("BlowUp.terminal", terminal)

    def value(self, t: float, y: np.ndarray, velocity: np.ndarray | None) -> float:
        """Return max_i |x_i| / radius - 1."""
        return self.value_of_all(t, y, velocity, _everything(y))

    def value_of_all(self, t: float, y: np.ndarray, velocity: np.ndarray | None, partition: Partition) -> float:
        """Return `value` for all tokens, from the largest norm that each process finds."""
        return float(np.max(self.values([t], y, velocity, partition)))

    def values(
        self, t: Sequence[float], y: np.ndarray, velocity: np.ndarray | None, partition: Partition
    ) -> Sequence[float] | np.ndarray:
        return _largest_norms(y, partition) / self.radius - 1.0

    def gradient(self, t: float, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Return 0, and the unit vector of the outermost token divided by the radius, zero elsewhere."""
        outermost, unit = _outermost(y)
        found = np.zeros_like(y)
        found[outermost] = unit / self.radius
        return 0.0, found


class Collapsed(Event):
    """The event that the tokens have met: max_i |x_i - mean| <= tol, for every system of a batch (B, n, d).

    It does not happen where positions cannot say so: while four spacings of the floating-point numbers at the largest
    |x_i| are more than tol. Tokens that run away become equal by rounding, and have not met.

    Raises:
        InputError, InputTypeError: tol is not a number > 0.
    """

    direction = -1
    status = Status.COLLAPSED

    def __init__(self, tol: float, *, terminal: bool = True) -> None:
        self.tol = positive("Collapsed.tol", tol)
        self.terminal = flag("Collapsed.terminal", terminal)

    def value(self, t: float, y: np.ndarray, velocity: np.ndarray | None) -> float:
        """Return max_i |x_i - mean| / tol - 1, or more where positions do not resolve tol; see `step_rules.meeting`."""
        if y.ndim < 2:  # one token, which is its own mean
            return -1.0
        return self.value_of_all(t, y, velocity, _everything(y))

    def value_of_all(self, t: float, y: np.ndarray, velocity: np.ndarray | None, partition: Partition) -> float:
        """Return `value` for all tokens, from sums and largest norms that each process finds."""
        if partition.whole and (y.ndim < 2 or partition.n != y.shape[-2]):  # the default of VectorSpace counts numbers
            return self.value(t, y, velocity)
        return float(np.max(self.values([t], y, velocity, partition)))

    def values(
        self, t: Sequence[float], y: np.ndarray, velocity: np.ndarray | None, partition: Partition
    ) -> Sequence[float] | np.ndarray:
        systems = y.reshape(-1, *y.shape[-2:])
        # A float32 mean summed along the tokens would lose digits as n grows.
        columns = np.ascontiguousarray(np.moveaxis(systems, 2, 0), dtype=np.float64)
        mean = np.stack(partition.sums(columns), axis=1) / partition.n
        spread = _largest_norms(systems - mean[:, None], partition)
        found, met = spread / self.tol - 1.0, spread <= self.tol
        if met.any():
            sizes = _largest_norms(systems, partition)
            found = np.where(met, meeting(spread, sizes, float(np.finfo(y.dtype).eps), self.tol), found)
        return found

    def remark(self, y: np.ndarray) -> str:
        size = float(np.abs(y).max())
        rounding = RESOLVED * float(np.finfo(y.dtype).eps) * size
        if rounding <= self.tol:
            return ""
        return (
            f" Collapsed({self.tol:g}) saw nothing in the end: coordinates up to {size:.2g} are rounded by up to "
            f"{rounding:.1g}. End such a run before by BlowUp(radius), or take a larger tol."
        )

    def gradient(self, t: float, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Return 0, and the unit vector of the outermost token divided by tol, minus the share of the mean in it."""
        outermost, unit = _outermost(y - y.mean(axis=0))
        found = np.tile(-unit / (len(y) * self.tol), (len(y), 1))
        found[outermost] += unit / self.tol
        return 0.0, found


class FunctionEvent(Event):
    """The event of a user's function event(t, x) -> float; its attributes are `terminal` (True) and `direction` (0).

    Raises:
        InputError, InputTypeError: not callable, or an attribute is of no use.
    """

    def __init__(self, name: str, event: object) -> None:
        self._function = function(name, event, "(t, x) -> float or an Event")
        self.terminal = flag(f"{name}.terminal", getattr(event, "terminal", True))
        direction = real(f"{name}.direction", getattr(event, "direction", 0))
        if direction not in (-1.0, 0.0, 1.0):
            raise InputError(f"{name}.direction", str(direction), "-1, 0 or +1")
        self.direction = int(direction)

    def value(self, t: float, y: np.ndarray, velocity: np.ndarray | None) -> float:
        """Return event(t, x)."""
        return self._function(t, y)

    def gradient(self, t: float, y: np.ndarray) -> tuple[float, np.ndarray]:
        """Return event.gradient(t, x). Raises InputError if there is none."""
        own = getattr(self._function, "gradient", None)
        if not callable(own):
            need = "a function with an attribute `gradient`: gradient(t, x) returns the derivatives in t and in x"
            raise InputError("events", show(self._function), need)
        found: tuple[float, np.ndarray] = own(t, read_only(y))
        return found

    def satisfied_at_start(self, value: float) -> bool:
        """Return whether t0 is a root; the far side is no event, because a function stands for a change of sign.

        With a direction a root at t0 is not one either: nothing has crossed yet (a ball thrown up from the ground).
        """
        return self.direction == 0 and value == 0.0


def _outermost(y: np.ndarray) -> tuple[int, np.ndarray]:
    """Return which token (n, d) is the farthest from the origin, and its unit vector (d,), 0 if all are there."""
    lengths = np.linalg.norm(y, axis=1)
    i = int(np.argmax(lengths))
    return i, y[i] / lengths[i] if lengths[i] > 0.0 else y[i]


def as_event(name: str, event: object) -> Event:
    """Return an `Event` as it is, or a function wrapped as one; raise for anything else."""
    return event if isinstance(event, Event) else FunctionEvent(name, event)


def gradient_of(event: Event, t: float, y: np.ndarray) -> tuple[float, np.ndarray]:
    """Return the derivatives of the value of an event in t, and in y (n, d) float64.

    Raises InputError if they are not known, or are not such.
    """
    found = event.gradient(t, y)
    if not isinstance(found, tuple | list) or len(found) != 2:
        raise InputError("events", f"a gradient that returns {show(found)}", "a pair, the derivatives in t and in x")
    if np.shape(found[1]) != y.shape:
        raise InputError("events", f"a gradient of shape {np.shape(found[1])}", f"shape {y.shape}, that of x")
    return float(found[0]), np.asarray(found[1], dtype=np.float64)


def read_only(array: np.ndarray) -> np.ndarray:
    """Return a view that cannot be written to."""
    view = array.view()
    view.flags.writeable = False
    return view


def measure(
    name: str, event: Event, t: float, y: np.ndarray, velocity: np.ndarray | None, partition: Partition
) -> float:
    """Return the event's value as a float that is not nan, or raise; `partition` says which of all tokens y holds."""
    return _number(name, event.value_of_all(t, read_only(y), _view(velocity), partition), t)


def measure_each(
    name: str, event: Event, t: Sequence[float], y: np.ndarray, velocity: np.ndarray | None, partition: Partition
) -> Sequence[float] | np.ndarray:
    """Return the event's values for the systems of a batch (B, n, d) at their times, as `measure` does."""
    came = event.values(t, read_only(y), _view(velocity), partition)
    if isinstance(came, np.ndarray) and not np.isnan(came).any():
        return came
    return [_number(name, value, time) for value, time in zip(came, t, strict=True)]


def _view(velocity: np.ndarray | None) -> np.ndarray | None:
    return None if velocity is None else read_only(velocity)


def _number(name: str, came: object, t: float) -> float:
    try:
        value = float(came)  # type: ignore[arg-type]
    except (TypeError, ValueError):
        shape = getattr(came, "shape", ())
        what = f"an array of shape {shape}" if shape else show(came)
        raise InputTypeError(name, f"{what} at t = {t!r}", "a function that returns a number") from None
    if value != value:
        raise InputError(name, f"nan at t = {t!r}", "a function that returns a number")
    return value


def locate(
    name: str, event: Event, state: Callable[[float], np.ndarray], partition: Partition, ends: tuple[End, End]
) -> float:
    """Return the time at which the event's value crosses zero within a step, by Brent's method.

    state(t) is the state there, valid until the next call; `ends` are (time, value) at the two ends of the step. Where
    it is not finite, as if the velocity at the end of a step overflows, the event is at the end of the step.
    Source: Brent (1973), Algorithms for Minimization without Derivatives, chapter 4.
    """
    from scipy.optimize import brentq  # here: a run without events does not pay for the import

    known, lost = dict(ends), []
    (t0, _), (t1, value) = ends
    if value == 0.0:
        return t1

    def at(t: float) -> float:
        # The ends keep their own values: the extension meets them to rounding only, which could cost the sign change.
        if t in known:
            return known[t]
        y = state(t)
        if is_finite(y, partition):
            return measure(name, event, t, y, None, partition)
        lost.append(t)
        return value

    root, _ = brentq(
        at,
        t0,
        t1,
        xtol=_EPS * max(abs(t0), abs(t1)),
        rtol=4 * _EPS,
        maxiter=300,
        full_output=True,
        disp=False,
    )
    return t1 if lost else float(root)


def is_finite(y: np.ndarray, partition: Partition) -> bool:
    """Return whether the states of all processes are finite."""
    return not partition.largest(np.array([not np.isfinite(y).all()], np.float64)).any()


def _everything(y: np.ndarray) -> Partition:
    """Return the partition of a process that holds all tokens."""
    return Undivided(y.shape[-2] if y.ndim > 1 else 1)


def _all(x: np.ndarray, partition: Partition) -> np.ndarray:
    """Return all tokens of a state (n, d) or (B, n, d), of which x holds those of this process."""
    found = partition.gathered(x.reshape(-1, *x.shape[-2:]))
    return found.reshape(*x.shape[:-2], *found.shape[-2:])


def _largest_norms(x: np.ndarray, partition: Partition) -> np.ndarray:
    """Return max_i |x_i| of each system (B,), or (1,) when there is only one.

    Entries are divided by the largest one, so that their squares neither overflow nor vanish.
    """
    systems = x.reshape(x.shape[0] if x.ndim == 3 else 1, -1, x.shape[-1] if x.ndim else 1)
    largest = partition.largest(np.maximum(systems.max(axis=(1, 2)), -systems.min(axis=(1, 2))).astype(np.float64))
    unit = np.where((largest > 0.0) & np.isfinite(largest), largest, 1.0)
    with np.errstate(over="ignore"):  # of numbers beside one that is not finite
        scaled = systems / unit[:, None, None]
        return largest * np.sqrt(partition.largest(np.einsum("bij,bij->bi", scaled, scaled).max(axis=1)))
