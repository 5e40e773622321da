"""The fused loss against closed forms in float64 and the plain losses; its memory."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st
from scipy.special import log_softmax

from sparsekd_jax import operators, targets
from sparsekd_jax.distill import LinearLogits, distillation_loss, linear_distillation_loss
from sparsekd_jax.distill import _fused_program as program
from sparsekd_jax.distill.losses import weighted_sum
from sparsekd_jax.distill.target_losses import target_divergence
from tests.distill.fused_problem import (
    DIVERGENCES,
    MIXTURE,
    POWER,
    D,
    N,
    V,
    close,
    fused,
    jit,
    problem,
    reference,
    wide,
)

x64 = pytest.mark.usefixtures("x64")


@pytest.fixture(autouse=True)
def small_pieces(monkeypatch):
    """Blocks of 3 rows and tiles of 8 columns: at these sizes each loop has several turns and a remainder."""
    monkeypatch.setattr(program, "_BLOCK", 3 * V)
    monkeypatch.setattr(program, "_TILE", 8 * D)


@x64
@pytest.mark.parametrize("soften_student", [True, False])
@pytest.mark.parametrize("name", DIVERGENCES)
def test_value_and_gradients_are_those_of_closed_forms(name, soften_student):
    given = problem()
    for temperature, alpha in [(1.0, 0.0), (3.0, 0.3), (0.7, 1.0)]:
        ours = fused(name, soften_student)(*given, temperature, alpha)
        options = (temperature, alpha, name, soften_student)
        assert close(ours, reference(*given, *options), 1e-12)
        if alpha < 1:  # the broken twins: T² left out or put in, and another direction
            other = "forward-kl" if name == "reverse-kl" else "reverse-kl"
            assert not close(ours, reference(*given, temperature, alpha, other, soften_student), 1e-3)
        if alpha == 0.3:
            scale = 1.0 if soften_student else 9.0
            assert not close(ours, reference(*given, *options, scale=scale), 1e-2)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_float32_is_within_1e5_of_float64(name):
    given = problem(1, n=64, d=32, dtype=np.float32)
    ours = fused(name, chunk_size=24)(*given, 2.0, 0.1)
    assert ours[0].dtype == np.float32
    assert close(ours, reference(*given, 2.0, 0.1, name, True), 1e-5)


def test_bfloat16_is_summed_in_float32():
    given = problem(2, n=64, d=256, dtype=jnp.bfloat16)
    value, gradients = fused(chunk_size=24)(*given, 2.0, 0.1)
    expected, slopes = reference(*given, 2.0, 0.1, "forward-kl", True)
    assert {x.dtype for x in jax.tree.leaves(gradients)} == {jnp.dtype(jnp.bfloat16)}
    assert value.dtype == np.float32
    # Products of bfloat16 are exact in float32, so the value is as good as in float32; gradients are rounded.
    assert abs(float(value) - expected) < 1e-5 * max(expected, 1)
    assert close((expected, gradients), (expected, slopes), 4e-3)
    # The twin rounds the logits.
    rounded = [np.asarray(jnp.asarray(wide(x)[2], jnp.bfloat16), np.float64) for x in given[:2]]
    one = [LinearLogits(z, np.eye(V), np.zeros(V)) for z in rounded]
    twin, _ = reference(*one, *given[2:], 2.0, 0.1, "forward-kl", True)
    assert abs(twin - expected) > 1e-4


@pytest.mark.parametrize("chunk_size", [1, 4, 12, 13, 100, None])
def test_the_size_of_chunks_changes_nothing(chunk_size, x64):
    given = problem(3)
    ours = fused("forward-kl", True, chunk_size)(*given, 2.0, 0.3)
    assert close(ours, reference(*given, 2.0, 0.3, "forward-kl", True), 1e-12)


@x64
@given(seed=st.integers(0, 2**16), temperature=st.floats(0.3, 20), alpha=st.floats(0, 1))
def test_the_size_of_chunks_changes_nothing_whatever_the_data(seed, temperature, alpha):
    given = problem(seed)
    given = (*given[:3], given[3].at[seed % N].set(1.0))
    value, gradients = fused()(*given, temperature, alpha)
    other, slopes = fused(chunk_size=13)(*given, temperature, alpha)
    assert close((value, gradients), (float(other), [np.asarray(x) for x in jax.tree.leaves(slopes)]), 1e-10)


@x64
def test_a_remainder_counted_twice_or_left_out_is_seen(monkeypatch):
    given = problem(4)
    expected = reference(*given, 2.0, 0.3, "forward-kl", True)
    right = program._window

    def twice(i, size, total):
        start, fresh = right(i, size, total)
        return start, jnp.ones_like(fresh)

    def left_out(i, size, total):
        start, fresh = right(i, size, total)
        return start, fresh & (i * size + size <= total)

    for twin in (twice, left_out, right):
        monkeypatch.setattr(program, "_window", twin)
        program._run.clear_cache()  # which knows nothing of the twin, and must not keep it
        ours = fused.__wrapped__()(*given, 2.0, 0.3)
        assert close(ours, expected, 1e-12) == (twin is right)


def plain(student, target, labels, weights, **options):
    z = student.hidden @ student.matrix + student.bias[None]
    zt = target.hidden @ target.matrix + target.bias[None]
    return weighted_sum(distillation_loss(z, zt, labels, **options), weights).mean


@x64
@pytest.mark.parametrize(
    "options",
    [
        {"operator": MIXTURE, "temperature": 2.0},
        {"operator": operators.get("tsallis", alpha=1.5), "temperature": 2.0, "soften_student": False},
        {"operator": lambda p, t: p / t + (1 - 1 / t) / p.shape[-1], "temperature": 2.0, "scale": 3.0},
        {"operator": POWER, "temperature": np.linspace(1, 3, N), "divergence": "total-variation"},
    ],
    ids=["mixture", "tsallis", "function", "one T a row"],
)
def test_any_operator_and_divergence_as_in_the_plain_loss(options):
    student, teacher, labels, weights = problem(5)
    ours = jit(
        jax.value_and_grad(
            lambda s: (
                linear_distillation_loss(
                    s, teacher, labels, alpha=0.2, weights=weights, chunk_size=5, **options
                ).mean
            )
        )
    )(student)
    value, slopes = jit(
        jax.value_and_grad(lambda s: plain(s, teacher, labels, weights, alpha=0.2, **options))
    )(student)
    assert close(ours, (float(value), [np.asarray(x) for x in jax.tree.leaves(slopes)]), 1e-10)


def partly_seen(kind):
    """A target, the operator that softens it, and the same target as `Softened` at T = 2."""
    _, teacher, _, _ = problem(6)
    log_p = jnp.asarray(log_softmax(wide(teacher)[2], axis=-1))
    if kind == "samples":
        counts = np.random.default_rng(7).multinomial(20, np.exp(log_p))
        seen, operator = targets.Samples.from_counts(counts), MIXTURE
    else:
        seen, operator = targets.top_k(log_p, 6), POWER
    return seen, operator, targets.soften(operator, seen, 2.0)


@x64
@pytest.mark.parametrize(
    ("kind", "tail"), [("top-k", "uniform"), ("top-k", "bounds"), ("top-k", "bucket"), ("samples", "uniform")]
)
def test_targets_seen_in_part(kind, tail):
    seen, operator, softened = partly_seen(kind)
    student, _, labels, weights = problem(6)
    both = kind == "top-k"
    options = {"operator": operator, "temperature": 2.0, "alpha": 0.2, "soften_student": both}

    @jit
    @jax.value_and_grad
    def ours(s, target):
        loss = linear_distillation_loss(
            s, target, labels, weights=weights, tail=tail, chunk_size=5, **options
        )
        return loss.mean

    @jit
    @jax.value_and_grad
    def expected(s):
        z = s.hidden @ s.matrix + s.bias[None]
        soft = target_divergence(z / 2 if both else z, softened, tail)
        hard = -jnp.take_along_axis(jax.nn.log_softmax(z), labels[:, None], axis=-1)[:, 0]
        return weighted_sum(0.8 * (4 if both else 1) * soft + 0.2 * hard, weights).mean

    value, slopes = expected(student)
    slopes = [np.asarray(x) for x in jax.tree.leaves(slopes)]
    for target in (seen, softened):
        assert close(ours(student, target), (float(value), slopes), 1e-10)


@x64
def test_a_flat_tail_is_the_dense_target_that_it_stands_for():
    """Top-k of a teacher whose other tokens are equal loses nothing; renormalising on the k would."""
    student, _, labels, weights = problem(8)
    rng = np.random.default_rng(8)
    z = np.full((N, V), -1.0)
    for row in z:
        row[rng.permutation(V)[:6]] = rng.uniform(0, 3, size=6)
    dense = targets.Dense.from_logits(jnp.asarray(z))
    options = {"operator": POWER, "temperature": 2.0, "alpha": 0.2, "weights": weights, "chunk_size": 5}

    def mean(s, target, **more):
        return linear_distillation_loss(s, target, labels, **options, **more).mean

    value, slopes = jit(jax.value_and_grad(mean))(student, dense)
    expected = reference(
        student, LinearLogits(z, np.eye(V), np.zeros(V)), labels, weights, 2.0, 0.2, "forward-kl", True
    )
    assert close((value, slopes), expected, 1e-12)
    top = targets.top_k(dense.log_probs, 6)
    ours = jit(jax.value_and_grad(functools.partial(mean, tail="uniform")))(student, top)
    assert close(ours, expected, 1e-10)
    blind = jit(functools.partial(mean, tail="renormalized-top-k"))(student, top)
    assert abs(float(blind) - expected[0]) > 0.1


@x64
@pytest.mark.parametrize("kind", ["linear", "dense", "top-k", "samples"])
def test_rows_of_weight_0_reach_nothing_whatever_they_hold(kind):
    student, teacher, labels, _ = problem(9)
    keep = np.ones(N, bool)
    keep[[0, 4, 9, 12]] = False
    operator, tail = (POWER, None) if kind in ("linear", "dense") else (partly_seen(kind)[1], "uniform")
    if kind == "linear":
        target = dataclasses.replace(teacher, bias=None)
    elif kind == "dense":
        target = targets.Dense.from_logits(teacher.hidden @ teacher.matrix)
    else:
        target = partly_seen(kind)[0]

    def some(tree, rows):
        cut = lambda x: x[rows] if x.shape[:1] == (N,) else x  # noqa: E731
        return jax.tree.map(cut, tree)

    def spoilt(tree):
        def spoil(x):
            if x.shape[:1] != (N,):
                return x
            return x.at[~keep].set(jnp.nan if jnp.issubdtype(x.dtype, jnp.floating) else -100)

        return jax.tree.map(spoil, tree)

    def mean(s, target, labels, weights):
        options = {
            "operator": operator,
            "temperature": 2.0,
            "alpha": 0.3,
            "soften_student": kind != "samples",
        }
        return linear_distillation_loss(
            s, target, labels, weights=weights, tail=tail, chunk_size=5, **options
        ).mean

    both = jax.value_and_grad(mean)
    value, gradient = both(spoilt(student), spoilt(target), spoilt(labels), jnp.asarray(keep))
    expected, slopes = both(some(student, keep), some(target, keep), labels[keep], None)
    assert not np.asarray(gradient.hidden[~keep]).any()
    np.testing.assert_allclose(value, expected, rtol=1e-12)
    np.testing.assert_allclose(gradient.hidden[keep], slopes.hidden, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(gradient.matrix, slopes.matrix, rtol=1e-9, atol=1e-14)
    np.testing.assert_allclose(gradient.bias, slopes.bias, rtol=1e-9, atol=1e-14)


@x64
def test_excluded_tokens_give_the_limits_and_no_nan():
    student, teacher, labels, _ = problem(10)
    given = fused()
    none = jnp.ones(N)
    off = jnp.zeros(V).at[3].set(-jnp.inf)
    labels = jnp.where(labels == 3, 4, labels)
    excluded = dataclasses.replace(teacher, bias=teacher.bias + off)
    for own, value_is_finite in [(student.bias, True), (student.bias + off, True)]:
        value, gradient = given(dataclasses.replace(student, bias=own), excluded, labels, none, 2.0, 0.3)
        assert np.isfinite(value) == value_is_finite
        assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    alone = dataclasses.replace(student, bias=student.bias + off)
    value, gradient = given(alone, teacher, labels, none, 2.0, 0.3)
    assert value == np.inf
    assert all(np.isfinite(x).all() for x in jax.tree.leaves(gradient))
    # Labels are looked at in eager code; traced, one outside the classes is NaN and never another class.
    assert np.isnan(given(student, teacher, labels.at[2].set(V), none, 2.0, 0.3)[0])
    assert np.isnan(given(student, teacher, labels.at[2].set(-1), none, 2.0, 0.3)[0])


@x64
def test_numerators_add_up_and_a_cotangent_scales():
    student, teacher, _, weights = problem(11)
    options = {"operator": POWER, "temperature": 2.0}

    def part(s, rows):
        cut = lambda x: dataclasses.replace(x, hidden=x.hidden[rows])  # noqa: E731
        return linear_distillation_loss(cut(s), cut(teacher), weights=weights[rows], **options)

    whole = jax.grad(lambda s: part(s, slice(None)).mean)(student)
    cuts = (slice(0, 1), slice(1, 13))
    sums = part(student, cuts[0]) + part(student, cuts[1])
    np.testing.assert_allclose(sums.mean, part(student, slice(None)).mean, rtol=1e-12)
    added = [jax.grad(lambda s, c=cut: 5 * part(s, c).numerator)(student) for cut in cuts]
    total = jax.tree.map(lambda a, b: (a + b) / 5 / weights.sum(), *added)
    for ours, theirs in zip(jax.tree.leaves(total), jax.tree.leaves(whole), strict=True):
        np.testing.assert_allclose(ours, theirs, rtol=1e-10, atol=1e-15)
    batch = jax.tree.map(lambda x: x.reshape(1, N, -1) if x.shape[0] == N else x, (student, teacher))
    shaped = linear_distillation_loss(*batch, weights=weights[None], **options)
    np.testing.assert_allclose(shaped.mean, sums.mean, rtol=1e-12)


@pytest.mark.parametrize("alpha", [1.5, 1.7])
def test_eager_calls_share_one_program(alpha):
    """With α an argument of it: the same program serves another α of its form, and an operator made anew."""
    student, teacher, labels, _ = problem(16, dtype=np.float32)

    def call(alpha, linear):
        operator = operators.get("tsallis", alpha=alpha)
        options = {"operator": operator, "temperature": 2.0, "alpha": 0.3}
        loss = lambda s: linear_distillation_loss(s, linear, labels, **options).numerator  # noqa: E731
        return loss(student), jax.grad(loss)(student).hidden

    call(alpha, teacher)
    before = program._run._cache_size()
    value, slope = call(alpha, teacher)
    assert program._run._cache_size() == before
    compiled = jit(lambda t: call(alpha, t))(teacher)
    np.testing.assert_allclose(value, compiled[0], rtol=1e-5)
    np.testing.assert_allclose(slope, compiled[1], rtol=1e-4, atol=1e-6)
    if alpha != 1.5:
        call(alpha + 0.01, teacher)
        assert program._run._cache_size() == before


def products(function, *given):
    return str(jax.make_jaxpr(function)(*given)).count("dot_general")


def test_no_product_is_computed_that_nobody_asked_for():
    student, teacher, _, _ = problem(12, dtype=np.float32)
    dense = targets.Dense.from_logits(teacher.hidden @ teacher.matrix)

    def value(s, target):
        return linear_distillation_loss(s, target, operator=POWER, temperature=2.0).numerator

    def by_hidden(h, target):
        return value(dataclasses.replace(student, hidden=h), target)

    assert products(value, student, teacher) == 2
    assert products(value, student, dense) == 1
    assert products(jax.grad(by_hidden), student.hidden, teacher) == 3
    assert products(jax.grad(value), student, teacher) == 4
    assert products(jax.grad(value), student, dense) == 3


def test_temporaries_are_a_small_part_and_do_not_grow_with_the_vocabulary(monkeypatch):
    monkeypatch.undo()  # the sizes of a user
    rows, width = 2048, 256

    def temporaries(function, size):
        linear = LinearLogits(
            *(jax.ShapeDtypeStruct(s, jnp.float32) for s in ((rows, width), (width, size), (size,)))
        )
        labels = jax.ShapeDtypeStruct((rows,), jnp.int32)
        compiled = jit(jax.value_and_grad(function)).lower(linear, linear, labels).compile()
        return compiled.memory_analysis().temp_size_in_bytes

    options = {"operator": POWER, "temperature": 2.0, "alpha": 0.1}

    def mean(student, teacher, labels):
        return linear_distillation_loss(student, teacher, labels, **options).mean

    small = temporaries(mean, 32768)
    allowed = 0.06 * temporaries(lambda s, t, y: plain(s, t, y, None, **options), 32768)
    assert small <= allowed
    for size, found in ((32768, small), (262144, temporaries(mean, 262144))):
        # Two arrays of held logits, and what a block makes of its own.
        assert found <= 4 * (2 * program._HELD + 10 * max(program._BLOCK, size))
    # The twin holds half of all logits.
    half = functools.partial(linear_distillation_loss, chunk_size=rows // 2, **options)
    assert temporaries(lambda s, t, y: half(s, t, y).mean, 32768) > allowed


@x64
def test_it_is_differentiable_once_in_reverse_by_the_student():
    student, teacher, labels, weights = problem(13)

    def mean(s, teacher=teacher, temperature=2.0, weights=weights):
        options = {"operator": POWER, "temperature": temperature, "alpha": 0.3}
        return linear_distillation_loss(s, teacher, labels, weights=weights, **options).mean

    gradient = jit(jax.grad(mean))(student)
    for wrapped in (jax.grad(jax.jit(mean)), jit(jax.grad(jax.checkpoint(mean)))):
        np.testing.assert_allclose(wrapped(student).matrix, gradient.matrix, rtol=1e-12)
    by_teacher = jit(jax.grad(mean, 1))(student, teacher)
    assert not any(np.asarray(x).any() for x in jax.tree.leaves(by_teacher))
    for index, value in ((2, 2.0), (3, weights)):
        arguments = [student, teacher, 2.0, weights]
        arguments[index] = value
        with pytest.raises(TypeError, match=r"in the student .* only"):
            jax.eval_shape(jax.grad(mean, index), *arguments)
    with pytest.raises(TypeError, match="forward-mode"):
        jax.jvp(mean, (student,), (student,))
    by_bias = lambda b: mean(dataclasses.replace(student, bias=b))  # noqa: E731
    for second in (jax.hessian(by_bias), jax.grad(lambda b: jax.grad(by_bias)(b).sum())):
        with pytest.raises(TypeError, match="no second derivatives"):
            jax.eval_shape(second, student.bias)
