"""Plans: what they contain, and what they refuse before anything runs."""

import dataclasses
import json
import re

import jax.numpy as jnp
import numpy as np
import pytest

from sparsekd_jax import distill, operators, sparsity


def test_the_default_plan():
    plan = distill.stages()
    np.testing.assert_allclose(
        [stage.sparsity for stage in plan.stages], [0.95 * (1 - (1 - k / 5) ** 3) for k in range(1, 6)]
    )
    assert {stage.temperature for stage in plan.stages} == {4.0}
    assert {stage.scale for stage in plan.stages} == {16.0}
    assert plan.total_steps == 2500
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.score = "random"


@pytest.mark.parametrize(("total", "count"), [(10, 3), (7, 7), (2500, 5), (11, 4)])
def test_steps_are_shared_out_to_the_last_one(total, count):
    steps = [stage.steps for stage in distill.stages(num_stages=count, total_steps=total).stages]
    assert sum(steps) == total
    assert max(steps) - min(steps) <= 1


def test_a_plan_prints_and_serialises():
    plan = distill.stages(operator="mixture", temperature=[4.0, 2.0], num_stages=2, total_steps=10)
    assert "mixture" in str(plan)
    assert len(str(plan).splitlines()) == 4
    described = json.loads(json.dumps(plan.describe()))
    assert described["operator"] == "mixture"
    assert [stage["temperature"] for stage in described["stages"]] == [4.0, 2.0]


@pytest.mark.parametrize("operator", ["power", "mixture", "tsallis(1.5)", "euclidean-entropy-projection"])
def test_json_and_back(operator):
    plan = distill.stages(
        operator=operators.parse(operator),
        temperature=[4.0, 2.5, 1.1],
        num_stages=3,
        total_steps=100,
        alpha=0.1,
    )
    again = distill.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.describe() == plan.describe()
    assert again.operator_name == operator
    assert plan != distill.Plan.from_json(plan.to_json().replace(operator, "argmax"))


@pytest.mark.parametrize(
    "operator",
    [
        operators.lawless.LabelSmoothing(0.3),
        operators.lawless.TopKRenormalized(5),
        operators.lawless.ClampedPower(9.0),
        operators.TsallisSoftening(1.23456789),
    ],
    ids=lambda op: op.name,
)
def test_json_keeps_every_digit_of_an_operator(operator):
    plan = distill.stages(operator=operator, num_stages=1, total_steps=1, scale=1.0)
    again = distill.Plan.from_json(plan.to_json()).operator
    assert again == operator
    assert dataclasses.astuple(again) == dataclasses.astuple(operator)


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda plan: plan.pop("score"), "score is missing in the plan"),
        (lambda plan: plan["stages"][0].pop("alpha"), "alpha is missing in stage 1"),
        (lambda plan: plan["stages"][0].update(alpha="x"), r"\(stage 1\)"),
        (lambda plan: plan["stages"][1].update(decay="steep"), r"decay 'steep' is unknown.*\(stage 2\)"),
        (
            lambda plan: plan.update(teacher="nobody"),
            "teacher 'nobody' is unknown; known: original, previous",
        ),
        (lambda plan: plan.update(colour=1), "colour is unknown in the plan; Known: operator, stages"),
        (
            lambda plan: plan["stages"][1].update(temprature=plan["stages"][1].pop("temperature")),
            "temprature is unknown in stage 2; did you mean 'temperature'\\? Known: sparsity, temperature",
        ),
        (lambda plan: plan["stages"][1].pop("steps"), "steps is missing in stage 2"),
        (lambda plan: plan["stages"][1].update(steps=0), r"steps must be at least 1, got 0 .*\(stage 2\)"),
        (lambda plan: plan["stages"][1].update(sparsity=0.1), r"sparsity of stage 2 is 0\.1 after 0\."),
        (lambda plan: plan["stages"][0].update(temperature=-1), r"temperature must be .*got -1 \(stage 1\)"),
        (lambda plan: plan.update(stages=[]), "stages is empty"),
        (lambda plan: plan.update(operator="powr"), "did you mean 'power'"),
        (lambda plan: plan["stages"][0].update(alpha=2), r"alpha must lie in \[0, 1\], got 2"),
    ],
)
def test_an_edited_plan_is_validated_as_any_other(edit, message):
    plan = json.loads(distill.stages(num_stages=2, total_steps=10).to_json())
    edit(plan)
    with pytest.raises(ValueError, match=message):
        distill.Plan.from_json(json.dumps(plan))


@pytest.mark.parametrize(
    "choice",
    [
        {"pattern": sparsity.n_m(2, 4, axis=-1), "sparsity": 0.5},
        {"pattern": sparsity.block((4, 2))},
        {"pattern": sparsity.channel(0)},
        {"pattern": sparsity.channel(np.int64(0))},
        {"pattern": sparsity.block((np.int64(4), np.int64(2)))},
        {"divergence": distill.JensenShannon(0.25)},
        {"divergence": distill.JensenShannon(np.float32(0.25))},
        {"divergence": distill.JensenShannon(jnp.asarray(0.25))},
    ],
)
def test_json_says_patterns_and_divergences_with_their_numbers(choice):
    plan = distill.stages(num_stages=1, total_steps=1, **choice)
    again = distill.Plan.from_json(plan.to_json())
    (field,) = choice.keys() - {"sparsity"}
    assert getattr(again, field) == choice[field]
    assert again == plan
    assert again.describe() == plan.describe()


@pytest.mark.parametrize(
    ("said", "words"),
    [
        ({"n_n": {"n": 2, "m": 4}}, "give a name, or one of n_m, block, channel"),
        ({"n_m": {"n": 2}}, "pattern n_m: .*'m'"),
        ({"n_m": {"n": 5, "m": 4}}, "1 ≤ n ≤ m"),
        ({"n_m": [2, 4]}, "with its arguments"),
        ({"block": {"shape": [4, 4]}, "channel": {}}, "give a name, or one of"),
        ({}, "give a name, or one of"),
    ],
)
def test_a_pattern_in_json_that_is_none_is_refused(said, words):
    plan = json.loads(distill.stages(num_stages=1, total_steps=1).to_json())
    with pytest.raises(ValueError, match=words):
        distill.Plan.from_json(json.dumps(plan | {"pattern": said}))


def every_second(scores, rate):
    raise AssertionError("it is only named")


def test_what_json_cannot_say_is_refused():
    def halfway(p, temperature):
        return p / temperature + (1 - 1 / temperature) / p.shape[-1]

    with pytest.raises(ValueError, match="operator halfway cannot be written to JSON"):
        distill.stages(operator=halfway, scale=1.0).to_json()
    prior = operators.lawless.PriorDirected(jnp.array([0.1, 0.9]))
    with pytest.raises(
        ValueError, match=r"operator prior-directed\(float32\[2\]\) cannot be written to JSON"
    ):
        distill.stages(operator=prior, scale=1.0).to_json()
    with pytest.raises(ValueError, match=r"pattern tests\..*every_second cannot be written"):
        distill.stages(pattern=every_second).to_json()
    with pytest.raises(ValueError, match="not JSON"):
        distill.Plan.from_json("{")


def test_scalars_of_numpy_and_jax_become_numbers():
    plan = distill.stages(
        temperature=np.float32(4),
        alpha=jnp.array(0.5),
        sparsity=np.float64(0.75),
        scale=jnp.array(2.0),
        patience=np.int64(2),
        recover_to=np.float32(0.5),
        soften_student=np.bool_(True),
        num_stages=2,
        steps_per_stage=np.int64(5),
    )
    fields = json.loads(plan.to_json())
    assert fields["soften_student"] is True
    assert fields["stages"][-1] == {
        "sparsity": 0.75,
        "temperature": 4.0,
        "steps": 5,
        "scale": 2.0,
        "alpha": 0.5,
        "learning_rate": 1.0,
        "decay": "constant",
        "recover_to": 0.5,
        "patience": 2,
    }
    assert {type(value) for value in dataclasses.astuple(plan.stages[0])} == {float, int, str}
    assert distill.Plan.from_json(plan.to_json()).stages == plan.stages


def test_the_two_budgets():
    shared = [distill.stages(num_stages=n, total_steps=120).total_steps for n in (1, 2, 5)]
    each = [distill.stages(num_stages=n, steps_per_stage=120).total_steps for n in (1, 2, 5)]
    assert shared == [120, 120, 120]
    assert each == [120, 240, 600]
    with pytest.raises(ValueError, match="two budgets"):
        distill.stages(total_steps=10, steps_per_stage=10)


def test_operators_come_by_name_as_objects_and_as_functions():
    assert distill.stages(operator=operators.get("power")).operator_name == "power"

    def halfway(p, temperature):
        return p / temperature + (1 - 1 / temperature) / p.shape[-1]

    assert distill.stages(operator=halfway, scale=1.0).operator_name == "halfway"
    with pytest.raises(ValueError, match="gradient_scale is not known for operator halfway"):
        distill.stages(operator=halfway)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"sparsity": 95}, r"did you mean 0\.95"),
        ({"sparsity": 1.0}, "sparsity"),
        ({"num_stages": 0}, "num_stages"),
        ({"temperature": 0.0}, "temperature must be a positive number"),
        ({"temperature": float("inf")}, "temperature"),
        ({"temperature": [1.0, 2.0]}, "num_stages = 5"),
        ({"temperature": 0.5, "operator": "entropy-projection"}, "outside the range"),
        ({"total_steps": 4}, "total_steps"),
        ({"alpha": 1.5}, "alpha"),
        ({"alpha": [0.1, 0.2]}, "alpha lists 2 values for num_stages = 5"),
        ({"learning_rate": 0.0}, "learning_rate must be a positive number"),
        ({"decay": "step"}, "decay 'step' is unknown; known: constant, linear, cosine"),
        ({"recover_to": 95}, r"recover_to is an accuracy in \(0, 1\], got 95"),
        ({"patience": 0}, "patience must be at least 1, got 0"),
        ({"teacher": "me"}, "teacher 'me' is unknown"),
        ({"scale": -1.0}, "scale"),
        ({"score": "size"}, "score"),
        ({"pattern": "row"}, "pattern"),
        ({"schedule": "cubik"}, "did you mean 'cubic'"),
        ({"operator": 3}, "operator"),
    ],
)
def test_bad_plans_are_refused_by_name(change, message):
    with pytest.raises((TypeError, ValueError), match=message):
        distill.stages(**change)


def test_a_stage_has_its_own_numbers():
    plan = distill.stages(
        num_stages=3,
        total_steps=30,
        temperature=distill.annealed(8.0, 2.0, 3),
        alpha=distill.annealed(0.0, 0.5, 3, geometric=False),
        learning_rate=[1.0, 0.5, 0.25],
        decay=["constant", "linear", "cosine"],
        recover_to=[None, 0.9, None],
        patience=[None, 3, None],
        teacher="previous",
    )
    np.testing.assert_allclose([s.temperature for s in plan.stages], [8, 4, 2])
    np.testing.assert_allclose([s.alpha for s in plan.stages], [0, 0.25, 0.5])
    np.testing.assert_allclose([s.scale for s in plan.stages], [64, 16, 4])
    np.testing.assert_allclose(plan.stages[0].rates(), np.ones(10))
    np.testing.assert_allclose(plan.stages[1].rates(), 0.5 * (1 - np.arange(10) / 10))
    np.testing.assert_allclose(
        plan.stages[2].rates(), 0.25 * np.cos(np.pi * np.arange(10) / 20) ** 2, atol=1e-15
    )
    assert [s.may_end_early for s in plan.stages] == [False, True, False]
    again = distill.Plan.from_json(plan.to_json())
    assert again == plan
    assert again.describe() == plan.describe()
    first, heads, *rows = str(plan).splitlines()
    assert "taught by the stage before" in first
    assert re.split(" {2,}", heads)[-4:] == ["learning rate", "decay", "recover to", "patience"]
    assert [row.split()[-2:] for row in rows] == [["–", "–"], ["0.9", "3"], ["–", "–"]]
    assert len({len(row) for row in (heads, *rows)}) == 1


def test_fields_with_a_default_may_be_left_out():
    plan = distill.stages(num_stages=1, total_steps=10)
    fields = json.loads(plan.to_json())
    for name in ("learning_rate", "decay", "recover_to", "patience"):
        del fields["stages"][0][name]
    del fields["teacher"]
    assert distill.Plan.from_json(json.dumps(fields)).describe() == plan.describe()


def test_annealing():
    assert distill.annealed(8.0, 2.0, 1) == (2.0,)
    with pytest.raises(ValueError, match="geometric=False"):
        distill.annealed(0.5, 0.0, 3)
    with pytest.raises(ValueError, match="num_stages"):
        distill.annealed(2.0, 1.0, 0)


@pytest.mark.parametrize(("start", "end"), [(1.9, 1.0), (3.7, 1.0), (8.0, 0.95), (0.7, 0.1)])
@pytest.mark.parametrize("geometric", [True, False])
def test_annealing_ends_at_the_end_itself(start, end, geometric):
    """1.9·(1/1.9) is 0.9999999999999999, a temperature that an entropy projection does not take."""
    values = distill.annealed(start, end, 3, geometric=geometric)
    assert (values[0], values[-1]) == (start, end)
    if end == 1.0:
        plan = distill.stages(operator="entropy-projection", temperature=values, num_stages=3)
        assert plan.stages[-1].temperature == 1.0


@pytest.mark.parametrize(
    ("losses", "patience", "ends"),
    [
        ([3.0, 2.0, 1.0], 1, False),
        ([3.0, 2.0, 2.0], 1, True),  # the same is not lower
        ([3.0, 1.0, 2.0, 1.5], 3, False),
        ([3.0, 1.0, 2.0, 1.5, 1.2], 3, True),
        ([1.0], 1, False),
    ],
)
def test_patience_counts_records_since_the_lowest(losses, patience, ends):
    stage = distill.Stage(0.5, 2.0, 100, 4.0, 0.1, patience=patience)
    assert (stage.end([{"validation_nll": x} for x in losses]) is not None) == ends


def test_recovery_is_a_threshold():
    stage = distill.Stage(0.5, 2.0, 100, 4.0, 0.1, recover_to=0.9)
    assert stage.end([{"validation_accuracy": 0.95}, {"validation_accuracy": 0.89}]) is None
    assert stage.end([{"validation_accuracy": 0.9}]) == "recovered"
