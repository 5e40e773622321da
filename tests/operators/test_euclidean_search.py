"""The Euclidean projection's search: Wright's omega, the bracket of log a, how near the first guess is."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import scipy.special

from sparsekd_jax.axioms import sweep
from sparsekd_jax.operators import EuclideanEntropyProjection
from sparsekd_jax.operators import euclidean_entropy_projection as module
from sparsekd_jax.operators._rows import centred_log, is_uniform


def test_wright_omega_against_scipy(x64):
    x = np.concatenate([-np.logspace(2.8, 0, 300), np.linspace(-1, 60, 2000), np.logspace(1.8, 150, 300)])
    # Below −30 omega is e^x to rounding, and underflows in scipy.
    expected = np.where(x < -30, x, np.log(scipy.special.wrightomega(np.maximum(x, -30))))
    np.testing.assert_allclose(module._log_wright_omega(jnp.asarray(x)), expected, rtol=1e-8, atol=1e-8)


def searched(k, seed):
    """Rows that need a search, as centred logs, and their T."""
    cases = sweep(k, EuclideanEntropyProjection().claims.temperatures, 2000, seed=seed)
    centred, t = centred_log(jnp.asarray(cases.p)), jnp.asarray(cases.high)[:, None]
    sought = np.asarray(~is_uniform(centred) & (t > 1))[:, 0]
    return centred[sought], t[sought]


# In logs, for K classes; on other rows of the sweep 0.50, 1.39 and 1.54 were measured.
@pytest.mark.parametrize(("k", "near"), [(2, 0.6), (16, 1.8), (100, 1.8)])
def test_the_bracket_holds_the_strength_and_the_first_guess_is_near(k, near, x64):
    centred, t = searched(k, seed=4)
    log_q, a, found = jax.jit(module._solve)(centred, t)
    assert found.all()
    row, log_a, gain, high = jax.jit(module._make_row)(centred, t)
    assert (jnp.log(row.target) - 40 < jnp.log(a)).all()
    assert (jnp.log(a) < high).all()
    assert float(jnp.abs(log_a - jnp.log(a)).max()) < near
    truth = jnp.max(log_q, axis=-1, keepdims=True) - row.log_top
    assert (row.least_gain <= gain).all()
    assert (gain <= 0).all()
    resolved = truth < -1e-10
    assert float(jnp.abs(jnp.log(jnp.where(resolved, gain / truth, 1))).max()) < near


@pytest.mark.parametrize("k", [2, 16])
def test_from_anywhere_in_the_bracket_the_search_stays_inside_and_ends(k, x64):
    centred, t = searched(k, seed=5)
    _, a, _ = jax.jit(module._solve)(centred, t)
    row, _, _, high = jax.jit(module._make_row)(centred, t)
    low = jnp.minimum(jnp.log(row.target) - 40, high - 1)
    share, part = np.random.default_rng(k).uniform(size=(2, *low.shape))
    point = module._Point(
        low + share * (high - low), part * row.least_gain, 0 * centred, low, high, low + jnp.inf, low > high
    )
    step = jax.jit(module._newton_step)
    for _ in range(100):
        point = step(row, point)
        assert ((low <= point.log_a) & (point.log_a <= high)).all()
        assert ((row.least_gain <= point.gain) & (point.gain <= 0)).all()
    assert point.done.all()
    np.testing.assert_allclose(point.log_a, jnp.log(a), rtol=1e-7, atol=1e-7)


def test_every_class_solves_its_equation(x64):
    """``q − p − (q_top − p_top) + a ρ = 0`` to the rounding of its terms; e^ρ and e^ρ − 1 come with it."""
    centred, t = searched(16, seed=6)
    row, log_a, gain, _ = jax.jit(module._make_row)(centred, t)
    log_s, drop = gain + row.log_top, jnp.exp(row.log_top) * jnp.expm1(gain)
    rho, w, lifted = jax.jit(module._log_ratio)(row, log_a, log_s, drop)
    np.testing.assert_allclose(w, jnp.exp(rho), rtol=1e-14)
    np.testing.assert_allclose(lifted, jnp.expm1(rho), rtol=1e-13, atol=1e-30)
    q, pulled = jnp.exp(log_s) * w, jnp.exp(log_a) * rho
    scale = q + row.p + jnp.abs(drop) + jnp.abs(pulled)
    assert float((jnp.abs(q - row.p - drop + pulled) / scale).max()) < 1e-15


@pytest.mark.parametrize("side", [-1, 1])
def test_no_step_leaves_its_bracket_even_where_the_root_is_outside(side, x64):
    centred, t = searched(5, seed=7)
    _, a, _ = jax.jit(module._solve)(centred, t)
    row, _, gain, _ = jax.jit(module._make_row)(centred, t)
    low, high = jnp.log(a) + 2 * side - 1, jnp.log(a) + 2 * side + 1
    point = module._Point((low + high) / 2, gain, 0 * centred, low, high, low + jnp.inf, low > high)
    step, moved = jax.jit(module._newton_step), False
    for _ in range(20):
        before, point = point, step(row, point)
        moved |= point.log_a != before.log_a
        assert ((low <= point.log_a) & (point.log_a <= high)).all()
    towards = point.log_a < low + 0.1 if side > 0 else point.log_a > high - 0.1
    assert float((moved & towards).mean()) > 0.9  # they do step, up to the end that is nearer to the root


def wide(k):
    """Rows of a large vocabulary: one class or ten above the rest, next to a vertex, and scattered."""
    z = np.random.default_rng(k).normal(size=(4, k))
    z[0, 0], z[1, :10], z[2, 0], z[3] = 12, 12, 30, 3 * z[3]
    p = np.exp(z - z.max(-1, keepdims=True))
    return p / p.sum(-1, keepdims=True)


@pytest.mark.parametrize("k", [1000, 5000, 50_000])
def test_wide_rows_meet_the_conditions_of_the_optimum(k):
    """Entropy as asked and ``q + a log q = p − c``, in float64; float32 within 2e-6 of that."""
    operator = EuclideanEntropyProjection()
    p32 = wide(k).astype(np.float32)
    p = p32 / p32.sum(-1, keepdims=True, dtype=np.float64)
    entropy = lambda q: -scipy.special.xlogy(q, q).sum(-1)  # noqa: E731
    for t in (1.01, 1.2, 1.5, 1.9, 2.0, 3.0, 10.0):
        with jax.enable_x64(True):
            q = np.asarray(operator(p, t))
        asked = entropy(p) + (1 - 1 / t) * (np.log(k) - entropy(p))
        np.testing.assert_allclose(entropy(q), asked, rtol=0, atol=1e-12, err_msg=f"T = {t}")
        pulled, log_q = p - q, np.log(q)
        centred = log_q - log_q.mean(-1, keepdims=True)
        a = (centred * pulled).sum(-1, keepdims=True) / (centred**2).sum(-1, keepdims=True)
        rest = pulled - a * log_q  # of terms up to 1, each rounded by an ulp or a few
        np.testing.assert_allclose(rest, rest.mean(-1, keepdims=True) + 0 * rest, rtol=0, atol=1e-14)
        assert (a > 0).all()
        np.testing.assert_allclose(operator(p32, t), q, rtol=0, atol=2e-6, err_msg=f"T = {t}")
