"""Inequalities between the functions, searched by Hypothesis."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from sparsekd_jax import simplex
from tests.simplex.harness import CLASSES, ORDERS, WEIGHTS, jitted, values


@st.composite
def distributions(draw, num_classes=CLASSES):
    """Mass over many orders of magnitude, exact zeros and ties."""
    entry = st.one_of(
        st.integers(0, 4).map(float),
        st.floats(-30, 0).map(lambda e: 10.0**e),
        st.floats(0, 1).filter(lambda v: v == 0 or v > 1e-200),
    )
    weights = np.array(draw(st.lists(entry, min_size=num_classes, max_size=num_classes)))
    if weights.sum() == 0:
        weights[draw(st.integers(0, num_classes - 1))] = 1.0
    return weights / weights.sum()


def in_float64(p, q=None):
    """Rows stacked, so that one call serves an example."""
    with jax.enable_x64(True):
        return values(np.array(p), None if q is None else np.array(q), "float64")


@given(distributions(), distributions())
def test_divergences_are_positive_ordered_and_bounded(p, q):
    value = in_float64([p, q], [q, p])
    kl, tv, chord, arc = (value[name][0] for name in ("kl", "tv", "hellinger", "fisher_rao"))
    js, swapped = value["js"][WEIGHTS.index(0.5)]
    assert kl >= 0
    assert kl >= 2 * tv**2 - 1e-14  # Pinsker
    assert 2 * chord**2 <= kl + 1e-14
    assert chord**2 - 1e-14 <= tv <= math.sqrt(2) * chord + 1e-14  # Le Cam
    assert 0 <= js <= math.log(2) * tv + 1e-14
    assert 2 * math.sqrt(2) * chord <= arc * (1 + 1e-14)
    assert arc <= math.pi * (1 + 1e-15)
    assert js == pytest.approx(swapped, abs=1e-15)
    assert value["reverse_kl"][0] == value["kl"][1]


@given(p=distributions(), q=distributions(), r=distributions())
def test_triangle_inequality(p, q, r):
    value = in_float64([p, r, p, q], [r, p, q, r])
    for name in ("hellinger", "fisher_rao", "tv"):
        long, back, first, second = value[name]
        assert long <= first + second + 1e-14
        assert long == back


def test_kl_has_no_triangle_inequality(x64):
    p, q, r = (np.array([x, 1 - x, 0, 0, 0, 0]) for x in (0.99, 0.9, 0.5))
    assert values(p, r)["kl"] > values(p, q)["kl"] + values(q, r)["kl"] + 0.1


@given(
    st.lists(st.floats(-3, 3), min_size=CLASSES, max_size=CLASSES).map(np.array),
    distributions(),
    st.floats(-100, 100),
)
def test_projection_is_idempotent_closest_and_blind_to_a_shift(x, other, shift):
    with jax.enable_x64(True):
        q = np.asarray(jitted(simplex.project)(jnp.asarray(x)))
        again = np.asarray(jitted(simplex.project)(jnp.asarray(q)))
        shifted = np.asarray(jitted(simplex.project)(jnp.asarray(x + shift)))
    assert (q >= 0).all()
    assert abs(q.sum() - 1) <= simplex.SUM_TOLERANCE["float64"]
    np.testing.assert_allclose(again, q, rtol=0, atol=1e-15)
    np.testing.assert_allclose(shifted, q, rtol=0, atol=1e-13)
    assert np.linalg.norm(q - x) <= np.linalg.norm(other - x) + 1e-14
    assert (x - q) @ (
        other - q
    ) <= 1e-13  # the variational inequality, which only the closest point satisfies


def entropies(value, orders=slice(None)):
    return np.array([value["entropy"], *value["renyi"][orders], *value["tsallis"][orders]])


@given(distributions(), st.data())
def test_majorization_orders_every_entropy(p, data):
    """q from p by averaging pairs of coordinates, so p ≻ q by the theorem of Muirhead."""
    q = p.copy()
    for _ in range(data.draw(st.integers(1, 4))):
        i, j = data.draw(st.integers(0, 4)), data.draw(st.integers(0, 4))
        share = data.draw(st.floats(0, 1))
        q[i], q[j] = share * q[i] + (1 - share) * q[j], share * q[j] + (1 - share) * q[i]
    value = in_float64([p, q], [q, p])
    assert value["margin"][0] >= -1e-15
    of_p, of_q = entropies(value).T
    assert (of_p <= of_q + 1e-12).all()


@given(distributions(), distributions())
def test_entropies_agree_with_the_margin_of_any_pair(p, q):
    value = in_float64([p, q], [q, p])
    # Below order 1 a mass of 1e-16 counts that the rounded partial sums do not see.
    of_p, of_q = entropies(value, slice(ORDERS.index(1.0), None)).T
    if value["margin"][0] >= 0:
        assert (of_p <= of_q + 1e-12).all()
    if value["margin"][1] >= 0:
        assert (of_q <= of_p + 1e-12).all()


@given(distributions())
def test_renyi_entropy_is_non_increasing_in_the_order(p):
    renyi = in_float64(p)["renyi"][:, 0]
    assert (np.diff(renyi) <= 1e-13).all()
    assert renyi[-1] >= 0
    assert renyi[0] <= math.log(CLASSES) + 1e-15
