"""What a new user gets wrong, room by room: each message says the cause and what to do instead."""

import re

import jax
import numpy as np
import pytest
from flax import nnx
from typer.testing import CliRunner

from sparsekd_jax.cli import app
from tests.mistakes import in_data, in_folders, in_losses, in_operators, in_plans, in_training
from tests.mistakes.things import fit, run, toy

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
    ("targets inspect no.jsonl --json .", r"\. is a directory", "name a file in it"),
    ("bench operators --markdown .", r"\. is a directory", "name a file in it"),
    ("targets inspect no.jsonl", "FILE", r"no\.jsonl does not exist"),
]

IN_CODE = [
    pytest.param(*row, id=f"{room}: {name}")
    for room, rows in {
        "operators": in_operators.OPERATORS,
        "axioms": in_operators.AXIOMS,
        "sparsity": in_operators.SPARSITY,
        "plans": in_plans.PLANS,
        "losses": in_losses.LOSSES,
        "training": in_training.TRAINING,
        "targets": in_data.TARGETS,
        "theory": in_data.THEORY,
        "data": in_data.DATA,
    }.items()
    for name, *row in rows
]


@pytest.mark.parametrize(("mistake", "error", "cause", "remedy"), IN_CODE)
def test_the_message_says_cause_and_remedy(mistake, error, cause, remedy):
    with pytest.raises(error, match=cause) as caught:
        mistake()
    assert re.search(remedy, str(caught.value)), caught.value


@pytest.mark.parametrize(
    ("mistake", "error", "cause", "remedy"), [pytest.param(*r, id=n) for n, *r in in_folders.FOLDERS]
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
