"""Variables of a student that no optimizer moves: what a call may change of them."""

import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import distill
from tests.distill.small import BLOBS, mlp

OPTIMIZER = optax.adam(1e-2)
SETTINGS = {"optimizer": OPTIMIZER, "batch_size": 16, "record_every": 5}
PLAN = distill.stages(sparsity=0.6, num_stages=2, total_steps=20, temperature=2.0, alpha=0.3)


class Restless(nnx.Module):
    """Holds another variable, or another dtype, after its first call."""

    def __init__(self, inner, kept=None):
        self.inner, self.kept = inner, nnx.data(kept)

    def __call__(self, x):
        mean = x.mean(axis=0)
        if self.kept is None:
            self.kept = nnx.Cache(mean)
        else:
            self.kept.set_value(mean)
        return self.inner(x)


@pytest.mark.parametrize(
    ("kept", "change"),
    [
        (lambda: None, r"kept is not there before and float32\[4\] after"),
        (
            lambda: nnx.Cache(jnp.zeros(4, jnp.bfloat16)),
            r"kept is bfloat16\[4\] before and float32\[4\] after",
        ),
    ],
)
def test_a_student_that_a_call_changes_is_refused(kept, change):
    with pytest.raises(ValueError, match=f"student changes what it holds when it is called: {change}"):
        distill.run(Restless(mlp(1), kept()), mlp(0), BLOBS, PLAN, seed=0, **SETTINGS)
    members = [Restless(mlp(1), kept())]
    with pytest.raises(ValueError, match=r"students\[0\] changes what it holds"):
        distill.run_many(members, [mlp(0)], BLOBS, PLAN, optimizer=OPTIMIZER, seeds=[0], batch_size=16)


class Remembering(nnx.Module):
    """Keeps the logits of the batch that it saw last."""

    def __init__(self, inner):
        self.inner, self.last = inner, nnx.Cache(jnp.zeros((16, 3)))

    def __call__(self, x):
        logits = self.inner(x)
        self.last.set_value(logits)
        return logits


def test_a_student_may_hold_what_has_the_shape_of_a_batch():
    """It is called by batches, not by all of the data at once, as whether it changes was judged."""
    result = distill.run(Remembering(mlp(1)), mlp(0), BLOBS, PLAN, seed=0, **SETTINGS)
    assert np.abs(np.asarray(result.student.last[...])).max() > 0
    members = [Remembering(mlp(1))]
    distill.run_many(members, [mlp(0)], BLOBS, PLAN, optimizer=OPTIMIZER, seeds=[0], batch_size=16)
    with pytest.raises(ValueError, match=r"last is float32\[16, 3\] before and float32\[8, 3\] after"):
        distill.run(Remembering(mlp(1)), mlp(0), BLOBS, PLAN, seed=0, **{**SETTINGS, "batch_size": 8})
