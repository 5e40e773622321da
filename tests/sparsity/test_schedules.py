"""Schedules against Zhu and Gupta's equation, written out."""

import numpy as np
import pytest

from sparsekd_jax import sparsity


def test_cubic_is_zhu_and_gupta():
    final, n = 0.95, 5
    # s_t = s_f + (s_i − s_f)(1 − (t − t_0)/(n Δt))³ with s_i = 0
    expected = [final + (0 - final) * (1 - k / n) ** 3 for k in range(1, n + 1)]
    np.testing.assert_allclose(sparsity.sparsities("cubic", final, n), expected, rtol=1e-12)
    off_by_one = [final * (1 - (1 - k / n) ** 3) for k in range(n)]  # the broken twin: stages from 0
    assert not np.allclose(sparsity.sparsities("cubic", final, n), off_by_one)


def test_linear_and_one_shot():
    np.testing.assert_allclose(sparsity.sparsities("linear", 0.8, 4), [0.2, 0.4, 0.6, 0.8])
    assert sparsity.sparsities("one-shot", 0.8, 3) == (0.8, 0.8, 0.8)


@pytest.mark.parametrize("name", list(sparsity.SCHEDULES))
@pytest.mark.parametrize("num_stages", [1, 2, 7])
@pytest.mark.parametrize("final", [0.0, 0.5, 0.99])
def test_every_schedule_rises_to_exactly_its_end(name, num_stages, final):
    levels = sparsity.sparsities(name, final, num_stages)
    assert len(levels) == num_stages
    assert levels[-1] == final
    assert all(a <= b for a, b in zip((0.0, *levels), levels, strict=False))


def test_geometric_multiplies_what_is_left_by_a_constant():
    final, n = 0.95, 5
    levels = sparsity.sparsities("geometric", final, n)
    left = np.array([1.0, *(1 - np.array(levels))])
    np.testing.assert_allclose(left[1:] / left[:-1], (1 - final) ** (1 / n), rtol=1e-12)
    np.testing.assert_allclose(levels, [1 - (1 - final) ** (k / n) for k in range(1, n + 1)], rtol=1e-12)
    # The broken twin shrinks what is dropped, s^(n/k), instead of what is left.
    assert not np.allclose(levels, [final ** (n / k) for k in range(1, n + 1)])


@pytest.mark.parametrize("final", [0.0, 1e-12, 1 - 1e-9])
def test_geometric_at_the_ends_of_its_range(final):
    np.testing.assert_allclose(
        [sparsity.geometric(k / 4, final=final) * final for k in range(1, 5)],
        [-np.expm1(k / 4 * np.log1p(-final)) for k in range(1, 5)],
        rtol=1e-12,
    )


def test_a_function_is_a_schedule():
    assert sparsity.sparsities(lambda x: x**2, 0.5, 2) == (0.125, 0.5)
    assert sparsity.sparsities(lambda x, final: x if final == 0.5 else 0.0, 0.5, 2) == (0.25, 0.5)
    assert sparsity.sparsities(sparsity.geometric, 0.75, 2) == sparsity.sparsities("geometric", 0.75, 2)


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("cubik", 0.9, 3), "did you mean 'cubic'"),
        (("geometri", 0.9, 3), "did you mean 'geometric'"),
        (("geometric", 1.0, 3), "sparsity must be a share"),
        (("cubic", 95, 3), r"did you mean 0\.95"),
        (("cubic", 1.0, 3), r"sparsity must be a share in \[0, 1\)"),
        (("cubic", -0.1, 3), "sparsity"),
        (("cubic", float("nan"), 3), "sparsity"),
        (("cubic", 0.9, 0), "num_stages"),
        ((lambda x: 1 - x, 0.9, 2), "must reach 1"),
        ((lambda x: 1.0 if x in (0.25, 1.0) else 0.5, 0.9, 4), "stage 2"),
    ],
)
def test_bad_arguments_are_named(arguments, message):
    with pytest.raises(ValueError, match=message):
        sparsity.sparsities(*arguments)
