"""Metrics against scikit-learn and a plain loop, intervals against scipy."""

import functools
import operator

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy import stats
from scipy.special import softmax
from sklearn.metrics import accuracy_score, log_loss

from sparsekd_jax import distill

TALLY = jax.jit(distill.tally)  # as the loop calls it


def case(seed=0, n=200):
    rng = np.random.default_rng(seed)
    return (rng.normal(size=(n, 4)) * 2).astype(np.float32), rng.integers(0, 4, n).astype(np.int32)


def plain_calibration_error(logits, labels, num_bins=15):
    probs = softmax(logits.astype(np.float64), axis=-1)
    confidence, correct = probs.max(-1), probs.argmax(-1) == labels
    total = 0.0
    for b in range(num_bins):
        inside = (confidence > b / num_bins) & (confidence <= (b + 1) / num_bins)
        if inside.any():
            total += inside.mean() * abs(confidence[inside].mean() - correct[inside].mean())
    return total


def test_tallies_are_equal_where_all_their_sums_are():
    """What one writes to see that a resumed run is the same; the comparison a dataclass makes would raise."""
    one, same, other = (distill.tally(*map(jnp.asarray, case(seed))) for seed in (0, 0, 1))
    assert one == same
    assert one != other
    assert one != "a tally"


def test_metrics_are_those_of_scikit_learn():
    logits, labels = case()
    tally = TALLY(jnp.asarray(logits), jnp.asarray(labels))
    probs = softmax(logits.astype(np.float64), axis=-1)
    assert tally.accuracy == pytest.approx(accuracy_score(labels, logits.argmax(-1)))
    assert tally.mean_nll == pytest.approx(log_loss(labels, probs, labels=range(4)), rel=1e-5)
    assert tally.calibration_error == pytest.approx(plain_calibration_error(logits, labels), abs=1e-5)


def test_a_confident_and_right_model_is_calibrated_and_a_wrong_one_is_not():
    labels = np.arange(30, dtype=np.int32) % 4
    logits = 50 * np.eye(4, dtype=np.float32)[labels]
    assert TALLY(jnp.asarray(logits), jnp.asarray(labels)).calibration_error == pytest.approx(0)
    wrong = TALLY(jnp.asarray(logits), jnp.asarray((labels + 1) % 4))
    assert wrong.calibration_error == pytest.approx(1)


def test_batches_of_unequal_size_add_up_to_the_whole():
    logits, labels = case()
    whole = TALLY(jnp.asarray(logits), jnp.asarray(labels))
    parts = [
        TALLY(jnp.asarray(logits[part]), jnp.asarray(labels[part])) for part in (slice(0, 30), slice(30, 200))
    ]
    total = functools.reduce(operator.add, parts)
    for name in ("accuracy", "mean_nll", "calibration_error"):
        assert getattr(total, name) == pytest.approx(getattr(whole, name), rel=1e-5)
    # The broken twin, a mean of batch means, is something else.
    assert np.mean([part.accuracy for part in parts]) != pytest.approx(whole.accuracy, abs=1e-3)


def test_padding_of_weight_zero_changes_nothing():
    logits, labels = case(n=30)
    padded = np.concatenate([logits, np.full((7, 4), 9.0, np.float32)])
    weights = np.concatenate([np.ones(30), np.zeros(7)]).astype(np.float32)
    padded_labels = np.concatenate([labels, np.zeros(7, np.int32)])
    ours = TALLY(jnp.asarray(padded), jnp.asarray(padded_labels), jnp.asarray(weights))
    alone = TALLY(jnp.asarray(logits), jnp.asarray(labels))
    assert (ours.accuracy, ours.mean_nll) == pytest.approx((alone.accuracy, alone.mean_nll), rel=1e-6)
    assert ours.calibration_error == pytest.approx(alone.calibration_error, rel=1e-5)


def test_what_has_no_metrics_prints_too():
    logits, labels = map(jnp.asarray, case(n=4))
    assert repr(distill.tally(logits, labels, jnp.zeros(4))) == "Tally(count=0.0)"
    assert repr(jax.eval_shape(distill.tally, logits, labels)).startswith("Tally(count=ShapeDtypeStruct(")
    assert repr(jax.vmap(distill.tally)(logits[None], labels[None])) == "Tally(count=[4.])"
    assert len(repr(distill.tally(logits, labels))) < 90


@pytest.mark.parametrize("judge", [TALLY, distill.tally])
def test_padding_may_hold_anything(judge):
    logits, labels = case(n=30)
    padded = np.concatenate([logits, np.full((2, 4), np.nan, np.float32)])
    weights = np.concatenate([np.ones(30), np.zeros(2)]).astype(np.float32)
    ours = judge(jnp.asarray(padded), jnp.asarray([*labels.tolist(), 1, -1]), jnp.asarray(weights))
    alone = judge(jnp.asarray(logits), jnp.asarray(labels))
    for name in ("accuracy", "mean_nll", "calibration_error"):
        assert getattr(ours, name) == pytest.approx(getattr(alone, name), rel=1e-5)


@pytest.mark.parametrize("level", [0.8, 0.95])
def test_intervals_are_student_t(level):
    values = np.random.default_rng(0).normal(size=7)
    ours = distill.interval(values, level=level)
    low, high = stats.t.interval(level, 6, loc=values.mean(), scale=stats.sem(values))
    assert (ours.mean, ours.low, ours.high) == pytest.approx((values.mean(), low, high))


def test_a_paired_difference_cancels_what_seeds_share():
    rng = np.random.default_rng(0)
    shared = rng.normal(size=10)
    first, second = shared + 0.1 + 0.01 * rng.normal(size=10), shared
    paired = distill.paired_difference(first, second)
    assert paired.low == pytest.approx(stats.ttest_rel(first, second).confidence_interval(0.95).low)
    assert paired.low > 0 > stats.ttest_ind(first, second).confidence_interval(0.95).low


def test_one_seed_has_a_mean_and_no_interval():
    one = distill.interval([0.5])
    assert (one.mean, one.low, one.high, one.n) == (0.5, None, None, 1)


@pytest.mark.parametrize(
    ("call", "message"),
    [
        (lambda: distill.interval([]), "empty"),
        (lambda: distill.interval([1.0, float("nan")]), r"values\[1\]"),
        (lambda: distill.interval([1.0, 2.0], level=95), "level"),
        (lambda: distill.paired_difference([1.0], [1.0, 2.0]), "same seeds"),
    ],
)
def test_bad_arguments_are_named(call, message):
    with pytest.raises(ValueError, match=message):
        call()


@pytest.mark.parametrize(
    ("own", "message"),
    [
        ({"weights": jnp.ones(1)}, r"weights has shape \(1,\), labels \(2,\): give one weight each"),
        ({"weights": jnp.array([1.0, -1.0])}, r"weights, row 1: is -1\.0"),
        ({"weights": jnp.array([jnp.nan, 1.0])}, r"weights, row 0: is nan"),
        ({"num_bins": 0}, "num_bins must be at least 1, got 0"),
    ],
)
def test_what_would_be_counted_wrong_is_refused(own, message):
    """One weight for all made the count 1 of two examples, and no bin a calibration error of 0."""
    with pytest.raises(ValueError, match=message):
        distill.tally(jnp.array([[2.0, 0.0], [0.0, 1.0]]), jnp.array([0, 0]), **own)


@pytest.mark.parametrize("weights", [None, jnp.ones(3)])
def test_labels_of_another_number_than_the_rows_are_named(weights):
    with pytest.raises(ValueError, match=r"labels has shape \(3,\) and logits \(2, 2\)"):
        distill.tally(jnp.zeros((2, 2)), jnp.array([0, 1, 0]), weights)


def test_of_nothing_there_is_no_mean():
    nothing = distill.tally(jnp.zeros((2, 3)), jnp.array([0, 1]), jnp.zeros(2))
    for name in ("accuracy", "mean_nll", "calibration_error"):
        with pytest.raises(ValueError, match="count is 0, so there is no mean"):
            getattr(nothing, name)


def test_bfloat16_logits_are_counted_in_float32():
    """bfloat16 counts 1347 as 1344, and adding ones to a bin stops at 256."""
    rng = np.random.default_rng(0)
    logits = jnp.asarray(rng.normal(size=(1347, 3)), jnp.bfloat16)
    labels = jnp.asarray(rng.integers(0, 3, 1347))
    narrow, wide = distill.tally(logits, labels), distill.tally(logits.astype(jnp.float32), labels)
    assert float(narrow.count) == 1347
    for one, other in zip(jax.tree.leaves(narrow), jax.tree.leaves(wide), strict=True):
        np.testing.assert_array_equal(one, other)


@pytest.mark.parametrize("dtype", [np.int32, np.uint8])
def test_labels_of_any_whole_dtype_count_with_x64_too(dtype, x64):
    """Where argmax is int64: strict promotion refused int32, and class 256 is not 0 for labels of 8 bits."""
    logits = np.zeros((3, 300), np.float32)
    logits[[0, 1, 2], [256, 7, 0]] = 1.0
    assert distill.tally(jnp.asarray(logits), jnp.asarray(np.array([0, 7, 0], dtype))).correct == 2
