"""Softened rows of distributions, as the modules above take them: any number of rows, any callable."""

import math

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import distill, targets
from sparsekd_jax.operators import PowerTransform, _softening
from sparsekd_jax.operators._softening import on_rows, soften
from sparsekd_jax.theory import privacy

ROWS = np.random.default_rng(3).dirichlet(np.ones(4), 300)
SOFTENED = np.sqrt(ROWS) / np.sqrt(ROWS).sum(-1, keepdims=True)  # power at T = 2


def by_numpy(p, t):
    q = np.asarray(p) ** (1 / t)
    return q / q.sum()


def by_jax(p, t):
    assert p.shape == (4,)
    q = p ** (1 / t)
    return q / q.sum()


@pytest.mark.parametrize("operator", [PowerTransform(), by_jax, by_numpy], ids=["power", "jax", "numpy"])
@pytest.mark.parametrize("count", [1, 64, 65, 300])
def test_every_number_of_rows_in_float64(operator, count):
    with jax.enable_x64(False):
        q = soften(operator, ROWS[:count], 2.0)
    assert (q.dtype, q.shape) == (np.float64, (count, 4))
    np.testing.assert_allclose(q, SOFTENED[:count], rtol=1e-14)


def test_few_numbers_of_rows_are_compiled(monkeypatch):
    batches = []

    def watched(operator, rows, t):
        batches.append(len(rows))
        return on_rows(operator, rows, t)

    monkeypatch.setattr(_softening, "on_rows", watched)
    for count in (1, 63, 64, 65, 256, 257, 300):
        np.testing.assert_allclose(soften(PowerTransform(), ROWS[:count], 2.0), SOFTENED[:count], rtol=1e-14)
    assert batches == [64] * 3 + [256] * 2 + [1024] * 2


def test_rows_are_traceable(x64):
    rows = jnp.asarray(ROWS[:5])
    for operator in (PowerTransform(), by_jax):
        q = jax.jit(lambda rows, t, operator=operator: on_rows(operator, rows, t))(rows, 2.0)
        np.testing.assert_allclose(q, SOFTENED[:5], rtol=1e-14)


@pytest.mark.parametrize("shape", [(), (6,), (2, 3)])
def test_a_plain_function_gets_one_row_and_its_temperature(shape, x64):
    count = math.prod(shape)
    rows = jnp.asarray(ROWS[:count]).reshape(*shape, 4)
    temperatures = jnp.linspace(1.5, 4.0, count).reshape(shape)
    wanted = PowerTransform()(rows, temperatures)
    np.testing.assert_allclose(on_rows(by_jax, rows, temperatures), wanted, rtol=1e-13)
    np.testing.assert_allclose(
        jax.jit(lambda p, t: on_rows(by_jax, p, t))(rows, temperatures), wanted, rtol=1e-13
    )


def test_an_operator_that_loses_a_class_is_refused():
    for loses in (lambda p, t: p[:3], lambda p, t: np.asarray(p)[:3]):
        with pytest.raises(ValueError, match=r"maps \[K\] = \[4\] to \[3\]; it must return \[K\]"):
            soften(loses, ROWS[:2], 2.0)
    with pytest.raises(TypeError):
        soften("power", ROWS[:2], 2.0)


@pytest.mark.parametrize(
    ("answer", "shape"), [(lambda p, t: p.sum(), r"\[\]"), (lambda p, t: p[None], r"\[1, 4\]")]
)
@pytest.mark.parametrize("temperature", [2.0, jnp.full(2, 2.0)])
def test_an_operator_that_answers_no_row_is_refused(answer, shape, temperature):
    with pytest.raises(ValueError, match=rf"maps \[K\] = \[4\] to {shape}; it must return \[K\]"):
        on_rows(answer, jnp.asarray(ROWS[:2], jnp.float32), temperature)


@pytest.mark.parametrize(
    "call",
    [
        lambda rows: targets.sample(jax.random.key(0), "power", jnp.log(rows), 2.0, 3),
        lambda rows: targets.soften("power", targets.Dense(jnp.log(rows)), 2.0),
        lambda rows: distill.student_divergence(jnp.log(rows), jnp.log(rows), "power", 2.0),
        lambda rows: distill.soften_log_probs("power", jnp.log(rows), 2.0),
        lambda rows: privacy.sample_labels(jax.random.key(0), "power", rows, 2.0, 3),
    ],
)
def test_a_name_where_an_operator_belongs_is_refused_with_its_remedy(call):
    with pytest.raises(TypeError, match=r"operator is the text 'power'; pass operators\.parse\('power'\)"):
        call(jnp.asarray(ROWS[:2], jnp.float32))
