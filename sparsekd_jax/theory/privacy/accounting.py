"""What many labels of one record reveal together: composition, summed exactly."""

import dataclasses
import math

import numpy as np

from sparsekd_jax._refusals import real, whole

LEAST_TAIL = 1e-200
"""scipy's tails of a binomial lose their digits from about 1e-244 down; below this none is relied on."""


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
    at odds e^ε; n of those compose to the least ε' with ``P(S ≥ s) − e^ε' P(S ≤ −s) ≤ δ``, S the sum of n
    signs and s the least with sε > ε', labels asked for adaptively included. Given K, the loss is that of
    K-ary randomised response, ±ε or 0: the mixture has it, and no other family.

    Args:
        epsilon: ε ≥ 0 of one label, in nats.
        num_labels: n ≥ 1.
        delta: δ in [0, 1). At 0, and below 1e-200, the answer is basic composition, nε.
        num_classes: K, of labels drawn from the convex mixture alone.

    Returns:
        A `Guarantee`, never above nε.

    Raises:
        TypeError: a number of labels or classes that is not whole; an ε or a δ that is no number.
        ValueError: an argument out of range; ε infinite, as of an operator without one.

    The tails are those of binomial distributions, without a grid or a convolution: δ is met to 2e-10 of
    P(S ≥ s), and n·2e-15 of it, rounded outwards. No tail below 1e-200 is relied on, so that an ε' above
    460 + log δ nats may be a multiple of ε.

    Reference: Kairouz, Oh & Viswanath, "The Composition Theorem for Differential Privacy" (2015).

    >>> print(compose(0.1, 1000, 1e-6))
    1000 labels: ε = 19.3447 at δ = 1e-06 (basic 100)
    """
    epsilon, delta = real("epsilon", epsilon), real("delta", delta)
    if not 0 <= epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; compose takes the finite ε ≥ 0 of one label, in nats")
    num_labels = whole("num_labels", num_labels)
    others = 0 if num_classes is None else whole("num_classes", num_classes, 2) - 2
    if not 0 <= delta < 1:
        raise ValueError(f"delta is {delta}; it is a probability in [0, 1)")
    basic = num_labels * epsilon
    if epsilon == 0 or delta < LEAST_TAIL:
        return Guarantee(basic, delta, num_labels, basic)
    together = _least(epsilon, num_labels, delta, others)
    return Guarantee(min(together, basic), delta, num_labels, basic)


def _least(epsilon: float, n: int, delta: float, others: int) -> float:
    """The least ε' that holds at δ; ``others`` outcomes of a label have no loss."""
    from scipy import stats

    flip = math.exp(-epsilon)
    some = (1 + flip) / (1 + flip + others * flip)  # that a label has a loss, +ε or −ε
    reach = 38 * math.sqrt(n * some * (1 - some)) + 470  # less than 1e-300 is beyond (Bernstein)
    signs = np.arange(max(0, math.floor(n * some - reach)), min(n, math.ceil(n * some + reach)) + 1)
    weights = stats.binom.pmf(signs, n, some)
    rounding = 1e-10 + 1e-15 * n

    def tails(s: int) -> tuple[float, float]:
        """P(S ≥ s) from above, P(S ≤ −s) from below."""
        fewest = (signs + s + 1) // 2 - 1
        up, down = (weights @ stats.binom.sf(fewest, signs, p / (1 + flip)) for p in (1.0, flip))
        return float(up) * (1 + rounding), float(down) * (1 - rounding) if down >= LEAST_TAIL else 0.0

    def holds(s: int) -> bool:
        """Whether ε' = sε does: of S = s itself both sides are the same."""
        up, down = tails(s + 1)
        return up - (math.exp(s * epsilon + math.log(down)) if down > 0 else 0.0) <= delta

    low, high = -1, n  # the least s that holds is in (low, high]
    while high - low > 1:
        middle = (low + high) // 2
        low, high = (low, middle) if holds(middle) else (middle, high)
    up, down = tails(high)
    if high == 0 or up <= delta or down == 0:
        return high * epsilon
    return min(high * epsilon, math.log((up - delta) / down))
