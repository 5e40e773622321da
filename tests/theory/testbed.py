"""Ensembles whose bias and variance are known in closed form: kernel averages of categorical labels.

Training inputs are fixed, one label a row is drawn afresh for each member, test inputs are uniform on [0, 1]:
the population values are integrals of the closed forms over the line.
"""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from sparsekd_jax.theory import _terms, intervals, ridge
from sparsekd_jax.theory.variance import multinomial_covariance

DENSE, SPARSE = 0.05, 0.15
"""Bandwidths: the sparse student is the smoother one."""

TRAINING_ROWS = 30
STATISTICS = ("delta_variance", "delta_bias_squared", "advantage")
SINGLE = ("variance", "bias_squared", "risk")


def truth_at(x):
    """p* at inputs ``[n, 1]``: three classes, smooth and far from uniform in places."""
    x = x[:, 0]
    return jax.nn.softmax(
        jnp.stack([2 * jnp.sin(3 * x), 2 * jnp.cos(4 * x), jnp.zeros_like(x)], axis=-1), axis=-1
    )


def training_inputs():
    return jnp.linspace(0, 1, TRAINING_ROWS)[:, None]


def students(x):
    """Dense and sparse."""
    return tuple(ridge.kernel_average(training_inputs(), x, width) for width in (DENSE, SPARSE))


@functools.cache
def population():
    """The true values, by quadrature over the line; single ones of the dense student."""
    x = jnp.linspace(0, 1, 4001)[:, None]
    p = truth_at(training_inputs())
    dense, sparse = (s.exact(p, multinomial_covariance(p, 1), truth_at(x)) for s in students(x))

    def over_line(values):
        return float(jnp.trapezoid(values, x[:, 0]))

    gain = over_line(dense.variance - sparse.variance)
    cost = over_line(sparse.bias_squared - dense.bias_squared)
    return {
        "delta_variance": gain,
        "delta_bias_squared": cost,
        "advantage": gain - cost,
        "variance": over_line(dense.variance),
        "bias_squared": over_line(dense.bias_squared),
        "risk": over_line(dense.risk),
    }


def draw(key, m, n):
    """Test inputs, labels of them, and the predictions of m pairs: x, labels, dense, sparse."""
    key_x, key_targets, key_labels = jax.random.split(key, 3)
    x = jax.random.uniform(key_x, (n, 1))
    labels = jax.random.categorical(key_labels, jnp.log(truth_at(x)), axis=-1)
    targets = ridge.categorical_targets(key_targets, truth_at(training_inputs()), m)
    dense, sparse = students(x)
    return x, labels, dense.predict(targets), sparse.predict(targets)


def members_only(full, without):
    """The interval that takes the test set for the population."""
    return intervals.one_way(jnp.mean(full), jnp.mean(without, axis=1))


def wrong_count(full, without):
    """Broken: divides as if every cell of members × examples were an observation of its own."""
    m, n = without.shape
    pseudo = m * full[None] - (m - 1) * without
    value = jnp.mean(full)
    return intervals.Spread(value, jnp.var(pseudo, ddof=1) / (m * n), jnp.full_like(value, m * n - 1))


@functools.partial(jax.jit, static_argnums=(1, 2, 3))
def _repetitions(key, m, n, count):
    def one(k):
        x, labels, dense, sparse = draw(k, m, n)
        truth = truth_at(x)
        own = _terms.terms(dense, truth, "brier")
        named = {
            ("truth", name): term
            for name, term in zip(SINGLE, (own.variance, own.bias, own.risk), strict=True)
        }
        one_hot = jax.nn.one_hot(labels, 3, dtype=x.dtype)
        for against, reference in (("truth", truth), ("labels", one_hot)):
            delta = _terms.differences(sparse, dense, reference, "brier")
            named |= {(against, name): term for name, term in zip(STATISTICS, delta, strict=True)}
        return {
            (rule.__name__, *name): rule(*term)
            for name, term in named.items()
            for rule in (intervals.two_way, members_only, wrong_count)
        }

    return jax.lax.map(one, jax.random.split(key, count), batch_size=50)


@functools.cache
def repetitions(m, n, count, seed=1):
    """From ``count`` fresh data sets: the `Spread` of each (rule, "truth" or "labels", statistic)."""
    return jax.device_get(_repetitions(jax.random.key(seed), m, n, count))


def coverage(spreads, rule, against, names=STATISTICS, level=0.95):
    """For each name the share of intervals that contain the truth, and the median width."""
    result = {}
    for name in names:
        value, variance, dof = spreads[rule, against, name]
        half = special.stdtrit(dof, (1 + level) / 2) * np.sqrt(variance)
        true = population()[name]
        if name in ("variance", "risk"):  # on the logarithm, as `decompose` takes them
            low, high = value * np.exp(-half / value), value * np.exp(half / value)
        else:
            low, high = value - half, value + half
        hit = float(np.mean((low <= true) & (true <= high)))
        result[name] = hit, float(np.median(high - low))
    return result
