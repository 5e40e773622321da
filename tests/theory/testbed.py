"""Ensembles whose bias and variance are known: kernel averages of noisy targets, for either loss.

Training inputs are fixed, their targets are drawn afresh for each member, test inputs are uniform on [0, 1]:
the population values are integrals of the exact ones over the line. For Brier a target is one label a row,
and the terms are those of a linear student. For KL a student averages the log-odds of two classes, seen with
Gaussian noise: q̄ is then the distribution of the mean log-odds, and E KL(q̄‖q) = E softplus − softplus of
the mean is a Gauss–Hermite sum.
"""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy import special

from sparsekd_jax.theory import _terms, intervals, ridge
from sparsekd_jax.theory.bias_variance import Loss
from sparsekd_jax.theory.variance import multinomial_covariance

TRAINING_ROWS = 30
STATISTICS = ("delta_variance", "delta_bias_squared", "advantage")
SINGLE = ("variance", "bias_squared", "risk")
NOISE = 1.5
"""Standard deviation of the log-odds of one training row."""


def training_inputs():
    return jnp.linspace(0, 1, TRAINING_ROWS)[:, None]


def log_odds_at(x):
    return 2 * jnp.sin(4 * x[:, :1])


def two_classes(log_odds):
    """``[..., 1]`` to ``[..., 2]``."""
    return jax.nn.softmax(jnp.concatenate([log_odds, jnp.zeros_like(log_odds)], axis=-1), axis=-1)


@dataclasses.dataclass(frozen=True)
class Bed:
    """A pair of students by their bandwidths, the sparse one smoother, under one loss."""

    loss: Loss = "brier"
    dense: float = 0.05
    sparse: float = 0.15

    def students(self, x):
        return tuple(ridge.kernel_average(training_inputs(), x, width) for width in (self.dense, self.sparse))

    def truth_at(self, x):
        """p* at inputs ``[n, 1]``: smooth, and far from uniform in places; three classes, or two for KL."""
        if self.loss == "kl":
            return two_classes(log_odds_at(x))
        x = x[:, 0]
        return jax.nn.softmax(
            jnp.stack([2 * jnp.sin(3 * x), 2 * jnp.cos(4 * x), jnp.zeros_like(x)], axis=-1), axis=-1
        )

    def draw(self, key, m, n):
        """Test inputs, labels of them, and the predictions of m pairs: x, labels, dense, sparse."""
        key_x, key_targets, key_labels = jax.random.split(key, 3)
        x = jax.random.uniform(key_x, (n, 1))
        labels = jax.random.categorical(key_labels, jnp.log(self.truth_at(x)), axis=-1)
        if self.loss == "kl":
            noise = NOISE * jax.random.normal(key_targets, (m, TRAINING_ROWS, 1))
            targets = log_odds_at(training_inputs())[None] + noise
            return x, labels, *(two_classes(s.predict(targets)) for s in self.students(x))
        targets = ridge.categorical_targets(key_targets, self.truth_at(training_inputs()), m)
        return x, labels, *(s.predict(targets) for s in self.students(x))

    def exact(self, student, x):
        """Squared bias and variance of one student at inputs ``[n, 1]``: [n] each."""
        if self.loss == "brier":
            p = self.truth_at(training_inputs())
            terms = student.exact(p, multinomial_covariance(p, 1), self.truth_at(x))
            return terms.bias_squared, terms.variance
        mean = student.predict(log_odds_at(training_inputs()))
        deviation = NOISE * jnp.linalg.norm(student.smoother, axis=1, keepdims=True)
        nodes, weights = np.polynomial.hermite_e.hermegauss(80)
        softplus = jax.nn.softplus(mean + deviation * nodes[None]) @ (weights / weights.sum())
        bias = special.rel_entr(*map(np.asarray, (self.truth_at(x), two_classes(mean)))).sum(-1)
        return bias, softplus - jax.nn.softplus(mean[:, 0])


@functools.cache
def population(bed):
    """The true values, by quadrature over the line; single ones of the dense student."""
    x = jnp.linspace(0, 1, 4001)[:, None]
    (bias_d, variance_d), (bias_s, variance_s) = (bed.exact(s, x) for s in bed.students(x))

    def over_line(values):
        return float(jnp.trapezoid(values, x[:, 0]))

    gain, cost = over_line(variance_d - variance_s), over_line(bias_s - bias_d)
    return {
        "delta_variance": gain,
        "delta_bias_squared": cost,
        "advantage": gain - cost,
        "variance": over_line(variance_d),
        "bias_squared": over_line(bias_d),
        "risk": over_line(variance_d + bias_d),
    }


def members_only(full, without):
    """The interval that takes the test set for the population."""
    return intervals.one_way(jnp.mean(full), jnp.mean(without, axis=1))


def wrong_count(full, without):
    """Broken: divides as if every cell of members × examples were an observation of its own."""
    m, n = without.shape
    pseudo = m * full[None] - (m - 1) * without
    value = jnp.mean(full)
    return intervals.Spread(value, jnp.var(pseudo, ddof=1) / (m * n), jnp.full_like(value, m * n - 1))


@functools.partial(jax.jit, static_argnums=(1, 2, 3, 4))
def _repetitions(key, bed, m, n, count):
    def one(k):
        x, labels, dense, sparse = bed.draw(k, m, n)
        truth = bed.truth_at(x)
        own = _terms.terms(dense, truth, bed.loss)
        named = {
            ("truth", name): term
            for name, term in zip(SINGLE, (own.variance, own.bias, own.risk), strict=True)
        }
        one_hot = jax.nn.one_hot(labels, truth.shape[-1], dtype=x.dtype)
        for against, reference in (("truth", truth), ("labels", one_hot)):
            delta = _terms.differences(sparse, dense, reference, bed.loss)
            named |= {(against, name): term for name, term in zip(STATISTICS, delta[:3], strict=True)}
        named |= {("truth", "variance_sparse"): delta.variance_sparse}
        return {
            (rule.__name__, *name): rule(*term)
            for name, term in named.items()
            for rule in (intervals.two_way, members_only, wrong_count)
        }

    return jax.lax.map(one, jax.random.split(key, count), batch_size=50)


@functools.cache
def repetitions(bed, m, n, count, seed=1):
    """From ``count`` fresh data sets: the `Spread` of each (rule, "truth" or "labels", statistic)."""
    return jax.device_get(_repetitions(jax.random.key(seed), bed, m, n, count))


def coverage(bed, spreads, rule, against, names=STATISTICS, level=0.95):
    """For each name the share of intervals, taken as the library takes them, with the truth; median width."""

    def spread(name, i, against=against):
        return intervals.Spread(*(field[i] for field in spreads[rule, against, name]))

    def estimate(name, i):
        if name == "delta_variance":
            single = (spread(term, i, "truth") for term in ("variance", "variance_sparse"))
            return intervals.of_difference(*single, spread(name, i), level)
        return intervals.with_quantile(spread(name, i), level, positive=name in ("variance", "risk"))

    result = {}
    for name in names:
        found = [estimate(name, i) for i in range(len(spreads[rule, against, name].value))]
        true = population(bed)[name]
        hit = float(np.mean([e.low <= true <= e.high for e in found]))
        result[name] = hit, float(np.median([e.high - e.low for e in found]))
    return result


BEDS = {
    "brier": Bed(),
    "brier-wide": Bed(dense=0.15, sparse=0.5),  # students that move in few directions
    "kl": Bed("kl"),
    "kl-wide": Bed("kl", dense=0.15, sparse=0.5),
}


def coverage_page():
    """Coverage and median width of every interval, as a markdown table."""
    lines = ["| loss, students | statistic | m = 5 | m = 10 | m = 20 |", "|-|-|-|-|-|"]
    words = {"narrow": "that move in many directions", "wide": "that move in few"}
    for name, bed in BEDS.items():
        students = (
            f"{'Brier' if bed.loss == 'brier' else 'KL'}, {words['wide' if 'wide' in name else 'narrow']}"
        )
        found = {}
        for m in (5, 10, 20):
            spreads = repetitions(bed, m, 100, 600)
            for against, names in (("truth", SINGLE + STATISTICS), ("labels", STATISTICS)):
                for statistic, cell in coverage(bed, spreads, "two_way", against, names).items():
                    found.setdefault(f"{statistic.replace('_', ' ')}, {against}", []).append(cell)
        for statistic, cells in found.items():
            shown = " | ".join(f"{covered:.3f}, {width:.3f}" for covered, width in cells)
            lines.append(f"| {students} | {statistic} | {shown} |")
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    with jax.enable_x64(True):
        print(coverage_page(), end="")
