"""The gradient angles in small: exact where the target is whole, and sampling against the top k."""

import dataclasses
import json

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from benchmarks import gradient_angles as table
from sparsekd_jax.studies import gradient_angles as study

TINY = study.Settings(
    seeds=1,
    zipf_temperatures=(2.0,),
    temperatures=(1.0,),
    vocab_size=60,
    width=3,
    tokens=1024,
    kept=(6,),
    model=(("width", 8), ("num_layers", 1), ("num_heads", 2)),
    student_model=(("width", 8), ("num_layers", 1), ("num_heads", 2)),
    teacher_steps=0,
    student_steps=0,
    windows=2,
    bytes_kept=(3,),
)


@pytest.fixture(scope="module")
def rows():
    return {(row.workload, row.target): row for row in study.gradient_angles(TINY)}


def test_every_way_has_a_row(rows):
    ways = ("top {}, renormalised", "sampled, {}", "sampled, softened after, {}")
    assert {key[1] for key in rows if key[0] == "zipf"} == {w.format(k) for w in ways for k in TINY.kept}
    assert [name for workload, name in rows if workload == "pydoc"] == ["top 3, renormalised", "sampled, 3"]
    assert all(row.angle.n == 1 for row in rows.values())


def test_sampling_keeps_direction_and_length_where_the_top_k_does_not(rows):
    top, sampled, late = (
        rows["zipf", name] for name in ("top 6, renormalised", "sampled, 6", "sampled, softened after, 6")
    )
    assert sampled.stored == pytest.approx(6, abs=0.7)
    assert sampled.angle.mean < min(top.angle.mean, late.angle.mean) / 2
    assert abs(sampled.norm_ratio.mean - 1) < min(abs(x.norm_ratio.mean - 1) for x in (top, late)) / 3


def test_the_gradient_of_the_head_is_that_of_the_loss():
    keys = jax.random.split(jax.random.key(0), 3)
    h = jax.random.normal(keys[0], (128, 3))
    weights, student = (jax.random.normal(key, (3, 20)) for key in keys[1:])
    bias = jnp.linspace(0, -2, 20)
    ours, _ = study._head_gradients(keys[0], h, weights, student, bias, 2.0, (20,), ((), ()))

    def loss(w):
        p, z = jax.nn.softmax((h @ weights + bias[None]) / 2), (h @ w + bias[None]) / 2
        return -jnp.mean(jnp.sum(p * jax.nn.log_softmax(z), axis=-1))

    for full in ours:  # of the whole teacher, and of its top 20 of 20
        np.testing.assert_allclose(full, jax.grad(loss)(student), atol=1e-6)


def test_draws_store_what_they_may():
    q = np.random.default_rng(0).dirichlet(np.full(50, 0.3), 8).astype(np.float32)
    n = study.draws_for(q, 9.0)
    stored = [(1 - (1 - q.astype(np.float64)) ** m).sum(-1).mean() for m in (n, n + 1)]
    assert stored[0] <= 9 < stored[1]


def test_the_committed_table_is_that_of_its_numbers():
    saved = json.loads((table.HERE / "gradient_angles.json").read_text(encoding="utf-8"))
    assert (table.HERE / "gradient_angles.md").read_text(encoding="utf-8") == table.table(saved)
    assert saved["settings"] == json.loads(json.dumps(dataclasses.asdict(study.Settings())))
