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
