"""Laws about limits: the two ends of T, continuity, gradients. Judged by a trend, never at the limit."""

from collections.abc import Callable

import numpy as np

from sparsekd_jax.axioms.observation import Margins, Observation


def _on_support(p: np.ndarray, floor: float) -> np.ndarray:
    """p with its positive entries lifted to at least ``floor``, so that slopes are moderate."""
    lifted = np.where(p > 0, np.maximum(p, floor), 0)
    return lifted / lifted.sum(-1, keepdims=True)


# -- the two ends of T -------------------------------------------------------------------------------------

FLAT = 0.98
"""A distance to the limit that keeps this share over a decade of T has stopped approaching it."""
ARRIVED = 1e-4


def _distances(seen: Observation, p: np.ndarray, goal: np.ndarray, decades: list[float]) -> np.ndarray:
    """Total variation of F_T(p) to its limit at each temperature, ``[decades, N]``."""
    each = [seen.evaluator.soften(p, np.full(len(p), t)) for t in decades]
    return 0.5 * np.abs(np.stack(each) - goal).sum(-1)


def _trend(distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Margins and decisions from distances to a limit at successive decades, ``[steps, N]``."""
    last = distances[-1]
    with np.errstate(invalid="ignore", divide="ignore"):
        kept = last / distances[-2]
        kept_before = distances[-2] / distances[-3]
    flat = (kept >= FLAT) & (kept_before >= FLAT)
    arrived = last <= ARRIVED
    margin = np.where(arrived, ARRIVED - last, np.where(flat, -last, 0.0))
    broken = ~np.isfinite(distances).all(0)
    return np.where(broken, -np.inf, margin), arrived | flat | broken


def hot_limit(on_support: bool) -> Callable[[Observation], Margins]:
    """A5h, or A5f on the support of p: T → ∞ gives the uniform distribution."""

    def margins(seen: Observation) -> Margins:
        p = _on_support(seen.cases.p, 1e-3)  # a class of 1e-30 needs a T beyond reach
        classes = p > 0 if on_support else np.ones_like(p, bool)
        goal = classes / classes.sum(-1, keepdims=True)
        distances = _distances(seen, p, goal, [10.0**e for e in range(1, 9)])
        margin, decided = _trend(distances)
        return Margins(margin, distances[-1], np.zeros(len(p)), decided)

    return margins


def cold_limit(seen: Observation) -> Margins:
    """A5c: T → 0 gives the uniform distribution on argmax p."""
    p = _on_support(seen.cases.p, 1e-3)
    top = p.max(-1, keepdims=True)
    winners = p == top
    goal = winners / winners.sum(-1, keepdims=True)
    distances = _distances(seen, p, goal, [10.0**-e for e in range(1, 7)])
    margin, decided = _trend(distances)
    tied = top[:, 0] - np.where(winners, 0, p).max(-1) < 1e-3  # nearly, which needs a T beyond reach
    return Margins(np.where(tied, np.inf, margin), distances[-1], np.zeros(len(p)), decided | tied)


# -- continuity and gradients: judged along shrinking segments ---------------------------------------------

HALVINGS = 42


def continuity(seen: Observation) -> Margins:
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
        # +inf: a segment that is not followed says nothing.
        margin, left, right = np.where(broken, -np.inf, np.inf), np.zeros(n), np.zeros(n)
        margin[rows] = np.where(broken[rows], -np.inf, np.where(survives[part], -jump[part], 0.0))
        left[rows], right[rows] = sides[0][part], sides[1][part]
        return Margins(margin, left, right)

    return of(first, slice(0, len(first))), of(second, slice(len(first), None))


def _jump_onto_face(seen: Observation) -> Margins:
    """Towards an exact zero step by 2^−250 and fit the decay: power at T = 3 still moves by 2^−83 there."""
    cases, soften = seen.cases, seen.evaluator.soften
    n = len(cases)
    margin, left, right = np.full(n, np.inf), np.zeros(n), np.zeros(n)
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


def finite_gradients(seen: Observation) -> Margins:
    """Difference quotients at steps 1e-5, 1e-8 and 1e-11: a finite gradient lets them settle.

    The first 256 cases are examined; of the others nothing is said (+inf), nor of answers in less than
    float64, whose rounding is larger than these steps.
    """
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
    margin, left, right = np.full(n, np.inf), np.zeros(n), np.zeros(n)
    settled = np.inf if seen.evaluator.single_precision else np.where(grows, -quotients[2], 0.0)
    margin[rows] = np.where(np.isfinite(quotients[2]), settled, -np.inf)
    left[rows], right[rows] = quotients[2], quotients[1]
    return Margins(margin, left, right)
