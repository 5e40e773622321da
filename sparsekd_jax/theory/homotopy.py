"""A compression as a path of functions: length, steps, barriers, and how continuous its prune is."""

import dataclasses
import functools
import math
from collections.abc import Callable, Sequence
from typing import Any, Protocol

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, PyTree

from sparsekd_jax import simplex, sparsity
from sparsekd_jax._numerics import at_least_float32, safe_sqrt
from sparsekd_jax._refusals import whole


def root_jensen_shannon(p: Float[Array, "*batch K"], q: Float[Array, "*batch K"]) -> Float[Array, "*batch"]:
    """``√JSD(p, q)``, a metric, from 0 to √log 2; the divergence itself breaks the triangle inequality.

    The gradient at p = q, where the distance has a corner, is 0.

    Reference:
        Endres and Schindelin, "A new metric for probability distributions", IEEE Trans. Inf. Theory, 2003.

    >>> float(root_jensen_shannon(jnp.array([1.0, 0.0]), jnp.array([0.0, 1.0])))
    0.8325546
    """
    return safe_sqrt(simplex.jensen_shannon_divergence(p, q))


DISTANCES: dict[str, Callable[[Array, Array], Array]] = {
    "fisher-rao": simplex.fisher_rao_distance,
    "hellinger": simplex.hellinger_distance,
    "root-jensen-shannon": root_jensen_shannon,
}
"""Metrics on the simplex; between functions, the mean of one over the probe set, which is a metric again."""


def _metric(name: str) -> Callable[[Array, Array], Array]:
    if name not in DISTANCES:
        raise ValueError(f"distance {name!r} is unknown; known: {', '.join(DISTANCES)}")
    return DISTANCES[name]


@dataclasses.dataclass(frozen=True, eq=False)
class HomotopyPath:
    """The functions S_0, …, S_n that the stages of a compression leave, seen on a probe set.

    ``d(S, S') = mean over probes x of d(S(x), S'(x))``. A path between two functions is never shorter than
    their distance, and no refinement of it is.

    Attributes:
        points: ``[n + 1, probes, K]``, the distributions of S_0, …, S_n.
        sparsities: s_0, …, s_n, shares of zeros.
        pruned: ``[n, probes, K]``, S_{k−1} just after the prune of stage k, before it recovers; or None.
        teacher: ``[probes, K]``; by default S_0.
        distance: a name of `DISTANCES`.

    Raises:
        ValueError: shapes that do not fit, rows that are no distributions, sparsities outside [0, 1], or an
            unknown distance.

    Reference:
        theory.md section 4.

    >>> points = jnp.array([[[0.5, 0.5]], [[0.6, 0.4]], [[0.8, 0.2]]])
    >>> path = HomotopyPath(points, (0.0, 0.5, 0.9), distance="hellinger")
    >>> round(path.length, 4), round(path.chord, 4), path.largest_step[0]
    (0.2272, 0.2265, 2)
    """

    points: Float[Array, "stages probes K"]
    sparsities: tuple[float, ...]
    pruned: Float[Array, "steps probes K"] | None = None
    teacher: Float[Array, "probes K"] | None = None
    distance: str = "fisher-rao"

    def __post_init__(self) -> None:
        _metric(self.distance)
        shape = jnp.shape(self.points)
        if len(shape) != 3 or shape[0] < 2:
            raise ValueError(f"points has shape {shape}; it is [n + 1, probes, K] with at least one step")
        if len(self.sparsities) != shape[0]:
            raise ValueError(f"sparsities has {len(self.sparsities)} values for {shape[0]} points")
        if not all(0 <= s <= 1 for s in self.sparsities):
            raise ValueError(f"sparsities is {self.sparsities}; they are shares of zeros, from 0 to 1")
        wanted = {"pruned": (shape[0] - 1, *shape[1:]), "teacher": shape[1:]}
        for name, want in wanted.items():
            value = getattr(self, name)
            if value is not None and jnp.shape(value) != want:
                raise ValueError(f"{name} has shape {jnp.shape(value)}; these points need {want}")
        for name in ("points", "pruned", "teacher"):
            if getattr(self, name) is not None:
                simplex.require_probabilities(getattr(self, name), name)

    def distances(self, first: Array, second: Array) -> Float[np.ndarray, "..."]:
        """Distance of functions given on the probes, ``[..., probes, K]`` each, meaned over the probes."""
        return np.asarray(_mean_distance(self.distance, jnp.asarray(first), jnp.asarray(second)), np.float64)

    @functools.cached_property
    def step_lengths(self) -> Float[np.ndarray, " steps"]:
        """``d(S_{k−1}, S_k)`` for k = 1, …, n."""
        return np.asarray(step_lengths(jnp.asarray(self.points), self.distance), np.float64)

    @property
    def length(self) -> float:
        """Total length ``Σ d(S_{k−1}, S_k)``."""
        return math.fsum(self.step_lengths)

    @property
    def chord(self) -> float:
        """``d(S_0, S_n)``, at most the length."""
        return float(self.distances(self.points[0], self.points[-1]))

    @property
    def largest_step(self) -> tuple[int, float]:
        """The stage, from 1, of the longest step, and its length."""
        stage = int(np.argmax(self.step_lengths))
        return stage + 1, float(self.step_lengths[stage])

    @functools.cached_property
    def from_teacher(self) -> Float[np.ndarray, " points"]:
        """``d(teacher, S_k)`` for k = 0, …, n: after each recovery."""
        return self.distances(self._teacher[None], self.points)

    @functools.cached_property
    def from_teacher_pruned(self) -> Float[np.ndarray, " steps"] | None:
        """Distance of the teacher to each pruned function, before its recovery; None where not known."""
        return None if self.pruned is None else self.distances(self._teacher[None], self.pruned)

    @property
    def _teacher(self) -> Array:
        return jnp.asarray(self.points[0] if self.teacher is None else self.teacher)

    def __str__(self) -> str:
        after = self.from_teacher_pruned
        lines = [
            f"{self.distance}: length {self.length:.4f}, chord {self.chord:.4f}, longest step "
            f"{self.largest_step[1]:.4f} in stage {self.largest_step[0]}",
            "stage  sparsity    step  teacher to pruned  teacher to recovered",
        ]
        for k in range(len(self.sparsities)):
            step = f"{self.step_lengths[k - 1]:.4f}" if k else "–"
            cut = f"{after[k - 1]:.4f}" if k and after is not None else "–"
            lines.append(
                f"{k:5d}  {self.sparsities[k]:8.4f}  {step:>6}  {cut:>17}  {self.from_teacher[k]:>20.4f}"
            )
        return "\n".join(lines)


def step_lengths(
    points: Float[Array, "stages probes K"], distance: str = "fisher-rao"
) -> Float[Array, " steps"]:
    """``d(S_{k−1}, S_k)`` for k = 1, …, n, in jax: to jit, vmap and differentiate in the functions.

    Args:
        points: ``[n + 1, probes, K]``, the distributions of S_0, …, S_n, taken as they are.
        distance: a name of `DISTANCES`.

    Returns:
        ``[n]``; their sum is the length of the path. No derivative exists where two functions agree.

    Reference:
        theory.md section 4.

    >>> points = jnp.array([[[0.5, 0.5]], [[0.6, 0.4]], [[0.8, 0.2]]])
    >>> [round(x, 4) for x in step_lengths(points, "hellinger").tolist()]
    [0.0712, 0.156]
    """
    return _mean_distance(distance, points[:-1], points[1:])


@functools.partial(jax.jit, static_argnums=0)
def _mean_distance(name: str, first: Array, second: Array) -> Array:
    return jnp.mean(_metric(name)(first, second), axis=-1)


def path_of(
    functions: Sequence[Callable[[Any], Array]],
    probes: Any,
    sparsities: Sequence[float],
    *,
    pruned: Sequence[Callable[[Any], Array]] | None = None,
    teacher: Callable[[Any], Array] | None = None,
    logits: bool = True,
    distance: str = "fisher-rao",
) -> HomotopyPath:
    """The path of any functions of a probe set, such as models from another framework.

    Args:
        functions: S_0, …, S_n, each from the probes to ``[..., K]`` logits.
        probes: their argument.
        sparsities: s_0, …, s_n.
        pruned: the n functions just after each prune.
        teacher: by default S_0.
        logits: the functions return logits; False: probabilities.
        distance: a name of `DISTANCES`.

    Returns:
        A `HomotopyPath`; leading axes of the outputs, such as places of a sequence, are probes too. Logits in
        bfloat16 and float16 become probabilities in float32.

    >>> path = path_of([lambda x: x, lambda x: 0.5 * x], jnp.array([[2.0, 0.0]]), (0.0, 0.5))
    >>> round(path.length, 4)
    0.3854
    """

    def seen(function: Callable[[Any], Array]) -> Array:
        out = jnp.asarray(function(probes))
        if logits:  # in bfloat16 the rows of a softmax do not sum to 1 as near as distributions have to
            out = jax.nn.softmax(out.astype(at_least_float32(out.dtype)), axis=-1)
        return out.reshape(-1, out.shape[-1])

    def stacked(many: Sequence[Callable[[Any], Array]]) -> Array:
        return jnp.stack([seen(function) for function in many])

    return HomotopyPath(
        points=stacked(functions),
        sparsities=tuple(float(s) for s in sparsities),
        pruned=None if pruned is None else stacked(pruned),
        teacher=None if teacher is None else seen(teacher),
        distance=distance,
    )


class Trained(Protocol):
    """What `path_of_result` reads of a ``distill.Result``."""

    @property
    def history(self) -> list[dict[str, Any]]:
        """Rows with a stage and its sparsity."""

    @property
    def path(self) -> list[Any]:
        """Parameters, one set a stage and the first."""

    def model(self, stage: int, *, pruned: bool = False) -> Callable[[Any], Array]:
        """The student after a stage, or just after its prune."""


def path_of_result(
    result: Trained,
    probes: Any,
    *,
    teacher: Callable[[Any], Array] | None = None,
    distance: str = "fisher-rao",
) -> HomotopyPath:
    """The path of a run: what each stage left, and what each prune did before the stage recovered.

    Args:
        result: of ``distill.run``.
        probes: inputs to look at, such as the test half.
        teacher: by default the student as it was given.
        distance: a name of `DISTANCES`.

    Returns:
        A `HomotopyPath`.

    Raises:
        TypeError: no result, such as its student alone.
    """
    if not hasattr(result, "path"):
        raise TypeError(
            f"result is a {type(result).__name__}; pass what distill.run returned, or models and their "
            "sparsities to path_of"
        )
    stages = range(len(result.path))
    sparsity = {row["stage"]: row["sparsity"] for row in result.history}
    return path_of(
        [result.model(k) for k in stages],
        probes,
        [sparsity[k] for k in stages],
        pruned=[result.model(k, pruned=True) for k in stages[1:]],
        teacher=teacher,
        distance=distance,
    )


# -- weight space -------------------------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Barrier:
    """The loss along the straight line between two sets of weights.

    Attributes:
        shares: ``[points]``, t from 0 to 1.
        losses: ``[points]``, ``ℓ((1 − t)·w + t·w')``.
    """

    shares: Float[np.ndarray, " points"]
    losses: Float[np.ndarray, " points"]

    @property
    def excess(self) -> Float[np.ndarray, " points"]:
        """Loss above the chord ``(1 − t)·ℓ(w) + t·ℓ(w')``; 0 at both ends."""
        chord = (1 - self.shares) * self.losses[0] + self.shares * self.losses[-1]
        above = self.losses - chord
        above[[0, -1]] = 0.0  # exactly, not to rounding
        return above

    @property
    def height(self) -> float:
        """The barrier, ``max over t`` of the excess, ≥ 0; 0 for every convex loss."""
        return float(self.excess.max())

    @property
    def at(self) -> float:
        """The t of the highest point."""
        return float(self.shares[np.argmax(self.excess)])


def barrier(
    loss: Callable[[PyTree], Array],
    start: PyTree,
    end: PyTree,
    *,
    points: int = 21,
    masked: bool = True,
    masks: PyTree | None = None,
) -> Barrier:
    """The loss barrier between consecutive stages: ``max over t of ℓ((1 − t)w + t w')`` above the chord.

    Args:
        loss: of parameters, a scalar; traced, and compiled once for one function object.
        start: w, parameters before the stage.
        end: w', parameters after it.
        points: values of t, at least 3.
        masked: hold what ``end`` has pruned at zero all along the line, so that every point has its sparsity
            and only the recovery is seen; False lets pruned weights fade out.
        masks: what ``end`` has kept, such as ``result.masks[k]``; by default what is not exactly 0 in it,
            where the zeros that an optimizer made itself count as pruned.

    Returns:
        A `Barrier`: the losses along the line. A grid sees the barrier from below.

    Raises:
        ValueError: trees of different structure or shapes, masks of a line that is not masked, fewer than 3
            points, or a loss that is not finite.

    Reference:
        Frankle et al., "Linear mode connectivity and the lottery ticket hypothesis", arXiv 1912.05671.

    >>> double_well = lambda w: (w["x"] ** 2 - 1.0) ** 2
    >>> found = barrier(double_well, {"x": jnp.array(-1.0)}, {"x": jnp.array(1.0)}, points=3)
    >>> found.height, found.at
    (1.0, 0.5)
    """
    if points < 3:
        raise ValueError(f"points must be at least 3, two ends and something between, got {points}")
    whole("points", points)
    structures: list[Any] = [jax.tree.structure(start), jax.tree.structure(end)]
    shapes = [[jnp.shape(leaf) for leaf in jax.tree.leaves(tree)] for tree in (start, end)]
    if structures[0] != structures[1] or shapes[0] != shapes[1]:
        raise ValueError(
            "start and end are parameters of different structure or shapes; give those of one model"
        )
    if masks is not None and not masked:
        raise ValueError("masks are given and masked is False; leave one out")
    if masked:
        kept = jax.tree.map(lambda leaf: leaf != 0, end) if masks is None else masks
        start = sparsity.apply_masks(start, kept)

    shares = np.linspace(0.0, 1.0, points)
    losses = np.asarray(_losses_on_the_line(loss, start, end, jnp.asarray(shares)), np.float64)
    if not np.isfinite(losses).all():
        raise ValueError(f"loss is {losses[~np.isfinite(losses)][0]} on the line; it must be finite there")
    return Barrier(shares, losses)


@functools.partial(jax.jit, static_argnums=0)
def _losses_on_the_line(loss: Callable[[PyTree], Array], start: PyTree, end: PyTree, shares: Array) -> Array:
    def at(t: Array) -> Array:
        return loss(jax.tree.map(lambda a, b: a + t.astype(a.dtype) * (b - a), start, end))

    return jax.lax.map(at, shares)


@dataclasses.dataclass(frozen=True, eq=False)
class Modulus:
    """Modulus of continuity of a prune map on a grid of steps.

    Attributes:
        steps: ``[m]``, h, falling.
        values: ``[m]``, ω(h).
        where: ``[m]``, the s at which each is attained.
    """

    steps: Float[np.ndarray, " m"]
    values: Float[np.ndarray, " m"]
    where: Float[np.ndarray, " m"]

    @property
    def smallest(self) -> float:
        """ω at the smallest step: what a map that jumps keeps however small the step is."""
        return float(self.values[-1])

    @property
    def exponent(self) -> float:
        """Slope of log ω against log h over the grid: 1 for a Lipschitz map, 0 for one that jumps.

        NaN is never returned: a map that does not move at some step has exponent inf.
        """
        if (self.values <= 0).any():
            return math.inf
        return float(np.polyfit(np.log(self.steps), np.log(self.values), 1)[0])


def modulus_of_continuity(
    function: Callable[[float], Array],
    *,
    largest_step: float = 0.1,
    num_steps: int = 8,
    num_points: int = 20,
    up_to: float = 0.95,
    distance: str = "fisher-rao",
) -> Modulus:
    """``ω(h) = max over s of d(f(prune(w, s + h)), f(prune(w, s)))`` for h on a geometric grid, from below.

    Segments ``[s, s + h]`` are halved again and again, each towards the half in which the function moves
    further: a jump is followed, where fixed points s would miss it.

    Args:
        function: from a sparsity s to the distributions of the pruned function on the probes,
            ``[probes, K]``; called ``num_points · (num_steps + 1)`` times.
        largest_step: the first h; each next one is half of it.
        num_steps: how many, at least 2.
        num_points: segments, whose first ends are equally spaced from 0 to ``up_to − h``.
        up_to: the largest sparsity.
        distance: a name of `DISTANCES`.

    Returns:
        A `Modulus`. Magnitude pruning jumps by the weight it drops, so that ω stays up at the smallest h.

    Raises:
        ValueError: a grid that is empty or leaves [0, ``up_to``], or a function that returns what are no
            distributions, or not the same number of them, at some sparsity: the error says at which.

    Reference:
        theory.md section 4, and section 1 for the halving.

    >>> def fade(s):
    ...     return jax.nn.softmax(jnp.array([[2.0 * (1 - s), 0.0]]))
    >>> round(modulus_of_continuity(fade).exponent, 2)
    1.0
    """
    _metric(distance)
    if num_steps < 2 or num_points < 1:
        raise ValueError(f"num_steps = {num_steps} and num_points = {num_points} make no grid")
    whole("num_steps", num_steps)
    whole("num_points", num_points)
    if not 0.0 < largest_step < up_to <= 1.0:
        raise ValueError(
            f"largest_step = {largest_step:g} must lie in (0, up_to), up_to = {up_to:g} in (0, 1]"
        )

    def gap(left: Array, right: Array) -> float:
        return float(_mean_distance(distance, left, right))

    shapes: set[tuple[int, ...]] = set()

    def seen(s: float) -> Array:
        out = jnp.asarray(function(s))
        shapes.add(out.shape)
        if out.ndim != 2 or len(out) == 0 or len(shapes) > 1:
            raise ValueError(
                f"function({s:g}) has shape {out.shape}; it returns [probes, K], the same at every sparsity"
            )
        simplex.require_probabilities(out, f"function({s:g})")
        return out

    starts = np.linspace(0.0, up_to - largest_step, num_points)
    segments = [(s, seen(s), seen(s + largest_step)) for s in starts.tolist()]
    steps = largest_step * 0.5 ** np.arange(num_steps)
    values, where = [], []
    for h in steps.tolist():
        moved = [gap(left, right) for _, left, right in segments]
        values.append(max(moved))
        where.append(segments[int(np.argmax(moved))][0])
        halved = []
        for s, left, right in segments:
            middle = seen(s + h / 2)
            first = gap(left, middle) >= gap(middle, right)
            halved.append((s, left, middle) if first else (s + h / 2, middle, right))
        segments = halved
    return Modulus(steps, np.asarray(values), np.asarray(where))
