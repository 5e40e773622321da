"""Losses against numpy in float64, their gradients against finite differences, and the classic mistakes."""

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from sparsekd_jax import distill, operators

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
    operator = make(family)

    @jax.jit  # one compilation for values and gradients
    @jax.value_and_grad
    def both(z):
        return distill.distillation_loss(
            z,
            jnp.asarray(teacher),
            jnp.asarray(labels),
            operator=operator,
            temperature=2.0,
            alpha=0.3,
            soften_student=soften_student,
        ).sum()

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

    def gradient(soften_student, scale):
        return jax.jit(
            jax.grad(
                lambda z: distill.distillation_loss(
                    z,
                    jnp.asarray(teacher),
                    jnp.asarray(labels),
                    operator=make("power"),
                    temperature=temperature,
                    alpha=alpha,
                    soften_student=soften_student,
                    scale=scale,
                ).sum()
            )
        )(jnp.asarray(student))

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
    with pytest.raises(ValueError, match="gradient_scale is not known"):
        distill.distillation_loss(student, teacher, operator=plain, temperature=2.0)
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
