"""Pictures on the triangle draw what the operator and the map say."""

import jax.numpy as jnp
import numpy as np
import pytest
from matplotlib.figure import Figure

from sparsekd_jax import operators, plots
from sparsekd_jax.plots.ternary import to_plane
from sparsekd_jax.theory import variance


@pytest.fixture
def ax():
    return Figure().subplots()


def test_corners_lie_at_distance_one_and_the_centre_amid_them():
    corners = to_plane(np.eye(3))
    centre = to_plane(np.full(3, 1 / 3))
    for i in range(3):
        assert np.linalg.norm(corners[i] - corners[(i + 1) % 3]) == pytest.approx(1)
        assert np.linalg.norm(corners[i] - centre) == pytest.approx(1 / np.sqrt(3))


def paths(operator, ax):
    plots.softening_field(operator, 4.0, name="mine", ax=ax)
    return [line.get_xydata() for line in ax.lines if len(line.get_xydata()) == 40]


def test_paths_run_from_the_point_towards_the_centre(ax):
    drawn = paths(operators.get("mixture"), ax)
    centre = to_plane(np.full(3, 1 / 3))
    for path in drawn[: len(drawn) // 2]:  # T = 64: (p − u)/64 of the way is left
        np.testing.assert_allclose(path[-1] - centre, (path[0] - centre) / 64, atol=1e-5)
    assert ax.get_title() == "mixture"


def test_a_function_in_numpy_has_the_paths_of_the_operator_it_is():
    def numpy_power(p, temperature):
        w = np.power(p, 1 / temperature)
        return w / w.sum()

    drawn, wanted = (paths(f, Figure().subplots()) for f in (numpy_power, operators.get("power")))
    np.testing.assert_allclose(drawn, wanted[: len(drawn)], atol=1e-12)


def test_cold_paths_only_where_the_range_reaches_below_one():
    def count(operator):
        ax = Figure().subplots()
        return len(paths(operator, ax)), ax.get_title()

    both, _ = count(operators.get("power"))
    warm, _ = count(operators.get("entropy-projection"))
    plain, title = count(lambda p, t: p / t + (1 - 1 / t) / p.shape[-1])
    assert both == 2 * warm == 2 * plain
    assert title == "mine"


def drawn(ax):
    figure = ax.get_figure()
    figure.canvas.draw()
    _, bar = figure.axes
    return ax.collections, bar.get_ylabel(), [t.get_text() for t in bar.get_yticklabels()]


@pytest.mark.parametrize("num_draws", [None, 20])
def test_the_map_shows_where_power_amplifies(ax, num_draws):
    found = variance.amplification_map(operators.get("power"), 2.0, num_draws, resolution=20)
    assert plots.variance_map(found, ax=ax) is ax
    (filled, contour), label, ticks = drawn(ax)
    assert ax.get_title() == f"power, T = 2, {'n → ∞' if num_draws is None else 'n = 20'}"
    assert "total variance" in label
    assert {"1/2", "1", "2"} <= set(ticks)
    assert list(contour.levels) == [0.0]
    assert len(contour.get_paths()[0].vertices) >= 12
    assert filled.norm.vmin == -filled.norm.vmax


def test_the_map_of_the_mixture_has_one_colour_and_no_contour(ax):
    found = variance.amplification_map(operators.get("mixture"), 2.0, resolution=10)
    np.testing.assert_allclose(found.ratio, 0.25, rtol=1e-9)
    plots.variance_map(found, ax=ax)
    collections, _, ticks = drawn(ax)
    assert len(collections) == 1
    assert "1/4" in ticks
    ax.figure.clear()
    plots.variance_map(found, largest=16, ax=(shared := ax.figure.subplots()))
    assert shared.collections[0].norm.vmax == 4
    seen = [path for path in shared.collections[0].get_paths() if len(path.vertices)]
    assert len(seen) == 1  # one value, one colour
    with pytest.raises(ValueError, match=r"largest is 2, and the map goes to 4; give that or more"):
        plots.variance_map(found, largest=2, ax=shared)
    assert found.ratio.min() < 1 / 4  # by rounding
    for largest in (4, 6):
        ax.figure.clear()
        plots.variance_map(found, largest=largest, ax=(shared := ax.figure.subplots()))
        assert len([path for path in shared.collections[0].get_paths() if len(path.vertices)]) == 1
        np.testing.assert_allclose(shared.figure.axes[1].get_ylim(), (-np.log2(largest), np.log2(largest)))
    even = variance.amplification_map(operators.get("mixture"), 1.0, 10, resolution=10)
    with pytest.raises(ValueError, match=r"largest is 1, and the map goes to 1; give that or more, above 1"):
        plots.variance_map(even, largest=1, ax=shared)
    with pytest.raises(ValueError, match="too many to enumerate"):
        variance.amplification_map(operators.get("mixture"), 2.0, 10_000, resolution=10)


def test_a_map_that_no_logarithm_shows_is_refused(ax):
    """An argmax keeps no variance: its map ended in an OverflowError of a logarithm of 0."""
    flat = variance.amplification_map(lambda p, t: jnp.full_like(p, 1 / 3), 2.0, resolution=5)
    with pytest.raises(ValueError, match=r"the ratio 0 at p = \(.*draw an operator that keeps some variance"):
        plots.variance_map(flat, ax=ax)
    point = variance.amplification_map(operators.get("mixture"), 2.0, resolution=3)
    with pytest.raises(ValueError, match="1 points, and a map needs 3: give resolution ≥ 4"):
        plots.variance_map(point, ax=ax)
