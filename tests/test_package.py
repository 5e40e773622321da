"""The house as a whole: what an import costs, and what the package says of itself."""

import importlib
import inspect
import json
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


def test_rooms_open_by_name():
    assert {"operators", "axioms", "distill"} <= set(dir(skd))
    assert skd.operators.names()[0] == "power"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it has axioms"):
        _ = skd.nothing
