"""The main job in small: numbers that hang together, files that read back, a page that stands alone."""

import dataclasses
import json
import re

import numpy as np
import pytest
from flax import nnx
from scipy import stats
from typer.testing import CliRunner

from sparsekd_jax import _page, data, distill, models, sparsity, studies
from sparsekd_jax.cli import app
from sparsekd_jax.studies import distillation, distillation_page, workloads

SMALL = studies.Settings(
    num_seeds=2,
    steps=20,
    teacher_steps=20,
    num_stages=2,
    model={"hidden": [16]},
    record_every=10,
    sparsity=0.8,
)
FILES = {"report.json", "report.html", "history.jsonl", "plan-power.json", "student-power.safetensors"}


@pytest.fixture(scope="module")
def report():
    return studies.run(SMALL, laws=False)


def test_every_seed_operator_and_method_ran(report):
    ran = [(r["seed"], r["operator"], r["method"]) for r in report["runs"]]
    students = [("power", method) for method in ("dense", "one-shot", "staged")]
    assert ran == [(seed, *which) for seed in (0, 1) for which in [(None, "teacher"), *students]]


def test_every_operator_gets_its_own_students(report, monkeypatch):
    """The bookkeeping of several operators; what is trained here is the same model each time."""
    optimizer = distillation.adamw(SMALL.learning_rate, SMALL.weight_decay)  # compiled by the fixture
    model = models.MLP((64, 16, 10), rngs=nnx.Rngs(0))
    trained = distill.fit(model, data.digits(), steps=20, optimizer=optimizer, seed=0, record_every=10)
    asked = []
    monkeypatch.setattr(distill, "fit", lambda *_, **__: trained)
    monkeypatch.setattr(
        distill, "run", lambda student, teacher, _, plan, **__: asked.append(plan.operator_name) or trained
    )
    monkeypatch.setattr(_page, "figure_uri", lambda figure: "data:,")
    both = studies.run(dataclasses.replace(SMALL, operators=("power", "mixture")), laws=False)
    assert asked == 2 * (3 * ["power"] + 3 * ["mixture"])
    assert [r["operator"] for r in both["runs"]] == 2 * [None, *3 * ["power"], *3 * ["mixture"]]
    assert [row["label"] for row in both["summary"]][1:5:3] == [
        "power: dense student",
        "mixture: dense student",
    ]
    assert set(both["students"]) == set(both["plans"]) == {"power", "mixture"}


def test_sparsities_are_exact(report):
    size = 64 * 16 + 16 * 10
    for r in report["runs"]:
        expected = round(0.8 * size) / size if r["method"] in ("one-shot", "staged") else 0.0
        assert r["zero_fraction"] == expected
        assert sum(zeros for zeros, _ in r["layers"].values()) == round(expected * size)


def test_the_summary_is_computed_from_the_runs(report):
    def values(operator, method, metric="accuracy"):
        return [r[metric] for r in report["runs"] if (r["operator"], r["method"]) == (operator, method)]

    for row in report["summary"]:
        chosen = values(row["operator"], row["method"])
        assert row["values"] == chosen
        assert row["accuracy"]["mean"] == pytest.approx(np.mean(chosen))
        for metric in ("nll", "calibration_error"):
            assert row[metric]["mean"] == pytest.approx(
                np.mean(values(row["operator"], row["method"], metric))
            )
        if row["operator"] is None:
            assert row["difference"] is None
            continue
        pairs = np.subtract(chosen, values(None, "teacher"))
        half = stats.t.ppf(0.975, 1) * pairs.std(ddof=1) / np.sqrt(2)
        assert row["difference"]["mean"] == pytest.approx(pairs.mean())
        assert row["difference"]["low"] == pytest.approx(pairs.mean() - half)


def test_students_start_from_their_teacher_and_methods_share_their_effort(report):
    for seed in (0, 1):
        rows = [row for row in report["history"] if row["seed"] == seed]
        teacher_end = [row for row in rows if row["method"] == "teacher"][-1]
        for method in ("dense", "one-shot", "staged"):
            here = [row for row in rows if (row["operator"], row["method"]) == ("power", method)]
            assert here[0]["event"] == "start"
            assert here[0]["accuracy"] == teacher_end["accuracy"]
            assert here[-1]["step"] == SMALL.steps


def test_the_same_settings_give_the_same_numbers(report):
    again = studies.run(SMALL, laws=False)
    for key in ("runs", "summary", "history"):
        assert again[key] == report[key]


@pytest.fixture(scope="module")
def page(report):
    return distillation_page.page(report)


def test_files_read_back(report, page, tmp_path):
    paths = studies.write_report(report, tmp_path / "new" / "folder")
    assert set(paths) == FILES
    assert paths["report.html"].read_text() == page, "drawing twice gives two pages"
    read = json.loads(paths["report.json"].read_text())
    assert read["summary"] == report["summary"]
    assert studies.Settings.of(read["configuration"]) == SMALL
    lines = [json.loads(line) for line in paths["history.jsonl"].read_text().splitlines()]
    assert lines == report["history"]
    raw = paths["student-power.safetensors"].read_bytes()
    header = json.loads(raw[8 : 8 + int.from_bytes(raw[:8], "little")])
    start, end = header["layers.0.kernel"]["data_offsets"]
    base = 8 + int.from_bytes(raw[:8], "little")
    weights = np.frombuffer(raw[base + start : base + end], "<f4")
    first = next(
        r for r in report["runs"] if (r["operator"], r["method"], r["seed"]) == ("power", "staged", 0)
    )
    assert [(weights == 0).sum(), weights.size] == first["layers"]["layers.0.kernel"]


def test_the_page_stands_alone_and_carries_the_numbers(report, page):
    assert not re.search(r'(?:src|href)="(?!data:)', page), "the page reaches for another file"
    assert "http" not in re.sub(r"data:[^\"]*", "", page)
    for row in report["summary"]:
        assert f"{100 * row['accuracy']['mean']:.2f}" in page
        assert row["label"] in page
    assert page.count("<img ") == 1 + 1 + 1  # accuracy; curves and triangle for each operator
    assert page.count('alt="') == page.count("<img ")
    assert "Laws of the operator" not in page


def test_an_interrupted_study_loses_nothing(report, tmp_path, monkeypatch):
    honest, calls = distill.run, []

    def interrupted(*args, **kwargs):
        calls.append(1)
        if len(calls) == 3:
            raise KeyboardInterrupt
        return honest(*args, **kwargs)

    monkeypatch.setattr(distill, "run", interrupted)
    with pytest.raises(KeyboardInterrupt):
        studies.run(SMALL, laws=False, checkpoint_dir=tmp_path)
    monkeypatch.setattr(distill, "run", honest)
    with pytest.raises(distill.CheckpointError, match="resume=True"):
        studies.run(SMALL, laws=False, checkpoint_dir=tmp_path)
    again = studies.run(SMALL, laws=False, checkpoint_dir=tmp_path, resume=True)
    assert again["runs"] == report["runs"]
    assert again["history"] == report["history"]


def test_the_command_line_wants_a_word_about_an_interrupted_run(tmp_path):
    (tmp_path / "checkpoints").mkdir()
    both = ("--resume", "--restart")
    for flags, says in (((), "add --resume or --restart"), (both, "contradicts --restart")):
        arguments = ["distill", "--out", str(tmp_path), *flags]
        result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
        assert result.exit_code == 2
        assert says in result.output


def test_the_command_line_writes_the_same_run(report, page, tmp_path, monkeypatch):
    """End to end, with the fixture's settings so that everything is compiled already."""
    small = dataclasses.replace(
        workloads.WORKLOADS["digits"], defaults={"model": SMALL.model, "record_every": SMALL.record_every}
    )
    monkeypatch.setitem(workloads.WORKLOADS, "digits", small)
    monkeypatch.setattr(distillation, "verdict_table", lambda ops: {"laws": [], "rows": [], "notes": []})
    out = tmp_path / "demo"
    options = {
        "--operator": "power,power",
        "--seeds": "2",
        "--steps": "20",
        "--teacher-steps": "20",
        "--stages": "2",
        "--sparsity": "0.8",
        "--out": str(out),
    }
    arguments = ["distill", "--data", "digits", *(word for pair in options.items() for word in pair)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    assert result.exit_code == 0, result.output
    assert {path.name for path in out.iterdir()} == FILES
    read = json.loads((out / "report.json").read_text())
    assert read["configuration"] == report["configuration"]
    assert read["summary"] == report["summary"]
    assert "report.html" in result.output


def test_verdicts_show_as_letters_and_witnesses(report, monkeypatch):
    monkeypatch.setattr(_page, "figure_uri", lambda figure: "data:,")
    verdicts = {
        "laws": [{"id": law, "title": law, "formula": "f"} for law in ("A1", "affine")],
        "rows": [{"operator": "power", "ok": True, "summary": "fine", "cells": {"A1": "H", "affine": "F"}}],
        "notes": [
            {
                "operator": "power",
                "law": "affine",
                "standing": "not claimed",
                "margin": -0.021,
                "witness": "p = (.9, .1) < q",
            }
        ],
    }
    page = distillation_page.page({**report, "verdicts": verdicts})
    assert '<td class="mark holds">H</td>' in page
    assert '<td class="mark fails">F</td>' in page
    assert "p = (.9, .1) &lt; q" in page


def test_one_seed_makes_a_page_without_intervals(monkeypatch):
    monkeypatch.setattr(_page, "figure_uri", lambda figure: "data:,")
    report = studies.run(dataclasses.replace(SMALL, num_seeds=1), laws=False)
    assert report["summary"][0]["accuracy"]["low"] is None
    assert "one seed" in distillation_page.page(report)
    assert json.dumps(report["summary"], allow_nan=False)


def test_the_stage_table_follows_the_plan(report):
    rows = distillation_page.stage_rows(report, "power", SMALL)
    plan = distill.stages(sparsity=0.8, num_stages=2, total_steps=20)
    assert [row["sparsity"] for row in rows] == [stage.sparsity for stage in plan.stages]
    ends = [
        row["accuracy"]
        for row in report["history"]
        if (row["operator"], row["method"], row["step"], row["event"]) == ("power", "staged", 20, "train")
    ]
    assert rows[-1]["recovered"] == pytest.approx(np.mean(ends))


@pytest.mark.parametrize(
    ("change", "message"),
    [
        ({"operators": ()}, "operators is empty"),
        ({"operators": ("powr",)}, "did you mean 'power'"),
        ({"num_seeds": 0}, "num_seeds"),
        ({"teacher_steps": 0}, "teacher_steps"),
        ({"operators": ("argmax",)}, "gradient_scale is not known"),
        ({"temperature": 0.5, "operators": ("entropy-projection",)}, "temperature"),
    ],
)
def test_bad_settings_are_refused_before_anything_runs(change, message):
    with pytest.raises(ValueError, match=message):
        studies.run(studies.Settings(**change))


def invoke(*arguments):
    wide = {"COLUMNS": "300", "TERMINAL_WIDTH": "300"}
    return CliRunner().invoke(app, ["distill", *map(str, arguments)], env=wide)


def test_the_second_workload_in_small(tmp_path, monkeypatch):
    """Python's manual byte by byte, end to end from the command line, with a small Transformer."""
    monkeypatch.setattr(distillation, "verdict_table", lambda ops: {"laws": [], "rows": [], "notes": []})
    whole = workloads.WORKLOADS["pydoc"]
    parts = [f"{part}_{what}" for part in ("train", "test") for what in ("inputs", "labels")]
    few = {part: getattr(whole.load(0.0), part)[:128] for part in parts}
    tiny = {"width": 16, "num_layers": 1, "num_heads": 2, "context": 64}
    small = dataclasses.replace(
        whole,
        load=lambda share: dataclasses.replace(whole.load(share), **few),
        defaults={**whole.defaults, "model": tiny, "record_every": 20},
    )
    monkeypatch.setitem(workloads.WORKLOADS, "pydoc", small)
    effort = ("--seeds", 1, "--steps", 40, "--teacher-steps", 60, "--stages", 2)
    result = invoke("--data", "pydoc", *effort, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    assert "bits per byte" in result.output
    read = json.loads((tmp_path / "report.json").read_text())
    by_method = {row["method"]: row for row in read["summary"]}
    # Below the 8 bits of the uniform distribution already, and far from the entropy of the bytes themselves.
    assert 3.0 < by_method["teacher"]["nll"]["mean"] / np.log(2) < 6.5
    assert by_method["staged"]["difference"]["mean"] == pytest.approx(
        by_method["staged"]["nll"]["mean"] - by_method["teacher"]["nll"]["mean"]
    )
    pruned = {name for r in read["runs"] for name in r["layers"]}
    assert pruned == {f"blocks.0.{k}.kernel" for k in ("qkv", "out", "up", "down")} | {"head.kernel"}
    assert by_method["one-shot"]["zero_fraction"]["min"] == pytest.approx(0.8, abs=1e-3)
    assert f"{by_method['teacher']['nll']['mean'] / np.log(2):.4f}" in (tmp_path / "report.html").read_text()


@pytest.fixture(scope="module")
def plan_file(tmp_path_factory):
    plan = distill.stages(
        operator="mixture",
        temperature=distill.annealed(4.0, 2.0, 2),
        sparsity=0.8,
        num_stages=2,
        total_steps=20,
        recover_to=[0.05, None],
        teacher="previous",
    )
    path = tmp_path_factory.mktemp("plans") / "plan.json"
    path.write_text(plan.to_json())
    return path


def test_a_plan_from_a_file(plan_file, tmp_path, monkeypatch):
    monkeypatch.setattr(distillation, "verdict_table", lambda ops: {"laws": [], "rows": [], "notes": []})
    small = {"model": SMALL.model, "record_every": 5, "teacher_steps": 20, "num_seeds": 1}
    monkeypatch.setitem(
        workloads.WORKLOADS, "digits", dataclasses.replace(workloads.WORKLOADS["digits"], defaults=small)
    )
    result = invoke("--config", plan_file, "--out", tmp_path)
    assert result.exit_code == 0, result.output
    read = json.loads((tmp_path / "report.json").read_text())
    assert read["plans"]["mixture"] == json.loads(plan_file.read_text())
    assert json.loads((tmp_path / "plan-mixture.json").read_text()) == read["plans"]["mixture"]
    assert read["data"]["train"] == 1212  # a validation part was cut off
    assert read["command"] == "sparsekd distill --data digits --config plan.json --out DIR"
    rows = [json.loads(line) for line in (tmp_path / "history.jsonl").read_text().splitlines()]
    staged = [row for row in rows if row["method"] == "staged"]
    assert [row["step"] for row in staged if row.get("ended") == "recovered"] == [5]
    assert staged[-1]["step"] == 15
    others = {row["step"] for row in rows if row["method"] in ("dense", "one-shot")}
    assert max(others) == 20
    assert studies.Settings.of(read["configuration"]).plan("mixture", "one-shot").stages[0].temperature == 2.0


@pytest.mark.parametrize(
    ("arguments", "says"),
    [
        (("--temperature", 3), "leave --temperature out"),
        (("--targets-only",), "leave --targets-only out"),
    ],
)
def test_a_plan_and_its_options_contradict_each_other(plan_file, tmp_path, arguments, says):
    result = invoke("--config", plan_file, *arguments, "--out", tmp_path)
    assert result.exit_code == 2
    assert says in result.output


def test_a_plan_that_cannot_be_read_is_refused(plan_file, tmp_path):
    (tmp_path / "bad.json").write_text(plan_file.read_text().replace('"steps": 10', '"steps": 0', 1))
    for path, says in ((tmp_path / "none.json", "cannot be read"), (tmp_path / "bad.json", "(stage 1)")):
        result = invoke("--config", path, "--out", tmp_path / "out")
        assert result.exit_code == 2
        assert says in result.output
        assert "--config" in result.output


def test_a_plan_with_a_pattern_of_numbers_is_a_configuration():
    plan = distill.stages(pattern=sparsity.n_m(2, 4), sparsity=0.5, num_stages=2, total_steps=10)
    settings = studies.Settings.of_plan(distill.Plan.from_json(plan.to_json()), "digits")
    settings = studies.Settings.of(json.loads(json.dumps(dataclasses.asdict(settings))))
    settings.validate()
    assert settings.plan("power", "staged").pattern == plan.pattern
    assert settings.plan("power", "one-shot").stages[0].sparsity == 0.5
    assert settings.plan("power", "dense").stages[0].sparsity == 0.0
