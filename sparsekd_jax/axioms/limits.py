"""Laws about limits: the two ends of T, continuity, gradients. Judged by a trend, never at the limit."""

from collections.abc import Callable, Sequence

import numpy as np

from sparsekd_jax.axioms.observation import SINGLE_PRECISION_TOLERANCE, Margins, Observation


def _on_support(p: np.ndarray, floor: float) -> np.ndarray:
    """p with its positive entries lifted to at least ``floor``, so that slopes are moderate."""
    lifted = np.where(p > 0, np.maximum(p, floor), 0)
    return lifted / lifted.sum(-1, keepdims=True)


# -- the two ends of T -------------------------------------------------------------------------------------

FLAT = 0.98
"""A distance to the limit that keeps this share over a decade of T has stopped approaching it."""
ARRIVED = 1e-4
"""A distance that counts as none, unless it falls towards another number than 0."""


def _distances(seen: Observation, p: np.ndarray, goal: np.ndarray, decades: list[float]) -> np.ndarray:
    """Total variation of F_T(p) to its limit at each temperature, ``[decades, N]``."""
    each = [seen.evaluator.soften(p, np.full(len(p), t)) for t in decades]
    return 0.5 * np.abs(np.stack(each) - goal).sum(-1)


def _extrapolated(distances: np.ndarray) -> np.ndarray:
    """Aitken's: of what falls by one factor a decade, the number that three distances fall towards.

    Of a fall that gathers speed there is no such number, and the last step is repeated.
    """
    earlier, before, last = distances
    curved = earlier - 2 * before + last
    with np.errstate(invalid="ignore", divide="ignore"):
        return np.where(curved > 0, (earlier * last - before**2) / curved, 2 * last - before)


def _trend(seen: Observation, distances: np.ndarray) -> tuple[np.ndarray, np.ndarray]:
    """Margins and decisions from distances to a limit at successive decades, ``[steps, N]``."""
    earlier, before, last = distances[-3:]
    rounding = SINGLE_PRECISION_TOLERANCE if seen.evaluator.single_precision else 1e-9
    rounding *= seen.cases.num_classes / 2  # of each class: a total variation is half their sum
    with np.errstate(invalid="ignore", divide="ignore"):
        flat = (last / before >= FLAT) & (before / earlier >= FLAT)
    near, goal = last <= ARRIVED, _extrapolated(distances[-3:])
    # A slow rest, such as 1/log T, has an extrapolation of its own that falls from decade to decade.
    stays = (goal > 0.9 * last) & (goal >= FLAT * _extrapolated(distances[-4:-1]))
    flat = np.where(near, (last > rounding) & stays, flat)
    arrived = near & ~flat
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
        margin, decided = _trend(seen, distances)
        return Margins(margin, distances[-1], np.zeros(len(p)), decided)

    return margins


def cold_limit(seen: Observation) -> Margins:
    """A5c: T → 0 gives the uniform distribution on argmax p."""
    p = _on_support(seen.cases.p, 1e-3)
    top = p.max(-1, keepdims=True)
    winners = p == top
    goal = winners / winners.sum(-1, keepdims=True)
    distances = _distances(seen, p, goal, [10.0**-e for e in range(1, 7)])
    margin, decided = _trend(seen, distances)
    tied = top[:, 0] - np.where(winners, 0, p).max(-1) < 1e-3  # nearly, which needs a T beyond reach
    return Margins(np.where(tied, np.inf, margin), distances[-1], np.zeros(len(p)), decided | tied)


# -- continuity and gradients: judged along shrinking segments ---------------------------------------------

HALVINGS = 42
SMALLEST_JUMP = 1e-7


def continuity(seen: Observation) -> Margins:
    """Halve each segment towards the larger change: a jump survives. Faces are approached radially."""
    found = [*_jumps_along_segments(seen), _jump_onto_face(seen)]
    margins = np.stack([m.margin for m in found])
    worst, rows = margins.argmin(0), np.arange(len(seen.cases))
    left, right = (np.stack([getattr(m, side) for m in found])[worst, rows] for side in ("left", "right"))
    return Margins(margins[worst, rows], left, right)


def _jumps_along_segments(seen: Observation) -> tuple[Margins, Margins]:
    """Along p → r at T, and along S → T at p."""
    cases, soften = seen.cases, seen.evaluator.soften
    p = cases.p  # small classes and all: an operator may cut off what is below 1e-6
    # r on the face of p: jumps onto a face are looked for separately.
    r = np.where(p > 0, cases.r + 1e-9, 0)
    r /= r.sum(-1, keepdims=True)
    here = (p, cases.high, soften(p, cases.high))
    there = (r, cases.high, soften(r, cases.high))
    colder = (p, cases.low, soften(p, cases.low))
    return _jump(seen, here, there), _jump(seen, colder, here)


def _jump(seen: Observation, a: Sequence[np.ndarray], b: Sequence[np.ndarray]) -> Margins:
    """Between the ends ``(p, T, F_T(p))`` of each segment, on a scale of log p and log T.

    After each halving those are kept of which the larger half has most of the change: a smooth change loses
    half of it, one with a jump ever less, however steep the operator is elsewhere. One of 1e-5 may be lost in
    the slope of its own segment.
    """
    n, most = len(seen.cases), seen.evaluator.segments // 2
    broken = ~np.isfinite(np.concatenate([a[2], b[2]], -1)).all(-1)
    rows = np.flatnonzero(~broken)
    a, b = ([x[rows] for x in end] for end in (a, b))
    changes = [np.abs(b[2] - a[2]).max(-1)]
    for halving in range(1, HALVINGS + 1):
        p, t = np.sqrt(a[0] * b[0]), np.sqrt(a[1] * b[1])
        p, t = p / p.sum(-1, keepdims=True), np.clip(t, np.minimum(a[1], b[1]), np.maximum(a[1], b[1]))
        middle = (p, t, seen.evaluator.soften(p, t))
        left, right = np.abs(middle[2] - a[2]).max(-1), np.abs(b[2] - middle[2]).max(-1)
        ends = [(left >= right)[:, None], left >= right, (left >= right)[:, None]]
        a, b = (
            [np.where(pick, x, y) for pick, x, y in zip(ends, first, second, strict=True)]
            for first, second in ((a, middle), (middle, b))
        )
        changes.append(np.abs(b[2] - a[2]).max(-1))
        share = np.where(changes[-1] > SMALLEST_JUMP, changes[-1] / np.maximum(changes[-2], SMALLEST_JUMP), 0)
        kept = np.argsort(-share, kind="stable")[: max(int(n * 0.6**halving), most)]
        rows, changes = rows[kept], [change[kept] for change in changes]
        a, b = ([x[kept] for x in end] for end in (a, b))
    jump, earlier = changes[-1], changes[-15]
    # What is merely steep shrinks with the segment, by 2^14 over these halvings where it is Lipschitz.
    survives = (jump > SMALLEST_JUMP) & (jump > 0.8 * earlier)
    where = np.argmax(np.abs(b[2] - a[2]), -1)[:, None]
    # +inf: a segment that is not followed to its end says nothing.
    margin, left, right = np.where(broken, -np.inf, np.inf), np.zeros(n), np.zeros(n)
    margin[rows] = np.where(survives, -jump, 0.0)
    left[rows], right[rows] = (np.take_along_axis(end[2], where, -1)[:, 0] for end in (a, b))
    return Margins(margin, left, right)


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
        stays = (jump > SMALLEST_JUMP) & (jump > 0.8 * changes[-2]) & (changes[-2] > 0.8 * changes[-3])
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
