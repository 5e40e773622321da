"""Every root of a large sweep is found; one that is not found is an error, never a number."""

import dataclasses
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from sparsekd_jax import operators, simplex
from sparsekd_jax.axioms import sweep
from sparsekd_jax.operators import (
    Claims,
    ConvergenceError,
    EntropyProjection,
    EuclideanEntropyProjection,
    PowerTransform,
    SofteningOperator,
    TemperatureRange,
    TsallisSoftening,
)
from sparsekd_jax.operators._roots import MAX_STEPS, bracketed_newton, increasing_root, with_slope
from sparsekd_jax.operators.base import apply_unchecked

KS = (2, 5, 16)
FAMILIES = {
    "tsallis(0.3)": TsallisSoftening(0.3),
    "tsallis(1.001)": TsallisSoftening(1.001),
    "tsallis(1.5)": TsallisSoftening(1.5),
    "tsallis(4)": TsallisSoftening(4.0),
    "entropy": EntropyProjection(),
    "euclidean": EuclideanEntropyProjection(),
}


SEARCHES = ("_roots", "_tsallis_half", "euclidean_entropy_projection")
STEPS = {  # that the slowest of the rows takes
    "tsallis(0.3)": 12,
    "tsallis(1.001)": 7,
    "tsallis(1.5)": 6,
    "tsallis(4)": 26,
    "entropy": 8,
    "euclidean": 26,
}


@pytest.mark.parametrize("name", FAMILIES)
def test_a_hundred_thousand_points_converge_in_few_steps(name, x64, monkeypatch):
    """1e5 points in all: 6 families, 3 K's, ties, vertices, faces and T next to 1 among them."""
    for module in SEARCHES:
        monkeypatch.setattr(f"sparsekd_jax.operators.{module}.MAX_STEPS", STEPS[name] + 2)
    operator = FAMILIES[name]
    soften = jax.jit(lambda p, t: apply_unchecked("probabilities", operator.to_compile(p.dtype), p, t))
    for k in KS:
        cases = sweep(k, operator.claims.temperatures, 6000, seed=11)
        p, t = cases.p, cases.high
        if operator.claims.domain == "interior":
            keep = (p > 0).all(-1)
            p, t = np.where(keep[:, None], p, 1 / k), np.where(keep, t, 2.0)
        q = np.asarray(soften(p, t))
        bad = ~np.isfinite(q).all(-1)
        assert not bad.any(), f"K = {k}: {bad.sum()} rows, first {p[bad][0].tolist()}, T = {t[bad][0]!r}"
        assert np.abs(q.sum(-1) - 1).max() <= 1e-12


def test_the_entropy_projection_of_a_row_with_a_zero_is_right_or_refused(x64):
    """A zero stays, so that a deficit below log(4/3) is out of reach; unchecked, it is searched."""
    p = np.array([0.5, 0.3, 0.2, 0.0])
    deficit, least = float(simplex.entropy_deficit(p)), np.log(4 / 3)
    t = deficit / (least + np.array([0.06, 0.03, 1e-3, 1e-5, 1e-9, 0.0, -1e-9, -0.1]))
    for rows in (slice(None), slice(0, 1)):
        soften = jax.jit(lambda p, t: apply_unchecked("probabilities", EntropyProjection(), p, t))
        q = np.asarray(soften(jnp.tile(p, (8, 1))[rows], jnp.asarray(t)[rows]))
        found = np.isfinite(q).all(-1)
        assert found[:2].all()
        assert not found[5:].any()
        reached = np.asarray(simplex.entropy_deficit(q[found]))
        np.testing.assert_allclose(reached, deficit / t[rows][found], rtol=1e-10)


def test_next_to_uniform_rows_the_entropy_projection_starts_at_its_root(x64, monkeypatch):
    monkeypatch.setattr("sparsekd_jax.operators._roots.MAX_STEPS", 2)
    noise = np.random.default_rng(0).normal(size=(50, 7))
    p = (1 + 1e-6 * noise) / (1 + 1e-6 * noise).sum(-1, keepdims=True)
    q = jax.jit(lambda p, t: apply_unchecked("probabilities", EntropyProjection(), p, t))(
        p, np.geomspace(1.1, 1e4)
    )
    assert np.isfinite(q).all()


@pytest.mark.parametrize("name", ["tsallis(0.3)", "tsallis(4)", "entropy", "euclidean"])
def test_a_search_that_is_cut_short_is_refused(name, monkeypatch):
    for module in SEARCHES:
        monkeypatch.setattr(f"sparsekd_jax.operators.{module}.MAX_STEPS", 1)
    p, t = jnp.array([[0.7, 0.2, 0.1], [0.5, 0.4, 0.1]], jnp.float32), jnp.array([3.0, 7.0], jnp.float32)
    soften = jax.jit(lambda p, t: apply_unchecked("probabilities", FAMILIES[name], p, t))
    assert np.isnan(soften(p, t)).all()


@dataclasses.dataclass(frozen=True, eq=False)
class Hopeless(SofteningOperator):
    """A root finder that gives up on rows whose T is above 3."""

    family: ClassVar[str] = "hopeless"

    @property
    def claims(self):
        return Claims(TemperatureRange(), {})

    def _log_kernel(self, centred, temperature):
        log_q, _ = PowerTransform()._log_kernel(centred, temperature)
        return log_q, temperature <= 3


def test_a_root_not_found_raises_eagerly():
    p = np.full((3, 2), 0.5, np.float32)
    with pytest.raises(ConvergenceError, match=r"hopeless: no root found in row \[1\] at T = 5"):
        Hopeless()(p, np.array([1.0, 5.0, 6.0]))
    assert np.isfinite(np.asarray(Hopeless()(p, 2.0))).all()


def test_a_root_not_found_shows_under_jit():
    p = jnp.full((2, 2), 0.5)
    q = jax.jit(lambda t: Hopeless()(p, t))(jnp.array([1.0, 5.0]))
    assert np.isfinite(np.asarray(q[0])).all()
    assert np.isnan(np.asarray(q[1])).all()


def test_a_subclass_without_a_kernel_says_what_to_define():
    class Empty(Hopeless):
        _log_kernel = SofteningOperator._log_kernel

    with pytest.raises(TypeError, match="Empty has no kernel; define `_log_kernel`"):
        Empty()(np.full(2, 0.5, np.float32), 2.0)


def test_checkify_reports_a_root_not_found():
    p = jnp.full((2, 2), 0.5)
    checked = checkify.checkify(lambda t: Hopeless()(p, t))
    error, _ = jax.jit(checked)(jnp.array([1.0, 5.0]))
    assert "a root was not found" in error.get()
    error, _ = jax.jit(checked)(jnp.array([1.0, 2.0]))
    assert error.get() is None


def evaluations(function, low, high, **options):
    """The root of one row, whether it was found, and the points where the function was looked at."""
    points = []

    def looked_at(x):
        points.append(float(x[0]))
        return function(x)

    with jax.disable_jit():
        x, converged = bracketed_newton(looked_at, jnp.array([low]), jnp.array([high]), **options)
    return float(x[0]), bool(converged[0]), points


ROOTS = {  # a function and its slope, a bracket, the root, and how often the function may be looked at
    "straight": (lambda x: (2 * x - 1, jnp.full_like(x, 2)), (-3.0, 9.0), 0.5, 2),
    "cubic": (lambda x: (x**3 + x - 10, 3 * x**2 + 1), (-10.0, 10.0), 2.0, 10),
    "exponential": (lambda x: (jnp.exp(x) - 7, jnp.exp(x)), (-30.0, 20.0), np.log(7), 13),
    "flat far away": (
        lambda x: (jnp.tanh(x) - 0.25, jnp.cosh(x) ** -2),
        (-300.0, 500.0),
        np.arctanh(0.25),
        7,
    ),
    "a jump, by bisection alone": (lambda x: (jnp.sign(x - 0.3), 0 * x), (-1.0, 1.5), 0.3, 53),
    "flat, then steep": (
        lambda x: (
            jnp.where(x < 1, -1, (x - 11) / 10 + jnp.exp(30 * (x - 9.9))),
            jnp.where(x < 1, 0, 0.1 + 30 * jnp.exp(30 * (x - 9.9))),
        ),
        (-10.0, 10.0),
        9.828522684083447,
        11,
    ),
    "far from 0": (lambda x: (x**2 - 1e16, 2 * x), (1.0, 1e9), 1e8, 7),
    "next to 0": (lambda x: (x**3 + x - 1e-20, 3 * x**2 + 1), (-1.0, 3.0), 1e-20, 6),
    "at the low end": (lambda x: (x**3 + x, 3 * x**2 + 1), (0.0, 1.0), 0.0, 5),
    "at the high end": (lambda x: (jnp.expm1(x), jnp.exp(x)), (-2.0, 0.0), 0.0, 2),
    "above the bracket, by rounding": (lambda x: (x - (1 + 3e-16), jnp.ones_like(x)), (0.0, 1.0), 1.0, 2),
    "below the bracket, by rounding": (lambda x: (x - (1 - 3e-16), jnp.ones_like(x)), (1.0, 2.0), 1.0, 2),
}


@pytest.mark.parametrize("name", ROOTS)
def test_bracketed_newton_finds_the_root_in_few_steps(name, x64):
    function, bracket, root, most = ROOTS[name]
    x, converged, points = evaluations(function, *bracket)
    assert converged
    assert x == pytest.approx(root, rel=1e-15, abs=5e-16)
    assert len(points) <= most + most // 8  # rounding of another machine may cost a step of many
    assert bracket[0] <= min(points) <= max(points) <= bracket[1]


def test_a_row_among_others_is_found_as_if_alone(x64):
    functions, brackets = zip(*((f, b) for f, b, *_ in ROOTS.values()), strict=True)

    def each(x):
        values, slopes = zip(*(f(row) for f, row in zip(functions, x, strict=True)), strict=True)
        return jnp.stack(values), jnp.stack(slopes)

    with jax.disable_jit():
        together, converged = bracketed_newton(each, *jnp.split(jnp.asarray(brackets), 2, axis=1))
    assert converged.all()
    alone = [[evaluations(f, *b)[0]] for f, b in zip(functions, brackets, strict=True)]
    np.testing.assert_array_equal(together, alone)


def test_bracketed_newton_starts_where_it_is_told_to(x64):
    function, bracket, root, most = ROOTS["cubic"]
    x, converged, points = evaluations(function, *bracket, start=jnp.array([2.01]))
    assert (converged, points[0]) == (True, 2.01)
    assert len(points) < most / 2
    assert x == pytest.approx(root, rel=1e-15)
    assert evaluations(function, *bracket, start=jnp.array([70.0]))[2][0] == 10.0
    assert evaluations(function, *bracket)[2][0] == 0.0


def test_a_tiny_root_to_relative_accuracy(x64):
    def function(x):
        return (jnp.expm1(x * 1e30) - 2) * 1e-9, 1e21 * jnp.exp(x * 1e30)

    x, converged, _ = evaluations(function, -1e-29, 1e-29, unit=1e-40)
    assert converged
    assert x == pytest.approx(np.log(3) * 1e-30, rel=1e-15, abs=0)
    assert (
        len(evaluations(function, -1e-29, 1e-29)[2]) == 1
    )  # of unit 1, the bracket is closed from the start


def test_a_function_that_is_nan_is_not_converged(x64):
    x, converged, points = evaluations(lambda x: (x * jnp.nan, x * jnp.nan), -1.0, 2.0)
    assert not converged
    assert -1 <= x <= 2
    assert len(points) == MAX_STEPS


def cubic(x, target):
    return x**3 + 1e-3 * x - target, 3 * x**2 + 1e-3


def test_increasing_root_and_its_derivative(x64):
    targets = jnp.asarray([[-8.0], [0.0], [1e-9], [27.0]])
    low, high = jnp.full_like(targets, -10.0), jnp.full_like(targets, 10.0)
    x, converged = increasing_root(cubic, low, high, (targets,))
    assert converged.all()
    np.testing.assert_allclose(cubic(x, targets)[0], 0, atol=1e-13)
    by_autodiff = with_slope(lambda x, target: cubic(x, target)[0])
    np.testing.assert_allclose(by_autodiff(x, targets), cubic(x, targets), rtol=1e-14)
    slope = jax.grad(lambda t: increasing_root(cubic, low, high, (t,))[0].sum())(targets)
    np.testing.assert_allclose(slope, 1 / (3 * x**2 + 1e-3), rtol=1e-9)


def test_where_the_residual_is_flat_the_root_does_not_move(x64):
    def residual(x, target):
        return (x - target) ** 3, 3 * (x - target) ** 2

    targets = jnp.array([[0.0], [0.0]])
    low, high = jnp.array([[-1.0], [-1.0]]), jnp.array([[1.0], [3.0]])  # the middle of the first is the root
    x, slope = jax.value_and_grad(lambda t: increasing_root(residual, low, high, (t,))[0][0, 0])(targets)
    assert float(x) == 0
    np.testing.assert_array_equal(slope, 0)
    moved = jax.jvp(lambda t: increasing_root(residual, low, high, (t,))[0], (targets,), (targets + 1,))[1]
    assert float(moved[0, 0]) == 0


def test_increasing_root_without_a_root_ends_at_the_bracket(x64):
    one = jnp.ones((1, 1))
    x, _ = increasing_root(cubic, -one, one, (100 * one,))
    assert float(x[0, 0]) == pytest.approx(1.0, abs=1e-9)


@pytest.mark.parametrize("specs", [("rows", "rows"), ("rows", None), (None, "rows")])
@pytest.mark.parametrize("name", ["tsallis(0.5)", "tsallis(1.5)", "euclidean-entropy-projection"])
def test_roots_and_their_derivatives_in_shard_map(name, specs):
    """What a search carries varies over the devices as the rows or the temperatures do."""
    operator = operators.parse(name)
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("rows",))
    rows, *given = (jax.sharding.PartitionSpec(spec) for spec in ("rows", *specs))
    p, t = jnp.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]]), jnp.array([2.0, 3.0])
    sharded = jax.shard_map(lambda p, t: operator(p, t), mesh=mesh, in_specs=tuple(given), out_specs=rows)
    np.testing.assert_allclose(jax.jit(sharded)(p, t), operator(p, t), rtol=1e-6)
    slope = jax.jit(jax.grad(lambda p: (sharded(p, t) ** 2).sum()))(p)
    wanted = jax.jit(jax.grad(lambda p: (operator(p, t) ** 2).sum()))(p)
    np.testing.assert_allclose(slope, wanted, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("entry", ["__call__", "log", "from_logits"])
def test_a_search_in_shard_map_where_the_hyper_parameter_alone_differs(entry):
    """An alpha a device, for rows and a temperature that are the same on all."""
    mesh = jax.sharding.Mesh(np.array(jax.devices()[:1]), ("alphas",))
    each, all_alike = jax.sharding.PartitionSpec("alphas"), jax.sharding.PartitionSpec()
    given = jnp.array([[0.7, 0.2, 0.1], [0.5, 0.3, 0.2]])
    given = given if entry == "__call__" else jnp.log(given)

    def soften(alpha, x):
        return getattr(TsallisSoftening(alpha[0]), entry)(x, 2.0)

    sharded = jax.shard_map(soften, mesh=mesh, in_specs=(each, all_alike), out_specs=each)
    alpha = jnp.array([1.7])
    np.testing.assert_allclose(jax.jit(sharded)(alpha, given), soften(alpha, given), rtol=1e-6)
    slope = jax.jit(jax.grad(lambda alpha: (sharded(alpha, given) ** 2).sum()))(alpha)
    wanted = jax.jit(jax.grad(lambda alpha: (soften(alpha, given) ** 2).sum()))(alpha)
    np.testing.assert_allclose(slope, wanted, rtol=1e-5)
