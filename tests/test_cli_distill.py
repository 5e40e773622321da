"""`sparsekd distill`: mistakes that end in status 2 with a remedy (tests/studies runs it end to end)."""

import subprocess
import sys

import pytest
from typer.testing import CliRunner

import sparsekd_jax
from sparsekd_jax import operators
from sparsekd_jax.cli import app
from sparsekd_jax.cli._arguments import terminal
from sparsekd_jax.cli.distill import _operator_names, _summary
from sparsekd_jax.studies.workloads import WORKLOADS


def sparsekd(*arguments):
    # Typer wraps its messages at the terminal's width; a wide one keeps them in one line.
    return CliRunner().invoke(app, list(arguments), env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})


@pytest.mark.parametrize(
    ("arguments", "option", "remedy"),
    [
        (("--sparsity", "95"), "--sparsity", "did you mean 0.95?"),
        (("--sparsity", "1"), "--sparsity", "[0, 1)"),
        (("--operator", "powr"), "--operator", "did you mean 'power'"),
        (("--operator", "power,mixtur"), "--operator", "did you mean 'mixture'"),
        (("--operator", "tsallis"), "--operator", "write tsallis(1.5)"),
        (("--operator", "tsalis(2)"), "--operator", "did you mean 'tsallis'"),
        (("--operator", "tsallis(x)"), "--operator", "not a number; write tsallis(1.5)"),
        (("--operator", "tsallis(-1)"), "--operator", "alpha"),
        (("--operator", "power(2)"), "--operator", "write power"),
        (("--operator", ","), "--operator", "name one"),
        (("--operator", "argmax"), "--operator", "--targets-only"),
        (("--temperature", "-1"), "--temperature", "positive"),
        (("--operator", "entropy-projection", "--temperature", "0.5"), "--temperature", "outside the range"),
        (("--data", "mnist"), "--data", "known: digits, pydoc"),
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


@pytest.mark.parametrize("row", operators.table_rows(), ids=lambda row: row.label)
def test_a_printed_name_leads_back(row):
    assert _operator_names([row.operator.name]) == (row.operator.name,)


@pytest.mark.parametrize("columns", [80, 40])
def test_a_narrow_terminal_cuts_no_number_and_no_name(columns, capsys):
    """At 40 columns an interval ended in "[-105.…", at 80 an operator in "euclidean-entropy-pr…"."""
    interval = {"mean": -0.6311, "low": -1.0547, "high": -0.2076}
    label = "euclidean-entropy-projection: dense student"
    row = {"label": label, "accuracy": interval, "difference": interval, "zero_fraction": {"max": 0.95}}
    terminal(width=columns).print(_summary([row] * 2, WORKLOADS["digits"].metrics[0]))
    said = capsys.readouterr().out
    assert "…" not in said
    assert said.count("7") == 4 * 2, "two bounds with one 7 each, in two columns and two rows"


def test_a_directory_that_cannot_be_written_is_refused_before_training(tmp_path):
    (tmp_path / "file").write_text("in the way")
    result = sparsekd("distill", "--out", str(tmp_path / "file"))
    assert result.exit_code == 2
    assert "--out" in result.output
    assert "choose another directory" in result.output


def test_the_version_and_those_that_matter():
    first, *others = sparsekd("--version").output.splitlines()
    assert first == f"sparsekd {sparsekd_jax.__version__}"
    assert [line.split()[0] for line in others] == [
        "jax",
        "jaxlib",
        "flax",
        "optax",
        "orbax-checkpoint",
        "Python",
    ]


def test_help_and_early_mistakes_do_not_load_jax(tmp_path):
    script = (
        "import sys; from typer.testing import CliRunner; from sparsekd_jax.cli import app; "
        "run = CliRunner().invoke; "
        "assert run(app, ['--help']).exit_code == 0; assert run(app, ['distill', '--help']).exit_code == 0; "
        f"assert run(app, ['distill', '--sparsity', '95', '--out', {str(tmp_path)!r}]).exit_code == 2; "
        "assert not {'jax', 'flax', 'optax', 'matplotlib'} & set(sys.modules)"
    )
    subprocess.run([sys.executable, "-c", script], check=True)
