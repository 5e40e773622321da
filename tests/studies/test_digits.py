"""The main job in small: numbers that hang together, files that read back, a page that stands alone."""

import dataclasses
import json
import re

import numpy as np
import pytest
from scipy import stats

from sparsekd_jax import distill, studies
from sparsekd_jax.studies import digits

SMALL = studies.Settings(
    operators=("power", "mixture"),
    num_seeds=2,
    steps=20,
    teacher_steps=20,
    num_stages=2,
    hidden=(16,),
    record_every=10,
    sparsity=0.8,
)


@pytest.fixture(scope="module")
def report():
    return studies.run(SMALL, laws=False)


def test_every_seed_operator_and_method_ran(report):
    ran = [(r["seed"], r["operator"], r["method"]) for r in report["runs"]]
    methods = [(op, method) for op in SMALL.operators for method in ("dense", "one-shot", "staged")]
    assert sorted(map(str, ran)) == sorted(
        str((seed, *which)) for seed in (0, 1) for which in [(None, "teacher"), *methods]
    )


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
        for operator in SMALL.operators:
            for method in ("dense", "one-shot", "staged"):
                here = [row for row in rows if (row["operator"], row["method"]) == (operator, method)]
                assert here[0]["event"] == "start"
                assert here[0]["accuracy"] == teacher_end["accuracy"]
                assert here[-1]["step"] == SMALL.steps


def test_the_same_settings_give_the_same_numbers(report):
    again = studies.run(SMALL, laws=False)
    for key in ("runs", "summary", "history"):
        assert again[key] == report[key]


def test_files_read_back(report, tmp_path):
    paths = studies.write_report(report, tmp_path / "new" / "folder")
    assert set(paths) == {
        "report.json",
        "report.html",
        "history.jsonl",
        "student-power.safetensors",
        "student-mixture.safetensors",
    }
    read = json.loads(paths["report.json"].read_text())
    assert read["summary"] == report["summary"]
    assert digits.Settings.of(read["configuration"]) == SMALL
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


def test_the_page_stands_alone_and_carries_the_numbers(report):
    page = digits.page(report)
    assert not re.search(r'(?:src|href)="(?!data:)', page), "the page reaches for another file"
    assert "http" not in re.sub(r"data:[^\"]*", "", page)
    for row in report["summary"]:
        assert f"{100 * row['accuracy']['mean']:.2f}" in page
        assert row["label"] in page
    assert page.count("<img ") == 1 + 2 + 2  # accuracy, curves and triangle for each operator
    assert page.count('alt="') == page.count("<img ")
    assert "Laws of the operator" not in page
    assert page == digits.page(report), "drawing twice gives two pages"


def test_verdicts_show_as_letters_and_witnesses(report):
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
    page = digits.page({**report, "verdicts": verdicts})
    assert '<td class="mark holds">H</td>' in page
    assert '<td class="mark fails">F</td>' in page
    assert "p = (.9, .1) &lt; q" in page


def test_one_seed_makes_a_page_without_intervals():
    settings = dataclasses.replace(SMALL, num_seeds=1, operators=("power",))
    report = studies.run(settings, laws=False)
    assert report["summary"][0]["accuracy"]["low"] is None
    assert "one seed" in digits.page(report)
    assert json.dumps(report["summary"], allow_nan=False)


def test_the_stage_table_follows_the_plan(report):
    rows = digits.stage_rows(report, "power", SMALL)
    plan = distill.stages(sparsity=0.8, num_stages=2, total_steps=20)
    assert [row["sparsity"] for row in rows] == [stage.sparsity for stage in plan.stages]
    ends = [
        row["accuracy"]
        for row in report["history"]
        if (row["operator"], row["method"], row["step"], row["event"]) == ("power", "staged", 20, "train")
    ]
    assert rows[-1]["recovered"] == pytest.approx(np.mean(ends))


def test_the_command_line_repeats_the_settings():
    assert digits.command(studies.Settings()) == "sparsekd distill --data digits --out DIR"
    odd = studies.Settings(operators=("tsallis(1.5)",), steps=100, soften_student=False)
    assert digits.command(odd) == (
        "sparsekd distill --data digits --operator 'tsallis(1.5)' --steps 100 --targets-only --out DIR"
    )


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
