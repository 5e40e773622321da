"""Mistakes with targets, theory, data and models."""

import jax.numpy as jnp
import numpy as np
from flax import nnx

from sparsekd_jax import data, distill, models, plots, targets, theory
from sparsekd_jax.targets import readers
from tests.mistakes.things import P, compare, ensembles, mlp, observed_loss, power, seen

TARGETS = [
    (
        "an operator's name for whether it is affine",
        lambda: targets.text_only.is_affine("mixture", 2.0),
        TypeError,
        "operator is the text 'mixture'",
        r"operators\.parse\('mixture'\)",
    ),
    ("id out of range", lambda: seen([7, 9], [0.5, 0.2]), ValueError, "ids: contains 9", r"lie in \[0, 9\)"),
    ("id twice", lambda: seen([7, 7], [0.5, 0.2]), ValueError, "token 7 twice", "keep one entry"),
    ("over 1", lambda: seen([7, 2], [0.9, 0.8]), ValueError, r"sums to 1\.69", "was a temperature applied"),
    ("unsorted", lambda: seen([7, 2], [0.2, 0.5]), ValueError, "rises at entry 1", "sort them"),
    (
        "p for log p",
        lambda: seen([7, 2], np.exp([0.5, 0.2])),
        ValueError,
        r"contains 0\.5",
        "pass their logarithm",
    ),
    (
        "ids as floats",
        lambda: seen([7.0, 2.0], [0.5, 0.2]),
        TypeError,
        "dtype float64",
        r"ids\.astype\(np\.int32\)",
    ),
    ("k as a float", lambda: targets.top_k(jnp.log(P), 2.0), TypeError, r"k is 2\.0", "whole number"),
    ("k over all", lambda: targets.top_k(jnp.log(P), 9), ValueError, "got 9", r"lie in \[1, 3\]"),
    (
        "seed for key",
        lambda: targets.sample(0, power, jnp.log(P), 2.0, 5),
        TypeError,
        "key is 0",
        r"jax\.random\.key\(",
    ),
    (
        "p for samples",
        lambda: targets.estimate(P),
        TypeError,
        "samples is a ArrayImpl",
        r"such as sample\(\.\.\.\)",
    ),
    ("p to soften", lambda: targets.soften(power, P, 2.0), TypeError, "target is a", "takes Dense, TopK or"),
    (
        "a target not softened",
        lambda: distill.target_divergence(jnp.zeros((1, 3)), targets.top_k(jnp.log(P[None]), 2), "uniform"),
        TypeError,
        "softened is a TopK",
        r"targets\.soften\(operator, target, T\)",
    ),
    (
        "a list of tokens for logits",
        lambda: observed_loss(targets.top_k(jnp.log(P[None]), 2)),
        TypeError,
        "teacher_logits is a TopK",
        r"take target_divergence\(",
    ),
    (
        "a vocabulary of numbers",
        lambda: readers.read_targets("log.jsonl", k=2, vocabulary={1: 0}),
        TypeError,
        "vocabulary's keys",
        "all texts or all bytes",
    ),
    (
        "shares for counts",
        lambda: targets.Samples.from_counts(P),
        TypeError,
        "counts has dtype float",
        "whole numbers",
    ),
]

THEORY = [
    (
        "an operator's name for its constant",
        lambda: theory.variance.certified_lipschitz("power", 2.0, 1),
        TypeError,
        "operator is the text 'power'",
        r"operators\.parse\('power'\)",
    ),
    (
        "stages and a half to follow",
        lambda: theory.convergence.track(theory.convergence.penalty_path(P[None], P[None], 0.5, 0.5), 3.5, 4),
        TypeError,
        r"num_stages must be a whole number \(an int\), got 3\.5",
        "an int",
    ),
    (
        "a total of steps as a float",
        lambda: theory.convergence.TrackingBound(mu=2.0, L=2.0, P=1.0, G=1.0, m=3, eta=0.2).best_stages(12.0),
        TypeError,
        r"total_steps must be a whole number \(an int\), got 12\.0",
        "an int",
    ),
    (
        "steps a stage as text",
        lambda: theory.convergence.TrackingBound(mu=2.0, L=2.0, P=1.0, G=1.0, m="3", eta=0.2),
        TypeError,
        "m must be a whole number",
        "an int",
    ),
    (
        "a slope as text",
        lambda: theory.convergence.TrackingBound(mu=2.0, L=2.0, P=1.0, G="1", m=3, eta=0.2),
        TypeError,
        "G is '1'",
        "give one number",
    ),
    (
        "an unknown method",
        lambda: theory.text_only.samples_needed(power, 2.0, 0.05, num_classes=3, method="fast"),
        ValueError,
        "method is 'fast'",
        "'auto', 'bound'",
    ),
    (
        "an operator without a label",
        lambda: plots.entropy_curves(power, P),
        TypeError,
        "operators is a PowerTransform",
        r"a label: \{'label'",
    ),
    (
        "a tally without a label",
        lambda: plots.reliability_diagram(0.9),
        TypeError,
        "tallies is a float",
        "give each thing to draw a label",
    ),
    (
        "no report but its operator",
        lambda: plots.law_margins(power),
        TypeError,
        "reports is no report",
        r"pass axioms\.check\(operator\)",
    ),
    (
        "an operator for its map",
        lambda: plots.variance_map(power),
        TypeError,
        "amplification is a PowerTransform",
        r"theory\.variance\.amplification_map\(",
    ),
    (
        "a student for its run",
        lambda: theory.homotopy.path_of_result(mlp(), jnp.zeros((2, 8))),
        TypeError,
        "result is a MLP",
        r"what distill\.run returned",
    ),
    (
        "a seed for the key of labels",
        lambda: theory.privacy.sample_labels(0, power, P, 2.0, 5),
        TypeError,
        "key is 0",
        r"jax\.random\.key\(seed\)",
    ),
    ("no report", lambda: plots.law_margins([]), ValueError, "reports is empty", "nothing to draw"),
    (
        "unequal",
        lambda: compare(ensembles(3), ensembles(4)),
        ValueError,
        r"\(3, 4, 3\) and dense \(4,",
        "member i of both",
    ),
    (
        "one member",
        lambda: compare(ensembles(1), ensembles(1)),
        ValueError,
        "holds one member",
        "retrain on at least 2",
    ),
    (
        "predicted classes",
        lambda: compare(*2 * [ensembles().argmax(-1)]),
        ValueError,
        r"shape \(3, 4\)",
        r"\[members, examples, classes\]",
    ),
    (
        "logits",
        lambda: compare(*2 * [np.log(ensembles())]),
        ValueError,
        "sparse, row .* negative entry",
        r"op\.from_logits",
    ),
    (
        "labels from 1",
        lambda: compare(*2 * [ensembles()], (1, 2, 3, 1)),
        ValueError,
        "labels, row 2: is 3",
        r"outside \[0, 3\)",
    ),
]

DATA = [
    ("percent", lambda: data.digits(test_size=25), ValueError, "got 25", r"0\.25 holds out a quarter"),
    (
        "nothing left",
        lambda: data.digits(test_size=0.6, validation_size=1.0),
        ValueError,
        r"validation_size must lie in \[0, 1\), got 1\.0",
        "0 holds out nothing",
    ),
    ("no context", lambda: data.pydoc(context=0), ValueError, "got 0", "at least 1 byte"),
    ("one width", lambda: models.MLP(64, rngs=nnx.Rngs(0)), TypeError, "sizes is 64", "list the widths"),
    (
        "a seed for rngs",
        lambda: models.MLP((8, 3), rngs=0),
        TypeError,
        "rngs is 0",
        r"pass nnx\.Rngs\(seed\)",
    ),
    (
        "images",
        lambda: mlp()(jnp.zeros((5, 4, 2))),
        ValueError,
        r"shape \(5, 4, 2\).* takes 8",
        "reshape them",
    ),
]
