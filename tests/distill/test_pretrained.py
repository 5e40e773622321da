"""A student saved as a folder comes back with the same bits, or not at all."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from flax import nnx
from safetensors.numpy import load_file

from sparsekd_jax import distill, models, sparsity


class Noisy(nnx.Module):
    """With batch statistics and a scalar, which are saved, and a random stream, which is not."""

    def __init__(self, width, *, rngs):
        self.first = nnx.Linear(4, width, rngs=rngs, param_dtype=jnp.bfloat16, dtype=jnp.float32)
        self.norm = nnx.BatchNorm(width, rngs=rngs)
        self.dropout = nnx.Dropout(0.5, rngs=rngs)
        self.last = nnx.Linear(width, 3, rngs=rngs)
        self.sharpness = nnx.Param(jnp.asarray(1.5))

    def __call__(self, x):
        return self.sharpness[...] * self.last(self.dropout(self.norm(self.first(x))))


def build(width):
    return Noisy(width, rngs=nnx.Rngs(7))


@pytest.fixture
def student():
    model = Noisy(5, rngs=nnx.Rngs(0))
    model(jnp.arange(8.0).reshape(2, 4))  # moves the statistics
    kernel = model.last.kernel
    kernel[...] = jnp.where(jnp.abs(kernel[...]) < 0.3, 0, kernel[...])
    return model


def test_it_comes_back_with_the_same_bits(student, tmp_path):
    distill.save_pretrained(student, tmp_path / "a" / "b", {"width": 5})
    again = distill.load_pretrained(tmp_path / "a" / "b", build)
    for model in (student, again):
        model.eval()
    x = jnp.linspace(-1, 1, 12).reshape(3, 4)
    assert jnp.array_equal(student(x), again(x))
    kept = nnx.Not(nnx.RngState)
    same = jax.tree.map(
        lambda a, b: a.dtype == b.dtype and bool((a == b).all()),
        nnx.state(student, kept),
        nnx.state(again, kept),
    )
    assert all(jax.tree.leaves(same))
    assert sparsity.zero_fraction(nnx.state(again, nnx.Param)) > 0


def test_others_can_read_it(student, tmp_path):
    distill.save_pretrained(student, tmp_path, {"width": 5})
    arrays = load_file(tmp_path / "model.safetensors")
    np.testing.assert_array_equal(arrays["last.kernel"], student.last.kernel[...])
    assert not any("rng" in name or "dropout" in name for name in arrays)
    config = json.loads((tmp_path / "config.json").read_text())
    assert config["width"] == 5
    assert config["_sparsekd_jax"]["module"] == "Noisy"


def test_another_module_is_refused(student, tmp_path):
    distill.save_pretrained(student, tmp_path, {"width": 5})
    with pytest.raises(
        ValueError, match=r"another module: .*first.bias is bfloat16\(5,\) for bfloat16\(6,\)"
    ):
        distill.load_pretrained(tmp_path, lambda width: build(width + 1))
    with pytest.raises(ValueError, match=r"layers.0.kernel is missing; .*last.bias is not of the module"):
        distill.load_pretrained(tmp_path, lambda width: models.MLP((4, 3), rngs=nnx.Rngs(0)))
    with pytest.raises(TypeError, match="what build returns is a int"):
        distill.load_pretrained(tmp_path, lambda width: width)


def test_a_damaged_or_missing_file_is_refused(student, tmp_path):
    with pytest.raises(FileNotFoundError, match=r"has no config\.json; save_pretrained"):
        distill.load_pretrained(tmp_path, build)
    distill.save_pretrained(student, tmp_path, {"width": 5})
    whole = (tmp_path / "model.safetensors").read_bytes()
    (tmp_path / "model.safetensors").write_bytes(whole[:-9])
    with pytest.raises(ValueError, match="a file is damaged"):
        distill.load_pretrained(tmp_path, build)
    (tmp_path / "model.safetensors").unlink()
    with pytest.raises(FileNotFoundError, match=r"has no model.safetensors"):
        distill.load_pretrained(tmp_path, build)


@pytest.mark.parametrize(
    ("config", "message"),
    [
        ({"x": object()}, "no JSON"),
        ({"x": float("nan")}, "no JSON"),
        ({"sizes": (1, 2)}, "give lists for tuples"),
        ({1: 2}, "text for keys"),
    ],
)
def test_a_config_that_json_does_not_keep_is_refused(student, tmp_path, config, message):
    with pytest.raises(TypeError, match=message):
        distill.save_pretrained(student, tmp_path, config)
    assert not list(tmp_path.iterdir()), "nothing is written"


def test_parameters_are_no_student(student, tmp_path):
    with pytest.raises(TypeError, match=r"pass the nnx\.Module itself"):
        distill.save_pretrained(nnx.state(student), tmp_path)
    with pytest.raises(ValueError, match="leave it out"):
        distill.save_pretrained(student, tmp_path, {"_sparsekd_jax": 1})
