"""The counterexamples against their formulas in 50 digits: what is unlawful must be so as it is said."""

import jax.numpy as jnp
import mpmath as mp
import numpy as np
import pytest

from sparsekd_jax.operators import lawless
from tests.operators import reference

ROWS = np.array(
    [
        [0.5, 0.27, 0.2, 0.03],
        [0.1, 0.2, 0.3, 0.4],
        [0.25, 0.25, 0.25, 0.25],
        [0.5, 0.0, 0.5, 0.0],
        [0.0, 0.0, 0.0, 1.0],
        [1e-30, 1e-4, 0.4999, 0.5],
    ]
)
TEMPERATURES = (0.01, 0.7, 1.0, 2.0, 7.0, 100.0)
PRIOR = np.array([0.5, 0.3, 0.15, 0.05])


def label_smoothing(epsilon):
    return lambda p, t: [(1 - mp.mpf(epsilon)) * x + mp.mpf(epsilon) / len(p) for x in p]


def top_k(k):
    def keep(p, t):
        kept = sorted(range(len(p)), key=lambda i: (-p[i], i))[:k]
        total = mp.fsum(p[i] for i in kept)
        return [x / total if i in kept else mp.mpf(0) for i, x in enumerate(p)]

    return keep


def prior_directed(prior):
    def soften(p, t):
        weights = [
            mp.power(x, 1 / t) * mp.power(mp.mpf(float(w)), 1 - 1 / t) if x else mp.mpf(0)
            for x, w in zip(p, prior, strict=True)
        ]
        total = mp.fsum(weights)
        return [w / total for w in weights]

    return soften


def argmax(p, t):
    return [mp.mpf(x == max(p)) / p.count(max(p)) for x in p]


FAMILIES = {
    "label-smoothing": (lawless.LabelSmoothing(), label_smoothing(0.1)),
    "label-smoothing(0.4)": (lawless.LabelSmoothing(0.4), label_smoothing(0.4)),
    "label-smoothing(0)": (lawless.LabelSmoothing(0.0), label_smoothing(0)),
    "top-k": (lawless.TopKRenormalized(), top_k(2)),
    "top-k(1)": (lawless.TopKRenormalized(1), top_k(1)),
    "top-k(9)": (lawless.TopKRenormalized(9), top_k(3)),  # one of four classes is always dropped
    "prior-directed": (lawless.PriorDirected(), prior_directed([1, 9, 17, 25])),
    "prior-directed[π]": (lawless.PriorDirected(jnp.asarray(PRIOR)), prior_directed(np.float32(PRIOR))),
    "clamped-power": (lawless.ClampedPower(), lambda p, t: reference.power(p, min(t, 5))),
    "clamped-power(3)": (lawless.ClampedPower(3.0), lambda p, t: reference.power(p, min(t, 3))),
    "argmax": (lawless.Argmax(), argmax),
}


@pytest.mark.parametrize("name", FAMILIES)
def test_every_entry_has_the_values_of_the_formula(name, x64):
    operator, formula = FAMILIES[name]
    for t in TEMPERATURES:
        exact = [formula(reference.exact(row), mp.mpf(t)) for row in ROWS]
        expected = np.array([[float(q) for q in row] for row in exact])
        log_q = np.array([[float(mp.log(q)) if q else -np.inf for q in row] for row in exact])
        with np.errstate(divide="ignore"):
            log_p = np.log(ROWS)
        close = {"rtol": 1e-12, "atol": 1e-300, "err_msg": f"{name} at T = {t}"}
        np.testing.assert_allclose(operator(ROWS, t), expected, **close)
        np.testing.assert_allclose(operator.from_logits(log_p + 3.0, t), expected, **close | {"rtol": 1e-11})
        np.testing.assert_allclose(operator.log(log_p, t), log_q, rtol=1e-12, atol=1e-12)


@pytest.mark.parametrize(("dtype", "atol"), [(jnp.float32, 2e-6), (jnp.bfloat16, 4e-3)])
@pytest.mark.parametrize("name", FAMILIES)
def test_low_precision_stays_within_the_contract(name, dtype, atol):
    operator, formula = FAMILIES[name]
    rows = jnp.asarray(ROWS, dtype)
    for t in TEMPERATURES:
        taken = np.asarray(rows, np.float64)
        expected = [[float(q) for q in formula(reference.exact(row), mp.mpf(t))] for row in taken]
        found = operator(rows, t)
        assert found.dtype == dtype
        np.testing.assert_allclose(np.asarray(found, np.float64), expected, rtol=0, atol=atol)


def test_a_batch_takes_one_prior_of_its_classes():
    batch = jnp.asarray(np.stack([ROWS] * 2))  # [2, 6, 4]
    prior = lawless.PriorDirected(jnp.asarray(PRIOR))
    np.testing.assert_allclose(prior(batch, 2.0)[1], prior(batch[1], 2.0), rtol=1e-6)
    for wrong in (2, 3, 6):
        operator = lawless.PriorDirected(jnp.full(wrong, 1 / wrong))
        with pytest.raises(ValueError, match=rf"prior has shape \({wrong},\); of 4 classes it is \[K\]"):
            operator(batch, 2.0)


def test_priors_are_compared_as_arrays():
    one, same, other = (lawless.PriorDirected(jnp.asarray(p)) for p in (PRIOR, PRIOR, PRIOR[::-1]))
    assert one == same
    assert one != other
    assert one != lawless.PriorDirected()
