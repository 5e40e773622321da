"""Paths of functions: the triangle inequality, and what would break it is seen; barriers; continuity."""

import itertools
import math

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsekd_jax import distill, simplex, sparsity
from sparsekd_jax.theory import homotopy
from tests.distill.small import BLOBS, mlp


@pytest.fixture(autouse=True)
def double():
    with jax.enable_x64(True):
        yield


def in_numpy(name, p, q):
    """The formulas in numpy, per probe."""
    overlap = np.clip(np.sqrt(p * q).sum(-1), 0, 1)
    if name == "fisher-rao":
        return 2 * np.arccos(overlap)
    if name == "hellinger":
        return np.sqrt(1 - overlap)
    m = (p + q) / 2
    kl = lambda a, b: np.where(a > 0, a * np.log(np.where(a > 0, a, 1) / b), 0).sum(-1)  # noqa: E731
    return np.sqrt((kl(p, m) + kl(q, m)) / 2)


@st.composite
def paths(draw):
    """Points [3..6, 2, 3], zeros included, from whole weights."""
    count = draw(st.integers(3, 6))
    weights = np.array(draw(st.lists(st.integers(0, 20), min_size=count * 6, max_size=count * 6)), float)
    weights = weights.reshape(count, 2, 3) + 0.0
    weights[weights.sum(-1) == 0] = 1
    return weights / weights.sum(-1, keepdims=True)


def path(points, distance, **more):
    return homotopy.HomotopyPath(
        jnp.asarray(points), tuple(np.linspace(0, 0.9, len(points))), distance=distance, **more
    )


@pytest.mark.parametrize("distance", homotopy.DISTANCES)
def test_lengths_are_those_of_the_formulas(distance):
    points = np.random.default_rng(0).dirichlet(np.ones(4), size=(5, 7))
    pruned = np.random.default_rng(1).dirichlet(np.ones(4), size=(4, 7))
    found = path(points, distance, pruned=jnp.asarray(pruned), teacher=jnp.asarray(points[2]))
    steps = [in_numpy(distance, a, b).mean() for a, b in itertools.pairwise(points)]
    np.testing.assert_allclose(found.step_lengths, steps, rtol=1e-7)
    assert found.length == pytest.approx(sum(steps))
    assert found.largest_step == (np.argmax(steps) + 1, pytest.approx(max(steps)))
    assert found.chord == pytest.approx(in_numpy(distance, points[0], points[-1]).mean())
    np.testing.assert_allclose(
        found.from_teacher, [in_numpy(distance, points[2], p).mean() for p in points], atol=1e-7
    )
    np.testing.assert_allclose(
        found.from_teacher_pruned, [in_numpy(distance, points[2], p).mean() for p in pruned], atol=1e-7
    )
    assert len(str(found).splitlines()) == 2 + 5


def never_shorter(points, distance):
    """No path is shorter than its chord, nor than itself with a point left out."""
    whole = path(points, distance)
    assert whole.length >= whole.chord - 1e-12
    assert whole.length >= path(np.delete(points, 1, axis=0), distance).length - 1e-12
    reach = np.concatenate([[0], np.cumsum(whole.step_lengths)])
    assert (whole.from_teacher <= reach + 1e-12).all()


@pytest.mark.parametrize("distance", homotopy.DISTANCES)
@given(points=paths())
def test_a_path_is_never_shorter_than_its_chord(distance, points):
    never_shorter(points, distance)


def test_the_divergence_itself_is_no_metric(monkeypatch):
    """The twin: Jensen–Shannon without its root breaks the same check."""
    monkeypatch.setitem(homotopy.DISTANCES, "jsd", simplex.jensen_shannon_divergence)
    points = np.array([[[0.9, 0.1]], [[0.5, 0.5]], [[0.1, 0.9]]])
    never_shorter(points, "root-jensen-shannon")
    with pytest.raises(AssertionError):
        never_shorter(points, "jsd")


@given(
    p=st.lists(st.integers(1, 20), min_size=3, max_size=3),
    q=st.lists(st.integers(1, 20), min_size=3, max_size=3),
)
def test_a_geodesic_has_the_length_of_its_chord(p, q):
    """Great circles of √p: the equality of the triangle inequality under Fisher–Rao."""
    a, b = (np.sqrt(np.array(w) / sum(w)) for w in (p, q))
    angle = np.arccos(min(a @ b, 1.0))
    t = np.linspace(0, 1, 6)[:, None]
    if angle < 1e-6:
        return
    circle = (np.sin((1 - t) * angle) * a + np.sin(t * angle) * b) / np.sin(angle)
    points = circle**2 / (circle**2).sum(-1, keepdims=True)
    geodesic = path(points[:, None], "fisher-rao")
    assert geodesic.length == pytest.approx(geodesic.chord, rel=1e-9)
    np.testing.assert_allclose(geodesic.step_lengths, 2 * angle / 5, rtol=1e-9)


def test_functions_of_any_kind_make_a_path():
    probes = jnp.asarray(np.random.default_rng(0).normal(size=(2, 5, 3)))
    scales = (1.0, 0.5, 0.1)
    from_logits = homotopy.path_of([lambda x, s=s: s * x for s in scales], probes, (0, 0.5, 0.9))
    from_probs = homotopy.path_of(
        [lambda x, s=s: jax.nn.softmax(s * x) for s in scales], probes, (0, 0.5, 0.9), logits=False
    )
    assert from_logits.points.shape == (3, 10, 3), "places of a sequence are probes"
    np.testing.assert_allclose(from_logits.points, from_probs.points)


@pytest.mark.parametrize("dtype", ["bfloat16", "float16"])
def test_narrow_logits_make_a_path(dtype):
    """A softmax in bfloat16 has rows that sum to 1.0046, which are refused as distributions."""
    logits = jnp.asarray(3 * np.random.default_rng(0).normal(size=(200, 50))).astype(dtype)
    found = homotopy.path_of([lambda z: z, lambda z: 0.5 * z], logits, (0, 0.5))
    wide = homotopy.path_of([lambda z: z, lambda z: 0.5 * z], logits.astype("float64"), (0, 0.5))
    assert found.points.dtype == "float32"
    assert found.length == pytest.approx(wide.length, rel=1e-5)


def test_the_steps_of_an_unknown_metric():
    with pytest.raises(ValueError, match="distance 'euclid' is unknown; known: fisher-rao"):
        homotopy.step_lengths(jnp.ones((2, 1, 2)) / 2, "euclid")


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"distance": "euclid"}, "distance 'euclid' is unknown; known: fisher-rao"),
        ({"points": jnp.ones((1, 2, 2)) / 2}, "at least one step"),
        ({"sparsities": (0.0,)}, "1 values for 3 points"),
        ({"sparsities": (0.0, 50.0, 90.0)}, "shares of zeros, from 0 to 1"),
        ({"sparsities": (0.0, np.nan, 0.9)}, "shares of zeros"),
        ({"pruned": jnp.ones((3, 2, 2)) / 2}, r"pruned has shape \(3, 2, 2\); these points need \(2, 2, 2\)"),
        ({"teacher": jnp.ones((2, 3)) / 3}, "teacher has shape"),
        ({"points": jnp.ones((3, 2, 2))}, "points"),
    ],
)
def test_what_is_no_path_is_refused(change, message):
    good = {"points": jnp.ones((3, 2, 2)) / 2, "sparsities": (0.0, 0.5, 0.9)}
    with pytest.raises(ValueError, match=message):
        homotopy.HomotopyPath(**{**good, **change})


@pytest.fixture(scope="module")
def result():
    with jax.enable_x64(False):
        plan = distill.stages(sparsity=0.7, num_stages=3, total_steps=60, temperature=2.0)
        settings = {"optimizer": optax.adam(1e-2), "batch_size": 16, "record_every": 20}
        return distill.run(mlp(0), mlp(0), BLOBS, plan, seed=0, **settings), jnp.asarray(BLOBS.test_inputs)


def test_the_path_of_a_run(result):
    with jax.enable_x64(False):
        trained, probes = result
        found = homotopy.path_of_result(trained, probes)
        np.testing.assert_allclose(
            found.sparsities[1:], [0.7 * (1 - (1 - k / 3) ** 3) for k in (1, 2, 3)], atol=0.02
        )
        np.testing.assert_allclose(found.points[0], jax.nn.softmax(mlp(0)(probes)), atol=1e-6)
        np.testing.assert_allclose(found.points[3], jax.nn.softmax(trained.student(probes)), atol=1e-6)
        # A prune of stage k is the mask of stage k on what stage k − 1 left.
        for k in (1, 2, 3):
            cut = jax.tree.map(lambda a, b: jnp.where(b == 0, 0, a), trained.path[k - 1], trained.path[k])
            assert sparsity.zero_fraction(cut) == sparsity.zero_fraction(trained.path[k])
            np.testing.assert_allclose(found.sparsities[k], sparsity.zero_fraction(cut), atol=1 / 56)
        assert (found.from_teacher_pruned > 0).all()
        with pytest.raises(ValueError, match="stage 0 is the student as given"):
            trained.model(0, pruned=True)


def convex(p):
    return jnp.sum((p["w"] - 1) ** 2) + p["b"] ** 2


def concave(p):
    return -(p["b"] ** 2)


# -- weight space -------------------------------------------------------------------------------------------


@given(
    a=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
    b=st.lists(st.floats(-3, 3), min_size=4, max_size=4),
)
def test_a_convex_loss_has_no_barrier(a, b):
    tree = {"w": jnp.array(a), "b": jnp.array(1.0)}, {"w": jnp.array(b), "b": jnp.array(-1.0)}
    assert homotopy.barrier(convex, *tree, points=9).height <= 1e-12
    # The twin: minus a convex loss is above its chord wherever the ends differ.
    assert homotopy.barrier(concave, *tree, points=9).height == pytest.approx(1.0)


def test_the_barrier_of_a_double_well():
    """(x² − 1)² from −1 to 1: the top is 1 at the middle; from −1 to ½ against dense numpy."""
    well = lambda p: (p["x"] ** 2 - 1) ** 2  # noqa: E731
    found = homotopy.barrier(well, {"x": jnp.array(-1.0)}, {"x": jnp.array(0.5)}, points=3001)
    t = np.linspace(0, 1, 3001)
    losses = ((1.5 * t - 1) ** 2 - 1) ** 2
    gap = losses - t * losses[-1]
    assert found.height == pytest.approx(gap.max(), abs=1e-12)
    assert found.at == pytest.approx(t[gap.argmax()])


def test_a_masked_line_has_the_sparsity_of_its_end():
    start, end = {"w": jnp.array([1.0, 2.0, 3.0])}, {"w": jnp.array([0.0, 2.5, 0.0])}
    seen = lambda p: jnp.sum((p["w"] != 0).astype(jnp.float64))  # noqa: E731
    np.testing.assert_array_equal(homotopy.barrier(seen, start, end, points=5).losses, np.ones(5))
    fading = homotopy.barrier(seen, start, end, points=5, masked=False)
    np.testing.assert_array_equal(fading.losses, [3, 3, 3, 3, 1])
    # The last zero is the optimizer's own: the first weight alone was pruned.
    own = homotopy.barrier(seen, start, end, points=5, masks={"w": jnp.array([False, True, True])})
    np.testing.assert_array_equal(own.losses, [2, 2, 2, 2, 1])


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"points": 2}, "at least 3"),
        ({"masks": {"w": jnp.ones(2, bool)}, "masked": False}, "masks are given and masked is False"),
        ({"end": {"v": jnp.ones(2)}}, "different structure"),
        ({"end": {"w": jnp.ones(3)}}, "different structure or shapes"),
        ({"end": {"w": jnp.ones(1)}}, "different structure or shapes"),  # it would broadcast
        ({"loss": lambda p: jnp.log(p["w"].sum() - 5)}, "loss is nan on the line"),
    ],
)
def test_no_line_no_barrier(change, message):
    good = {"loss": lambda p: p["w"].sum(), "start": {"w": jnp.ones(2)}, "end": {"w": jnp.ones(2)}}
    with pytest.raises(ValueError, match=message):
        homotopy.barrier(**{**good, **change})


def test_a_prune_that_fades_is_lipschitz_and_one_that_cuts_jumps():
    """100 equal weights: cutting drops whole weights however small the step; fading shrinks them all."""
    weights = jnp.full((100, 1), 0.04)
    inputs = jnp.ones((3, 100))

    def probs(w):
        z = inputs @ w
        return jax.nn.softmax(jnp.concatenate([z, jnp.zeros_like(z)], axis=-1))

    @jax.jit
    def first_kept(count):
        return probs(jnp.where(jnp.arange(100)[:, None] < count, weights, 0.0))

    def cut(s):  # which of equal weights go does not matter
        kept = sparsity.count_to_drop(s, 100)
        return first_kept(100 - kept)

    fading = homotopy.modulus_of_continuity(lambda s: probs((1 - s) * weights), num_points=5)
    cutting = homotopy.modulus_of_continuity(cut, num_points=5)
    assert fading.exponent == pytest.approx(1.0, abs=0.02)
    np.testing.assert_allclose(fading.values[:-1] / fading.values[1:], 2.0, rtol=0.1)
    # The smallest h is 0.1/128, less than one weight of a hundred, and a weight still goes.
    one = float(simplex.fisher_rao_distance(probs(weights)[0], probs(weights.at[0].set(0))[0]))
    assert cutting.smallest > 0.5 * one
    assert cutting.smallest > 10 * fading.smallest
    assert cutting.exponent < 0.9


def test_a_map_that_stands_still():
    still = homotopy.modulus_of_continuity(lambda s: jnp.array([[0.5, 0.5]]))
    assert still.smallest == 0
    assert still.exponent == math.inf


def gives(value, beyond=0.3):
    """A function that is even up to a sparsity, and from there on something else."""
    return lambda s: jnp.array([[0.5, 0.5]]) if s <= beyond else jnp.asarray(value)


@pytest.mark.parametrize(
    ("value", "message"),
    [
        ([[jnp.nan, jnp.nan]], r"function\(0.\d+\), row 0: contains nan"),
        ([[0.7, 0.7]], r"function\(0.\d+\), row 0: sums to 1.4.*normalize"),
        ([[3.0, -2.0]], "negative entry -2.*logits"),
        ([0.5, 0.5], r"function\(0.\d+\) has shape \(2,\); it returns \[probes, K\]"),
        ([[0.5, 0.5], [0.5, 0.5]], r"has shape \(2, 2\); .* the same at every sparsity"),
        (np.zeros((0, 2)), r"has shape \(0, 2\)"),
        ([[1, 0]], "has dtype int"),
    ],
)
def test_a_function_that_gives_no_distributions_has_no_modulus(value, message):
    """NaN was compared as if it had not moved: ω = 0 and an exponent of inf, those of a map at rest."""
    with pytest.raises((ValueError, TypeError), match=message):
        homotopy.modulus_of_continuity(gives(value))


def test_what_it_gives_only_halfway_is_seen_too():
    """At a sparsity that no first segment ends at, and the halving comes to."""
    holes = lambda s: jnp.full((1, 2), jnp.nan if 0.04 < s < 0.06 else 0.5)  # noqa: E731
    with pytest.raises(ValueError, match=r"function\(0.05\), row 0: contains nan"):
        homotopy.modulus_of_continuity(holes, num_points=3, up_to=0.9)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"largest_step": 0.0}, "largest_step"),
        ({"up_to": 1.5}, "up_to"),
        ({"num_steps": 1}, "no grid"),
        ({"distance": "x"}, "unknown"),
    ],
)
def test_no_grid_no_modulus(change, message):
    with pytest.raises(ValueError, match=message):
        homotopy.modulus_of_continuity(lambda s: jnp.array([[0.5, 0.5]]), **change)


@pytest.mark.parametrize("distance", homotopy.DISTANCES)
def test_a_probe_that_does_not_move_has_no_slope_and_no_nan(distance):
    points = jnp.array([[[0.5, 0.5], [0.3, 0.7]], [[0.5, 0.5], [0.4, 0.6]]])
    length = lambda at: homotopy.step_lengths(at, distance=distance).sum()  # noqa: E731
    slope = jax.grad(length)(points)
    np.testing.assert_array_equal(slope[:, 0], 0)
    assert float(jnp.abs(slope[:, 1]).min()) > 0.1
