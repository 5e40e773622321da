"""Large batches go block by block on a CPU: nothing of it may show, in value or derivative."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators
from sparsekd_jax.operators import _blocks, base

FAMILIES = ("tsallis(0.5)", "tsallis(1.5)", "entropy-projection", "euclidean-entropy-projection")
ROWS, CLASSES = 23, 7


@pytest.fixture(scope="module")
def rows():
    rng = np.random.default_rng(0)
    log_p = np.log(rng.dirichlet(np.full(CLASSES, 0.6), ROWS) + 1e-3)
    t = rng.uniform(1, 5, ROWS).astype(np.float32)
    return jax.nn.log_softmax(jnp.asarray(log_p, jnp.float32), axis=-1), t


def value_and_slopes(name, log_p, t):
    operator = operators.parse(name)

    def total(log_p, t):
        log_q = base.apply_unchecked("log", operator, log_p, t)
        return jnp.sum(jnp.sin(log_q)), log_q

    (_, log_q), slopes = jax.value_and_grad(total, argnums=(0, 1), has_aux=True)(log_p, t)
    return log_q, *slopes


@pytest.mark.parametrize(
    "name", [pytest.param(x, marks=pytest.mark.nightly if x == "tsallis(0.5)" else ()) for x in FAMILIES]
)
def test_blocks_do_not_show(name, rows, monkeypatch):
    if name == "tsallis(1.5)":  # below T = 1 alone it searches
        rows = rows[0], np.where(np.arange(ROWS) % 2, rows[1], 0.6 + rows[1] / 20)
    whole = jax.jit(lambda *x: value_and_slopes(name, *x))(*rows)
    monkeypatch.setattr(_blocks, "BLOCK", 5 * CLASSES)  # five blocks of four rows, and three rows left
    taken = []
    honest = _blocks._block_by_block
    monkeypatch.setattr(_blocks, "_block_by_block", lambda *x: taken.append(1) or honest(*x))
    blocked = jax.jit(lambda *x: value_and_slopes(name, *x))(*rows)
    assert taken
    for one, other in zip(whole, blocked, strict=True):
        np.testing.assert_allclose(one, other, rtol=2e-5, atol=2e-5)  # reductions of another shape


def test_rows_keep_their_places_and_none_is_left_out(rows, monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK", 5 * CLASSES)
    log_p, t = rows
    sizes = []

    def kernel(x, t):
        sizes.append(x.shape)
        return x * t, (t > 0)

    blocked, positive = _blocks._block_by_block(kernel, log_p, t[:, None])
    np.testing.assert_array_equal(blocked, log_p * t[:, None])
    assert (positive.shape, bool(positive.all())) == ((ROWS, 1), True)
    assert sizes == [(4, CLASSES), (3, CLASSES)]  # traced once, and called for what is left
    deep = log_p[:22].reshape(2, 11, CLASSES), t[:22].reshape(2, 11, 1)
    blocked, _ = _blocks._block_by_block(kernel, *deep)
    np.testing.assert_array_equal(blocked, deep[0] * deep[1])
    assert sizes[2:] == [(4, CLASSES), (2, CLASSES)]


@pytest.mark.parametrize(("block", "sizes"), [(3, [1]), (4 * CLASSES, [4])])
def test_a_row_wider_than_a_block_is_one_and_blocks_may_leave_nothing_over(block, sizes, rows, monkeypatch):
    monkeypatch.setattr(_blocks, "BLOCK", block)
    seen = []
    log_p, t = rows[0][:20], rows[1][:20, None]
    blocked, _ = _blocks._block_by_block(lambda x, t: seen.append(len(x)) or (x * t, None), log_p, t)
    np.testing.assert_array_equal(blocked, log_p * t)
    assert seen == sizes


def test_small_batches_go_at_once(rows, monkeypatch):
    taken = []
    monkeypatch.setattr(_blocks, "_block_by_block", lambda kernel, *x: taken.append(1) or kernel(*x))
    log_p, t = rows
    for block, taken_by in ((log_p.size // 2 + 1, 0), (log_p.size // 2, 1)):
        monkeypatch.setattr(_blocks, "BLOCK", block)
        _blocks.in_blocks(lambda x, t: (x * t, None), log_p, t[:, None])
        assert len(taken) == taken_by
