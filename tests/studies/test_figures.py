"""Figures draw what the operator and the report say."""

import numpy as np
import pytest

from sparsekd_jax import operators
from sparsekd_jax.studies import figures


def test_corners_lie_at_distance_one_and_the_centre_amid_them():
    corners = figures._to_plane(np.eye(3))
    centre = figures._to_plane(np.full(3, 1 / 3))
    for i in range(3):
        assert np.linalg.norm(corners[i] - corners[(i + 1) % 3]) == pytest.approx(1)
        assert np.linalg.norm(corners[i] - centre) == pytest.approx(1 / np.sqrt(3))


def paths(operator):
    axes = figures.softening_field(operator, 4.0, "mine").axes[0]
    return [line.get_xydata() for line in axes.lines if len(line.get_xydata()) == 40], axes


def test_paths_run_from_the_point_towards_the_centre():
    drawn, axes = paths(operators.get("mixture"))
    centre = figures._to_plane(np.full(3, 1 / 3))
    half = len(drawn) // 2
    for path in drawn[:half]:  # T = 64: (p − u)/64 of the way is left
        np.testing.assert_allclose(path[-1] - centre, (path[0] - centre) / 64, atol=1e-5)
    assert axes.get_title() == "mixture"


def test_cold_paths_only_where_the_range_reaches_below_one():
    both, _ = paths(operators.get("power"))
    warm, _ = paths(operators.get("entropy-projection"))
    plain, axes = paths(lambda p, t: p / t + (1 - 1 / t) / p.shape[-1])
    assert len(both) == 2 * len(warm) == 2 * len(plain)
    assert axes.get_title() == "mine"
