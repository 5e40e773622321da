"""What the fused loss refuses, with its remedy."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import targets
from sparsekd_jax.distill import linear_distillation_loss
from tests.distill.fused_problem import (
    MIXTURE,
    POWER,
    N,
    V,
    problem,
)

BAD = [
    ({"temperature": 0.0}, ValueError, "temperature"),
    ({"temperature": np.ones(3)}, ValueError, r"temperature has shape \(3,\)"),
    ({"alpha": 0.5, "labels": None}, ValueError, "labels are needed"),
    ({"alpha": 1.5}, ValueError, "alpha: is 1.5"),
    ({"labels": np.full(N, V)}, ValueError, r"labels, row 0: is 29, no class in \[0, 29\)"),
    ({"labels": np.zeros(N)}, ValueError, "whole numbers"),
    ({"weights": -np.ones(N)}, ValueError, "weights, row 0: is -1.0"),
    ({"weights": np.ones(3)}, ValueError, "weights has shape"),
    ({"chunk_size": 0}, ValueError, "chunk_size"),
    ({"divergence": "kl"}, ValueError, "unknown divergence"),
    ({"tail": "uniform"}, ValueError, "leave tail out"),
    ({"operator": lambda p, t: p}, ValueError, "gradient_scale is not known"),
]


@pytest.mark.parametrize(("changed", "error", "words"), BAD)
def test_bad_arguments_are_refused_with_a_remedy(changed, error, words):
    student, teacher, labels, _ = problem(14, dtype=np.float32)
    arguments = {"labels": labels, "operator": POWER, "temperature": 2.0, "alpha": 0.3, **changed}
    with pytest.raises(error, match=words):
        linear_distillation_loss(student, teacher, **arguments)


@pytest.mark.parametrize("alpha", [0, np.float32(0), np.zeros(N), jnp.zeros(())])
def test_no_labels_are_needed_at_weight_0(alpha):
    student, teacher, _, _ = problem(14, dtype=np.float32)
    loss = functools.partial(linear_distillation_loss, student, teacher, operator=POWER, temperature=2.0)
    assert float(loss(alpha=alpha).mean) == float(loss().mean)


def test_bad_targets_are_refused_with_a_remedy():
    student, teacher, _, weights = problem(15, dtype=np.float32)
    options = {"operator": POWER, "temperature": 2.0}
    loss = functools.partial(linear_distillation_loss, **options)
    logits = teacher.hidden @ teacher.matrix
    seen = targets.top_k(jax.nn.log_softmax(logits), 3)
    drawn = targets.Samples.from_counts(np.ones((N, V), int))
    for target, error, words in [
        (logits, TypeError, "Dense.from_logits"),
        (targets.Dense(logits), ValueError, "target, row 0: sums to .* Dense.from_logits"),
        (targets.Dense(logits[:3]), ValueError, r"target has rows \(3,\)"),
        (targets.Dense(logits[:, 1:]), ValueError, "over 28 tokens"),
        (dataclasses.replace(teacher, matrix=teacher.matrix.T), ValueError, "transpose"),
        (seen, ValueError, "say what its unseen tokens are"),
    ]:
        with pytest.raises(error, match=words):
            loss(student, target)
    with pytest.raises(TypeError, match="biased"):
        loss(student, drawn, tail="uniform")
    with pytest.raises(ValueError, match="forward-kl"):
        loss(student, seen, tail="uniform", divergence="reverse-kl")
    with pytest.raises(ValueError, match="soften_student=False"):
        linear_distillation_loss(student, seen, operator=MIXTURE, temperature=2.0, tail="uniform")
    with pytest.raises(ValueError, match="twice"):
        loss(student, dataclasses.replace(seen, ids=jnp.zeros_like(seen.ids)), tail="uniform")
    with pytest.raises(TypeError, match="share one floating dtype"):
        loss(dataclasses.replace(student, matrix=student.matrix.astype(jnp.bfloat16)), teacher)
    with pytest.raises(ValueError, match="without rows"):
        loss(dataclasses.replace(student, hidden=student.hidden[:0]), teacher)
    nothing = loss(student, teacher, weights=jnp.zeros_like(weights))
    assert float(nothing.numerator) == float(nothing.denominator) == 0
