"""Local differential privacy of one label drawn from a softened distribution: ε by operator."""

import dataclasses
import math

import numpy as np

from sparsekd_jax._refusals import whole
from sparsekd_jax.operators import Operator, SofteningOperator
from sparsekd_jax.operators.base import operator_name, require_operator
from sparsekd_jax.theory._rows import require_temperature
from sparsekd_jax.theory.privacy._rules import Domain, Found, Kind, Pair, rule_for


@dataclasses.dataclass(frozen=True, eq=False)
class LocalEpsilon:
    """ε of one sampled label: ``sup over p, p', i of log F_T(p)_i/F_T(p')_i``.

    Attributes:
        operator: its name.
        temperature: T.
        num_classes: K.
        floor: δ, the least entry of the distributions it is for; 0 for all of the domain.
        epsilon: in nats; inf where nothing finite holds or is known.
        kind: "exact", the supremum; "bound", at least the supremum; "none", the supremum is infinite;
            "unknown", nothing is proved.
        pair: ``[K]`` each, (p, p') with ``log F_T(p)_i/F_T(p')_i = ε`` for some class i; None where the
            supremum is only approached, or not known.
        reason: why.
    """

    operator: str
    temperature: float
    num_classes: int
    floor: float
    epsilon: float
    kind: Kind
    pair: Pair | None
    reason: str

    def __str__(self) -> str:
        domain = "the simplex" if self.floor == 0 else f"p_i ≥ {self.floor:g}"
        value = {"exact": "ε = ", "bound": "ε ≤ "}.get(self.kind)
        found = {"none": "no finite ε", "unknown": "none known"}.get(
            self.kind
        ) or f"{value}{self.epsilon:.6g}"
        where = f"{self.operator} at T = {self.temperature:g}, K = {self.num_classes}, on {domain}"
        return f"{where}: {found} ({self.reason})"


def local_epsilon(
    operator: Operator, temperature: float, num_classes: int, *, floor: float = 0.0
) -> LocalEpsilon:
    """The local differential privacy of one label drawn from F_T(p), over all p with ``p_i ≥ δ``.

    ``ε = sup over p, p', i of log F_T(p)_i/F_T(p')_i``. Mixture: ``log(1 + K/(T − 1))``, and on Δ_δ
    ``log(1 + K(1 − Kδ)/(T − 1 + Kδ))``. Power, β = 1/T: none on Δ; on Δ_δ for β ≤ 1

        log(M^β [δ^β + (K−1)^(1−β) (1−δ)^β] / (δ^β [M^β + (K−1) δ^β])),

    and ``β log(M/δ)`` for β ≥ 1 or K = 2. Tsallis: exact for every α and T, from two evaluations. Entropy
    projection: exact on the interior, a bound on Δ_δ. Euclidean entropy projection: a bound, finite on all of
    the simplex for T > 1.

    Args:
        operator: a softening operator. Of a plain function nothing is proved.
        temperature: scalar T in the operator's range.
        num_classes: K ≥ 2.
        floor: δ in [0, 1/K]. See `clip`.

    Returns:
        A `LocalEpsilon`. The number is computed in float64: relative error 1e-9, below 1e-7 nats an absolute
        one of 1e-16, and next to a temperature where ε becomes infinite that of the threshold. Bounds are
        rounded outwards.

    Raises:
        ValueError: an argument outside its range. TypeError: what is no operator, such as its name; a
            number of classes that is not whole.

    Reference: theory.md section 7; Kairouz, Oh & Viswanath (2016) for K-ary randomised response.

    >>> from sparsekd_jax import operators
    >>> print(local_epsilon(operators.get("mixture"), 2.0, 3))
    mixture at T = 2, K = 3, on the simplex: ε = 1.38629 (K-ary randomised response)
    >>> local_epsilon(operators.get("power"), 2.0, 3).kind
    'none'
    >>> round(local_epsilon(operators.get("power"), 2.0, 3, floor=0.01).epsilon, 4)
    2.5288
    """
    require_operator(operator)
    num_classes = whole("num_classes", num_classes, least=2)
    require_temperature(operator, temperature)
    require_floor(floor, num_classes)
    domain = Domain(float(temperature), num_classes, float(floor))
    if domain.largest - domain.floor <= 1e-12:
        only = np.full(num_classes, 1 / num_classes)
        found: Found = (0.0, "exact", (only, only), "one distribution only has every p_i ≥ 1/K")
    else:
        found = rule_for(operator)(operator, domain)
    return LocalEpsilon(operator_name(operator), domain.temperature, domain.num_classes, domain.floor, *found)


def temperature_for(
    operator: SofteningOperator, epsilon: float, num_classes: int, *, floor: float = 0.0
) -> float:
    """The lowest T whose certified ε is at most the one given: how warm a private label has to be.

    Mixture: ``T = 1 + K/(e^ε − 1)``. Found by bisection on log T in [1e-6, 1e9], to 1e-9 relative;
    what is returned always satisfies ``local_epsilon(…).epsilon ≤ ε``.

    Args:
        operator: a softening operator.
        epsilon: ε > 0, in nats.
        num_classes: K.
        floor: δ in [0, 1/K].

    Returns:
        T.

    Raises:
        ValueError: ε not positive, or no temperature that has it. TypeError: a plain function, of which
            nothing is proved, or what is no operator.

    >>> from sparsekd_jax import operators
    >>> round(temperature_for(operators.get("mixture"), 1.3862943611198906, 3), 6)
    2.0
    """
    if not 0 < epsilon < math.inf:
        raise ValueError(f"epsilon is {epsilon}; it is a finite number of nats > 0")
    require_operator(operator)
    if not isinstance(operator, SofteningOperator):
        raise TypeError(
            f"operator is the function {operator_name(operator)}, of which nothing is proved, so no "
            "temperature is known to give epsilon: take a family of sparsekd_jax.operators"
        )
    allowed = operator.claims.temperatures

    def private(log_t: float) -> bool:
        return local_epsilon(operator, math.exp(log_t), num_classes, floor=floor).epsilon <= epsilon

    low = math.log(max(allowed.low, 1e-6)) + 1e-12  # just inside: math.exp(math.log(1.0)) may be below 1
    high = math.log(min(allowed.high, 1e9)) - 1e-12
    if not private(high):
        at_high = local_epsilon(operator, math.exp(high), num_classes, floor=floor)
        raise ValueError(f"epsilon is {epsilon:g}, which no temperature is known to give: {at_high}")
    if private(low):
        return math.exp(low)
    while high - low > 1e-9:
        middle = (low + high) / 2
        if not low < middle < high:
            break
        low, high = (low, middle) if private(middle) else (middle, high)
    return math.exp(high)


def require_floor(floor: float, num_classes: int) -> None:
    """Refuse a δ outside [0, 1/K]."""
    if np.ndim(floor) != 0 or not 0 <= float(floor) <= (1 + 1e-12) / num_classes:
        raise ValueError(
            f"floor is {floor}; no distribution of K = {num_classes} classes has every p_i ≥ δ unless "
            f"0 ≤ δ ≤ 1/K = {1 / num_classes:g}"
        )
