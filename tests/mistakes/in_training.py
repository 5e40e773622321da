"""Mistakes with training, and with its folders."""

import jax.numpy as jnp
import numpy as np
import optax
from flax import nnx

from sparsekd_jax import distill, sparsity
from sparsekd_jax.targets import readers
from tests.mistakes.things import (
    ROWS,
    fit,
    mlp,
    plan_of,
    power,
    read,
    resumed_with_another_plan,
    run,
    toy,
)

ONE_HOT = np.eye(3, dtype=np.int32)[toy().train_labels]

DISTILL = [
    (
        "labels from 1",
        lambda: fit(arrays=toy(train_labels=toy().train_labels + 1)),
        ValueError,
        "holds 3",
        "count labels from 0",
    ),
    (
        "test labels too",
        lambda: fit(arrays=toy(test_labels=toy().test_labels + 1)),
        ValueError,
        "test_labels holds 3",
        "from 0",
    ),
    (
        "validation labels too",
        lambda: fit(
            arrays=toy(validation_inputs=toy().test_inputs, validation_labels=toy().test_labels + 1000)
        ),
        ValueError,
        "validation_labels holds 1002",
        "from 0",
    ),
    (
        "half a validation half",
        lambda: fit(arrays=toy(validation_inputs=toy().test_inputs)),
        ValueError,
        "validation_inputs and no validation_labels",
        "give both, or neither",
    ),
    (
        "NaN to be tested on",
        lambda: fit(arrays=toy(test_inputs=np.where(np.arange(9)[:, None] == 4, np.nan, toy().test_inputs))),
        ValueError,
        "test_inputs, row 4: holds NaN",
        "leave the row out",
    ),
    (
        "NaN to be evaluated on",
        lambda: distill.evaluate(mlp(), np.full((2, 8), np.nan, np.float32), np.zeros(2, np.int32)),
        ValueError,
        "test_inputs, row 0: holds NaN",
        "fill it in",
    ),
    (
        "one-hot",
        lambda: fit(arrays=toy(train_labels=ONE_HOT)),
        ValueError,
        r"shape \(40, 3\)",
        r"labels\.argmax\(-1\)",
    ),
    (
        "labels as floats",
        lambda: fit(arrays=toy(train_labels=ONE_HOT / 2)),
        TypeError,
        "dtype float",
        r"labels\.argmax\(-1\)",
    ),
    (
        "too few labels",
        lambda: fit(arrays=toy(train_labels=toy().train_labels[:9])),
        ValueError,
        "40 examples",
        "one label each",
    ),
    (
        "no example",
        lambda: fit(arrays=toy(train_inputs=toy().train_inputs[:0], train_labels=toy().train_labels[:0])),
        ValueError,
        r"train_inputs has shape \(0, 8\)",
        "at least one example",
    ),
    (
        "labels of other rows in a loss",
        lambda: distill.losses.cross_entropy(ROWS, np.zeros(3, np.int32)),
        ValueError,
        r"labels has shape \(3,\) and logits \(4, 3\)",
        "one a row",
    ),
    (
        "alpha in percent",
        lambda: distill.distillation_loss(ROWS, ROWS, operator=power, temperature=2.0, alpha=10),
        ValueError,
        "alpha is 10",
        r"in \[0, 1\]",
    ),
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
        r"steps is 2\.5",
        "a whole number",
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
        "a stage that is not there",
        lambda: run().model(4),
        IndexError,
        "stage is 4",
        "the stages 0 to 1",
    ),
    (
        "one student for many",
        lambda: distill.run_many(mlp(), [mlp()], toy(), plan_of(0.5), optimizer=optax.sgd(0.1), seeds=(0,)),
        TypeError,
        "students is a MLP",
        "give a list, one a member",
    ),
    (
        "one-hot in a loss",
        lambda: distill.cross_entropy(ROWS, ROWS),
        TypeError,
        "labels has dtype",
        r"labels\.argmax\(-1\)",
    ),
    (
        "inputs too wide",
        lambda: fit(mlp(inputs=9)),
        ValueError,
        r"inputs of shape \(40, 8\)",
        "another first layer",
    ),
    ("no test half", lambda: fit(arrays=(ROWS, ROWS)), TypeError, "data is a tuple", r"pass data\.Arrays"),
    (
        "a batch over all",
        lambda: fit(batch_size=64),
        ValueError,
        "got 64",
        r"batch_size must lie in \[1, 40\]",
    ),
    (
        "optimizer a rate",
        lambda: fit(optimizer=0.1),
        TypeError,
        "optimizer is a float",
        r"optax\.adam\(1e-3\)",
    ),
    ("steps of 1e3", lambda: fit(steps=1e3), TypeError, r"got 1000\.0", "steps must be a whole number"),
    (
        "params for model",
        lambda: run(nnx.state(mlp())),
        TypeError,
        "student is a State",
        r"pass the nnx\.Module itself",
    ),
    (
        "other classes",
        lambda: run(teacher=mlp(4)),
        ValueError,
        "teacher has 4 classes and student 3",
        "last layer 4 outputs",
    ),
    (
        "other classes than the data",
        lambda: fit(mlp(4)),
        ValueError,
        "num_classes = 3, and model gives logits of 4 classes",
        "last layer 3 outputs",
    ),
    (
        "one logit",
        lambda: fit(mlp(1), toy(train_labels=0 * toy().train_labels, test_labels=0 * toy().test_labels)),
        ValueError,
        r"logits of shape \(40, 1\)",
        r"of two classes \[0, z\]",
    ),
    ("teacher a function", lambda: run(teacher=jnp.tanh), TypeError, "teacher is a ", r"pass an nnx\.Module"),
    (
        "logits of the test half",
        lambda: run(teacher=ROWS),
        ValueError,
        r"shape \(4, 3\)",
        r"need \(40, num_classes\)",
    ),
    ("plan as text", lambda: run(plan="power"), TypeError, "plan is a str", r"distill\.stages\("),
    ("nowhere to resume", lambda: run(resume=True), ValueError, "no checkpoint_dir", "give the run's own"),
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
    (
        "other logits",
        lambda: distill.distillation_loss(ROWS, ROWS[:1], operator=power, temperature=2.0),
        ValueError,
        r"\(4, 3\) and teacher_logits \(1, 3\)",
        "same rows and classes",
    ),
]

FOLDER = [
    (
        "an empty log",
        lambda folder: read(folder, ""),
        readers.LogError,
        "the file is empty",
        "check its path",
    ),
    (
        "a plain text",
        lambda folder: read(folder, "hello\n"),
        readers.LogError,
        "line 1.*is not JSON",
        "remove it",
    ),
    (
        "another form",
        lambda folder: read(folder, '{"text": "a"}'),
        readers.LogError,
        "no log-probabilities",
        "top_logprobs=k",
    ),
    (
        "another plan",
        resumed_with_another_plan,
        distill.CheckpointError,
        "supervised_steps is 1 there",
        "another checkpoint_dir",
    ),
]
