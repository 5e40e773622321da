"""`sparsekd bench` runs and says what it measured; how fast anything is, no test asserts."""

import datetime
import functools
import importlib.util
import json
import sys
import types

import jax
import numpy as np
import pytest
from jax.experimental.compilation_cache import compilation_cache
from typer.testing import CliRunner

import sparsekd_jax as skd
from benchmarks import goals
from sparsekd_jax.bench import (
    axiom_checks,
    fused_loss,
    growth,
    operators,
    reading,
    rivals,
    startup,
    target_cache,
    timing,
    torch_loop,
    training,
)
from sparsekd_jax.cli import app


def test_rounds_are_interleaved():
    order = []
    times = timing.interleave([lambda: order.append("a"), lambda: order.append("b")], 3, lambda i: None)
    assert order == ["a", "b"] * 3
    assert [len(own) for own in times] == [3, 3]


@pytest.mark.usefixtures("standard_promotion")
def test_operators_are_set_beside_the_baseline_and_their_rivals(tmp_path):
    out, markdown = tmp_path / "results.json", tmp_path / "results.md"
    arguments = ["bench", "operators", "--rows", "16", "--classes", "8", "--rounds", "2", "--only", "power"]
    arguments += ["--only", "tsallis(1.5)", "--json", str(out), "--markdown", str(markdown)]
    result = CliRunner().invoke(app, arguments, env={"COLUMNS": "40"})
    assert result.exit_code == 0, result.output
    assert "…" not in result.output, "a number without its last digits is another number"
    assert "jax.nn.softmax(z / T)" in result.output
    assert "jax.nn.softmax(z / T)" in markdown.read_text()
    read = json.loads(out.read_text())
    assert set(read) == {"machine", "operators"}
    assert {"device", "cores", "jax"} <= set(read["machine"])
    (at,) = read["operators"]["shapes"]
    rows = {(row["operator"], row["entry"]): row for row in at["rows"]}
    ours = [("power", entry) for entry in ("logits", "probabilities", "log")]
    ours += [("tsallis(1.5)", entry) for entry in ("logits", "probabilities")]
    ours += [("tsallis(1.5), T = 0.5", "probabilities")]
    assert list(rows)[:7] == [(operators.BASELINE, "logits"), *ours]
    assert ("scipy brentq: tsallis(1.5)", "probabilities") in rows
    assert rows[operators.BASELINE, "logits"]["ratio"] == 1
    for row in at["rows"]:
        assert row["median_ms"] >= row["min_ms"] >= 0
        assert row["gb_per_s"] >= 0
        assert row["normalisation_error"] is None or row["normalisation_error"] < 1e-5
    assert all(rows[key]["gradient_ratio"] > 0 for key in ours)


def test_one_part_goes_into_what_a_file_has_of_this_machine(tmp_path, monkeypatch):
    """And into nothing else: not a file of another machine, nor one of other things."""
    monkeypatch.setattr(startup, "measure", lambda progress: {"stub": 1})
    monkeypatch.setattr(startup, "table", lambda measured: f"start-up of {measured['stub']}")
    monkeypatch.setattr(target_cache, "measure", lambda progress: {"stub": 2})
    monkeypatch.setattr(target_cache, "table", lambda measured: f"cache of {measured['stub']}")
    out, markdown = tmp_path / "results.json", tmp_path / "results.md"

    def run(part):
        arguments = ["bench", part, "--json", str(out), "--markdown", str(markdown)]
        return CliRunner().invoke(app, arguments, env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})

    assert run("startup").exit_code == run("cache").exit_code == run("startup").exit_code == 0
    assert json.loads(out.read_text()).keys() == {"machine", "startup", "cache"}
    assert markdown.read_text().index("cache of 2") < markdown.read_text().index("start-up of 1")
    assert markdown.read_text().splitlines()[0].count(datetime.date.today().isoformat()) == 2  # each its own
    found = json.loads(out.read_text())
    out.write_text(json.dumps(found | {"machine": found["machine"] | {"cores": 999}}))
    refused = run("cache")
    assert refused.exit_code == 2
    assert "is of another machine or version (cores 999, here " in refused.output
    out.write_text("[]")
    assert "holds something else" in run("cache").output
    assert out.read_text() == "[]"


def test_a_gradient_is_divided_by_its_forward_of_the_same_round(monkeypatch):
    loops = []

    def slower_each_time(calls, rounds, on_round):
        loops.append(len(calls))
        share = (7, 1, 2)  # the forward that is not counted, that which is, the gradient
        return [
            [10.0 ** len(loops) * share[k % 3] * (i + 1) for i in range(rounds)] for k in range(len(calls))
        ]

    monkeypatch.setattr(operators, "interleave", slower_each_time)
    result = operators.measure(shapes=((4, 3),), rounds=4, families=("power",))
    timed = [row for row in result["shapes"][0]["rows"] if row["gradient_ms"] is not None]
    assert loops[1] == 3 * len(timed)
    assert [row["gradient_ratio"] for row in timed] == [2.0] * 4


@pytest.mark.parametrize("name", ["tsallis(1.5)", "entropy-projection"])
def test_rivals_compute_what_the_operator_does(name):
    z, p, t = operators.batch((16, 8), 4.0)
    own = np.asarray(skd.operators.parse(name)(p, t))
    beside = [r for r in rivals.rivals(*map(np.asarray, (z, p, t))) if r.operator == name]
    assert beside
    for rival in beside:
        np.testing.assert_allclose(rivals.rows_of(rival.call()), own, atol=2e-5)


@pytest.mark.usefixtures("standard_promotion")
def test_growth_has_a_curve_a_cost_and_draws_them():
    result = growth.measure(sizes=(8, 16), counts=(1, 2), fixed=4, steps=2, rounds=1, families=("power",))
    found = [(curve["what"], curve["over"]) for curve in result["curves"]]
    kinds = [growth.COPY, growth.BASELINE, "power"]
    assert found == [
        *((kind, "classes") for kind in kinds),
        *((kind, "rows") for kind in kinds),
        ("training", "stages"),
        ("training", "members"),
    ]
    assert growth.table(result).row_count == 8
    axes = growth.figure(result).axes
    assert [len(ax.lines) for ax in axes] == [3, 3, 2, 0]
    assert [ax.get_visible() for ax in axes] == [True, True, True, False]
    points = [{"vocab_size": size, "median_ms": float(size)} for size in (8, 16)]
    losses = {"growth": {"tokens": 4, "points": points, "exponents": {"median_ms": 1.0}}}
    *_, last = growth.figure(result, losses).axes
    assert [text.get_text() for text in last.get_legend().get_texts()] == [
        "loss and gradients: exponent 1.00"
    ]


def test_checks_are_timed_with_their_outcome():
    result = axiom_checks.measure(only=("power",), laws=("A4",), num_classes=(2,))
    (row,) = result["rows"]
    assert row["operator"] == "power"
    assert row["ok"]
    assert row["wall_s"] > 0
    assert axiom_checks.table(result).row_count == 1


def test_reading_is_set_beside_parsing():
    result = reading.measure(records=2, rounds=1)
    assert [row["form"] for row in result["rows"][::3]] == list(reading.FORMS)
    for row in result["rows"][2::3]:
        assert row["what"] == reading.READER
        assert set(row["ratio"]) == set(reading.BASELINES)
        assert min(row["ratio"].values()) > 0
    assert reading.table(result).row_count == 9


@pytest.mark.usefixtures("standard_promotion")
def test_losses_are_set_beside_the_plain_one_with_their_errors():
    result = fused_loss.measure(
        tokens=9, width=4, vocab_size=50, rounds=1, growth_tokens=4, vocabularies=(32, 64), growth_rounds=1
    )
    names = [row["loss"] for row in result["rows"]]
    assert set(fused_loss.JITTED) <= set(names)
    assert result["rows"][0]["ratio"] == 1
    assert fused_loss.FLOOR in names
    for row in result["rows"]:
        if row["loss"] == fused_loss.FLOOR:
            assert row["value_error"] is None, "products are no loss"
            continue
        assert row["value_error"] < 1e-5
        assert row["gradient_error"] < 1e-5
    assert set(result["growth"]["exponents"]) == {"median_ms", "temporaries_mb", "plain_temporaries_mb"}
    assert len(fused_loss.table(result).renderables) == 2


@pytest.mark.usefixtures("standard_promotion")
def test_training_is_set_beside_a_plain_loop():
    result = training.measure(steps=4, ensemble_steps=4, members=(), rounds=1, progress=lambda label: None)
    loops = {row["loop"]: row["ratio"] for row in result["loops"]}
    assert set(loops) - {"PyTorch loop"} == {"jitted loop", "run", "unmasked run"}
    assert loops[result["baseline"]] == 1
    assert result["resume_s"] > 0
    assert training.table(result).row_count == len(loops)


@pytest.mark.usefixtures("standard_promotion")
def test_the_size_from_which_an_ensemble_pays_is_stated(tmp_path, monkeypatch):
    small = functools.partial(training.measure, steps=4, ensemble_steps=4, rounds=1)
    monkeypatch.setattr(training, "measure", small)
    out = tmp_path / "training.json"
    arguments = [
        "bench",
        "training",
        "--members",
        "2",
        "--members",
        "1",
        "--members",
        "2",
        "--json",
        str(out),
    ]
    result = CliRunner().invoke(app, arguments)
    assert result.exit_code == 0, result.output
    read = json.loads(out.read_text())["training"]
    assert [row["members"] for row in read["ensembles"]] == [1, 2]
    assert all(row["ratio"] > 0 < row["ratio_with_compilation"] for row in read["ensembles"])
    assert "together is faster" in result.output

    def said(*ratios):
        rows = [
            {"members": m, "ensemble_s": 1.0, "ratio": ratio, "ratio_with_compilation": 0.5}
            for m, ratio in zip((1, 4, 16), ratios, strict=True)
        ]
        table = training.table({**read, "ensembles": rows})
        return [list(column.cells)[-1] for column in table.columns]

    assert said(1.2, 0.9, 1.1) == [
        "together is faster",
        "from 16 members on",
        "with compilation not up to 16",
    ]
    assert said(0.8, 1.2, 1.1)[1] == "from 4 members on"
    assert said(0.8, 1.2, 1.0)[1] == "not up to 16", "a draw is not faster"


@pytest.mark.parametrize("platform", ["gpu", "tpu"])
def test_pytorch_without_the_device_of_jax_is_no_rival(platform, monkeypatch):
    torch = types.ModuleType("torch")
    torch.nn = types.ModuleType("torch.nn")
    torch.nn.functional = torch.cuda = types.SimpleNamespace(is_available=lambda: False)
    monkeypatch.setitem(sys.modules, "torch", torch)
    monkeypatch.setitem(sys.modules, "torch.nn", torch.nn)
    monkeypatch.setattr(jax, "devices", lambda: [types.SimpleNamespace(platform=platform)])
    digits, options = skd.data.digits(), {"steps": 1, "sparsity": 0.0, "learning_rate": 1e-3}
    assert torch_loop.loop(digits, np.zeros((1347, 10)), **options) is None
    assert fused_loss._torch((np.zeros((2, 2)),) * 5) is None
    rows = np.full((2, 2), 0.5)
    assert {rival.name for rival in rivals.rivals(rows, rows, np.ones(2))} == {"scipy brentq"}


def test_a_cold_call_leaves_the_cache_on_disk_alone(tmp_path):
    double, x = jax.jit(lambda x: 2 * x), np.ones(3, np.float32)
    options = {"jax_compilation_cache_dir": str(tmp_path), "jax_persistent_cache_min_compile_time_secs": 0}
    before = {name: getattr(jax.config, name) for name in options}
    try:
        for name, value in options.items():
            jax.config.update(name, value)
        assert training._compiled_anew(lambda: double(x)) > 0
        assert list(tmp_path.iterdir()) == []
        jax.clear_caches()
        double(x)
        assert list(tmp_path.iterdir()), "the cache is on again"
    finally:
        for name, value in before.items():
            jax.config.update(name, value)
        compilation_cache.reset_cache()


def test_a_cache_is_weighed_and_float16_has_its_price():
    result = target_cache.measure(rows=2000, vocab_size=2000, k=20, noises=(2.0,))
    wide, narrow = result["rows"]
    assert (wide["dtype"], narrow["dtype"]) == ("float32", "float16")
    assert narrow["bytes_per_token"] < wide["bytes_per_token"] < result["plain_bytes"]
    assert 0 <= wide["kl_mean"] < 1e-12 < narrow["kl_mean"] <= narrow["kl_max"] < 1e-5
    assert target_cache.table(result).row_count == 2


def test_start_up_is_set_beside_jax():
    result = startup.measure(rounds=1)
    assert [row["command"] for row in result["rows"]] == list(startup.COMMANDS)
    assert all(row["median_s"] > 0 for row in result["rows"])
    assert startup.table(result).row_count == len(startup.COMMANDS) + 1


def test_the_goals_are_those_of_the_results():
    results = json.loads((goals.HERE / "results.json").read_text())
    page = goals.page(results)
    assert (goals.HERE / "goals.md").read_text() == page, "run python -m benchmarks.goals"
    lines = page.splitlines()[2:]
    assert len(lines) == len(goals.GOALS)
    # The twins: a slower library is told so, and what was not run or had no rival is not called measured.
    results["training"]["baseline"] = "jitted loop"
    for at in results["operators"]["shapes"]:
        at["rows"] = [row for row in at["rows"] if not row["operator"].startswith("entmax")]
    results["startup"]["rows"].reverse()
    alone = {line.split(" |")[0]: line for line in goals.page(results).splitlines()}
    for name in (
        "digits, × steps a second of a PyTorch loop",
        "Tsallis-1.5, times faster than entmax's sort",
    ):
        assert alone[f"| {name}"] == f"| {name} | | not measured | |"
    (said,) = (line for line in lines if line.startswith("| sparsekd --help"))
    assert alone["| sparsekd --help, s"] == said
    assert goals.page({}).count("| | not measured | |") == len(goals.GOALS)
    del results["training"]
    results["startup"]["operators_over_jax_s"] = 1.0
    (line,) = (line for line in goals.page(results).splitlines() if "import of operators" in line)
    assert line.endswith("| ≤ 0.3 | 1 | **not met**: no reason is known |")
    (line,) = (line for line in goals.page(results).splitlines() if "resume" in line)
    assert line.endswith("| not measured | |")
    del results["startup"]["operators_over_jax_s"]
    with pytest.raises(KeyError, match="operators_over_jax_s"):
        goals.page(results)


@pytest.fixture
def standard_promotion():
    """The plain loop calls optax directly, which is not written for strict promotion."""
    with jax.numpy_dtype_promotion("standard"):
        yield


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        (["everything"], "everything"),
        (["operators", "--classes", "1"], "--classes"),
        (["all", "--json", "no/such/dir/f.json"], "does not exist"),
        (["operators", "--figure", "f.svg"], "does not measure"),
        (["operators", "--only", "powr"], "'--only': unknown operator 'powr'; did you mean 'power'?"),
        (["growth", "--only", "tsallis(1.5"], "write tsallis(alpha)"),
        (
            ["losses", "--only", "power"],
            "does not take it, but operators and growth and axioms; leave it out",
        ),
        (["training", "--rounds", "2"], "`sparsekd bench training` does not take it, but operators"),
        (["growth", "--rows", "4"], "'--rows'"),
        (["startup", "--temperature", "2"], "'--temperature'"),
        (["operators", "--members", "4"], "does not take it, but training; leave it out"),
        (["training", "--members", "0"], "--members"),
        (["operators", "--classes", "50"], "give both"),
        (["operators", "--temperature", "inf"], "finite"),
        (["axioms", "--only", "powr"], "'powr' is no row of the checks; the rows are power; mixture;"),
    ],
)
def test_usage_errors_exit_2(arguments, words):
    result = CliRunner().invoke(app, ["bench", *arguments], env={"COLUMNS": "300", "TERMINAL_WIDTH": "300"})
    assert result.exit_code == 2, result.output
    assert words in result.output


@pytest.mark.parametrize(
    ("what", "package"), [("cache", "pyarrow"), ("reading", "orjson"), ("all", "orjson"), ("all", "pyarrow")]
)
def test_a_missing_package_is_named_before_anything_is_measured(what, package, monkeypatch):
    found = importlib.util.find_spec
    monkeypatch.setattr(
        importlib.util, "find_spec", lambda name, *rest: None if name == package else found(name, *rest)
    )
    for part in (operators, reading, target_cache):
        monkeypatch.setattr(part, "measure", lambda **options: pytest.fail("measured"))
    result = CliRunner().invoke(app, ["bench", what])
    assert result.exit_code == 1, result.output
    assert f"needs {package}: pip install 'sparsekd_jax[bench]'" in result.output
