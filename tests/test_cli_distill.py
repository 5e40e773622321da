"""`sparsekd distill`: a small run end to end, and mistakes that end in status 2 with a remedy."""

import json
import subprocess
import sys

import pytest
from typer.testing import CliRunner

import sparsekd_jax
from sparsekd_jax import studies
from sparsekd_jax.cli import app


def sparsekd(*arguments):
    # Typer wraps its messages at the terminal's width; a wide one keeps them in one line.
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})


def test_a_small_run_writes_everything(tmp_path, monkeypatch):
    monkeypatch.setattr(studies.digits, "verdict_table", lambda ops: {"laws": [], "rows": [], "notes": []})
    out = tmp_path / "demo"
    arguments = ["--seeds", "1", "--steps", "4", "--teacher-steps", "2", "--stages", "2", "--sparsity", "0.5"]
    result = sparsekd(
        "distill", "--data", "digits", *arguments, "--operator", "power,power", "--out", str(out)
    )
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == {
        "report.json",
        "report.html",
        "history.jsonl",
        "student-power.safetensors",
    }
    configuration = json.loads((out / "report.json").read_text())["configuration"]
    assert (configuration["operators"], configuration["num_seeds"], configuration["sparsity"]) == (
        ["power"],
        1,
        0.5,
    )
    assert "report.html" in result.output


@pytest.mark.parametrize(
    ("arguments", "option", "remedy"),
    [
        (("--sparsity", "95"), "--sparsity", "did you mean 0.95?"),
        (("--sparsity", "1"), "--sparsity", "[0, 1)"),
        (("--operator", "powr"), "--operator", "did you mean 'power'"),
        (("--operator", "power,mixtur"), "--operator", "did you mean 'mixture'"),
        (("--operator", "tsallis"), "--operator", "write tsallis(1.5)"),
        (("--operator", ","), "--operator", "name one"),
        (("--operator", "argmax"), "--operator", "--targets-only"),
        (("--temperature", "-1"), "--temperature", "positive"),
        (("--operator", "entropy-projection", "--temperature", "0.5"), "--temperature", "outside the range"),
        (("--data", "mnist"), "--data", "known: digits"),
        (("--stages", "0"), "--stages", "less than 1"),
        (("--seeds", "0"), "--seeds", "less than 1"),
        (("--steps", "3"), "--steps", "at least 5"),
        (("--steps", "many"), "--steps", "integer"),
    ],
)
def test_usage_errors_exit_2_and_name_the_option(arguments, option, remedy, tmp_path):
    result = sparsekd("distill", *arguments, "--out", str(tmp_path / "out"))
    assert result.exit_code == 2, result.output
    assert option in result.output
    assert remedy in result.output


def test_a_directory_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = sparsekd("distill", "--out", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "--out" in result.output
    assert "choose another directory" in result.output


def test_the_version():
    assert sparsekd("--version").output.strip() == f"sparsekd {sparsekd_jax.__version__}"


def test_help_and_early_mistakes_do_not_load_jax(tmp_path):
    script = (
        "import sys; from typer.testing import CliRunner; from sparsekd_jax.cli import app; "
        "run = CliRunner().invoke; "
        "assert run(app, ['--help']).exit_code == 0; assert run(app, ['distill', '--help']).exit_code == 0; "
        f"assert run(app, ['distill', '--sparsity', '95', '--out', {str(tmp_path)!r}]).exit_code == 2; "
        "assert not {'jax', 'flax', 'optax', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
