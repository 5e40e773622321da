"""The operators in 50-digit arithmetic, from their defining equations, independent of the library's forms.

A float row is taken exactly as given, then divided by its exact sum, as the library reads it. Where an
equation has a scalar unknown, Newton's iteration in 50 digits starts from the float answer and must reach
1e-25 or better: the start decides nothing, since the root is unique.
"""

import math

import mpmath as mp
import numpy as np

mp.mp.dps = 50

# What derivatives are taken of: a weighted sum of the classes, at these rows.
ROWS = {"interior": np.array([0.5, 0.27, 0.2, 0.03]), "with a zero": np.array([0.5, 0.0, 0.4, 0.1])}
WEIGHTS = np.array([1.0, -2.0, 0.5, 3.0])


def exact(row, log=False):
    """An mpmath row from floats (or from their logarithms), normalised exactly."""
    if log:
        values = [mp.exp(mp.mpf(float(x))) if x > -math.inf else mp.mpf(0) for x in row]
    else:
        values = [mp.mpf(float(x)) for x in row]
    total = mp.fsum(values)
    return [x / total for x in values]


def power(p, t, _=None):
    top = max(p)
    weights = [mp.power(x / top, 1 / t) if x > 0 else mp.mpf(0) for x in p]
    total = mp.fsum(weights)
    return [w / total for w in weights]


def mixture(p, t, _=None):
    if t >= 1:
        return [x / t + (1 - 1 / t) / len(p) for x in p]
    descending, total, tau = sorted((x / t for x in p), reverse=True), mp.mpf(0), mp.mpf(0)
    for k, x in enumerate(descending, 1):
        total += x
        if x > (total - 1) / k:
            tau = (total - 1) / k
    return [max(x / t - tau, mp.mpf(0)) for x in p]


def tsallis(alpha):
    def soften(p, t, guess):
        r = mp.mpf(alpha) - 1
        if r == 0:
            return power(p, t)
        if t == 1:
            return p
        powers = [mp.power(x, r) if x > 0 else (mp.mpf(0) if r > 0 else None) for x in p]
        # The coordinate whose shift is the best conditioned: the smallest for T > 1, the largest below.
        rows = [i for i, x in enumerate(guess) if x > 0 and powers[i] is not None]
        i = min(rows, key=lambda j: guess[j]) if t > 1 and r > 0 else max(rows, key=lambda j: guess[j])
        d = t * mp.power(mp.mpf(float(guess[i])), r) - powers[i]
        low, high = (-max(powers), t + 1) if r > 0 else (None, None)
        for _ in range(200):
            q, slope = [], mp.mpf(0)
            for x in powers:
                y = (x + d) / t if x is not None else mp.mpf(0)
                q.append(mp.power(y, 1 / r) if y > 0 else mp.mpf(0))
                if y > 0:
                    slope += q[-1] / (r * (x + d))
            excess = mp.fsum(q) - 1
            if abs(excess) < mp.mpf(10) ** -35:
                return q
            if r < 0:
                d -= excess / slope
                continue
            # For r > 0 the sum increases in d; keep Newton inside its bracket, across truncation kinks.
            low, high = (low, d) if excess > 0 else (d, high)
            step = excess / slope if slope else mp.inf
            d = d - step if low < d - step < high else (low + high) / 2
        raise AssertionError("the reference did not converge")

    return soften


def entropy(q):
    return -mp.fsum(x * mp.log(x) for x in q if x > 0)


def entropy_projection(p, t, guess):
    deficit = mp.log(len(p)) - entropy(p)
    if t == 1 or deficit < mp.mpf(10) ** -40:
        return p
    logs, i, j = [mp.log(x) for x in p], int(np.argmax(guess)), int(np.argmin(guess))
    beta = (mp.log(mp.mpf(float(guess[i]))) - mp.log(mp.mpf(float(guess[j])))) / (logs[i] - logs[j])
    for _ in range(60):
        weights = [mp.exp(beta * (x - max(logs))) for x in logs]
        total = mp.fsum(weights)
        q = [w / total for w in weights]
        now = mp.log(len(p)) - entropy(q)
        excess = mp.log(now) - mp.log(deficit / t)
        if abs(excess) < mp.mpf(10) ** -25:
            return q
        mean = mp.fsum(a * x for a, x in zip(q, logs, strict=True))
        variance = mp.fsum(a * (x - mean) ** 2 for a, x in zip(q, logs, strict=True))
        beta -= excess * now / (beta * variance)
    raise AssertionError("the reference did not converge")


def euclidean_entropy_projection(p, t, guess):
    k = len(p)
    deficit = mp.log(k) - entropy(p)
    if t == 1 or deficit < mp.mpf(10) ** -40:
        return p
    q = [mp.mpf(float(x)) for x in guess]
    i, j = int(np.argmax(guess)), int(np.argmin(guess))
    a = (p[i] - p[j] - (q[i] - q[j])) / (mp.log(q[i]) - mp.log(q[j]))
    c = p[i] - q[i] - a * mp.log(q[i])
    y = [mp.log(x) for x in q]
    for _ in range(60):
        for n in range(k):  # e^y + a y = p − c, coordinate by coordinate
            for _ in range(80):
                step = (mp.exp(y[n]) + a * y[n] - p[n] + c) / (mp.exp(y[n]) + a)
                y[n] -= step
                if abs(step) < mp.mpf(10) ** -40 * max(1, abs(y[n])):
                    break
        q = [mp.exp(v) for v in y]
        mass, gap = mp.fsum(q) - 1, mp.log(k) - entropy(q) - deficit / t
        if abs(mass) < mp.mpf(10) ** -28 and abs(gap) < mp.mpf(10) ** -28 * deficit:
            return q
        by_c = [-x / (x + a) for x in q]
        by_a = [-v * x / (x + a) for v, x in zip(y, q, strict=True)]
        slopes = [mp.fsum((v + 1) * d for v, d in zip(y, by, strict=True)) for by in (by_a, by_c)]
        step = mp.lu_solve(mp.matrix([[mp.fsum(by_a), mp.fsum(by_c)], slopes]), mp.matrix([mass, gap]))
        a, c = a - step[0], c - step[1]
    raise AssertionError("the reference did not converge")


def weighted_sum(soften, entry, x, t, guess):
    """Of q, or of log q where the ``entry`` is "log"; ``x`` is p, or logits, which are normalised first."""
    p = x if entry == "probabilities" else [mp.exp(v) for v in x]
    total = mp.fsum(p)
    q = soften([v / total for v in p], t, guess)
    q = [mp.log(v) if v else v for v in q] if entry == "log" else q
    return mp.fsum(float(w) * v for w, v in zip(WEIGHTS, q, strict=True))


def slopes(value, at, free):
    """The gradient and the Hessian of ``value`` by the ``free`` coordinates, by differences; 0 by others."""
    h = mp.mpf(10) ** -9
    at = [mp.mpf(float(v)) for v in at]

    def moved(*by):
        shifted = list(at)
        for i, sign in by:
            shifted[i] += sign * h
        return value(shifted)

    gradient, bent = np.zeros(len(at)), np.zeros((len(at), len(at)))
    for n, i in enumerate(free):
        gradient[i] = (moved((i, 1)) - moved((i, -1))) / (2 * h)
        for j in free[: n + 1]:
            corners = [moved((i, a), (j, b)) * a * b for a in (1, -1) for b in (1, -1)]
            bent[i, j] = bent[j, i] = mp.fsum(corners) / (4 * h * h)
    return gradient, bent


def log_error(q, reference, log=False):
    """``max |Δ log q| / max(1, |log q|)``, the contract's measure; zeros must be zeros, underflow may be."""
    worst = 0.0
    for got, wanted in zip(q, reference, strict=True):
        got = float(got)
        if wanted == 0:
            if got != (-math.inf if log else 0.0):
                return math.inf
            continue
        expected = mp.log(wanted)
        if not log and expected < -700:  # below the smallest normal float64
            continue
        found = mp.mpf(got) if log else (mp.log(mp.mpf(got)) if got > 0 else mp.mpf("-inf"))
        worst = max(worst, float(abs(found - expected) / max(1, abs(expected))))
    return worst
