"""Mistakes with plans and their stages."""

import pathlib

import numpy as np

from sparsekd_jax import distill, sparsity
from tests.mistakes.things import plan_of, power

PLANS = [
    (
        "one stage alone",
        lambda: distill.Plan(
            power, plan_of(0.5).stages[0], soften_student=True, score="magnitude", pattern="global"
        ),
        TypeError,
        "a single Stage",
        r"\(stage,\)",
    ),
    (
        "half a step",
        lambda: distill.Stage(0.5, temperature=4.0, steps=2.5, scale=16.0, alpha=0.1),
        TypeError,
        r"got 2\.5",
        "steps must be a whole number",
    ),
    (
        "an array a stage",
        lambda: distill.stages(sparsity=0.5, num_stages=2, total_steps=4, temperature=np.array([4.0, 2.0])),
        TypeError,
        r"temperature is an array of shape \(2,\)",
        r"temperature\.tolist\(\)",
    ),
    (
        "a plan without its list",
        lambda: distill.Plan.from_json(plan_of(0.5).to_json().replace("[", "{").replace("]", "}")),
        ValueError,
        "plan is not JSON",
        "line",
    ),
    (
        "a plan that is a list",
        lambda: distill.Plan.from_json("[]"),
        ValueError,
        "the plan must be an object",
        "with the fields operator",
    ),
    (
        "an operator whose scale nothing derives",
        lambda: distill.stages(operator=lambda p, temperature: p),
        ValueError,
        "gradient_scale is not known for operator <lambda>",
        "give scale a number",
    ),
    (
        "the path of a plan",
        lambda: distill.Plan.from_json("out/plan.json"),
        ValueError,
        "plan is not JSON",
        r"Path\(text\)\.read_text\(\)",
    ),
    (
        "a plan's Path",
        lambda: distill.Plan.from_json(pathlib.Path("out/plan.json")),
        TypeError,
        "text is a PosixPath",
        r"\.read_text\(\) of it",
    ),
    ("percent", lambda: distill.stages(sparsity=95), ValueError, "got 95", r"did you mean 0\.95"),
    ("stages that fall", lambda: plan_of(0.9, 0.5), ValueError, r"stage 2 is 0\.5 after 0\.9", "not fall"),
    ("no stages", lambda: plan_of(), ValueError, "stages is empty", "needs at least one"),
    (
        "misspelt loss",
        lambda: distill.stages(divergence="revers-kl"),
        ValueError,
        "'revers-kl'",
        "did you mean 'reverse-kl'",
    ),
    (
        "T of each stage",
        lambda: distill.stages(temperature=[4.0, 2.0]),
        ValueError,
        "lists 2 values",
        "give one a stage",
    ),
    (
        "the class of a loss",
        lambda: distill.stages(divergence=distill.JensenShannon),
        TypeError,
        "divergence is the class JensenShannon",
        r"such as JensenShannon\(0\.5\)",
    ),
    (
        "T as text",
        lambda: distill.stages(temperature="4"),
        TypeError,
        "temperature is '4'",
        "give one number",
    ),
    ("no T", lambda: distill.stages(temperature=None), TypeError, "temperature is None", "one number"),
    (
        "alpha as text",
        lambda: distill.stages(alpha="0.1"),
        TypeError,
        r"alpha is '0\.1'.*\(stage 1\)",
        "give one number",
    ),
    ("no sparsity", lambda: distill.stages(sparsity=None), TypeError, "sparsity is None", "one number"),
    (
        "patience and a half",
        lambda: distill.stages(patience=1.5),
        TypeError,
        r"got 1\.5",
        "patience must be a whole number",
    ),
    (
        "stages and a half",
        lambda: distill.annealed(8.0, 2.0, 2.5),
        TypeError,
        r"got 2\.5",
        "num_stages must be a whole number",
    ),
    (
        "no as text",
        lambda: distill.stages(soften_student="no"),
        TypeError,
        "soften_student is 'no'",
        "True or False",
    ),
    (
        "a maker of patterns",
        lambda: distill.stages(pattern=sparsity.channel),
        TypeError,
        "pattern is the function channel",
        r"call it, as in sparsity\.channel\(\)",
    ),
    ("no pattern", lambda: distill.stages(pattern=None), TypeError, "pattern is None", "give a name"),
    ("a dict of patterns", lambda: distill.stages(pattern={}), TypeError, r"pattern is \{\}", "give a name"),
    (
        "scores in a list",
        lambda: distill.stages(score=["magnitude"]),
        ValueError,
        r"score \['magnitude'\] is unknown",
        "known: magnitude",
    ),
    (
        "a plan that is read already",
        lambda: distill.Plan.from_json(plan_of(0.5).describe()),
        TypeError,
        "text is a dict",
        r"json\.dumps",
    ),
    (
        "dicts for stages",
        lambda: distill.Plan(power, ({},), soften_student=True, score="magnitude", pattern="global"),
        TypeError,
        r"stages\[0\] is a dict",
        r"distill\.Stage\(",
    ),
    (
        "2:4 at 95 %",
        lambda: distill.stages(pattern=sparsity.n_m(2, 4)),
        ValueError,
        r"sparsity ends at 0\.95",
        r"pass sparsity=0\.5",
    ),
    (
        "accuracy in percent",
        lambda: distill.stages(recover_to=98),
        ValueError,
        "got 98",
        r"did you mean 0\.98",
    ),
]
