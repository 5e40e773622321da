"""ε family by family: what `local_epsilon` looks up. Each rule has its proof in a line or two.

Write Δ_δ for the distributions with every ``p_i ≥ δ``, and ``M = 1 − (K − 1)δ`` for the largest entry one can
have. In the families of theory.md section 2 q_i is an increasing function of ``φ'(p_i) + s``, with s such
that Σq = 1: the softened probability of a class is largest where its lead over all others is, at
``(M, δ, …, δ)``, and smallest where it has δ. Where the rest then sits, evenly or on one class, is decided by
whether q_i is concave or convex in p_i; where neither is known there is a bound.
"""

import dataclasses
import math
from collections.abc import Callable
from typing import Literal

import jax
import jax.numpy as jnp
import numpy as np

from sparsekd_jax.operators import (
    ConvexMixture,
    EntropyProjection,
    EuclideanEntropyProjection,
    Operator,
    PowerTransform,
    SofteningOperator,
    TsallisSoftening,
    Variational,
    lawless,
    reciprocal_schedule,
)
from sparsekd_jax.operators._softening import soften

Kind = Literal["exact", "bound", "none", "unknown"]
Pair = tuple[np.ndarray, np.ndarray]
Found = tuple[float, Kind, Pair | None, str]
"""ε, kind, pair, reason."""


@dataclasses.dataclass(frozen=True)
class Domain:
    """Δ_δ, and a temperature."""

    temperature: float
    num_classes: int
    floor: float

    @property
    def largest(self) -> float:
        """M."""
        return 1 - (self.num_classes - 1) * self.floor

    def top(self, at: int = 0) -> np.ndarray:
        """``(M, δ, …, δ)``, M at a class."""
        row = np.full(self.num_classes, self.floor)
        row[at] = self.largest
        return row

    def flat(self, low: int = 0) -> np.ndarray:
        """δ at a class, the rest even."""
        row = np.full(self.num_classes, (1 - self.floor) / (self.num_classes - 1))
        row[low] = self.floor
        return row


# -- exact rules ---------------------------------------------------------------------------------------


def _mixture(op: ConvexMixture, domain: Domain) -> Found:
    t = domain.temperature
    if op.schedule is reciprocal_schedule:
        return _affine(1 / t, (t - 1) / t, domain)
    with jax.enable_x64(True):
        mixed = float(op.schedule(jnp.asarray(t, jnp.float64)))
    return _affine(1 - mixed, mixed, domain)


def _label_smoothing(op: lawless.LabelSmoothing, domain: Domain) -> Found:
    epsilon = float(np.asarray(op.epsilon))
    return _affine(1 - epsilon, epsilon, domain)


def _affine(kept: float, mixed: float, domain: Domain) -> Found:
    """``q = kept·p + mixed/K``; where mixed < 0 (T < 1) the projection is this until it cuts."""
    k, pair = domain.num_classes, (domain.top(0), domain.top(1))
    least = kept * domain.floor + mixed / k
    if least <= 0:
        if mixed < 0:  # the first class is cut where the rest is even, and there first
            return (
                math.inf,
                "none",
                (domain.top(0), domain.flat(0)),
                "it truncates: a label has probability 0",
            )
        return math.inf, "none", pair, "nothing is mixed in: a label has probability 0"
    return math.log1p(kept * (1 - k * domain.floor) / least), "exact", pair, "K-ary randomised response"


def _power(op: SofteningOperator, domain: Domain) -> Found:
    return _directed(1 / domain.temperature, np.full(domain.num_classes, 1 / domain.num_classes), domain)


def _clamped_power(op: lawless.ClampedPower, domain: Domain) -> Found:
    beta = 1 / min(domain.temperature, float(np.asarray(op.limit)))
    return _directed(beta, np.full(domain.num_classes, 1 / domain.num_classes), domain)


def _prior_directed(op: lawless.PriorDirected, domain: Domain) -> Found:
    k = domain.num_classes
    weights = 1.0 + 8.0 * np.arange(k) if op.prior is None else np.asarray(op.prior, np.float64)
    if weights.shape != (k,):
        raise ValueError(f"num_classes is {k}, and the prior of {op.name} has shape {weights.shape}")
    return _directed(1 / domain.temperature, weights / weights.sum(), domain)


def _directed(beta: float, prior: np.ndarray, domain: Domain) -> Found:
    """``q ∝ p^β π^(1−β)``, in odds against a class: ``(1 − q_i)/q_i = Σ_j (π_j/π_i)^(1−β) (p_j/p_i)^β``."""
    k, floor = domain.num_classes, domain.floor
    if floor == 0:
        pair = (domain.top(0), domain.top(1))
        return math.inf, "none", pair, "a zero of p stays a zero: a label has probability 0"
    log_prior = np.log(prior)
    log_w = (1 - beta) * log_prior
    rest = (
        np.array([_log_sum(np.delete(log_w, i)) for i in range(k)])
        if np.ptp(log_w)
        else log_w + math.log(k - 1)
    )
    log_best = rest - log_w + beta * math.log(floor / domain.largest)  # odds at (M, δ, …, δ)
    if beta <= 1:
        # Σ_j w_j p_j^β with Σ_j p_j = 1 − δ is largest at p_j ∝ π_j (Hölder); the floor may forbid that.
        share = np.log(-np.expm1(log_prior)) - log_prior if k > 2 else log_prior[::-1] - log_prior
        log_worst = (1 - beta) * share + beta * math.log((1 - floor) / floor)
    else:  # convex in the rest: all on the class of largest weight
        heaviest = np.argsort(log_w)[::-1][:2]
        other = np.where(np.arange(k) == heaviest[0], heaviest[1], heaviest[0])
        log_gain = beta * math.log(domain.largest / floor)
        extra = log_w[other] + log_gain + math.log(-math.expm1(-log_gain))
        log_worst = np.logaddexp(rest, extra) - log_w
    gaps = np.logaddexp(0, log_worst) - np.logaddexp(0, log_best)
    i = int(np.argmax(gaps))
    if beta > 1:
        low = np.full(k, floor)
        low[other[i]] = domain.largest
        return float(gaps[i]), "exact", (domain.top(i), low), "one class at δ, another with all it can have"
    low = (1 - floor) * prior / (1 - prior[i])
    low[i] = floor
    if low.min() < floor * (1 - 1e-12):
        return float(gaps[i]), "bound", None, "Hölder's inequality; the prior is too uneven to attain it"
    return float(gaps[i]), "exact", (domain.top(i), low), "one class at δ, the rest shared evenly"


def _log_sum(x: np.ndarray) -> float:
    return float(np.logaddexp.reduce(x))


def _tsallis(op: TsallisSoftening, domain: Domain) -> Found:
    """Given the first class at δ, ``Σ_j (p_j^(α−1) + d)^(1/(α−1))`` is concave or convex in the rest."""
    alpha, warm = float(np.asarray(op.alpha)), domain.temperature >= 1
    even = (alpha < 2) is warm  # concave: d ≥ 0 for T ≥ 1, and for T < 1 the two exchange roles
    low = domain.flat(0) if even else domain.top(1)
    if domain.floor == 0 and (alpha <= 1 or domain.temperature <= 1):
        return math.inf, "none", (domain.top(0), low), "a zero of p stays a zero: a label has probability 0"
    found = _evaluated(op, (domain.top(0), low), domain)
    if found is None:
        return math.inf, "none", (domain.top(0), low), "it truncates: a label has probability 0"
    where = "shared evenly" if even else "on one other class"
    return found, "exact", (domain.top(0), low), f"one class at δ, the rest {where}"


def _evaluated(op: SofteningOperator, pair: Pair, domain: Domain) -> float | None:
    """``log F(p)_0/F(p')_0`` in float64, or None where the second is zero."""
    high, low = soften(op, np.stack(pair), domain.temperature)[:, 0]
    return None if low == 0 else float(np.log(high) - np.log(low))


def _cuts(op: SofteningOperator, domain: Domain) -> Found:
    pair = (domain.top(0), domain.top(1))
    return math.inf, "none", pair, "it drops classes: a label has probability 0"


# -- bounds --------------------------------------------------------------------------------------------


def _entropy_projection(op: EntropyProjection, domain: Domain) -> Found:
    if domain.floor > 0 or domain.temperature == 1:
        return _entropy_target(op, domain)
    # Every q with D(q) < log K/T is the image of some p = q^(1/β) in the interior, β → 0 included: so the
    # image is that ball, its extremes are even but for one class, and none is attained.
    k, radius = domain.num_classes, math.log(domain.num_classes) / domain.temperature
    high, low = _ball(radius, k)
    if low == 0:
        return math.inf, "none", None, "labels of vanishing probability: T < log K/log(K/(K−1))"
    return math.log(high / low), "exact", None, "approached at the boundary, not attained: D(q) < log K/T"


def _euclidean(op: EuclideanEntropyProjection, domain: Domain) -> Found:
    return _entropy_target(op, domain, _least_by_transport(domain))


def _entropy_target(op: SofteningOperator, domain: Domain, least: float = 0.0) -> Found:
    """``D(q) = D(p)/T`` with ``D = log K − H`` keeps q in a ball, and ``p ≻ q`` keeps it above δ."""
    pair, k = (domain.top(0), domain.top(1)), domain.num_classes
    if domain.temperature == 1:
        return _identity(op, domain)
    # Two classes: one q on either side has the entropy that T asks for, whatever the operator.
    found = _evaluated(EuclideanEntropyProjection(), pair, domain) if k == 2 else None
    if found is not None:
        return found, "exact", pair, "two classes: the ends are (M, δ) and (δ, M)"
    # Of all q in the ball (x, even) has the largest entry: attained. The least entry is bounded.
    radius = _deficit(domain.largest, k) / domain.temperature
    high, low = _ball(radius * (1 + 1e-10) + 1e-15 * math.log(k), k)  # outwards
    low = max(low, domain.floor, least)
    if low == 0:
        return math.inf, "unknown", None, "no least probability is proved on the boundary"
    return math.log(high / low), "bound", None, "entropy deficit at most that of (M, δ, …, δ) over T"


def _identity(op: SofteningOperator, domain: Domain) -> Found:
    pair = (domain.top(0), domain.top(1))
    if domain.floor == 0:
        defined = op.claims.domain == "simplex"
        return math.inf, "none", pair if defined else None, "T = 1 changes nothing"
    epsilon = math.log(domain.largest / domain.floor)
    return epsilon, "exact", pair, "T = 1 changes nothing"


def _deficit(x: float, num_classes: int) -> float:
    """log K − H of (x, the rest even): two terms ≥ 0, so that next to the even one no digits cancel."""
    excess, others = num_classes * x - 1, num_classes - 1
    return (_bregman_entropy(excess) + others * _bregman_entropy(-excess / others)) / num_classes


def _bregman_entropy(t: float) -> float:
    """`simplex.bregman_entropy` of a Python number."""
    if abs(t) < 0.1:
        return t * t * sum((-t) ** n / ((n + 1) * (n + 2)) for n in range(17))
    return (1 + t) * math.log1p(t) - t if t > -1 else 1.0


def _ball(radius: float, num_classes: int) -> tuple[float, float]:
    """Largest and least entry of any q with log K − H(q) ≤ radius; the least may be 0."""
    even = 1 / num_classes

    def inside(x: float) -> bool:
        return _deficit(x, num_classes) <= radius

    high = 1.0 if inside(1.0) else -math.expm1(_edge(lambda s: inside(-math.expm1(s)), math.log1p(-even)))
    low = 0.0 if inside(0.0) else math.exp(_edge(lambda s: inside(math.exp(s)), math.log(even)))
    return high, low


def _edge(inside: Callable[[float], bool], start: float) -> float:
    """From a point inside down to the first outside, on a logarithmic scale; −∞ where none is found."""
    outside = -745.0
    if inside(outside):
        return -math.inf
    while outside < (middle := (start + outside) / 2) < start:
        start, outside = (middle, outside) if inside(middle) else (start, middle)
    return outside


def _least_by_transport(domain: Domain) -> float:
    """A least entry y of the Euclidean entropy projection, for T > 1, from how little it then moves.

    ``p = q + a(log q − mean log q)``: of the classes that gain, the one with the least q gains most, by
    ``q_min − p_min ≤ y − δ``, so ``TV(p, q) ≤ t = (K − 1)(y − δ)``. The entropy that T asks for is
    ``H(q) − H(p) = (T − 1) D(q) ≥ (T − 1) D(y, even)``, and entropy is continuous: it moves by at most
    ``t log(K − 1) + h(t)`` (Zhang 2007; Audenaert 2007). The first exceeds the second while y is too small.
    """
    k, t = domain.num_classes, domain.temperature

    def possible(gain: float) -> bool:
        moved = min((k - 1) * gain, 1 - 1 / k)
        binary = -moved * math.log(moved) - (1 - moved) * math.log1p(-moved)
        wanted = (t - 1) * max(_deficit(domain.floor + gain, k) * (1 - 1e-10) - 1e-15 * math.log(k), 0)
        return wanted <= moved * math.log(k - 1) + binary

    return domain.floor + math.exp(_edge(lambda s: possible(math.exp(s)), math.log(1 / k - domain.floor)))


def _variational(op: Variational, domain: Domain) -> Found:
    if domain.temperature == 1:
        return _identity(op, domain)
    if op.strength == "target":
        return _entropy_target(op, domain)
    if domain.floor == 0 or domain.temperature < 1:
        return math.inf, "unknown", None, "it depends on φ and ψ at zero; give a floor, and T ≥ 1"
    pair = (domain.top(0), domain.top(1))
    if domain.num_classes == 2:
        found = _evaluated(op, pair, domain)
        if found is not None:
            return found, "exact", pair, "two classes: the ends are (M, δ) and (δ, M)"
    # The largest is attained at (M, δ, …, δ); p ≻ q keeps the least above δ. 1e-7 is the operator's accuracy.
    high = float(soften(op, pair[0][None], domain.temperature)[0, 0])
    return math.log(high * (1 + 1e-7) / domain.floor), "bound", None, "p ≻ F(p), so no class falls below δ"


def _unknown(op: Operator, domain: Domain) -> Found:
    return math.inf, "unknown", None, "nothing is proved of an operator that is not of a known family"


_RULES: dict[type, Callable[..., Found]] = {
    PowerTransform: _power,
    ConvexMixture: _mixture,
    TsallisSoftening: _tsallis,
    EntropyProjection: _entropy_projection,
    EuclideanEntropyProjection: _euclidean,
    Variational: _variational,
    lawless.LabelSmoothing: _label_smoothing,
    lawless.PriorDirected: _prior_directed,
    lawless.ClampedPower: _clamped_power,
    lawless.TopKRenormalized: _cuts,
    lawless.Argmax: _cuts,
}


def rule_for(operator: Operator) -> Callable[..., Found]:
    """The rule of a family; a plain function has none."""
    return _RULES.get(type(operator), _unknown)
