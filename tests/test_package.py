"""The house as a whole: what an import costs, and what the package says of itself."""

import subprocess
import sys

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


def test_rooms_open_by_name():
    assert {"operators", "axioms", "distill"} <= set(dir(skd))
    assert skd.operators.names()[0] == "power"
    with pytest.raises(AttributeError, match="has no attribute 'nothing'; it has axioms"):
        _ = skd.nothing
