"""How far a student's gradient under stored targets is from that under the whole teacher: angle and norm.

The same number of stored tokens two ways: the teacher's top k renormalised, and k distinct tokens sampled
from the softened teacher. Published (arXiv 2503.16870): Top-12 58° and 2.4 times too long, Top-50 48° and
1.8, Top-300 30° and 1.3, random sampling 4° and 1.0. Both sides are softened by the power transform.
"""

import dataclasses
import functools
import math
from collections.abc import Callable
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import optax  # type: ignore[import-untyped]
from flax import nnx
from jax.flatten_util import ravel_pytree
from jaxtyping import Array, Float

from sparsekd_jax import data, distill, models, operators, targets

_POWER = operators.PowerTransform()
_CHUNK = 64
"""Tokens of the synthetic teacher softened at once."""


@dataclasses.dataclass(frozen=True)
class Settings:
    """What is measured.

    Attributes:
        seeds: students, batches and samples; the pydoc teacher is one.
        temperatures: T of both sides, on pydoc.
        zipf_temperatures: T of both sides, under the synthetic teacher.
        vocab_size: V of the synthetic teacher.
        width: d of its features.
        spread: standard deviation of its logits over contexts, about log-Zipf.
        perturbation: standard deviation of the student's logits about the teacher's.
        tokens: contexts a gradient is averaged over, of the synthetic teacher.
        kept: k, the stored tokens of a context there.
        model: sizes of the pydoc teacher.
        student_model: sizes of its student.
        teacher_steps: steps of the teacher on labels; 0 leaves it as it was initialised.
        student_steps: steps of the student on labels, before its gradient is taken.
        windows: windows of 64 bytes that a gradient is averaged over.
        bytes_kept: k there, of 256.
    """

    seeds: int = 5
    temperatures: tuple[float, ...] = (1.0, 2.0)
    zipf_temperatures: tuple[float, ...] = (1.0,)
    vocab_size: int = 32_000
    width: int = 16
    spread: float = 2.0
    perturbation: float = 0.5
    tokens: int = 2048
    kept: tuple[int, ...] = (12, 50, 300)
    model: tuple[tuple[str, int], ...] = (("width", 64), ("num_layers", 2), ("num_heads", 4))
    student_model: tuple[tuple[str, int], ...] = (("width", 32), ("num_layers", 1), ("num_heads", 2))
    teacher_steps: int = 400
    student_steps: int = 150
    windows: int = 64
    bytes_kept: tuple[int, ...] = (2, 4, 12)


@dataclasses.dataclass(frozen=True)
class Row:
    """One way to store a target, and the gradient it gives.

    Attributes:
        workload: "zipf" or "pydoc".
        temperature: T.
        target: how the target was made.
        stored: mean number of tokens stored a context.
        angle: to the gradient under the whole softened teacher, degrees.
        norm_ratio: its norm over that gradient's.
    """

    workload: str
    temperature: float
    target: str
    stored: float
    angle: distill.Interval
    norm_ratio: distill.Interval


def gradient_angles(
    settings: Settings | None = None, *, on_progress: Callable[[str], None] | None = None
) -> list[Row]:
    """The table: for each workload, temperature and way to store a target, the angle and the norm's ratio.

    Args:
        settings: what is measured.
        on_progress: called with what is being computed.

    Returns:
        Rows with 95 % Student-t intervals over seeds.

    Reference: arXiv 2503.16870, gradient similarity; theory.md section 6.
    """
    settings = settings or Settings()
    say = on_progress or (lambda _: None)
    found: dict[tuple[str, float, str], list[tuple[float, float, float]]] = {}
    say("pydoc teacher")
    teacher = _pydoc_teacher(settings)
    for seed in range(settings.seeds):
        say(f"seed {seed + 1} of {settings.seeds}")
        for workload, measure in (("zipf", _zipf), ("pydoc", functools.partial(_pydoc, teacher))):
            for temperature, by_target in measure(settings, seed).items():
                for name, measured in by_target.items():
                    found.setdefault((workload, temperature, name), []).append(measured)
    rows = []
    for (workload, temperature, name), by_seed in sorted(found.items(), key=lambda item: item[0][:2]):
        stored, angles, ratios = np.array(by_seed).T
        intervals = distill.interval(angles.tolist()), distill.interval(ratios.tolist())
        rows.append(Row(workload, temperature, name, float(stored.mean()), *intervals))
    return rows


# -- targets -----------------------------------------------------------------------------------------------


def draws_for(q: Float[np.ndarray, "N V"], distinct: float, most: int = 8192) -> int:
    """The most draws whose expected number of distinct tokens, mean over rows, is at most ``distinct``.

    >>> draws_for(np.array([[0.5, 0.5]]), 1.5)
    2
    """
    low, high = 1, most
    while low < high:
        middle = (low + high + 1) // 2
        stored = float(jnp.mean(targets.expected_distinct(jnp.asarray(q, jnp.float32), middle)))
        low, high = (middle, high) if stored <= distinct else (low, middle - 1)
    return low


def _names(kept: tuple[int, ...], temperature: float) -> list[str]:
    late = [f"sampled, softened after, {k}" for k in kept] if temperature != 1 else []
    return [*(f"top {k}, renormalised" for k in kept), *(f"sampled, {k}" for k in kept), *late]


def _stored_targets(
    key: Array,
    log_p: Float[Array, "B V"],
    temperature: float,
    kept: tuple[int, ...],
    draws: tuple[tuple[int, ...], ...],
) -> tuple[Float[Array, "M B V"], Float[Array, " M"]]:
    """Dense targets in the order of `_names`, and the tokens that each stores."""
    q = jnp.exp(_POWER.log(log_p, temperature))
    top, ids = jax.lax.top_k(q, max(kept))
    made, stored = [], []

    def dense(at: Array, values: Array) -> Array:
        return jax.vmap(lambda i, x: jnp.zeros(q.shape[-1], q.dtype).at[i].set(x))(at, values)

    for k in kept:
        made.append(dense(ids[:, :k], top[:, :k] / top[:, :k].sum(-1, keepdims=True)))
        stored.append(jnp.asarray(float(k)))
    before, after = draws
    for i, n in enumerate(before):
        seen = targets.sample(jax.random.fold_in(key, i), _POWER, log_p, temperature, n)
        made.append(targets.estimate(seen))
        stored.append(jnp.mean((seen.ids >= 0).sum(-1).astype(q.dtype)))
    for i, n in enumerate(after):
        seen = targets.sample(jax.random.fold_in(key, 100 + i), _POWER, log_p, 1.0, n)
        made.append(_POWER(targets.estimate(seen), temperature))
        stored.append(jnp.mean((seen.ids >= 0).sum(-1).astype(q.dtype)))
    return jnp.stack(made), jnp.stack(stored)


_compiled_targets = jax.jit(_stored_targets, static_argnums=(2, 3, 4))


def _draws(p: np.ndarray, temperature: float, kept: tuple[int, ...]) -> tuple[tuple[int, ...], ...]:
    """Draws that store k tokens on average, of the softened teacher; and of the teacher, where T ≠ 1."""
    softened = np.asarray(_POWER(p, temperature))
    after = () if temperature == 1 else tuple(draws_for(p, k) for k in kept)
    return tuple(draws_for(softened, k) for k in kept), after


def _compare(full: np.ndarray, other: np.ndarray) -> tuple[float, float]:
    """Angle in degrees and ratio of norms of two flat gradients."""
    full, other = full.astype(np.float64), other.astype(np.float64)
    lengths = np.linalg.norm(full), np.linalg.norm(other)
    cosine = full @ other / (lengths[0] * lengths[1])
    return math.degrees(math.acos(min(1.0, max(-1.0, cosine)))), float(lengths[1] / lengths[0])


# -- a linear student of a Zipf teacher ----------------------------------------------------------------------


def _zipf(settings: Settings, seed: int) -> dict[float, dict[str, tuple[float, float, float]]]:
    """Logits b + σ·h·W of unit features h, b = −log rank: Zipf on average, another order in each context."""
    v, d = settings.vocab_size, settings.width
    keys = jax.random.split(jax.random.key(seed), 4)
    features = jax.random.normal(keys[0], (settings.tokens, d))
    features = features / jnp.linalg.norm(features, axis=-1, keepdims=True)
    weights = settings.spread * jax.random.normal(keys[1], (d, v))
    student = weights + settings.perturbation * jax.random.normal(keys[2], (d, v))
    bias = -jnp.log(jnp.arange(1, v + 1, dtype=jnp.float32))
    out = {}
    for temperature in settings.zipf_temperatures:
        sample_rows = features[:256] @ weights + bias[None]
        draws = _draws(np.asarray(jax.nn.softmax(sample_rows)), temperature, settings.kept)
        gradients, stored = _head_gradients(
            keys[3], features, weights, student, bias, temperature, settings.kept, draws
        )
        full, others = np.asarray(gradients[0]).ravel(), np.asarray(gradients[1:])
        out[temperature] = {
            name: (float(size), *_compare(full, other.ravel()))
            for name, size, other in zip(
                _names(settings.kept, temperature), np.asarray(stored), others, strict=True
            )
        }
    return out


@functools.partial(jax.jit, static_argnums=(5, 6, 7))
def _head_gradients(
    key: Array,
    features: Float[Array, "B d"],
    weights: Float[Array, "d V"],
    student: Float[Array, "d V"],
    bias: Float[Array, " V"],
    temperature: float,
    kept: tuple[int, ...],
    draws: tuple[tuple[int, ...], ...],
) -> tuple[Float[Array, "M d V"], Float[Array, " M"]]:
    """``Hᵀ(s − t)/(T·B)``, the gradient by the head; the whole teacher's comes first."""

    def add(carry: Array, block: tuple[Array, Array]) -> tuple[Array, Array]:
        own, h = block
        log_p = jax.nn.log_softmax(h @ weights + bias[None])
        made, stored = _stored_targets(own, log_p, temperature, kept, draws)
        whole = jnp.exp(_POWER.log(log_p, temperature))
        seen = jax.nn.softmax((h @ student + bias[None]) / temperature)
        gaps = seen[None] - jnp.concatenate([whole[None], made])
        return carry + jnp.einsum("bd,mbv->mdv", h, gaps), stored

    blocks = features.reshape(-1, _CHUNK, features.shape[-1])
    count = 1 + len(kept) + sum(map(len, draws))
    start = jnp.zeros((count, *weights.shape), weights.dtype)
    total, stored = jax.lax.scan(add, start, (jax.random.split(key, len(blocks)), blocks))
    return total / (temperature * len(features)), stored.mean(0)


# -- a byte-level Transformer --------------------------------------------------------------------------------


def _pydoc_teacher(settings: Settings) -> Any:
    return _trained(settings.model, settings.teacher_steps, seed=0)


def _trained(sizes: tuple[tuple[str, int], ...], steps: int, seed: int) -> Any:
    model = models.Transformer(**dict(sizes), rngs=nnx.Rngs(seed))
    if steps == 0:
        return model
    return distill.fit(
        model,
        data.pydoc(),
        steps=steps,
        optimizer=optax.adamw(4e-3),
        seed=seed,
        batch_size=32,
        record_every=steps,
    ).student


def _pydoc(teacher: Any, settings: Settings, seed: int) -> dict[float, dict[str, tuple[float, float, float]]]:
    """Gradients of all of a student's parameters, on windows of the training text."""
    inputs = data.pydoc().train_inputs
    chosen = np.random.default_rng(seed).choice(len(inputs), settings.windows, replace=False)
    batch = jnp.asarray(inputs[chosen])
    student = _trained(settings.student_model, settings.student_steps, seed=1000 + seed)
    graph, state = nnx.split(student)
    logits = teacher(batch)
    log_p = jax.nn.log_softmax(logits.reshape(-1, logits.shape[-1]))

    @jax.jit
    def gradient(target: Array, temperature: Array) -> Array:
        def loss(parameters: Any) -> Array:
            z = nnx.merge(graph, parameters)(batch).reshape(target.shape)
            return -jnp.mean(jnp.sum(target * jax.nn.log_softmax(z / temperature), axis=-1))

        return ravel_pytree(jax.grad(loss)(state))[0]

    out = {}
    for temperature in settings.temperatures:
        draws = _draws(np.asarray(jnp.exp(log_p)), temperature, settings.bytes_kept)
        key = jax.random.key(seed)
        made, stored = _compiled_targets(key, log_p, temperature, settings.bytes_kept, draws)
        full = np.asarray(gradient(jnp.exp(_POWER.log(log_p, temperature)), jnp.asarray(temperature)))
        out[temperature] = {
            name: (float(size), *_compare(full, np.asarray(gradient(target, jnp.asarray(temperature)))))
            for name, size, target in zip(_names(settings.bytes_kept, temperature), stored, made, strict=True)
        }
    return out
