"""Tsallis softening form by form: derivatives of two orders, and where floats run out."""

import dataclasses
import functools

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax.operators import ConvexMixture, PowerTransform, TsallisSoftening, _tsallis_half, tsallis
from sparsekd_jax.operators.tsallis import _TsallisOfOneForm
from tests.operators import reference
from tests.operators.reference import ROWS, WEIGHTS

FORMS = {
    "square roots": {"half": True, "near_shannon": False},
    "shifted powers": {"half": False, "near_shannon": False},
    "expm1": {"half": False, "near_shannon": True},
}
ALPHAS = {"square roots": [1.5], "shifted powers": [0.3, 1.5, 2.5], "expm1": [0.996, 1.0, 1.02]}
ENTRIES = {"probabilities": "_from_probabilities", "logits": "_from_logits", "log": "_log_kernel"}


def test_what_it_claims_changes_at_one_and_at_two():
    """Within a band of α the claims are the same; tests/axioms compares one of each with the verdicts."""
    claims = lambda alpha: TsallisSoftening(alpha).claims  # noqa: E731
    for at, same in ((1.0, PowerTransform()), (2.0, ConvexMixture())):
        assert claims(at) == same.claims
    for inside, ends in (
        (0.5, (1e-6, np.nextafter(1, 0))),
        (1.5, (np.nextafter(1, 2), np.nextafter(2, 1))),
        (3.0, (np.nextafter(2, 3), 1e6)),
    ):
        assert claims(inside) not in (claims(1.0), claims(2.0))
        assert [claims(end) for end in ends] == [claims(inside)] * 2


@pytest.mark.parametrize("alpha", [0.0, -0.5, np.inf, np.nan])
def test_an_alpha_that_is_none_has_no_claims(alpha):
    with pytest.raises(ValueError, match=f"alpha of operator 'tsallis' is {alpha}"):
        _ = jax.tree.map(lambda _: alpha, TsallisSoftening(2.0)).claims  # the class itself refuses it


def test_it_is_named_by_its_alpha():
    assert [TsallisSoftening(alpha).name for alpha in (1.5, 2, jnp.float32(0.25))] == [
        "tsallis(1.5)",
        "tsallis(2)",
        "tsallis(0.25)",
    ]
    for operator in (TsallisSoftening(1.5), _TsallisOfOneForm(1.5, half=False, near_shannon=False)):
        with pytest.raises(dataclasses.FrozenInstanceError):
            operator.alpha = 2.0


@pytest.mark.parametrize("dtype", ["float32", "float64"])
def test_the_form_of_a_known_alpha_is_chosen_before_compiling(dtype, x64):
    """By the same rule as in the program, where α may be traced or a family."""
    near = tsallis.NEAR_SHANNON[dtype]
    for alpha, form in (
        (1.5, (True, near > 0.5)),
        (np.nextafter(1.5, 2, dtype=dtype), (False, near > 0.5)),
        (1 + near * 1.01, (False, False)),
        (1 - near * 1.01, (False, False)),
        (1 + near * 0.99, (False, True)),
        (1 - near * 0.99, (False, True)),
        (2.5, (False, False)),
    ):
        operator = TsallisSoftening(alpha)
        known = operator.to_compile(dtype)
        assert (known.half, known.near_shannon) == form, alpha
        r = jnp.asarray(alpha, dtype) - 1
        assert (bool(operator._is_half(r)), bool(operator._is_near_shannon(r))) == form, alpha
    family = TsallisSoftening(jnp.array([0.5, 1.5]))
    assert family.to_compile(dtype) is family
    assert jax.jit(lambda alpha: (op := TsallisSoftening(alpha)).to_compile(dtype) is op)(1.5)
    # The form is no leaf: one program for all of one form, another for another.
    one, same, other = (TsallisSoftening(a).to_compile(dtype) for a in (2.5, 3.5, 1.001))
    assert jax.tree.leaves(one) == [2.5]
    assert jax.tree.structure(one) == jax.tree.structure(same) != jax.tree.structure(other)


def point(entry, p, temperature, alpha):
    """p, or log p (of logits, up to a constant); T; and α."""
    with np.errstate(divide="ignore"):
        x = p if entry == "probabilities" else np.log(p) + (0.7 if entry == "logits" else -np.log(p.max()))
    return np.append(x, [temperature, alpha])


def weighted(form, entry, x, temperature, alpha):
    operator = _TsallisOfOneForm(alpha, **FORMS[form])
    found, _ = getattr(operator, ENTRIES[entry])(x[None], jnp.reshape(temperature, (1, 1)))
    return jnp.sum(jnp.where(found > -jnp.inf, WEIGHTS * found[0], 0))


@functools.cache
def slopes(form, entry):
    """The gradient and the Hessian of a weighted sum, compiled once for every T and α."""
    value = lambda at: weighted(form, entry, at[:4], at[4], at[5])  # noqa: E731
    return jax.jit(lambda at: (jax.grad(value)(at), jax.hessian(value)(at)))


def exact_value(entry, guess, at):
    return reference.weighted_sum(reference.tsallis(at[5]), entry, at[:4], at[4], guess)


@pytest.mark.parametrize(
    ("row", "temperature"),  # at T = 1 a zero of p is a kink
    [(row, t) for row in ROWS for t in (0.3, 0.7, 1.0, 1.7, 5.0) if (row, t) != ("with a zero", 1.0)],
)
@pytest.mark.parametrize(
    ("form", "entry"),  # the others reach the logarithm's kernel by the same two lines
    [
        *(("square roots", entry) for entry in ENTRIES),
        *(("shifted powers", entry) for entry in ("probabilities", "log")),
        ("expm1", "log"),
    ],
)
def test_slopes_of_two_orders(form, entry, row, temperature, x64):
    """In the row, in T and in α; for α = 3/2 and T = 0.3 the smallest class is gone."""
    for alpha in ALPHAS[form]:
        if row == "with a zero" and alpha == 1:
            continue  # a zero of p fills from there on
        at = point(entry, ROWS[row], temperature, alpha)
        guess = np.asarray(TsallisSoftening(alpha)(ROWS[row], temperature))
        gradient, hessian = slopes(form, entry)(at)
        exact = functools.partial(exact_value, entry, guess)
        wanted, wanted_bent = reference.slopes(exact, at, [*np.flatnonzero(ROWS[row]), 4, 5])
        where = f"α = {alpha}"
        np.testing.assert_allclose(gradient, wanted, rtol=1e-10, atol=1e-10, err_msg=where)
        np.testing.assert_allclose(hessian, wanted_bent, rtol=1e-8, atol=1e-8, err_msg=where)


@pytest.mark.parametrize("entry", ENTRIES)
def test_slopes_in_t_alone_and_in_alpha_alone(entry, x64):
    """Where the row stands still the square-root form has a shorter rule."""
    for temperature in (0.7, 1.7):
        at = point(entry, ROWS["interior"], temperature, 1.5)
        together, _ = slopes("square roots", entry)(at)
        alone = functools.partial(weighted, "square roots", entry, at[:4])
        for i in (0, 1):
            assert float(jax.grad(alone, argnums=i)(*at[4:])) == pytest.approx(
                float(together[4 + i]), rel=1e-10
            )


def test_a_class_that_is_gone_does_not_move(x64):
    """Its log q is −inf, with tangent 0."""
    operator = _TsallisOfOneForm(1.5, **FORMS["square roots"])
    log_p = jnp.log(ROWS["interior"])[None]
    soften = lambda log_p, t: operator._log_kernel(log_p, t)[0]  # noqa: E731
    log_q, moved = jax.jvp(soften, (log_p, jnp.array([[0.3]])), (jnp.ones((1, 4)), jnp.ones((1, 1))))
    assert float(log_q[0, 3]) == -np.inf
    assert float(moved[0, 3]) == 0
    assert np.abs(moved[0, :3]).min() > 0.01


@pytest.mark.parametrize(("dtype", "few"), [("float32", 7), ("float64", 8)])
def test_every_row_below_one_is_found_in_few_steps(dtype, few, monkeypatch):
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(1000, 0.3), 600) + 1e-9
    p[::3] = 1 + 1e-6 * rng.normal(size=p[::3].shape)
    p[1::3] = 10.0 ** rng.uniform(-30, 0, p[1::3].shape)
    p = (p / p.sum(-1, keepdims=True)).astype(dtype)
    temperature = (10.0 ** -rng.uniform(0.001, 8, (600, 1))).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        unfound = {}
        for steps in (2, few):
            monkeypatch.setattr(_tsallis_half, "MAX_STEPS", steps)
            _, found = _tsallis_half.from_probabilities(p, temperature, jnp.asarray(0.5, dtype))
            unfound[steps] = int((~found).sum())
    assert unfound[few] == 0
    assert unfound[2] > 100  # they are counted


@pytest.mark.parametrize(
    ("alpha", "dtype", "atol"),
    [(2.5, "float32", 2e-6), (3.0, "float32", 2e-6), (4.0, "float32", 2 ** (-23 / 3))]  # eps^(1/(α − 1))
    + [(alpha, "float64", 1e-12) for alpha in (3.0, 4.0)],
)
def test_rows_next_to_a_threshold_sum_to_one(alpha, dtype, atol):
    """Of 20,000 rows some have a class where it leaves, and q^(α−1) is flat: one search misses by 5e-3."""
    rng = np.random.default_rng(0)
    p = rng.dirichlet(np.full(20, 0.5), 20_000).astype(dtype)
    p /= p.sum(-1, keepdims=True)
    temperatures = rng.uniform(0.05, 0.95, 20_000).astype(dtype)
    with jax.enable_x64(dtype == "float64"):
        q = np.asarray(TsallisSoftening(alpha)(p, temperatures), np.float64)
    np.testing.assert_allclose(q.sum(-1), 1, rtol=0, atol=atol)


@pytest.mark.parametrize("lost", [1, 2])
def test_a_root_is_found_where_both_searches_find_it(lost, monkeypatch):
    honest, calls = tsallis.increasing_root, []

    def loses_one(*args):
        calls.append(1)
        x, found = honest(*args)
        return x, found & (len(calls) != lost)

    monkeypatch.setattr(tsallis, "increasing_root", loses_one)
    row = (
        jnp.log(jnp.array([[1.0, 0.5, 0.25]])),
        jnp.array([[2.0]]),
        jnp.array([[-0.56]]),
        None,
        jnp.array(1.5),
    )
    _, found = tsallis._shifted_powers(*row)
    assert len(calls) == 2
    assert not found.any()


def test_at_one_log_q_is_log_p_where_its_root_underflows():
    log_p = jnp.array([[0.0, -300.0]], jnp.float32)
    for temperatures in ([[1.0]], [[1.0], [0.5]]):  # in closed form, and beside a row that is searched
        t = jnp.asarray(temperatures, jnp.float32)
        rows = jnp.broadcast_to(log_p, (len(t), 2))
        log_q, found = _tsallis_half.log_from_logs(rows, t, jnp.float32(0.5))
        np.testing.assert_array_equal(log_q[:1], log_p)
        assert found.all()


@pytest.mark.parametrize("entry", ENTRIES)
def test_a_cold_temperature_magnifies_no_rounding(entry):
    """Float32 at T = 1e-3, classes next to each other: rounding 1 − √(p/p_top) would move q by 1e-5."""
    p = np.random.default_rng(0).uniform(0.4995, 0.5, (500, 2)).astype(np.float32)
    x = p if entry == "probabilities" else np.log(p.astype(np.float64)).astype(np.float32)
    exact = x.astype(np.float64) if entry == "probabilities" else np.exp(x.astype(np.float64))
    # Of two classes w = √q is at the angle of √p, lifted by the same: solved in float64 by its one unknown.
    operator = _TsallisOfOneForm(1.5, **FORMS["square roots"])
    found, _ = getattr(operator, ENTRIES[entry])(jnp.asarray(x), jnp.full((500, 1), 1e-3, jnp.float32))
    root = np.sqrt(exact / exact.sum(-1, keepdims=True))
    t = np.float64(np.float32(1e-3))
    gap = (root[:, 0] - root[:, 1]) / t  # w_0 − w_1, and w_0² + w_1² = 1
    w_1 = (-gap + np.sqrt(np.maximum(2 - gap**2, 0))) / 2
    q_1 = np.where(gap >= 1, 0, np.where(gap <= -1, 1, w_1**2))
    q = np.exp(found) if entry == "log" else found
    np.testing.assert_allclose(q[:, 1], q_1, rtol=0, atol=2e-6)
    assert ((q_1 > 0.01) & (q_1 < 0.99)).sum() > 300
