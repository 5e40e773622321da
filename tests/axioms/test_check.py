"""The checker as a tool: what it accepts, what it says, and what it leaves untouched."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import operators
from sparsekd_jax.axioms import (
    Budget,
    Witness,
    cells,
    check,
    check_table,
    markdown_table,
    page,
)
from sparsekd_jax.operators._softening import soften
from tests.axioms.twins import TWINS, WARM

QUICK = Budget(sweep=400, limits=50, search=5, shrink=60)


def softmax_like(p, temperature):
    w = p ** (1 / temperature)
    return w / w.sum()


def numpy_power(p, temperature):
    w = np.asarray(p) ** (1 / temperature)
    return w / w.sum()


def power_with_an_if(p, temperature):
    if temperature == 1:
        return p
    w = jnp.where(p > 0, p, 0) ** (1 / temperature)
    return w / jnp.sum(w)


def falls_back_in_a_band(p, temperature):
    t = jnp.where((temperature > 6.0) & (temperature < 6.2), temperature - 0.5, temperature)
    return softmax_like(p, t)


@pytest.mark.parametrize("function", [softmax_like, numpy_power, power_with_an_if])
def test_a_plain_function_is_held_to_the_axioms(function):
    report = check(function, num_classes=(2, 5), budget=QUICK)
    assert report.ok, report.explain()
    assert not report.declares_claims
    claimed = {result.law.id for result in report if result.claim is not None}
    assert claimed == {"closure", "equivariance", "A1", "A2", "A3", "A4", "A5h"}


def test_a_narrow_band_of_a_plain_function_is_found():
    report = check(falls_back_in_a_band, laws=("A1", "A3"), num_classes=(3,), temperature_range=(1, 20))
    assert report["A1"].ok
    witness = report["A3"].witness
    assert not report.ok
    assert 5.5 < witness.high < 6.3
    assert witness.left > witness.right


def test_claims_of_a_plain_function_follow_its_range():
    report = check(softmax_like, temperature_range=(1.0, 20.0), num_classes=(3,), budget=QUICK)
    assert report["A5h"].verdict == report["A5c"].verdict == "not applicable"
    report = check(softmax_like, temperature_range=(0.0, np.inf), num_classes=(3,), budget=QUICK)
    assert report["A5c"].claim is not None


def test_nan_at_zeros_breaks_closure_of_a_plain_function():
    def by_logarithm(p, temperature):
        return jax.nn.softmax(jnp.log(p) * p / p / temperature)

    report = check(by_logarithm, laws=("closure", "A3"), num_classes=(3,), budget=QUICK)
    assert report["closure"].verdict == "holds on the interior"
    assert not report["closure"].ok  # claimed on the whole simplex
    assert report["A3"].ok  # claimed on the interior only


def test_an_over_cautious_claim_shows():
    class Cautious(operators.PowerTransform):
        @property
        def claims(self):
            return operators.Claims(WARM, {"A3": operators.Claim("interior", WARM)})

    result = check(Cautious(), laws=("A3",), num_classes=(3,), budget=QUICK)["A3"]
    assert result.ok
    assert result.verdict == "holds"
    assert result.standing == "interior (or wider)"


def test_the_process_keeps_its_own_precision():
    assert not jax.config.jax_enable_x64
    check(softmax_like, laws=("A1",), num_classes=(2,), budget=QUICK)
    assert not jax.config.jax_enable_x64
    assert jnp.ones(2).dtype == jnp.float32


def test_single_precision_answers_are_forgiven_their_rounding():
    def in_float32(p, temperature):
        w = p.astype(jnp.float32) ** (1 / temperature).astype(jnp.float32)
        return w / w.sum()

    report = check(in_float32, laws=("closure", "A1", "A3", "A4"), num_classes=(3,), budget=QUICK)
    assert report.ok, report.explain()
    assert {law["tolerance"] for law in report.to_dict()["laws"]} == {2e-5}


def single_precision_mixture(p, temperature):
    p, t = p.astype(jnp.float32), temperature.astype(jnp.float32)
    return p / t + (1 - 1 / t) / p.shape[-1]


def test_rounding_to_single_precision_is_no_violation():
    """Next to each other two rows are further apart after rounding, and no slope is seen at h = 1e-11."""
    laws = ("A1s", "L1", "L2", "gradients")
    report = check(single_precision_mixture, laws=laws, num_classes=(2, 8))
    verdicts = [result.verdict for result in report]
    assert verdicts == ["holds", "holds", "holds", "undecided"], str(report)


def cast_inside(p, temperature):
    q = single_precision_mixture(jnp.asarray(p), jnp.asarray(temperature))
    return (q / q.sum()).astype(p.dtype)


def in_numpy(p, temperature):
    return np.asarray(cast_inside(p, temperature), np.float64)


def logits_cast(p, temperature):
    """A float64 temperature makes float64 of them again, with the digits that they had."""
    return jax.nn.softmax(jnp.log(p.astype(jnp.float32)) / temperature)


def weights_cast(p, temperature):
    weights = p.astype(np.float32) ** np.float32(1 / temperature)
    return weights / weights.sum(dtype=np.float64)


@pytest.mark.parametrize("softener", [cast_inside, in_numpy, logits_cast, weights_cast])
@pytest.mark.parametrize("seed", range(3))
def test_a_function_that_casts_inside_is_forgiven_the_same(softener, seed):
    laws = ("closure", "A1", "A3", "A4")
    if softener in (cast_inside, in_numpy):  # a mixture: the others are powers
        laws += ("L1", "L2")
    report = check(softener, laws=laws, num_classes=(2, 5), budget=QUICK, seed=seed)
    assert report.ok, report.explain()
    assert {law["tolerance"] for law in report.to_dict()["laws"]} == {2e-5}


def test_a_quantiser_is_not_taken_for_single_precision():
    """Its answers are numbers of float32 as well."""

    def quantised(p, temperature):
        return jnp.round(softmax_like(p, temperature) * 2**18) / 2**18

    report = check(quantised, laws=("closure", "A4"), num_classes=(3,), budget=QUICK)
    assert [result.verdict for result in report] == ["fails", "fails"]


@pytest.mark.parametrize("digits", [2, 4, 5, 6])
def test_a_function_that_rounds_what_it_is_given_is_not_taken_for_single_precision(digits):
    """It answers neighbours alike, as a cast does, but those that float32 tells apart as well."""

    def quantised(p, temperature):
        return softmax_like(jnp.round(p, digits), temperature)

    for seed in range(3):
        report = check(quantised, laws=("A4",), num_classes=(2, 3), budget=QUICK, seed=seed)
        assert {law["tolerance"] for law in report.to_dict()["laws"]} == {1e-9}


def test_a_tie_in_single_precision_breaks_the_strict_law():
    def evened(p, temperature):
        q = single_precision_mixture(p, temperature)
        _, *middle, _ = jnp.argsort(p)
        return q.at[jnp.stack(middle)].set(q[jnp.stack(middle)].mean())

    assert check(evened, laws=("A1s",), num_classes=(5,), budget=QUICK)["A1s"].verdict == "fails"


# -- functions as their users write them ---------------------------------------------------------------------


def test_a_function_called_row_by_row_is_judged_in_float64():
    def too_much(p, temperature):
        w = jnp.asarray(p) ** (1 / temperature)
        return jnp.asarray(p) if temperature == 1 else w / w.sum() * (1 + 1e-6)

    assert check(too_much, laws=("closure",), num_classes=(3,), budget=QUICK)["closure"].verdict == "fails"


def test_a_function_that_writes_into_its_input_is_judged_by_what_it_returns():
    def in_place(p, temperature):
        p **= 1 / temperature
        p /= p.sum()
        return np.asarray(p)

    report = check(in_place, laws=("equivariance", "A2", "A3", "A4"), num_classes=(3,), budget=QUICK)
    assert report.ok, report.explain()


def into_entries(p, temperature):
    p[p < 1e-300] = 0
    p[:] = p ** (1 / temperature)
    return p / p.sum()


def of_the_support(p, temperature):
    w = np.zeros(len(p))
    w[p > 0] = np.exp(np.log(p[p > 0]) / temperature)
    return w / w.sum()


@pytest.mark.parametrize("function", [into_entries, of_the_support])
def test_numpy_code_that_says_more_of_a_traced_row_than_jax_knows_is_called_row_by_row(function):
    """What jax says of p[0] = 0 is a plain TypeError, and of p[p > 0] an IndexError."""
    assert check(function, laws=("A1", "A3"), num_classes=(3,), budget=QUICK).ok
    row = np.array([[0.7, 0.2, 0.1]])
    np.testing.assert_allclose(soften(function, row, 2.0), soften(numpy_power, row, 2.0), rtol=1e-12)


def test_the_mistake_of_a_traced_function_is_shown_as_it_is():
    with pytest.raises(AttributeError, match="Tracer has no attribute entropie"):
        check(lambda p, temperature: p.at[0].add(p.entropie), num_classes=(3,), budget=QUICK)


@pytest.mark.parametrize("xp", [jnp, np])
def test_a_function_of_batches_is_told_how_it_was_called(xp):
    def batched(p, temperature):
        w = p ** (1 / temperature[:, None])
        return w / xp.sum(w, axis=1, keepdims=True)

    with pytest.raises((IndexError, TypeError)) as raised:
        check(batched, num_classes=(3,), budget=QUICK)
    assert any("one distribution p [K] and a scalar temperature" in note for note in raised.value.__notes__)
    assert check(lambda p, t: batched(p[None], xp.atleast_1d(t))[0], num_classes=(3,), budget=QUICK).ok


def test_a_function_of_a_narrow_range_is_never_called_outside():
    def cold(p, temperature):
        if not 0.1 <= temperature <= 1:
            raise AssertionError(f"called at {temperature}")
        return numpy_power(p, temperature)

    assert check(cold, num_classes=(3,), temperature_range=(0.1, 1.0), budget=QUICK).ok


def noisy(p, temperature, rng=np.random.default_rng(0)):  # noqa: B008
    w = numpy_power(p, temperature) * (1 + 1e-3 * rng.random(len(p)))
    return w / w.sum()


def remembering(p, temperature, last={}):  # noqa: B006
    if not np.array_equal(last.get("p"), p):
        last.update(p=np.array(p), q=numpy_power(p, temperature))
    return last["q"]


def rarely_noisy(p, temperature, calls=[0]):  # noqa: B006
    calls[0] += 1
    return numpy_power(p, 2 * temperature if calls[0] > 100 and p[0] > 0.4 and calls[0] % 3 else temperature)


def noisy_if_not_compiled(p, temperature, rng=np.random.default_rng(0)):  # noqa: B008
    w = p * (1 + 1e-3 * rng.random(p.shape))
    return w / w.sum() / temperature + (1 - 1 / temperature) / len(p)


def holding_what_is_traced(p, temperature, last={"t": 1.0}):  # noqa: B006
    last["t"] = (last["t"] + temperature) / 2
    return numpy_power(p, last["t"])


@pytest.mark.parametrize(
    "function", [noisy, remembering, rarely_noisy, noisy_if_not_compiled, holding_what_is_traced]
)
def test_a_function_that_is_none_is_refused(function):
    with pytest.raises(ValueError, match=f"operator {function.__name__} answers the same .* in two ways"):
        check(function, laws=("A4", "A3"), num_classes=(3,), budget=QUICK)


def test_complex_answers_are_refused():
    with pytest.raises(TypeError, match="returned complex128; a distribution is real"):
        check(lambda p, temperature: jax.lax.complex(p, 0 * p), num_classes=(3,), budget=QUICK)


@pytest.mark.parametrize("value", [np.inf, -np.inf, np.nan])
def test_answers_that_are_not_finite_break_claims(value):
    def overflowing(p, temperature):
        return jnp.where(temperature > 9000, value, softmax_like(p, temperature))

    report = check(overflowing, laws=("A1", "A3", "A5h"), num_classes=(3,), budget=QUICK)
    assert [result.law.id for result in report.failures] == ["A1", "A3", "A5h"]
    witness = report["A3"].witness
    assert not np.isfinite(witness.replay(overflowing))


# -- the report ----------------------------------------------------------------------------------------------


def test_a_report_is_a_function_of_its_arguments():
    first = check(TWINS["A3"], laws=("A3",), num_classes=(3,), budget=QUICK)
    again = check(TWINS["A3"], laws=("A3",), num_classes=(3,), budget=QUICK)
    assert first.to_json() == again.to_json()
    assert repr(first) == f"Report({first.summary()})"
    smoothing = check(operators.lawless.LabelSmoothing(), laws=("A3s", "A4"), num_classes=(2,))
    assert "claims none of these laws" in smoothing.summary()


def test_a_table_is_the_reports_of_its_rows():
    rows, seen = operators.table_rows()[1:3], []
    reports = check_table(rows, progress=seen.append, laws=("A4", "A5c"), num_classes=(2,), budget=QUICK)
    assert seen == [report.operator for report in reports] == ["mixture", "mixture, T < 1"]
    assert [report.temperatures for report in reports] == [row.temperatures for row in rows]
    assert reports[1]["A5c"].cell == "H"


def test_verdicts_without_the_known_witnesses():
    operator = operators.TsallisSoftening(1.5)
    alone = check(operator, laws=("affine",), num_classes=(2,), budget=QUICK, corpus=False)
    assert alone["affine"].verdict == "fails"
    with_corpus = check(operator, laws=("affine",), num_classes=(2,), budget=QUICK)
    assert with_corpus["affine"].cases > alone["affine"].cases


def test_known_witnesses_are_among_the_cases_examined_at_length():
    """Square roots at one known witness alone: their slopes are infinite, and 400 other cases say nothing."""

    def rooted(p, temperature):
        near = (jnp.abs(p[0] - 0.5) < 1e-4) & (jnp.abs(p[1] - 0.3) < 1e-4)
        off = jnp.where(p[0] == 0.5, 1.0, jnp.abs(p[0] - 0.5))
        moved = jnp.where(near & (p[0] != 0.5), 0.01 * jnp.sqrt(off), 0.0)
        return p + moved * jnp.array([1.0, -1.0, 0.0], p.dtype)

    options = {"num_classes": (3,), "temperature_range": (0.2, 20.0)}
    options["budget"] = Budget(sweep=400, search=0, shrink=1)
    assert check(rooted, laws=("gradients",), corpus=False, **options)["gradients"].verdict == "holds"
    assert check(rooted, laws=("gradients",), **options)["gradients"].verdict == "fails"


def test_only_examined_cases_are_counted():
    budget = Budget(sweep=2000, limits=50, search=0, shrink=1)
    laws = ("closure", "A2", "gradients")
    report = check(operators.PowerTransform(), laws=laws, num_classes=(3,), budget=budget, corpus=False)
    assert report["closure"].cases == 2000
    assert report["gradients"].cases == 256
    # 128 segments in p, 128 in T and 128 faces, some of them of one case.
    assert 128 <= report["A2"].cases <= 384


def test_report_forms():
    report = check(TWINS["A4"], laws=("A3", "A4"), num_classes=(2, 3), budget=QUICK)
    data = json.loads(report.to_json())
    assert not data["ok"]
    assert [law["law"] for law in data["laws"]] == ["A3", "A4"]
    witness = Witness.from_dict(data["laws"][1]["witness"])
    assert witness == report["A4"].witness
    assert witness.replay(TWINS["A4"]) == pytest.approx(witness.margin, rel=1e-9)
    assert cells([report]) == [{"operator": "never_identity", "A3": "H", "A4": "F"}]
    assert "|never_identity|H|F|" in markdown_table([report])
    text = str(report)
    assert "interior: BROKEN" in text
    assert str(witness) in text
    html = page([report])
    assert report.to_html() == html
    assert "<script src" not in html
    assert 'href="http' not in html
    assert "never_identity" in html
    with pytest.raises(KeyError, match=r"A1.*was not checked"):
        report["A1"]


def test_a_witness_is_replayed_at_the_temperatures_it_was_judged_at():
    """A law that steps onto a face does so at T ≤ 3 where it may, and this one jumps above 5 alone."""

    def leaps(p, t):
        q = p ** (1 / t)
        q = jnp.where(t > 5, jnp.where((p == 0).any(), jnp.maximum(q, 0.5 * q.max()), q), q)
        return q / q.sum()

    result = check(leaps, laws="A2", num_classes=(3,), temperature_range=(10.0, 100.0), budget=QUICK)["A2"]
    assert result.witness.replay(leaps) == pytest.approx(result.witness.margin)
    assert result.witness.margin < -0.1
    again = Witness.from_dict(json.loads(json.dumps(result.witness.to_dict())))
    assert again == result.witness
    assert (again.lowest, again.highest) == (10.0, 100.0)


def test_a_retypable_witness_is_exact():
    witness = check(TWINS["A4"], laws=("A4",), num_classes=(2,), budget=QUICK)["A4"].witness
    text = str(witness)
    weights, total = text.split("p = ")[1].split(":")[0].split("/")
    retyped = np.array(json.loads(weights)) / float(total)
    np.testing.assert_allclose(retyped, witness.p, rtol=0, atol=2e-16)


def test_a_class_next_to_zero_is_not_printed_as_zero():
    def frozen(p, temperature):
        return jnp.where(p.max() >= 1 - 2.0**-53, jnp.nan, softmax_like(p, temperature))

    result = check(frozen, laws=("closure",), num_classes=(2,))["closure"]
    assert result.verdict == "fails"  # p is inside the simplex
    assert min(result.witness.p) > 0
    assert "[1, 0]" not in str(result.witness)


def test_a_witness_shows_what_is_wrong():
    def negative(p, temperature):
        q = p / temperature + (1 - 1 / temperature) / p.shape[0]
        return q + (1 - 1 / temperature) * jnp.array([-0.8, 0.8], q.dtype)

    text = str(check(negative, laws=("closure",), num_classes=(2,), budget=QUICK)["closure"].witness)
    assert "min_i F_T(p)_i = -0." in text
    assert "Σ_i F_T(p)_i = 1 " in text


def test_a_small_violation_has_two_different_sides_in_print():
    def slightly_off(p, temperature):
        return p + 4e-10 * (1 - 1 / temperature) * jnp.array([1.0, -1.0], p.dtype)

    witness = check(slightly_off, laws=("A1",), num_classes=(2,), budget=QUICK)["A1"].witness
    left, right = (side.split(" = ")[1].split(" ")[0] for side in str(witness).split(": ")[1].split(", "))
    assert (float(left), float(right)) == (witness.left, witness.right)
    assert left != right


def test_the_witness_of_a_small_defect_is_not_its_smallest_case():
    """The defect is at most 3e-4, and 1e-8 or less next to the uniform distribution."""

    def warm_at_one(p, temperature):
        return softmax_like(p, jnp.where(temperature == 1, 1.001, temperature))

    result = check(warm_at_one, laws=("A4",), num_classes=(2,))["A4"]
    assert result.witness.margin < 0.05 * result.margin


def test_a_witness_next_to_a_tie_is_shown_only_where_nothing_else_breaks_the_law():
    """Standardised logits break A4 almost everywhere; [0.49999999975, 0.50000000025] is nothing to retype."""

    def standardised(p, temperature):
        z = jnp.log(p)
        return jax.nn.softmax((z - z.mean()) / (z.std() + 1e-7) / temperature)

    witness = check(standardised, laws=("A4",), num_classes=(2,))["A4"].witness
    assert max(witness.p) - min(witness.p) > 1e-3
    assert "]/" in str(witness)  # a ratio of whole numbers


def test_constant_operators_hold_entropy_as_an_equality():
    report = check(operators.get("label-smoothing"), laws=("A3", "A3s"), num_classes=(3,), budget=QUICK)
    assert report["A3"].cell == "="
    assert report["A3s"].cell == "F"


@pytest.mark.parametrize(
    ("arguments", "error", "words"),
    [
        ({"operator": 3}, TypeError, r"operator is 3; it is a function \(p, temperature\) -> q"),
        ({"laws": ("A9",)}, ValueError, "unknown law 'A9'; the laws are closure"),
        ({"num_classes": (1, 3)}, ValueError, "num_classes is .* each ≥ 2"),
        (
            {"operator": operators.EntropyProjection(), "temperature_range": (0.1, 0.5)},
            ValueError,
            "nothing in common",
        ),
        ({"operator": lambda p, temperature: p[:1]}, TypeError, r"returned shape \(1,\) for p of shape"),
    ],
)
def test_bad_input_is_named(arguments, error, words):
    arguments = {"operator": softmax_like, "num_classes": (3,), "budget": QUICK} | arguments
    with pytest.raises(error, match=words):
        check(arguments.pop("operator"), **arguments)
