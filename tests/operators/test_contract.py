"""One contract, run over every operator of the verdict table, and what the families promise each other."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax import export

from sparsekd_jax import distill, operators
from sparsekd_jax.operators import (
    ConvexMixture,
    EntropyProjection,
    EuclideanEntropyProjection,
    PowerTransform,
    TsallisSoftening,
    lawless,
)
from sparsekd_jax.operators.base import _run, apply_unchecked

ALL = {row.label: row for row in operators.table_rows()}
P = np.random.default_rng(0).dirichlet(np.ones(5), 6)


def temperature_of(row):
    return 0.5 if row.temperatures.low == 0 else 2.5


def test_rows_of_the_table_are_labelled_by_their_operators():
    assert [row.label.partition(",")[0] for row in ALL.values()] == [
        row.operator.name for row in ALL.values()
    ]
    with pytest.raises(dataclasses.FrozenInstanceError):
        ALL["power"].label = "another"


@pytest.mark.parametrize("label", ALL)
def test_contract(label, x64):
    row = ALL[label]
    op, t = row.operator, temperature_of(row)
    p = jnp.asarray(P)
    q = op(p, t)
    assert q.shape == p.shape
    assert q.dtype == p.dtype
    assert np.asarray(q).min() >= 0
    np.testing.assert_allclose(q.sum(-1), 1, rtol=0, atol=1e-12)
    # three entries, one answer
    np.testing.assert_allclose(np.exp(op.log(jnp.log(p), t)), q, rtol=1e-10, atol=1e-14)
    np.testing.assert_allclose(op.from_logits(jnp.log(p) + 5.0, t), q, rtol=1e-10, atol=1e-14)
    # any batch shape; a temperature a row
    np.testing.assert_allclose(op(p.reshape(2, 3, 5), t), q.reshape(2, 3, 5), rtol=1e-14)
    batched = op(p, jnp.full(6, t))
    np.testing.assert_allclose(batched, q, rtol=1e-14)
    np.testing.assert_allclose(jax.vmap(lambda row: op(row, t))(p), q, rtol=1e-12, atol=1e-15)
    np.testing.assert_allclose(jax.jit(lambda op, p, t: op(p, t))(op, p, t), q, rtol=1e-12, atol=1e-15)
    with pytest.raises(dataclasses.FrozenInstanceError):
        op.family = "another"
    # a pytree, whose round trip is the operator
    leaves, tree = jax.tree.flatten(op)
    again = jax.tree.unflatten(tree, leaves)
    np.testing.assert_array_equal(again(p, t), q)
    assert again is not op
    assert (again, hash(again)) == (op, hash(op))


def test_operators_are_equal_by_their_hyper_parameters():
    named = [
        operators.parse(name) for name in ("power", "mixture", "tsallis(2)", "tsallis(3)", "prior-directed")
    ]
    assert [[a == b for b in named] for a in named] == np.eye(5, dtype=bool).tolist()
    assert TsallisSoftening(2) == operators.parse("tsallis(2)")  # 2 and 2.0
    assert ConvexMixture(schedule=lambda t: 1 / t) != ConvexMixture()
    assert PowerTransform() != "power"
    families = [TsallisSoftening(jnp.array(alphas)) for alphas in ([0.5, 2.0], [0.5, 2.0], [0.5, 3.0])]
    assert families[0] == families[1]
    assert len(set(families)) == 2
    assert TsallisSoftening(jnp.float32(2)) != TsallisSoftening(np.float64(2))  # another program


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, np.float16])
def test_a_copy_of_an_operator_that_diverged_is_equal_to_it(dtype):
    """NaN is none of its numbers, but what an optimizer may leave in it; copies then hash alike too."""
    diverged, copy, other = (
        jax.tree.map(lambda _, v=value: jnp.array([v, 2.0], dtype), TsallisSoftening(2.0))
        for value in (np.nan, np.nan, 1.0)
    )
    assert (diverged, hash(diverged)) == (copy, hash(copy))
    assert diverged != other
    shapes = jax.eval_shape(lambda op: op, diverged)
    assert (shapes == diverged, shapes == jax.eval_shape(lambda op: op, copy)) == (False, True)


def test_a_traced_hyper_parameter_is_equal_to_itself_alone():
    def of(alpha, other):
        assert TsallisSoftening(alpha) == TsallisSoftening(alpha)
        assert TsallisSoftening(alpha) != TsallisSoftening(other)
        return alpha

    jax.jit(of)(2.0, 2.0)


@pytest.mark.parametrize("label", ALL)
def test_nan_under_jit_is_nan_in_every_entry(label):
    """Eager calls refuse it; in a program it must not look like a class that the row excludes."""
    row = ALL[label]
    op, t = row.operator, temperature_of(row)
    for x in (np.array([0.5, np.nan, 0.5], np.float32), np.full(3, np.nan, np.float32)):
        for entry in (op, op.log, op.from_logits):
            assert np.isnan(jax.jit(entry)(x, t)).any()


def test_operators_are_told_apart_by_their_treedefs():
    """A jit cache compares treedefs: equal ones would run one operator for another."""
    rows = list(ALL.values())
    for i, row in enumerate(rows):
        for other in rows[:i]:
            if type(row.operator) is not type(other.operator):
                assert jax.tree.structure(row.operator) != jax.tree.structure(other.operator)
    # A subclass is a pytree without saying so, and another one than its parent.
    child = type("Child", (PowerTransform,), {})()
    assert jax.tree.structure(child) != jax.tree.structure(PowerTransform())
    assert jax.tree.leaves(TsallisSoftening(1.5)) == [1.5]
    ((path, _),) = jax.tree_util.tree_leaves_with_path(TsallisSoftening(1.5))
    assert jax.tree_util.keystr(path) == ".alpha"


@pytest.mark.parametrize("label", ALL)
def test_a_second_temperature_compiles_nothing(label):
    row = ALL[label]
    p, t = jnp.asarray(P, jnp.float32), temperature_of(row)
    row.operator(p, t)
    before = _run._cache_size()
    for other in (t * 1.1, np.float64(t), np.float32(t), jnp.asarray(t), np.full(6, t)):
        row.operator(p, other)
    assert _run._cache_size() == before


def test_a_family_is_vmapped_and_differentiated(x64):
    alphas = jnp.array([0.5, 1.0, 1.5, 2.0, 3.0])
    rows = jax.vmap(lambda op: op(jnp.asarray(P), 2.0))(TsallisSoftening(alphas))
    for alpha, q in zip(alphas, rows, strict=True):
        np.testing.assert_allclose(q, TsallisSoftening(float(alpha))(P, 2.0), rtol=1e-12)
    # In one program both forms are computed, and what the other gives must not reach a slope as 0·NaN.
    one = jax.jit(jax.grad(lambda alpha, p: TsallisSoftening(alpha)(p, 2.0)[0], argnums=(0, 1)))
    for of_all, of_each in zip(
        jax.vmap(one, (0, None))(alphas, jnp.asarray(P[0])),
        zip(*(one(alpha, jnp.asarray(P[0])) for alpha in alphas), strict=True),
        strict=True,
    ):
        np.testing.assert_allclose(of_all, np.stack(of_each), rtol=1e-10)
    slope = jax.grad(lambda alpha: TsallisSoftening(alpha)(jnp.asarray(P), 2.0)[:, 0].sum())(1.5)
    step = 1e-6
    up, down = (TsallisSoftening(1.5 + s)(P, 2.0)[:, 0].sum() for s in (step, -step))
    assert float(slope) == pytest.approx(float((up - down) / (2 * step)), rel=1e-6)
    soften = jax.jit(lambda alpha, t: TsallisSoftening(alpha)(jnp.asarray(P[0]), t))
    slopes = jax.jit(jax.jacfwd(soften))
    for alpha in (1.0, 1 + 1e-9, 1.004, 0.97, 2.5):  # across both forms, and where α − 1 vanishes
        for t in (0.4, 1.0, 1.7):
            h = 1e-4
            near, far = (np.asarray(soften(alpha + s, t) - soften(alpha - s, t)) for s in (h, 2 * h))
            expected = (8 * near - far) / (12 * h)
            np.testing.assert_allclose(slopes(alpha, t), expected, rtol=1e-8, atol=1e-9)
    slope = jax.grad(lambda e: lawless.LabelSmoothing(e)(jnp.asarray(P), 2.0)[:, 0].sum())(0.1)
    assert float(slope) == pytest.approx(float((0.2 - P[:, 0]).sum()), rel=1e-9)


DIFFERENTIABLE = {
    "power": PowerTransform(),
    "mixture": ConvexMixture(),
    "tsallis(0.5)": TsallisSoftening(0.5),
    "tsallis(1)": TsallisSoftening(1.0),
    "tsallis(1.5)": TsallisSoftening(1.5),
    "tsallis(3)": TsallisSoftening(3.0),
    "entropy": EntropyProjection(),
    "euclidean": EuclideanEntropyProjection(),
}


DIFFERENTIABLE_AT = [
    (name, t) for name, op in DIFFERENTIABLE.items() for t in (0.8, 1.0, 2.0) if t in op.claims.temperatures
]


@functools.cache
def value_and_gradient(name, entry):
    """Of a weighted sum of the output, compiled once for every T."""

    @jax.jit
    def value(z, t):
        weights = jnp.asarray([1.0, -2.0, 0.5, 3.0])
        return (weights * apply_unchecked(entry, DIFFERENTIABLE[name], z[None], t[None])[0]).sum()

    return value, jax.jit(jax.grad(value, argnums=(0, 1)))


@pytest.mark.parametrize("entry", ["logits", "log"])
@pytest.mark.parametrize(("name", "t"), DIFFERENTIABLE_AT)
def test_gradients_match_differences(name, t, entry, x64):
    op = DIFFERENTIABLE[name]
    value, gradient = value_and_gradient(name, entry)
    z, t = jnp.log(jnp.asarray([0.4, 0.3, 0.2, 0.1])), jnp.asarray(t)
    by_z, by_t = gradient(z, t)
    h = 1e-6
    for i in range(4):
        step = h * jnp.eye(4)[i]
        difference = (value(z + step, t) - value(z - step, t)) / (2 * h)
        assert float(by_z[i]) == pytest.approx(float(difference), rel=1e-5, abs=1e-8)
    one_sided = t == 1.0 and op.claims.temperatures.low == 1.0
    if one_sided:
        difference = (-3 * value(z, t) + 4 * value(z, t + h) - value(z, t + 2 * h)) / (2 * h)
    elif t == 1.0 and name == "mixture":  # the formula changes at T = 1, its derivative does not
        difference = (value(z, t + h) - value(z, t)) / h
    else:
        difference = (value(z, t + h) - value(z, t - h)) / (2 * h)
    assert float(by_t) == pytest.approx(float(difference), rel=1e-4, abs=1e-7)


@pytest.mark.parametrize("label", ALL)
def test_gradients_at_zeros_are_never_nan(label):
    row = ALL[label]
    op, t = row.operator, temperature_of(row)
    p = jnp.array([0.6, 0.3, 0.1] if op.claims.domain == "interior" else [0.6, 0.4, 0.0])
    for entry, x in ((op, p), (op.log, jnp.log(p)), (op.from_logits, jnp.log(p))):

        def finite(x, t, entry=entry):
            q = entry(x, t)
            return jnp.where(jnp.isfinite(q), q, 0.0)

        jacobian_p, jacobian_t = jax.jit(jax.jacobian(finite, argnums=(0, 1)))(x, t)
        assert not np.isnan(np.asarray(jacobian_p)).any()
        assert not np.isnan(np.asarray(jacobian_t)).any()


def test_tsallis_runs_from_power_to_mixture(x64):
    for t in (0.7, 1.0, 3.0):
        np.testing.assert_allclose(TsallisSoftening(1.0)(P, t), PowerTransform()(P, t), rtol=1e-12)
        np.testing.assert_allclose(TsallisSoftening(1 + 1e-9)(P, t), PowerTransform()(P, t), rtol=1e-7)
        np.testing.assert_allclose(TsallisSoftening(2.0)(P, t), ConvexMixture()(P, t), rtol=1e-11, atol=1e-15)


def test_lipschitz_trichotomy(x64):
    """theory.md section 2: T^(1/(1−α)) below 1; infinite at zeros in [1, 2); at most 1 from 2 on."""
    h, t = 1e-9, 2.0
    p, r = np.array([1 - h, h]), np.array([1.0, 0.0])
    ratios = {}
    for alpha in (0.5, 1.5, 3.0):
        op = TsallisSoftening(alpha)
        ratios[alpha] = np.abs(np.asarray(op(p, t)) - np.asarray(op(r, t))).sum() / (2 * h)
    assert 3 < ratios[0.5] <= t ** (1 / (1 - 0.5)) + 1e-6
    assert ratios[1.5] > 1e3
    assert ratios[3.0] <= 1


def test_a_custom_schedule_is_the_mixture_it_says(x64):
    op = ConvexMixture(lambda t: 1 - 1 / t**2)
    assert (op.name, ConvexMixture().name) == ("mixture[<lambda>]", "mixture")
    np.testing.assert_allclose(op(P, 3.0), P / 9 + (1 - 1 / 9) / 5, rtol=1e-14)
    with pytest.raises(ValueError, match=r"takes T in \[1, ∞\)"):
        op(P, 0.5)


@pytest.mark.parametrize("label", ALL)
def test_a_program_of_any_number_of_rows_is_exported(label):
    """Of a size that no check can compare with another, nor cut into blocks; with its derivative."""
    row, rows = ALL[label], export.symbolic_shape("rows")
    given = [jax.ShapeDtypeStruct((*rows, 5), jnp.float32), jax.ShapeDtypeStruct(rows, jnp.float32)]

    def both(logits, t):
        return jax.jvp(lambda z: row.operator.from_logits(z, t), (logits,), (logits,))

    p, t = jnp.asarray(P, jnp.float32), jnp.full(len(P), temperature_of(row), jnp.float32)
    exported = export.export(jax.jit(both))(*given)
    for found, wanted in zip(exported.call(jnp.log(p), t), both(jnp.log(p), t), strict=True):
        np.testing.assert_allclose(found, wanted, rtol=1e-5, atol=1e-6)


def test_a_loss_of_any_number_of_rows_is_exported():
    rows = export.symbolic_shape("rows")
    given = [jax.ShapeDtypeStruct((*rows, 5), jnp.float32)] * 2 + [jax.ShapeDtypeStruct(rows, jnp.int32)]
    loss = functools.partial(distill.distillation_loss, operator=PowerTransform(), temperature=2.0, alpha=0.1)
    z, labels = jnp.log(jnp.asarray(P, jnp.float32)), jnp.arange(len(P)) % 5
    exported = export.export(jax.jit(loss))(*given)
    np.testing.assert_allclose(exported.call(z, z[::-1], labels), loss(z, z[::-1], labels), rtol=1e-5)
