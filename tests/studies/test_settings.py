"""The settings of the main job: what says them again, whole, and the plans that follow from them."""

import dataclasses

from sparsekd_jax import studies
from sparsekd_jax.studies import settings


def test_the_command_line_repeats_the_settings():
    assert settings.command(studies.Settings()) == "sparsekd distill --data digits --out DIR"
    odd = studies.Settings(operators=("tsallis(1.5)",), steps=100, soften_student=False)
    assert settings.command(odd) == (
        "sparsekd distill --data digits --operator 'tsallis(1.5)' --steps 100 --targets-only --out DIR"
    )
    assert "--temperature 1.23456789 " in settings.command(studies.Settings(temperature=1.23456789))


def test_the_command_line_drops_no_setting():
    """What a plan says goes by --config, whose plan is the one of the settings; the rest is said to miss."""
    odd = studies.Settings(
        operators=("tsallis(1.5)",), alpha=0.5, schedule="linear", steps=100, num_seeds=2, weight_decay=0.0
    )
    assert settings.command(odd) == (
        "sparsekd distill --data digits --config plan-tsallis-1.5.json --seeds 2 --out DIR"
        "  # without what no option says: weight_decay=0.0"
    )
    again = studies.Settings.of_plan(odd.plan("tsallis(1.5)", "staged"), "digits", num_seeds=2)
    for method in odd.methods:
        assert again.plan("tsallis(1.5)", method).describe() == odd.plan("tsallis(1.5)", method).describe()
    two = studies.Settings(operators=("power", "mixture"), alpha=0.5)
    assert settings.command(two) == (
        "sparsekd distill --data digits --operator power,mixture --out DIR"
        "  # without what no option says: alpha=0.5"
    )
    told = {f.name for f in dataclasses.fields(studies.Settings)}
    options = {"data", "operators", "temperature", "sparsity", "num_stages", "num_seeds", "steps"}
    options |= {"teacher_steps", "soften_student", "config"}
    assert told == options | {*settings._OF_A_PLAN, *settings._OF_NO_OPTION}
