"""What a new user gets wrong, room by room: each message says the cause and what to do instead."""

import dataclasses
import re

import jax
import jax.numpy as jnp
import numpy as np
import optax
import pytest
from flax import nnx
from typer.testing import CliRunner

from sparsekd_jax import axioms, data, distill, models, operators, sparsity, targets, theory
from sparsekd_jax.cli import app
from sparsekd_jax.targets import readers

P = jnp.array([0.7, 0.2, 0.1], jnp.float32)
ROWS = jnp.stack([P, P, P, P])
LOGITS = jnp.array([2.0, -1.0, 0.5], jnp.float32)
power = operators.get("power")
PARAMS = {"w": jnp.ones((6, 4), jnp.float32), "b": jnp.ones(4, jnp.float32)}
sgd = optax.sgd(0.1)


def toy(**changes):
    """Forty examples of eight numbers in three classes, one thing changed."""
    draw = np.random.default_rng(0)
    labels = np.arange(40, dtype=np.int32) % 3
    inputs = draw.normal(size=(40, 8)).astype(np.float32)
    return dataclasses.replace(data.Arrays(inputs, labels, inputs[:9], labels[:9], 3, "toy"), **changes)


def mlp(classes=3, inputs=8):
    return models.MLP((inputs, 4, classes), rngs=nnx.Rngs(0))


def fit(model=None, arrays=None, **changes):
    options = {"steps": 2, "optimizer": sgd, "seed": 0, "batch_size": 8} | changes
    return distill.fit(model or mlp(), toy() if arrays is None else arrays, **options)


def run(student=None, teacher=None, plan=None, **changes):
    options = {"optimizer": sgd, "seed": 0, "batch_size": 8} | changes
    plan = distill.stages(sparsity=0.5, num_stages=1, total_steps=2) if plan is None else plan
    return distill.run(student or mlp(), mlp() if teacher is None else teacher, toy(), plan, **options)


def resumed_with_another_plan(folder):
    fit(steps=1, checkpoint_dir=folder)
    fit(steps=2, checkpoint_dir=folder, resume=True)


def plan_of(*sparsities):
    stages = tuple(distill.Stage(s, temperature=4.0, steps=2, scale=16.0, alpha=0.1) for s in sparsities)
    return distill.Plan(power, stages, soften_student=True, score="magnitude", pattern="global")


def check(operator, **options):
    quick = axioms.Budget(sweep=5, limits=1, search=0, shrink=1)
    return axioms.check(operator, **{"laws": ("A4",), "num_classes": (3,), "budget": quick} | options)


def masks_at(rate, params=PARAMS, **options):
    return sparsity.update_masks(sparsity.sparsify(sgd).init(PARAMS), params, rate, **options)


def seen(ids, probs, size=9):
    return targets.TopK.observed(np.array(ids), np.log(np.array(probs, np.float32)), vocab_size=size)


def read(folder, text):
    (folder / "log.jsonl").write_text(text)
    return list(readers.read_targets(folder / "log.jsonl", k=2, vocabulary=9))


def ensembles(m=3, n=4, classes=3):
    return np.random.default_rng(m).dirichlet(np.ones(classes), size=(m, n)).astype(np.float32)


def compare(sparse, dense, labels=(0, 1, 2, 0)):
    return theory.bias_variance.compare(sparse, dense, labels=np.array(labels))


OPERATORS = [
    (
        "logits as p",
        lambda: power(LOGITS, 2.0),
        ValueError,
        "p, contains the negative entry -1",
        r"op\.from_logits",
    ),
    ("logits as log p", lambda: power.log(LOGITS, 2.0), ValueError, "log_p, sums to 9", r"op\.from_logits"),
    ("p as log p", lambda: power.log(P, 2.0), ValueError, "sum to 1 as they are", r"pass jnp\.log\(log_p\)"),
    (
        "weights",
        lambda: power(3 * ROWS, 2.0),
        ValueError,
        "p, row 0: sums to 2.99",
        r"simplex\.normalize\(p\)",
    ),
    (
        "classes first",
        lambda: power(ROWS.T, 2.0),
        ValueError,
        "Axis 0 sums to 1",
        r"jnp\.moveaxis\(p, 0, -1\)",
    ),
    ("a list", lambda: power([0.5, 0.5], 2.0), TypeError, "p is a list", r"jnp\.asarray\(p\)"),
    ("integers", lambda: power(jnp.array([1, 0]), 2.0), TypeError, "dtype int", r"p\.astype\(jnp\.float32\)"),
    ("one column", lambda: power(ROWS[:, :1], 2.0), ValueError, "needs K ≥ 2", r"pass the pair \[1 − p, p\]"),
    ("T = 0", lambda: power(P, 0.0), ValueError, "temperature is 0", r"take operators\.get\('argmax'\)"),
    ("T < 0", lambda: power(P, -2.0), ValueError, "temperature is -2", r"takes T in \(0, ∞\)"),
    ("T = nan", lambda: power(P, float("nan")), ValueError, "temperature is nan", r"takes T in \(0, ∞\)"),
    ("T as text", lambda: power(P, "2"), TypeError, "temperature is '2'", "give a number"),
    (
        "T by class",
        lambda: power(ROWS, P),
        ValueError,
        r"shape \(3,\).*batch shape \(4,\)",
        "one temperature a row",
    ),
    (
        "misspelt",
        lambda: operators.get("powr"),
        ValueError,
        "unknown operator 'powr'",
        "did you mean 'power'",
    ),
    ("misspelt text", lambda: operators.parse("tsalis(2)"), ValueError, "'tsalis'", "did you mean 'tsallis'"),
    (
        "text for get",
        lambda: operators.get("tsallis(1.5)"),
        ValueError,
        "parameter in it",
        r"operators\.parse\(",
    ),
    (
        "no alpha",
        lambda: operators.get("tsallis"),
        ValueError,
        "needs alpha",
        r"get\('tsallis', alpha=1\.5\)",
    ),
    (
        "bad alpha",
        lambda: operators.get("tsallis", alpha=-1),
        ValueError,
        "alpha .* is -1",
        "finite number > 0",
    ),
    (
        "a family without vmap",
        lambda: operators.TsallisSoftening(jnp.array([0.5, 2.0]))(P, 2.0),
        ValueError,
        r"alpha has shape \(2,\)",
        r"jax\.vmap\(lambda op: op\(p, T\)\)",
    ),
]

AXIOMS = [
    ("a name", lambda: check("power"), TypeError, "operator is the text", r"operators\.parse\('power'\)"),
    ("a class", lambda: check(operators.PowerTransform), TypeError, "is the class", r"PowerTransform\(\)"),
    ("not callable", lambda: check(3), TypeError, "operator is 3", r"a function \(p, temperature\) -> q"),
    (
        "swapped",
        lambda: check(lambda temperature, p: p),
        TypeError,
        "takes .temperature, p",
        r"order is \(p, temp",
    ),
    ("one argument", lambda: check(lambda p: p), TypeError, r"operator takes \(p\)", "wrap it in a function"),
    (
        "wrong shape",
        lambda: check(lambda p, t: p[1:]),
        TypeError,
        r"shape \(2,\) for p",
        "must map one distribution",
    ),
    (
        "two results",
        lambda: check(lambda p, t: (p, t)),
        TypeError,
        "returned a tuple",
        "must return one array",
    ),
    (
        "unknown law",
        lambda: check(power, laws=("A9",)),
        ValueError,
        "unknown law 'A9'",
        "the laws are closure",
    ),
    ("laws in one text", lambda: check(power, laws="A1,A3"), ValueError, "'A1,A3'", r"laws=\('A1', 'A3'\)"),
    ("no law", lambda: check(power, laws=()), ValueError, "laws is empty", "leave it out for all"),
    ("one K", lambda: check(power, num_classes=10), TypeError, "num_classes is 10", r"\(10,\)"),
    ("one T", lambda: check(power, temperature_range=4.0), TypeError, "is 4.0", r"pair \(low, high\)"),
    ("no list", lambda: axioms.parametrize(power), TypeError, "a single operator", r"pass a list"),
]

SPARSITY = [
    ("percent", lambda: masks_at(95), ValueError, "rate must be a share.*got 95", r"did you mean 0\.95"),
    (
        "module",
        lambda: sparsity.sparsify(sgd).init(mlp()),
        TypeError,
        "params is the module MLP",
        r"nnx\.state\(model",
    ),
    (
        "module later",
        lambda: masks_at(0.5, mlp()),
        TypeError,
        "params is the module MLP",
        r"nnx\.state\(model",
    ),
    (
        "a rate to wrap",
        lambda: sparsity.sparsify(1e-3),
        TypeError,
        "inner is a float",
        r"optax\.adam\(1e-3\)",
    ),
    (
        "a pattern that matches nothing",
        lambda: sparsity.sparsify(sgd, where=sparsity.by_path("kernel")).init(PARAMS),
        ValueError,
        "'kernel' matches no parameter",
        "the names are b, w",
    ),
    (
        "where as text",
        lambda: sparsity.sparsify(sgd, where="w*"),
        TypeError,
        "the text 'w",
        r"sparsity\.by_path\(",
    ),
    ("4:2", lambda: sparsity.n_m(4, 2), ValueError, "got n = 4, m = 2", "1 ≤ n ≤ m"),
    ("2:4 as text", lambda: masks_at(0.5, pattern="2:4"), ValueError, "pattern '2:4'", r"pass n_m\(n, m\)"),
    (
        "2:4 of six",
        lambda: masks_at(0.5, pattern=sparsity.n_m(2, 4)),
        ValueError,
        "m = 4 does not divide",
        "choose an m",
    ),
    ("a block's side", lambda: sparsity.block(4), ValueError, "got 4", r"\(rows, columns\)"),
    ("no gradients", lambda: masks_at(0.5, score="taylor"), ValueError, "needs gradients", r"gradients=g"),
    (
        "misspelt score",
        lambda: masks_at(0.5, score="magnitud"),
        ValueError,
        "'magnitud'",
        "did you mean 'magnitude'",
    ),
    (
        "a state for its masks",
        lambda: sparsity.apply_masks(PARAMS, sparsity.sparsify(sgd).init(PARAMS)),
        ValueError,
        "masks is a SparsifyState",
        r"current_masks\(state\)",
    ),
]

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
        lambda: run(mlp(4)),
        ValueError,
        "teacher has 3 classes and student 4",
        "last layer 3 outputs",
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

TARGETS = [
    ("id out of range", lambda: seen([7, 9], [0.5, 0.2]), ValueError, "ids, contains 9", r"lie in \[0, 9\)"),
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
        "shares for counts",
        lambda: targets.Samples.from_counts(P),
        TypeError,
        "counts has dtype float",
        "whole numbers",
    ),
]

THEORY = [
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
        lambda: data.digits(test_size=0.6, validation_size=0.6),
        ValueError,
        "nothing to train on",
        "lower one",
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

COMMANDS = [
    ("distill --sparsity 95", "95 is not a share", r"did you mean 0\.95"),
    ("distill --data mnist", "'mnist' is not a data set", "known: digits, pydoc"),
    ("distill --operator powr", "unknown operator 'powr'", "did you mean 'power'"),
    ("distill --temperature 0", "got 0", "must be a positive number"),
    ("distil", "No such command 'distil'", "Did you mean 'distill'"),
    ("axioms nomodule:mine", "'nomodule' cannot be imported", "give module:attribute"),
    ("axioms math:mine", "'math' has no 'mine'", "give module:attribute"),
    ("axioms power --laws ,", "no law is named", "such as A1,A3"),
    ("compare no.npy no.npy no.npy", "No such file", r"as \.npy or \.npz"),
    ("targets inspect no.jsonl", "FILE", r"no\.jsonl does not exist"),
]

IN_CODE = [
    pytest.param(*row, id=f"{room}: {name}")
    for room, rows in {
        "operators": OPERATORS,
        "axioms": AXIOMS,
        "sparsity": SPARSITY,
        "distill": DISTILL,
        "targets": TARGETS,
        "theory": THEORY,
        "data": DATA,
    }.items()
    for name, *row in rows
]


@pytest.mark.parametrize(("mistake", "error", "cause", "remedy"), IN_CODE)
def test_the_message_says_cause_and_remedy(mistake, error, cause, remedy):
    with pytest.raises(error, match=cause) as caught:
        mistake()
    assert re.search(remedy, str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("mistake", "error", "cause", "remedy"), [pytest.param(*r, id=n) for n, *r in FOLDER]
)
def test_so_do_those_of_files(mistake, error, cause, remedy, tmp_path):
    with pytest.raises(error, match=cause) as caught:
        mistake(tmp_path)
    assert re.search(remedy, str(caught.value)), caught.value


@pytest.mark.parametrize(("command", "cause", "remedy"), COMMANDS)
def test_so_do_those_of_commands(command, cause, remedy, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = CliRunner().invoke(app, command.split(), env={"COLUMNS": "300", "TERM": "dumb"})
    assert result.exit_code == 2
    said = " ".join(result.output.split())
    assert re.search(cause, said), said
    assert re.search(remedy, said), said


def test_a_label_of_weight_zero_is_no_mistake():
    padded = toy(train_labels=np.where(np.arange(40) < 30, toy().train_labels, -1))
    weighted = type("Weighted", (), vars(padded) | {"train_weights": np.float32(np.arange(40) < 30)})
    assert np.isfinite(fit(arrays=weighted()).history[-1]["cross_entropy"])


class Noisy(nnx.Module):
    """A model with dropout."""

    def __init__(self):
        self.layer = nnx.Linear(8, 3, rngs=nnx.Rngs(0))
        self.dropout = nnx.Dropout(0.9, rngs=nnx.Rngs(1))

    def __call__(self, inputs):
        return self.dropout(self.layer(inputs))


@pytest.mark.parametrize("cache_teacher", [True, False])
def test_a_teacher_in_training_mode_is_no_mistake(cache_teacher):
    """The loop evaluates a copy in evaluation mode, so there is nothing to refuse."""
    asleep, awake = Noisy(), Noisy()
    asleep.eval()
    awake.train()
    learnt = [run(teacher=t, cache_teacher=cache_teacher).path[-1] for t in (asleep, awake)]
    assert jax.tree.all(jax.tree.map(lambda a, b: bool((a == b).all()), *learnt))
