"""What all operators share: ranges of T, names, the pytree, and the path from a call to a kernel."""

import dataclasses
import functools
from typing import ClassVar

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from jax.experimental import checkify

from sparsekd_jax.operators import (
    Claim,
    Claims,
    ConvergenceError,
    EntropyProjection,
    PowerTransform,
    SofteningOperator,
    TemperatureRange,
    TsallisSoftening,
    base,
)

P = np.array([[0.5, 0.3, 0.2], [0.1, 0.2, 0.7]], np.float32)
INF = np.inf


# -- ranges of temperatures ------------------------------------------------------------------------------


@pytest.mark.parametrize(
    ("bounds", "text", "inside", "outside"),
    [
        (TemperatureRange(), "(0, ∞)", (1e-300, 1.0, 1e300), (0.0, -1.0, INF, np.nan)),
        (TemperatureRange(1.0), "[1, ∞)", (1.0, 2.0), (0.5, np.nextafter(1, 0), INF)),
        (TemperatureRange(0.0, 1.0), "(0, 1]", (0.5, 1.0), (0.0, np.nextafter(1, 2))),
        (TemperatureRange(0.5, 2.0), "[0.5, 2]", (0.5, 1.0, 2.0), (0.49, 2.01)),
        (TemperatureRange(0.5, 2.0, low_open=True), "(0.5, 2]", (0.51, 2.0), (0.5,)),
        (TemperatureRange(0.5, 2.0, high_open=True), "[0.5, 2)", (0.5, 1.99), (2.0,)),
    ],
)
def test_a_range_holds_what_its_text_says(bounds, text, inside, outside):
    assert str(bounds) == text
    assert all(t in bounds for t in inside)
    assert not any(t in bounds for t in outside)
    assert bounds.inside(np.array(inside + outside)).tolist() == [True] * len(inside) + [False] * len(outside)


@pytest.mark.parametrize(("low", "high"), [(2.0, 1.0), (1.0, 1.0), (-0.5, 1.0), (np.nan, 1.0), (1.0, np.nan)])
def test_a_range_without_length_is_refused(low, high):
    with pytest.raises(ValueError, match="needs 0 ≤ low < high"):
        TemperatureRange(low, high)


def test_a_range_of_a_pair_is_closed_where_finite():
    assert TemperatureRange.of((1, 20)) == TemperatureRange(1.0, 20.0)
    assert TemperatureRange.of([0, INF]) == TemperatureRange()
    assert TemperatureRange.of(TemperatureRange(2.0)) == TemperatureRange(2.0)
    for wrong in (2.0, "12", (1.0,), (1.0, 2.0, 3.0)):
        with pytest.raises(TypeError, match=r"give a pair \(low, high\)"):
            TemperatureRange.of(wrong)


def test_the_common_part_of_two_ranges_holds_what_both_hold():
    ranges = [
        TemperatureRange(low, high, low_open=low_open, high_open=high_open)
        for low, high in ((0.5, 2.0), (1.0, 2.0), (1.0, 3.0), (2.0, 3.0))
        for low_open in (False, True)
        for high_open in (False, True)
    ]
    points = np.array([0.4, 0.5, 0.7, 1.0, 1.5, 2.0, 2.5, 3.0, 4.0])
    for one in ranges:
        for other in ranges:
            common = one.intersect(other)
            both = one.inside(points) & other.inside(points)
            if common is None:  # at most one point
                assert both.sum() <= 1
            else:
                assert common.inside(points).tolist() == both.tolist()


def test_a_claim_is_made_for_several_laws_at_once():
    warm = TemperatureRange(1.0)
    assert base.claim("A1 A3", "interior", warm) == dict.fromkeys(("A1", "A3"), Claim("interior", warm))
    assert base.claim("A1") == {"A1": Claim("simplex", TemperatureRange(), "theorem")}
    assert Claims(warm, {}).domain == "simplex"
    for frozen in (Claim(), Claims(warm, {}), warm):
        with pytest.raises(dataclasses.FrozenInstanceError):
            frozen.status = "sampled"


# -- an operator of the user's own -------------------------------------------------------------------------


@dataclasses.dataclass(frozen=True, eq=False)
class Bent(SofteningOperator):
    """Power, of an exponent's own, in steps of a grid where there is one; no root above T = 50."""

    exponent: object = 1.0
    grid: int = dataclasses.field(default=0, metadata={"static": True})
    family: ClassVar[str] = "bent"

    @property
    def claims(self):
        return Claims(TemperatureRange(), {})

    def _log_kernel(self, centred, temperature):
        log_q = jax.nn.log_softmax(jnp.asarray(self.exponent, centred.dtype) * centred / temperature)
        return log_q, temperature <= 50


def test_it_is_a_pytree_of_what_is_not_static():
    op = Bent(2.0, 3)
    assert jax.tree.leaves(op) == [2.0]
    assert jax.tree.map(lambda leaf: leaf + 1, op) == Bent(3.0, 3)
    assert op.replace(grid=4) == Bent(2.0, 4)
    assert Bent(2.0, 3) != Bent(2.0, 4)
    assert Bent(2.0) != Bent(2.5)
    assert Bent(2) != Bent(jnp.float32(2))
    assert len({Bent(2.0, 3), Bent(2.0, 3), Bent(2.0, 4)}) == 2
    assert Bent() != 1.0
    ((path, _),) = jax.tree_util.tree_leaves_with_path(op)
    assert jax.tree_util.keystr(path) == ".exponent"


@pytest.mark.parametrize(
    ("operator", "name"),
    [
        (Bent(), "bent"),
        (Bent(1), "bent"),  # the default by its value
        (Bent(2.0), "bent(2)"),
        (Bent(jnp.float32(0.25)), "bent(0.25)"),
        (Bent(1.0, 3), "bent(3)"),
        (Bent(2.0, 3), "bent(2, 3)"),
        (Bent(jnp.ones(4)), "bent(float32[4])"),
        (Bent(np.sin), "bent(sin)"),
        (Bent("text"), "bent(str)"),
        (PowerTransform(), "power"),
    ],
)
def test_it_is_named_by_what_is_not_its_default(operator, name):
    assert operator.name == name


def test_a_traced_parameter_is_named_by_its_kind():
    names = []
    jax.jit(lambda op: names.append(op.name) or 0)(Bent(2.0))
    assert names == ["bent(float32[])"]


def test_a_subclass_without_claims_or_kernel_says_what_is_missing():
    class Empty(SofteningOperator):
        family = "empty"

    class Claiming(Empty):
        claims = Claims(TemperatureRange(), {})

    with pytest.raises(TypeError, match="Empty declares no claims; define the property `claims`"):
        Empty()(P, 2.0)
    with pytest.raises(TypeError, match="Claiming has no kernel; define `_log_kernel`"):
        Claiming()(P, 2.0)
    assert (Empty().name, jax.tree.leaves(Empty())) == ("empty", [])


def test_functions_and_operators_have_names_and_what_is_neither_is_refused():
    assert base.operator_name(Bent(2.0)) == "bent(2)"
    assert base.operator_name(np.sin) == "sin"
    assert base.operator_name(functools.partial(np.sin)) == "partial"
    for operator in (Bent(), np.sin):
        base.require_operator(operator)
    for wrong, words in (
        ("power", r"the text 'power'; pass operators\.parse\('power'\)"),
        (Bent, r"the class Bent; make an operator of it first, such as Bent\(\)"),
        (2.0, r"operator is 2\.0; it is a function"),
    ):
        with pytest.raises(TypeError, match=words):
            base.require_operator(wrong)


# -- temperatures ------------------------------------------------------------------------------------------


def test_temperatures_broadcast_to_the_batch():
    rows = np.stack([P, P[::-1]])  # [2, 2, 3]
    for t in (
        2.0,
        np.full((2, 2), 2.0),
        np.full(2, 2.0),
        np.full((2, 1), 2.0),
        np.float32(2),
        jnp.full((), 2.0),
    ):
        np.testing.assert_array_equal(Bent()(rows, t), Bent()(rows, 2.0))
    mixed = Bent()(rows, np.array([1.0, 4.0]))
    np.testing.assert_allclose(mixed[:, 0], Bent()(rows[:, 0], 1.0), rtol=1e-6)
    np.testing.assert_allclose(mixed[:, 1], Bent()(rows[:, 1], 4.0), rtol=1e-6)
    for wrong in (np.ones(3), np.ones((2, 2, 1)), np.ones((1, 2, 2))):
        with pytest.raises(ValueError, match=r"does not broadcast to the batch shape \(2, 2\) of p"):
            Bent()(rows, wrong)
    for wrong in (None, "2"):
        with pytest.raises(TypeError, match="give a number, or an array of one a row"):
            Bent()(rows, wrong)


@pytest.mark.parametrize(("dtype", "most"), [("float32", 2.0**100), ("float64", 2.0**1000)])
def test_the_dtype_carries_temperatures_up_to_its_powers(dtype, most, x64):
    p = P[0].astype(np.float64)
    p = (p / p.sum()).astype(dtype)
    for t in (most, 1 / most):
        assert np.isfinite(PowerTransform()(p, t)).all()
    with pytest.raises(ValueError, match="use the limit T → ∞"):
        PowerTransform()(p, most * 2)
    with pytest.raises(ValueError, match=r"take operators\.get\('argmax'\), the limit T → 0"):
        PowerTransform()(p, 0.5 / most)


@pytest.mark.parametrize(
    ("operator", "t", "ends"),
    [
        (PowerTransform(), -1.0, "takes T in (0, ∞), T = 1 changes nothing."),
        (EntropyProjection(), 0.5, "takes T in [1, ∞), T = 1 changes nothing."),
        (EntropyProjection(), 1e-200, "takes T in [1, ∞), T = 1 changes nothing."),
        (
            Bent(),
            np.array([1.0, np.nan]),
            "(index (1,)) is nan; bent takes T in (0, ∞), T = 1 changes nothing.",
        ),
    ],
)
def test_a_temperature_out_of_range_is_told_the_range_and_no_limit(operator, t, ends):
    with pytest.raises(ValueError, match="temperature") as raised:
        operator(P, t)
    assert str(raised.value).endswith(ends)


def test_the_first_temperature_out_of_range_is_named():
    for t, words in (
        (np.array([-3.0, -2.0]), r"temperature \(index \(0,\)\) is -3; "),
        (np.array([1.0, 1e-40]), r"temperature \(index \(1,\)\) is 1e-40; .* Below 7\.9e-31 take"),
        (
            np.array([1e40, 1e-40]),
            r"temperature \(index \(0,\)\) is 1e\+40; .* Above 1\.3e\+30 use the limit",
        ),
        (0.0, r"temperature is 0; .* Below 7\.9e-31 take operators\.get\('argmax'\), the limit T → 0\.$"),
    ):
        with pytest.raises(ValueError, match=words):
            PowerTransform()(P, t)


def test_a_range_that_ends_is_told_no_limit():
    class Cold(PowerTransform):
        claims = Claims(TemperatureRange(0.0, 1.0), {})

    with pytest.raises(ValueError, match=r"takes T in \(0, 1\], T = 1 changes nothing\.$"):
        Cold()(P, 2.0)


def test_a_range_without_one_does_not_speak_of_it():
    class Hot(PowerTransform):
        claims = Claims(TemperatureRange(2.0), {})

    with pytest.raises(ValueError, match=r"takes T in \[2, ∞\)\.$"):
        Hot()(P, 1.0)


# -- roots that are not found ------------------------------------------------------------------------------


def test_a_root_not_found_raises_and_names_its_row():
    t = np.array([[2.0, 2.0], [2.0, 60.0]])
    with pytest.raises(ConvergenceError, match=r"bent: no root found in row \[1, 1\] at T = 60; "):
        Bent()(np.stack([P, P]), t)
    with pytest.raises(ConvergenceError, match=r"in row \[0\] at T = 70; "):  # of two
        Bent()(P, np.array([70.0, 80.0]))
    with pytest.raises(ConvergenceError, match=r"in row \[\] at T = 51"):
        Bent().log(np.log(P[0]), 51.0)
    assert np.isfinite(Bent()(P, 50.0)).all()


def test_in_a_program_it_is_nan_in_its_row_alone_and_checkify_sees_it():
    t = np.array([2.0, 60.0], np.float32)
    q = jax.jit(lambda p, t: Bent()(p, t))(P, t)
    assert np.isnan(q).tolist() == [[False] * 3, [True] * 3]
    q = base.apply_unchecked("probabilities", Bent(), jnp.asarray(P), jnp.asarray(t))
    assert np.isnan(q).tolist() == [[False] * 3, [True] * 3]
    checked = checkify.checkify(jax.jit(lambda p, t: Bent()(p, t)), errors=checkify.user_checks)
    error, _ = checked(P, t)
    assert "softening: a root was not found" in error.get()
    error, _ = checked(P, np.full(2, 3.0, np.float32))
    assert error.get() is None


# -- entries and dtypes ------------------------------------------------------------------------------------


@pytest.mark.parametrize("dtype", [jnp.float32, jnp.bfloat16, jnp.float16, jnp.float64])
def test_every_entry_gives_the_dtype_that_it_was_given(dtype, x64):
    p = jnp.asarray(P, dtype)
    p = (p / p.sum(-1, keepdims=True)).astype(dtype)
    for q in (Bent(2.0)(p, 3.0), Bent(2.0).log(jnp.log(p), 3.0), Bent(2.0).from_logits(jnp.log(p), 3.0)):
        assert q.dtype == dtype
    exact = np.asarray(p, np.float64) ** (2 / 3)
    exact /= exact.sum(-1, keepdims=True)
    tolerance = {"float32": 2e-6, "bfloat16": 4e-3, "float16": 5e-4, "float64": 1e-12}[jnp.dtype(dtype).name]
    np.testing.assert_allclose(np.asarray(Bent(2.0)(p, 3.0), np.float64), exact, rtol=0, atol=tolerance)
    logits = np.asarray(Bent(2.0).from_logits(jnp.log(p) + 1, 3.0), np.float64)
    np.testing.assert_allclose(logits, exact, rtol=0, atol=8 * tolerance)
    logs = np.asarray(Bent(2.0).log(jnp.log(p), 3.0), np.float64)
    np.testing.assert_allclose(np.exp(logs), exact, rtol=0, atol=8 * tolerance)


def test_zeros_are_refused_by_class_where_the_interior_is_asked_for():
    at = np.array([[0.5, 0.5, 0.0], [0.5, 0.25, 0.25]], np.float32)
    op = EntropyProjection()
    with np.errstate(divide="ignore"):
        log_at = np.log(at)
    for call, x, argument in ((op, at, "p"), (op.log, log_at, "log_p"), (op.from_logits, log_at, "logits")):
        with pytest.raises(ValueError, match=rf"^{argument}, row 0: class 2 has probability 0"):
            call(x, 2.0)
    assert np.isfinite(op(at[1], 2.0)).all()
    PowerTransform()(at, 2.0)  # defined there


def test_a_kernel_that_sweeps_gives_what_it_gives_in_one_piece(monkeypatch):
    rows = np.random.default_rng(0).dirichlet(np.ones(3), 40).astype(np.float32)
    t = np.linspace(1.1, 4, 40, dtype=np.float32)
    whole = EntropyProjection()(rows, t)
    monkeypatch.setattr("sparsekd_jax.operators._blocks.BLOCK", 21)
    blocked = jax.jit(lambda p, t: EntropyProjection()(p, t))(rows, t)
    np.testing.assert_allclose(blocked, whole, rtol=1e-6)


def test_what_is_compiled_may_be_another_form_of_the_same_operator():
    op = TsallisSoftening(1.5)
    q = base.apply_unchecked("probabilities", op, jnp.asarray(P), jnp.full(2, 2.0))
    np.testing.assert_allclose(q, op(P, 2.0), rtol=1e-6)
    assert PowerTransform().to_compile(np.float32) == PowerTransform()
