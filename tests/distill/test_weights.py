"""The file of weights, read back by hand."""

import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest
import safetensors
from flax import nnx

from sparsekd_jax import distill, models


def test_the_bytes_are_the_format(tmp_path):
    shapes = nnx.to_pure_dict(
        nnx.state(nnx.eval_shape(lambda: models.MLP((4, 3, 2), rngs=nnx.Rngs(0))), nnx.Param)
    )
    rng = np.random.default_rng(0)
    params = jax.tree.map(lambda leaf: jnp.asarray(rng.normal(size=leaf.shape).astype(np.float32)), shapes)
    distill.save_safetensors(tmp_path / "w.safetensors", params, {"seed": "0"})
    raw = (tmp_path / "w.safetensors").read_bytes()
    size = int.from_bytes(raw[:8], "little")
    header = json.loads(raw[8 : 8 + size])
    assert size % 8 == 0
    assert header.pop("__metadata__") == {"seed": "0"}
    assert set(header) == {f"layers.{i}.{leaf}" for i in (0, 1) for leaf in ("kernel", "bias")}
    for name, entry in header.items():
        _, layer, leaf = name.split(".")
        start, end = entry["data_offsets"]
        array = np.frombuffer(raw[8 + size + start : 8 + size + end], "<f4").reshape(entry["shape"])
        np.testing.assert_array_equal(array, params["layers"][int(layer)][leaf])
    assert 8 + size + max(entry["data_offsets"][1] for entry in header.values()) == len(raw)
    assert not list(tmp_path.glob("*.partial"))


def test_a_dtype_outside_the_format_is_named(tmp_path):
    with pytest.raises(TypeError, match="a int4"):
        distill.save_safetensors(tmp_path / "w", {"a": jnp.ones(2, jnp.int4)})


def test_two_arrays_of_one_name_are_refused(tmp_path):
    with pytest.raises(ValueError, match=r"params has 2 arrays of the name a\.b; rename one"):
        distill.save_safetensors(tmp_path / "w", {"a": {"b": jnp.ones(2)}, "a.b": jnp.zeros(2)})
    assert not (tmp_path / "w").exists()


def test_a_scalar_stays_one(tmp_path):
    distill.save_safetensors(tmp_path / "w", {"a": jnp.asarray(2.0), "b": jnp.ones((3, 2)).T})
    with safetensors.safe_open(tmp_path / "w", "numpy") as file:
        assert file.get_slice("a").get_shape() == []
        np.testing.assert_array_equal(file.get_tensor("b"), np.ones((2, 3)))


def test_bfloat16_is_written_too(tmp_path):
    values = jnp.asarray([[1.5, -2.0], [0.0, 3.25]], jnp.bfloat16)
    distill.save_safetensors(tmp_path / "w", {"a": values})
    with safetensors.safe_open(tmp_path / "w", "numpy") as file:
        assert file.get_slice("a").get_dtype() == "BF16"
    raw = (tmp_path / "w").read_bytes()
    assert raw[-8:] == np.asarray(values).tobytes()
