"""The laws of theory.md section 1, each a pure function from observed outputs to one margin a case.

A margin ≥ −tolerance means that the law holds in that case. Laws never call an operator themselves: they read
an `Observation`, which evaluates each output once and shares it. Arrays are numpy, float64, ``[N]`` or
``[N, K]``.
"""

from collections.abc import Callable, Mapping
from types import MappingProxyType

import numpy as np

from sparsekd_jax.axioms.limits import cold_limit, continuity, finite_gradients, hot_limit
from sparsekd_jax.axioms.observation import (
    BLUR,
    SINGLE_PRECISION_TOLERANCE,
    Law,
    Margins,
    Observation,
    entropy,
    sorted_by,
    worst_if_nan,
)


def _furthest(left: np.ndarray, right: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Of each row of both the entries where they are furthest apart, NaN first."""
    worst = np.argmax(np.nan_to_num(np.abs(left - right), nan=np.inf), -1)
    rows = np.arange(len(left))
    return left[rows, worst], right[rows, worst]


# -- closure, ranking ----------------------------------------------------------------------------------------


def _closure(seen: Observation) -> Margins:
    q = seen.hot
    least, total = q.min(-1), q.sum(-1)
    with np.errstate(invalid="ignore"):
        margin = np.minimum(least, -np.abs(total - 1))
    return Margins(worst_if_nan(margin, q), least, total)


def _gaps(q: np.ndarray, single: bool) -> np.ndarray:
    """By how much of itself each class is above the next; of a small class, by how much of the least scale.

    Times the tolerance that is what rounding makes of 1 − Σ others: 1e-13, and 1e-6 in single precision.
    """
    larger, smaller = q[:, :-1], q[:, 1:]
    return (larger - smaller) / np.maximum(
        np.maximum(np.abs(larger), np.abs(smaller)), 0.05 if single else 1e-4
    )


def _weak_ranking(seen: Observation) -> Margins:
    p, q = sorted_by(seen.cases.p, seen.hot)
    margins = _gaps(q, seen.evaluator.single_precision)
    margins = np.where(p[:, :-1] == p[:, 1:], -np.abs(margins), margins)  # equal inputs must stay equal
    worst = np.argmin(np.where(np.isnan(margins), -np.inf, margins), -1)
    rows = np.arange(len(p))
    return Margins(worst_if_nan(margins[rows, worst], q), q[rows, worst], q[rows, worst + 1])


def _cut_off(seen: Observation, rows: np.ndarray, lost: np.ndarray) -> np.ndarray:
    """Which of some rows truncate what they lost; of all but the first ones nothing is said, so False."""
    most = seen.evaluator.segments // 8
    return np.append(seen.truncated(rows[:most], lost[:most]), np.zeros(len(rows[most:]), bool))


def _strict_ranking(seen: Observation) -> Margins:
    p, q = sorted_by(seen.cases.p, seen.hot)
    single = seen.evaluator.single_precision
    forgiven = max(LAWS["closure"].tolerance, SINGLE_PRECISION_TOLERANCE if single else 0)
    q = np.where(q >= -forgiven, np.maximum(q, 0), q)  # what closure forgives has no logarithm
    # Pairs whose gap no reasonable T ≤ 100 squeezes below the resolution of q.
    clear = (p[:, :-1] - p[:, 1:] >= (1e-2 if single else 1e-4)) & (p[:, :-1] >= 1.001 * p[:, 1:])
    clear &= (seen.cases.high <= 100)[:, None]
    with np.errstate(divide="ignore", invalid="ignore"):  # a row evened out to rounding has no gaps left
        even = np.log(q[:, :1]) - np.log(q.min(-1, keepdims=True)) <= 1e-6
        clear &= ~even
    rows = np.arange(len(p))

    def judge(log_q: np.ndarray, where: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
        with np.errstate(invalid="ignore"):
            gap = log_q[:, :-1] - log_q[:, 1:]
            gap = np.where(np.isneginf(log_q[:, :-1]), 0.0, gap)
            scale = np.maximum(1, np.where(np.isfinite(log_q[:, :-1]), np.abs(log_q[:, :-1]), 1))
            # In single precision a gap below the tolerance, which forgives as much again, is none.
            blur = 2 * SINGLE_PRECISION_TOLERANCE if single else BLUR * scale
            excess = np.where(clear[where], gap - blur, np.inf)
        worst = np.argmin(np.where(np.isnan(excess), -np.inf, excess), -1)
        return excess[np.arange(len(excess)), worst], worst

    with np.errstate(divide="ignore", invalid="ignore"):
        margin, worst = judge(np.log(q), rows)
    # A gap that closed may be an underflow: look again in log space, or see whether the class is cut off.
    decided = clear.any(-1)
    doubtful = np.flatnonzero(decided & (margin <= 0) & (q[rows, worst + 1] == 0) & ~seen.broken)
    if len(doubtful):
        log_q = seen.log_hot(doubtful)
        if log_q is None:
            level = p[rows, worst][doubtful, None]
            decided[doubtful] = _cut_off(seen, doubtful, seen.cases.p[doubtful] == level)
        else:
            _, log_q = sorted_by(seen.cases.p[doubtful], log_q)
            margin[doubtful], worst[doubtful] = judge(log_q, doubtful)
    # Two classes that change places break the strict law as they break the weak one, however close they are.
    turned = np.where(p[:, :-1] > p[:, 1:], _gaps(q, single), np.inf)
    most_turned = np.argmin(turned, -1)
    falls = turned[rows, most_turned] < -max(
        LAWS["A1"].tolerance, SINGLE_PRECISION_TOLERANCE if single else 0
    )
    margin = np.where(falls, turned[rows, most_turned], margin)
    worst, decided = np.where(falls, most_turned, worst), decided | falls
    larger, smaller = q[rows, worst], q[rows, worst + 1]
    if not single:  # equal to rounding: tied, or squeezed together
        with np.errstate(divide="ignore", invalid="ignore"):
            level = np.abs(np.log(larger) - np.log(smaller)) <= BLUR * np.maximum(1, np.abs(np.log(larger)))
        equal = np.flatnonzero(decided & (margin <= 0) & level & ~seen.broken)
        most = seen.evaluator.segments // 8
        decided[equal[most:]] = False
        equal = equal[:most]
        if len(equal):
            order = np.argsort(-seen.cases.p[equal], axis=-1, kind="stable")
            pair = (order[np.arange(len(equal)), worst[equal] + ahead] for ahead in (0, 1))
            decided[equal] = ~seen.squeezed(equal, *pair)
    return Margins(worst_if_nan(np.where(decided, margin, np.inf), q), larger, smaller, decided | seen.broken)


# -- temperature: entropy, majorization, identity, semigroup -----------------------------------------------


def _same(seen: Observation) -> np.ndarray:
    """Cases in which a change of temperature changed nothing."""
    return (seen.cold == seen.hot).all(-1)


def _weak_entropy(seen: Observation) -> Margins:
    left, right = entropy(seen.cold), entropy(seen.hot)
    margin = worst_if_nan(right - left, seen.hot, seen.cold)
    return Margins(margin, left, right, equal=_same(seen))


def _strict_entropy(seen: Observation) -> Margins:
    cases = seen.cases
    left, right = entropy(seen.cold), entropy(seen.hot)
    support = cases.p > 0
    least = np.where(support, cases.p, np.inf).min(-1)
    # Decided: T clearly above S, p clearly uneven on its support, F_S(p) neither saturated nor even.
    decided = (cases.high >= 1.2 * cases.low) & (cases.p.max(-1) >= 1.5 * least) & (cases.high <= 100)
    decided &= support.sum(-1) > 1
    with np.errstate(invalid="ignore", divide="ignore"):
        spread = np.log(seen.cold.max(-1)) - np.log(np.where(seen.cold > 0, seen.cold, np.inf).min(-1))
        even = (spread < 1e-6) & (np.abs(left - np.log(cases.num_classes)) < 1e-6)
    decided &= ~even
    moved = np.abs(seen.hot - seen.cold).max(-1)
    margin = np.where(moved > BLUR, right - left, -1.0) - BLUR
    # Nothing moved, but some class is too small to be seen moving: log space tells an underflow, where it
    # still moves, from a truncation, where it does not.
    doubtful = np.flatnonzero(decided & (moved <= BLUR) & (seen.hot.min(-1) < 1e-9) & ~seen.broken)
    if len(doubtful):
        hot = seen.log_hot(doubtful)
        if hot is None:
            lost = support[doubtful] & (seen.hot[doubtful] == 0) & (moved[doubtful] == 0)[:, None]
            same = _cut_off(seen, doubtful, lost)
        else:
            cold = seen.evaluator.log_soften(cases.p[doubtful], cases.low[doubtful])
            same = ((hot == cold) | (np.isneginf(hot) & np.isneginf(cold))).all(-1)
        decided[doubtful] = same
    # A difference of entropies below rounding says nothing about its sign.
    decided &= ~((moved > BLUR) & (np.abs(right - left) < 1e-12))
    # An entropy that falls breaks the strict law as it breaks the weak one.
    falls = right - left < -LAWS["A3"].tolerance
    margin, decided = np.where(falls, right - left, margin), decided | falls
    margin = worst_if_nan(np.where(decided, margin, np.inf), seen.hot, seen.cold)
    return Margins(margin, left, right, decided | seen.broken)


def _majorization(seen: Observation) -> Margins:
    cold = np.cumsum(-np.sort(-seen.cold, axis=-1), -1)[:, :-1]
    hot = np.cumsum(-np.sort(-seen.hot, axis=-1), -1)[:, :-1]
    worst = np.argmin(np.nan_to_num(cold - hot, nan=-np.inf), -1)
    rows = np.arange(len(hot))
    left, right = cold[rows, worst], hot[rows, worst]
    return Margins(worst_if_nan(left - right, seen.hot, seen.cold), left, right, equal=_same(seen))


def _identity(seen: Observation) -> Margins:
    p = seen.cases.p
    q = seen.evaluator.soften(p, np.ones(len(p)))
    left, right = _furthest(q, p)
    return Margins(worst_if_nan(-np.abs(left - right), q), left, right)


def _semigroup(seen: Observation) -> Margins:
    cases = seen.cases
    product = cases.low * cases.high
    # Both on one side of 1 (theory.md section 2), and no further than floating point follows.
    inside = seen.temperatures.inside(product) & ((cases.low >= 1) | (cases.high <= 1))
    inside &= (product >= 1e-2) & (product <= 1e4)
    t = np.where(inside, product, 1.0 if 1.0 in seen.temperatures else cases.high)
    with np.errstate(invalid="ignore", divide="ignore"):
        inner = seen.hot
        usable = np.isfinite(inner).all(-1)
        inner = np.where(usable[:, None], inner, cases.p)
        twice = seen.evaluator.soften(inner, cases.low)
    once = seen.evaluator.soften(cases.p, t)
    left, right = _furthest(twice, once)
    margin = worst_if_nan(-np.abs(left - right), twice, once, seen.hot)
    return Margins(np.where(inside, margin, np.inf), left, right, inside)


# -- symmetry, linearity, distances ------------------------------------------------------------------------


def _equivariance(seen: Observation) -> Margins:
    cases = seen.cases
    left = seen.evaluator.soften(np.take_along_axis(cases.p, cases.permutation, -1), cases.high)
    right = np.take_along_axis(seen.hot, cases.permutation, -1)
    a, b = _furthest(left, right)
    return Margins(worst_if_nan(-np.abs(a - b), left, right), a, b)


def _affinity(seen: Observation) -> Margins:
    cases = seen.cases
    w = cases.weight[:, None]
    left = seen.evaluator.soften(w * cases.p + (1 - w) * cases.r, cases.high)
    right = w * seen.hot + (1 - w) * seen.partner
    a, b = _furthest(left, right)
    return Margins(worst_if_nan(-np.abs(a - b), left, right), a, b)


def _expansion(order: int) -> Callable[[Observation], Margins]:
    def margins(seen: Observation) -> Margins:
        cases = seen.cases
        before = np.linalg.norm(cases.p - cases.r, ord=order, axis=-1)
        after = np.linalg.norm(seen.hot - seen.partner, ord=order, axis=-1)
        # Closer pairs measure rounding, not the operator.
        decided = before >= (0.05 if seen.evaluator.single_precision else 1e-6)
        ratio = after / np.where(decided, before, 1)
        margin = worst_if_nan(1 - ratio, seen.hot, seen.partner)
        return Margins(np.where(decided, margin, np.inf), after, before, decided)

    return margins


def _support(seen: Observation) -> Margins:
    p, q = seen.cases.p, seen.hot
    gained = (p == 0) & (q > 0)
    lost = (p > 0) & (q == 0)
    decided = np.ones(len(p), bool)
    doubtful = np.flatnonzero(lost.any(-1) & ~seen.broken)
    if len(doubtful):  # an underflow is not a truncation
        log_q = seen.log_hot(doubtful)
        if log_q is None:
            decided[doubtful] = _cut_off(seen, doubtful, lost[doubtful])
            lost[~decided] = False
        else:
            lost[doubtful] &= np.isneginf(log_q)
    changed = gained | lost
    margin = np.where(changed.any(-1), -1.0, 0.0)
    return Margins(
        worst_if_nan(margin, q), (p > 0).sum(-1).astype(float), (q > 0).sum(-1).astype(float), decided
    )


LAWS: Mapping[str, Law] = MappingProxyType(
    {
        law.id: law
        for law in (
            Law(
                "closure",
                "closure",
                "F_T(p)_i ≥ 0, Σ_i F_T(p)_i = 1",
                _closure,
                sides=("min_i F_T(p)_i", "Σ_i F_T(p)_i"),
            ),
            Law(
                "equivariance",
                "permutation equivariance",
                "F_T(πp) = πF_T(p)",
                _equivariance,
                sides=("F_T(πp)_i", "πF_T(p)_i"),
                uses=("p", "T", "permutation"),
            ),
            Law(
                "A1",
                "ranking preservation",
                "p_i ≥ p_j ⇒ F_T(p)_i ≥ F_T(p)_j",
                _weak_ranking,
                sides=("F_T(p)_i", "F_T(p)_j"),
            ),
            Law(
                "A1s",
                "strict ranking preservation",
                "p_i > p_j ⇒ F_T(p)_i > F_T(p)_j",
                _strict_ranking,
                tolerance=0.0,
                sides=("F_T(p)_i", "F_T(p)_j"),
            ),
            Law(
                "A2",
                "continuity",
                "(p, T) ↦ F_T(p) is jointly continuous",
                continuity,
                tolerance=1e-7,
                sides=("one side of the jump", "other side"),
                uses=("p", "r", "S", "T"),
                effort=8,
            ),
            Law(
                "A3",
                "entropy monotonicity",
                "S ≤ T ⇒ H(F_S(p)) ≤ H(F_T(p))",
                _weak_entropy,
                sides=("H(F_S(p))", "H(F_T(p))"),
                uses=("p", "S", "T"),
            ),
            Law(
                "A3s",
                "strict entropy monotonicity",
                "S < T ⇒ H(F_S(p)) < H(F_T(p)) unless p is uniform on its support",
                _strict_entropy,
                tolerance=0.0,
                sides=("H(F_S(p))", "H(F_T(p))"),
                uses=("p", "S", "T"),
            ),
            Law("A4", "identity", "F_1(p) = p", _identity, sides=("F_1(p)_i", "p_i"), uses=("p",)),
            Law(
                "A5h",
                "hot boundary",
                "T → ∞ ⇒ F_T(p) → u",
                hot_limit(on_support=False),
                sides=("TV(F_T(p), u) at T = 1e8", "0"),
                uses=("p",),
                limit=True,
            ),
            Law(
                "A5f",
                "hot boundary on faces",
                "T → ∞ ⇒ F_T(p) → uniform on supp p",
                hot_limit(on_support=True),
                sides=("TV(F_T(p), uniform on supp p) at T = 1e8", "0"),
                uses=("p",),
                limit=True,
            ),
            Law(
                "A5c",
                "cold boundary",
                "T → 0 ⇒ F_T(p) → uniform on argmax p",
                cold_limit,
                sides=("TV(F_T(p), argmax) at T = 1e-6", "0"),
                uses=("p",),
                limit=True,
            ),
            Law(
                "majorization",
                "majorization",
                "S ≤ T ⇒ F_S(p) ≻ F_T(p)",
                _majorization,
                sides=("partial sum of F_S(p)", "partial sum of F_T(p)"),
                uses=("p", "S", "T"),
            ),
            Law(
                "semigroup",
                "semigroup",
                "F_S(F_T(p)) = F_ST(p), S and T on one side of 1",
                _semigroup,
                tolerance=1e-8,
                sides=("F_S(F_T(p))_i", "F_ST(p)_i"),
                uses=("p", "S", "T"),
            ),
            Law(
                "affine",
                "affinity",
                "F_T(wp + (1 − w)r) = wF_T(p) + (1 − w)F_T(r)",
                _affinity,
                sides=("F_T(wp + (1 − w)r)_i", "wF_T(p)_i + (1 − w)F_T(r)_i"),
                uses=("p", "r", "w", "T"),
            ),
            Law(
                "L1",
                "non-expansiveness in L1",
                "‖F_T(p) − F_T(r)‖₁ ≤ ‖p − r‖₁",
                _expansion(1),
                sides=("‖F_T(p) − F_T(r)‖₁", "‖p − r‖₁"),
                uses=("p", "r", "T"),
            ),
            Law(
                "L2",
                "non-expansiveness in L2",
                "‖F_T(p) − F_T(r)‖₂ ≤ ‖p − r‖₂",
                _expansion(2),
                sides=("‖F_T(p) − F_T(r)‖₂", "‖p − r‖₂"),
                uses=("p", "r", "T"),
            ),
            Law(
                "support",
                "support preservation",
                "F_T(p)_i > 0 ⟺ p_i > 0",
                _support,
                tolerance=0.0,
                sides=("classes in supp p", "classes in supp F_T(p)"),
            ),
            Law(
                "gradients",
                "finite gradients",
                "lim sup ‖F_T(p + hv) − F_T(p)‖/h < ∞ as h → 0",
                finite_gradients,
                tolerance=1e-9,
                sides=("quotient at h = 1e-11", "quotient at h = 1e-8"),
                uses=("p", "r", "T"),
            ),
        )
    }
)
"""Every law by id, in the order of the tables."""

AXIOMS = ("A1", "A2", "A3", "A4", "A5h", "A5c")
"""The paper's five axioms, the last in its two halves."""
