"""Pictures along an axis draw the numbers they were given, and say which."""

import dataclasses

import jax.numpy as jnp
import matplotlib
import numpy as np
import pytest
from matplotlib.figure import Figure

from sparsekd_jax import axioms, distill, operators, plots
from sparsekd_jax._page import OKABE_ITO
from sparsekd_jax.theory import homotopy

matplotlib.use("Agg")


@pytest.fixture
def ax():
    return Figure().subplots()


def legend(ax):
    return [text.get_text() for text in ax.get_legend().get_texts()]


def test_entropy_rises_from_that_of_p_to_log_k(ax):
    p = np.array([0.7, 0.2, 0.1])
    plots.entropy_curves({"power": operators.get("power"), "mine": lambda p, t: p}, p, hottest=1e4, ax=ax)
    _, power, mine = ax.lines
    entropy = -np.sum(p * np.log(p))
    assert power.get_ydata()[[0, -1]] == pytest.approx([entropy, np.log(3)], abs=1e-4)
    assert (np.diff(power.get_ydata()) > -1e-6).all()
    np.testing.assert_allclose(mine.get_ydata(), entropy, atol=1e-6)
    assert legend(ax) == ["power", "mine"]
    assert power.get_linestyle() != mine.get_linestyle(), "told apart without colour"
    for hottest in (0.5, 1.0, np.nan):
        with pytest.raises(ValueError, match="hottest is"):
            plots.entropy_curves({"power": operators.get("power")}, p, hottest=hottest, ax=ax)
    with pytest.raises(ValueError, match="one distribution"):
        plots.entropy_curves({"power": operators.get("power")}, [[0.5, 0.5]], ax=ax)
    for row, words in (([2.0, 1.0], "p: sums to 3"), ([np.nan, 1.0], "p: contains nan")):
        with pytest.raises(ValueError, match=words):  # of functions of one's own too
            plots.entropy_curves({"mine": lambda p, t: p}, row, ax=ax)


def test_no_two_of_many_curves_look_alike(ax):
    """Seven families are timed and drawn; six colours and six dashes alone would repeat at the seventh."""
    p, same = np.array([0.7, 0.2, 0.1]), lambda p, t: p
    plots.entropy_curves({f"operator {i}": same for i in range(13)}, p, ax=ax)
    curves = ax.lines[1:]
    assert len({(curve.get_color(), str(curve._dash_pattern)) for curve in curves}) == 13
    ax.clear()
    plots.crossover([1.0, 2.0], {f"method {i}": np.ones((2, 3)) for i in range(13)}, ax=ax)
    seen = {(handle.get_color(), handle.get_marker()) for handle in ax.get_legend().legend_handles}
    assert len(seen) == 13


def test_labels_of_high_temperatures_do_not_run_into_one_another():
    for hottest, most in ((64.0, 7), (1e6, 12), (1e30, 12)):
        ax = plots.entropy_curves({"power": operators.get("power")}, [0.7, 0.2, 0.1], hottest=hottest)
        ticks = ax.get_xticks()
        assert ticks[0] == 1
        assert hottest / 2**11 < ticks[-1] <= hottest
        assert 5 < len(ticks) <= most
        matplotlib.pyplot.close(ax.get_figure())


def test_entropy_that_does_not_rise_is_drawn_flat(ax):
    """The axis of a uniform row showed 4e-9 of rounding as a gap to log K."""
    plots.entropy_curves({"power": operators.get("power")}, np.full(4, 0.25), ax=ax)
    low, high = ax.get_ylim()
    assert high - low > 0.05


def test_reliability_is_accuracy_against_confidence(ax):
    probs = np.array([[0.9, 0.1], [0.9, 0.1], [0.6, 0.4], [0.6, 0.4], [0.6, 0.4]], np.float32)
    labels = jnp.array([0, 1, 0, 0, 1])
    tally = distill.tally(jnp.log(probs), labels)
    np.testing.assert_allclose(tally.in_bin.sum(), 5)
    plots.reliability_diagram({"mine": tally}, ax=ax)
    _, joined = ax.lines
    np.testing.assert_allclose(joined.get_xydata(), [[0.6, 2 / 3], [0.9, 0.5]], rtol=1e-5)
    sizes = ax.collections[0].get_sizes()
    assert (sizes - 16)[0] / (sizes - 16)[1] == pytest.approx(3 / 2)
    assert legend(ax) == [f"mine, ECE {100 * (3 / 5 * (2 / 3 - 0.6) + 2 / 5 * 0.4):.1f} %"]
    assert not ax.collections[0].get_clip_on(), "a bin that is never right lies on the axis"
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.reliability_diagram({}, ax=ax)


def test_crossover_marks_what_is_decided(ax):
    values = [[-1.0, -1.1, -0.9], [0.5, -0.5, 0.1], [1.0, 1.1, 0.9]]
    plots.crossover([1, 2, 3], {"a": values}, first="stages", second="one shot", ax=ax)
    faces = [
        line.get_markerfacecolor()
        for line in ax.lines
        if line.get_marker() == "o" and len(line.get_xdata()) == 1
    ]
    assert [face == "white" for face in faces] == [False, True, False]
    bounds = [
        line.get_ydata()
        for line in ax.lines
        if len(set(line.get_xdata())) == 1 and len(line.get_xdata()) == 2
    ][1:]
    expected = [distill.interval(row) for row in values]
    means = next(line for line in ax.lines if len(line.get_xdata()) == 3)
    np.testing.assert_allclose(means.get_ydata(), [cell.mean for cell in expected])
    np.testing.assert_allclose(bounds, [[cell.low, cell.high] for cell in expected[1:]])
    assert {text.get_text() for text in ax.texts} == {"← better: stages", "better: one shot →"}
    with pytest.raises(ValueError, match=r"must be \[2, seeds\]"):
        plots.crossover([1, 2], {"a": values}, ax=ax)
    with pytest.raises(ValueError, match=r"x is \[1, 3, 2\]; .* ascending"):
        plots.crossover([1, 3, 2], {"a": values}, ax=ax)
    with pytest.raises(ValueError, match="x is empty: nothing to draw"):
        plots.crossover([], {"a": np.zeros((0, 3))}, ax=ax)
    for x in (["0", "0.5", "0.9"], [None, 1, 2], [[1], [2], [3]], "abc"):
        with pytest.raises(TypeError, match=r"^x is .* list of numbers"):
            plots.crossover(x, {"a": values}, ax=ax)
    for x in ([1, 2, np.nan], [1, 2, np.inf]):
        with pytest.raises(ValueError, match=r"^x is .* finite"):
            plots.crossover(x, {"a": values}, ax=ax)


@pytest.fixture
def path():
    points = np.array([[[0.9, 0.1]], [[0.8, 0.2]], [[0.6, 0.4]]])
    return homotopy.HomotopyPath(jnp.asarray(points), (0.0, 0.5, 0.9))


def test_stage_path_draws_distances_and_steps(path):
    top, bottom = plots.stage_path({"two stages": [path, path]}, axes=Figure().subplots(2))
    np.testing.assert_allclose(top.lines[2].get_ydata(), path.from_teacher)
    np.testing.assert_allclose(bottom.lines[2].get_ydata(), path.step_lengths)
    assert {line.get_color() for line in [*top.lines, *bottom.lines]} == {OKABE_ITO["blue"]}
    with pytest.raises(ValueError, match="nothing to draw"):
        plots.stage_path({})
    other = dataclasses.replace(path, sparsities=(0.0, 0.1, 0.2))
    with pytest.raises(ValueError, match="different sparsities"):
        plots.stage_path({"x": [path, other]})
    other = dataclasses.replace(path, distance="hellinger")
    with pytest.raises(ValueError, match="measured by fisher-rao and hellinger; draw one distance at a time"):
        plots.stage_path({"x": [path], "y": [other]})


@pytest.mark.usefixtures("x64")
def test_law_margins_put_a_violation_left_of_zero(ax):
    laws = ("A1", "A4")
    good = axioms.check(operators.get("mixture"), laws=laws, num_classes=(3,))
    bad = axioms.check(lambda p, t: p[..., ::-1], laws=laws, num_classes=(3,))
    plots.law_margins([good, bad], ax=ax)
    marks = [line for line in ax.lines if line.get_marker() not in ("None", "")]
    drawn = {(round(float(line.get_ydata()[0]), 2), line.get_marker()): line.get_xdata()[0] for line in marks}
    assert [ax.get_yticklabels()[i].get_text() for i in range(2)] == list(laws)
    expected = {
        round(i + j / 3 - 0.5, 2): r[law].margin
        for i, law in enumerate(laws)
        for j, r in ((1, good), (2, bad))
    }
    assert {y: x for (y, _), x in drawn.items()} == expected
    assert {marker for (y, marker), x in drawn.items() if x < -0.01} == {"X"}


@pytest.mark.usefixtures("x64")
def test_law_margins_draw_a_law_that_an_output_of_nan_broke(ax):
    report = axioms.check(lambda p, t: p * p ** (1 / t) / p ** (1 / t), laws=("A4",), num_classes=(2,))
    assert report["A4"].margin == -np.inf
    plots.law_margins(report, ax=ax)
    marks = [line for line in ax.lines if line.get_marker() == "D"]
    assert [float(mark.get_xdata()[0]) for mark in marks] == [-1.0]


def test_without_axes_a_new_figure_opens_in_the_style_of_the_house():
    from matplotlib import pyplot

    ax = plots.softening_field(operators.get("power"), 2.0)
    assert ax.get_figure() is pyplot.gcf()
    ax = plots.law_margins(axioms.check(operators.get("power"), laws=("A4",), num_classes=(3,)))
    assert not ax.spines["top"].get_visible()
    pyplot.close("all")
