"""What many labels of one record reveal together: composition by a privacy accountant."""

import dataclasses
import math

from sparsekd_jax._refusals import whole

LEAST_DELTA = 1e-12
"""Below this the accountant's own rounding counts; then only basic composition is claimed."""


@dataclasses.dataclass(frozen=True)
class Guarantee:
    """That n labels together are (ε, δ)-differentially private.

    Attributes:
        epsilon: ε of them all, in nats.
        delta: δ, the probability mass on which ε may be exceeded.
        num_labels: n.
        basic: n times the ε of one, which holds with δ = 0.
    """

    epsilon: float
    delta: float
    num_labels: int
    basic: float

    def __str__(self) -> str:
        return (
            f"{self.num_labels} labels: ε = {self.epsilon:.6g} at δ = {self.delta:g} (basic {self.basic:.6g})"
        )


def compose(epsilon: float, num_labels: int, delta: float, *, num_classes: int | None = None) -> Guarantee:
    """The (ε, δ) of n labels of the same record, each with the ε of `local_epsilon`.

    An ε-private label tells at most what randomised response on two outcomes does, whose privacy loss is ±ε
    at odds e^ε; the accountant composes n of those, labels asked for adaptively included. Given K, the loss
    is that of K-ary randomised response, ±ε or 0: the mixture has it, and no other family.

    Args:
        epsilon: ε ≥ 0 of one label, in nats.
        num_labels: n ≥ 1.
        delta: δ in [0, 1). At 0, and below 1e-12, the answer is basic composition, nε.
        num_classes: K, of labels drawn from the convex mixture alone.

    Returns:
        A `Guarantee`, never above nε.

    Raises:
        ImportError: dp-accounting is not installed.
        ValueError: an argument out of range; ε infinite, as of an operator without one.

    The losses lie on a grid of step ε, so nothing is rounded but by the accountant's convolution, which cuts
    tails of 1e-15 pessimistically.

    Reference: Kairouz, Oh & Viswanath, "The Composition Theorem for Differential Privacy" (2015); Google's
    dp-accounting (privacy loss distributions).

    >>> print(compose(0.1, 1000, 1e-6))
    1000 labels: ε = 19.3447 at δ = 1e-06 (basic 100)
    """
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; compose takes the finite ε ≥ 0 of one label, in nats")
    if num_labels < 1:
        raise ValueError(f"num_labels is {num_labels}; compose takes n ≥ 1")
    if not 0 <= delta < 1:
        raise ValueError(f"delta is {delta}; it is a probability in [0, 1)")
    if num_classes is not None and num_classes < 2:
        raise ValueError(f"num_classes is {num_classes}; it is K ≥ 2, or None")
    whole("num_labels", num_labels)
    try:
        from dp_accounting.pld.privacy_loss_distribution import PrivacyLossDistribution
    except ImportError as error:
        raise ImportError(
            "compose needs dp-accounting: pip install 'sparsekd_jax[privacy]'; "
            "without it, num_labels × epsilon holds with delta = 0"
        ) from error
    basic = num_labels * epsilon
    if epsilon == 0 or delta < LEAST_DELTA:
        return Guarantee(basic, delta, num_labels, basic)
    others = (num_classes or 2) - 2
    total = 1 + (1 + others) * math.exp(-epsilon)  # in units of the likeliest outcome, against overflow
    losses = {1: 1 / total, 0: others * math.exp(-epsilon) / total, -1: math.exp(-epsilon) / total}
    one = PrivacyLossDistribution.create_from_rounded_probability(losses, 0.0, epsilon)
    together = float(one.self_compose(num_labels).get_epsilon_for_delta(delta))
    return Guarantee(min(together, basic), delta, num_labels, basic)
