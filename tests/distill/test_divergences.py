"""Divergences from logarithms against mpmath, scipy and `simplex`; zeros, bfloat16, classic mistakes."""

import functools

import jax
import jax.numpy as jnp
import mpmath
import numpy as np
import pytest
from scipy.spatial.distance import jensenshannon
from scipy.special import log_softmax, softmax
from scipy.stats import entropy

from sparsekd_jax import operators, simplex
from sparsekd_jax.distill import divergences
from sparsekd_jax.distill.divergences import DIVERGENCES, JensenShannon, get_divergence, kl_from_logs
from sparsekd_jax.distill.losses import distillation_loss, gradient_scale, student_divergence

ALL = {**DIVERGENCES, "js-0.1": JensenShannon(0.1), "js-0.9": JensenShannon(0.9)}
BETA = {"jensen-shannon": 0.5, "js-0.1": 0.1, "js-0.9": 0.9}
x64 = pytest.mark.usefixtures("x64")


def exact(name, log_p, log_q):
    """The divergence of the floats given, in 60 digits, each side normalised (total variation: as is)."""
    with mpmath.workdps(60):
        p, q = ([mpmath.exp(mpmath.mpf(float(x))) for x in row] for row in (log_p, log_q))
        if name == "total-variation":
            return float(sum(abs(a - b) for a, b in zip(p, q, strict=True)) / 2)
        p, q = ([x / sum(row) for x in row] for row in (p, q))

        def kl(a, b):
            return sum(x * mpmath.log(x / y) if y else mpmath.inf for x, y in zip(a, b, strict=True) if x)

        if name in BETA:
            beta = mpmath.mpf(BETA[name])
            m = [beta * a + (1 - beta) * b for a, b in zip(p, q, strict=True)]
            return float(beta * kl(p, m) + (1 - beta) * kl(q, m))
        return float(kl(p, q) if name == "forward-kl" else kl(q, p))


def pairs(dtype):
    """Log-probabilities far apart, near together, next to underflow, and with zeros."""
    rng = np.random.default_rng(0)
    z = rng.normal(size=6) * 2
    far = 80.0 if dtype == np.float32 else 600.0
    gap = 1e-3 if dtype == np.float32 else 1e-7
    rows = [(z, rng.normal(size=6)), (z, z + gap * rng.normal(size=6)), (z, z + 0.5 * rng.normal(size=6))]
    rows += [(z + far * np.eye(6)[0], z + far * np.eye(6)[3]), (z, z + far * np.eye(6)[2])]
    off = np.array([0, 0, 0, 0, -np.inf, -np.inf])
    rows += [(z + off, z[::-1].copy()), (z[::-1].copy(), z + off), (z + off, z + off)]
    return [(log_softmax(a).astype(dtype), log_softmax(b).astype(dtype)) for a, b in rows]


@pytest.mark.parametrize("name", ALL)
@pytest.mark.parametrize(("dtype", "rtol"), [(np.float64, 1e-11), (np.float32, 2e-5)])
def test_values_are_accurate_relative_to_themselves(name, dtype, rtol):
    with jax.enable_x64(dtype == np.float64):
        rows = pairs(dtype)
        ours = ALL[name](*(jnp.asarray(np.stack(side)) for side in zip(*rows, strict=True)))
        assert ours.dtype == dtype
        # The textbook sum of kl_from_logs is as good as its terms, not as its value.
        atol = 4 * np.finfo(dtype).eps if name == "forward-kl" else 1e-50
        expected = [exact(name, p, q) for p, q in rows]
        np.testing.assert_allclose(ours, expected, rtol=rtol, atol=atol)
        assert np.isinf(expected).sum() == (1 if name in ("forward-kl", "reverse-kl") else 0)


@x64
@pytest.mark.parametrize("beta", [0.1, 0.5, 0.9])
def test_beta_is_the_weight_of_the_target(beta):
    p, q = np.random.default_rng(1).dirichlet(np.full(5, 0.5), size=(2, 20))
    ours = JensenShannon(beta)(jnp.log(p), jnp.log(q))
    theirs = simplex.jensen_shannon_divergence(jnp.asarray(p), jnp.asarray(q), beta)
    np.testing.assert_allclose(ours, theirs, rtol=1e-10)
    if beta == 0.5:
        np.testing.assert_allclose(ours, jensenshannon(p, q, axis=1) ** 2, rtol=1e-9)
    else:  # the broken twin: β on the student's side
        assert np.abs(JensenShannon(1 - beta)(jnp.log(p), jnp.log(q)) - theirs).max() > 1e-2


@x64
def test_the_limits_of_beta():
    p, q = np.random.default_rng(2).dirichlet(np.full(5, 2.0), size=2)
    small, log_p, log_q = 1e-6, jnp.log(p), jnp.log(q)
    forward, reverse = entropy(p, q), entropy(q, p)
    assert abs(forward - reverse) > 0.01 * forward  # so that the two ends differ
    assert float(JensenShannon(small)(log_p, log_q)) / small == pytest.approx(forward, rel=1e-4)
    assert float(JensenShannon(1 - small)(log_p, log_q)) / small == pytest.approx(reverse, rel=1e-4)
    near = jnp.asarray(log_softmax(np.log(p) + 1e-4 * np.arange(5)))
    ratio = JensenShannon(0.3)(log_p, near) / entropy(p, np.exp(near))
    assert float(ratio) == pytest.approx(0.3 * 0.7, rel=1e-3)


@x64
@pytest.mark.parametrize("name", ALL)
def test_zeros_give_the_limits_and_no_nan(name):
    with np.errstate(divide="ignore"):
        first, last, even, full = np.log([[1.0, 0, 0], [0, 0, 1.0], [0.5, 0.5, 0], [0.25, 0.25, 0.5]])
    divergence = ALL[name]
    gradients = jax.jit(jax.grad(lambda a, b: divergence(a, b), (0, 1)))
    second = jax.jit(jax.jacfwd(jax.grad(lambda b, a: divergence(a, b))))
    for p, q in [(even, even), (first, last), (last, even), (first, even), (even, full), (full, even)]:
        p, q = jnp.asarray(p), jnp.asarray(q)
        assert float(divergence(p, q)) == pytest.approx(exact(name, p, q), abs=1e-14)
        for gradient in (*gradients(p, q), second(q, p)):
            assert np.isfinite(gradient).all()
    if name in BETA:
        assert float(divergence(first, last)) == pytest.approx(entropy([BETA[name], 1 - BETA[name]]))


@x64
@pytest.mark.parametrize("name", ALL)
def test_gradients_match_finite_differences_of_mpmath(name):
    z, t = np.random.default_rng(3).normal(size=(2, 4))
    t[3] = -np.inf if name not in ("reverse-kl",) else 0.0
    log_t = log_softmax(t)
    ours = jax.grad(lambda z: ALL[name](jnp.asarray(log_t), jax.nn.log_softmax(z)))(jnp.asarray(z))
    step = 1e-5
    for i, nudge in enumerate(np.eye(4) * step):
        slope = exact(name, log_t, log_softmax(z + nudge)) - exact(name, log_t, log_softmax(z - nudge))
        np.testing.assert_allclose(ours[i], slope / (2 * step), rtol=1e-7, atol=1e-9)


@pytest.mark.parametrize("name", [n for n in ALL if n not in ("forward-kl", "total-variation")])
def test_float32_gradients_keep_their_digits_where_both_sides_agree(name):
    """Near p = q every one of them is a multiple of ½χ², whose gradient in log q is a multiple of q − p."""
    rng = np.random.default_rng(4)
    log_p = log_softmax(rng.normal(size=6)).astype(np.float32)
    log_q = (log_p + 1e-4 * rng.normal(size=6)).astype(np.float32)
    ours = jax.grad(lambda b: ALL[name](jnp.asarray(log_p), b))(jnp.asarray(log_q))
    factor = BETA[name] * (1 - BETA[name]) if name in BETA else 1.0
    wide_p, wide_q = log_p.astype(float), log_q.astype(float)
    np.testing.assert_allclose(ours, factor * np.exp(wide_q) * np.expm1(wide_q - wide_p), rtol=2e-3)


def twin_js(log_p, log_q):
    """Jensen–Shannon as it is often written: textbook sums, in the dtype of the inputs."""
    m = jnp.logaddexp(log_p, log_q) - jnp.asarray(np.log(2), log_p.dtype)
    return 0.5 * jnp.sum(jnp.exp(log_p) * (log_p - m) + jnp.exp(log_q) * (log_q - m), axis=-1)


@pytest.mark.parametrize("dtype", [jnp.bfloat16, jnp.float16, jnp.float32])
@pytest.mark.parametrize("name", ALL)
def test_never_negative_beyond_rounding(name, dtype):
    """bfloat16 log-probabilities sum to 1 within a per cent only; other people's JSD goes below −1e-3."""
    rng = np.random.default_rng(5)
    z = rng.normal(size=(200, 1000)) * 3
    log_p, log_q = (
        jax.nn.log_softmax(jnp.asarray(a, dtype), axis=-1) for a in (z, z + 0.02 * rng.normal(size=z.shape))
    )
    ours = np.asarray(ALL[name](log_p, log_q))
    assert ours.dtype == np.float32
    assert ours.min() >= (-1e-6 if name == "forward-kl" and dtype == jnp.float32 else 0)
    assert not np.asarray(ALL[name](log_p, log_p)).any()
    if dtype == jnp.bfloat16:
        twins = twin_js(log_p, log_q), jnp.sum(jnp.exp(log_p) * (log_p - log_q), axis=-1)
        assert all(float(twin.min()) < -1e-4 for twin in twins)


def test_names_and_the_errors():
    for name, function in DIVERGENCES.items():
        assert get_divergence(name) is function
    own = lambda p, q: jnp.sum(p - q, axis=-1)  # noqa: E731
    assert get_divergence(own) is own
    with pytest.raises(ValueError, match="unknown divergence 'foward-kl'; did you mean 'forward-kl'"):
        get_divergence("foward-kl")
    with pytest.raises(ValueError, match="unknown divergence None; Known: forward-kl"):
        get_divergence(None)
    for beta in (0, 1, -0.5, 2.0, float("nan")):
        with pytest.raises(ValueError, match="beta must lie in"):
            JensenShannon(beta)
    with pytest.raises(ValueError, match="not known for divergence <lambda>"):
        divergences.local_order(own)


def test_equal_betas_share_one_compilation():
    traces = []

    @functools.partial(jax.jit, static_argnums=0)
    def run(divergence, p, q):
        traces.append(divergence)
        return divergence(p, q)

    p = jnp.log(jnp.array([[0.25, 0.75], [0.5, 0.5]]))
    eager = JensenShannon(0.25)(p, p[::-1])
    for beta in (0.25, 0.25, 0.75):
        run(JensenShannon(beta), p, p[::-1])
    assert traces == [JensenShannon(0.25), JensenShannon(0.75)]
    np.testing.assert_allclose(jax.vmap(JensenShannon(0.25))(p, p[::-1]), eager, rtol=1e-6)


# -- in the losses ----------------------------------------------------------------------------------------


FAMILIES = ["power", "mixture", "tsallis", "entropy-projection", "euclidean-entropy-projection"]
POWER = operators.get("power")


def numpy_divergence(name, p, q):
    """The divergences once more, from probabilities in numpy."""
    if name == "total-variation":
        return 0.5 * np.abs(p - q).sum(-1)
    if name == "jensen-shannon":
        return 0.5 * (entropy(p, (p + q) / 2, axis=-1) + entropy(q, (p + q) / 2, axis=-1))
    return entropy(p, q, axis=-1) if name == "forward-kl" else entropy(q, p, axis=-1)


@x64
@pytest.mark.parametrize("family", FAMILIES)
def test_the_scale_restores_the_gradient_near_uniform(family):
    """c·∇_z D(F_T(p)‖F_T(q)) → ∇_z D(p‖q) for every divergence, by differences of numpy's divergences."""
    operator = operators.get(family, **({"alpha": 1.5} if family == "tsallis" else {}))
    temperature, step = 4.0, 1e-5
    teacher, student = np.random.default_rng(1).normal(size=(2, 5)) * 1e-2
    nudged = student + step * np.concatenate([np.eye(5), -np.eye(5)])
    plain = softmax(np.concatenate([teacher[None], nudged]), axis=-1)
    softened = np.asarray(operator(jnp.asarray(plain), temperature))
    for name in DIVERGENCES:
        at_one, at_t = (
            np.subtract(*np.split(numpy_divergence(name, x[:1], x[1:]), 2)) / (2 * step)
            for x in (plain, softened)
        )
        scale = gradient_scale(operator, temperature, divergence=name)
        # Total variation's gradient has the softened q_i in it: within a few per cent of uniform here.
        assert np.linalg.norm(scale * at_t - at_one) < 0.05 * np.linalg.norm(at_one)
        assert np.linalg.norm(at_t - at_one) > 0.4 * np.linalg.norm(at_one)  # the twin: no scale
    js = JensenShannon(0.2)
    assert gradient_scale(operator, 4.0, divergence=js) == gradient_scale(operator, 4.0)


@x64
@pytest.mark.parametrize("name", DIVERGENCES)
def test_every_divergence_is_what_it_says(name):
    student, teacher = np.random.default_rng(0).normal(size=(2, 6, 5)) * 2
    labels = np.arange(6) % 5
    p, q = softmax(teacher / 3.0, axis=-1), softmax(student / 3.0, axis=-1)
    hard = -np.take_along_axis(log_softmax(student, axis=-1), labels[:, None], axis=-1)[:, 0]
    scale = 3.0 if name == "total-variation" else 9.0
    for divergence in (name, DIVERGENCES[name]):
        ours = distillation_loss(
            *(jnp.asarray(x) for x in (student, teacher, labels)),
            operator=POWER,
            temperature=3.0,
            alpha=0.2,
            divergence=divergence,
        )
        np.testing.assert_allclose(
            ours, 0.8 * scale * numpy_divergence(name, p, q) + 0.2 * hard, rtol=1e-9, atol=1e-12
        )


def test_the_default_divergence_is_unchanged_to_the_bit():
    student, targets = (
        jnp.asarray(log_softmax(x, axis=-1), jnp.float32)
        for x in np.random.default_rng(0).normal(size=(2, 6, 5))
    )
    ours = student_divergence(student, targets, None, 1.0)
    np.testing.assert_array_equal(ours, kl_from_logs(targets, jax.nn.log_softmax(student)))
    log_q = jax.nn.log_softmax(student)
    textbook = jnp.sum(jnp.exp(targets) * (targets - log_q), axis=-1)
    np.testing.assert_array_equal(ours, textbook)


@pytest.mark.parametrize("name", DIVERGENCES)
def test_a_bfloat16_loss_is_computed_and_returned_in_float32(name):
    teacher, noise = np.random.default_rng(0).normal(size=(2, 50, 300)) * 2
    near, teacher = (jnp.asarray(x, jnp.bfloat16) for x in (teacher + 1e-2 * noise, teacher))
    ours = distillation_loss(near, teacher, operator=POWER, temperature=2.0, divergence=name)
    assert ours.dtype == jnp.float32
    p, q = (softmax(np.asarray(x, np.float64) / 2, axis=-1) for x in (teacher, near))
    scale = 2.0 if name == "total-variation" else 4.0
    np.testing.assert_allclose(ours, scale * numpy_divergence(name, p, q), rtol=1e-3, atol=2e-6)
    assert float(ours.min()) >= -2e-6


@x64
def test_renormalising_on_the_teachers_top_k_is_blind():
    teacher = np.array([2.0, 1.0, -6, -6, -6, -6, -6, -6])
    student = np.array([2.0, 1.0, -6, -6, -6, -6, -6, 18.0])
    ours = student_divergence(jnp.asarray(student), jax.nn.log_softmax(teacher), None, 1.0)
    true = entropy(softmax(teacher), softmax(student))
    assert float(ours) == pytest.approx(true, rel=1e-12)
    assert true > 15
    assert entropy(softmax(teacher[:2]), softmax(student[:2])) < 1e-6  # the twin


@x64
def test_a_target_that_is_no_log_probability_is_refused():
    """KL between a probability and logits: a loss of 0.318 for 1.347, and most gradients exactly 0."""
    student, teacher = jnp.asarray(np.random.default_rng(0).normal(size=(2, 6, 5)))
    for wrong in (jax.nn.softmax(teacher), teacher):
        with pytest.raises(ValueError, match=r"log_targets.*after exp"):
            student_divergence(student, wrong, None, 1.0)
