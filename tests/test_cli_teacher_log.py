import json

import jax
import numpy as np
import pytest
from typer.testing import CliRunner

from sparsekd_jax import data, targets
from sparsekd_jax.cli import app
from sparsekd_jax.studies import teacher_logs


@pytest.fixture(scope="module")
def log(tmp_path_factory):
    """A log of a teacher that is nearly sure of the right digit."""
    labels = data.digits().train_labels
    logits = np.random.default_rng(0).normal(size=(len(labels), 10))
    logits[np.arange(len(labels)), labels] += 5
    path = tmp_path_factory.mktemp("log") / "teacher.jsonl"
    teacher_logs.write_log(path, targets.top_k(jax.nn.log_softmax(logits, axis=-1), 3))
    return path


def invoke(*arguments):
    return CliRunner().invoke(app, ["distill", *map(str, arguments)], env={"COLUMNS": "200"})


def test_help_says_the_defaults_of_a_student_from_a_log():
    """They are not those of the data set, which the help had promised."""
    s = teacher_logs.LogSettings()
    said = " ".join(invoke("--help").output.replace("│", " ").split())
    assert (
        f"{s.operator} at T = {s.temperature:g}, {100 * s.sparsity:g} % zeros in {s.num_stages} stages, "
        f"{s.steps} steps and {s.seeds} seeds" in said
    )


def test_a_student_from_a_log_alone(log, tmp_path):
    result = invoke(
        "--teacher-log", log, "--tail", "bounds", "--top", 3, "--seeds", 1, "--steps", 120, "--out", tmp_path
    )
    assert result.exit_code == 0, result.output
    report = json.loads((tmp_path / "report.json").read_text())
    assert report["values"][0] > 0.8  # chance is 0.1
    assert {"student.safetensors", "plan.json", "history.jsonl"} <= {p.name for p in tmp_path.iterdir()}


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (("--tail", "uniform"), "belongs with --teacher-log"),
        (("--teacher-log", "LOG", "--top", "3"), "'--tail'"),
        (("--teacher-log", "LOG", "--top", "3", "--tail", "unifrom"), "did you mean 'uniform'"),
        (
            ("--teacher-log", "LOG", "--top", "3", "--tail", "uniform", "--temperature", "-1"),
            "'--temperature'",
        ),
        (("--teacher-log", "missing.jsonl", "--top", "3", "--tail", "uniform"), "cannot be read"),
        (("--teacher-log", "LOG", "--top", "3", "--tail", "uniform", "--teacher-steps", "5"), "says nothing"),
        (("--teacher-log", "LOG", "--top", "3", "--tail", "uniform", "--data", "pydoc"), "1347 positions"),
        (
            ("--teacher-log", "LOG", "--top", "3", "--tail", "bounds", "--operator", "entropy-projection"),
            "no certified bound",
        ),
    ],
)
def test_what_cannot_be_is_refused_by_its_option(arguments, said, log, tmp_path):
    result = invoke(*(log if a == "LOG" else a for a in arguments), "--out", tmp_path)
    assert result.exit_code == 2
    assert said in " ".join(result.output.replace("│", " ").split())


def test_a_run_that_broke_off_is_taken_up(log, tmp_path, monkeypatch):
    arguments = ("--teacher-log", log, "--tail", "uniform", "--top", 3, "--seeds", 2, "--steps", 40)
    whole = invoke(*arguments, "--out", tmp_path / "whole")
    assert whole.exit_code == 0, whole.output
    honest, calls = teacher_logs.student_from, []

    def broken(*given, **options):
        calls.append(given)
        if len(calls) == 2:
            raise KeyboardInterrupt
        return honest(*given, **options)

    out = tmp_path / "broken"
    with monkeypatch.context() as patch:
        patch.setattr(teacher_logs, "student_from", broken)
        invoke(*arguments, "--out", out)
    assert (out / "checkpoints").is_dir()
    refused = " ".join(invoke(*arguments, "--out", out).output.replace("│", " ").split())
    assert "interrupted run" in refused
    result = invoke(*arguments, "--out", out, "--resume")
    assert result.exit_code == 0, result.output
    reports = [json.loads((tmp_path / name / "report.json").read_text()) for name in ("whole", "broken")]
    assert reports[0]["values"] == reports[1]["values"]
    assert not (out / "checkpoints").exists()
