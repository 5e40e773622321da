"""What strength "target" of `variational` aims at: an entropy between H(p) and log K, uncancelled."""

from typing import NamedTuple

import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax import simplex
from sparsekd_jax.operators._rows import log_normalizer


class EntropyTarget(NamedTuple):
    """``H(q) = H(p) + (1 − 1/T)(log K − H(p))`` as an entropy and as a deficit ``log K − H``, [..., 1]."""

    entropy: Array
    deficit: Array


def entropy_target(centred: Array, temperature: Array) -> EntropyTarget:
    """The target for p given as centred logs."""
    full = deficit(centred)
    return EntropyTarget(entropy(centred) + (temperature - 1) / temperature * full, full / temperature)


def deficit(centred: Array) -> Array:
    """``log K − H`` of softmax(centred), [..., 1], accurate relative to itself next to the uniform."""
    off = jnp.isneginf(centred)
    # K q_i − 1 = (e_i − ē)/(1 + ē) with e = exp(c) − 1: exact for nearly uniform rows, where c is small.
    lifted = jnp.where(off, -1, jnp.expm1(jnp.where(off, 0, centred)))
    mean = jnp.mean(lifted, axis=-1, keepdims=True)
    excess = jnp.maximum((lifted - mean) / (1 + mean), -1)
    return jnp.mean(simplex.bregman_entropy(excess), axis=-1, keepdims=True)


def entropy(centred: Array) -> Array:
    """``H = log Σ e^c − Σ q c`` of softmax(centred), [..., 1], accurate relative to itself next to a vertex.

    Both terms are ≥ 0 for rows whose maximum is 0.
    """
    off = jnp.isneginf(centred)
    c = jnp.where(off, 0, centred)
    normalizer = log_normalizer(centred)
    q = jnp.where(off, 0, jnp.exp(c - normalizer))
    return normalizer - jnp.sum(q * c, axis=-1, keepdims=True)


def sharpness_residual(centred: Array, target: EntropyTarget) -> Array:
    """> 0 where softmax(centred) is sharper than the target; on whichever of the two scales is the finer."""
    peaked = target.entropy < target.deficit
    by_entropy = jnp.log(target.entropy) - jnp.log(entropy(centred))
    by_deficit = jnp.log(deficit(centred)) - jnp.log(target.deficit)
    return jnp.where(peaked, by_entropy, by_deficit)
