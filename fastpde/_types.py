"""Array arguments, checked once on the way in: tokens, weights, positions.

Inside the package tokens are C-contiguous float64 or float32 arrays (B, n, d); a single cloud has B = 1.
"""

from __future__ import annotations

import numpy as np

from .errors import InputError, InputTypeError
from .parallel.partition import Array, Partition, Undivided

NUMBERS = "float64, float32 or whole numbers"
_HAVE_TOKENS = (  # what has tokens to give, by a name that it has
    ("sample", "a law", "Draw some of it: law.sample(n, seed)."),
    ("points", "the limit of a law", "Take its nodes at a time, with their weights: x, weights = limit.points(t)."),
    ("x_final", "a run", "Take its tokens, sol.x_final, or sol.x[i] at the time sol.t[i]."),
)


def as_numbers(name: str, value: object) -> Array:
    """Return `value` as an array of float64 or float32 in native byte order; lists and integers become float64.

    Raises InputTypeError for text, objects, complex numbers, numbers of more digits and masked arrays, InputError for
    NaN, inf, ragged rows.
    """
    if isinstance(value, np.ma.MaskedArray):
        raise InputTypeError(name, "a masked array", "a plain array", "Leave the masked tokens out.")
    try:
        array = np.asarray(value)
    except ValueError as error:
        raise InputError(name, "a ragged sequence", "an array of numbers", "All rows need the same length.") from error
    except (RuntimeError, TypeError) as error:  # a tensor with a gradient or on a device says itself what to do
        remedy = str(error) if "BFloat16" not in str(error) else "NumPy has no bfloat16: take tensor.float()."
        raise InputTypeError(name, f"a {type(value).__name__}", "an array that NumPy can read", remedy) from error
    if array.dtype.kind == "f" and array.dtype.itemsize > 8:
        remedy = "Nothing here has more digits than float64: take astype(float)."
        raise InputTypeError(name, f"dtype {array.dtype}", NUMBERS, remedy)
    if array.dtype.kind in "iu" or (array.dtype.kind == "f" and array.dtype not in (np.float32, np.float64)):
        array = array.astype(np.float64)
    if array.dtype.kind != "f":
        came = "None" if value is None else f"dtype {array.dtype}"
        for method, what, remedy in _HAVE_TOKENS:
            if hasattr(value, method):
                raise InputTypeError(name, f"{what}, {repr(value).splitlines()[0]:.60}", "tokens", remedy)
        raise InputTypeError(name, came, NUMBERS)
    if not array.dtype.isnative:
        array = array.astype(array.dtype.newbyteorder("="))
    if not np.isfinite(array).all():
        index = tuple(int(i) for i in np.argwhere(~np.isfinite(array))[0])
        place = f"{name}[{', '.join(map(str, index))}]" if index else name
        raise InputError(place, str(array[index]), "finite numbers")
    return array


def as_tokens(name: str, value: object) -> Array:
    """Return tokens (n, d) or (B, n, d) as a C-contiguous array, not to be modified: it may be the caller's own."""
    array = as_numbers(name, value)
    if array.ndim not in (2, 3) or 0 in array.shape:
        need = "shape (n, d) or (B, n, d), each at least 1"
        raise InputError(name, f"shape {array.shape}", need, "One token is x[None]; scalar tokens are x[:, None].")
    return np.ascontiguousarray(array)


def as_weights(
    value: object, shape: tuple[int, ...], name: str = "weights", partition: Partition | None = None
) -> Array | None:
    """Return weights (n,) or (B, n) as (1, n) or (B, n) float64, None for None.

    partition: which of all tokens they are of.

    Raises InputError, InputTypeError naming `name` unless they are positive and sum to 1.
    """
    if value is None:
        return None
    array = as_numbers(name, value)
    systems, n = (shape[0] if len(shape) == 3 else 1), shape[-2]
    if array.shape not in {(n,), (systems, n)}:
        raise InputError(name, f"shape {array.shape}", f"shape ({n},) or ({systems}, {n}), one weight per token")
    if array.min() <= 0.0:
        raise InputError(name, f"a weight of {array.min()}", "weights > 0", "Leave out tokens of weight zero.")
    partition = Undivided(n) if partition is None else partition
    sums = partition.sum(array.reshape(-1, n).astype(np.float64))
    worst = sums[np.argmax(np.abs(sums - 1.0))]
    if abs(worst - 1.0) > 1e-6:
        raise InputError(name, f"a sum of {worst:.9g}", "weights that sum to 1", "Divide them by their sum.")
    return np.ascontiguousarray(array.reshape(-1, n), dtype=np.float64)


def as_positions(name: str, value: object, n: int) -> Array:
    """Return the positions (n,) of the tokens in the sequence, any finite numbers; equal ones are ties."""
    array = as_numbers(name, value)
    # Integers stay integers: beyond 2^53 a float would make ties of them.
    array = np.asarray(value) if np.asarray(value).dtype.kind in "iu" else array
    if array.shape != (n,):
        raise InputError(name, f"shape {array.shape}", f"shape ({n},), one position per token")
    return array


def covariance_eigen(name: str, cov: object) -> tuple[Array, Array]:
    """Return the eigenvalues (..., d), at least 0, and the eigenvectors (..., d, d), in columns, of `cov` (..., d, d).

    Raises InputError unless the matrices are symmetric and positive semidefinite, to rounding.
    """
    array = as_numbers(name, cov).astype(np.float64)
    if array.ndim < 2 or array.shape[-1] != array.shape[-2] or 0 in array.shape:
        raise InputError(name, f"shape {array.shape}", "a square matrix (d, d), or (..., d, d)")
    size = np.abs(array).max(axis=(-2, -1))
    skew = np.abs(array - np.swapaxes(array, -1, -2)).max(axis=(-2, -1))
    if np.any(skew > 1e-12 * size):
        raise InputError(name, "a matrix that is not symmetric", "a symmetric matrix")
    values, vectors = np.linalg.eigh(array)
    low = values[..., 0]
    if np.any(low < -1e-12 * size):
        raise InputError(name, f"the eigenvalue {low.min():.3g}", "eigenvalues of at least 0")
    # What rounding made of zero must not come back as a direction.
    return np.where(values > 1e-15 * size[..., None], values, 0.0), vectors


def as_gaussian(mean: object, cov: object) -> tuple[Array, Array]:
    """Return the means (..., d) and factors L (..., d, d), L L^T = cov, of Gaussian laws; leading axes are systems.

    Raises InputError, InputTypeError for shapes that do not fit, or a matrix that is no covariance.
    """
    centre = as_numbers("mean", mean).astype(np.float64)
    values, vectors = covariance_eigen("cov", cov)
    d = vectors.shape[-1]
    if centre.ndim < 1 or centre.shape[-1] != d:
        raise InputError("mean", f"shape {centre.shape}", f"shape ({d},), or (..., {d}), as cov")
    try:
        lead = np.broadcast_shapes(centre.shape[:-1], vectors.shape[:-2])
    except ValueError as error:
        raise InputError(
            "mean", f"shape {centre.shape}", f"leading axes that fit those of cov, {vectors.shape}"
        ) from error
    factor = vectors * np.sqrt(values)[..., None, :]
    return np.broadcast_to(centre, (*lead, d)).copy(), np.broadcast_to(factor, (*lead, d, d)).copy()
