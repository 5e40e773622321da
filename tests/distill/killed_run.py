"""A small run that saves at every record and says each step; `test_kill.py` kills it. Usage: DIR OUT."""

import sys
from pathlib import Path

import jax
import optax
from flax import nnx

from sparsekd_jax import data, distill, models


def main(folder: str, out: str) -> None:
    teacher, student = (models.MLP((64, 32, 10), rngs=nnx.Rngs(seed)) for seed in (0, 1))
    result = distill.run(
        student,
        teacher,
        data.digits(),
        distill.stages(sparsity=0.9, num_stages=3, total_steps=300),
        optimizer=optax.adamw(optax.cosine_decay_schedule(1e-3, 300)),
        seed=3,
        record_every=10,
        on_progress=lambda step, _: print(step, flush=True),
        checkpoint_dir=folder,
        checkpoint_every=0.0,
        resume=True,
    )
    trees = {"student": nnx.to_pure_dict(nnx.state(result.student)), "path": dict(enumerate(result.path))}
    distill.save_safetensors(Path(out), jax.tree.map(jax.numpy.asarray, trees))


if __name__ == "__main__":
    main(*sys.argv[1:])
