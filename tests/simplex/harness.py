"""What the tests of `sparsekd_jax.simplex` share: compiled programs, rows, and 50-digit references."""

import functools
import math

import jax
import jax.numpy as jnp
import mpmath
import numpy as np

from sparsekd_jax import simplex

EPS = {"float64": 2.0**-52, "float32": 2.0**-23, "bfloat16": 2.0**-7}
TOLERANCE = {"float64": 3e-14, "float32": 3e-6, "bfloat16": 6e-2}
"""Absolute, for quantities of order 1 on K = 6, the sum of the cast row included."""
DTYPES = list(TOLERANCE)
ORDERS = [0.0, 0.25, 0.4999, 0.5, 0.5001, 0.999, 1 - 1e-9, 1 - 1e-13, 1.0, 1 + 1e-13, 1 + 1e-6, 1.4]
ORDERS += [1.4999, 1.5, 1.5001, 2.0, 3.0, 50.0, math.inf]
FINITE = len(ORDERS) - 1
WEIGHTS = [0.0, 0.125, 0.5, 0.75, 1.0]
ROWS, CLASSES = 128, 6


def mp(value):
    return mpmath.mpf(float(value))


# Compilation is most of the time: one program a dtype for all values, one for all gradients, both of a fixed
# shape, and LLVM told not to polish code that runs for microseconds.
def jit(function):
    return jax.jit(function, compiler_options={"xla_backend_optimization_level": 0})


jitted = functools.cache(jit)


def over(function, values, argument, count):
    axes = [None] * count
    axes[argument] = 0
    return lambda *a: jax.vmap(function, axes)(*a, values)


def functions(dtype):
    """Everything that turns rows into numbers; of p alone, and of p and q."""
    orders, weights = jnp.asarray(ORDERS, dtype), jnp.asarray(WEIGHTS, dtype)
    one = {
        "entropy": simplex.entropy,
        "entropy_deficit": simplex.entropy_deficit,
        "min_entropy": simplex.min_entropy,
        "renyi": over(simplex.renyi_entropy, orders, 1, 2),
        "tsallis": over(simplex.tsallis_entropy, orders[:FINITE], 1, 2),
    }
    two = {
        "kl": simplex.kl_divergence,
        "reverse_kl": simplex.reverse_kl_divergence,
        "js": over(simplex.jensen_shannon_divergence, weights, 2, 3),
        "tv": simplex.total_variation,
        "hellinger": simplex.hellinger_distance,
        "fisher_rao": simplex.fisher_rao_distance,
    }
    return one, two


ONE, TWO = (list(group) for group in functions("float32"))


@jit
def _values(p, q):
    one, two = functions(p.dtype)
    return {
        **{name: f(p) for name, f in one.items()},
        **{name: f(p, q) for name, f in two.items()},
        "margin": simplex.majorization_margin(p, q),
    }


@jit
def _slopes(p, q):
    """``[..., row, K]`` gradients, by p and for divergences by q."""
    one, two = functions(p.dtype)

    def rows_first(jacobian):
        return jnp.moveaxis(jacobian, 0, -2)

    return {name: rows_first(jax.vmap(jax.jacrev(f))(p)) for name, f in one.items()} | {
        name: jax.tree.map(rows_first, jax.vmap(jax.jacrev(f, (0, 1)))(p, q))
        for name, f in two.items()
        if name != "reverse_kl"
    }


def padded(x, dtype):
    x = np.reshape(x, (-1, CLASSES))
    rows = np.full((ROWS, CLASSES), 1 / CLASSES, x.dtype if x.dtype.kind == "f" else float)
    rows[: len(x)] = x
    return jnp.asarray(rows, dtype)


def evaluate(program, p, q=None, dtype=None):
    """A program on up to 128 rows of 6 classes; float64 arrays of its results, ``[..., row]``."""
    q = p if q is None else q
    dtype = dtype or np.asarray(p).dtype.name
    count, axis = np.asarray(p).size // CLASSES, -1 if program is _values else -2
    out = program(padded(p, dtype), padded(q, dtype))
    assert all(leaf.dtype == dtype for leaf in jax.tree.leaves(out))
    return jax.tree.map(lambda leaf: np.asarray(leaf, float).take(range(count), axis), out)


def values(p, q=None, dtype=None):
    return evaluate(_values, p, q, dtype)


def slopes(p, q=None, dtype=None):
    return evaluate(_slopes, p, q, dtype)


def rows() -> np.ndarray:
    """Interior rows, faces, a vertex, ties, tiny entries, next to a vertex, next to the uniform. [10, 6]"""
    rng = np.random.default_rng(0)
    weights = np.concatenate(
        [
            rng.dirichlet(np.ones(6), size=4),
            [
                [0.5, 0.0, 0.25, 0.0, 0.25, 0.0],
                [0.0, 0.0, 0.0, 1.0, 0.0, 0.0],
                [1.0, 1.0, 1.0, 1.0, 1.0, 1.0],
                [0.6, 1e-30, 0.4, 1e-12, 1e-3, 0.0],
                [1e-9, 1e-9, 1 - 4e-9, 1e-9, 1e-9, 0.0],
                [1 + 1e-7, 1 - 1e-7, 1, 1, 1 + 3e-7, 1 - 3e-7],
            ],
        ]
    )
    return weights / weights.sum(-1, keepdims=True)


P = rows()
Q = np.roll(P, 3, axis=0)[:, [1, 2, 3, 4, 5, 0]]
PAIRS = [(p, q) for p in P for q in Q]
LEFT, RIGHT = (np.array(x) for x in zip(*PAIRS, strict=True))


def cast(x, dtype):
    return jnp.asarray(np.asarray(x), dtype)


def seen(x, dtype):
    """The numbers as the dtype has them, in float64."""
    return np.asarray(cast(x, dtype), float)


def exact(x):
    """The numbers of an array, exactly, as lists of mpf normalised to sum 1."""
    out = []
    for row in np.asarray(x).astype(np.float64):
        numbers = [mp(v) for v in row]
        total = mpmath.fsum(numbers)
        out.append([v / total for v in numbers])
    return out


def mp_shannon(p):
    return -mpmath.fsum(v * mpmath.log(v) for v in p if v > 0)


def mp_tsallis(p, order):
    order = mp(order)
    if order == 1:
        return mp_shannon(p)
    return (1 - mpmath.fsum(v**order for v in p if v > 0)) / (order - 1)


def mp_renyi(p, order):
    if math.isinf(order):
        return -mpmath.log(max(p))
    order = mp(order)
    if order == 1:
        return mp_shannon(p)
    return mpmath.log(mpmath.fsum(v**order for v in p if v > 0)) / (1 - order)


def mp_kl(p, q):
    """The Bregman sum: it equals Σ p log(p/q) for equal sums and is what is accurate for p ≈ q."""
    if any(a > 0 and b == 0 for a, b in zip(p, q, strict=True)):
        return mpmath.inf
    return mpmath.fsum((a * mpmath.log(a / b) if a > 0 else 0) - a + b for a, b in zip(p, q, strict=True))


def mp_js(p, q, weight):
    w = mp(weight)
    m = [w * a + (1 - w) * b for a, b in zip(p, q, strict=True)]
    return (w * mp_kl(p, m) if w > 0 else 0) + ((1 - w) * mp_kl(q, m) if w < 1 else 0)


def mp_hellinger(p, q):
    gaps = (mpmath.sqrt(a) - mpmath.sqrt(b) for a, b in zip(p, q, strict=True))
    return mpmath.sqrt(mpmath.fsum(g**2 for g in gaps) / 2)


def mp_fisher_rao(p, q):
    return 2 * mpmath.acos(min(mpmath.fsum(mpmath.sqrt(a * b) for a, b in zip(p, q, strict=True)), 1))


def mp_bregman(t):
    t = mp(t)
    if abs(t) < 1e-10:
        return mpmath.fsum((-1) ** k * t**k / (k * (k - 1)) for k in range(2, 8))
    return (1 + t) * mpmath.log(1 + t) - t if t > -1 else mpmath.mpf(1)


def floats(values):
    return np.array([float(v) for v in values])


def relative_error(value, reference):
    return max(float(abs(mp(v) - r) / r) for v, r in zip(np.ravel(value), reference, strict=True))
