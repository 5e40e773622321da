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


@pytest.mark.parametrize(("k", "near"), [(2, 0.6), (16, 1.8), (100, 1.8)])
def test_the_bracket_holds_the_strength_and_the_first_guess_is_near(k, near, x64):
    cases = sweep(k, EuclideanEntropyProjection().claims.temperatures, 2000, seed=4)
    centred, t = centred_log(jnp.asarray(cases.p)), jnp.asarray(cases.high)[:, None]
    sought = np.asarray(~is_uniform(centred) & (t > 1))[:, 0]
    centred, t = centred[sought], t[sought]
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
