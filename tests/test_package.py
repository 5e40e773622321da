"""The house as a whole: what an import costs, and what the package says of itself."""

import ast
import dataclasses
import importlib
import inspect
import itertools
import json
import logging
import os
import pkgutil
import re
import subprocess
import sys
from pathlib import Path

import pytest

import sparsekd_jax as skd


def loaded_after(statement):
    code = f"{statement}; import sys; print(' '.join(m for m in sys.modules))"
    return set(subprocess.run([sys.executable, "-c", code], capture_output=True, text=True).stdout.split())


def test_the_package_is_lazy():
    assert "jax" not in loaded_after("import sparsekd_jax")
    operators_only = loaded_after("import sparsekd_jax.operators")
    assert "jax" in operators_only
    assert not operators_only & {"flax", "optax", "hypothesis", "matplotlib", "sklearn", "rich", "typer"}


def names_of(module):
    """``__all__``, or what the module itself defines without an underscore."""
    own = [
        name for name, thing in vars(module).items() if getattr(thing, "__module__", "") == module.__name__
    ]
    return sorted(getattr(module, "__all__", [name for name in own if not name.startswith("_")]))


def public_names():
    """Of every room, and of those of theory: what a release promises."""
    rooms = {name: getattr(skd, name) for name in skd.__all__}
    rooms |= {f"theory.{name}": getattr(skd.theory, name) for name in skd.theory.__all__}
    return {name: names_of(room) for name, room in rooms.items()}


def test_public_names_are_those_that_were_promised():
    promised = json.loads((Path(__file__).parent / "public_names.json").read_text())
    assert public_names() == promised, "a changed name belongs in public_names.json and CHANGELOG.md"


def test_every_public_name_is_there_and_documented():
    for room, names in public_names().items():
        module = importlib.import_module(f"sparsekd_jax.{room}")
        for name in names:
            found = getattr(module, name)
            if inspect.isclass(found) or inspect.isroutine(found) or inspect.ismodule(found):
                assert (found.__doc__ or "").strip(), f"{room}.{name}"


def test_every_room_has_a_page_of_the_reference():
    pages = (Path(__file__).parents[1] / "docs" / "reference").glob("*.md")
    shown = {
        line.removeprefix("::: sparsekd_jax.") for page in pages for line in page.read_text().splitlines()
    }
    rooms = set(public_names()) - {"theory"}  # whose rooms are shown one by one
    assert rooms <= shown


def constants_with_docstrings():
    """Names assigned at the top of a module, with a string under them."""
    for path in PACKAGE.rglob("*.py"):
        for assigned, under in itertools.pairwise(ast.parse(path.read_text(encoding="utf-8")).body):
            if isinstance(under, ast.Expr) and isinstance(getattr(under.value, "value", None), str):
                for target in getattr(assigned, "targets", [getattr(assigned, "target", None)]):
                    yield getattr(target, "id", "")


def test_every_public_name_has_a_place_in_the_reference():
    """A room shows what has a docstring, but not a name that one of its files has too: that needs an anchor.

    `make site` looks for the anchors themselves.
    """
    pages = [p.read_text() for p in (Path(__file__).parents[1] / "docs" / "reference").glob("*.md")]
    anchored = {name for page in pages for name in re.findall(r"\{#sparsekd_jax\.([\w.]+)\}", page)}
    constants = set(constants_with_docstrings())
    missing = []
    for room, names in public_names().items():
        module = importlib.import_module(f"sparsekd_jax.{room}")
        files = {found.name for found in pkgutil.iter_modules(getattr(module, "__path__", []))}
        for name in names:
            thing = getattr(module, name)
            shown = inspect.isclass(thing) or inspect.isroutine(thing) or name in constants
            if (name in files or not shown) and f"{room}.{name}" not in anchored:
                missing.append(f"{room}.{name}")
    assert missing == [], "docs/reference: add `[](){#sparsekd_jax.…}` and a directive"


def dataclasses_of_the_package():
    for found in pkgutil.walk_packages(skd.__path__, "sparsekd_jax."):
        if not found.name.endswith("__main__"):
            module = importlib.import_module(found.name)
            for thing in vars(module).values():
                if dataclasses.is_dataclass(thing) and thing.__module__ == found.name:
                    yield thing


def test_what_holds_arrays_is_equal_to_itself_alone():
    """Field by field == of two arrays has no truth value, and their hash does not exist."""
    held = re.compile(r"ndarray|\bArray\b|PyTree")
    of_numbers = re.compile(r"Callable|\[(jaxlib\._jax\.)?Array, ''\]")  # a function, or one number
    compared = [
        f"{kind.__module__}.{kind.__name__}.{field.name}"
        for kind in dataclasses_of_the_package()
        if kind.__dataclass_params__.eq  # not one of its own, such as Tally's
        for field in dataclasses.fields(kind)
        if held.search(str(field.type)) and not of_numbers.search(str(field.type))
    ]
    assert compared == [], "give the dataclass eq=False"


def test_rooms_open_by_name():
    assert {"operators", "axioms", "distill"} <= set(dir(skd))
    assert skd.operators.names()[0] == "power"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it has axioms"):
        _ = skd.nothing


PACKAGE = Path(skd.__file__).parent


@pytest.mark.parametrize(
    "path", sorted(PACKAGE.rglob("*.py")), ids=lambda path: str(path.relative_to(PACKAGE))
)
def test_nothing_but_the_command_line_prints(path):
    tree = ast.parse(path.read_text(encoding="utf-8"))
    calls = [
        node.func.id
        for node in ast.walk(tree)
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name)
    ]
    assert "print" not in calls


def run_command(*arguments, **environment):
    """The command line in a process of its own, its output captured: no terminal."""
    command = [sys.executable, "-m", "sparsekd_jax", *arguments]
    return subprocess.run(command, capture_output=True, text=True, env=os.environ | environment)


def test_the_package_is_a_command():
    shown = run_command("--version").stdout.splitlines()
    assert shown[0] == f"sparsekd {skd.__version__}"
    assert {line.split()[0] for line in shown} >= {"jax", "jaxlib", "flax", "optax", "Python"}


def commands(group, path=()):
    """Every command of the program with the words that call it."""
    yield path, group
    for name, command in getattr(group, "commands", {}).items():
        yield from commands(command, (*path, name))


def test_help_shows_every_word_that_was_written():
    """Rich's markup would drop "[n, K]" and the extra of a pip command."""
    from typer.main import get_command
    from typer.testing import CliRunner

    from sparsekd_jax.cli import app

    plain = lambda text: re.sub(r"[\s`│]+", "", text)  # noqa: E731
    written = []
    for path, command in commands(get_command(app)):
        shown = CliRunner().invoke(app, [*path, "--help"], env={"COLUMNS": "400", "NO_COLOR": "1"}).output
        said = [command.help or "", *(getattr(option, "help", None) or "" for option in command.params)]
        for text in filter(None, said):
            assert plain(text) in plain(shown), (path, text)
        written += said
    assert len([text for text in written if re.search(r"\[[a-z]", text)]) >= 3


@pytest.mark.parametrize(
    "environment", [{}, {"NO_COLOR": "1", "FORCE_COLOR": "1"}], ids=["a pipe", "NO_COLOR"]
)
def test_no_colour_where_none_is_wanted(environment):
    found = run_command("axioms", "label-smoothing", "--laws", "A4", "--classes", "3", **environment)
    assert "A4" in found.stdout
    assert not re.search(r"\x1b\[[0-9;]*[349][0-7]m", found.stdout + found.stderr)


def test_a_run_says_where_it_is_to_who_listens(caplog, tmp_path):
    import numpy as np
    import optax
    from flax import nnx

    arrays = {"train_inputs": np.eye(4, dtype=np.float32), "train_labels": np.arange(4, dtype=np.int32) % 2}
    data = skd.data.Arrays(
        **arrays,
        test_inputs=arrays["train_inputs"],
        test_labels=arrays["train_labels"],
        num_classes=2,
        name="four",
    )
    plan = skd.distill.stages(sparsity=0.5, num_stages=2, total_steps=2, temperature=2.0)
    model = skd.models.MLP((4, 2), rngs=nnx.Rngs(0))
    with caplog.at_level(logging.INFO, logger="sparsekd_jax"):
        skd.distill.run(
            model, model, data, plan, optimizer=optax.sgd(0.1), seed=0, batch_size=4, checkpoint_dir=tmp_path
        )
    said = [record.getMessage() for record in caplog.records if record.name.startswith("sparsekd_jax")]
    assert said[0] == "stage 1: sparsity 0.4375, steps 0 of 2"
    assert "saving step 2 of 2" in said
