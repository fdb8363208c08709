"""The particle system against exact solutions (Theory 3) and structural facts (Theory 1.1), through `fp.solve`."""

from __future__ import annotations

import tracemalloc

import numpy as np
import pytest
from scipy.special import lambertw

import fastpde as fp

from .problems import DTYPES, EPS, VARIANTS, case_like, gauss_hermite, random_case

each_variant = pytest.mark.parametrize("kind", VARIANTS)
each_dtype = pytest.mark.parametrize("dtype", DTYPES)
TIGHT = {"method": "dopri5", "rtol": 1e-11, "atol": 1e-13}


# ---- Gaussian solutions through weighted Gauss-Hermite nodes ---------------------------------------------------------


def softmax_1d(t, a, v, mean, var):
    """s = s0 / (1 - 2 v a s0 t), mean e^{vt} / sqrt(1 - 2 v a s0 t)."""
    shrink = 1 - 2 * v * a * var * t
    return mean * np.exp(v * t) / np.sqrt(shrink), var / shrink


def l2_1d(t, q, k, v, mean, var):
    """u = 1/s solves u + 2k^2 log u = 1/s0 - 2k^2 log s0 - 4vat; mean0 sqrt(s/s0) exp((1/s0 - 1/s) / (4a))."""
    a, c = k * q, 2 * k * k
    right = 1 / var - c * np.log(var) - 4 * v * a * t
    u = c * float(np.real(lambertw(np.exp(right / c) / c)))
    return mean * np.sqrt(1 / (u * var)) * np.exp((1 / var - u) / (4 * a)), 1 / u


def linear_1d(t, a, v, mean, var):
    """With m0 = s0 + mean0^2: s0 / (1 - 2 v a m0 t) and mean0 / sqrt(1 - 2 v a m0 t)."""
    shrink = 1 - 2 * v * a * (var + mean**2) * t
    return mean / np.sqrt(shrink), var / shrink


def moments(x, w):
    mean = w @ x
    return mean, w @ (x - mean) ** 2


@pytest.mark.parametrize("v", [0.7, -0.8])
@pytest.mark.parametrize("kind", ["Softmax", "L2", "Linear"])
def test_gaussians_in_1d(kind, v):
    """The whole flow is affine, so each node moves to mean(t) + sqrt(s(t) / s0) (x - mean0).

    1e-10: 48 nodes integrate e^{ax y} against a normal law to rounding for the x that matter, and the solver's
    tolerance is 1e-11 per step.
    """
    q, k, mean0, var0 = 0.6, 0.5, 0.4, 0.5
    nodes, w = gauss_hermite(48, floor=1e-20)
    x0 = (mean0 + np.sqrt(var0) * nodes)[:, None]
    attention = getattr(fp, kind)([[q]], [[k]], [[v]])
    times = np.array([0.0, 0.25, 0.5])
    solution = fp.solve(attention, x0, (0.0, 0.5), weights=w, t_eval=times, **TIGHT)
    assert solution.success
    exact = {
        "Softmax": lambda t: softmax_1d(t, k * q, v, mean0, var0),
        "L2": lambda t: l2_1d(t, q, k, v, mean0, var0),
        "Linear": lambda t: linear_1d(t, k * q, v, mean0, var0),
    }[kind]
    for t, x in zip(times, solution.x, strict=True):
        mean, var = exact(t)
        np.testing.assert_allclose(moments(x[:, 0], w), (mean, var), rtol=1e-10)
        bulk = np.abs(nodes) < 3  # far nodes see tails that no quadrature has
        np.testing.assert_allclose(x[bulk, 0], (mean + np.sqrt(var) * nodes)[bulk], atol=1e-10)


def test_the_exact_solutions_are_solutions():
    """Each closed form has the derivative that Theory 2 says, by a central difference of error 1e-9."""
    a, v, h = 0.3, 0.7, 1e-4

    def slope(f, t):
        return (np.array(f(t + h)) - f(t - h)) / (2 * h)

    mean, s = softmax_1d(0.4, a, v, 0.4, 0.5)
    np.testing.assert_allclose(
        slope(lambda t: softmax_1d(t, a, v, 0.4, 0.5), 0.4), [v * (1 + a * s) * mean, 2 * v * a * s**2], rtol=1e-6
    )
    mean, s = l2_1d(0.4, 0.6, 0.5, v, 0.4, 0.5)
    rates = [v * (1 + 2 * s * a) / (1 + 0.5 * s) * mean, 4 * v * a * s**2 / (1 + 0.5 * s)]
    np.testing.assert_allclose(slope(lambda t: l2_1d(t, 0.6, 0.5, v, 0.4, 0.5), 0.4), rates, rtol=1e-6)
    mean, s = linear_1d(0.4, a, v, 0.4, 0.5)
    np.testing.assert_allclose(
        slope(lambda t: linear_1d(t, a, v, 0.4, 0.5), 0.4),
        [v * a * (s + mean**2) * mean, 2 * v * a * s * (s + mean**2)],
        rtol=1e-6,
    )


def test_gauss_hermite_nodes_are_a_measure():
    nodes, w = gauss_hermite(60, floor=1e-24)
    assert (w > 0).all() and abs(w.sum() - 1) < 1e-15
    # Moments of a standard normal: what is left out is far below rounding.
    np.testing.assert_allclose([w @ nodes**p for p in (1, 2, 3, 4, 6)], [0, 1, 0, 3, 15], atol=1e-13)


def test_flow_map_in_2d():
    """Softmax, V = vI, A symmetric: x(t) = mean(t) + F (x0 - mean0), F = (I - 2vt S0 A)^{-1/2}, mean = e^{vt} F mean0.

    Per particle; 1e-10 as in one dimension.
    """
    v, t1, mean0 = 0.6, 0.7, np.array([0.3, -0.2])
    root = np.array([[0.7, 0.1], [0.1, 0.5]])
    K = np.array([[0.6, 0.1], [0.0, 0.5]])
    Q = np.linalg.solve(K.T, np.array([[0.5, -0.2], [-0.2, -0.4]]))  # A = K^T Q symmetric, of both signs
    A, cov = K.T @ Q, root @ root
    nodes, w = gauss_hermite(36, floor=1e-20)
    grid = np.stack(np.meshgrid(nodes, nodes, indexing="ij"), axis=-1).reshape(-1, 2)
    weights = np.outer(w, w).ravel()
    keep = weights > 1e-22
    grid, weights = grid[keep], weights[keep] / weights[keep].sum()
    x0 = mean0 + grid @ root
    solution = fp.solve(fp.Softmax(Q, K, v * np.eye(2)), x0, (0.0, t1), weights=weights, **TIGHT)
    values, vectors = np.linalg.eig(np.eye(2) - 2 * v * t1 * cov @ A)
    F = np.real(vectors @ np.diag(values**-0.5) @ np.linalg.inv(vectors))
    exact = np.exp(v * t1) * F @ mean0 + (x0 - mean0) @ F.T
    bulk = np.linalg.norm(grid, axis=1) < 3
    np.testing.assert_allclose(solution.x[-1][bulk], exact[bulk], atol=1e-10)


# ---- layers and functions of time ------------------------------------------------------------------------------------


def residual_layer(x, Q, K, V, step):
    s = (x @ Q.T) @ (x @ K.T).T
    p = np.exp(s - s.max(axis=1, keepdims=True))
    return x + step * (p / p.sum(axis=1, keepdims=True)) @ x @ V.T


@pytest.mark.parametrize("layers, t_end", [(6, 1.0), (7, 7.0), (49, 4.9)])
def test_euler_with_layers_is_a_residual_network(layers, t_end):
    """One step of size T / L is one layer, also where step * l is not exactly the start of layer l."""
    rng = np.random.default_rng(1)
    Q, K, V = rng.normal(size=(3, layers, 3, 3)) / 2
    x0 = rng.normal(size=(20, 3))
    step = t_end / layers
    attention = fp.Softmax(*(fp.Layers(stack, t_end) for stack in (Q, K, V)))
    solution = fp.solve(attention, x0, (0.0, t_end), method="euler", step=step)
    want = x0
    for layer in range(layers):
        want = residual_layer(want, Q[layer], K[layer], V[layer], step)
    assert solution.stats["accepted"] == layers
    # Rounding of each layer, which the next ones multiply by a factor of about one.
    np.testing.assert_allclose(solution.x[-1], want, rtol=0, atol=1e-13 * layers * np.abs(want).max())


@each_variant
def test_functions_of_time_in_every_parameter(kind):
    """At each time the field is that of the constants of that time, to the bit."""
    case = random_case(kind, d=3, k=2)
    names = ["scale", *(["bias"] if kind == "Sigmoid" else [])]
    constants = {"Q": case.Q, "K": case.K, "V": case.V, **case.options}
    assert set(constants) == {"Q", "K", "V", *names}
    for name, value in constants.items():
        moving = getattr(fp, kind)(**{**constants, name: lambda t, value=value: np.multiply(value, np.cos(t))})
        layers = getattr(fp, kind)(**{**constants, name: fp.Layers(np.stack([value, 2 * np.asarray(value)]), 2.0)})
        for t in (0.0, 0.7, 1.5):
            still = getattr(fp, kind)(**{**constants, name: np.multiply(value, np.cos(t))})
            np.testing.assert_array_equal(moving.velocity(case.x, t=t), still.velocity(case.x))
            layer = getattr(fp, kind)(**{**constants, name: np.multiply(value, 1 if t < 1 else 2)})
            np.testing.assert_array_equal(layers.velocity(case.x, t=t), layer.velocity(case.x))


def test_heads_and_masks_take_functions_of_time():
    case = random_case("Softmax", d=3, k=2)
    W = np.random.default_rng(0).normal(size=(2, 3, 3))
    heads = [fp.Softmax(lambda t: case.Q * t, case.K, case.V), fp.L2(case.Q, case.K, lambda t: case.V + t)]
    still = [fp.Softmax(case.Q * 0.5, case.K, case.V), fp.L2(case.Q, case.K, case.V + 0.5)]
    got = fp.Masked(fp.MultiHead(heads, W=lambda t: W * t)).velocity(case.x, t=0.5)
    np.testing.assert_array_equal(got, fp.Masked(fp.MultiHead(still, W=W * 0.5)).velocity(case.x))


def test_time_dependent_values_in_1d():
    """V(t) = cos(t), A = 0: each token is moved by the mean, which grows by exp(sin t): exact to the tolerance."""
    x0 = np.linspace(-1, 2, 7)[:, None]
    solution = fp.solve(fp.Softmax([[0.0]], [[1.0]], lambda t: [[np.cos(t)]]), x0, (0.0, 2.0), **TIGHT)
    mean = x0.mean()
    np.testing.assert_allclose(solution.x[-1], x0 + mean * (np.exp(np.sin(2.0)) - 1), atol=1e-10)


# ---- facts of Theory 1.1 ---------------------------------------------------------------------------------------------


@each_variant
def test_order_is_preserved_on_the_line(kind):
    x0 = np.random.default_rng(3).normal(size=(40, 1))
    attention = getattr(fp, kind)([[0.7]], [[0.9]], [[-0.8]])
    solution = fp.solve(attention, x0, (0.0, 1.0), rtol=1e-7, atol=1e-10)
    order = np.argsort(x0[:, 0])
    assert (np.diff(solution.x[-1][order, 0]) > 0).all()


@pytest.mark.parametrize("kind", [k for k in VARIANTS if k != "L2"])
def test_the_field_is_blind_to_the_kernel_of_Q(kind):
    """Gamma(x + n) = Gamma(x) for n in ker Q, up to rounding of scores at the size of n; L2 included below."""
    case = random_case(kind, d=3, k=2, m=30)
    null = np.linalg.svd(case.Q)[2][-1]
    assert np.abs(case.Q @ null).max() < 1e-15
    moved = case.with_(data={"at": case.data["at"] + 3.0 * null})
    np.testing.assert_allclose(moved.velocity(), case.velocity(), rtol=0, atol=1e-13)


def test_L2_is_blind_to_the_kernel_of_Q():
    case = random_case("L2", d=4, k=2, m=30)
    null = np.linalg.svd(case.Q)[2][2:]
    moved = case.with_(data={"at": case.data["at"] + [2.0, -1.0] @ null})
    np.testing.assert_allclose(moved.velocity(), case.velocity(), rtol=0, atol=1e-13)


def test_differences_in_the_kernel_of_Q_stay_for_ever():
    """Tokens that differ by n in ker Q keep that difference. 1e-9: a hundred steps of rounding, times e^{|V| t}."""
    case = random_case("Softmax", n=20, d=3, k=1)
    null = np.linalg.svd(case.Q)[2][1:]
    x0 = np.concatenate([case.x, case.x[:1] + null, case.x[3:4] - 0.5 * null[:1]])
    solution = fp.solve(case.attention, x0, (0.0, 2.0), rtol=1e-6)
    x1 = solution.x[-1]
    np.testing.assert_allclose(x1[20:] - x1[[0, 0, 3]], x0[20:] - x0[[0, 0, 3]], atol=1e-9)


@pytest.mark.parametrize("masked", [False, True])
@pytest.mark.parametrize("kind", ["Softmax", "L2"])
def test_the_scaled_hull_shrinks(kind, masked):
    """V = cI, c > 0: the support function of e^{-ct} x(t) decreases in every direction."""
    c, x0 = 0.8, np.random.default_rng(5).normal(size=(30, 2))
    attention = getattr(fp, kind)([[0.5, 0.3], [-0.4, 1.0]], np.eye(2), c * np.eye(2))
    times = np.linspace(0, 1, 9)
    solution = fp.solve(
        fp.Masked(attention) if masked else attention, x0, (0.0, 1.0), t_eval=times, rtol=1e-8, atol=1e-9
    )
    angles = np.linspace(0, 2 * np.pi, 37)
    support = np.array(
        [
            (x * np.exp(-c * t) @ [np.cos(angles), np.sin(angles)]).max(axis=0)
            for t, x in zip(times, solution.x, strict=True)
        ]
    )
    # The solver's tolerance lets the support grow by that much.
    assert (np.diff(support, axis=0) < 1e-7).all()


def test_the_first_token_of_a_masked_sequence_sees_itself_only():
    """x_1' = V x_1, whatever follows."""
    V = np.array([[0.3, -1.0], [1.0, 0.1]])
    x0 = np.random.default_rng(0).normal(size=(8, 2))
    solution = fp.solve(fp.Masked(fp.Softmax(np.eye(2), np.eye(2), V)), x0, (0.0, 1.0), **TIGHT)
    values, vectors = np.linalg.eig(V)
    turn = np.real(vectors @ np.diag(np.exp(values)) @ np.linalg.inv(vectors))
    np.testing.assert_allclose(solution.x[-1][0], turn @ x0[0], atol=1e-10)


def test_masked_tokens_do_not_see_the_future():
    """Tokens after a place do not move those before it, to rounding: keys are centred by the mean of all tokens."""
    rng = np.random.default_rng(0)
    x0, other = rng.normal(size=(2, 60, 2))
    other[:33] = x0[:33]
    attention = fp.Masked(case_like("L2", 2))
    runs = [fp.solve(attention, x, (0.0, 1.0), method="rk4", step=0.1).x[-1][:33] for x in (x0, other)]
    np.testing.assert_allclose(*runs, rtol=0, atol=1e-12)


@each_variant
def test_permuted_tokens_have_permuted_velocities(kind):
    """To rounding: sums are taken in another order."""
    case = random_case(kind, n=300, d=2, k=2, weights=True)
    order = np.random.default_rng(0).permutation(300)
    got = case.with_(x=case.x[order], data={"weights": case.data["weights"][order]}).velocity()
    np.testing.assert_allclose(got, case.velocity()[order], rtol=0, atol=1e-13 * np.abs(got).max())


@each_variant
def test_weights_count_copies(kind):
    """A token of weight m/n is m tokens."""
    case = random_case(kind, n=20, d=2, k=2)
    copies = np.random.default_rng(0).integers(1, 5, 20)
    weighted = case.with_(data={"weights": copies / copies.sum(), "at": case.x})
    repeated = case.with_(x=np.repeat(case.x, copies, axis=0), data={"at": case.x})
    want = repeated.velocity()
    np.testing.assert_allclose(weighted.velocity(), want, rtol=0, atol=1e-13 * np.abs(want).max())


# ---- batches, dtypes, memory -----------------------------------------------------------------------------------------


@pytest.mark.parametrize("masked", [False, True])
@each_variant
def test_batches_are_separate_runs(kind, masked):
    """Fixed steps: to the rounding of sums in another order. More in test_ensemble."""
    x0 = np.random.default_rng(6).normal(size=(4, 25, 2)) / 2
    # Contracting, so that no variant blows up.
    attention = getattr(fp, kind)([[0.7, 0.2], [0.0, 0.5]], np.eye(2), [[-0.6, 0.3], [-0.3, -0.6]])
    attention = fp.Masked(attention) if masked else attention
    fixed = {"method": "rk4", "step": 0.1}
    together = fp.solve(attention, x0, (0.0, 0.3), **fixed).x[-1]
    for system, start in zip(together, x0, strict=True):
        alone = fp.solve(attention, start, (0.0, 0.3), **fixed).x[-1]
        np.testing.assert_allclose(system, alone, rtol=0, atol=1e-13 * np.abs(alone).max())
    if kind == "Softmax":
        adaptive = fp.solve(attention, x0, (0.0, 1.0), rtol=1e-8).x[-1]
        for system, start in zip(adaptive, x0, strict=True):
            np.testing.assert_allclose(system, fp.solve(attention, start, (0.0, 1.0), rtol=1e-8).x[-1], atol=1e-6)


@each_dtype
@each_variant
def test_dtype_in_is_dtype_out(kind, dtype):
    case = random_case(kind, d=2, k=2, dtype=dtype, weights=True)
    before = case.x.copy()
    case.x.flags.writeable = False
    solution = fp.solve(case.attention, case.x, (0.0, 0.3), method="rk4", step=0.1, weights=case.data["weights"])
    assert solution.x.dtype == case.velocity().dtype == np.dtype(dtype)
    np.testing.assert_array_equal(case.x, before)
    if dtype == "float32":
        reference = fp.solve(
            case.attention, case.x.astype(float), (0.0, 0.3), method="rk4", step=0.1, weights=case.data["weights"]
        )
        # Twelve evaluations, each right to 5e-6 of the largest velocity at worst.
        np.testing.assert_allclose(solution.x[-1], reference.x[-1], rtol=0, atol=2e-5 * np.abs(reference.x[-1]).max())


LAYOUTS = {
    "fortran": np.asfortranarray,
    "strided": lambda x: np.repeat(np.repeat(x, 2, axis=0), 3, axis=1)[::2, ::3],
    "reversed": lambda x: x[::-1].copy()[::-1],
    "big-endian": lambda x: x.astype(x.dtype.newbyteorder(">")),
    "list": lambda x: x.tolist(),
}


@pytest.mark.parametrize("layout", LAYOUTS)
def test_any_memory_layout(layout):
    """The same bits; nothing that came is written to, parameters included."""
    case = random_case("Softmax", d=3, k=2, m=9, weights=True, masked=True)
    change = LAYOUTS[layout]
    flat = (lambda a: a) if layout in ("strided", "reversed") else change
    given = {name: (change(a) if np.ndim(a) == 2 else flat(a)) for name, a in case.data.items()}
    parameters = [change(p) for p in (case.Q, case.K, case.V)]
    x = change(case.x)
    copies = [np.array(a) for a in (x, *given.values(), *parameters)]
    got = fp.Masked(fp.Softmax(*parameters, **case.options)).velocity(x, **given)
    np.testing.assert_array_equal(got, case.velocity())
    for now, before in zip((x, *given.values(), *parameters), copies, strict=True):
        np.testing.assert_array_equal(now, before)
    rest = {name: given[name] for name in ("weights", "positions")}
    attention = fp.Masked(fp.Softmax(*parameters, **case.options))
    runs = [fp.solve(attention, start, (0.0, 0.2), method="rk4", step=0.1, **rest).x for start in (x, case.x)]
    np.testing.assert_array_equal(*runs)


@each_dtype
def test_memory_maps_and_read_only_arrays(tmp_path, dtype):
    """Tokens, points and weights in a file opened for reading."""
    case = random_case("Softmax", d=3, k=2, m=9, dtype=dtype, weights=True, masked=True)
    mapped = {}
    for name, array in {"x": case.x, **case.data}.items():
        np.save(tmp_path / f"{name}.npy", array)
        mapped[name] = np.load(tmp_path / f"{name}.npy", mmap_mode="r")
    x = mapped.pop("x")
    np.testing.assert_array_equal(case.attention.velocity(x, **mapped), case.velocity())
    rest = {name: mapped[name] for name in ("weights", "positions")}
    solution = fp.solve(case.attention, x, (0.0, 0.2), method="rk4", step=0.1, **rest)
    assert solution.success


def test_parameters_are_copies():
    """Changing an array after the attention was made changes nothing."""
    Q = np.eye(2)
    attention, x = fp.Softmax(Q, np.eye(2), np.eye(2)), np.random.default_rng(0).normal(size=(9, 2))
    before = attention.velocity(x)
    Q *= 7
    np.testing.assert_array_equal(attention.velocity(x), before)


@pytest.mark.parametrize("masked", [False, True])
def test_a_step_allocates_nothing_large(masked):
    """n = 20000, d = 2: the tokens are 320 kB; NumPy's buffer for operations on mixed types is 64 kB, whatever n."""
    n, peaks = 20_000, []
    x0 = np.random.default_rng(0).normal(size=(n, 2))
    attention = fp.Softmax(np.eye(2), np.eye(2), np.eye(2))
    positions = np.random.default_rng(1).permutation(n).astype(float)
    backend, options = fp.Direct(), {}
    if masked:
        attention, options = fp.Masked(attention), {"positions": positions}

    def watch(t, x):
        if peaks:
            peaks[-1] = tracemalloc.get_traced_memory()[1] - peaks[-1]
        tracemalloc.reset_peak()
        peaks.append(tracemalloc.get_traced_memory()[0])

    attention.velocity(x0[:100], backend=fp.Direct(), **({"positions": positions[:100]} if masked else {}))
    tracemalloc.start()
    try:
        observer = fp.Observer(watch, steps=1)
        fp.solve(
            attention, x0, (0.0, 0.03), method="euler", step=0.01, backend=backend, observers=[observer], **options
        )
    finally:
        tracemalloc.stop()
    growth = peaks[1:-1]
    assert len(growth) >= 1
    assert max(growth) < x0.nbytes / 4


def test_the_caller_may_reuse_the_results():
    """A result is not a view of the backend's memory."""
    case, backend = random_case("Softmax"), fp.Direct()
    first = case.velocity(backend)
    kept = first.copy()
    case.with_(x=case.x * 2).velocity(backend)
    np.testing.assert_array_equal(first, kept)


def test_float32_precision_does_not_fade_with_n():
    """Sums of a million terms are as good as those of a thousand: 5e-7 against float64 on the same tokens."""
    rng = np.random.default_rng(0)
    x = (rng.normal(size=(300_000, 2)) + 1).astype(np.float32)
    at = x[:16]
    attention = fp.Softmax(np.eye(2), np.eye(2), np.eye(2))
    wide = attention.velocity(x.astype(float), at=at.astype(float))
    assert np.abs(attention.velocity(x, at=at) - wide).max() / np.abs(wide).max() < 5 * EPS["float32"]
