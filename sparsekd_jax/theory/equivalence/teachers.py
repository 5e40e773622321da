"""Teachers on which two different operators train the same student, and the students that prove it."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import ArrayLike, Float

from sparsekd_jax._refusals import whole
from sparsekd_jax.operators import Operator
from sparsekd_jax.operators._softening import soften
from sparsekd_jax.theory.convergence.regression import Fit, softmax_regression
from sparsekd_jax.theory.equivalence.gaps import (
    Gap,
    Temperatures,
    checked_teacher,
    gap,
    pair,
)

_BISECTIONS = 70


@dataclasses.dataclass(frozen=True, eq=False)
class EquivalentTeacher:
    """A teacher on which F and G differ, and a student on X cannot tell.

    Attributes:
        probabilities: P, ``[N, K]``, in the interior of the simplex.
        gap: the `Gap` of F and G on it: 0 to rounding, with ``target_distance`` > 0.
    """

    probabilities: Float[np.ndarray, "N K"]
    gap: Gap


def equivalent_teacher(
    first: Operator,
    second: Operator,
    features: Float[ArrayLike, "N d"],
    num_classes: int,
    temperature: Temperatures,
    *,
    seed: int = 0,
) -> EquivalentTeacher:
    """A teacher P with ``F(P) ≠ G(P)`` and ``Xᵀ(F(P) − G(P)) = 0``, built from the null space of Xᵀ.

    Half of the classes share a mass a evenly and the rest share 1 − a. On such rows two equivariant operators
    differ along one fixed direction, by φ(a), and φ = 0 at uniform. For v in null(Xᵀ), the rows a_i with
    φ(a_i) = c·v_i, found by bisection, make every column of F(P) − G(P) a multiple of v.

    Args:
        first: F.
        second: G; both equivariant, continuous, and fixing the uniform distribution.
        features: X, ``[N, d]``, with fewer than N independent rows.
        num_classes: K ≥ 2.
        temperature: T for both, or the pair (T of F, S of G).
        seed: of the direction v within the null space.

    Returns:
        An `EquivalentTeacher`, its gap checked to be below 1e-12 of the largest ‖x_i‖.

    Raises:
        ValueError: N independent rows (then a gap of 0 forces F(P) = G(P)); operators that agree on all such
            rows, or are not equivariant.

    Reference: theory.md section 5.

    >>> from sparsekd_jax.operators import ConvexMixture, PowerTransform
    >>> x = np.array([[1.0, 0.0], [1.0, 1.0], [1.0, 2.0], [1.0, 3.0]])
    >>> found = equivalent_teacher(PowerTransform(), ConvexMixture(), x, 3, 2.0)
    >>> found.gap.value < 1e-14, found.gap.target_distance > 0.01
    (True, True)
    """
    if num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; a distribution needs at least 2")
    whole("num_classes", num_classes)
    x = np.asarray(features, np.float64)
    uniform = np.full((len(x), num_classes), 1 / num_classes)
    _, x = checked_teacher(uniform, x)
    if x.ndim != 2:
        raise ValueError(f"features {x.shape}: the construction is for linear features [N, d]")
    left, singular, _ = np.linalg.svd(x, full_matrices=True)
    rank = int(np.sum(singular > singular.max() * np.finfo(float).eps * max(x.shape)))
    if rank == len(x):
        raise ValueError(
            f"features has {len(x)} independent rows: a gap of 0 forces F(P) = G(P). Give more rows than "
            "independent columns"
        )
    null = left[:, rank:]
    v = null @ np.random.default_rng(seed).normal(size=null.shape[1])

    group = num_classes // 2
    centre = group / num_classes
    at_first, at_second = pair(temperature)

    def rows(a: np.ndarray) -> np.ndarray:
        inside = np.arange(num_classes) < group
        return np.where(inside, a[:, None] / group, (1 - a[:, None]) / (num_classes - group))

    def phi(a: np.ndarray) -> np.ndarray:
        p = rows(a)
        difference = soften(first, p, at_first) - soften(second, p, at_second)
        return difference[:, :group].sum(-1)

    grid = np.linspace(0, 1, 66)[1:-1]
    values = phi(grid)
    most, least = grid[np.argmax(values)], grid[np.argmin(values)]
    above, below = max(values.max(), 0.0), max(-values.min(), 0.0)
    # The scale c of v that fits the range of φ on both sides, and the sign of v that allows more of it.
    with np.errstate(divide="ignore"):
        room = [min(above / max(w.max(), 0.0), below / max(-w.min(), 0.0)) for w in (v, -v)]
    targets = 0.9 * max(room) * (v if room[0] >= room[1] else -v)
    if not np.abs(targets).max() > 1e-9:
        raise ValueError(
            "first and second agree at these temperatures wherever the classes form two groups of equal "
            "probabilities, or differ to one side only: no teacher of this form tells them apart"
        )
    near, far = np.full(len(x), centre), np.where(targets > 0, most, least)
    for _ in range(_BISECTIONS):
        middle = 0.5 * (near + far)
        short = np.abs(targets) > phi(middle) * np.sign(targets)
        near, far = np.where(short, middle, near), np.where(short, far, middle)
    p = rows(np.where(targets == 0, centre, far))
    found = gap(first, second, p, x, (at_first, at_second))
    if not found.value <= 1e-12 * np.linalg.norm(x, axis=-1).max():
        raise ValueError(
            f"the gap is {found.value:.3g} on the teacher built: first or second is not equivariant, not "
            "continuous, or moves the uniform distribution"
        )
    return EquivalentTeacher(p, found)


@dataclasses.dataclass(frozen=True, eq=False)
class StudentDistance:
    """Two students trained to convergence on one teacher under two operators.

    Attributes:
        weights: Euclidean distance of their weights.
        predictions: largest difference of a probability on X.
        bound: ``gap/μ``, which ``weights`` cannot exceed by more than ``uncertainty``; inf for μ = 0.
        uncertainty: certified bound on what not having converged fully adds to ``weights``; inf for μ = 0.
        gap: the `Gap` of the targets.
        students: the two fits, F's first.
    """

    weights: float
    predictions: float
    bound: float
    uncertainty: float
    gap: Gap
    students: tuple[Fit, Fit]


def compare_students(
    first: Operator,
    second: Operator,
    probabilities: Float[ArrayLike, "N K"],
    features: Float[ArrayLike, "N d"],
    temperature: Temperatures,
    mu: float,
) -> StudentDistance:
    """Train both linear-softmax students (mean cross-entropy + (μ/2)‖w‖²) and compare them with the theory.

    Args:
        first: F.
        second: G.
        probabilities: P, ``[N, K]``.
        features: X, ``[N, d]``.
        temperature: T for both, or the pair (T of F, S of G).
        mu: ridge ≥ 0; with 0 the weights are those without any part that X, or softmax, does not see.

    Returns:
        A `StudentDistance`, in float64 whatever the setting of the process.

    Raises:
        ValueError: as `gap` and `softmax_regression`.

    Reference: theory.md section 5.

    >>> from sparsekd_jax.operators import ConvexMixture, PowerTransform
    >>> p, x = [[0.9, 0.1], [0.2, 0.8]], [[1.0, 0.0], [1.0, 1.0]]
    >>> found = compare_students(PowerTransform(), ConvexMixture(), p, x, 2.0, 0.1)
    >>> 0 < found.weights <= found.bound
    True
    """
    found = gap(first, second, probabilities, features, temperature)
    p, x = checked_teacher(probabilities, features)
    with jax.enable_x64(True):
        fits = [
            softmax_regression(jnp.asarray(x), jnp.asarray(soften(op, p, t)), mu).fit()
            for op, t in zip((first, second), pair(temperature), strict=True)
        ]
        of_first, of_second = (np.asarray(fit.weights) for fit in fits)
        predictions = [np.asarray(jax.nn.softmax(jnp.asarray(x) @ fit.weights, axis=-1)) for fit in fits]
    return StudentDistance(
        weights=float(np.linalg.norm(of_first - of_second)),
        predictions=float(np.abs(predictions[0] - predictions[1]).max()),
        bound=found.student_bound(mu) if mu > 0 else float("inf"),
        uncertainty=sum(float(fit.distance_bound) for fit in fits),
        gap=found,
        students=(fits[0], fits[1]),
    )
