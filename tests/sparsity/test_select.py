"""by_path: which parameters a name selects, and which mistakes are refused at init."""

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx

from sparsekd_jax import models, sparsity

PARAMS = {
    "layers": [
        {"kernel": jnp.ones((6, 5)), "bias": jnp.ones(5)},
        {"kernel": jnp.ones((5, 4)), "bias": jnp.ones(4)},
    ],
    "head": {"kernel": jnp.ones((4, 3)), "bias": jnp.ones(3)},
}
KERNELS = {"layers.0.kernel", "layers.1.kernel", "head.kernel"}


@pytest.mark.parametrize(
    ("where", "selected"),
    [
        (sparsity.by_path(), KERNELS),
        (sparsity.by_path(exclude=("head.*",)), KERNELS - {"head.kernel"}),
        (sparsity.by_path("*.kernel", "head.*"), KERNELS - {"head.kernel"}),
        (sparsity.by_path(include=["layers.?.kernel"]), KERNELS - {"head.kernel"}),
        (sparsity.by_path(include="*.bias"), {"layers.0.bias", "layers.1.bias", "head.bias"}),
        (
            sparsity.by_path(include=("layers.0.*", "head.kernel")),
            {"layers.0.kernel", "layers.0.bias", "head.kernel"},
        ),
    ],
)
def test_names_select(where, selected):
    assert set(sparsity.layer_zeros(PARAMS, where)) == selected
    masks = sparsity.current_masks(sparsity.sparsify(optax.sgd(0.1), where=where).init(PARAMS))
    assert len(jax.tree.leaves(masks)) == len(selected)


def test_the_head_keeps_all_its_weights():
    tx = sparsity.sparsify(optax.sgd(0.1), where=sparsity.by_path(exclude="head.*"))
    state = sparsity.update_masks(tx.init(PARAMS), PARAMS, 0.9)
    pruned = sparsity.apply_masks(PARAMS, sparsity.current_masks(state))
    assert sparsity.layer_zeros(pruned)["head.kernel"] == (0, 12)
    assert sparsity.zero_fraction(pruned, sparsity.by_path(exclude="head.*")) == 0.9


@pytest.mark.parametrize(
    ("where", "message"),
    [
        (
            sparsity.by_path("*.kernels"),
            r"include pattern '\*\.kernels' matches no parameter: .*head\.kernel",
        ),
        (sparsity.by_path(["*.kernel", "Head.*"]), r"include pattern 'Head\.\*' matches no"),
        (
            sparsity.by_path(exclude="classifier.*"),
            r"exclude pattern 'classifier\.\*' matches no .*layers\.0",
        ),
        (sparsity.by_path("*", exclude="*"), "where selects no parameter"),
    ],
)
def test_a_pattern_that_matches_nothing_is_an_error_at_init(where, message):
    with pytest.raises(ValueError, match=message):
        sparsity.sparsify(optax.sgd(0.1), where=where).init(PARAMS)


def test_equal_selections_are_equal_and_hashable():
    assert sparsity.by_path("a", "b") == sparsity.by_path(["a"], ("b",))
    assert len({sparsity.by_path("a", "b"), sparsity.by_path(("a",), ["b"]), sparsity.by_path("b", "a")}) == 2


def test_nnx_names_are_the_same_at_init_and_later():
    """Optax path masks: an NNX init sees names that end in ``.value``, its update does not."""
    _, state = nnx.split(models.MLP((5, 7, 3), rngs=nnx.Rngs(0)), nnx.Param)
    where = sparsity.by_path("layers.*.kernel", exclude="layers.1.*")
    pure = nnx.to_pure_dict(state)
    assert set(sparsity.layer_zeros(state, where)) == {"layers.0.kernel"}
    assert set(sparsity.layer_zeros(pure, where)) == {"layers.0.kernel"}
    tx = sparsity.sparsify(optax.sgd(0.1), where=where)
    opt_state = sparsity.update_masks(tx.init(state), state, 0.6)
    updates, _ = tx.update(state, opt_state, state)
    after = optax.apply_updates(state, updates)
    assert sparsity.layer_zeros(after, where) == {"layers.0.kernel": (21, 35)}
    assert np.count_nonzero(np.asarray(nnx.to_pure_dict(after)["layers"][1]["kernel"]) == 0) == 0


def test_a_share_of_nothing_is_named():
    with pytest.raises(ValueError, match="where selects no parameter among b"):
        sparsity.zero_fraction({"b": jnp.ones(3)})


def test_biases_of_attention_heads_are_no_kernels():
    """They have two axes, as the scales of a norm over two."""
    attention = nnx.MultiHeadAttention(num_heads=2, in_features=8, decode=False, rngs=nnx.Rngs(0))
    zeros = sparsity.layer_zeros(nnx.state(attention, nnx.Param))
    assert set(zeros) == {f"{part}.kernel" for part in ("query", "key", "value", "out")}
