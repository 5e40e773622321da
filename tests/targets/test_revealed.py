"""Top-k lists: the tail mass they leave, and what no distribution could have shown."""

import dataclasses

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import targets
from sparsekd_jax.targets import Dense, Samples, TopK

IDS = np.array([[5, 2, 7], [0, 1, 3]])
LOG_PROBS = np.log(np.array([[0.5, 0.3, 0.1], [0.6, 0.2, 0.15]], np.float32))


def observed(ids=IDS, log_probs=LOG_PROBS, vocab_size=9, **options):
    return TopK.observed(ids, log_probs, vocab_size, **options)


def test_the_tail_mass_is_what_is_left_and_is_summed_in_float64():
    seen = observed()
    exact = 1 - np.exp(LOG_PROBS.astype(np.float64)).sum(-1)
    np.testing.assert_allclose(seen.tail_mass, exact, rtol=1e-7)
    assert seen.ids.dtype == seen.num_ranked.dtype == jnp.int32
    assert seen.num_ranked.tolist() == [3, 3]
    assert seen.num_unseen.tolist() == [6, 6]


def test_a_sum_above_one_by_rounding_leaves_nothing_and_by_more_is_an_error():
    log_probs = np.log(np.array([0.7, 0.3], np.float32)) + np.float32(2e-6)
    assert float(TopK.observed(np.arange(2), log_probs, 5).tail_mass) == 0.0
    with pytest.raises(ValueError, match=r"log_probs: sums to 1.001.*temperature applied"):
        TopK.observed(np.arange(2), log_probs + np.float32(1e-3), 5)
    with jax.enable_x64(True), pytest.raises(ValueError, match="above 1 by more than rounding"):
        TopK.observed(np.arange(2), log_probs.astype(np.float64), 5)


def test_all_tokens_listed_must_sum_to_one():
    whole = np.log(np.array([0.7, 0.2, 0.1], np.float32))
    assert float(TopK.observed(np.arange(3), whole, 3).tail_mass) == 0.0
    with pytest.raises(ValueError, match=r"lists all 3 tokens, but sums to 0\.9"):
        TopK.observed(np.arange(3), np.log(np.array([0.6, 0.2, 0.1], np.float32)), 3)


def test_an_excluded_last_entry_leaves_no_tail_though_the_sum_rounds_below_one():
    log_probs = np.array([np.log(0.7), np.log(0.3) - 1e-6, -np.inf], np.float32)
    assert float(TopK.observed(np.arange(3), log_probs, 9).tail_mass) == 0.0


def test_top_k_sums_the_tail_itself():
    """A tail of 1e-12: 1 − Σ has no digit of it in float32."""
    z = jnp.array([30.0, 10.0, 1.0, 2.0, 3.0])
    seen = jax.jit(lambda z: targets.top_k(jax.nn.log_softmax(z), 2))(z)
    exact = np.exp(np.array([1.0, 2.0, 3.0])).sum() / np.exp(np.array([30.0, 10.0, 1.0, 2.0, 3.0])).sum()
    np.testing.assert_allclose(float(seen.tail_mass), exact, rtol=1e-5)
    assert abs(1 - float(jnp.exp(seen.log_probs).sum()) - exact) > 0.1 * exact
    assert seen.ids.tolist() == [0, 1]
    targets.require_consistent(seen)
    full = targets.top_k(jax.nn.log_softmax(z), 5)
    assert float(full.tail_mass) == 0.0
    with pytest.raises(ValueError, match="k must lie in"):
        targets.top_k(jax.nn.log_softmax(z), 6)
    with pytest.raises(ValueError, match="log_probs"):
        targets.top_k(z, 2)


def test_dense_in_float64(x64):
    assert Dense.from_logits(jnp.zeros((2, 3), jnp.float64)).log_probs.dtype == jnp.float64


def changed(array, value, at=(1, 1)):
    array = array.copy()
    array[at] = value
    return array


RISING = LOG_PROBS[:, [1, 0, 2]]


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"ids": changed(IDS, 9)}, r"ids, row 1: contains 9; ids lie in \[0, 9\)"),
        ({"ids": changed(IDS, -2)}, "ids, row 1: contains -2"),
        ({"ids": changed(IDS, 3)}, "ids, row 1: holds token 3 twice"),
        ({"ids": changed(IDS, -1)}, r"padding \(-1\) before a token"),
        ({"ids": changed(IDS, -1, (1, 2))}, "row 1: contains -1.89.* and at padding"),
        ({"log_probs": changed(LOG_PROBS, np.nan)}, "log_probs, row 1: contains nan"),
        ({"log_probs": changed(LOG_PROBS, 0.5)}, "row 1: contains 0.5.*Dense.from_logits"),
        ({"log_probs": RISING}, r"log_probs, row 0: rises at entry 1.*num_ranked"),
        ({"log_probs": RISING, "num_ranked": 1}, "row 0: entry 1 is not ranked and has more"),
        ({"num_ranked": 4}, r"num_ranked, row 0: is 4, of 3 entries"),
        (
            {"vocab_size": 10**6, "log_probs": changed(LOG_PROBS, -np.inf, (1, 2))},
            r"row 1: is 0\.2, more than",
        ),
        ({"vocab_size": 8, "log_probs": changed(LOG_PROBS, -5.0, (0, 2))}, r"tail_mass, row 0: is 0\.19"),
        ({"ids": IDS[0]}, "one each"),
        ({"ids": IDS[:, :0], "log_probs": LOG_PROBS[:, :0]}, "with k ≥ 1 .*a row of which nothing was seen"),
    ],
)
def test_lists_that_cannot_be(options, message):
    with pytest.raises(ValueError, match=message):
        observed(**options)


def test_lists_of_the_wrong_type():
    with pytest.raises(TypeError, match="ids has dtype float"):
        observed(ids=IDS.astype(float))
    with pytest.raises(TypeError, match="log_probs has dtype int"):
        observed(log_probs=IDS)
    with pytest.raises(TypeError, match=r"vocab_size is 9\.0; pass a whole number"):
        observed(vocab_size=9.0)
    with pytest.raises(TypeError, match=r"num_ranked is 1\.5; it counts entries"):
        observed(num_ranked=1.5)
    with pytest.raises(ValueError, match=r"counts has shape \(\)"):
        Samples.from_counts(np.array(3))


@pytest.mark.parametrize("counts", [[2**31, 1], [2**62, 2**62], [2**30, 2**30]])
def test_more_draws_than_int32_holds_are_refused(counts):
    """2³¹ + 1 draws were −2147483647."""
    with pytest.raises(ValueError, match=r"row 1: sums to more draws than num_draws.*2147483647"):
        Samples.from_counts(np.array([[3, 1], counts]))
    assert Samples.from_counts(np.array([2**30, 2**30 - 1])).num_draws == 2**31 - 1


@pytest.mark.parametrize(
    ("field", "value", "message"),
    [
        ("tail_mass", jnp.array([0.1, -0.05]), "tail_mass, row 1: is -0.05"),
        ("tail_mass", jnp.array([0.1, 0.3]), r"row 1: is 0\.3, which completes the row to 1\.25"),
        ("tail_mass", jnp.array([0.1, jnp.nan]), "tail_mass, row 1: is nan"),
        ("tail_mass", jnp.array(0.1), "one a row"),
        ("num_ranked", jnp.array([3, -1]), "num_ranked, row 1"),
    ],
)
def test_require_consistent_looks_at_every_field(field, value, message):
    wrong = dataclasses.replace(observed(), **{field: value})
    with pytest.raises(ValueError, match=message):
        targets.require_consistent(wrong)
    jax.jit(lambda seen: (targets.require_consistent(seen), seen.tail_mass)[1])(wrong)  # traced: unseen


@pytest.mark.parametrize(
    ("ids", "weights", "message"),
    [
        ([0, 9], [0.5, 0.5], r"ids: contains 9; ids lie in \[0, 9\)"),
        ([0, 0], [0.5, 0.5], "token 0 twice"),
        ([0, 1], [0.5, -0.5], "weights: contains -0.5 at entry 1"),
        ([0, 1], [0.5, np.nan], "weights: contains nan"),
        ([0, -1], [0.5, 0.5], "0 at padding"),
        ([0, 1], [0.5], "one each"),
    ],
)
def test_samples_that_cannot_be(ids, weights, message):
    seen = Samples(np.array(ids), np.array(weights, np.float32), np.array(2), 9)
    with pytest.raises(ValueError, match=message):
        targets.require_consistent(seen)


def test_a_consistent_list_passes_and_entries_after_the_ranked_ones_may_rise():
    log_probs = np.log(np.array([0.5, 0.2, 0.05, 0.1], np.float32))
    targets.require_consistent(TopK.observed(np.arange(4), log_probs, 9, num_ranked=2))
