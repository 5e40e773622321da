"""The loss that the loop trains on: every divergence, parts of weight 0, bfloat16 logits."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import distill
from tests.distill.small import BLOBS, Narrow, flat, mlp


@pytest.mark.parametrize(
    "divergence", ["reverse-kl", "jensen-shannon", "total-variation", distill.JensenShannon(0.2)]
)
def test_every_divergence_is_the_loss_it_says(divergence):
    """One step of SGD is −η times the gradient of `distillation_loss`, which has references of its own."""
    plan = distill.stages(
        sparsity=0.0, num_stages=1, total_steps=1, temperature=2.0, alpha=0.3, divergence=divergence
    )
    said = divergence if isinstance(divergence, str) else {"JensenShannon": {"beta": 0.2}}
    assert plan.describe()["divergence"] == said
    settings = {"optimizer": optax.sgd(0.5), "batch_size": 60, "record_every": 5}
    result = distill.run(mlp(1), mlp(0), BLOBS, plan, seed=0, **settings)
    graphdef, params = nnx.split(mlp(1), nnx.Param)

    def loss(params):
        logits = nnx.merge(graphdef, params)(BLOBS.train_inputs)
        teacher = mlp(0)(jnp.asarray(BLOBS.train_inputs))
        more = {"operator": plan.operator, "temperature": 2.0, "alpha": 0.3, "divergence": divergence}
        return distill.distillation_loss(logits, teacher, jnp.asarray(BLOBS.train_labels), **more).mean()

    value, gradients = jax.value_and_grad(loss)(params)
    assert result.history[-1]["loss"] == pytest.approx(float(value), rel=1e-5)
    wanted = flat(nnx.to_pure_dict(params)) - 0.5 * flat(nnx.to_pure_dict(gradients))
    np.testing.assert_allclose(flat(result.path[-1]), wanted, rtol=0, atol=1e-6)


def test_a_part_of_weight_zero_counts_zero_even_where_infinite():
    """Reverse KL is infinite where a teacher has a zero; a stage of labels alone must not see it."""
    teacher = np.zeros((len(BLOBS.train_labels), 3), np.float32)
    teacher[:, 2] = -np.inf
    plan = distill.stages(
        sparsity=0.5, num_stages=1, total_steps=6, alpha=1.0, divergence="reverse-kl", soften_student=False
    )
    settings = {"optimizer": optax.adam(1e-2), "seed": 0, "batch_size": 16}
    labels_alone = distill.run(mlp(1), teacher, BLOBS, plan, **settings)
    assert np.isfinite(labels_alone.history[-1]["nll"])
    with pytest.raises(distill.DivergedError):  # the twin: with any weight at all it counts
        distill.run(
            mlp(1),
            teacher,
            BLOBS,
            dataclasses.replace(plan, stages=(dataclasses.replace(plan.stages[0], alpha=0.9),)),
            **settings,
        )


class Widened(Narrow):
    """The same numbers, in float32."""

    def __call__(self, inputs):
        return super().__call__(inputs).astype(jnp.float32)


@pytest.mark.parametrize("soften_student", [True, False])
def test_bfloat16_logits_are_trained_on_in_float32(soften_student):
    plan = distill.stages(
        sparsity=0.5, num_stages=1, total_steps=6, alpha=0.1, temperature=3.0, soften_student=soften_student
    )
    settings = {"optimizer": optax.adam(1e-2), "batch_size": 16}
    narrow, wide = (
        [
            distill.run(kind(mlp(1)), kind(mlp(2)), BLOBS, plan, seed=0, **settings),
            *distill.run_many([kind(mlp(1))], [kind(mlp(2))], BLOBS, plan, seeds=[0], **settings),
        ]
        for kind in (Narrow, Widened)
    )
    for one, other in zip(narrow, wide, strict=True):
        assert one.history[-1].keys() == other.history[-1].keys()
        for name, value in one.history[-1].items():
            assert value == other.history[-1][name] or value == pytest.approx(
                other.history[-1][name], rel=1e-6
            )
