"""Losses against numpy in float64, their gradients against finite differences, and the classic mistakes."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from sparsekd_jax import distill, operators
from sparsekd_jax.distill.losses import cross_entropy, student_divergence, weighted_sum

pytestmark = pytest.mark.usefixtures("x64")
FAMILIES = ["power", "mixture", "tsallis", "entropy-projection", "euclidean-entropy-projection"]


POWER = operators.get("power")
LOSS = jax.jit(distill.distillation_loss, static_argnames="soften_student")


def make(name):
    return operators.get(name, alpha=1.5) if name == "tsallis" else operators.get(name)


def logits(seed=0, shape=(6, 5)):
    rng = np.random.default_rng(seed)
    return rng.normal(size=shape) * 2, rng.normal(size=shape) * 2, rng.integers(0, shape[-1], shape[:-1])


def reference(student, teacher, labels, temperature, alpha, scale, soften_student):
    """Hinton's loss for the power transform, from scipy's own softmax and KL."""
    target = softmax(teacher / temperature, axis=-1)
    own = softmax(student / (temperature if soften_student else 1.0), axis=-1)
    hard = -np.take_along_axis(log_softmax(student, axis=-1), labels[:, None], axis=-1)[:, 0]
    return (1 - alpha) * scale * entropy(target, own, axis=-1) + alpha * hard


@pytest.mark.parametrize("soften_student", [True, False])
@pytest.mark.parametrize(("temperature", "alpha"), [(1.0, 0.0), (4.0, 0.1), (2.5, 1.0)])
def test_power_is_hintons_loss(soften_student, temperature, alpha):
    student, teacher, labels = logits()
    ours = LOSS(
        jnp.asarray(student),
        jnp.asarray(teacher),
        jnp.asarray(labels),
        operator=POWER,
        temperature=temperature,
        alpha=alpha,
        soften_student=soften_student,
    )
    scale = temperature**2 if soften_student else 1.0
    expected = reference(student, teacher, labels, temperature, alpha, scale, soften_student)
    np.testing.assert_allclose(ours, expected, rtol=1e-10, atol=1e-12)
    if soften_student and temperature != 1 and alpha < 1:
        # The broken twins: T² left out, and the direction of KL reversed.
        no_scale = reference(student, teacher, labels, temperature, alpha, 1 / scale, soften_student)
        assert np.abs(no_scale - expected).max() > 1e-3
        reverse = reference(teacher, student, labels, temperature, alpha, scale, True)
        assert np.abs(reverse - expected).max() > 1e-3


# One root-found family stands for all (its implicit derivative compiles slowly); their own tests do the rest.
@pytest.mark.parametrize(
    ("family", "soften_student"),
    [("power", False), ("power", True), ("mixture", True), ("entropy-projection", True)],
)
def test_gradients_match_finite_differences(family, soften_student):
    student, teacher, labels = logits(shape=(3, 4))
    settings = {"operator": make(family), "temperature": 2.0, "alpha": 0.3, "soften_student": soften_student}

    @jax.jit  # one compilation for values and gradients
    @jax.value_and_grad
    def both(z):
        return distill.distillation_loss(z, jnp.asarray(teacher), jnp.asarray(labels), **settings).sum()

    total = lambda z: float(both(jnp.asarray(z))[0])  # noqa: E731
    gradient = np.asarray(both(jnp.asarray(student))[1])
    step = 1e-5
    for index in [(0, 0), (1, 2), (2, 3)]:
        nudge = np.zeros_like(student)
        nudge[index] = step
        slope = (total(student + nudge) - total(student - nudge)) / (2 * step)
        np.testing.assert_allclose(gradient[index], slope, rtol=1e-5, atol=1e-7)


def test_gradients_follow_the_stated_formulas():
    student, teacher, labels = logits()
    alpha, temperature = 0.25, 3.0
    onehot = np.eye(5)[labels]
    p_s, q_t = softmax(student, axis=-1), softmax(teacher / temperature, axis=-1)
    q_s = softmax(student / temperature, axis=-1)

    settings = {"operator": POWER, "temperature": temperature, "alpha": alpha}
    fixed = jnp.asarray(teacher), jnp.asarray(labels)

    def gradient(soften_student, scale):
        both = {"soften_student": soften_student, "scale": scale}
        loss = lambda z: distill.distillation_loss(z, *fixed, **settings, **both).sum()  # noqa: E731
        return jax.jit(jax.grad(loss))(jnp.asarray(student))

    hard = alpha * (p_s - onehot)
    np.testing.assert_allclose(gradient(False, 2.0), (1 - alpha) * 2.0 * (p_s - q_t) + hard, atol=1e-12)
    np.testing.assert_allclose(gradient(True, 9.0), (1 - alpha) * 9.0 / 3.0 * (q_s - q_t) + hard, atol=1e-12)


@pytest.mark.parametrize("family", FAMILIES)
@pytest.mark.parametrize("temperature", [2.0, 4.0])
def test_the_scale_restores_the_divergence_near_uniform(family, temperature):
    """The definition of c: KL(F(p)‖F(q))·c → KL(p‖q) as p, q → u."""
    operator = make(family)
    rng = np.random.default_rng(0)
    direction_p, direction_q = (d - d.mean() for d in rng.normal(size=(2, 6)))
    p, q = (jnp.asarray(1 / 6 + 1e-4 * d) for d in (direction_p, direction_q))
    softened = entropy(np.asarray(operator(p, temperature)), np.asarray(operator(q, temperature)))
    scale = distill.gradient_scale(operator, temperature)
    np.testing.assert_allclose(scale * softened / entropy(np.asarray(p), np.asarray(q)), 1.0, rtol=2e-3)
    twin = temperature**3 / scale  # T in place of T², and T² in place of T
    assert abs(twin * softened / entropy(np.asarray(p), np.asarray(q)) - 1) > 0.4


@pytest.mark.parametrize(
    ("family", "soften_student"),
    [("power", True), ("power", False), ("mixture", True), ("euclidean-entropy-projection", False)],
)
def test_a_teacher_with_zeros_never_gives_nan(family, soften_student):
    teacher = jnp.array([[2.0, -jnp.inf, 0.0, 0.5], [-jnp.inf, -jnp.inf, 1.0, 1.0]])
    student = jnp.array([[0.3, 0.1, -0.2, 0.0], [5.0, -3.0, 1.0, 2.0]])
    operator = make(family)

    @jax.jit
    @jax.value_and_grad
    def total(z):
        return distill.distillation_loss(
            z, teacher, operator=operator, temperature=2.0, soften_student=soften_student
        ).sum()

    value, gradient = total(student)
    assert np.isfinite(value)
    assert np.isfinite(gradient).all()


def test_kl_from_logs_at_zeros():
    gradients = jax.jit(jax.grad(distill.kl_from_logs, (0, 1)))

    def log(*p):
        with np.errstate(divide="ignore"):
            return jnp.asarray(np.log(p))

    assert float(distill.kl_from_logs(log(0.5, 0.5, 0.0), log(0.5, 0.25, 0.25))) == pytest.approx(
        0.5 * np.log(2)
    )
    assert float(distill.kl_from_logs(log(0.5, 0.5, 0.0), log(1.0, 0.0, 0.0))) == np.inf
    assert float(distill.kl_from_logs(log(1.0, 0.0, 0.0), log(1.0, 0.0, 0.0))) == 0.0
    first, last, even = (1.0, 0.0, 0.0), (0.0, 0.0, 1.0), (0.5, 0.5, 0.0)
    for p, q in [(even, even), (first, last), (last, even), (first, even)]:
        for gradient in gradients(log(*p), log(*q)):
            assert not np.isnan(gradient).any()


def test_mass_the_teacher_excludes_is_still_seen():
    """A student sure of a class outside the teacher's support pays its full KL (never renormalised away)."""
    teacher = jnp.array([1.0, 0.0, -jnp.inf, -jnp.inf])
    student = jnp.array([0.0, 0.0, 0.0, 15.0])
    value = LOSS(student, teacher, operator=POWER, temperature=1.0)
    assert float(value) > 13


def test_a_plain_function_is_an_operator():
    student, teacher, _ = (jnp.asarray(x) for x in logits())
    plain = lambda p, t: p / t + (1 - 1 / t) / p.shape[-1]  # noqa: E731
    ours = jax.jit(
        lambda s: distill.distillation_loss(s, teacher, operator=plain, temperature=2.0, scale=4.0)
    )(student)
    named = LOSS(student, teacher, operator=make("mixture"), temperature=2.0)
    np.testing.assert_allclose(ours, named, rtol=1e-9)
    # Written for one distribution, as the checker takes it; one temperature a row is that of the row.
    escort = lambda p, t: p ** (1 / t) / (p ** (1 / t)).sum()  # noqa: E731
    temperatures = jnp.linspace(1.0, 3.0, student.shape[0])
    for t in (2.0, temperatures):
        found = distill.distillation_loss(student, teacher, operator=escort, temperature=t, scale=4.0)
        named = distill.distillation_loss(student, teacher, operator=make("power"), temperature=t, scale=4.0)
        np.testing.assert_allclose(found, named, rtol=1e-9)
    with pytest.raises(ValueError, match="gradient_scale is not known"):
        distill.distillation_loss(student, teacher, operator=plain, temperature=2.0)
    with pytest.raises(TypeError, match=r"operators.parse\('power'\)"):
        distill.gradient_scale("power", 2.0)
    for temperature in (0.0, -4.0, np.nan, np.inf):  # √(−4) would be a complex scale
        with pytest.raises(ValueError, match="temperature is"):
            distill.gradient_scale(operators.EntropyProjection(), temperature, divergence="total-variation")
    with pytest.raises(ValueError, match="labels"):
        distill.distillation_loss(student, teacher, operator=make("power"), temperature=2.0, alpha=0.5)


def test_no_gradient_reaches_the_teacher():
    student, teacher, _ = (jnp.asarray(x) for x in logits())
    gradient = jax.jit(
        jax.grad(
            lambda t: distill.distillation_loss(student, t, operator=make("power"), temperature=2.0).sum()
        )
    )(teacher)
    assert not np.asarray(gradient).any()


def test_a_traced_temperature_and_one_a_row():
    student, teacher, _ = (jnp.asarray(x) for x in logits())
    loss = lambda t: distill.distillation_loss(student, teacher, operator=make("power"), temperature=t)  # noqa: E731
    rows = jnp.linspace(1.0, 4.0, 6)
    together = jax.jit(loss)(rows)
    for i, t in enumerate(rows):
        np.testing.assert_allclose(together[i], loss(float(t))[i], rtol=1e-10)


MASK = np.array([True, True, False, True, False, False])


@pytest.mark.parametrize("soften_student", [True, False])
def test_masked_rows_reach_no_value_and_no_gradient(soften_student):
    student, teacher, labels = logits()
    student[2], teacher[2], labels[2] = np.nan, -np.inf, -100
    student[4], teacher[5] = -np.inf, np.nan
    settings = {"operator": POWER, "temperature": 2.0, "alpha": 0.5, "soften_student": soften_student}

    @jax.jit
    @jax.value_and_grad
    def mean(z, teacher, labels, mask):
        losses = distill.distillation_loss(z, teacher, labels, **settings, mask=mask)
        return weighted_sum(losses, mask).mean

    three = [jnp.asarray(x) for x in (student, teacher, labels)]
    value, gradient = mean(*three, jnp.asarray(MASK))
    kept, kept_gradient = mean(*(x[MASK] for x in three), None)
    np.testing.assert_allclose(value, kept, rtol=1e-14)
    np.testing.assert_allclose(gradient[MASK], kept_gradient, rtol=1e-12)
    assert not np.asarray(gradient[~MASK]).any()
    # The twin divides by all six rows, padding included.
    assert abs(float(value) * MASK.mean() - float(kept)) > 0.1 * float(kept)


@pytest.mark.parametrize("shape", [(), (1,), (3,), (6, 1), (5,)])
def test_a_mask_that_is_not_one_a_row_is_refused(shape):
    """Broadcast, a mask [6, 1] made six losses a row, and one of length 1 spoke for all of them."""
    student, teacher, labels = logits()
    mask, log_p = jnp.ones(shape, bool), log_softmax(teacher, axis=-1)
    calls = (
        lambda: cross_entropy(jnp.asarray(student), jnp.asarray(labels), mask),
        lambda: student_divergence(jnp.asarray(student), jnp.asarray(log_p), None, 1.0, mask=mask),
        lambda: distill.distillation_loss(student, teacher, operator=POWER, temperature=2.0, mask=mask),
    )
    for call in calls:
        with pytest.raises(ValueError, match=r"mask has shape .* and the rows \(6,\): give one a row"):
            call()


def test_alpha_and_scale_are_one_number_or_one_a_row():
    student, teacher, labels = (jnp.asarray(x) for x in logits())
    loss = lambda **own: distill.distillation_loss(  # noqa: E731
        student, teacher, labels, operator=POWER, temperature=2.0, **own
    )
    for name in ("alpha", "scale"):
        with pytest.raises(ValueError, match=rf"{name} has shape \(6, 1\); give a scalar, or one a row"):
            loss(**{name: jnp.full((6, 1), 0.5)})
    np.testing.assert_array_equal(loss(alpha=jnp.full(1, 0.5)), loss(alpha=0.5))
    in_two = lambda t: distill.distillation_loss(  # noqa: E731
        student.reshape(2, 3, 5), teacher.reshape(2, 3, 5), operator=POWER, temperature=t
    )
    np.testing.assert_array_equal(in_two(jnp.full((2, 1), 3.0)), in_two(3.0))
    for alpha in (np.float32(2.0), jnp.asarray(-0.5), jnp.asarray([0.0, 0.1, 0.2, 0.3, 0.4, 2.0])):
        with pytest.raises(ValueError, match=r"alpha.*: .*weight of the hard labels, in \[0, 1\]"):
            loss(alpha=alpha)


def test_no_labels_are_needed_where_no_row_weighs_them():
    loss = functools.partial(
        distill.distillation_loss, jnp.zeros((2, 3)), jnp.ones((2, 3)), operator=POWER, temperature=2.0
    )
    for alpha in (0, np.float32(0.0), jnp.zeros(2)):
        np.testing.assert_array_equal(loss(alpha=alpha), loss())
    for alpha in (np.float32(0.1), jnp.asarray([0.0, 0.1])):
        with pytest.raises(ValueError, match="labels are needed"):
            loss(alpha=alpha)
    with pytest.raises(ValueError, match="labels are needed"):  # a traced α may be anything
        jax.jit(lambda a: loss(alpha=a))(0.0)


def test_labels_outside_the_classes_are_never_another_class():
    losses = cross_entropy(jnp.zeros((4, 3)), jnp.array([-1, 3, -3, 2]))
    np.testing.assert_array_equal(np.isnan(losses), [True, True, True, False])


def test_a_part_of_weight_zero_counts_zero_even_where_infinite():
    student, teacher = jnp.array([[0.0, 0.0, -jnp.inf]]), jnp.array([[0.0, 1.0, 0.0]])
    loss = lambda t, y, a: distill.distillation_loss(  # noqa: E731
        student, t, jnp.array([y]), operator=POWER, temperature=1.0, alpha=a
    )
    assert float(loss(teacher, 0, 1.0)[0]) == pytest.approx(np.log(2))  # KL infinite
    assert float(loss(student, 2, 0.0)[0]) == 0.0  # cross-entropy infinite
    assert np.isinf(loss(teacher, 0, 0.5)).all()
    assert np.isinf(loss(student, 2, 0.5)).all()


def test_micro_batches_padding_and_shards_give_one_number():
    """1 token of loss 1 and 99 of loss 0: the mean is 0.01, the mean of the micro-batches' means 0.5."""
    losses = np.zeros(100)
    losses[0] = 1.0
    parts = [weighted_sum(jnp.asarray(x)) for x in (losses[:1], losses[1:])]
    assert float((parts[0] + parts[1]).mean) == pytest.approx(0.01)
    assert float((parts[0].mean + parts[1].mean) / 2) == pytest.approx(0.5)  # the twin
    padded = jnp.asarray(np.concatenate([losses, np.full(28, np.nan)]).reshape(4, 32))
    real = jnp.arange(128).reshape(4, 32) < 100
    assert float(weighted_sum(padded, real).mean) == pytest.approx(0.01)
    shards = jax.vmap(lambda x, w: jax.lax.psum(weighted_sum(x, w), "shards").mean, axis_name="shards")
    np.testing.assert_allclose(shards(padded, real), 0.01)


def test_gradients_of_numerators_add_up_to_the_gradient_of_the_mean():
    student, teacher, _ = (jnp.asarray(x) for x in logits(shape=(7, 4)))
    targets, weights = jax.nn.log_softmax(teacher), jnp.asarray([0.5, 1.0, 0.0, 2.0, 1.0, 3.0, 0.25])

    def total(shift, rows):
        loss = student_divergence(student[rows] + shift, targets[rows], None, 1.0)
        return weighted_sum(loss, weights[rows])

    shift, cuts = jnp.zeros((1, 4)), (slice(0, 1), slice(1, 5), slice(5, 7))
    whole = jax.grad(lambda s: total(s, slice(None)).mean)(shift)
    summed = sum(jax.grad(lambda s, c=cut: total(s, c).numerator)(shift) for cut in cuts)
    np.testing.assert_allclose(summed / weights.sum(), whole, rtol=1e-12)
    twin = sum(jax.grad(lambda s, c=cut: total(s, c).mean)(shift) for cut in cuts) / 3
    assert np.abs(twin - whole).max() > 1e-2 * np.abs(whole).max()


@pytest.mark.parametrize("bad", [np.nan, np.inf])
def test_weight_zero_contributes_exactly_zero(bad):
    losses, weights = jnp.array([1.0, bad, 3.0]), jnp.array([1.0, 0.0, 2.0])
    value = lambda x, w: weighted_sum(x, w).mean  # noqa: E731
    assert float(value(losses, weights)) == pytest.approx(7 / 3)
    np.testing.assert_allclose(jax.grad(value)(losses, weights), [1 / 3, 0, 2 / 3])
    # With respect to a weight of 0 the gradient is that of any other weight, where the loss is finite.
    np.testing.assert_allclose(jax.grad(value, 1)(jnp.array([1.0, 6.0, 3.0]), weights)[1], (6 - 7 / 3) / 3)
    assert np.isnan(value(losses, jnp.ones(3))) == np.isnan(bad)  # with a weight it is seen


def test_a_mean_of_nothing_is_an_error():
    nothing = weighted_sum(jnp.ones(3), jnp.zeros(3))
    with pytest.raises(ValueError, match="weights sum to 0"):
        _ = nothing.mean
    mean = lambda s: s.mean  # noqa: E731
    assert np.isnan(jax.jit(mean)(nothing))
    error, _ = jax.jit(checkify.checkify(mean))(nothing)
    assert "weights sum to 0" in error.get()
    assert float((nothing + weighted_sum(jnp.ones(2))).mean) == 1.0
    with pytest.raises(ValueError, match="weights has shape"):
        weighted_sum(jnp.ones((2, 3)), jnp.ones(2))
    for bad in (-1.0, np.nan, np.inf):
        with pytest.raises(ValueError, match=rf"weights, row 1: is {bad}; weights are ≥ 0"):
            weighted_sum(jnp.ones(2), jnp.array([1.0, bad]))


def test_an_operator_that_makes_nan_is_not_told_to_divide():
    """A sum of NaN is mended by no division."""

    def broken(p, temperature):
        return jnp.where(p.max() > 0.9, jnp.nan, p)

    z = jnp.log(jnp.array([[0.64, 0.36], [0.95, 0.05]], jnp.float32))
    with pytest.raises(ValueError, match=r"^operator broken, row 1: makes NaN; call it on the row"):
        distill.distillation_loss(z, z, operator=broken, temperature=jnp.float32(2), scale=1.0)


def test_an_operator_whose_rows_do_not_sum_to_one_is_named():
    """The mistake is the operator's, not that of an argument log_targets, which nobody passed."""

    def unnormalized(p, temperature):
        return p ** (1 / temperature)

    z = jnp.log(jnp.array([[0.64, 0.36], [0.5, 0.5], [1 - 1e-7, 1e-7]], jnp.float32))
    settings = {"operator": unnormalized, "temperature": jnp.float32(2), "soften_student": False}
    total = r"operator unnormalized, row 0: makes probabilities that sum to 1\.4; divide"
    with pytest.raises(ValueError, match=total):
        distill.distillation_loss(z, z, **settings)
    with pytest.raises(ValueError, match=r"row 1: makes probabilities that sum to 1\.41421"):
        distill.distillation_loss(z, z, **settings, mask=jnp.array([False, True, True]))
    assert jax.jit(lambda z: distill.distillation_loss(z, z, **settings))(z).shape == (3,)
