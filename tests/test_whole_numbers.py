"""Counts that are no whole numbers: refused by name, before they are cut down or crash somewhere inside."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import axioms, distill, operators, targets
from sparsekd_jax.targets import cache, readers
from sparsekd_jax.theory import convergence, equivalence, homotopy, intervals, privacy, text_only, variance

POWER, MIXTURE = operators.get("power"), operators.get("mixture")
P, KEY = np.array([0.5, 0.3, 0.2]), jax.random.key(0)
ROWS = distill.LinearLogits(jnp.ones((4, 2)), jnp.eye(2, 3))
BOUND = convergence.TrackingBound(mu=0.1, L=1.0, P=1.0, G=1.0, m=10, eta=0.1)


def amplify(**given):
    options = {"num_draws": 10, "method": "monte-carlo", "key": KEY, **given}
    return variance.variance_amplification(POWER, P, 2.0, **options)


def softened():
    return MIXTURE(P, 2.0)


CALLS = [
    ("num_draws", lambda: variance.variance_amplification(POWER, P, 2.0, 2.5)),
    ("num_draws", lambda: variance.variance_amplification(POWER, P, 2.0, math.inf)),
    ("num_draws", lambda: variance.variance_amplification(POWER, P, 2.0, math.nan)),
    ("num_draws", lambda: amplify(num_draws=2.5)),
    ("num_draws", lambda: amplify(num_draws=True)),
    ("total_steps", lambda: distill.stages(sparsity=0.5, total_steps=True)),
    ("draws", lambda: amplify(draws=20.5)),
    ("num_draws", lambda: variance.amplification_map(POWER, 2.0, 2.5, resolution=10)),
    ("resolution", lambda: variance.amplification_map(POWER, 2.0, resolution=10.5)),
    ("num_classes", lambda: variance.lipschitz(MIXTURE, 2.0, num_classes=2.5)),
    ("num_draws", lambda: text_only.bias(POWER, P, 2.0, 2.5)),
    ("draws", lambda: text_only.bias(POWER, P, 2.0, 2, key=KEY, draws=20.5)),
    ("num_draws", lambda: text_only.expected_error(POWER, P, 2.0, 2.5)),
    ("num_draws", lambda: text_only.least_bias(POWER, 2.0, 2.5)),
    ("points", lambda: text_only.least_bias(POWER, 2.0, 2, points=10.5)),
    ("num_classes", lambda: text_only.samples_needed(MIXTURE, 2.0, 0.1, num_classes=2.5)),
    ("num_labels", lambda: privacy.compose(1.0, 2.5, 1e-6)),
    ("num_classes", lambda: privacy.audit([0, 1], [0, 1], 2.5)),
    ("points", lambda: homotopy.barrier(jnp.sum, P, P, points=4.5)),
    ("num_steps", lambda: homotopy.modulus_of_continuity(lambda s: softened()[None], num_steps=3.5)),
    ("resamples", lambda: intervals.percentile_bootstrap(jnp.mean, np.ones(60), key=KEY, resamples=9.5)),
    ("num_classes", lambda: equivalence.equivalent_teacher(POWER, MIXTURE, np.ones((4, 1)), 2.5, 2.0)),
    ("n", lambda: BOUND.error_at_total(2.5, 10)),
    ("num_classes", lambda: axioms.check(POWER, laws=("A4",), num_classes=(2.5,))),
    ("num_classes", lambda: axioms.sweep(2.5, operators.TemperatureRange(1.0), 10)),
    ("size", lambda: axioms.sweep(3, operators.TemperatureRange(1.0), 10.5)),
    ("k", lambda: readers.read_targets("a.jsonl", k=2.5, vocabulary=10)),
    ("batch_size", lambda: readers.read_targets("a.jsonl", k=2, vocabulary=10, batch_size=2.5)),
    (
        "chunk_size",
        lambda: distill.linear_distillation_loss(ROWS, ROWS, operator=POWER, temperature=2.0, chunk_size=2.5),
    ),
]


@pytest.mark.parametrize(("argument", "call"), CALLS)
def test_what_is_no_whole_number_is_refused_by_name(argument, call):
    with pytest.raises(TypeError, match=rf"^{argument} must be a whole number \(an int\), got"):
        call()


def test_numbers_of_a_cache_and_of_a_loss(tmp_path):
    with pytest.raises(TypeError, match="shard_rows must be a whole number"):
        cache.Writer(tmp_path, cache.Provenance(teacher="a", tokenizer=None, data=None), shard_rows=2.5)
    soft = targets.soften(MIXTURE, targets.top_k(jnp.log(jnp.asarray(P, jnp.float32)), 1), 2.0)
    with pytest.raises(TypeError, match="num_sampled must be a whole number"):
        distill.target_divergence(jnp.zeros(3), soft, "sampled", key=KEY, num_sampled=2.5)


def test_numpy_integers_are_whole():
    assert len(axioms.sweep(np.int64(3), operators.TemperatureRange(1.0), np.int32(10))) == 10
    assert variance.variance_amplification(POWER, P, 2.0, np.int64(20)).num_draws == 20
