"""``sparsekd axioms``: exit statuses, witnesses, files, and errors that say what to do."""

import json
import re
import subprocess
import sys

import pytest
from typer.testing import CliRunner

from sparsekd_jax import axioms
from sparsekd_jax.cli import app

MODULE = """
import jax.numpy as jnp
from sparsekd_jax.operators import ConvexMixture


def banded(p, T):
    t = jnp.where((T > 11.3) & (T < 11.5), T - 1.0, T)
    w = p ** (1 / t)
    return w / w.sum()


def lawful(p, T):
    w = p ** (1 / T)
    return w / w.sum()


def cosine(T):
    return (1 - jnp.cos(jnp.pi * (1 - 1 / T))) / 2


scheduled = ConvexMixture(cosine)
answer = 42
"""


@pytest.fixture
def module(tmp_path, monkeypatch):
    (tmp_path / "mymodule.py").write_text(MODULE)
    monkeypatch.chdir(tmp_path)
    monkeypatch.delitem(sys.modules, "mymodule", raising=False)
    return tmp_path


def run(*arguments, columns=120):
    return CliRunner().invoke(app, ["axioms", *arguments], env={"COLUMNS": str(columns), "NO_COLOR": "1"})


def test_a_narrow_band_exits_1_with_a_witness(module):
    result = run("mymodule:banded", "--laws", "A1,A3", "--classes", "2,3")
    assert result.exit_code == 1, result.output
    assert "A3 entropy monotonicity: S ≤ T ⇒ H(F_S(p)) ≤ H(F_T(p))" in result.output
    assert "broken at p = " in result.output
    assert "1 of 2 claims broken: A3" in result.output


def test_a_lawful_function_exits_0_and_writes_files(module):
    result = run(
        "mymodule:lawful", "--laws", "A1,A4", "--classes", "2", "--json", "r.json", "--html", "r.html"
    )
    assert result.exit_code == 0, result.output
    data = json.loads((module / "r.json").read_text())
    assert data[0]["operator"] == "lawful"
    assert data[0]["ok"]
    assert "Verified axioms" in (module / "r.html").read_text()


def test_several_operators_make_a_table(module):
    result = run("power", "mixture", "tsallis(1.5)", "--laws", "A1,A4", "--classes", "2")
    assert result.exit_code == 0, result.output
    assert "tsallis(1.5)" in result.output
    assert "undecided" in result.output  # the legend
    assert "…" not in result.output  # no column head is cut


@pytest.mark.parametrize("columns", [80, 60])
def test_no_word_of_a_report_is_cut(module, columns):
    said = run("mymodule:banded", "--classes", "2", columns=columns).output
    assert "…" not in said
    for law in axioms.LAWS:
        assert re.search(rf"^ ?{law} ", said, re.MULTILINE), said


def test_a_margin_of_nan_is_no_case_without_a_judgement(module):
    """0/0 at the vertices breaks A4 there; in the interior it was judged, and holds."""
    (module / "zeros.py").write_text("def f(p, T):\n    return p * p ** (1 / T) / p ** (1 / T)\n")
    said = run("zeros:f", "--laws", "A4", "--classes", "2").output
    assert "holds on the interior" in said
    assert "-inf" in said
    assert "no case could be decided" not in said


def test_the_legend_is_a_line_of_its_own_below_a_narrow_table(module):
    said = run("power", "mixture", "--laws", "A4", "--classes", "2").output
    assert any("H holds on the simplex" in line and "not applicable" in line for line in said.splitlines())


def test_a_name_in_brackets_is_printed(module):
    """Rich would take [cosine] for a tag: in a title, a summary, the row of a table and a path."""
    out = module / "[plain]"
    out.mkdir()
    options = ("--laws", "A4", "--classes", "2")
    one = run("mymodule:scheduled", *options, "--html", str(out / "r.html"))
    assert one.output.count("mixture[cosine]") == 2, one.output
    assert "[plain]" in one.output
    assert "mixture[cosine]" in run("mymodule:scheduled", "power", *options).output


def test_a_function_that_raises_is_no_failed_claim(module):
    """Status 1 says that a claim fails; what raises is a usage error, and its line is named."""
    (module / "crashes.py").write_text("def boom(p, T):\n    raise RuntimeError('too hot')\n")
    (module / "typo.py").write_text("def f(p, T) return p\n")
    (module / "dies.py").write_text("1 / 0\n")
    (module / "value.py").write_text("def f(p, T):\n    raise ValueError('a zero')\n")
    (module / "shapes.py").write_text("import jax.numpy as jnp\ndef f(p, T):\n    return p + jnp.ones(7)\n")
    for name, words in (
        ("crashes:boom", ("boom raised RuntimeError: too hot", "crashes.py:2: raise RuntimeError")),
        ("typo:f", ("'typo' cannot be imported", "SyntaxError", "line 1")),
        ("dies:f", ("'dies' cannot be imported", "ZeroDivisionError", "dies.py:1")),
        ("value:f", ("f raised ValueError: a zero", "value.py:2: raise ValueError")),
        ("shapes:f", ("f raised TypeError: add got incompatible shapes", "shapes.py:3: return p")),
    ):
        result = run(name, "--laws", "A1", "--classes", "2")
        assert result.exit_code == 2, result.output
        plain = " ".join(re.sub("[│╭╰─╮╯]", " ", result.output).split())
        for word in words:
            assert word in plain or word.replace(" ", "") in plain.replace(" ", ""), plain


def test_laws_are_listed():
    result = run("--laws", "list")
    assert result.exit_code == 0
    assert "semigroup" in result.output


def test_a_range_is_respected(module):
    result = run("mymodule:banded", "--laws", "A3", "--classes", "2", "--temperatures", "1:11")
    assert result.exit_code == 0, result.output


@pytest.mark.parametrize(
    ("arguments", "words"),
    [
        ([], "no operator is named"),
        (["powr"], "did you mean 'power'"),
        (["tsallis"], "needs alpha"),
        (["nowhere:thing"], "cannot be imported"),
        (["mine.py"], "mine.py is a file; give mine:function"),
        (["mymodule:missing"], "has no 'missing'"),
        (["mymodule:answer"], "must be a function"),
        (["power", "--laws", "A9"], "is not a law"),
        (["power", "--classes", "1,2"], "below 2"),
        (["power", "--classes", "two"], "not a list of whole numbers"),
        (["power", "--temperatures", "20"], "not LOW:HIGH"),
        (["power", "--temperatures", "5:2"], "0 ≤ LOW < HIGH"),
        (["entropy-projection", "--temperatures", "0.1:0.5"], "nothing in common"),
        (["power", "--json", "no/such/dir/f.json"], "does not exist"),
        (["power", "--html", "."], "is a directory; name a file"),
    ],
)
def test_usage_errors_exit_2_and_say_what_to_do(module, arguments, words):
    result = run(*arguments)
    assert result.exit_code == 2, result.output
    unwrapped = " ".join(result.output.replace("│", " ").split())
    assert words in unwrapped


def test_the_module_entry_point_answers():
    done = subprocess.run([sys.executable, "-m", "sparsekd_jax", "axioms", "--help"], capture_output=True)
    assert done.returncode == 0
    assert b"module:attribute" in done.stdout
