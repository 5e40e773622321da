"""N:M, blocks, channels: exact counts, against loops in numpy, with a broken twin for each law."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import sparsity
from tests.sparsity import reference

DENSE = (48, 36)
CONV = (3, 3, 24, 20)


def scores(shape, seed=0, levels=None):
    """Magnitudes of normal weights; with ``levels``, few distinct ones, so that most are ties."""
    drawn = np.abs(np.random.default_rng(seed).normal(size=shape)).astype(np.float32)
    return drawn if levels is None else np.floor(levels * drawn).astype(np.float32)


@functools.partial(jax.jit, static_argnames=("pattern", "rate"))
def masks_of(pattern, tree, rate):
    return pattern(tree, rate)


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 4), (4, 8), (1, 3), (3, 3)])
@pytest.mark.parametrize(("shape", "axis"), [(DENSE, -2), (DENSE, 1), (CONV, -2)])
def test_n_m_keeps_the_best_of_every_group(n, m, shape, axis, levels):
    if shape[axis] % m:
        shape = tuple(m * (size // m) if a == axis % len(shape) else size for a, size in enumerate(shape))
    drawn = scores(shape, levels=levels)
    pattern = sparsity.n_m(n, m, axis)
    masks = masks_of(pattern, {"bias": None, "w": jnp.asarray(drawn)}, pattern.rate)
    assert masks["bias"] is None
    np.testing.assert_array_equal(masks["w"], reference.n_m(drawn, n, m, axis))
    groups = np.moveaxis(np.asarray(masks["w"]), axis, -1).reshape(-1, m)
    assert (groups.sum(axis=1) == n).all()


def test_the_layer_pattern_is_not_n_m():
    """The broken twin of the group law: the right total, the wrong groups."""
    tree = {"w": jnp.asarray(scores(DENSE))}
    groups = np.asarray(sparsity.layer_masks(tree, 0.5)["w"]).T.reshape(-1, 4).sum(axis=1)
    assert groups.sum() == 2 * groups.size
    assert not (groups == 2).all()


def test_n_m_along_the_wrong_axis_is_seen():
    mask = np.asarray(sparsity.n_m(2, 4, axis=-1)({"w": jnp.asarray(scores(DENSE))}, 0.5)["w"])
    assert (mask.reshape(-1, 4).sum(axis=1) == 2).all()
    assert not (mask.T.reshape(-1, 4).sum(axis=1) == 2).all()


@pytest.mark.parametrize(("n", "m"), [(2, 4), (1, 16)])
def test_n_m_rises_through_the_stages_of_a_schedule(n, m):
    pattern = sparsity.n_m(n, m)
    tree = {"w": jnp.asarray(scores(DENSE))}
    before = np.ones(DENSE, bool)
    for rate in (0.0, *sparsity.sparsities("cubic", pattern.rate, 6)):
        mask = np.asarray(pattern(tree, rate)["w"])
        kept = int(mask.sum()) // (mask.size // m)
        assert (mask.T.reshape(-1, m).sum(axis=1) == kept).all()
        assert kept >= n
        assert 1 - kept / m <= rate + 1e-9  # never more than the stage says
        assert rate < 1 - (kept - 1) / m  # and no more than one weight a group below it
        assert not (mask & ~before).any()
        assert (kept == n) == (rate == pattern.rate)
        assert (kept == m) == (rate < 1 / m)
        before = mask


def test_n_m_takes_a_rate_written_by_hand():
    mask = np.asarray(sparsity.n_m(2, 3)({"w": jnp.asarray(scores(DENSE))}, 0.3333333)["w"])
    assert (~mask).sum() == mask.size // 3


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize("shape", [(4, 4), (1, 9), (16, 2), DENSE])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_blocks_of_least_sum_are_dropped(shape, rate, levels):
    drawn = scores(DENSE, levels=levels)
    number = drawn.size // (shape[0] * shape[1])
    dropped = round(rate * number)
    if dropped == number:
        with pytest.raises(ValueError, match=r"rate = 0\.9 drops all 1 blocks of w"):
            sparsity.block(shape)({"w": jnp.asarray(drawn)}, rate)
        return
    mask = np.asarray(masks_of(sparsity.block(shape), {"w": jnp.asarray(drawn)}, rate)["w"])
    np.testing.assert_array_equal(mask, reference.block(drawn, shape, dropped))
    assert (~mask).sum() == dropped * shape[0] * shape[1]


def test_blocks_are_ranked_by_their_sum_not_their_maximum():
    drawn = np.ones((8, 8), np.float32)
    drawn[:4, :4] = 0.1
    drawn[0, 0] = 9.0  # the largest entry, in the block of the least sum: 10.5 of 16
    tree = {"w": jnp.asarray(drawn)}
    by_sum = np.asarray(sparsity.block((4, 4))(tree, 0.25)["w"])
    assert not by_sum[:4, :4].any()
    maxima = drawn.reshape(2, 4, 2, 4).max(axis=(1, 3))  # the broken twin drops another block
    assert maxima[0, 0] == maxima.max()


@pytest.mark.parametrize("levels", [None, 3])
@pytest.mark.parametrize(("shape", "axis"), [(DENSE, -1), (DENSE, 0), (CONV, -1), (CONV, -2)])
@pytest.mark.parametrize("rate", [0.0, 0.3, 0.9])
def test_channels_of_least_sum_are_dropped(shape, axis, rate, levels):
    drawn = scores(shape, levels=levels)
    dropped = round(rate * shape[axis])
    mask = np.asarray(masks_of(sparsity.channel(axis), {"w": jnp.asarray(drawn)}, rate)["w"])
    np.testing.assert_array_equal(mask, reference.channel(drawn, axis, dropped))
    whole = np.moveaxis(mask, axis, 0).reshape(shape[axis], -1)
    assert (whole.all(axis=1) | ~whole.any(axis=1)).all()
    assert (~whole.any(axis=1)).sum() == dropped


PATTERNS = {
    "global": sparsity.global_masks,
    "layer": sparsity.layer_masks,
    "2:4": sparsity.n_m(2, 4),
    "block": sparsity.block((4, 4)),
    "channel": sparsity.channel(),
}


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16])
@pytest.mark.parametrize("fill", [1.0, 0.0, -0.0, np.nan, np.inf])
def test_ties_never_push_the_count_off(pattern, dtype, fill):
    tree = {"w": jnp.full((16, 8), fill, dtype), "none": None}
    assert np.asarray(pattern(tree, 0.0)["w"]).all()
    mask = np.asarray(pattern(tree, 0.5)["w"])
    assert (~mask).sum() == 64
    np.testing.assert_array_equal(mask, pattern({"w": jnp.ones((16, 8)), "none": None}, 0.5)["w"])
    threshold = np.asarray(tree["w"], np.float32) > np.float32(fill)  # the broken twin keeps none
    assert threshold.sum() == 0


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_signed_zeros_and_nans_do_not_depend_on_their_sign(pattern):
    drawn = np.random.default_rng(1).choice(np.array([0.0, -0.0, 1.0], np.float32), size=(16, 8))
    negative_nan = np.copysign(np.float32(np.nan), np.float32(-1))
    drawn[[0, 8], [0, 4]] = np.float32(np.nan), negative_nan
    plain = np.where(np.isnan(drawn), np.float32(np.inf), np.abs(drawn))
    mask = np.asarray(pattern({"w": jnp.asarray(drawn)}, 0.25)["w"])
    np.testing.assert_array_equal(mask, pattern({"w": jnp.asarray(plain)}, 0.25)["w"])
    assert mask[np.isnan(drawn)].all(), "a diverged weight stays, so that the loss shows it"


@pytest.mark.parametrize("pattern", PATTERNS.values(), ids=PATTERNS)
def test_a_pattern_vmaps_over_an_ensemble(pattern):
    stacked = jnp.asarray(scores((3, 16, 8)))
    together = jax.vmap(lambda s: pattern({"w": s}, 0.5))(stacked)["w"]
    for member in range(3):
        np.testing.assert_array_equal(together[member], pattern({"w": stacked[member]}, 0.5)["w"])


@pytest.mark.parametrize("name", ["2:4", "block", "channel"])
def test_what_was_dropped_stays_dropped_though_all_else_is_infinite(name):
    drawn = np.full((16, 8), np.inf, np.float32)
    drawn[:4, :4] = -np.inf  # dropped before, as update_masks marks it
    drawn[0, 0] = np.inf
    mask = np.asarray(PATTERNS[name]({"w": jnp.asarray(drawn)}, 0.5)["w"])
    if name == "2:4":
        assert (mask[:4, :4].sum(axis=0) == 2).all()
        assert mask[0, 0]
    else:
        assert not mask[:4, :4].any()


def test_layers_of_different_dtypes_are_ranked_together():
    drawn = scores((2, 40, 30))
    tree = {"a": jnp.asarray(drawn[0]).astype(jnp.bfloat16), "b": jnp.asarray(drawn[1])}
    flat = np.concatenate([np.asarray(leaf, np.float32).ravel() for leaf in tree.values()])
    expected = reference.keep(flat, flat.size - round(0.7 * flat.size))
    masks = sparsity.global_masks(tree, 0.7)
    np.testing.assert_array_equal(np.concatenate([np.ravel(m) for m in masks.values()]), expected)


def test_a_million_bfloat16_weights_of_a_few_hundred_values():
    """Ties by the thousand at the cut: the count is exact, and position decides, as a stable sort has it."""
    drawn = jnp.asarray(np.random.default_rng(0).normal(size=(1024, 1024)), jnp.bfloat16)
    flat = np.abs(np.asarray(drawn, np.float32)).ravel()
    mask = np.asarray(sparsity.global_masks({"w": jnp.abs(drawn)}, 0.95)["w"]).ravel()
    best = np.argsort(-flat, kind="stable")[: flat.size - round(0.95 * flat.size)]
    np.testing.assert_array_equal(np.flatnonzero(mask), np.sort(best))
    cut = flat[best[-1]]
    assert (flat > cut).sum() < mask.sum() < (flat >= cut).sum(), "no tie at the cut: the test is void"


def test_equal_patterns_share_one_compilation():
    traces = []

    @functools.partial(jax.jit, static_argnames="pattern")
    def traced(tree, pattern):
        traces.append(pattern)
        return pattern(tree, 0.5)

    tree = {"w": jnp.asarray(scores((16, 8)))}
    for make in (lambda: sparsity.n_m(2, 4), lambda: sparsity.block((4, 4)), lambda: sparsity.channel(0)):
        traced(tree, make())
        traced(tree, make())
    assert [str(p) for p in traces] == ["2:4 along axis -2", "block 4×4", "channel 0"]


@pytest.mark.parametrize(
    ("make", "shape", "rate", "message"),
    [
        (
            lambda: sparsity.n_m(2, 4),
            (6, 8),
            0.5,
            r"m = 4 does not divide axis -2 of w, .* size 6: .*by_path",
        ),
        (lambda: sparsity.n_m(2, 4, axis=2), (8, 8), 0.5, r"axis = 2 is not an axis of w"),
        (lambda: sparsity.n_m(2, 4), (8, 8), 0.95, r"rate = 0\.95 is more than 2:4 reaches, .* = 0\.5: make"),
        (lambda: sparsity.n_m(2, 4), (8, 8), 95, r"did you mean 0\.95"),
        (lambda: sparsity.n_m(5, 4), (8, 8), 0.5, r"1 ≤ n ≤ m, got n = 5, m = 4"),
        (lambda: sparsity.n_m(0, 4), (8, 8), 0.5, r"got n = 0"),
        (lambda: sparsity.block((4, 3)), (8, 8), 0.5, r"block shape \(4, 3\) does not tile w"),
        (
            lambda: sparsity.block((2, 2)),
            (3, 3, 4, 4),
            0.5,
            r"does not tile w, which has shape \(3, 3, 4, 4\)",
        ),
        (
            lambda: sparsity.block((0, 2)),
            (8, 8),
            0.5,
            r"two positive numbers \(rows, columns\), got \(0, 2\)",
        ),
        (lambda: sparsity.block((8,)), (8, 8), 0.5, r"block shape must be two"),
        (lambda: sparsity.channel(), (8, 8), 0.95, r"rate = 0\.95 drops all 8 channels of w.*by_path"),
        (lambda: sparsity.channel(-3), (8, 8), 0.5, r"axis = -3 is not an axis of w"),
        (lambda: sparsity.channel(), (8, 8), 1.0, r"rate must be a share in \[0, 1\), got 1"),
    ],
)
def test_mistakes_are_named_with_their_remedy(make, shape, rate, message):
    with pytest.raises(ValueError, match=message):
        make()({"w": jnp.ones(shape)}, rate)
