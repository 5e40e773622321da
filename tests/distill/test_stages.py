"""Plans: what they contain, and what they refuse before anything runs."""

import dataclasses
import json

import numpy as np
import pytest

from sparsekd_jax import distill, operators


def test_the_default_plan():
    plan = distill.stages()
    np.testing.assert_allclose(
        [stage.sparsity for stage in plan.stages], [0.95 * (1 - (1 - k / 5) ** 3) for k in range(1, 6)]
    )
    assert {stage.temperature for stage in plan.stages} == {4.0}
    assert {stage.scale for stage in plan.stages} == {16.0}
    assert plan.total_steps == 2500
    with pytest.raises(dataclasses.FrozenInstanceError):
        plan.alpha = 0.5


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
    assert again.describe() == plan.describe()
    assert again.stages == plan.stages
    assert again.operator_name == operator


@pytest.mark.parametrize(
    ("edit", "message"),
    [
        (lambda plan: plan.pop("alpha"), "alpha is missing in the plan"),
        (lambda plan: plan.update(colour=1), "colour is unknown; known: operator, stages"),
        (lambda plan: plan["stages"][1].pop("steps"), "steps is missing in stage 2"),
        (lambda plan: plan["stages"][1].update(steps=0), "steps of stage 2 is 0"),
        (lambda plan: plan["stages"][1].update(sparsity=0.1), r"sparsity of stage 2 is 0\.1 after 0\."),
        (lambda plan: plan["stages"][0].update(temperature=-1), r"temperature must be .*got -1 \(stage 1\)"),
        (lambda plan: plan.update(stages=[]), "stages is empty"),
        (lambda plan: plan.update(operator="powr"), "did you mean 'power'"),
        (lambda plan: plan.update(alpha=2), r"alpha must lie in \[0, 1\], got 2"),
    ],
)
def test_an_edited_plan_is_validated_as_any_other(edit, message):
    plan = json.loads(distill.stages(num_stages=2, total_steps=10).to_json())
    edit(plan)
    with pytest.raises(ValueError, match=message):
        distill.Plan.from_json(json.dumps(plan))


def test_what_json_cannot_say_is_refused():
    def halfway(p, temperature):
        return p / temperature + (1 - 1 / temperature) / p.shape[-1]

    with pytest.raises(ValueError, match="operator halfway cannot be written to JSON"):
        distill.stages(operator=halfway, scale=1.0).to_json()
    with pytest.raises(ValueError, match="not JSON"):
        distill.Plan.from_json("{")


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
        ({"scale": -1.0}, "scale"),
        ({"score": "size"}, "score"),
        ({"pattern": "row"}, "pattern"),
        ({"schedule": "cubik"}, "did you mean 'cubic'"),
        ({"operator": 3}, "operator"),
    ],
)
def test_bad_plans_are_refused_by_name(change, message):
    with pytest.raises(ValueError, match=message):
        distill.stages(**change)
