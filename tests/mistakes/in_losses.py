"""Mistakes with losses."""

import jax.numpy as jnp
import numpy as np

from sparsekd_jax import distill
from tests.mistakes.things import ROWS, numpy_loss, power

LOSSES = [
    (
        "labels of other rows in a loss",
        lambda: distill.losses.cross_entropy(ROWS, np.zeros(3, np.int32)),
        ValueError,
        r"labels has shape \(3,\) and logits \(4, 3\)",
        "one a row",
    ),
    (
        "alpha in percent",
        lambda: distill.distillation_loss(ROWS, ROWS, operator=power, temperature=2.0, alpha=10),
        ValueError,
        "alpha: is 10",
        r"in \[0, 1\]",
    ),
    (
        "one-hot in a loss",
        lambda: distill.cross_entropy(ROWS, ROWS),
        TypeError,
        "labels has dtype",
        r"labels\.argmax\(-1\)",
    ),
    (
        "an operator of numpy",
        numpy_loss,
        TypeError,
        "operator own cannot be traced",
        r"write it with jax\.numpy",
    ),
    (
        "a teacher of NaN in a loss",
        lambda: distill.distillation_loss(ROWS, ROWS.at[2, 0].set(jnp.nan), operator=power, temperature=2.0),
        ValueError,
        "teacher_logits, row 2: contains nan",
        "logits are finite",
    ),
    (
        "other logits",
        lambda: distill.distillation_loss(ROWS, ROWS[:1], operator=power, temperature=2.0),
        ValueError,
        r"\(4, 3\) and teacher_logits \(1, 3\)",
        "same rows and classes",
    ),
]
