"""What the answers on digits share: operators, teachers, features of a linear student, rounded numbers."""

from collections.abc import Sequence
from typing import Any

import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from jaxtyping import Float

from sparsekd_jax import data, distill, operators
from sparsekd_jax._page import OKABE_ITO
from sparsekd_jax.studies.workloads import WORKLOADS

OPERATORS: dict[str, operators.SofteningOperator] = {
    "power": operators.PowerTransform(),
    "mixture": operators.ConvexMixture(),
    "tsallis(1.5)": operators.TsallisSoftening(alpha=1.5),
    "entropy-projection": operators.EntropyProjection(),
    "euclidean-entropy-projection": operators.EuclideanEntropyProjection(),
}
"""The five families, in the order of every table and figure."""
LOOKS = dict(
    zip(
        OPERATORS,
        (
            (OKABE_ITO["blue"], "o"),
            (OKABE_ITO["vermillion"], "s"),
            (OKABE_ITO["green"], "^"),
            (OKABE_ITO["purple"], "D"),
            (OKABE_ITO["orange"], "v"),
        ),
        strict=True,
    )
)
"""A colour and a marker for each: never colour alone."""


def network(hidden: Sequence[int], seed: int) -> nnx.Module:
    """The workload's network with hidden layers of these widths."""
    return WORKLOADS["digits"].build({"hidden": hidden}, seed)


def digits_teachers(
    seeds: Sequence[int] | range, steps: int, hidden: Sequence[int], *, learning_rate: float = 3e-3
) -> list[nnx.Module]:
    """MLPs fitted to the labels of digits, one a seed of weights and order."""
    optimizer, digits = optax.adamw(learning_rate), data.digits()
    return [
        distill.fit(
            network(hidden, seed),
            digits,
            steps=steps,
            optimizer=optimizer,
            seed=seed,
            record_every=steps,
        ).student
        for seed in seeds
    ]


def probabilities(model: Any, inputs: np.ndarray) -> Float[np.ndarray, "N K"]:
    """Class probabilities in float64, from the logits of a float32 model."""
    z = np.asarray(model(jnp.asarray(inputs)), np.float64)
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


def principal_features(inputs: np.ndarray, components: int) -> Float[np.ndarray, "N d1"]:
    """A constant and the first principal components, of root mean square 1 over all of them: ``[N, d+1]``."""
    x = np.asarray(inputs, np.float64)
    x = x - x.mean(0)
    scores = x @ np.linalg.svd(x, full_matrices=False)[2][:components].T
    return np.concatenate([np.ones((len(x), 1)), scores / np.sqrt(np.mean(scores**2))], axis=1)


def rounded(value: Any) -> float:
    """Three significant digits: what tables hold is what the words say."""
    return float(f"{float(value):.3g}")


def show(value: float) -> str:
    return f"{value:.3g}"


def show_range(values: np.ndarray) -> str:
    """The least and the largest, or one number where both print alike."""
    low, high = show(values.min()), show(values.max())
    return low if low == high else f"{low} to {high}"
