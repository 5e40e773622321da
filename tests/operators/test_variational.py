"""theory.md section 2: each family is a special case of the one variational definition."""

import dataclasses
import importlib

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax.operators import (
    ConvergenceError,
    ConvexMixture,
    EntropyProjection,
    EuclideanEntropyProjection,
    PowerTransform,
    TsallisSoftening,
    variational,
)
from sparsekd_jax.operators.base import apply_unchecked


def square(x, params):
    return 0.5 * x**2


def shannon(x, params):
    return x * jnp.log(x)


def tsallis(x, alpha):
    return x**alpha / (alpha * (alpha - 1))


P = np.random.default_rng(3).dirichlet(np.ones(5), 8)
WARM = np.array([1.0, 1.05, 2.0, 3.0, 4.5, 6.0, 8.0, 12.0])
CASES = {
    "mixture": (variational(square, square), ConvexMixture()),
    "power": (variational(shannon, shannon), PowerTransform()),
    "tsallis(1.5)": (variational(tsallis, tsallis, params=1.5), TsallisSoftening(1.5)),
    "tsallis(0.5)": (variational(tsallis, tsallis, params=0.5), TsallisSoftening(0.5)),
    "entropy": (variational(shannon, shannon, "target"), EntropyProjection()),
    "euclidean": (variational(square, shannon, "target"), EuclideanEntropyProjection()),
}


@pytest.mark.parametrize("name", CASES)
def test_the_family_is_a_special_case(name, x64):
    general, special = CASES[name]
    np.testing.assert_allclose(general(P, WARM), special(P, WARM), rtol=0, atol=1e-10)
    if 0.5 in general.claims.temperatures:
        np.testing.assert_allclose(general(P, 1 / WARM), special(P, 1 / WARM), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["mixture", "entropy"])
def test_one_row_and_rows_of_rows_uniform_ones_among_them(name, x64):
    """The bracket of log q starts where a uniform row has its root."""
    general, special = CASES[name]
    for p in (P[0], np.concatenate([P[:5], np.full((1, 5), 0.2)]).reshape(3, 2, 5)):
        q = np.asarray(general(p, 2.5))
        np.testing.assert_allclose(q, special(p, 2.5), rtol=0, atol=1e-10)
        np.testing.assert_allclose(q.sum(-1), 1, rtol=0, atol=1e-12)


def test_a_target_next_to_a_vertex(x64):
    """The entropy to reach is then small, and not to be had from log K less a deficit."""
    general, special = CASES["entropy"]
    log_p, t = np.log([[1 - 1e-12, 6e-13, 4e-13]] * 2), np.array([1 + 1e-11, 1.001])
    np.testing.assert_allclose(general.log(log_p, t), special.log(log_p, t), rtol=1e-8, atol=1e-8)


@pytest.mark.parametrize(
    "name",
    [pytest.param(x, marks=() if x in ("mixture", "euclidean") else pytest.mark.nightly) for x in CASES],
)
def test_its_slopes_are_those_of_the_special_case(name, x64):
    """At T = 1 and at uniform rows too, where a target has no root to differentiate."""
    log_p, t = jnp.log(jnp.array([P[0], P[0], [0.2] * 5, [0.2] * 5])), jnp.array([1.0, 2.5, 1.0, 2.5])

    def slopes(operator, dtype="float64"):
        soften = lambda log_p, t: apply_unchecked("log", operator, log_p, t)  # noqa: E731
        return jax.jit(jax.jacobian(soften, (0, 1)))(log_p.astype(dtype), t.astype(dtype))

    general, special = CASES[name]
    for found, wanted in zip(slopes(general), slopes(special), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-9, atol=1e-9)
    # Roots are found to rounding, which is divided by how steep each of three nested residuals is.
    for found, wanted in zip(slopes(general, "float32"), slopes(special), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("name", ["mixture", "power", "tsallis(1.5)", "tsallis(0.5)"])
def test_zeros_stay_zero_where_the_slope_of_phi_is_infinite_there(name, x64):
    general, special = CASES[name]
    p = np.array([[0.5, 0.3, 0.2, 0.0, 0.0]] * 3)
    for t in ([2.5, 1.0, 20.0], [0.5, 0.9, 0.1]):
        np.testing.assert_allclose(general(p, np.array(t)), special(p, np.array(t)), rtol=0, atol=1e-10)


@pytest.mark.parametrize("name", ["entropy", "euclidean"])
def test_a_target_at_one_is_log_p_itself_however_small(name, x64):
    log_p = np.array([np.log(0.75), np.log(0.25), -750.0])
    np.testing.assert_allclose(CASES[name][0].log(log_p, 1.0), log_p, rtol=1e-15)


def test_a_probability_of_1e_60_is_no_zero(x64):
    p = np.array([1 - 1e-60, 1e-60])
    np.testing.assert_allclose(CASES["power"][0](p, 2.0)[1], 1e-30, rtol=1e-8)


@pytest.mark.parametrize("root", ["_force_residual", "_mass_residual", "_target_residual"])
def test_a_root_that_is_not_found_spoils_its_row_and_no_other(root, monkeypatch, x64):
    module = importlib.import_module("sparsekd_jax.operators.variational")
    honest = module.increasing_root

    def failing(residual, *args):
        x, converged = honest(residual, *args)
        return x, converged.at[1, 0].set(False) if residual.__name__ == root else converged

    monkeypatch.setattr(module, "increasing_root", failing)
    q = apply_unchecked(
        "probabilities", variational(square, shannon, "target"), jnp.asarray(P[:3]), WARM[2:5]
    )
    assert np.isnan(q).all(-1).tolist() == [False, True, False]
    assert np.isfinite(q).all(-1).tolist() == [True, False, True]


def test_what_it_says_of_itself():
    """T < 1 is open where φ = ψ alone, and where the strength is no target."""
    named = {
        variational(square, square): ("variational(square, square, multiplier)", 0.0),
        variational(square, shannon): ("variational(square, shannon, multiplier)", 1.0),
        variational(square, square, "target"): ("variational(square, square, target)", 1.0),
    }
    assert {op: (op.name, op.claims.temperatures.low) for op in named} == named
    with pytest.raises(dataclasses.FrozenInstanceError):
        next(iter(named)).strength = "target"
    for phi, psi, wrong in ((0.5, square, "phi"), (square, None, "psi")):
        with pytest.raises(TypeError, match=f"{wrong} is .*; it is a function"):
            variational(phi, psi)


def test_differences_of_a_potential_that_is_flat_at_zero_are_rounded(x64):
    """The proviso of the docstring, with φ = ½x² and q about 1e-12."""
    general, special = CASES["euclidean"]
    log_p, t = np.log([1 - 1e-12, 6e-13, 4e-13]), 1 + 1e-11
    miss = np.abs(np.asarray(general.log(log_p, t) - special.log(log_p, t)))[1:]
    assert 1e-7 < miss.max() < np.finfo(float).eps / 5e-13
    np.testing.assert_allclose(general.log(log_p, 1.001), special.log(log_p, 1.001), rtol=1e-8, atol=1e-8)


def test_another_pair_is_another_operator(x64):
    """The twin: with the potentials exchanged nothing agrees, so the test above can fail."""
    wrong = variational(square, shannon)(P, WARM)
    for special in (ConvexMixture(), PowerTransform()):
        assert np.abs(np.asarray(wrong) - np.asarray(special(P, WARM))).max() > 1e-3


def test_stationarity_of_a_new_operator(x64):
    """φ' + aψ' − φ'(p) is one constant a row: the definition itself, on a pair that has no name."""
    op = variational(square, shannon)
    t = 1.7
    q = np.asarray(op(P, t))
    residual = q + (t - 1) * (np.log(q) + 1) - P
    np.testing.assert_allclose(residual, residual.mean(-1, keepdims=True) * np.ones(5), rtol=0, atol=1e-10)
    np.testing.assert_allclose(q.sum(-1), 1, rtol=0, atol=1e-12)


@pytest.mark.parametrize(
    "potential", [lambda x, _: -(x**2), lambda x, _: x, lambda x, _: x**2 + 0.2 * jnp.sin(9 * x)]
)
def test_a_potential_that_is_not_convex_is_refused(potential):
    """A concave pair would answer zeros."""
    with pytest.raises(ValueError, match=r"psi is not strictly convex on \(0, 1\]: its slope is"):
        variational(lambda x, _: x**2, potential)


def test_convex_potentials_and_families_of_them_pass():
    for potential in (lambda x, _: x**100, lambda x, _: -jnp.sqrt(x), lambda x, _: x + 1e-3 * x**2):
        variational(potential, potential)

    p = jnp.array([0.7, 0.2, 0.1])
    made_inside = jax.jit(lambda p: variational(square, shannon)(p, 2.0))(p)
    np.testing.assert_allclose(made_inside, variational(square, shannon)(p, 2.0), atol=1e-6)

    family = variational(tsallis, tsallis, params=jnp.array([1.5, 2.5]))
    rows = jax.vmap(lambda op: op(p, 2.0))(family)
    for row, alpha in zip(rows, (1.5, 2.5), strict=True):
        np.testing.assert_allclose(row, TsallisSoftening(alpha)(p, 2.0), atol=1e-5)


def test_parameters_in_float64_pass_under_strict_promotion():
    """The look at the potentials is in float32, and so must be the parameters it looks with."""
    with jax.enable_x64(True), jax.numpy_dtype_promotion("strict"):
        p = jnp.array([0.7, 0.2, 0.1])
        for alpha in (np.float64(1.5), np.asarray(1.5), jnp.asarray([1.5])[0]):
            q = variational(tsallis, tsallis, params=alpha)(p, 2.0)
            np.testing.assert_allclose(q, TsallisSoftening(1.5)(p, 2.0), rtol=1e-9)
        rows = jax.vmap(lambda a: variational(tsallis, tsallis, params=a)(p, 2.0))(jnp.array([1.5, 2.5]))
        np.testing.assert_allclose(rows[1], TsallisSoftening(2.5)(p, 2.0), rtol=1e-9)


def test_a_potential_may_hold_a_while_loop():
    """It has forward derivatives only, which are what an operator takes."""

    def cube(x, params):
        start = (jnp.ones_like(x), 0)
        return jax.lax.while_loop(lambda state: state[1] < 3, lambda s: (s[0] * x, s[1] + 1), start)[0]

    with jax.enable_x64(True):
        p = jnp.array([0.7, 0.2, 0.1])
        np.testing.assert_allclose(variational(cube, cube)(p, 2.0), TsallisSoftening(3.0)(p, 2.0), rtol=1e-8)


def steep(x, rate):
    return jnp.exp(rate * x)


def test_a_row_that_rounding_leaves_short_of_1_is_refused():
    """φ'(0.1) is 6e-6 of φ'(0.7): in float32 two classes of three were 0, and the row summed to 0.7."""
    op, p = variational(steep, square, params=20.0), [0.7, 0.2, 0.1]
    with jax.enable_x64(True):
        q = op(jnp.asarray(p), 2.0)
        assert float(q.sum()) == pytest.approx(1, abs=1e-9)
        assert float(q[2]) == pytest.approx(0.1, abs=0.01)
    with jax.enable_x64(False), pytest.raises(ConvergenceError, match=r"no root found in row \[\] at T = 2"):
        op(jnp.asarray(p, jnp.float32), 2.0)
