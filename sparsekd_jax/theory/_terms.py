"""The arrays behind a bias–variance decomposition: each term for all members and with each left out."""

import functools
from typing import Literal, NamedTuple

import jax
import jax.numpy as jnp
from jaxtyping import Array

from sparsekd_jax import simplex

Loss = Literal["brier", "kl"]


class LeftOut(NamedTuple):
    """A statistic of each example from all members, and with each of them left out.

    Attributes:
        full: ``[n]``, from all members.
        without: ``[m, n]``, with member i left out.
    """

    full: Array
    without: Array

    def minus(self, other: "LeftOut") -> "LeftOut":
        """The same for the difference of two statistics."""
        return LeftOut(self.full - other.full, self.without - other.without)


class Terms(NamedTuple):
    """The corrected terms of one ensemble.

    Attributes:
        risk: mean loss of a member, by example.
        variance: corrected, by example.
        variance_map: ``[n, K]``, by example and class.
        bias_map: ``[n, K]``, corrected squared bias (its part under KL) by example and class.
    """

    risk: LeftOut
    variance: LeftOut
    variance_map: Array
    bias_map: Array

    @property
    def bias(self) -> LeftOut:
        """What the variance leaves of the risk: for Brier the plug-in bias² less Var/m."""
        return self.risk.minus(self.variance)


class Differences(NamedTuple):
    """The terms of ``Risk_dense − Risk_sparse = ΔVar − ΔBias²``, and the two variances."""

    variance: LeftOut
    bias: LeftOut
    advantage: LeftOut
    variance_dense: LeftOut
    variance_sparse: LeftOut


@functools.partial(jax.jit, static_argnums=2)
def terms(probs: Array, reference: Array, loss: Loss) -> Terms:
    """The corrected terms of an ensemble, example by example, in jax: to jit, vmap and differentiate.

    Both losses have one structure: the risk is the mean loss, the plug-in variance is what the centre of the
    members saves of it, and m/(m − 1) corrects that. `decompose` validates, calls this and adds intervals.

    Args:
        probs: ``[m, n, K]``, m ≥ 2 members, taken as they are; positive for KL.
        reference: ``[n, K]``, the truth, or one-hot labels.
        loss: "brier" or "kl" (nats), static.

    Returns:
        `Terms` in the dtype of ``probs``.

    Reference: theory.md section 3.

    >>> probs = jnp.array([[[0.8, 0.2]], [[0.6, 0.4]], [[0.7, 0.3]]])
    >>> found = terms(probs, jnp.array([[0.7, 0.3]]), "brier")
    >>> round(float(found.variance.full[0]), 4), round(float(found.bias.full[0]), 4)
    (0.02, -0.0067)
    """
    m = probs.shape[0]
    if loss == "brier":
        centre = jnp.mean(probs, axis=0)
        gaps = probs - centre[None]
        plug_in_map = jnp.mean(gaps**2, axis=0)
        squares = jnp.sum(gaps**2, axis=-1)
        # Σ‖q − q̄‖² without member i is m/(m − 1)‖q_i − q̄‖² less.
        without = (jnp.sum(squares, axis=0)[None] - m / (m - 1) * squares) / (m - 1)
        losses = jnp.sum((probs - reference[None]) ** 2, axis=-1)
        plug_in_bias_map = (centre - reference) ** 2
    else:
        logs = jnp.log(probs)
        mean = jnp.mean(logs, axis=0)
        log_centre = jax.nn.log_softmax(mean, axis=-1)
        centre = jnp.exp(log_centre)
        # Bregman terms, whose sums over classes are the divergences; E KL(q̄‖q) is −log Σ exp(E log q).
        plug_in_map = centre * (log_centre - mean) - centre + jnp.mean(probs, axis=0)
        without = -jax.nn.logsumexp(mean[None] - (logs - mean[None]) / (m - 1), axis=-1)
        losses = simplex.kl_divergence(reference[None], probs)
        log_reference = jnp.where(reference > 0, simplex.safe_log(reference), log_centre)
        plug_in_bias_map = reference * (log_reference - log_centre) - reference + centre
    mean_loss = jnp.mean(losses, axis=0)
    risk = LeftOut(mean_loss, (m * mean_loss[None] - losses) / (m - 1))
    # A member left out of two leaves one, which has no variance: there `_interval` asks for no interval.
    variance = LeftOut(m / (m - 1) * jnp.sum(plug_in_map, axis=-1), (m - 1) / max(m - 2, 1) * without)
    return Terms(risk, variance, m / (m - 1) * plug_in_map, plug_in_bias_map - plug_in_map / (m - 1))


@functools.partial(jax.jit, static_argnums=3)
def differences(sparse: Array, dense: Array, reference: Array, loss: Loss) -> Differences:
    """ΔVar (dense − sparse), ΔBias² (sparse − dense) and the advantage, pair by pair."""
    thin, full = terms(sparse, reference, loss), terms(dense, reference, loss)
    return Differences(
        variance=full.variance.minus(thin.variance),
        bias=thin.bias.minus(full.bias),
        advantage=full.risk.minus(thin.risk),
        variance_dense=full.variance,
        variance_sparse=thin.variance,
    )
