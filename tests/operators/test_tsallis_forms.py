"""The two forms of Tsallis softening at a trial root, against 50 digits: no search, no derivative."""

import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax.operators import TsallisSoftening, tsallis
from tests.operators.reference import mp

LOG_REF = -0.25
UNKNOWNS = (-30.0, -7.0, -3.0, -0.5, 0.4, 2.0, 30.0)
DEPTHS = (0.0, 1e-9, 1e-3, 0.3, 0.9, 1.1, 4.0, 15.0, 33.0, 41.0, 70.0, 300.0, 800.0, 3e4)


def centred_row(dtype):
    """Log-probabilities under the largest, and a zero."""
    return np.append(-np.array(DEPTHS), -np.inf).astype(dtype)


def miss(found, wanted):
    """The absolute error; an infinity must be that infinity."""
    if mp.isinf(wanted):
        return 0.0 if float(found) == float(wanted) else np.inf
    return float(abs(mp.mpf(float(found)) - wanted))


def error(found, wanted):
    """The same relative to 1 + |wanted|."""
    return miss(found, wanted) / float(1 + abs(wanted)) if not mp.isinf(wanted) else miss(found, wanted)


def rate_error(found, wanted):
    """Relative, but for what is below the smallest normal number."""
    return float(abs(mp.mpf(float(found)) - wanted) / (abs(wanted) + np.finfo(found.dtype).tiny))


# -- |α − 1| not small -----------------------------------------------------------------------------------


@functools.cache
def shifted_powers_at(dtype):
    return jax.jit(lambda *x: tsallis._shifted_powers_at(*x))


def exact_shifted(unknown, delta, c, t, r):
    """log(q/p) and its slope in δ from T q^r = p_ref^r (e^{rc} + E), and 1 + E e^{−rc}, which may cancel."""
    x, delta, c, t, r = (mp.mpf(float(v)) for v in (unknown, delta, c, t, r))
    if t > 1:
        lifted = mp.exp(x) * (1 + delta)
        by_delta = mp.exp(x)
    else:
        by_delta = 1 / (1 + mp.exp(x))
        lifted = by_delta * (1 + delta) - 1
    if c == -mp.inf:
        filled = lifted > 0 and r > 0
        return (
            None,
            (mp.log(lifted / t) / r if filled else -mp.inf),
            (by_delta / lifted / r if filled else None),
        )
    added = lifted * mp.exp(-r * c)
    if added <= -1:
        return -mp.inf, None, None
    return mp.log((1 + added) / t) / r, None, by_delta * mp.exp(-r * c) / (1 + added) / r


def rounding(unknown, c, t, r):
    """How far log(q/p) moves, over eps: by the roundings of log T and log(1 + E e^(−rc)), and those in it."""
    x, c, t, r = (mp.mpf(float(v)) for v in (unknown, c, t, r))
    lifted = mp.exp(x) if t > 1 else -mp.exp(x) / (1 + mp.exp(x))
    added = lifted * mp.exp(-r * c)
    if added <= -1:
        return mp.mpf(1)
    return (
        abs(mp.log(t)) + abs(mp.log1p(added)) + (1 + abs(x) + abs(r * c)) * abs(added / (1 + added))
    ) / abs(r)


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("r", [-0.7, 0.6, 1.5, 3.0])
def test_shifted_powers(r, dtype):
    eps = float(np.finfo(dtype).eps)
    tolerance = 16 * eps  # of about ten roundings
    with jax.enable_x64(dtype == "float64"):
        centred = centred_row(dtype)
        for t in (0.2, 0.9, 0.999, 1.001, 1.3, 50.0):
            for unknown in UNKNOWNS:
                for delta in (0.0, 1e-3):
                    if t < 1 and delta and unknown < 0:
                        continue  # E < 0 there, which δ would make positive
                    args = [np.asarray(v, dtype) for v in (delta, unknown, centred, t, LOG_REF, r)]
                    q = jax.tree.map(np.asarray, shifted_powers_at(dtype)(*args))
                    for i, c in enumerate(centred):
                        where = f"T {t}, unknown {unknown}, δ {delta}, c {c}"
                        ratio, zero, rate = exact_shifted(args[1], args[0], c, args[3], args[5])
                        # A class far below the reference is taken with the zeros, where E lifts it.
                        depth = 1 - np.log(eps)
                        sunk = t > 1 and -np.inf < r * c < min(0, float(unknown)) - depth
                        assert q.off[i] == (np.isneginf(c) or sunk), where
                        if q.off[i]:
                            log_q = mp.mpf(float(c)) + ratio if sunk else zero
                            wanted = log_q + mp.mpf(float(np.asarray(LOG_REF, dtype)))
                            assert error(q.at_zeros[i], wanted) <= tolerance / abs(r), where
                        else:
                            scale = rounding(args[1], c, args[3], args[5])
                            assert miss(q.log_ratio[i], ratio) <= 4 * eps * scale, where
                        if rate is not None:
                            depth = 0.0 if q.off[i] else abs(float(c))
                            assert rate_error(q.rate[i], rate) <= tolerance * (1 + abs(r) * depth), where


WIDEST = {  # as measured below T = 1 and above, and a little more: a bracket that grows is seen
    -0.7: (5.3, 5.8),
    -0.05: (1.7, 2.5),
    0.4: (3.4, 1.5),
    1.0: (5.6, 3.5),
    1.5: (7.5, 6.3),
    3.0: (15.5, 18.6),
}


@pytest.mark.parametrize("r", WIDEST)
def test_the_bracket_holds_the_root_and_uniform_rows_are_at_an_end(r, x64):
    """E = T (q_ref/p_ref)^r − 1 for every row, as log E or logit(−E); uniform rows have E = T − 1."""
    rng = np.random.default_rng(0)
    bracket = jax.jit(lambda *x: jnp.broadcast_arrays(*tsallis._bracket(*x)))
    for k in (2, 30):
        p = rng.dirichlet(np.full(k, 0.5), 400) + 1e-12
        p[::8] = 1 + 1e-3 * rng.normal(size=p[::8].shape)
        p[1::8] = 10.0 ** rng.uniform(-12, 0, p[1::8].shape)
        p[2::8] = 1
        p /= p.sum(-1, keepdims=True)
        t = 10.0 ** rng.uniform(-1, 4, (400, 1))
        t = np.where(np.abs(t - 1) < 0.01, 2.0, t)
        q = np.asarray(TsallisSoftening(1 + r)(p, t[:, 0]))
        top = p.max(-1, keepdims=True)
        shift = t * (q.max(-1, keepdims=True) / top) ** r - 1
        root = np.where(t > 1, np.log(np.abs(shift)), np.log(np.abs(shift)) - np.log1p(np.minimum(shift, 0)))
        low, high = bracket(t, np.log(top), np.asarray(r), np.asarray(float(k)))
        assert (low <= root).all()
        assert (root <= high).all()
        ends = np.minimum(np.abs(root - low), np.abs(root - high))
        assert ends[2::8].max() <= 1e-4
        for rows, widest in zip((t < 1, t > 1), WIDEST[r], strict=True):
            assert (high - low)[rows].max() <= widest


# -- α next to 1, and 1 itself ---------------------------------------------------------------------------


@functools.cache
def expm1_form_at(dtype):
    return jax.jit(lambda *x: tsallis._expm1_form_at(*x))


def exact_expm1(v, c, t, r):
    """log(q/p), its slope in v, and log(q/q_ref) at a zero: (q/q_ref)^r = 1 + (1 − ω)(e^{rc} − 1)."""
    v, c, t, r = (mp.mpf(float(x)) for x in (v, c, t, r))
    if r == 0:
        return (-mp.inf if c == -mp.inf else v + c / t - c), mp.mpf(1), -mp.inf
    omega = 1 - 1 / (t * mp.exp(r * v))
    zero = mp.log(omega) / r if r > 0 and omega > 0 else -mp.inf
    if c == -mp.inf:
        return None, (1 / omega if zero > -mp.inf else None), zero
    power = 1 + (1 - omega) * mp.expm1(r * c)
    if power <= 0:
        return -mp.inf, None, zero
    return v + mp.log(power) / r - c, 1 / power, zero


@pytest.mark.parametrize(
    ("r", "dtype"),  # float64 takes the other form further away
    [(r, dtype) for r in (-1e-2, -1e-9, 0.0, 1e-9, 1e-2) for dtype in ("float32", "float64")]
    + [(r, "float32") for r in (-0.5, 0.5)],
)
def test_expm1_form(r, dtype):
    """Log q, to the rounding of log p where q is far from it, and its slope."""
    with jax.enable_x64(dtype == "float64"):
        eps = float(np.finfo(dtype).eps)
        centred = centred_row(dtype)
        for t in (1e-3, 0.2, 0.999, 1 + 2**-20, 1.001, 1.3, 50.0, 1e6):
            for v in (-20.0, -2.0, -0.3, -1e-3, -1e-6) if t > 1 else (1e-3, 0.3, 2.0):
                args = [np.asarray(x, dtype) for x in (v, centred, t, LOG_REF, r)]
                q = jax.tree.map(np.asarray, expm1_form_at(dtype)(*args))
                log_q = np.asarray(tsallis._log_q(tsallis._Softened(*q)))
                for i, c in enumerate(centred):
                    where = f"T {t}, v {v}, c {c}"
                    ratio, rate, zero = exact_expm1(args[0], c, args[2], args[4])
                    start = mp.mpf(float(args[3])) + mp.mpf(float(args[0]))
                    wanted = (
                        start + zero if c == -np.inf else mp.mpf(float(args[3])) + mp.mpf(float(c)) + ratio
                    )
                    depth = 0.0 if c == -np.inf else abs(float(c))
                    assert error(log_q[i], wanted) <= 20 * eps * (1 + depth), where
                    if rate is not None:
                        assert rate_error(q.rate[i], rate) <= 40 * eps * (1 + abs(r * depth)), where


# -- both ------------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("counted", [False, True])
def test_excess_mass(counted, dtype):
    """Σ (q − p) relative to Σ |q − p|, however close q is; classes that left, came, grew or stayed."""
    counts = np.array([1.0, 3.0, 2.0, 5.0, 1.0, 2.0, 4.0]) if counted else None
    centred = [0.0, -0.5, -2.0, -40.0, -3.0, -np.inf, -np.inf]
    filled = [0.0, 0.0, 0.0, -1.5, 0.0, -2.5, -np.inf]
    off = [c < -30 for c in centred]
    rate = [1.0, 0.8, 1.5, 2.0, 0.7, 3.0, 1.0]
    weights = counts if counted else np.ones(7)
    with jax.enable_x64(dtype == "float64"):
        centred, filled, rate = (np.array(x, dtype) for x in (centred, filled, rate))
        excess = jax.jit(lambda *x: tsallis._excess_mass(tsallis._Softened(*x[:5]), *x[5:]))
        for scale in (1.0, 1e-3, 1e-12):
            for gone, comes in ((0.0, False), (-np.inf, False), (-np.inf, True)):
                zeros = filled if comes else np.full_like(filled, -np.inf)
                ratio = np.array([-0.3, 0.2, 1.7, 0.0, 0.0, 0.0, 0.0]) * scale
                ratio[4] = gone
                ratio = ratio.astype(dtype)
                counts_ = None if counts is None else counts.astype(dtype)
                log_ref = np.asarray(LOG_REF, dtype)
                log_q = np.where(off, 0, centred) + log_ref + ratio
                value, slope = excess(ratio, log_q, zeros, np.array(off), rate, centred, log_ref, counts_)
                total, size, by = mp.mpf(0), mp.mpf(0), mp.mpf(0)
                for i in range(7):
                    p = (
                        mp.exp(mp.mpf(float(centred[i])) + mp.mpf(LOG_REF))
                        if centred[i] > -np.inf
                        else mp.mpf(0)
                    )
                    q = p * mp.exp(mp.mpf(float(ratio[i]))) if not off[i] else mp.exp(mp.mpf(float(zeros[i])))
                    total, size = total + weights[i] * (q - p), size + weights[i] * abs(q - p)
                    by += weights[i] * q * mp.mpf(float(rate[i]))
                tolerance = 4 * float(np.finfo(dtype).eps)
                assert abs(float(value[0]) - total) <= tolerance * size
                assert float(slope[0]) == pytest.approx(float(by), rel=tolerance)


RESIDUALS = {  # with what comes before the row, and where it is looked at
    "coarse": (tsallis._coarse_residual, lambda up, sign, x: (sign,), lambda sign, x: sign * x),
    "refined": (tsallis._refined_residual, lambda up, sign, x: (up, x), lambda sign, x: 1e-9),
    "expm1": (tsallis._expm1_residual, lambda up, sign, x: (), lambda sign, x: 0.1 * x),
}


@pytest.mark.parametrize("name", RESIDUALS)
def test_the_slope_beside_a_residual_is_its_derivative_and_positive(name, x64):
    """At a trial root of rows above and below T = 1, with a zero, one class standing for several."""
    residual, before, at = RESIDUALS[name]
    p = np.array([0.6, 0.25, 0.15, 1e-7, 0.0])
    counts = jnp.array([[1.0, 1.0, 2.0, 3.0, 2.0]])

    @jax.jit
    def slopes(t, x, r):
        log_ref, centred = jnp.log(jnp.array([[0.6]])), jnp.log(p / 0.6)[None]
        up = jnp.sign(r)
        sign = jnp.where(t > 1, up, -up) * jnp.ones((1, 1))
        of = lambda v: residual(v, *before(up, sign, x), centred, t[None, None], log_ref, counts, r)  # noqa: E731
        (value, slope), (moved, _) = jax.jvp(of, (at(sign, x) * jnp.ones((1, 1)),), (jnp.ones((1, 1)),))
        return value[0, 0], slope[0, 0], moved[0, 0]

    for r in (0.005, -0.005) if name == "expm1" else (-0.5, 0.5, 1.7):
        for t, x in ((2.0, -1.5), (30.0, 0.7), (0.5, 1.2), (0.9, -2.0)):
            value, slope, moved = slopes(jnp.asarray(t), jnp.asarray(x), jnp.asarray(r))
            assert abs(value) > 1e-5
            assert float(slope) == pytest.approx(float(moved), rel=1e-9)
            assert slope > 0


# -- T = 1 -----------------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("r", [-0.7, -0.1, -0.02, 0.0, 1e-9, 0.02, 0.1, 1.0, 3.0])
def test_at_one_the_identity_moves_as_it_should(r, dtype):
    """In T by s_i = (p_i^(−r)/Σ p^(1−r) − 1)/r, then as the docstring says; huge ones are cut, not inf."""
    centred = np.array([0.0, 0.0, -0.5, -3.0, -20.0, -60.0, -300.0, -np.inf])
    counts = np.array([1.0, 2.0, 1.0, 1.0, 3.0, 1.0, 2.0, 1.0])
    with jax.enable_x64(dtype == "float64"):
        eps, largest = float(np.finfo(dtype).eps), float(np.finfo(dtype).max)
        centred, counts, r = centred[None].astype(dtype), counts[None].astype(dtype), np.asarray(r, dtype)
        log_ref = -jax.nn.logsumexp(centred, axis=-1, keepdims=True, b=counts)
        of_t = lambda t: tsallis._log_identity(centred, t, log_ref, counts, r)  # noqa: E731
        one = jnp.ones((1, 1), dtype)
        slope = lambda t: jax.jvp(of_t, (t,), (one,))[1]  # noqa: E731
        log_q, found, bent = (np.asarray(x)[0] for x in (of_t(one), *jax.jvp(slope, (one,), (one,))))
    log_p = [mp.mpf(float(c)) for c in (centred + np.asarray(log_ref))[0, :7]]
    np.testing.assert_allclose(log_q[:7], [float(v) for v in log_p], rtol=2 * eps)
    assert np.isneginf(log_q[7])
    assert found[7] == bent[7] == 0
    r, n = mp.mpf(float(r)), counts[0, :7]
    rest = mp.log(mp.fsum(m * mp.exp(v) for m, v in zip(n, log_p, strict=True)))  # 1/r magnifies it
    log_p = [v - rest for v in log_p]
    p = [mp.exp(v) for v in log_p]
    if r == 0:
        mean = mp.fsum(m * x * v for m, x, v in zip(n, p, log_p, strict=True))
        s = [mean - v for v in log_p]
    else:
        total = mp.fsum(m * x ** (1 - r) for m, x in zip(n, p, strict=True))
        s = [(x**-r / total - 1) / r for x in p]
    spread = mp.fsum(m * x * v**2 for m, x, v in zip(n, p, s, strict=True))
    for i, v in enumerate(s):
        if abs(v) > largest * 1e-4:
            assert largest * 1e-6 < found[i] < np.inf
            continue
        assert miss(found[i], v) <= 8 * eps * (1 + abs(v)) * (1 + abs(log_p[i]))
        wanted = -(1 + r * v) * (v + (1 - r) * spread) - v
        if abs(wanted) < largest * 1e-4:
            assert miss(bent[i], wanted) <= 32 * eps * (1 + abs(wanted)) * (1 + abs(log_p[i]))


@pytest.mark.parametrize("dtype", ["float32", "float64"])
@pytest.mark.parametrize("alpha", [0.3, 1.0, 1.02, 1.2, 1.9, 2.0, 3.0, 8.0])
def test_at_one_q_moves_where_log_q_is_too_steep(alpha, dtype):
    """By (p_i^(1−r)/Σ p^(1−r) − p_i)/r, of logits so far apart that p is nothing, or 1/p infinite."""
    with jax.enable_x64(dtype == "float64"):
        eps, tiny = float(np.finfo(dtype).eps), float(np.finfo(dtype).tiny)
        logits = np.array([0.0, 0.0, -0.5, -40.0, -80.0, -95.0, -700.0, -800.0, -1e9, -np.inf], dtype)
        operator = TsallisSoftening(alpha)
        of_t = jax.jit(lambda t: operator.from_logits(logits, t))
        one = jnp.ones((), dtype)
        found = [np.asarray(of(of_t)(one)) for of in (jax.jacfwd, jax.jacrev)]
        bent = np.asarray(jax.jacfwd(jax.jacfwd(of_t))(one)) if alpha == 2 else None
    r = mp.mpf(float(np.asarray(alpha, dtype))) - 1
    powers = [mp.exp(mp.mpf(float(z))) for z in logits[:-1]]
    p = [x / mp.fsum(powers) for x in powers]
    if r == 0:
        mean = mp.fsum(x * mp.log(x) for x in p)
        gains = [x * (mean - mp.log(x)) for x in p]
    else:
        total = mp.fsum(x ** (1 - r) for x in p)
        gains = [(x ** (1 - r) / total - x) / r for x in p]
    for slope in found:
        assert slope[-1] == 0
        assert abs(slope.sum(dtype=np.float64)) <= 64 * eps
        for value, x, gain in zip(slope, p, gains, strict=False):
            # (1 − r) log p, of which the rounding is in the exponent, next to what p itself is known to.
            size = max(1, abs(float((1 - r) * mp.log(x))))
            assert miss(value, gain) <= 8 * eps * (size * abs(gain) + x) + tiny
    if alpha == 2:
        np.testing.assert_allclose(bent[:-1], [-2 * float(gain) for gain in gains], atol=64 * eps)
