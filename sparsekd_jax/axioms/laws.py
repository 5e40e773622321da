"""The laws of theory.md section 1, each a pure function from observed outputs to one margin a case.

A margin ≥ −tolerance means that the law holds in that case. Laws never call an operator themselves: they read
an `Observation`, which evaluates each output once and shares it. Arrays are numpy, float64, ``[N]`` or
``[N, K]``.
"""

import dataclasses
from collections.abc import Callable
from functools import cached_property

import numpy as np

from sparsekd_jax.axioms.cases import Cases
from sparsekd_jax.axioms.evaluate import Evaluator
from sparsekd_jax.operators import TemperatureRange

ULP = 2.0**-52
BLUR = 64 * ULP
"""A strict gap below this, in log space, is not decided."""


@dataclasses.dataclass(frozen=True)
class Margins:
    """What a law says of each case.

    Attributes:
      margin: ``[N]``; NaN outputs give −inf, a case that the law does not speak of +inf.
      left, right: the two sides of the law's inequality or equation, for the reader, ``[N]``.
      decided: ``[N]``; False where the law cannot be judged in floating point.
      equal: ``[N]``; True where nothing moved at all (an operator that ignores T).
    """

    margin: np.ndarray
    left: np.ndarray
    right: np.ndarray
    decided: np.ndarray | None = None
    equal: np.ndarray | None = None


@dataclasses.dataclass(frozen=True)
class Law:
    """A law: its id, its formula as printed, its tolerance, and its margin."""

    id: str
    title: str
    formula: str
    margins: Callable[["Observation"], Margins]
    tolerance: float = 1e-9
    sides: tuple[str, str] = ("left", "right")
    uses: tuple[str, ...] = ("p", "T")
    limit: bool = False  # judged by a trend, on fewer cases
    effort: int = 1  # how many times the work of a plain law a single case takes


@dataclasses.dataclass
class Observation:
    """The outputs of an operator on a batch of cases, each evaluated when first asked for."""

    evaluator: Evaluator
    cases: Cases
    temperatures: TemperatureRange

    @cached_property
    def hot(self) -> np.ndarray:
        """F_T(p)."""
        return self.evaluator.soften(self.cases.p, self.cases.high)

    @cached_property
    def cold(self) -> np.ndarray:
        """F_S(p), S ≤ T."""
        return self.evaluator.soften(self.cases.p, self.cases.low)

    @cached_property
    def partner(self) -> np.ndarray:
        """F_T(r)."""
        return self.evaluator.soften(self.cases.r, self.cases.high)

    @cached_property
    def broken(self) -> np.ndarray:
        """Where F_T(p) or F_S(p) is not a number, ``[N]``."""
        return np.isnan(self.hot).any(-1) | np.isnan(self.cold).any(-1)

    def log_hot(self, rows: np.ndarray) -> np.ndarray | None:
        """log F_T(p) at some rows without underflow, or None for a plain function."""
        if not self.evaluator.has_log:
            return None
        return self.evaluator.log_soften(self.cases.p[rows], self.cases.high[rows])


def _entropy(q: np.ndarray) -> np.ndarray:
    with np.errstate(invalid="ignore"):
        positive = q > 0
        return -np.sum(np.where(positive, q * np.log(np.where(positive, q, 1)), 0), -1)


def _worst_if_nan(margin: np.ndarray, *outputs: np.ndarray) -> np.ndarray:
    broken = np.isnan(margin)
    for q in outputs:
        broken |= ~np.isfinite(q).all(-1)
    return np.where(broken, -np.inf, margin)


def _sorted_by(p: np.ndarray, q: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    order = np.argsort(-p, axis=-1, kind="stable")
    return np.take_along_axis(p, order, -1), np.take_along_axis(q, order, -1)


# -- closure, ranking ----------------------------------------------------------------------------------------


def _closure(seen: Observation) -> Margins:
    q = seen.hot
    total = q.sum(-1)
    with np.errstate(invalid="ignore"):
        margin = np.minimum(q.min(-1), -np.abs(total - 1))
    return Margins(_worst_if_nan(margin, q), total, np.ones_like(total))


def _weak_ranking(seen: Observation) -> Margins:
    p, q = _sorted_by(seen.cases.p, seen.hot)
    larger, smaller = q[:, :-1], q[:, 1:]
    gap = larger - smaller
    gap = np.where(p[:, :-1] == p[:, 1:], -np.abs(gap), gap)  # equal inputs must stay equal
    scale = np.maximum(np.maximum(np.abs(larger), np.abs(smaller)), 1e-4)
    margins = gap / scale
    worst = np.argmin(np.where(np.isnan(margins), -np.inf, margins), -1)
    rows = np.arange(len(p))
    return Margins(_worst_if_nan(margins[rows, worst], q), larger[rows, worst], smaller[rows, worst])


def _strict_ranking(seen: Observation) -> Margins:
    p, q = _sorted_by(seen.cases.p, seen.hot)
    # Pairs whose gap no reasonable T ≤ 100 squeezes below the resolution of q.
    clear = (p[:, :-1] - p[:, 1:] >= 1e-4) & (p[:, :-1] >= 1.001 * p[:, 1:])
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
            excess = np.where(clear[where], gap - BLUR * scale, np.inf)
        worst = np.argmin(np.where(np.isnan(excess), -np.inf, excess), -1)
        return excess[np.arange(len(excess)), worst], worst

    with np.errstate(divide="ignore", invalid="ignore"):
        margin, worst = judge(np.log(q), rows)
    # A gap that closed may be an underflow: look again in log space, or leave it undecided.
    decided = clear.any(-1)
    doubtful = np.flatnonzero(decided & (margin <= 0) & (q[rows, worst + 1] == 0) & ~seen.broken)
    if len(doubtful):
        log_q = seen.log_hot(doubtful)
        if log_q is None:
            decided[doubtful] = False
        else:
            _, log_q = _sorted_by(seen.cases.p[doubtful], log_q)
            margin[doubtful], worst[doubtful] = judge(log_q, doubtful)
    larger, smaller = q[rows, worst], q[rows, worst + 1]
    return Margins(
        _worst_if_nan(np.where(decided, margin, np.inf), q), larger, smaller, decided | seen.broken
    )


# -- temperature: entropy, majorization, identity, semigroup -----------------------------------------------


def _same(seen: Observation) -> np.ndarray:
    """Cases in which a change of temperature changed nothing."""
    return (seen.cold == seen.hot).all(-1)


def _weak_entropy(seen: Observation) -> Margins:
    left, right = _entropy(seen.cold), _entropy(seen.hot)
    margin = _worst_if_nan(right - left, seen.hot, seen.cold)
    return Margins(margin, left, right, equal=_same(seen))


def _strict_entropy(seen: Observation) -> Margins:
    cases = seen.cases
    left, right = _entropy(seen.cold), _entropy(seen.hot)
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
        same = np.zeros(len(doubtful), bool)
        hot = seen.log_hot(doubtful)
        if hot is not None:
            cold = seen.evaluator.log_soften(cases.p[doubtful], cases.low[doubtful])
            same = ((hot == cold) | (np.isneginf(hot) & np.isneginf(cold))).all(-1)
        decided[doubtful] = same
    # A difference of entropies below rounding says nothing about its sign.
    decided &= ~((moved > BLUR) & (np.abs(right - left) < 1e-12))
    # An entropy that falls breaks the strict law as it breaks the weak one.
    falls = right - left < -LAWS["A3"].tolerance
    margin, decided = np.where(falls, right - left, margin), decided | falls
    margin = _worst_if_nan(np.where(decided, margin, np.inf), seen.hot, seen.cold)
    return Margins(margin, left, right, decided | seen.broken)


def _majorization(seen: Observation) -> Margins:
    cold = np.cumsum(-np.sort(-seen.cold, axis=-1), -1)[:, :-1]
    hot = np.cumsum(-np.sort(-seen.hot, axis=-1), -1)[:, :-1]
    worst = np.argmin(np.nan_to_num(cold - hot, nan=-np.inf), -1)
    rows = np.arange(len(hot))
    left, right = cold[rows, worst], hot[rows, worst]
    return Margins(_worst_if_nan(left - right, seen.hot, seen.cold), left, right, equal=_same(seen))


def _identity(seen: Observation) -> Margins:
    p = seen.cases.p
    q = seen.evaluator.soften(p, np.ones(len(p)))
    rows, worst = np.arange(len(p)), np.argmax(np.nan_to_num(np.abs(q - p), nan=np.inf), -1)
    left, right = q[rows, worst], p[rows, worst]
    return Margins(_worst_if_nan(-np.abs(left - right), q), left, right)


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
    rows, worst = np.arange(len(t)), np.argmax(np.nan_to_num(np.abs(twice - once), nan=np.inf), -1)
    left, right = twice[rows, worst], once[rows, worst]
    margin = _worst_if_nan(-np.abs(left - right), twice, once, seen.hot)
    return Margins(np.where(inside, margin, np.inf), left, right, inside)


# -- symmetry, linearity, distances ------------------------------------------------------------------------


def _equivariance(seen: Observation) -> Margins:
    cases = seen.cases
    left = seen.evaluator.soften(np.take_along_axis(cases.p, cases.permutation, -1), cases.high)
    right = np.take_along_axis(seen.hot, cases.permutation, -1)
    rows, worst = np.arange(len(left)), np.argmax(np.nan_to_num(np.abs(left - right), nan=np.inf), -1)
    a, b = left[rows, worst], right[rows, worst]
    return Margins(_worst_if_nan(-np.abs(a - b), left, right), a, b)


def _affinity(seen: Observation) -> Margins:
    cases = seen.cases
    w = cases.weight[:, None]
    left = seen.evaluator.soften(w * cases.p + (1 - w) * cases.r, cases.high)
    right = w * seen.hot + (1 - w) * seen.partner
    rows, worst = np.arange(len(left)), np.argmax(np.nan_to_num(np.abs(left - right), nan=np.inf), -1)
    a, b = left[rows, worst], right[rows, worst]
    return Margins(_worst_if_nan(-np.abs(a - b), left, right), a, b)


def _expansion(order: int) -> Callable[[Observation], Margins]:
    def margins(seen: Observation) -> Margins:
        cases = seen.cases
        before = np.linalg.norm(cases.p - cases.r, ord=order, axis=-1)
        after = np.linalg.norm(seen.hot - seen.partner, ord=order, axis=-1)
        # Closer pairs measure rounding, not the operator.
        decided = before >= 1e-6
        ratio = after / np.where(decided, before, 1)
        margin = _worst_if_nan(1 - ratio, seen.hot, seen.partner)
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
            decided[doubtful] = False
            lost[doubtful] = False
        else:
            lost[doubtful] &= np.isneginf(log_q)
    changed = gained | lost
    margin = np.where(changed.any(-1), -1.0, 0.0)
    return Margins(
        _worst_if_nan(margin, q), (p > 0).sum(-1).astype(float), (q > 0).sum(-1).astype(float), decided
    )


# -- limits: judged by a trend -----------------------------------------------------------------------------

FLAT = 0.98
"""A distance to the limit that keeps this share over a decade of T has stopped approaching it."""
ARRIVED = 1e-4


def _trend(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Margins and decisions from distances to a limit at successive decades, ``[steps, N]``."""
    last = distances[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = last / distances[-2]
        kept_before = distances[-2] / distances[-3]
    flat = (kept >= FLAT) & (kept_before >= FLAT)
    arrived = last <= ARRIVED
    margin = np.where(arrived, ARRIVED - last, np.where(flat, -last, 0.0))
    return np.where(np.isnan(distances).any(0), -np.inf, margin), arrived | flat | np.isnan(last)


def _hot_limit(on_support: bool) -> Callable[[Observation], Margins]:
    def margins(seen: Observation) -> Margins:
        p = _on_support(seen.cases.p, 1e-3)  # a class of 1e-30 needs a T beyond reach
        classes = p > 0 if on_support else np.ones_like(p, bool)
        goal = classes / classes.sum(-1, keepdims=True)
        steps = [10.0**e for e in range(1, 9)]
        distances = np.stack(
            [0.5 * np.abs(seen.evaluator.soften(p, np.full(len(p), t)) - goal).sum(-1) for t in steps]
        )
        margin, decided = _trend(distances)
        return Margins(margin, distances[-1], np.zeros(len(p)), decided)

    return margins


def _cold_limit(seen: Observation) -> Margins:
    p = _on_support(seen.cases.p, 1e-3)
    top = p.max(-1, keepdims=True)
    winners = p == top
    goal = winners / winners.sum(-1, keepdims=True)
    runner_up = np.where(winners, -np.inf, p).max(-1)
    clear = (
        top[:, 0] - np.where(np.isfinite(runner_up), runner_up, 0) >= 1e-3
    )  # a near-tie needs T beyond reach
    steps = [10.0**-e for e in range(1, 7)]
    distances = np.stack(
        [0.5 * np.abs(seen.evaluator.soften(p, np.full(len(p), t)) - goal).sum(-1) for t in steps]
    )
    margin, decided = _trend(distances)
    return Margins(np.where(clear, margin, np.inf), distances[-1], np.zeros(len(p)), decided | ~clear)


# -- continuity and gradients: judged along shrinking segments ---------------------------------------------

HALVINGS = 42


def _on_support(p: np.ndarray, floor: float) -> np.ndarray:
    """p with its positive entries lifted to at least ``floor``, so that slopes are moderate."""
    lifted = np.where(p > 0, np.maximum(p, floor), 0)
    return lifted / lifted.sum(-1, keepdims=True)


def _continuity(seen: Observation) -> Margins:
    """Halve each segment towards the larger change: a jump survives. Faces are approached radially."""
    found = [*_jumps_along_segments(seen), _jump_onto_face(seen)]
    margins = np.stack([m.margin for m in found])
    worst, rows = margins.argmin(0), np.arange(len(seen.cases))
    left, right = (np.stack([getattr(m, side) for m in found])[worst, rows] for side in ("left", "right"))
    return Margins(margins[worst, rows], left, right)


def _jumps_along_segments(seen: Observation) -> tuple[Margins, Margins]:
    """Along p → r at T, and along S → T at p; in each kind the steepest segments are followed."""
    cases, soften = seen.cases, seen.evaluator.soften
    n = len(cases)
    p = _on_support(cases.p, 1e-4)
    # r on the face of p: jumps onto a face are looked for separately.
    r = _on_support(np.where(p > 0, cases.r + 1e-9, 0), 1e-4)
    at_p, at_r, colder = soften(p, cases.high), soften(r, cases.high), soften(p, cases.low)
    with np.errstate(invalid="ignore", divide="ignore"):
        along_p = np.abs(at_r - at_p).max(-1) / np.maximum(np.abs(r - p).sum(-1), 1e-12)
        along_t = np.abs(colder - at_p).max(-1) / np.maximum(cases.high - cases.low, 1e-12)
    broken = ~np.isfinite(np.concatenate([at_p, at_r, colder], -1)).all(-1)
    # The steepest: a jump shows as a large change over a short segment.
    most = seen.evaluator.segments // 2
    first, second = (
        np.argsort(-np.where(broken, -np.inf, steep), kind="stable")[:most] for steep in (along_p, along_t)
    )
    chosen = np.concatenate([first, second])
    a_p, a_t = p[chosen], np.concatenate([cases.high[first], cases.low[second]])
    b_p, b_t = np.concatenate([r[first], p[second]]), cases.high[chosen]
    f_a, f_b = np.concatenate([at_p[first], colder[second]]), np.concatenate([at_r[first], at_p[second]])
    changes = []
    for _ in range(HALVINGS):
        m_p, m_t = 0.5 * (a_p + b_p), 0.5 * (a_t + b_t)
        f_m = soften(m_p, m_t)
        to_left = np.abs(f_m - f_a).max(-1) >= np.abs(f_b - f_m).max(-1)
        pick = to_left[:, None]
        a_p, b_p = np.where(pick, a_p, m_p), np.where(pick, m_p, b_p)
        a_t, b_t = np.where(to_left, a_t, m_t), np.where(to_left, m_t, b_t)
        f_a, f_b = np.where(pick, f_a, f_m), np.where(pick, f_m, f_b)
        changes.append(np.abs(f_b - f_a).max(-1))
    jump, earlier = changes[-1], changes[-15]
    # What is merely steep shrinks with the segment, by 2^14 over these halvings where it is Lipschitz.
    survives = (jump > 1e-7) & (jump > 0.8 * earlier)
    where = np.argmax(np.abs(f_b - f_a), -1)[:, None]
    sides = [np.take_along_axis(f, where, -1)[:, 0] for f in (f_a, f_b)]

    def of(rows: np.ndarray, part: slice) -> Margins:
        margin, left, right = np.where(broken, -np.inf, 0.0), np.zeros(n), np.zeros(n)
        margin[rows] = np.where(broken[rows], -np.inf, np.where(survives[part], -jump[part], 0.0))
        left[rows], right[rows] = sides[0][part], sides[1][part]
        return Margins(margin, left, right)

    return of(first, slice(0, len(first))), of(second, slice(len(first), None))


def _jump_onto_face(seen: Observation) -> Margins:
    """Towards an exact zero step by 2^−250 and fit the decay: power at T = 3 still moves by 2^−83 there."""
    cases, soften = seen.cases, seen.evaluator.soften
    n = len(cases)
    margin, left, right = np.zeros(n), np.zeros(n), np.zeros(n)
    rows = np.flatnonzero((cases.p == 0).any(-1))[: seen.evaluator.segments // 2]
    if len(rows):
        p = cases.p[rows]
        t = np.clip(cases.high[rows], None, 3.0)
        t = np.where(seen.temperatures.inside(t), t, cases.high[rows])
        inward = _on_support(cases.r[rows] + 1e-3, 1e-3)
        at_face = soften(p, t)
        changes = []
        for exponent in (250, 500, 900):
            step = 2.0**-exponent
            near = np.where(p > 0, p, step * inward)
            f_near = soften(near, t)
            changes.append(np.abs(f_near - at_face).max(-1))
        jump = changes[-1]
        stays = (jump > 1e-7) & (jump > 0.8 * changes[-2]) & (changes[-2] > 0.8 * changes[-3])
        where = np.argmax(np.abs(f_near - at_face), -1)
        index = np.arange(len(rows))
        broken = ~np.isfinite(at_face).all(-1) | ~np.isfinite(jump)
        margin[rows] = np.where(broken, -np.inf, np.where(stays, -jump, 0.0))
        left[rows], right[rows] = at_face[index, where], f_near[index, where]
    return Margins(margin, left, right)


def _finite_gradients(seen: Observation) -> Margins:
    """Difference quotients at steps 1e-5, 1e-8 and 1e-11: a finite gradient lets them settle."""
    cases, soften = seen.cases, seen.evaluator.soften
    n = len(cases)
    rows = np.arange(min(n, 256))
    p = _on_support(cases.p[rows], 1e-3)
    t = np.clip(cases.high[rows], None, 20.0)
    t = np.where(seen.temperatures.inside(t), t, cases.high[rows])
    direction = _on_support(cases.r[rows] + 1e-3, 1e-3) - p
    here = soften(p, t)
    quotients = [np.abs(soften(p + h * direction, t) - here).max(-1) / h for h in (1e-5, 1e-8, 1e-11)]
    with np.errstate(invalid="ignore", divide="ignore"):
        # A finite slope settles: the second change is a thousandth of the first. An infinite one, h^(β−1) or
        # log(1/h), changes by as much again or more. Rounding adds about ulp/h.
        first, second = quotients[1] - quotients[0], quotients[2] - quotients[1]
        grows = (second > 0.5 * first) & (second > 5e-3 * np.maximum(1, quotients[1]))
    margin, left, right = np.zeros(n), np.zeros(n), np.zeros(n)
    margin[rows] = np.where(np.isfinite(quotients[2]), np.where(grows, -quotients[2], 0.0), -np.inf)
    left[rows], right[rows] = quotients[2], quotients[1]
    return Margins(margin, left, right)


LAWS: dict[str, Law] = {
    law.id: law
    for law in (
        Law("closure", "closure", "F_T(p)_i ≥ 0, Σ_i F_T(p)_i = 1", _closure, sides=("Σ F_T(p)", "1")),
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
            _continuity,
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
            _hot_limit(on_support=False),
            sides=("TV(F_T(p), u) at T = 1e8", "0"),
            uses=("p",),
            limit=True,
        ),
        Law(
            "A5f",
            "hot boundary on faces",
            "T → ∞ ⇒ F_T(p) → uniform on supp p",
            _hot_limit(on_support=True),
            sides=("TV(F_T(p), uniform on supp p) at T = 1e8", "0"),
            uses=("p",),
            limit=True,
        ),
        Law(
            "A5c",
            "cold boundary",
            "T → 0 ⇒ F_T(p) → uniform on argmax p",
            _cold_limit,
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
            _finite_gradients,
            tolerance=1e-9,
            sides=("quotient at h = 1e-11", "quotient at h = 1e-8"),
            uses=("p", "r", "T"),
        ),
    )
}
"""Every law by id, in the order of the tables."""

AXIOMS = ("A1", "A2", "A3", "A4", "A5h", "A5c")
"""The paper's five axioms, the last in its two halves."""
