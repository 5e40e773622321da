"""A small problem for the fused loss, and what it should give, from closed forms in numpy."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
from scipy.special import log_softmax, rel_entr

from sparsekd_jax import operators
from sparsekd_jax._numerics import at_least_float32
from sparsekd_jax.distill import JensenShannon, LinearLogits, linear_distillation_loss

POWER, MIXTURE = operators.get("power"), operators.get("mixture")
N, D, E, V = 13, 5, 7, 29
DIVERGENCES = {"forward-kl": "forward-kl", "reverse-kl": "reverse-kl", "js-0.3": JensenShannon(0.3)}
jit = functools.partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


def problem(seed=0, n=N, d=D, e=E, v=V, dtype=np.float64):
    rng = np.random.default_rng(seed)
    draw = lambda *shape: jnp.asarray(rng.normal(size=shape) * shape[0] ** -0.25, dtype)  # noqa: E731
    student = LinearLogits(draw(n, d), draw(d, v), draw(v))
    teacher = LinearLogits(draw(n, e), draw(e, v), draw(v))
    labels = jnp.asarray(rng.integers(0, v, n))
    weights = jnp.asarray(rng.integers(0, 4, n) / 2, at_least_float32(jnp.dtype(dtype)))
    return student, teacher, labels, weights


def wide(logits):
    """The three arrays as float64, and the logits they stand for."""
    h, w, b = (np.asarray(x).astype(np.float64) for x in jax.tree.leaves(logits))
    return h, w, h @ w + b


def reference(student, teacher, labels, weights, temperature, alpha, name, soften_student, scale=None):
    """Mean and its gradients by hidden states, matrix and bias, from closed forms in numpy."""
    (h, matrix, z), (_, _, zt) = wide(student), wide(teacher)
    own = temperature if soften_student else 1.0
    scale = (temperature**2 if soften_student else 1.0) if scale is None else scale
    log_p, log_q, log_s = (log_softmax(x, axis=-1) for x in (zt / temperature, z / own, z))
    p, q = np.exp(log_p), np.exp(log_q)
    if name == "forward-kl":
        terms, by_log_q = rel_entr(p, q), -p
    elif name == "reverse-kl":
        terms, by_log_q = rel_entr(q, p), q * (log_q - log_p)
    else:
        beta = DIVERGENCES[name].beta
        m = beta * p + (1 - beta) * q
        terms = beta * rel_entr(p, m) + (1 - beta) * rel_entr(q, m)
        by_log_q = (1 - beta) * q * np.log(q / m)
    soft = (by_log_q - q * by_log_q.sum(-1, keepdims=True)) / own
    onehot = np.eye(z.shape[-1])[np.asarray(labels)]
    losses = (1 - alpha) * scale * terms.sum(-1) - alpha * (onehot * log_s).sum(-1)
    w = np.asarray(weights, np.float64) / np.asarray(weights, np.float64).sum()
    slope = w[:, None] * ((1 - alpha) * scale * soft + alpha * (np.exp(log_s) - onehot))
    return (w * losses).sum(), (slope @ matrix.T, h.T @ slope, slope.sum(0))


@functools.cache
def fused(name="forward-kl", soften_student=True, chunk_size=5):
    def mean(student, teacher, labels, weights, temperature, alpha):
        return linear_distillation_loss(
            student,
            teacher,
            labels,
            operator=POWER,
            temperature=temperature,
            alpha=alpha,
            soften_student=soften_student,
            divergence=DIVERGENCES[name],
            weights=weights,
            chunk_size=chunk_size,
        ).mean

    return jit(jax.value_and_grad(mean))


def close(ours, theirs, tolerance):
    """1e-5·max(value, 1 nat) and 1e-5 in relative norm, with ``tolerance`` in place of 1e-5."""
    (value, gradients), (expected, slopes) = ours, theirs
    gaps = [abs(float(value) - expected) / max(expected, 1.0)]
    for gradient, slope in zip(jax.tree.leaves(gradients), slopes, strict=True):
        gaps.append(np.linalg.norm(np.asarray(gradient, np.float64) - slope) / np.linalg.norm(slope))
    return max(gaps) < tolerance
